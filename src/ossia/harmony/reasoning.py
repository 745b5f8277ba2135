"""Which reasoning of a conversation is still shown to the model.

Knows messages; does not know tokens. The official package's rule is official/rules.py:OfficialCut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ossia.harmony.messages import Message, Role


@dataclass(frozen=True)
class AnalysisCut:
    """Messages on channel `analysis` before `index` are dropped, those after it are kept.

    A turn begins at a user message and lasts to the next one. It is *finished* if its last
    assistant message is on `final`. The cut is at the end of the last finished turn: the turn in
    progress keeps its reasoning between tool calls, and so does a turn that the user interrupted
    before it was answered.

    The cut is updated message by message, so a conversation that grows is not read again.
    """

    count: int = 0  # messages so far
    finished: int = 0  # the end of the last finished turn that a user message has followed
    answered: bool = False  # whether the last assistant message of this turn is on `final`

    def after(self, messages: Iterable[Message]) -> AnalysisCut:
        """The cut once these messages have followed."""
        count = self.count
        finished = self.finished
        answered = self.answered
        for message in messages:
            if message.role is Role.ASSISTANT:
                answered = message.channel == "final"
            elif message.role is Role.USER:
                if answered:
                    finished = count
                answered = False
            count += 1
        return AnalysisCut(count, finished, answered)

    @property
    def index(self) -> int:
        return self.count if self.answered else self.finished

    @property
    def taught_index(self) -> int:
        """The cut for training: the last turn counts as in progress, because its reasoning is to
        be learned.
        """
        return self.finished
