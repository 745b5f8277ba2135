"""A rendered conversation that grows: appending messages costs the encoding of the new ones only.

Knows what a new message can change of the rendering so far, which is little: reasoning that is dropped from now
on (or, in compat, comes back), and the line of the system text that a first declaration of functions adds.
Everything else, and so every message that was written once, stays as it was encoded.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ossia.harmony.conversation import Conversation, analysis_cut, declares_functions
from ossia.harmony.messages import Message, Role, RoleName, Style, SystemContent
from ossia.harmony.render import Writer, check_drop
from ossia.tokenizer import Tokenizer


class RenderedHistory:
    """The ids of a conversation, equal to what render.py makes of the same messages at once.

        history = RenderedHistory(tokenizer)
        history.append(conversation.messages)
        prompt = history.ids_for_completion()

    `style` and `drop_analysis` as in `render_conversation`; others raise RenderError. Not safe to share between
    threads that append.
    """

    def __init__(self, tokenizer: Tokenizer, *, style: Style = "faithful", drop_analysis: bool = True) -> None:
        check_drop(drop_analysis)
        self._writer = Writer(tokenizer, False, style)
        self._style: Style = style
        self._drop = drop_analysis
        self._messages: list[Message] = []
        self._encoded: dict[int, list[int]] = {}  # index of a message -> its ids; none of those never shown
        self._functions = False  # whether some message declares functions
        self._cut = 0  # reasoning before this message is dropped
        self._ids: list[int] = []
        self._begins: list[int] = []  # where each message begins in `_ids`

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
        """Adds messages to the end. Raises what `render_conversation` raises, and then adds none of them."""
        added = tuple(messages)
        grown = [*self._messages, *added]
        cut = analysis_cut(grown, self._style) if self._drop else 0
        functions = self._functions or any(map(declares_functions, added))
        outdated = set() if functions == self._functions else {n for n, m in enumerate(self._messages) if _is_system(m)}
        first = min([len(self._messages), *outdated, *self._moved(cut)])
        fresh: dict[int, list[int]] = {}
        tail: list[list[int]] = []
        for index, message in enumerate(grown[first:], first):
            if index < cut and message.channel == "analysis":
                tail.append([])
                continue
            if index not in self._encoded or index in outdated:
                fresh[index] = self._write(message, functions)
            tail.append(fresh[index] if index in fresh else self._encoded[index])
        # Nothing fails from here on.
        for index in outdated:
            self._encoded.pop(index, None)
        self._encoded |= fresh
        self._messages, self._cut, self._functions = grown, cut, functions
        self._replace_from(first, tail)

    def _moved(self, cut: int) -> list[int]:
        """The first message, if any, that this cut hides and the last one did not, or the other way round."""
        low, high = sorted((cut, self._cut))
        moved = (n for n in range(low, min(high, len(self._messages))) if self._messages[n].channel == "analysis")
        return list(islice(moved, 1))

    def _write(self, message: Message, functions: bool) -> list[int]:
        self._writer.ids, self._writer.function_tools = [], functions
        self._writer.write(message)
        return self._writer.ids

    def _replace_from(self, first: int, tail: Iterable[list[int]]) -> None:
        """Message `first` and all behind it become `tail`."""
        if first < len(self._begins):
            del self._ids[self._begins[first] :], self._begins[first:]
        for ids in tail:
            self._begins.append(len(self._ids))
            self._ids += ids


def _is_system(message: Message) -> bool:
    return any(isinstance(part, SystemContent) for part in message.parts)
