"""Nano's own turns with tools, rolled out by an exact engine: calls, results and several samples a
turn, and no log-probability that training does not find again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

import ossia
from ossia import kernels
from ossia.commands import respond
from ossia.engine import Engine, SampledToken, SamplingParams
from ossia.engine.recheck import Reported, differences
from ossia.hub import embedded
from ossia.model import Transformer
from ossia.tasks.environment import Ask, Given
from ossia.tasks.evals import cases
from ossia.tasks.registry import problems
from ossia.train.weights.export import load_weights


@pytest.mark.slow
def test_turns_with_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    if kernels.not_compiled():
        pytest.skip(f"needs the compiled kernels: {kernels.not_compiled()}")
    llm = ossia.load("nano")
    trained = load_weights(llm.config, embedded("nano")).train()
    said: dict[int, Reported] = {}
    engines: list[Engine] = []

    class Recording(Engine):
        def __init__(self, model: Transformer, **settings: Any) -> None:
            super().__init__(trained, exact=True, latency_target=None, **settings)
            engines.append(self)

        def submit(self, prompt: Sequence[int], *rest: Any, **named: Any) -> int:
            one = super().submit(prompt, *rest, **named)
            said[one] = Reported(list(prompt), [None] * len(prompt))
            return one

        def step(self) -> list[SampledToken]:
            tokens = super().step()
            for token in tokens:
                said[token.request_id].ids.append(token.token_id)  # type: ignore[attr-defined]
                said[token.request_id].logprobs.append(token.logprob)  # type: ignore[attr-defined]
            return tokens

    monkeypatch.setattr(respond, "Engine", Recording)
    chosen = [*problems("calculator", 60), *problems("tools", 20)]
    asked = list(cases(chosen, ["low", "high"]))
    asks = []
    for number, case in enumerate(asked):
        given = partial(Given, case.prompt, case.problem.offered)
        asks.append(Ask(given, case.effort, group=number))
    params = SamplingParams(seed=3, stop_ids=llm.params().stop_ids, max_tokens=300)
    answers = list(respond.answer_all(llm, asks, replace(params, temperature=1.0)))
    (engine,) = engines
    count, differing = differences(trained, list(said.values()))
    engine.close()
    assert not differing, f"{len(differing)} of {count}: {differing[0]}"
    calls = sum(len(answer.outcome.calls) for answer in answers)
    assert len(said) > len(asks)
    print(f"{count} tokens in {len(said)} samples of {len(asks)} turns, {calls} calls")
    assert count >= 10_000
    assert calls > 50
