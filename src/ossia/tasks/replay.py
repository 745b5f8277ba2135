"""Whether an environment gives its own gold answer the full reward: what has to hold before anybody
trains on it.

Knows environments and tools. The gold calls are really made, so that tools with state are seen, and
what they say now takes the place of the results that the gold conversation has.
"""

from __future__ import annotations

from collections.abc import Callable

from ossia.errors import DataError
from ossia.harmony import Effort, Message, Role, UnknownTool, is_call
from ossia.tasks.environment import Counts, Environment, Outcome, Reward
from ossia.tools import SessionKey, Sessions, Toolbox


def gold_reward(make: Callable[[], Environment], effort: Effort) -> Reward | None:
    """What a fresh environment gives its gold answer; None if it knows none. Raises `DataError` for
    a gold conversation that cannot be had: a call of no tool, or a user who says something else.
    """
    environment = make()
    gold = environment.gold(effort)
    if gold is None:
        return None
    replay = _Replay(environment)
    try:
        for message in gold:
            replay.take(message)
        return replay.reward()
    finally:
        replay.sessions.close_now()


class _Replay:
    def __init__(self, environment: Environment) -> None:
        self.sessions = Sessions(SessionKey("gold"))
        self._environment = environment
        self._toolbox = Toolbox(builtin=tuple(environment.tools))
        self._said: list[Message] = []  # in this turn of the user
        self._turns = 1

    def take(self, message: Message) -> None:
        if message.role is Role.USER:
            self._go_on(message)
        elif message.role is not Role.TOOL:  # its results are worked out anew
            self._said.append(message)
            if is_call(message):
                self._call(message)

    def reward(self) -> Reward:
        outcome = self._outcome
        more = self._environment.next(outcome)
        if more:
            raise DataError(f"the gold conversation ends before the user's {more[0].text[:60]!r}")
        return self._environment.reward(outcome)

    @property
    def _outcome(self) -> Outcome:
        return Outcome.of(self._said, counts=Counts(turns=self._turns))

    def _go_on(self, message: Message) -> None:
        said = self._environment.next(self._outcome) or ()
        if message.text not in [each.text for each in said]:
            raise DataError(
                f"the gold conversation has a user's {message.text[:60]!r}, which the environment "
                "does not say"
            )
        self._said = []
        self._turns += 1

    def _call(self, message: Message) -> None:
        target = self._toolbox.resolve(message.recipient)
        if isinstance(target, UnknownTool):
            raise DataError(f"the gold conversation calls {target.text}")
        assert target.tool is not None, "all of the toolbox are ours"
        (result,) = self.sessions.call_all([(target.tool, target.name, message.text)])
        told = Message(Role.TOOL, result.text, message.recipient, message.channel, "assistant")
        self._said.append(told)
