"""Containers: each caller's own, with limits, gone when they have not been used for long."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from ossia.errors import ContainerError
from ossia.tools.containers import ABOUT, Containers, Rules


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def store(root: Path | None, clock: Clock, **rules: int) -> Containers:
    return Containers(root, Rules(**rules), clock=clock)


def refused(containers: Containers, caller: str, id: str) -> str | None:
    with pytest.raises(ContainerError) as raised:
        containers.get(caller, id)
    return raised.value.code


def test_a_caller_sees_its_own(clock: Clock) -> None:
    containers = store(None, clock)
    hers = containers.create("alice", name="report")
    his = containers.create("bob")
    assert [each.id for each in containers.of_caller("alice")] == [hers.id]
    assert containers.get("alice", hers.id) is hers
    assert refused(containers, "bob", hers.id) == "not_found"
    assert refused(containers, "alice", "../" + his.id) == "not_found"
    with pytest.raises(ContainerError):
        containers.delete("bob", hers.id)
    with pytest.raises(ContainerError):
        containers.of("bob", hers.id)


def test_a_conversation_has_one(clock: Clock) -> None:
    containers = store(None, clock)
    first = containers.of("alice", "conv_1")
    assert containers.of("alice", "conv_1") is first and first.automatic
    assert containers.of("bob", "conv_1") is not first
    assert containers.of("alice", first.id) is first, "it may be named"
    assert containers.of("alice", "") is not containers.of("alice", "")


def test_it_expires_and_is_deleted(clock: Clock, tmp_path: Path) -> None:
    containers = store(tmp_path, clock)
    ended: list[str] = []
    containers.before_removal.append(ended.append)
    made = containers.create("alice", expires_after=60)
    made.area.write("a", io.BytesIO(b"x"), 10)
    clock.now += 59
    containers.touch(made)
    clock.now += 59
    assert containers.get("alice", made.id) is made
    clock.now += 2
    assert refused(containers, "alice", made.id) == "expired"
    containers.settle()
    assert ended == [made.id] and list(tmp_path.iterdir()) == []
    assert not containers.lives(made)


def test_nothing_lives_longer_than_the_operator_lets_it(clock: Clock) -> None:
    containers = Containers(None, Rules(expires_after=100.0), clock=clock)
    assert containers.create("alice", expires_after=10_000).expires_after == 100


def test_limits(clock: Clock) -> None:
    containers = store(None, clock, most_per_caller=2, most=3)
    first = containers.of("alice", "conv_1")
    containers.create("alice")
    clock.now += 1
    containers.create("alice")
    assert not containers.lives(first), "what nobody asked for gives way"
    with pytest.raises(ContainerError) as raised:
        containers.create("alice")
    assert raised.value.code == "too_many"
    containers.create("bob")
    with pytest.raises(ContainerError):
        containers.create("carol")


def test_files(clock: Clock) -> None:
    containers = store(None, clock, quota=100_000, files=3)
    made = containers.create("alice")
    written = containers.write(made, "data/a.csv", io.BytesIO(b"1,2"))
    (file,) = containers.files(made)
    assert file == written and file.path == "data/a.csv"
    assert containers.find(made, made.file_id(file.path)) == file
    other = containers.create("alice")
    assert other.file_id(file.path) != made.file_id(file.path)
    with pytest.raises(ContainerError):
        containers.find(made, "cfile_x")
    with pytest.raises(ContainerError) as raised:
        containers.write(made, "big", io.BytesIO(b"x" * 100_001))
    assert raised.value.code == "too_large"
    containers.write(made, "b", io.BytesIO(b""))
    with pytest.raises(ContainerError) as raised:
        containers.write(made, "c", io.BytesIO(b""))
    assert raised.value.code == "too_many"


def test_they_outlive_the_process(clock: Clock, tmp_path: Path) -> None:
    first = store(tmp_path, clock)
    made = first.of("alice", "conv_1")
    first.write(made, "a", io.BytesIO(b"x"))
    first.touch(made, "the server was restarted")
    deleted = first.create("alice")
    (tmp_path / deleted.id).rename(tmp_path / f"gone-{deleted.id}")
    (tmp_path / "something else").mkdir()
    clock.now += 10
    first.touch(made, made.lost)
    second = store(tmp_path, clock)
    found = second.of("alice", "conv_1")
    assert (found.id, found.lost) == (made.id, "the server was restarted")
    assert (found.active, found.created) == (clock.now, clock.now - 10)
    assert [file.path for file in second.files(found)] == ["a"]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {made.id, "something else"}


@pytest.mark.parametrize(
    "damage",
    [
        {"expires_after": "long"},
        {"expires_after": None},
        {"created": {}},
        {"memory": "1g"},
        {"uploaded": "a"},
        {"given": [1]},
        {"caller": 3},
        {"expires_after": float("nan")},
    ],
    ids=repr,
)
def test_what_is_damaged_on_the_disk_is_no_container(
    clock: Clock, tmp_path: Path, damage: dict[str, Any]
) -> None:
    """And is in nobody's way."""
    first = store(tmp_path, clock)
    whole = first.create("alice")
    other = first.create("alice")
    about = tmp_path / other.id / ABOUT
    about.write_text(json.dumps(json.loads(about.read_text()) | damage))
    second = store(tmp_path, clock)
    assert [each.id for each in second.of_caller("alice")] == [whole.id]
    second.create("alice")


def test_a_temporary_root_is_removed(clock: Clock) -> None:
    containers = store(None, clock)
    containers.create("alice")
    root = containers.root
    assert root.exists()
    del containers
    assert not root.exists()
