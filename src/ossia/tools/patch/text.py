"""A text file as lines that remember how they end, so that what is not changed stays as it is.

Knows bytes and lines; nothing of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ossia.errors import PatchError

MOST_LINES = 1_000_000
MARK = "\ufeff"  # with which some files of Windows begin


class Line(NamedTuple):
    text: str
    end: str


@dataclass(frozen=True)
class FileText:
    lines: tuple[Line, ...]
    has_mark: bool = False
    ends_open: bool = False  # without a newline after the last line

    @classmethod
    def of(cls, data: bytes) -> FileText:
        """Raises PatchError for bytes that are not text."""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise PatchError(
                f"is no text in UTF-8 (at byte {error.start:,}): only text can be updated"
            ) from None
        has_mark = text.startswith(MARK)
        parts = text.removeprefix(MARK).split("\n")
        if len(parts) > MOST_LINES:
            raise PatchError(f"has more than {MOST_LINES:,} lines: it is too large to update")
        last = parts.pop()
        lines = [_line(part) for part in parts]
        if last:
            lines.append(Line(last, ""))
        return cls(tuple(lines), has_mark, bool(last))

    @property
    def data(self) -> bytes:
        text = "".join(line.text + line.end for line in self.lines)
        return ((MARK if self.has_mark else "") + text).encode()

    def new_line(self, text: str, index: int) -> Line:
        """A line that is to come before the line `index`."""
        end = self._end_at(index)
        if end == "\r\n":
            text = text.removesuffix("\r")  # copied from the file
        return Line(text, end)

    def _end_at(self, index: int) -> str:
        """As its neighbours end."""
        for place in (index - 1, index):
            if 0 <= place < len(self.lines) and self.lines[place].end:
                return self.lines[place].end
        return self.lines[0].end if self.lines and self.lines[0].end else "\n"

    def with_lines(self, lines: Sequence[Line]) -> FileText:
        """The same file with other lines; the last one stays open if it was."""
        made = [line if line.end else Line(line.text, self._end_at(0)) for line in lines]
        if self.ends_open and made:
            made[-1] = Line(made[-1].text, "")
        return FileText(tuple(made), self.has_mark, self.ends_open)


def _line(part: str) -> Line:
    if part.endswith("\r"):
        return Line(part[:-1], "\r\n")
    return Line(part, "\n")
