"""A rendered conversation that grows: appending messages costs the encoding of the new ones only.

Knows how little a new message can change in the earlier ones: reasoning is dropped (or, in compat,
comes back), and a first declaration of functions adds a line to the system text. Everything else
stays as it was encoded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import chain

from ossia.harmony.conversation import Conversation, declares_functions
from ossia.harmony.messages import Message, Role, RoleName, Style, SystemContent
from ossia.harmony.official.rules import rules_for
from ossia.harmony.reasoning import AnalysisCut
from ossia.harmony.render import Writer, check_drop
from ossia.tokenizer import Tokenizer


class RenderedHistory:
    """The ids of a conversation, equal to those that render.py gives for all messages at once.

        history = RenderedHistory(tokenizer)
        history.append(conversation.messages)
        prompt = history.ids_for_completion()

    `style` and `drop_analysis` as in `render_conversation`; other values raise RenderError. Not
    safe to share between threads that append.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, style: Style = "faithful", drop_analysis: bool = True
    ) -> None:
        check_drop(drop_analysis)
        rules = rules_for(style)
        self._writer = Writer(tokenizer, rules)
        self._drop = drop_analysis
        self._messages: list[Message] = []
        self._encoded: list[list[int] | None] = []  # each message; None: never shown yet
        self._sizes: list[int] = []  # of each message in `_ids`, in tokens; 0: hidden
        self._analysis: list[int] = []  # the messages on that channel
        self._functions = False  # whether some message declares functions
        self._cut = rules.cut
        self._ids: list[int] = []

    @property
    def conversation(self) -> Conversation:
        return Conversation(tuple(self._messages))

    @property
    def ids(self) -> list[int]:
        """As `render_conversation`; a new list."""
        return self._ids.copy()

    def ids_for_completion(self, role: RoleName = Role.ASSISTANT) -> list[int]:
        """As `render_for_completion`. Raises RenderError for an unknown role."""
        return self._ids + self._writer.invitation(role)

    def append(self, messages: Iterable[Message]) -> None:
        """Adds messages to the end. Raises the errors of `render_conversation`, and then adds none
        of them.
        """
        added = tuple(messages)
        begin = len(self._messages)
        cut = self._cut.after(added) if self._drop else self._cut
        functions = self._functions or any(map(declares_functions, added))
        outdated = self._systems() if functions != self._functions else set()
        changed = sorted(outdated.union(self._moved(cut.index)))
        fresh: dict[int, list[int]] = {}
        for index in changed:
            message = self._messages[index]
            is_known = index not in outdated and self._encoded[index] is not None
            if not is_known and not _is_hidden(index, message, cut):
                fresh[index] = self._write(message, functions)
        for index, message in enumerate(added, begin):
            if not _is_hidden(index, message, cut):
                fresh[index] = self._write(message, functions)
        # Nothing fails from here on.
        self._messages += added
        self._analysis += [n for n, m in enumerate(added, begin) if m.channel == "analysis"]
        self._encoded += [None] * len(added)
        for index in outdated.union(fresh):
            self._encoded[index] = fresh.get(index)
        self._cut = cut
        self._functions = functions
        if changed:
            self._lay_out(changed[0], changed[-1] + 1)
        self._lay_out(begin, len(self._messages))

    def _systems(self) -> set[int]:
        return {n for n, message in enumerate(self._messages) if _is_system(message)}

    def _moved(self, cut: int) -> list[int]:
        """The messages, in order, that this cut hides and the last one did not, or the reverse."""
        low, high = sorted((cut, self._cut.index))
        first = bisect_left(self._analysis, low)
        end = bisect_left(self._analysis, high)
        return self._analysis[first:end]

    def _write(self, message: Message, functions: bool) -> list[int]:
        self._writer.ids = []
        self._writer.function_tools = functions
        self._writer.write(message)
        return self._writer.ids

    def _lay_out(self, begin: int, end: int) -> None:
        """Puts the messages [begin, end) into `_ids`, in place of their ids there, if any."""
        first = len(self._ids) - sum(self._sizes[begin:])
        last = first + sum(self._sizes[begin:end])
        pieces = [self._shown(index) for index in range(begin, end)]
        self._ids[first:last] = chain.from_iterable(pieces)
        self._sizes[begin:end] = map(len, pieces)

    def _shown(self, index: int) -> list[int]:
        ids = self._encoded[index]
        if ids is None or _is_hidden(index, self._messages[index], self._cut):
            return []
        return ids


def _is_hidden(index: int, message: Message, cut: AnalysisCut) -> bool:
    return message.channel == "analysis" and index < cut.index


def _is_system(message: Message) -> bool:
    return any(isinstance(part, SystemContent) for part in message.parts)
