"""What a patch makes of a folder's files, worked out in memory: nothing is written here.

Every section is tried, the first error is raised; it names the section. Files are read through the
jail.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from ossia.errors import PatchError
from ossia.tools.patch.jail import MOST_BYTES, Found, Jail, Parts, parts_of
from ossia.tools.patch.matching import updated
from ossia.tools.patch.reading import (
    AddFile,
    DeleteFile,
    Patch,
    Section,
    UpdateFile,
    said_of,
)
from ossia.tools.patch.text import FileText

MOST_READ = 50 << 20  # bytes of all files of one patch


@dataclass(frozen=True)
class Planned:
    """A file after the patch. `old`: as it was read, None for a new one. `data`: None if it goes.
    `target`: where `data` goes, if not to `parts`.
    """

    parts: Parts
    old: Found | None
    data: bytes | None
    target: Parts | None = None

    @property
    def letter(self) -> Literal["A", "M", "D"]:
        if self.old is None:
            return "A"
        return "D" if self.data is None else "M"

    @property
    def written(self) -> Parts:
        return self.target or self.parts

    @property
    def path(self) -> str:
        return "/".join(self.parts)


def plan(patch: Patch, jail: Jail) -> list[Planned]:
    """In the order of the patch. Raises PatchError."""
    planner = _Planner(jail, patch.newline)
    for section in patch.sections:
        with _in_section(section):
            planner.add(section)
    return list(planner.planned.values())


@contextmanager
def _in_section(section: Section) -> Iterator[None]:
    try:
        yield
    except PatchError as error:
        said = f"{said_of(section)} (line {section.line} of the patch): {error}"
        raise PatchError(f"{said}\nNothing was written.") from error


@dataclass
class _Planner:
    jail: Jail
    newline: str
    planned: dict[Parts, Planned] = field(default_factory=dict)
    read: int = 0

    def add(self, section: Section) -> None:
        parts = parts_of(section.path)
        before = self.planned.get(parts)
        follows = before is not None and before.old is None and isinstance(section, UpdateFile)
        if (before is not None and not follows) or self._is_target(parts):
            raise PatchError(
                "the patch has another section for this file: write one section for each"
            )
        self._check_parents(parts)
        match section:
            case AddFile():
                self._check_free(parts)
                data = "".join(line + self.newline for line in section.lines).encode()
                self.planned[parts] = Planned(parts, None, _checked(data))
            case DeleteFile():
                self.planned[parts] = Planned(parts, self._old(parts), None)
            case UpdateFile():
                self._update(parts, section, before)

    def _update(self, parts: Parts, section: UpdateFile, before: Planned | None) -> None:
        old = None if before else self._old(parts)
        source = old or before
        data = source.data if source else None
        text = updated(FileText.of(data or b""), section.hunks)
        target = self._target(parts, section)
        if before and target:  # a new file, under its last name
            del self.planned[parts]
            parts, target = target, None
        self.planned[parts] = Planned(parts, old, _checked(text.data), target)

    def _target(self, parts: Parts, section: UpdateFile) -> Parts | None:
        if section.move_to is None:
            return None
        target = parts_of(section.move_to)
        if target == parts:
            return None
        if target in self.planned or self._is_target(target):
            raise PatchError(f"Move to: {section.move_to}: the patch has a section for this file")
        self._check_parents(target)
        self._check_free(target)
        return target

    def _is_target(self, parts: Parts) -> bool:
        return any(each.target == parts for each in self.planned.values())

    def _check_free(self, parts: Parts) -> None:
        kind = self.jail.kind(parts)
        if kind == "a file":
            raise PatchError(f"{'/'.join(parts)} exists: write `*** Update File:` to change it")
        if kind is not None:
            raise PatchError(f"{'/'.join(parts)} exists, and is {kind}")

    def _check_parents(self, parts: Parts) -> None:
        """No file of the patch is another's folder."""
        for other in [each.written for each in self.planned.values()]:
            short, long = sorted((other, parts), key=len)
            if short != long and long[: len(short)] == short:
                raise PatchError(f"{'/'.join(short)} cannot be a file and a folder")

    def _old(self, parts: Parts) -> Found:
        found = self.jail.read(parts)
        self.read += len(found.data)
        if self.read > MOST_READ:
            raise PatchError(f"its files have more than {MOST_READ:,} bytes: make several patches")
        return found


def _checked(data: bytes) -> bytes:
    if len(data) > MOST_BYTES:
        raise PatchError(f"the file would have more than {MOST_BYTES:,} bytes")
    return data
