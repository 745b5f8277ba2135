"""What a model is trained and measured in: an `Environment` asks, offers tools, may go on asking,
and says what the answer is worth.

Knows messages, tools and problems; no tokens, models or engines. A reward is given an `Outcome`,
which has no field for reasoning: only how many tokens it took. So no reward can depend on what the
model thinks, whatever a task's author writes.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, final

from ossia.errors import DataError
from ossia.harmony import Conversation, Effort, Message, Role, SystemContent, is_call
from ossia.harmony.messages import FUNCTIONS
from ossia.tasks.problem import Call, Problem, grade
from ossia.tools.protocol import Tool

log = logging.getLogger("ossia.tasks")
LONGEST_WHY = 200  # characters of an error in a report
MOST_REWARD = 1e6  # beyond it, sums of squares in float32 are near their end
RAISED = "the reward raised"
_TOLD: set[str] = set()  # places of errors that are in the log

# How an answer ended.
# stop: the model finished it.
# length: `max_tokens` ran out in the middle of a message.
# budget: none were left to read a tool's result with; or the user has spoken as often as allowed.
# context: the context was full.
# tool_rounds: it kept calling tools.
# invalid: it stopped without an answer, or its calls could not be understood.
# failed: a tool or the environment broke.
Reason = Literal["stop", "length", "tool_rounds", "budget", "context", "invalid", "failed"]
# It would have gone on.
CUT: tuple[Reason, ...] = ("length", "budget", "context", "tool_rounds")


@dataclass(frozen=True)
class Counts:
    """Of a sample so far. Tokens: `prompt`, of each request to the engine; `sampled`, and of these
    `analysis`. Calls: `calls` that were carried out, of these `failures` of tools; and `mistakes`
    that could not be understood. `repairs`: what was mended of calls and damaged text. `turns`: of
    the user.
    """

    prompt: int = 0
    sampled: int = 0
    analysis: int = 0
    calls: int = 0
    failures: int = 0
    mistakes: int = 0
    repairs: int = 0
    turns: int = 0

    def __add__(self, other: Counts) -> Counts:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Counts(*(mine + its for mine, its in pairs))


@final
@dataclass(frozen=True)
class Outcome:
    """All that a reward sees of an answer: `final`, what the user reads; `calls`, in order, with
    their results. Both are of the last turn of the user, `counts` of all of them. Nobody may add
    a field for reasoning in a class of their own.
    """

    final: str
    calls: tuple[Call, ...] = ()
    reason: Reason = "stop"
    counts: Counts = Counts()

    @classmethod
    def of(
        cls, messages: Sequence[Message], reason: Reason = "stop", counts: Counts | None = None
    ) -> Outcome:
        """Of the messages that a turn adds to its conversation."""
        said = [m.text for m in messages if is_final(m)]
        return cls("".join(said), tuple(calls_of(messages)), reason, counts or Counts())


@dataclass(frozen=True)
class Reward:
    """What an answer is worth. `value` None: it could not be graded, and `why`; then it counts
    neither as right nor as wrong. `parts`: what the value is made of, for the log. `correct`: as an
    evaluation counts it, whatever else the value rewards; None: it does not say.
    """

    value: float | None
    parts: Mapping[str, float] = field(default_factory=dict)
    correct: bool | None = None
    why: str = ""


class Environment(Protocol):
    """One problem. Whoever answers it several times makes a fresh one each time, so it may keep
    state; its calls never overlap.
    """

    @property
    def tools(self) -> Sequence[Tool]:
        """What the model may call. The prompt declares them."""
        ...

    def prompt(self, effort: Effort, system: SystemContent | None = None) -> Sequence[Message]:
        """All that comes before the answer; the same for every fresh one. `system`: to be used as
        the system message, with whatever the problem adds.
        """
        ...

    def next(self, outcome: Outcome) -> Sequence[Message] | None:
        """What the user says to a finished answer; None: nothing more."""
        ...

    def reward(self, outcome: Outcome) -> Reward:
        """Asked once, at the end; also when the answer was cut or is none."""
        ...

    def gold(self, effort: Effort) -> Sequence[Message] | None:
        """A conversation after the prompt that deserves the full reward, what `next` says included;
        None: none is known.
        """
        ...


@dataclass(frozen=True)
class Ask:
    """A problem to be answered by a group of samples at one effort.

    `environment` makes a fresh one for each sample. `group`: its number, in its step; `seed`: of
    (run, step, group), so that no two groups draw the same numbers; None: the sampling parameters'
    own. `arm`: what a curriculum counts it as, such as task, effort and size in one text.
    `max_tokens`: of each turn; None: as the caller says. `task` and `about` are for reports.
    `origin`: plain values by which whoever made it can make it again, in another process.
    """

    environment: Callable[[], Environment]
    effort: Effort
    group: int = 0
    seed: int | None = None
    arm: str = ""
    max_tokens: int | None = None
    task: str = ""
    about: Mapping[str, str | int | bool] = field(default_factory=dict)
    origin: tuple[str | int, ...] = ()


@dataclass(frozen=True)
class Static:
    """A problem that is asked once."""

    problem: Problem

    @property
    def tools(self) -> tuple[Tool, ...]:
        return self.problem.offered

    def prompt(self, effort: Effort, system: SystemContent | None = None) -> tuple[Message, ...]:
        return self.problem.prompt(effort, system)

    def next(self, outcome: Outcome) -> None:
        return None

    def reward(self, outcome: Outcome) -> Reward:
        score = grade(self.problem, outcome.final, outcome.calls)
        return Reward(score, {"right": score}, score == 1.0)

    def gold(self, effort: Effort) -> tuple[Message, ...]:
        return self.problem.solution(effort)


def static(problem: Problem) -> Environment:
    return Static(problem)


@dataclass(frozen=True)
class Given:
    """A conversation that is to be answered and that nobody grades, as a batch of prompts has them.
    It declares the tools.
    """

    conversation: Conversation
    tools: Sequence[Tool] = ()

    def prompt(self, effort: Effort, system: SystemContent | None = None) -> tuple[Message, ...]:
        """As it stands, whatever the effort."""
        return self.conversation.messages

    def next(self, outcome: Outcome) -> None:
        return None

    def reward(self, outcome: Outcome) -> Reward:
        return Reward(None, why="nobody grades it")

    def gold(self, effort: Effort) -> None:
        return None


def ask_problem(problem: Problem, effort: Effort, group: int = 0, seed: int | None = None) -> Ask:
    """A problem of ossia's tasks; its arm is the task and the effort."""
    return Ask(
        partial(static, problem),
        effort,
        group,
        seed,
        arm=f"{problem.task}/{effort}",
        task=problem.task,
        about=problem.about,
    )


def graded(environment: Environment, outcome: Outcome) -> Reward:
    """Its reward; with value None if the environment cannot give one. A reward that raises is the
    task's fault, not the answer's, and must not end a run.
    """
    if outcome.reason == "failed":
        return Reward(None, why="failed")
    try:
        return as_reward(environment.reward(outcome))
    except (Exception, SystemExit) as error:
        return Reward(None, why=_told(error))


def _told(error: BaseException) -> str:
    """What a reward raised, and where. All of it is logged the first time: a mistake in a reward
    is made at every answer.
    """
    if isinstance(error, DataError):  # what it gave is no reward; its own lines are all right
        return f"{RAISED} {said_by(error)}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}, line {frame.lineno}"
    if place not in _TOLD:
        _TOLD.add(place)
        log.error("a reward failed", exc_info=error)
    return f"{RAISED} {said_by(error)} ({place})"


def as_reward(worth: Any) -> Reward:
    """Of what somebody's function says that an answer is worth: a number, True or False, None, or a
    `Reward`. Raises `DataError` for what is no reward, such as a number that is not finite.
    """
    if worth is None:
        return Reward(None, why="the reward was None")
    if isinstance(worth, Reward):
        if worth.value is None:
            return worth
        parts = {name: _finite(value) for name, value in worth.parts.items()}
        correct = None if worth.correct is None else bool(worth.correct)
        return replace(worth, value=_finite(worth.value), parts=parts, correct=correct)
    if isinstance(worth, Coroutine):
        worth.close()
        raise DataError("a reward must not be async: write `def`, and `asyncio.run(...)` inside")
    if isinstance(worth, bool):
        return Reward(float(worth), {"right": float(worth)}, worth)
    value = _finite(worth)
    return Reward(value, {"reward": value}, value >= 1.0)


def _finite(worth: Any) -> float:
    try:
        value = float(worth)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"a reward must be a number, True, False or None, found {worth!r:.60}"
        ) from error
    if not abs(value) <= MOST_REWARD:
        raise DataError(
            f"a reward was {value}, which is no number to learn from: give one from 0 to 1"
        )
    return value


def said_by(error: BaseException) -> str:
    """An error in a line, for a report: its kind and the beginning of what it says."""
    text = str(error)
    said = " ".join(text.split())[:LONGEST_WHY]
    kind = type(error).__name__
    return f"{kind}: {said}" if said else kind


def is_final(message: Message) -> bool:
    """Whether it is said to the user as the answer."""
    is_own = message.role is Role.ASSISTANT and message.recipient is None
    return is_own and message.channel == "final"


def calls_of(messages: Sequence[Message]) -> Iterator[Call]:
    """The calls among the messages of a turn that have been answered, those included that could not
    be understood.
    """
    called: list[Message] = []
    for message in messages:
        if is_call(message):
            called.append(message)
        elif message.role is Role.TOOL:
            while called[0].recipient != message.name:  # the caller's, and so without an answer
                called.pop(0)
            call = called.pop(0)
            name = (call.recipient or "").removeprefix(f"{FUNCTIONS}.")
            yield Call(name, call.text, message.text)
