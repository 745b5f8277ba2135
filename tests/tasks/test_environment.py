"""Environments: what a reward sees, and what it cannot see."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import get_type_hints

import numpy as np
import pytest

from ossia.errors import ConfigError, DataError
from ossia.harmony import (
    Conversation,
    Effort,
    FunctionTool,
    Message,
    Role,
    SystemContent,
    ToolNamespace,
)
from ossia.tasks import REGISTRY, problems
from ossia.tasks.effort import PRICES, Price
from ossia.tasks.environment import (
    Counts,
    Given,
    Outcome,
    Reward,
    as_reward,
    ask_problem,
    graded,
    static,
)
from ossia.tasks.replay import gold_reward
from ossia.tools import SessionKey, Tool, ToolResult
from ossia.tools.kinds import FUNCTION


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


def test_what_cannot_be_graded_is_not_wrong(caplog: pytest.LogCaptureFixture) -> None:
    (problem,) = problems("arithmetic", 1)
    environment = static(problem)
    assert graded(environment, Outcome("", reason="failed")).value is None
    assert graded(environment, Outcome("", reason="length")).value == 0.0
    given = Given(Conversation(problem.prompt(Effort.LOW)))
    assert graded(given, Outcome("x")) == Reward(None, why="nobody grades it")

    class Breaks(Given):
        def reward(self, outcome: Outcome) -> Reward:
            raise ZeroDivisionError

    for _ in range(2):
        broken = graded(Breaks(given.conversation), Outcome("x"))
        assert broken.value is None
        assert broken.why.startswith(
            "the reward raised ZeroDivisionError (test_environment.py, line"
        )
    assert len(caplog.records) == 1  # the whole of an error once


def test_an_async_reward_is_refused_with_advice() -> None:
    class Later(Given):
        async def reward(self, outcome: Outcome) -> Reward:  # type: ignore[override]
            return Reward(1.0)

    found = graded(Later(Conversation(())), Outcome("x"))
    assert found.value is None and "must not be async" in found.why


@pytest.mark.parametrize(
    "worth", [float("nan"), 1e300, Reward(float("inf")), "good", [1], Reward("x")]
)  # type: ignore[arg-type]
def test_what_is_no_reward_is_not_graded(worth: object) -> None:
    class Odd(Given):
        def reward(self, outcome: Outcome) -> Reward:
            return worth  # type: ignore[return-value]

    found = graded(Odd(Conversation(())), Outcome("x"))
    assert found.value is None
    assert "raised DataError: a reward" in found.why


def test_numbers_of_libraries_are_plain_ones_in_rewards() -> None:
    found = as_reward(Reward(np.float32(0.5), {"a": np.float32(1)}, np.bool_(True)))  # type: ignore[arg-type, dict-item]
    assert json.loads(json.dumps(asdict(found))) == asdict(Reward(0.5, {"a": 1.0}, True))


def test_a_reward_that_ends_its_process_is_one_that_raises() -> None:
    class Ends(Given):
        def reward(self, outcome: Outcome) -> Reward:
            raise SystemExit(3)

    assert graded(Ends(Conversation(())), Outcome("x")).why.startswith("the reward raised SystemEx")


def test_why_has_what_was_said_and_not_too_much_of_it() -> None:
    class Breaks(Given):
        def reward(self, outcome: Outcome) -> Reward:
            raise KeyError("answer " * 100)

    why = graded(Breaks(Conversation(())), Outcome("x")).why
    assert why.startswith("the reward raised KeyError: 'answer answer")
    assert len(why) < 300


def test_an_ask_of_a_problem() -> None:
    (problem,) = problems("state", 1)
    ask = ask_problem(problem, Effort.LOW, group=3, seed=9)
    assert (ask.task, ask.arm, ask.group, ask.seed) == ("state", "state/low", 3, 9)
    assert ask.about == problem.about
    assert ask.environment().prompt(Effort.LOW) == problem.prompt(Effort.LOW)


@dataclass
class Counting:
    """Asks to count twice; the tool goes on where it was."""

    asked: int = 0
    ends: bool = True

    @property
    def tools(self) -> list[Tool]:
        return [Counter()]

    def prompt(self, effort: Effort, system: SystemContent | None = None) -> list[Message]:
        return [Message(Role.USER, "Count.")]

    def next(self, outcome: Outcome) -> list[Message] | None:
        self.asked += 1
        return [Message(Role.USER, "Again")] if self.asked == 1 else None

    def reward(self, outcome: Outcome) -> Reward:
        right = [call.result for call in outcome.calls] == ["2"] and outcome.counts.turns == 2
        return Reward(float(right))

    def gold(self, effort: Effort) -> list[Message]:
        call = Message(Role.ASSISTANT, "{}", None, "commentary", "functions.count")
        stale = Message(Role.TOOL, "?", "functions.count", "commentary", "assistant")
        final = Message(Role.ASSISTANT, "done", channel="final")
        once = [thought("I count."), call, stale, final]
        return [*once, Message(Role.USER, "Again"), *once] if self.ends else once


class Counter:
    kind = FUNCTION
    namespace = ToolNamespace("functions", None, (FunctionTool("count"),))

    def session(self, key: SessionKey) -> Counted:
        return Counted()


@dataclass
class Counted:
    count: int = 0

    def action(self, function: str, text: str) -> None:
        return None

    def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
        self.count += 1
        return ToolResult(str(self.count))

    def close(self) -> None:
        return None


def test_a_gold_conversation_is_replayed() -> None:
    """Its calls are really made, and further turns of the user must be those of the environment."""
    assert gold_reward(Counting, Effort.LOW) == Reward(1.0)
    with pytest.raises(DataError, match="ends before the user's 'Again'"):
        gold_reward(partial(Counting, ends=False), Effort.LOW)
    with pytest.raises(DataError, match="which the environment does not say"):
        gold_reward(partial(Counting, asked=1), Effort.LOW)
    assert gold_reward(partial(Given, Conversation(())), Effort.LOW) is None
    for problem in problems("tools", 20) + problems("hierarchy", 20):
        for effort in Effort:
            reward = gold_reward(partial(static, problem), effort)
            assert reward is not None and reward.value == 1.0, problem


def test_thinking_has_its_price() -> None:
    """r = right (1 - share min(1, n / budget)), and nothing beyond the bound."""
    low = PRICES.low
    assert low == Price(32, 48, 0.6)
    assert low.reward(1.0, 0) == 1.0
    assert low.reward(1.0, 16) == pytest.approx(0.7)
    assert low.reward(1.0, 32) == low.reward(1.0, 48) == pytest.approx(0.4)
    assert low.reward(1.0, 49) == 0.0 and low.reward(0.0, 0) == 0.0
    high = PRICES.high
    assert high.reward(1.0, 400) == 1.0 and high.reward(1.0, 401) == 0.0
    assert PRICES.medium.reward(1.0, 80) == pytest.approx(0.7)
    assert low.reward(-1.0, 0) == low.reward(-1.0, 32) == low.reward(-1.0, 9999) == -1.0
    for wrong in ((0, 48, 0.6), (64, 48, 0.6), (32, 48, 1.0), (32, 48, -0.1)):
        with pytest.raises(ConfigError):
            Price(*wrong)
    with pytest.raises(ConfigError, match="over"):
        Price(32, 48, 0.6, over=-1)


def test_thinking_beyond_the_bound_may_cost_right_or_wrong() -> None:
    bound = Price(16, 24, 0.6, over=0.5)
    plain = Price(16, 24, 0.6)
    for tokens in range(25):
        assert bound.reward(1.0, tokens) == plain.reward(1.0, tokens)
        assert bound.reward(0.0, tokens) == 0.0
    for correct in (0.0, 1.0):
        assert bound.reward(correct, 36) == pytest.approx(-0.25)
        assert bound.reward(correct, 48) == bound.reward(correct, 999) == -0.5
    assert bound.reward(-1.0, 48) == -1.5
