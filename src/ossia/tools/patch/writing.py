"""Carries out a plan: all files or none.

New contents go to temporary names beside their files and to the disk; then names change, one after
the other. If one cannot be changed, those before it are changed back. A kill leaves every file as
it was or as it should be, never a part of one, and perhaps names that begin with `.ossia-`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from ossia.errors import PatchError
from ossia.tools.patch.jail import NO_LINK, Jail, Parts, stamp_of
from ossia.tools.patch.planning import Planned

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK


def write(plan: Sequence[Planned], jail: Jail) -> None:
    """Raises PatchError; then nothing has changed, unless the error says so."""
    with ExitStack() as folders:
        work = _Work(jail, folders)
        try:
            steps = [work.prepare(each) for each in plan]
            for step in steps:
                step()
        except BaseException as error:
            left = work.undo()
            if isinstance(error, OSError | PatchError):
                raise _failed(error, left) from error
            raise
        work.clean()


def _failed(error: OSError | PatchError, left: list[str]) -> PatchError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    if not left:
        return PatchError(f"cannot be written: {reason}\nNothing was changed.")
    return PatchError(f"cannot be written: {reason}\nNot changed back: {', '.join(left)}")


@dataclass
class _Work:
    jail: Jail
    folders: ExitStack
    undoing: list[tuple[str, Callable[[], None]]] = field(default_factory=list)
    temporary: list[tuple[int, str]] = field(default_factory=list)
    made: list[Parts] = field(default_factory=list)
    opened: dict[Parts, int] = field(default_factory=dict)
    changed: list[int] = field(default_factory=list)  # folders

    def prepare(self, planned: Planned) -> Callable[[], None]:
        """All that may fail for want of space or rights; returns the change of names."""
        parts = planned.written
        if planned.data is None:
            return lambda: self._remove(planned)
        folder = self._folder(parts)
        fresh = self._temporary(folder, planned)
        if planned.old is None or planned.target is not None:
            return lambda: self._appear(folder, fresh, planned)
        return lambda: self._replace(folder, fresh, planned)

    def _folder(self, parts: Parts) -> int:
        """Opened once: all steps are in the same folder, whatever its name comes to mean."""
        above = parts[:-1]
        if above not in self.opened:
            opening = self.jail.folder_of(parts, made=self.made)
            self.opened[above] = self.folders.enter_context(opening)
        return self.opened[above]

    def _temporary(self, folder: int, planned: Planned) -> str:
        old = planned.old
        name = self._free_name(folder)
        mode = old.mode & 0o777 if old else 0o666
        with open(os.open(name, _NEW, mode, dir_fd=folder), "wb") as file:
            if old:
                if old.owner != (os.geteuid(), os.getegid()):
                    with suppress(PermissionError):
                        os.fchown(file.fileno(), *old.owner)
                os.fchmod(file.fileno(), mode)  # the umask may have taken some of it
            file.write(planned.data or b"")
            file.flush()
            os.fsync(file.fileno())
        return name

    def _free_name(self, folder: int) -> str:
        name = f".ossia-{os.urandom(6).hex()}.tmp"
        self.temporary.append((folder, name))
        return name

    def _appear(self, folder: int, fresh: str, planned: Planned) -> None:
        """Under a name that must be free: a link never replaces anything."""
        name = planned.written[-1]
        is_linked = True
        try:
            os.link(fresh, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            raise PatchError(f"{'/'.join(planned.written)} exists now") from None
        except OSError:  # a file system without links: a kill now may leave an empty file
            os.close(os.open(name, _NEW, dir_fd=folder))
            is_linked = False
        self._undo_by(planned.written, lambda: os.unlink(name, dir_fd=folder))
        self.changed.append(folder)
        if not is_linked:
            os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
        if planned.target is not None:
            self._remove(planned)

    def _replace(self, folder: int, fresh: str, planned: Planned) -> None:
        name = planned.parts[-1]
        self._check_unchanged(folder, planned)
        back = self._way_back(folder, planned)
        os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
        self._undo_by(planned.parts, back)
        self.changed.append(folder)

    def _remove(self, planned: Planned) -> None:
        name = planned.parts[-1]
        folder = self._folder(planned.parts)
        self._check_unchanged(folder, planned)
        back = self._way_back(folder, planned)
        os.unlink(name, dir_fd=folder)
        self._undo_by(planned.parts, back)
        self.changed.append(folder)

    def _check_unchanged(self, folder: int, planned: Planned) -> None:
        assert planned.old
        try:
            found = os.stat(planned.parts[-1], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            raise PatchError(f"{planned.path} is gone meanwhile") from None
        if stamp_of(found) != planned.old.stamp:
            raise PatchError(f"{planned.path} was changed meanwhile: read it again")

    def _way_back(self, folder: int, planned: Planned) -> Callable[[], None]:
        """The old file under a second name, which needs no space; or its bytes again."""
        name = planned.parts[-1]
        kept = self._free_name(folder)
        try:
            os.link(name, kept, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except OSError:
            assert planned.old
            again = Planned(planned.parts, planned.old, planned.old.data)
            kept = self._temporary(folder, again)
        return lambda: os.rename(kept, name, src_dir_fd=folder, dst_dir_fd=folder)

    def _undo_by(self, parts: Parts, back: Callable[[], None]) -> None:
        self.undoing.append(("/".join(parts), back))

    def undo(self) -> list[str]:
        """The files that could not be changed back."""
        left = []
        for path, back in reversed(self.undoing):
            try:
                back()
            except OSError:
                left.append(path)
        if not left:  # or what is left of them may be there
            self.clean()
        for parts in reversed(self.made):
            with suppress(OSError, PatchError), self.jail.folder_of(parts) as folder:
                os.rmdir(parts[-1], dir_fd=folder)
        return left

    def clean(self) -> None:
        """Temporary names go; what has changed reaches the disk."""
        for folder, name in self.temporary:
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)
        for folder in set(self.changed):
            with suppress(OSError):
                os.fsync(folder)
