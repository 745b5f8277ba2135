"""Files that change in one step: nothing that goes wrong leaves a part of one, or a leftover."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ossia.files import beside, replace_file, replacing, write_json


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that holds "before", in a folder of its own."""
    made = tmp_path / "folder" / "file.txt"
    made.parent.mkdir()
    made.write_text("before")
    return made


def unchanged(path: Path) -> bool:
    return path.read_text() == "before" and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("sole_writer", [True, False])
def test_a_file_appears_when_it_is_whole(path: Path, sole_writer: bool) -> None:
    with replacing(path, sole_writer=sole_writer) as file:
        file.write(b"after")
        file.flush()
        assert path.read_text() == "before"
    assert path.read_text() == "after" and os.listdir(path.parent) == [path.name]


def test_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    replace_file(tmp_path / "text", "Zoë")
    replace_file(tmp_path / "bytes", b"\xff")
    assert (tmp_path / "text").read_bytes() == "Zoë".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\xff"
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "no folder" / "text", "")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
@pytest.mark.parametrize("sole_writer", [True, False])
def test_an_interrupted_write_changes_nothing(
    path: Path, error: type[BaseException], sole_writer: bool
) -> None:
    with pytest.raises(error), replacing(path, sole_writer=sole_writer) as file:
        file.write(b"half")
        raise error
    assert unchanged(path)


@pytest.mark.parametrize("step", ["fsync", "fchmod", "open"])
def test_what_the_system_refuses_changes_nothing(
    path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, refuse)
        with pytest.raises(OSError, match="No space left on device"):
            replace_file(path, "after")
    assert unchanged(path)


def test_a_rename_that_fails_changes_nothing(path: Path) -> None:
    folder = path.parent / "occupied"
    folder.mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(folder, "after")
    assert sorted(os.listdir(path.parent)) == ["file.txt", "occupied"]


def test_a_full_disk_changes_nothing(path: Path) -> None:
    """A write that meets the limit half way, as on a full disk: bytes are written before it
    fails.
    """
    most = 3 << 20
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        with pytest.raises(OSError, match="File too large"), replacing(path) as file:
            for _ in range(8):
                file.write(b"x" * (1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert unchanged(path)


KILLED = """
import os, signal, sys
from pathlib import Path
from ossia.files import replacing
with replacing(Path(sys.argv[1]), sole_writer=True) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_sole_writer_overwrites_what_a_killed_one_left(path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "before"
    assert sorted(os.listdir(path.parent)) == ["file.txt", "file.txt.tmp"]
    replace_file(path, "after", sole_writer=True)
    assert path.read_text() == "after" and os.listdir(path.parent) == ["file.txt"]


def test_two_writers_never_mix(path: Path) -> None:
    both = threading.Barrier(2)

    def write(letter: bytes) -> None:
        with replacing(path) as file:
            for _ in range(50):
                both.wait()
                file.write(letter * 1000)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = path.read_bytes()
    assert len(found) == 50_000 and len(set(found)) == 1
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640, 0o777, 0o400])
def test_permissions_are_kept(path: Path, mode: int) -> None:
    path.chmod(mode)
    with replacing(path) as file:
        file.write(b"after")
        (temporary,) = (other for other in path.parent.iterdir() if other != path)
        assert stat.S_IMODE(temporary.stat().st_mode) == mode, "a secret is never readable for long"
    assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_text() == "after"


def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "new", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_a_link_is_replaced_and_what_it_names_is_not(path: Path) -> None:
    link = path.parent / "link"
    link.symlink_to(path)
    replace_file(link, "after")
    assert not link.is_symlink() and link.read_text() == "after" and path.read_text() == "before"


def test_json_is_readable_and_holds_every_string(tmp_path: Path) -> None:
    value = {"name": "Zoë \ud800", "list": [1, None]}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text("ascii")
    assert json.loads(text) == value and text.endswith("]\n}\n") and '\n "list"' in text
    write_json(tmp_path / "a.json", [1], indent=2)
    assert (tmp_path / "a.json").read_text() == "[\n  1\n]\n"


def test_a_name_beside_is_free_and_is_cleared(path: Path) -> None:
    with beside(path) as one, beside(path) as other:
        assert one != other and one.parent == other.parent == path.parent
        one.write_text("left behind")
    assert unchanged(path)
