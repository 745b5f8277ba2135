"""Where a hunk's lines stand in a file, and the file after it.

Lines are compared exactly, then without trailing blanks, then without blanks at both ends, then
with typographic dashes, quotes and blanks as ASCII. Knows lines; nothing of paths. What does not
match is described so that the next try can: the first line that differs, and where else the
beginning of the hunk stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from ossia.errors import PatchError
from ossia.tools.patch.reading import Hunk, shown
from ossia.tools.patch.text import FileText, Line

MOST_STEPS = 50_000_000  # lines compared for one patch: a second or two
MOST_CANDIDATES = 5  # places that an error names
MOST_ANCHORS = 200  # places that are looked at to explain an error
NEAR_LINES = 1000  # among which the most similar one is looked for
NEAR_CHARACTERS = 120  # of each
_TYPOGRAPHIC = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
    **dict.fromkeys("\u2018\u2019\u201a\u201b", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f", '"'),
    **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a", " "),
    **dict.fromkeys("\u202f\u205f\u3000", " "),
}
_ASCII = str.maketrans(_TYPOGRAPHIC)


def _as_ascii(line: str) -> str:
    return line.translate(_ASCII).strip()


# What is compared, the strictest first.
LEVELS: tuple[Callable[[str], str], ...] = (str, str.rstrip, str.strip, _as_ascii)


def updated(file: FileText, hunks: Sequence[Hunk]) -> FileText:
    """Raises PatchError for a hunk that does not fit."""
    lines = _Lines([line.text for line in file.lines])
    made: list[Line] = []
    done = 0  # lines of the old file that have been passed on or replaced
    for number, hunk in enumerate(hunks, 1):
        try:
            start, change = _place(lines, hunk, done)
        except PatchError as error:
            raise PatchError(f"hunk {number}, line {hunk.line} of the patch: {error}") from error
        made += file.lines[done:start]
        done = start
        for kind, text in change:
            if kind == "+":
                made.append(file.new_line(text, done))
                continue
            if kind == " ":
                made.append(file.lines[done])
            done += 1
    made += file.lines[done:]
    return file.with_lines(made)


def _place(lines: _Lines, hunk: Hunk, start: int) -> tuple[int, Sequence[tuple[str, str]]]:
    """Where the hunk begins, and its lines, without empty ones at their end that only separate."""
    below = start
    for context in hunk.contexts:
        below = _below_context(lines, context, below, start)
    if not hunk.old:
        is_placed = hunk.contexts and not hunk.at_end
        return below if is_placed else len(lines.texts), hunk.lines
    # the context's own line may be repeated as the hunk's first
    starts = [below]
    if hunk.contexts and below > start:
        starts.append(below - 1)
    for begin in starts:
        for left_out in sorted({0, hunk.blank}):
            kept = hunk.lines[: len(hunk.lines) - left_out]
            old = [text for kind, text in kept if kind != "+"]
            found = lines.find(old, begin, at_end=hunk.at_end) if old else None
            if found is not None:
                return found, kept
    raise _no_match(lines, hunk, below)


def _below_context(lines: _Lines, context: str, below: int, start: int) -> int:
    """The line after the next one that is `context`. One that stands before the last hunk already
    has done its service.
    """
    found = lines.find([context], below)
    if found is not None:
        return found + 1
    if below == start and lines.find([context], 0) is not None:
        return below
    raise PatchError(
        f"no line after line {below} of the file is what `@@` names\n"
        f"expected: {shown(context)}{lines.most_similar(context, below)}"
    )


@dataclass
class _Lines:
    """A file's lines as each level compares them."""

    texts: list[str]
    by_level: dict[int, list[str]] = field(default_factory=dict)
    steps: int = 0

    def at_level(self, level: int) -> list[str]:
        if level not in self.by_level:
            self.by_level[level] = [LEVELS[level](text) for text in self.texts]
        return self.by_level[level]

    def find(self, old: Sequence[str], start: int, *, at_end: bool = False) -> int | None:
        last = len(self.texts) - len(old)
        first = max(start, last) if at_end else start
        for level, form in enumerate(LEVELS):
            wanted = [form(text) for text in old]
            found = self._find(self.at_level(level), wanted, first, last)
            if found is not None:
                return found
        return None

    def _find(self, lines: list[str], wanted: list[str], first: int, last: int) -> int | None:
        while first <= last:
            try:
                at = lines.index(wanted[0], first, last + 1)
            except ValueError:
                self._count(last + 1 - first)
                return None
            self._count(at - first + len(wanted))
            if lines[at : at + len(wanted)] == wanted:
                return at
            first = at + 1
        return None

    def _count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MOST_STEPS:
            raise PatchError(
                "its lines occur too often in the file to look at all of them: "
                "give more lines of context that occur once"
            )

    def most_similar(self, text: str, start: int) -> str:
        """The line that is most like it, as an error's end; "" if none is."""
        lines = self.texts[start : start + NEAR_LINES]
        short = [line[:NEAR_CHARACTERS] for line in lines]
        near = get_close_matches(text[:NEAR_CHARACTERS], short, 1)
        if not near:
            return ""
        at = short.index(near[0])
        return f"\nfound at line {start + at + 1}: {shown(lines[at])}"


def _no_match(lines: _Lines, hunk: Hunk, start: int) -> PatchError:
    old = hunk.old
    where = "at the end of the file" if hunk.at_end else f"after line {start} of the file"
    if not start and not hunk.at_end:
        where = "in the file"
    said = f"its lines do not stand {where}"
    if not hunk.at_end:
        earlier = lines.find(old, 0)
        if earlier is not None:
            return PatchError(
                f"{said}, but before, at line {earlier + 1}: "
                "hunks must come in the order of the file, and not overlap"
            )
    places = _likely_places(lines, old, start)
    if not places:
        near = lines.most_similar(old[0], start)
        return PatchError(f"{said}; none of them does\nexpected: {shown(old[0])}{near}")
    best = places[0]
    differs = next(
        (
            index
            for index, text in enumerate(old)
            if not lines_equal(lines.texts, best + index, text)
        ),
        len(old) - 1,
    )
    at = best + differs
    there = "the end of the file"
    if at < len(lines.texts):
        there = f"line {at + 1}: {shown(lines.texts[at])}"
    text = f"{said}\nexpected: {shown(old[differs])}\nfound at {there}"
    if len(places) > 1:
        others = ", ".join(str(place + 1) for place in places[1 : 1 + MOST_CANDIDATES])
        text += f"\nsimilar lines begin at line {others}, too: more context tells them apart"
    return PatchError(text)


def _likely_places(lines: _Lines, old: Sequence[str], start: int) -> list[int]:
    """Where the hunk may have been meant to begin: most lines equal first, then those at its
    beginning.
    """
    loosest = len(LEVELS) - 1
    texts = lines.at_level(loosest)
    wanted = [LEVELS[loosest](text) for text in old]
    anchors: dict[str, int] = {}
    for place, text in enumerate(wanted):
        if text:
            anchors.setdefault(text, place)
    begins: dict[int, None] = {}
    for at in range(start, len(texts)):
        index = anchors.get(texts[at])
        if index is not None and at - index >= start:
            begins[at - index] = None
        if len(begins) >= MOST_ANCHORS:
            break
    scores = {begin: _score(texts, wanted, begin) for begin in begins}
    most = max((equal for equal, _ in scores.values()), default=0)
    near = [begin for begin, (equal, _) in scores.items() if 2 * equal >= most]
    return sorted(near, key=lambda begin: scores[begin], reverse=True)


def _score(texts: list[str], wanted: list[str], begin: int) -> tuple[int, int]:
    """How many lines are equal, and how many before the first that differs."""
    there = texts[begin : begin + len(wanted)]
    equal = [a == b for a, b in zip(there, wanted, strict=False)]
    first = equal.index(False) if False in equal else len(equal)
    return sum(equal), first


def lines_equal(texts: list[str], at: int, wanted: str) -> bool:
    return at < len(texts) and _as_ascii(texts[at]) == _as_ascii(wanted)
