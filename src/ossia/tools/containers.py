"""Containers: the files of tools that run code, on disk, one folder each; who may see them, how
much they may hold, and when they are removed.

    container = containers.create("alice", name="report")
    containers.get("alice", container.id).area.files()

A container outlives the processes that work in it, and this process if its root is kept. Knows
areas; nothing of sandboxes or of the wire.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import tempfile
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

from pydantic import ConfigDict, TypeAdapter

from ossia.errors import ContainerError
from ossia.files import write_json
from ossia.tools.area import Area, AreaFile

log = logging.getLogger("ossia.tools")
ID = re.compile(r"cntr_[0-9a-f]{32}")
GONE = "gone-"  # before the names of folders that are being deleted
ABOUT = "container.json"
DATA = "data"
MOST_GONE = 10_000  # ids of which it is known why they are gone
SWEEP_SECONDS = 10.0
MOVED = "the session was at a server that is gone"  # a reason for `lost`
LONGEST_NAME = 200  # bytes; its end, which says what it is, stays


@dataclass
class Container:
    """`conversation`: the one that it was made for, without being asked for; "" otherwise.
    `expires_after`: seconds without use. `memory`: bytes that its processes may take; None: as
    configured. `lost`: why what ran in it is gone, for whoever comes back; None if nothing ran.
    `uploaded`: paths of files that came from outside; `given`: marks of those that are not to be
    put there again.
    """

    id: str
    caller: str
    created: float
    active: float
    expires_after: float
    name: str = ""
    conversation: str = ""
    memory: int | None = None
    lost: str | None = None
    uploaded: list[str] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    root: Path = field(default=Path(), repr=False)
    owner: int | None = None

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)

    @property
    def area(self) -> Area:
        return Area(self.root / self.id / DATA, self.owner)

    @property
    def automatic(self) -> bool:
        return bool(self.conversation)

    def file_id(self, path: str) -> str:
        """The same for the same path, as long as the container lives."""
        digest = blake2b(f"{self.id}/{path}".encode("utf-8", "surrogatepass"), digest_size=16)
        return f"cfile_{digest.hexdigest()}"


KEPT = TypeAdapter(Container)  # what is on the disk may be damaged


@dataclass(frozen=True)
class Rules:
    """`quota`: bytes of a container's files; `files`: how many. `expires_after`: seconds without
    use. `memory`: bytes that its processes may take; a container may be given less. `most`,
    `most_per_caller`: containers.
    """

    quota: int = 256 << 20
    files: int = 10_000
    expires_after: float = 1200.0
    memory: int = 1 << 30
    most: int = 1000
    most_per_caller: int = 100


class Containers:
    """`root`: the folder that keeps them; None: a temporary one, removed with this object.
    `new_owner`: the user that a new container's files belong to, None for us. May be used by many
    threads.
    """

    def __init__(
        self,
        root: Path | None = None,
        rules: Rules | None = None,
        *,
        new_owner: Callable[[], int | None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.rules = rules or Rules()
        self.new_owner = new_owner
        self.clock = clock
        self.mark = ""  # hex digits that new ids begin with
        self.before_removal: list[Callable[[str], None]] = []  # called with ids, in any thread
        # how many a caller may have, where that is less than the rules say
        self.most_of: Callable[[str], int | None] = lambda caller: None
        if root is None:
            root = Path(tempfile.mkdtemp(prefix="ossia-containers-"))
            weakref.finalize(self, _remove_all, root)
        root.mkdir(parents=True, exist_ok=True)
        # names in it are secrets; whom code runs as may have to pass through it
        root.chmod(0o711)
        self.root = root.resolve()
        self._lock = threading.RLock()
        self._known: dict[str, Container] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._burials: list[threading.Thread] = []
        self._swept = 0.0
        self._read()

    # ---- containers ----

    def create(
        self,
        caller: str,
        *,
        name: str = "",
        expires_after: float | None = None,
        memory: int | None = None,
        conversation: str = "",
    ) -> Container:
        """Raises `ContainerError` if there are too many."""
        with self._lock:
            self.sweep()
            self._make_room(caller)
            now = self.clock()
            seconds = self.rules.expires_after if expires_after is None else expires_after
            made = Container(
                id=f"cntr_{self.mark}{os.urandom(16).hex()[len(self.mark) :]}",
                caller=caller,
                created=now,
                active=now,
                expires_after=min(seconds, self.rules.expires_after),
                name=name,
                conversation=conversation,
                memory=memory,
                root=self.root,
                owner=self.new_owner(),
            )
            folder = self.root / made.id
            folder.mkdir(mode=0o711)
            folder.chmod(0o711)
            made.area.make()
            self._known[made.id] = made
            self._write(made)
            return made

    def get(self, caller: str, id: str) -> Container:
        """Raises `ContainerError`: code "expired" for one that was this caller's or anybody's,
        "not_found" for others, those of other callers too.
        """
        with self._lock:
            self.sweep(always=True)
            found = self._known.get(id)
            if found is not None and found.caller == caller:
                return found
            if id in self._gone:
                raise ContainerError(f"container {id} has expired", "container", "expired")
            raise ContainerError(f"there is no container {id[:60]!r}", "container", "not_found")

    def of(self, caller: str, conversation: str) -> Container:
        """The one that belongs to a conversation, made if there is none. The conversation may be
        named by the id of a container of the caller's.
        """
        with self._lock:
            if ID.fullmatch(conversation):
                return self.get(caller, conversation)
            self.sweep(always=True)
            for each in self._known.values():
                if conversation and (each.caller, each.conversation) == (caller, conversation):
                    return each
            return self.create(caller, conversation=conversation)

    def of_caller(self, caller: str) -> list[Container]:
        """The newest first."""
        with self._lock:
            self.sweep(always=True)
            own = [each for each in self._known.values() if each.caller == caller]
            return sorted(own, key=lambda each: (each.created, each.id), reverse=True)

    @property
    def count(self) -> int:
        with self._lock:
            self.sweep(always=True)
            return len(self._known)

    def lives(self, container: Container) -> bool:
        with self._lock:
            return container.id in self._known

    def touch(self, container: Container, lost: str | None = None) -> None:
        """It is used now. `lost`: see `Container`."""
        with self._lock:
            container.active = self.clock()
            if container.id not in self._known:
                return
            if container.lost != lost:
                container.lost = lost
                self._write(container)
            times = (container.active, container.active)
            os.utime(self.root / container.id / ABOUT, times)

    def delete(self, caller: str, id: str) -> None:
        """Raises `ContainerError`, as `get` does."""
        with self._lock:
            self._remove(self.get(caller, id))

    def sweep(self, *, always: bool = False) -> None:
        """Remove those that have expired."""
        with self._lock:
            now = self.clock()
            if not always and abs(now - self._swept) < SWEEP_SECONDS:
                return
            self._swept = now
            for each in list(self._known.values()):
                if now - each.active > each.expires_after:
                    self._remove(each)

    def _make_room(self, caller: str) -> None:
        """Containers that nobody asked for give way, the least recently used first."""
        own = [each for each in self._known.values() if each.caller == caller]
        most_own = self.rules.most_per_caller
        limit = self.most_of(caller)
        if limit is not None:
            most_own = min(most_own, limit)
        for group, most in ((own, most_own), (self._known, self.rules.most)):
            if len(group) < most:
                continue
            old = [each for each in own if each.automatic]
            if not old:
                raise ContainerError(
                    f"there are {len(group)} containers already: delete some, or wait until they "
                    "expire",
                    code="too_many",
                )
            self._remove(min(old, key=lambda each: each.active))
            own = [each for each in own if each.id in self._known]

    def settle(self) -> None:
        """Returns when everything that was removed is gone from the disk."""
        while self._burials:
            self._burials.pop().join()

    def _remove(self, container: Container) -> None:
        """Nobody finds it from now on. Ending what runs in it, and deleting its files, takes longer
        than a caller should wait.
        """
        del self._known[container.id]
        self._gone[container.id] = None
        while len(self._gone) > MOST_GONE:
            self._gone.popitem(last=False)
        grave = self.root / f"{GONE}{container.id}"
        (self.root / container.id).rename(grave)
        burial = threading.Thread(target=self._bury, args=(container.id, grave), daemon=True)
        self._burials = [each for each in self._burials if each.is_alive()] + [burial]
        burial.start()

    def _bury(self, id: str, grave: Path) -> None:
        for call in self.before_removal:
            call(id)
        try:
            _remove_container(grave)
        except OSError:
            log.exception("a container's files could not be deleted")

    # ---- files ----

    def files(self, container: Container) -> list[AreaFile]:
        return container.area.files(self.rules.files)

    def find(self, container: Container, file_id: str) -> AreaFile:
        """Raises `ContainerError`."""
        for file in self.files(container):
            if container.file_id(file.path) == file_id:
                return file
        raise ContainerError(f"there is no file {file_id[:60]!r}", "file", "not_found")

    def write(
        self, container: Container, path: str, content: IO[bytes], mark: str = ""
    ) -> AreaFile:
        """`mark`: one of `Container.given`. Raises `ContainerError`, also for more than the
        container may hold.
        """
        used = container.area.usage(self.rules.files)
        if used.entries >= self.rules.files:
            raise ContainerError("the container holds too many files", "file", "too_many")
        room = max(0, self.rules.quota - used.bytes)
        written = container.area.write(path, content, room)
        with self._lock:
            is_new = self._note(container.uploaded, written.path)
            is_new |= self._note(container.given, mark)
            if is_new and container.id in self._known:
                self._write(container)
        self.touch(container, container.lost)
        return written

    def _note(self, listed: list[str], value: str) -> bool:
        """Whether it was not there."""
        if not value or value in listed:
            return False
        if len(listed) >= self.rules.files:  # most of them are gone by now
            listed.clear()
        listed.append(value)
        return True

    # ---- on disk ----

    def _write(self, container: Container) -> None:
        kept: dict[str, Any] = asdict(container)
        del kept["root"], kept["id"]
        write_json(self.root / container.id / ABOUT, kept, sole_writer=True)

    def _read(self) -> None:
        """Those of an earlier process. A folder that cannot be read as one is left alone."""
        for folder in self.root.iterdir():
            if folder.name.startswith(GONE):
                with contextlib.suppress(OSError):
                    _remove_container(folder)
            if not ID.fullmatch(folder.name):
                continue
            with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
                kept = json.loads((folder / ABOUT).read_text())
                kept |= {"id": folder.name, "root": str(self.root)}
                kept["active"] = (folder / ABOUT).stat().st_mtime
                self._known[folder.name] = KEPT.validate_json(json.dumps(kept), strict=True)


def file_name(given: str) -> str:
    """A name for a file that comes from outside: the last part of a path of any system, without
    what cannot be seen.
    """
    last = given.replace("\\", "/").rpartition("/")[2]
    name = "".join(each for each in last if each.isprintable()).strip()[-LONGEST_NAME:]
    while len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        name = name[1:]
    return name if name.strip(".") else "file"


def _remove_container(folder: Path) -> None:
    Area(folder / DATA).destroy()
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def _remove_all(root: Path) -> None:
    for folder in root.iterdir():
        with contextlib.suppress(OSError):
            _remove_container(folder)
    with contextlib.suppress(OSError):
        root.rmdir()
