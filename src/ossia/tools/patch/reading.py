"""The text of a patch to its sections: files to add, delete, update and move.

    *** Begin Patch
    *** Update File: src/app.py
    @@ def greet():
    -    print("Hi")
    +    print("Hello")
    *** End Patch

Knows the format and what models put around it; nothing of files. Lines end at \\n only: what else
Unicode calls a line break is text. Everything accepted beyond the format is noted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ossia.errors import PatchError
from ossia.tools.patch.wrapping import unwrapped

BEGIN = "*** Begin Patch"
END = "*** End Patch"
ADD = "*** Add File:"
DELETE = "*** Delete File:"
UPDATE = "*** Update File:"
MOVE = "*** Move to:"
AT_END = "*** End of File"
HEADERS = (ADD, DELETE, UPDATE)
MOST_CHARACTERS = 4 << 20  # of a patch
MOST_SECTIONS = 200
SHOWN = 200  # characters of a line in an error
NO_NEWLINE = "\\ No newline at end of file"  # a line of git's, which says nothing here
# `-1,3 +1,4 @@ def f():`, what follows the first @@ in a diff of git's
_NUMBERS = re.compile(r"-\d+(,\d+)? \+\d+(,\d+)? @@.*")
_LONE = re.compile("[\ud800-\udfff]")
Change: TypeAlias = Literal[" ", "-", "+"]


@dataclass(frozen=True)
class Hunk:
    """`contexts`: lines that stand before it in the file, one after the other. `lines`: what stays,
    goes and comes. `blank`: how many empty lines at its end may only separate it from the next.
    `line`: where it begins in the patch.
    """

    contexts: tuple[str, ...]
    lines: tuple[tuple[Change, str], ...]
    at_end: bool
    line: int
    blank: int = 0

    @property
    def old(self) -> list[str]:
        return [text for change, text in self.lines if change != "+"]


@dataclass(frozen=True)
class AddFile:
    path: str
    lines: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class DeleteFile:
    path: str
    line: int


@dataclass(frozen=True)
class UpdateFile:
    path: str
    hunks: tuple[Hunk, ...]
    line: int
    move_to: str | None = None


Section: TypeAlias = AddFile | DeleteFile | UpdateFile


@dataclass(frozen=True)
class Patch:
    """`bodies`: the lines of each section below its header, as they stand in the patch. `newline`:
    how its lines end. `notes`: what was accepted although the format has no such thing.
    """

    sections: tuple[Section, ...]
    bodies: tuple[tuple[str, ...], ...]
    newline: str = "\n"
    notes: tuple[str, ...] = ()


def read_patch(text: str) -> Patch:
    """Raises PatchError, which names the line of the patch."""
    if len(text) > MOST_CHARACTERS:
        raise PatchError(
            f"the patch has {len(text):,} characters, and {MOST_CHARACTERS:,} are allowed: "
            "make it smaller, or several of it"
        )
    if _LONE.search(text):
        raise PatchError("the patch is no text in UTF-8: it has halves of characters")
    found = unwrapped(text)
    return _Reader(found.lines, found.notes, found.newline).read()


def said_of(section: Section) -> str:
    """Its header, as errors name it."""
    match section:
        case AddFile():
            return f"Add File: {section.path}"
        case DeleteFile():
            return f"Delete File: {section.path}"
    return f"Update File: {section.path}"


def shown(text: str) -> str:
    """A line of a file or patch in an error: quoted, so that blanks show, and cut."""
    if len(text) > SHOWN:
        text = text[:SHOWN] + "..."
    return "`" + text.replace("\r", "\\r") + "`"


@dataclass
class _Reader:
    lines: list[str]
    notes: list[str]
    newline: str
    at: int = 0  # the line that is read next
    bodies: list[tuple[str, ...]] = field(default_factory=list)

    def read(self) -> Patch:
        self._boundaries()
        sections = []
        while self.at < len(self.lines):
            if not self.lines[self.at].strip():
                self.at += 1
                continue
            start = self.at
            sections.append(self._section())
            if len(sections) > MOST_SECTIONS:
                raise self._error(start, f"more than {MOST_SECTIONS} sections: make several")
            self.bodies.append(tuple(self.lines[start + 1 : self.at]))
        if not sections:
            raise PatchError(f"the patch has no sections: {_KNOWN}")
        notes = tuple(dict.fromkeys(self.notes))
        return Patch(tuple(sections), tuple(self.bodies), self.newline, notes)

    def _boundaries(self) -> None:
        """The first line begins a patch, and only the last one ends it."""
        if not self.lines or self.lines[0].strip() != BEGIN:
            found = shown(self.lines[0]) if self.lines else "nothing"
            raise PatchError(f"the patch must begin with the line `{BEGIN}`, found {found}")
        if self.lines[-1].strip() != END or len(self.lines) == 1:
            raise PatchError(
                f"the patch must end with the line `{END}`; it ends with {shown(self.lines[-1])}: "
                "it may have been cut off"
            )
        del self.lines[-1]
        for number, line in enumerate(self.lines):
            if line.rstrip() in (BEGIN, END) and number:
                raise self._error(number, f"{shown(line)} in the middle of the patch")
        self.at = 1

    def _section(self) -> Section:
        start = self.at
        header = self.lines[start].strip()
        self.at += 1
        kind = next((each for each in HEADERS if header.startswith(each)), None)
        if kind is None:
            raise self._error(start, f"{shown(header)} is no header of a section: {_KNOWN}")
        path = header.removeprefix(kind).strip()
        if not path:
            raise self._error(start, f"`{kind}` names no file")
        if kind == DELETE:
            return DeleteFile(path, start + 1)
        if kind == ADD:
            return AddFile(path, tuple(self._added()), start + 1)
        return self._update(path, start)

    def _added(self) -> Iterator[str]:
        """Lines with their `+`; empty ones count if another line of the file follows."""
        empty = 0
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.startswith("+"):
                yield from [""] * empty
                empty = 0
                yield line[1:]
            elif not line.strip():
                empty += 1
            elif line.strip().startswith("***"):
                break
            else:
                wrong = f"every line of a file that is added begins with `+`, found {shown(line)}"
                raise self._error(self.at, wrong)
            self.at += 1

    def _update(self, path: str, start: int) -> UpdateFile:
        move_to = None
        if self.at < len(self.lines) and self.lines[self.at].startswith(MOVE):
            move_to = self.lines[self.at].removeprefix(MOVE).strip()
            if not move_to:
                raise self._error(self.at, f"`{MOVE}` names no file")
            self.at += 1
        hunks: list[Hunk] = []
        self._pass_blank(only_before_mark=True)
        while self.at < len(self.lines) and not self._is_header():
            hunks.append(self._hunk(is_first=not hunks))
            self._pass_blank()
        if not hunks and move_to is None:
            raise self._error(start, "the section changes nothing: it has no lines")
        return UpdateFile(path, tuple(hunks), start + 1, move_to)

    def _pass_blank(self, *, only_before_mark: bool = False) -> None:
        """Over empty lines between hunks. Those before the first hunk may be its own, if it has no
        `@@`.
        """
        end = self.at
        while end < len(self.lines) and not self.lines[end].strip():
            end += 1
        if not only_before_mark or (self.lines[end : end + 1] and self._is_mark(end)):
            self.at = end

    def _is_mark(self, index: int) -> bool:
        return self.lines[index].startswith(("@@", "***"))

    def _is_header(self) -> bool:
        """A line with a blank before its stars is one of the file's."""
        line = self.lines[self.at]
        return line.startswith("***") and line.rstrip() != AT_END

    def _hunk(self, *, is_first: bool) -> Hunk:
        start = self.at
        contexts = tuple(self._contexts())
        if not is_first and self.at == start:
            wrong = f"a hunk begins with `@@`, found {shown(self.lines[start])}"
            raise self._error(start, wrong)
        lines: list[tuple[Change, str]] = []
        blank = 0
        while self.at < len(self.lines) and not self._is_mark(self.at):
            line = self.lines[self.at]
            if line == NO_NEWLINE:
                self.notes.append("a line of git's about the missing newline")
            else:
                blank = 0 if line else blank + 1
                lines.append(self._line(line))
            self.at += 1
        at_end = self.at < len(self.lines) and self.lines[self.at].rstrip() == AT_END
        self.at += at_end
        if not any(text or change != " " for change, text in lines):
            raise self._error(start, "the hunk has no lines")
        return Hunk(contexts, tuple(lines), at_end, start + 1, blank)

    def _contexts(self) -> Iterator[str]:
        while self.at < len(self.lines) and self.lines[self.at].startswith("@@"):
            text = self.lines[self.at][2:].removeprefix(" ")
            self.at += 1
            if _NUMBERS.fullmatch(text):
                self.notes.append("line numbers after @@, which are not used")
            elif text.strip():
                yield text

    def _line(self, line: str) -> tuple[Change, str]:
        match line[:1]:
            case "":
                return " ", ""
            case " " | "-" | "+" as change:
                return change, line[1:]
        raise self._error(self.at, f"it begins with neither ` `, `-` nor `+`: {shown(line)}")

    def _error(self, index: int, text: str) -> PatchError:
        return PatchError(f"line {index + 1} of the patch: {text}")


_KNOWN = f"a section begins with one of `{ADD} PATH`, `{DELETE} PATH`, `{UPDATE} PATH`"
