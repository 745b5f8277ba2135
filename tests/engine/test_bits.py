"""The engine's promise: a sequence's logits are the same bits whatever else is being served,
however its prompt is cut, whether its beginning comes from the prefix cache, and with any number of
threads.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ossia
from ossia import checkpoint, kernels
from ossia.config import ModelConfig
from ossia.engine import Engine, SamplingParams
from ossia.kernels import cpu
from ossia.llm import LLM
from ossia.serving import Options

if kernels.not_compiled():
    pytest.skip(f"needs the compiled kernels: {kernels.not_compiled()}", allow_module_level=True)

PRECISIONS = [Options("bf16", "bf16"), Options("int8", "int8"), Options(kv="int8")]
# The 8-bit kernels in every run, the others, which take as long, in the slow ones.
WIDE_PRECISIONS = [
    pytest.param(one, marks=() if one.dense == "int8" else pytest.mark.slow) for one in PRECISIONS
]
# the widths of gpt-oss-20b, with fewer layers, experts and words
WIDE = ModelConfig(
    num_hidden_layers=2,
    num_experts=8,
    vocab_size=1000,
    num_attention_heads=64,
    num_key_value_heads=8,
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    checkpoint.write_random(WIDE, folder / "model", seed=1)
    return folder / "model"


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = cpu.threads()
    cpu.set_threads(2)
    yield
    cpu.set_threads(before)


class Spy(Engine):
    """Keeps the logits of every token that was sampled, by request."""

    def __init__(self, llm: LLM, **limits: object) -> None:
        super().__init__(llm.model, **limits)  # type: ignore[arg-type]
        self.logits: dict[int, list[Tensor]] = {}
        run = self._runner.run

        def spy(works: list, *more: Any) -> Tensor:  # type: ignore[type-arg]
            logits_RV, row = run(works, *more), 0
            for work in works:
                if work.samples:
                    rows = logits_RV[row : row + 1 + work.drafts]
                    self.logits.setdefault(work.request.id, []).extend(rows.clone())
                    row += len(rows)
            return logits_RV

        self._runner.run = spy  # type: ignore[method-assign, assignment]

    def answer(
        self, prompt: list[int], tokens: int, neighbours: int = 0, seed: int = 0
    ) -> tuple[list[int], Tensor]:
        """Ids and the logits that each was drawn from, beside random neighbours that come and
        go.
        """
        rng = random.Random(seed)
        params = SamplingParams(temperature=0.8, seed=7, max_tokens=tokens)
        waiting = [self._neighbour(rng, tokens) for _ in range(neighbours)]
        for other in waiting[: neighbours // 2]:
            self.submit(*other)
        mine, ids = self.submit(prompt, params), []
        for other in waiting[neighbours // 2 :]:
            self.submit(*other)
        while self.has_work():
            ids += [token.token_id for token in self.step() if token.request_id == mine]
        return ids, torch.stack(self.logits.pop(mine)[:tokens])

    def _neighbour(self, rng: random.Random, tokens: int) -> tuple[list[int], SamplingParams]:
        prompt = [rng.randrange(self.config.vocab_size) for _ in range(rng.randint(1, 60))]
        return prompt, SamplingParams(
            temperature=1, seed=rng.randrange(1000), max_tokens=rng.randint(1, tokens)
        )


def ids_of(llm: LLM, count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(llm.config.vocab_size) for _ in range(count)]


def check(llm: LLM, prompt: list[int], tokens: int, crowds: list[int]) -> None:
    plain = {"prefix_cache": False, "speculate": False, "latency_target": None}
    want_ids, want = Spy(llm, max_batch_tokens=4096, **plain).answer(prompt, tokens)
    assert want.isfinite().all() and len(want_ids) == tokens

    def same(found: tuple[list[int], Tensor], how: str) -> None:
        assert found[0] == want_ids and torch.equal(found[1], want), how

    for chunk in (1, 7, 64, 100):
        if chunk > 1 or len(prompt) < 100:
            same(
                Spy(llm, max_batch_tokens=chunk, **plain).answer(prompt, tokens),
                f"prompt in chunks of {chunk}",
            )
    for crowd in crowds:
        limits = {"max_batch_tokens": 50 + crowd, "max_running": 64}
        same(
            Spy(llm, **limits, **plain).answer(prompt, tokens, crowd, seed=crowd),
            f"among {crowd} neighbours",
        )
    cached = Spy(llm, speculate=False)
    same(cached.answer(prompt, tokens), "a cold prefix cache")
    same(cached.answer(prompt, tokens), "a warm prefix cache")
    same(cached.answer(prompt, tokens, 5), "a warm prefix cache, among neighbours")
    cpu.set_threads(1)
    same(Spy(llm, **plain).answer(prompt, tokens), "one thread")


@pytest.mark.parametrize("options", PRECISIONS, ids=str)
def test_nano(options: Options) -> None:
    llm = ossia.load("nano", options=options)
    check(llm, ids_of(llm, 75, seed=1), 12, crowds=[1, 6, 63])


@pytest.mark.slow
@pytest.mark.parametrize("options", WIDE_PRECISIONS, ids=str)
def test_the_widths_of_20b(wide: Path, options: Options) -> None:
    llm = ossia.load(wide, options=options)
    check(llm, ids_of(llm, 150, seed=2), 4, crowds=[3])


@pytest.mark.slow
@pytest.mark.parametrize("options", PRECISIONS, ids=str)
def test_the_widths_of_20b_in_large_crowds(wide: Path, options: Options) -> None:
    llm = ossia.load(wide, options=options)
    check(llm, ids_of(llm, 700, seed=3), 16, crowds=[1, 8, 31, 63])


@pytest.mark.slow
@pytest.mark.parametrize("options", WIDE_PRECISIONS, ids=str)
def test_packing_changes_nothing(wide: Path, options: Options) -> None:
    forms = [replace(options, loading=loading) for loading in ("map", "copy")]
    mapped, copied = (ossia.load(wide, options=form) for form in forms)
    ids = ids_of(mapped, 90, seed=4)
    for chunks in ([90], [80, 8, 1, 1]):
        assert (mapped.logits(ids, chunks=chunks) == copied.logits(ids, chunks=chunks)).all()


def test_speculation_changes_nothing() -> None:
    llm = ossia.load("nano")
    prompt = llm.tokenizer.encode(
        "one two three four one two three four one two three four one two"
    )
    for temperature in (0.0, 0.7):
        params = SamplingParams(temperature=temperature, seed=3, max_tokens=60)
        answers: list[list[tuple[int, float]]] = []
        for speculate in (False, True):
            tokens = Engine(llm.model, speculate=speculate).generate(prompt, params)
            answers.append([(token.token_id, token.logprob) for token in tokens])
        assert answers[0] == answers[1]
