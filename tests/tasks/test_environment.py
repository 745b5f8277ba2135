"""Environments: what a reward sees, and what it cannot see."""

from __future__ import annotations

import random
from dataclasses import fields
from typing import get_type_hints

import pytest

from ossia.errors import ConfigError
from ossia.harmony import Conversation, Effort, Message, Role
from ossia.tasks import REGISTRY, problems
from ossia.tasks.effort import PRICES, Price
from ossia.tasks.environment import (
    Counts,
    Given,
    Outcome,
    Reward,
    ask_problem,
    graded,
    static,
)


def thought(text: str) -> Message:
    return Message(Role.ASSISTANT, text, channel="analysis")


def test_an_outcome_has_no_reasoning() -> None:
    """By type: a number of tokens is all there is of it."""
    assert [each.name for each in fields(Outcome)] == ["final", "calls", "reason", "counts"]
    assert get_type_hints(Counts)["analysis"] is int
    canary = "zebra-canary"
    said = (thought(canary), Message(Role.ASSISTANT, "85", channel="final"), thought(canary))
    assert canary not in repr(Outcome.of(said)) and Outcome.of(said).final == "85"


def test_reasoning_replaced_by_noise_changes_no_reward() -> None:
    rng = random.Random(0)
    seen = 0
    for name in REGISTRY:
        for problem in problems(name, 38):
            environment = static(problem)
            gold = environment.gold(Effort.HIGH)
            assert gold is not None
            noisy = []
            for message in gold:
                is_thought = message.channel == "analysis" and message.recipient is None
                is_thought &= message.role is Role.ASSISTANT
                noise = "".join(rng.choices("abcdefgh 0123456789", k=40))
                noisy.append(thought(noise) if is_thought else message)
            assert Outcome.of(noisy) == Outcome.of(gold)
            assert environment.reward(Outcome.of(noisy)) == Reward(1.0, {"right": 1.0}, True)
            seen += 1
    assert seen >= 1000


def test_counts_add_up() -> None:
    some = Counts(1, 2, 3, 4, 5, 6, 7, 8)
    assert some + Counts(sampled=1, turns=1) == Counts(1, 3, 3, 4, 5, 6, 7, 9)


def test_what_cannot_be_graded_is_not_wrong() -> None:
    (problem,) = problems("arithmetic", 1)
    environment = static(problem)
    assert graded(environment, Outcome("", reason="failed")).value is None
    assert graded(environment, Outcome("", reason="length")).value == 0.0
    given = Given(Conversation(problem.prompt(Effort.LOW)))
    assert graded(given, Outcome("x")) == Reward(None, why="nobody grades it")

    class Breaks(Given):
        def reward(self, outcome: Outcome) -> Reward:
            raise ZeroDivisionError

    broken = graded(Breaks(given.conversation), Outcome("x"))
    assert broken == Reward(None, why="the reward raised ZeroDivisionError")


def test_an_ask_of_a_problem() -> None:
    (problem,) = problems("state", 1)
    ask = ask_problem(problem, Effort.LOW, group=3, seed=9)
    assert (ask.task, ask.arm, ask.group, ask.seed) == ("state", "state/low", 3, 9)
    assert ask.about == problem.about
    assert ask.environment().prompt(Effort.LOW) == problem.prompt(Effort.LOW)


def test_thinking_has_its_price() -> None:
    """r = right (1 - share min(1, n / budget)), and nothing beyond the bound."""
    low = PRICES[Effort.LOW]
    assert low == Price(32, 48, 0.6)
    assert low.reward(1.0, 0) == 1.0
    assert low.reward(1.0, 16) == pytest.approx(0.7)
    assert low.reward(1.0, 32) == low.reward(1.0, 48) == pytest.approx(0.4)
    assert low.reward(1.0, 49) == 0.0 and low.reward(0.0, 0) == 0.0
    high = PRICES[Effort.HIGH]
    assert high.reward(1.0, 400) == 1.0 and high.reward(1.0, 401) == 0.0
    assert PRICES[Effort.MEDIUM].reward(1.0, 80) == pytest.approx(0.7)
    for wrong in ((0, 48, 0.6), (64, 48, 0.6), (32, 48, 1.0), (32, 48, -0.1)):
        with pytest.raises(ConfigError):
            Price(*wrong)
