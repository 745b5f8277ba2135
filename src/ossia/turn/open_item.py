"""The item that is growing: its text, the log-probabilities of its tokens, and the stop strings
that could be in it.

Knows the events' items; nothing of messages or of how tokens become text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ossia.turn.events import Item, MessageItem, TokenLogprob
from ossia.turn.stops import first_stop, partial_stop_length

Piece = tuple[str, tuple[TokenLogprob, ...]]


class OpenItem:
    """Text that could be the beginning of a stop string is held back until that is certain."""

    def __init__(self, index: int, item: Item, stop: tuple[str, ...] = ()) -> None:
        self.index = index
        self.item = item
        self.stop = stop
        self.found: str | None = None  # the stop string that has come
        self._said: list[str] = []
        self._shown: list[TokenLogprob] = []
        self._held = ""
        self._pending: list[TokenLogprob] = []  # of the text that is held
        self._covered = 0  # characters of it that belong to a token which is shown already

    @property
    def text(self) -> str:
        return "".join(self._said)

    def ended(self) -> Item:
        if isinstance(self.item, MessageItem):
            return replace(self.item, text=self.text, logprobs=tuple(self._shown))
        return replace(self.item, text=self.text)

    def add(
        self, text: str, logprobs: Sequence[TokenLogprob] = (), *, search: bool = True
    ) -> Piece:
        """What can be shown now. `logprobs`: of the tokens that `text` comes from. `search`:
        whether a stop string may be in it.
        """
        if isinstance(self.item, MessageItem):
            self._pending += logprobs
        if not self.stop and not self._pending:  # the common case, kept short
            self._said.append(text)
            return text, ()
        self._held += text
        if not search:
            return self.rest()
        found = first_stop(self._held, self.stop)
        if found is not None:
            at, self.found = found
            return self._release(at)
        return self._release(len(self._held) - partial_stop_length(self._held, self.stop))

    def rest(self) -> Piece:
        """All that is held back."""
        return self._release(len(self._held))

    def _release(self, count: int) -> Piece:
        """The first characters of what is held. A token goes with the text that it begins in."""
        text = self._held[:count]
        is_all = count == len(self._held)
        self._held = self._held[count:]
        if text:
            self._said.append(text)
        at = self._covered
        logprobs = []
        while self._pending and (is_all or at < count):
            logprobs.append(self._pending.pop(0))
            at += len(logprobs[-1].text)
        self._covered = 0 if is_all else max(0, at - count)
        self._shown += logprobs
        return text, tuple(logprobs)
