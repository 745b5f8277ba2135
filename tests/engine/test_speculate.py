"""Speculation: guesses equal a search by hand, answers equal those without it, and it never costs
what it may not.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.engine.request import SamplingParams
from ossia.engine.sampling import RowState, Sampled, sample_rows
from ossia.engine.speculate import MAX_GUESSES, NgramProposer, Speculation, verify


def searched(tokens: list[int], count: int, least: int, most: int) -> list[int]:
    for n in range(most, least - 1, -1):
        for end in range(len(tokens) - 1, n - 1, -1):
            if n <= len(tokens) and tokens[end - n : end] == tokens[len(tokens) - n :]:
                text = list(tokens)
                for at in range(end, end + count):
                    text.append(text[at])
                return text[len(tokens) :]
    return []


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.integers(0, 8),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_guesses_equal_a_search(tokens: list[int], count: int, least: int, more: int) -> None:
    half = len(tokens) // 2
    proposer = NgramProposer(tokens[:half], least=least, most=least + more)
    for n, token in enumerate(tokens[half:], half + 1):
        proposer.append(token)
        assert proposer.propose(count) == searched(tokens[:n], count, least, least + more)


def test_a_loop_is_guessed_as_a_loop() -> None:
    assert NgramProposer([1, 2, 3, 1, 2]).propose(7) == [3, 1, 2, 3, 1, 2, 3]
    assert NgramProposer([1, 2, 3, 4]).propose(7) == []
    assert NgramProposer().propose(3) == []


# ---- the same tokens ----

VOCAB = 12
TABLE = torch.randn(VOCAB, VOCAB, VOCAB, generator=torch.Generator().manual_seed(4)) * 2


def logits_after(tokens: Sequence[int]) -> torch.Tensor:
    return TABLE[tokens[-2], tokens[-1]]


PARAMS = [
    SamplingParams(temperature=0),
    SamplingParams(temperature=0, repetition_penalty=1.3, top_logprobs=3),
    SamplingParams(seed=5, temperature=0.7),
    SamplingParams(seed=6, top_p=0.8, frequency_penalty=0.4, presence_penalty=0.1, top_logprobs=2),
    SamplingParams(seed=7, top_k=4, min_p=0.05, logit_bias={3: 2.0}),
]


def decoded(params: SamplingParams, prompt: list[int], count: int, stop: int) -> list[Sampled]:
    state, tokens, out = RowState(params, prompt, VOCAB), list(prompt), list[Sampled]()
    while len(out) < count and (not out or out[-1].token_id != stop):
        (drawn,) = sample_rows(logits_after(tokens)[None], [state])
        assert isinstance(drawn, Sampled)
        state.observe(drawn.token_id)
        tokens.append(drawn.token_id)
        out.append(drawn)
    return out


class Batch:
    """Requests that decode together, with guesses or without."""

    def __init__(self, count: int, stop: int) -> None:
        rng = random.Random(1)
        self.count, self.stop = count, stop
        self.prompts = [[rng.randrange(VOCAB) for _ in range(5)] for _ in PARAMS]
        self.states = [
            RowState(p, prompt, VOCAB) for p, prompt in zip(PARAMS, self.prompts, strict=True)
        ]
        self.proposers = [NgramProposer(prompt, least=1) for prompt in self.prompts]
        self.got: list[list[Sampled]] = [[] for _ in PARAMS]
        self.going = list(range(len(PARAMS)))

    def step(self, guesses: list[list[int]]) -> int:
        """One pass of the model; how many guesses held."""
        which, rows = list(self.going), []
        for n, its in zip(which, guesses, strict=True):
            text = self.prompts[n] + [s.token_id for s in self.got[n]]
            rows.append([logits_after(text + its[:i]) for i in range(len(its) + 1)])

        def draw(wanted: list[tuple[int, int]]) -> list[int | None]:
            states = [self.states[which[n]] for n, _ in wanted]
            drawn = sample_rows(torch.stack([rows[n][row] for n, row in wanted]), states)
            return [self.take(which[n], one) for (n, _), one in zip(wanted, drawn, strict=True)]

        return sum(verify(guesses, draw))

    def take(self, n: int, one: Any) -> int | None:
        assert isinstance(one, Sampled)
        self.states[n].observe(one.token_id)
        self.proposers[n].append(one.token_id)
        self.got[n].append(one)
        if one.token_id == self.stop or len(self.got[n]) == self.count:
            self.going.remove(n)
            return None
        return one.token_id


@pytest.mark.parametrize("guesser", ["ngram", "right", "half right", "wrong"])
def test_a_batch_with_guesses_gives_what_each_request_gives_alone(guesser: str) -> None:
    rng, batch = random.Random(2), Batch(count=40, stop=11)
    want = [decoded(p, prompt, 40, 11) for p, prompt in zip(PARAMS, batch.prompts, strict=True)]
    passes = held = 0
    while batch.going:
        guesses = []
        for n in batch.going:
            done = len(batch.got[n])
            future = [s.token_id for s in want[n][done : done + 4]]
            if guesser == "ngram":
                future = batch.proposers[n].propose(4)
            elif guesser != "right":
                future = [
                    t if guesser == "half right" and rng.random() < 0.5 else (t + 1) % VOCAB
                    for t in future
                ]
            guesses.append(future[: 40 - done - 1])
        held += batch.step(guesses)
        passes += 1
    assert batch.got == want
    assert (held > 0) == (guesser != "wrong")
    if guesser == "right":
        assert passes <= -(-max(map(len, want)) // 4)


# ---- what it costs ----


def simulate(
    steps: int, chance: float, slope: float, requests: int = 1, noise: float = 0.0
) -> tuple[float, list[int]]:
    """Time with speculation as a share of the time without, and the numbers of guesses."""
    rng, speculation = random.Random(3), Speculation()
    spent, tokens, chosen = 0.0, 0, []
    for _ in range(steps):
        k = speculation.plan(requests)
        assert 0 <= k <= MAX_GUESSES
        outcomes = []
        for _ in range(requests):
            held = next((i for i in range(k) if rng.random() > chance), k)
            outcomes.append((k, held))
            tokens += 1 + held
        seconds = 0.05 * (1 + slope * k) * (1 + noise * rng.random())
        spent += seconds
        chosen.append(k)
        speculation.observe(outcomes, seconds)
    return spent / (tokens / requests * 0.05 * (1 + noise / 2)), chosen


@pytest.mark.parametrize("requests", [1, 8])
@pytest.mark.parametrize("slope", [0.05, 0.6, 3.0])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_wrong_guesses_never_cost_more_than_three_percent(
    slope: float, noise: float, requests: int
) -> None:
    for steps in (100, 300, 3000):
        share, _ = simulate(steps, 0.0, slope, requests, noise)
        assert share < 1.03 + 1 / steps * slope, (steps, share)


def test_good_guesses_are_used_and_bad_ones_given_up() -> None:
    share, chosen = simulate(400, 0.9, 0.1)
    assert share < 0.4 and max(chosen) == MAX_GUESSES
    share, chosen = simulate(2000, 0.05, 0.6)
    assert sum(map(bool, chosen)) < 60
    assert simulate(500, 0.9, 0.3, 8)[0] < 0.75


def test_it_stops_when_guesses_turn_bad_and_starts_again() -> None:
    speculation, used = Speculation(), []
    spent = tokens = 0.0
    for step in range(1800):
        good = not 600 <= step < 1200
        k = speculation.plan(1)
        seconds = 0.05 * (1 + 0.15 * k)
        speculation.observe([(k, k if good else 0)], seconds)
        spent, tokens = spent + seconds, tokens + 1 + (k if good else 0)
        used.append(k)
    assert sum(used[200:600]) > 1500 and sum(used[700:1200]) < 100 and sum(used[1600:]) > 500
    assert spent < tokens * 0.05


def test_the_same_history_gives_the_same_plan() -> None:
    assert simulate(300, 0.6, 0.2, noise=0.3) == simulate(300, 0.6, 0.2, noise=0.3)
