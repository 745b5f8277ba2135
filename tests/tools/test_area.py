"""A folder that hostile code writes into: what is read, measured and removed, and what is not."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from ossia.errors import ContainerError
from ossia.tools.area import DEEPEST, Area


@pytest.fixture
def area(tmp_path: Path) -> Area:
    made = Area(tmp_path / "area")
    made.make()
    (tmp_path / "secret").write_text("secret")
    return made


def write(area: Area, path: str, content: bytes = b"x", most: int = 1 << 20) -> None:
    area.write(path, io.BytesIO(content), most)


def test_files_written_read_listed_removed(area: Area) -> None:
    write(area, "b/c.txt", b"hello")
    write(area, "a.txt", b"one")
    write(area, "a.txt", b"two")
    assert [(file.path, file.bytes) for file in area.files()] == [("a.txt", 3), ("b/c.txt", 5)]
    with area.open("a.txt") as file:
        assert file.read() == b"two"
    area.remove("b/c.txt")
    assert [file.path for file in area.files()] == ["a.txt"]
    assert area.path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "path", ["", "/", "..", "../secret", "a/../../secret", "a\0b", "x" * 300, "\ud800"]
)
def test_paths_that_leave_the_area(area: Area, path: str) -> None:
    for call in (area.open, area.remove, lambda path: write(area, path)):
        with pytest.raises(ContainerError):
            call(path)


def test_links_are_not_followed(area: Area, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    (area.path / "file").symlink_to(secret)
    (area.path / "folder").symlink_to(tmp_path)
    (area.path / "self").symlink_to(".")
    assert area.files() == []
    for path in ("file", "folder/secret", "self/file"):
        with pytest.raises(ContainerError):
            area.open(path)
    with pytest.raises(ContainerError):
        write(area, "folder/secret", b"changed")
    write(area, "file", b"mine")  # replaces the link
    assert secret.read_text() == "secret"
    assert not (area.path / "file").is_symlink()
    area.destroy()
    assert secret.exists() and not area.path.exists()


def test_what_is_no_file_is_not_read(area: Area) -> None:
    os.mkfifo(area.path / "pipe")
    (area.path / "folder").mkdir()
    for path in ("pipe", "folder"):
        with pytest.raises(ContainerError, match="is not a file"):
            area.open(path)
    with pytest.raises(ContainerError) as raised:
        area.open("absent")
    assert raised.value.code == "not_found"


def test_too_much_is_not_written(area: Area) -> None:
    write(area, "a", b"old")
    with pytest.raises(ContainerError) as raised:
        write(area, "a", b"x" * 11, most=10)
    assert raised.value.code == "too_large"
    with area.open("a") as file:
        assert file.read() == b"old"
    assert os.listdir(area.path) == ["a"]


def test_what_it_takes(area: Area) -> None:
    write(area, "folder/a", b"x" * 100_000)
    os.link(area.path / "folder" / "a", area.path / "again")
    used = area.usage()
    assert used.entries == 3 and used.bytes >= 200_000
    with open(area.path / "sparse", "wb") as file:
        file.truncate(1 << 30)
    assert area.usage().bytes < 1 << 20, "holes take nothing"
    for n in range(30):
        (area.path / str(n)).touch()
    assert area.usage(most=10).entries == 11, "no more is looked at"


def test_deep_folders(area: Area) -> None:
    """Too deep for a path, a stack or a number of descriptors; some may not be entered."""
    here = os.open(area.path, os.O_RDONLY)
    for n in range(3000):
        os.mkdir("d", 0o700, dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
        if n % 500 == 0:
            os.mkdir("locked", 0o000, dir_fd=here)
    os.close(here)
    assert area.usage(most=100_000).entries > 100_000
    assert area.files() == []
    area.destroy()
    assert not area.path.exists()


def test_the_newest_files_give_way(area: Area) -> None:
    for n, name in enumerate(("old", "middle", "new")):
        write(area, name, b"x" * 100_000)
        os.utime(area.path / name, (n, n))
    area.remove_newest(210_000)
    assert [file.path for file in area.files()] == ["middle", "old"]


def test_depth_of_paths(area: Area) -> None:
    write(area, "/".join("d" * (DEEPEST - 1)) + "/file")
    assert len(area.files()) == 1
    with pytest.raises(ContainerError):
        write(area, "/".join("d" * DEEPEST) + "/file")
