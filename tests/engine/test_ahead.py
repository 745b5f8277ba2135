"""Steps that are begun before the tokens of the last one are read: what goes wrong meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ossia
from ossia.engine import Engine, SamplingParams
from ossia.engine.device.ahead import Begun
from ossia.engine.speculate import NgramProposer
from ossia.llm import LLM

GREEDY = SamplingParams(temperature=0, max_tokens=8)
PROMPTS = ([5, 6, 7], [9, 8, 7])


@pytest.fixture(scope="module")
def llm() -> LLM:
    return ossia.load("nano")


def fails_at(engine: Engine, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU whose memory is full, once."""
    run = engine._runner.run
    steps = []

    def once(*args: Any) -> torch.Tensor:
        steps.append(args)
        if len(steps) == step:
            raise MemoryError("full")
        return run(*args)

    monkeypatch.setattr(engine._runner, "run", once)


@pytest.mark.parametrize("ahead", [False, True])
def test_a_step_that_fails_is_raised_in_its_turn_and_can_be_tried_again(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    engine = Engine(llm.model, capacity=256, speculate=False)
    wanted = [[token.token_id for token in engine.generate(ids, GREEDY)] for ids in PROMPTS]
    engine = Engine(llm.model, capacity=256, ahead=ahead, speculate=False)
    fails_at(engine, 4, monkeypatch)
    found = {engine.submit(ids, GREEDY): [] for ids in PROMPTS}  # type: dict[int, list[int]]

    def step() -> None:
        for token in engine.step():
            found[token.request_id].append(token.token_id)

    for _ in range(3):
        step()
    with pytest.raises(MemoryError):
        step()
    assert [*found.values()] == [ids[:3] for ids in wanted]
    engine._scheduler.check()
    while engine.has_work():
        step()
    assert [*found.values()] == wanted


def test_a_failure_that_nobody_waits_for_any_more_is_no_later_requests(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(llm.model, capacity=256, ahead=True, speculate=False)
    fails_at(engine, 2, monkeypatch)
    first = engine.submit(PROMPTS[0], GREEDY)
    assert len(engine.step()) == 1
    engine.abort(first)
    assert len(list(engine.generate(PROMPTS[1], GREEDY))) == 8
    engine._scheduler.check()


def test_what_is_begun_early_has_no_guesses(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even those of a request that had no place in the steps since they were made."""
    engine = Engine(llm.model, capacity=1024, ahead=True)
    plan: list[int] = []  # else: to guess, so that nothing is begun early
    monkeypatch.setattr(engine._speculation, "plan", lambda requests: plan.pop(0) if plan else 1)
    params = SamplingParams(temperature=0, max_tokens=40)
    requests = [engine.submit([5, 6, 7], params) for _ in range(4)]
    engine.step()
    monkeypatch.setattr(NgramProposer, "propose", lambda self, count: [5] * count)
    engine._scheduler.max_batch_tokens = 3
    plan += [1, 0, 0]
    engine.step()  # there is no room for guesses, and none for the last request
    for gone in requests[:2]:
        engine.abort(gone)
    engine.step()
    assert isinstance(engine._begun, Begun) and len(engine._begun.step.scheduled) == 2
    assert not any(work.drafts for work in engine._begun.step.scheduled)
    engine.abort(requests[3])  # whose row nobody reads
    assert [token.request_id for token in engine.step()] == [requests[2]]
    engine._scheduler.check()
