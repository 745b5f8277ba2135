"""Text as it comes out of a process: its beginning and its end are kept, whatever lies between is
counted and forgotten. Knows bytes and characters only.
"""

from __future__ import annotations

import codecs
from collections import deque


class HeadAndTail:
    """`most`: characters that are kept, half of them from the beginning."""

    def __init__(self, most: int) -> None:
        self.total = 0  # characters
        self._room = most // 2
        self._keep = most - most // 2
        self._head: list[str] = []
        self._tail: deque[str] = deque()
        self._kept = 0  # characters of the tail, some of which may be too many
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes, *, final: bool = False) -> None:
        text = self._decoder.decode(data, final)
        self.total += len(text)
        if self._room and text:
            self._head.append(text[: self._room])
            text, self._room = text[self._room :], self._room - len(self._head[-1])
        if not text:
            return
        self._tail.append(text[-self._keep :])
        self._kept += len(self._tail[-1])
        while self._kept - len(self._tail[0]) >= self._keep:
            self._kept -= len(self._tail.popleft())

    def text(self) -> str:
        """What is kept, and between its halves how much is left out."""
        self.feed(b"", final=True)
        tail = "".join(self._tail)[-self._keep :]
        left_out = self.total - sum(map(len, self._head)) - len(tail)
        if not left_out:
            return "".join(self._head) + tail
        return f"{''.join(self._head)}\n[... {left_out} characters left out ...]\n{tail}"
