"""One answer to an ask, from the prompt to the reward: the turns of the model and the user.

    step = rollout.begin()
    list[int]   a prompt: `feed` what is sampled after it, then `end` (or `no_room`) gives a step
    Work        something that may take a while: `then` of what came of it gives a step
    Sample      it is over

Knows turns and environments; it does no I/O, starts no thread and knows no engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

from ossia.errors import DataError
from ossia.harmony import Conversation, Effort, Message, SystemContent
from ossia.tasks.environment import (
    Ask,
    Counts,
    Environment,
    Outcome,
    Reason,
    Reward,
    graded,
    is_final,
    said_by,
)
from ossia.tokenizer import Tokenizer
from ossia.tools import SessionKey, Sessions, Toolbox
from ossia.tools.sessions import CLOSE_SECONDS
from ossia.turn.chores import Done
from ossia.turn.events import Sampled
from ossia.turn.record import Recorder, Segment
from ossia.turn.sample import Rules
from ossia.turn.turn import Limits, Turn

log = logging.getLogger("ossia.turn")


@dataclass(frozen=True)
class Manner:
    """How answers are made. `limits`: of each turn; an ask's `max_tokens` comes first. `turns`: how
    often the user may speak. `seconds`: that a call of a tool, and whatever an environment is
    asked, may take. `verbatim`: history is what was sampled, as training needs it; otherwise it is
    rendered, as it is served. `version`: of the weights. `date`: in the system message.
    """

    limits: Limits = field(default_factory=Limits)
    turns: int = 32
    seconds: float = 60.0
    verbatim: bool = True
    version: int = 0
    date: str | None = None


@dataclass(frozen=True)
class Sample:
    """The `index`-th answer to the ask of a group, by the weights of a version. `messages`: all
    that came after the prompt, reasoning and the user's further turns included; the reward has only
    seen the `outcome`.
    """

    group: int
    index: int
    version: int
    effort: Effort
    segments: tuple[Segment, ...]
    outcome: Outcome
    reward: Reward
    messages: tuple[Message, ...] = ()

    @property
    def reason(self) -> Reason:
        return self.outcome.reason

    @property
    def counts(self) -> Counts:
        return self.outcome.counts


@dataclass(frozen=True)
class Work:
    """`do` may take `seconds`; `then` is told what came of it."""

    do: Callable[[], Any]
    seconds: float
    then: Callable[[Done], Step]


Step: TypeAlias = "list[int] | Work | Sample"


@dataclass(frozen=True)
class _Judged:
    """What an environment made of a turn: it goes on, or it is over and graded."""

    outcome: Outcome
    said: tuple[Message, ...] = ()
    reward: Reward = Reward(None)  # noqa: RUF009 - frozen


class Rollout:
    """`key`: whose state its tools see; no other sample may have it."""

    def __init__(
        self, ask: Ask, index: int, tokenizer: Tokenizer, manner: Manner, key: SessionKey
    ) -> None:
        self.ask = ask
        self.index = index
        self.sessions = Sessions(key, manner.seconds)
        self._manner = manner
        self._tokenizer = tokenizer
        self._environment: Environment = ask.environment()
        self._record = Recorder()
        system = SystemContent(current_date=manner.date, effort=ask.effort)
        self._prompt = tuple(self._environment.prompt(ask.effort, system))
        self._toolbox = Toolbox.of(Conversation(self._prompt), self._environment.tools)
        self._earlier: tuple[Message, ...] = ()  # after the prompt, up to this turn
        self._before = Counts()  # of these
        self._calls = 0  # carried out in this turn
        self._failures = 0  # of these
        self._turn = self._new_turn(Conversation(self._prompt))

    def begin(self) -> Step:
        return self._go_on()

    @property
    def tokens_left(self) -> int | None:
        return self._turn.tokens_left

    def feed(self, token: Sampled) -> bool:
        """Whether the sample is over, whatever the engine says."""
        self._turn.feed(token)
        return self._turn.sample_is_over

    def end(self) -> Step:
        """The tokens of this sample are all there."""
        self._turn.end_sample()
        calls = self._turn.calls
        if not calls:
            return self._go_on()
        wanted = [call.request for call in calls]
        seconds = self._manner.seconds * len(calls)  # those that do not wait follow each other
        return Work(partial(self.sessions.call_all, wanted), seconds, self._called)

    def no_room(self) -> Step:
        """The last prompt leaves no room for an answer."""
        self._turn.end_sample()
        return self._go_on()

    # The steps

    def _new_turn(self, conversation: Conversation) -> Turn:
        limits = self._manner.limits
        if self.ask.max_tokens is not None:
            limits = replace(limits, max_tokens=self.ask.max_tokens)
        self._calls = 0
        self._failures = 0
        return Turn(
            conversation,
            self._tokenizer,
            Rules(self._toolbox),
            limits,
            self.sessions,
            record=self._record,
            verbatim=self._manner.verbatim,
        )

    def _go_on(self) -> Step:
        prompt = self._turn.begin_sample()
        if prompt is not None:
            return prompt
        outcome = self._outcome(self._reason())
        judged = partial(_judged, self._environment, outcome, self._manner.turns)
        return Work(judged, self._manner.seconds, self._was_judged)

    def _called(self, done: Done) -> Step:
        if done.error is not None:
            return self._failed(done.error)
        broken = None
        for call, result in zip(self._turn.calls, done.value, strict=True):
            self._turn.end_call(call, result)
            self._calls += 1
            self._failures += result.failed
            if result.broke:
                broken = f"{call.item.name}: {result.text}"
        return self._go_on() if broken is None else self._failed(broken)

    def _was_judged(self, done: Done) -> Step:
        if done.error is not None:
            return self._failed(done.error)
        judged: _Judged = done.value
        if not judged.said:
            return self._close(judged.outcome, judged.reward)
        self._earlier = (*self._earlier, *self._turn.messages, *judged.said)
        self._before = judged.outcome.counts
        unread = judged.said  # by the record, which has the rest
        if not self._manner.verbatim:
            unread = (*self._prompt, *self._earlier)
        self._turn = self._new_turn(Conversation(unread))
        return self._go_on()

    def _failed(self, error: BaseException | str) -> Step:
        """A tool or the environment broke: nobody knows what the answer would have been worth."""
        why = error if isinstance(error, str) else said_by(error)
        log.warning("a sample of group %d failed: %s", self.ask.group, why)
        return self._close(self._outcome("failed"), Reward(None, why=why))

    def _close(self, outcome: Outcome, reward: Reward) -> Step:
        messages = (*self._earlier, *self._turn.messages)
        sample = Sample(
            self.ask.group,
            self.index,
            self._manner.version,
            self.ask.effort,
            self._record.segments,
            outcome,
            reward,
            messages,
        )
        if not self.sessions.are_open:
            return sample
        return Work(self.sessions.close_now, CLOSE_SECONDS, lambda done: sample)

    # How the turn went

    def _reason(self) -> Reason:
        turn = self._turn
        assert turn.end is not None
        if turn.end.reason == "tool_rounds":
            return "tool_rounds"
        if turn.end.reason == "length":
            if not turn.was_cut:
                return "budget"
            return "length" if turn.has_no_tokens else "context"
        if turn.end.reason == "stop" and not any(map(is_final, turn.messages)):
            return "invalid"
        return "stop"

    def _outcome(self, reason: Reason) -> Outcome:
        turn = self._turn
        plain = Outcome.of(turn.messages, reason)
        counts = Counts(
            prompt=turn.usage.prompt,
            sampled=turn.usage.completion,
            analysis=turn.usage.reasoning,
            calls=self._calls,
            failures=self._failures,
            mistakes=turn.mistakes,
            repairs=turn.repairs,
            turns=1,
        )
        return replace(plain, counts=self._before + counts)


def not_begun(ask: Ask, index: int, manner: Manner, error: BaseException) -> Sample:
    """What came of an ask whose environment broke before anything was sampled."""
    log.error("a sample of group %d could not begin", ask.group, exc_info=error)
    outcome = Outcome("", reason="failed")
    reward = Reward(None, why=said_by(error))
    return Sample(ask.group, index, manner.version, ask.effort, (), outcome, reward)


def _judged(environment: Environment, outcome: Outcome, turns: int) -> _Judged:
    said: tuple[Message, ...] = ()
    if outcome.reason == "stop":
        said = tuple(environment.next(outcome) or ())
    if not all(isinstance(message, Message) for message in said):
        raise DataError(f"next(outcome) must return messages or None, found {said!r:.60}")
    if said and outcome.counts.turns < turns:
        return _Judged(outcome, said=said)
    if said:
        outcome = replace(outcome, reason="budget")
    return _Judged(outcome, reward=graded(environment, outcome))
