"""Control groups: where they are looked for, what is written, and, where this machine lets us make
one, that the kernel keeps the limit.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ossia.tools.sandbox import cgroup

MB = 1 << 20


class Tree:
    """A folder in place of the kernel's. A group that is made in one of its groups has files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[Path, tuple[str, ...]] = {}

    def own(self, text: str) -> None:
        (self.root / "own").write_text(text)

    def has(self, group: str, *files: str) -> Path:
        path = self.root / "cgroup" / group
        os.makedirs(path, exist_ok=True)
        self.files[path] = (*files, "cgroup.procs")
        return path


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    made = Tree(tmp_path)
    mkdir = Path.mkdir

    def filled(self: Path) -> None:
        mkdir(self)
        for name in made.files.get(self.parent, ()):
            (self / name).touch()

    monkeypatch.setattr(cgroup, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(cgroup, "OWN", tmp_path / "own")
    monkeypatch.setattr(Path, "mkdir", filled)
    return made


@pytest.mark.parametrize("uid", [1000, 0])
def test_the_second_version_is_made_beside_a_group_with_processes(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, uid: int
) -> None:
    """A group that has processes has no groups with a memory controller in it. Root, who may write
    everywhere, stays in its own unless the one around it was handed over.
    """
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    tree.own("0::/user/ossia/main\n")
    tree.has("user/ossia/main", "pids.max")
    files = ("memory.max", "memory.swap.max", "memory.oom.group", "memory.events")
    around = tree.has("user/ossia", *files)
    if uid == 0:
        assert cgroup.make(7 * MB) is None
        monkeypatch.setattr(os, "getxattr", lambda path, name: b"1")
    group = cgroup.make(7 * MB)
    assert group is not None and group.path.parent == around
    written = {name: (group.path / name).read_text() for name in ("memory.max", "memory.swap.max")}
    assert written == {"memory.max": str(7 * MB), "memory.swap.max": "0"}
    assert (group.path / "memory.oom.group").read_text() == "1"
    assert not group.is_exceeded()
    (group.path / "memory.events").write_text("low 0\noom 3\noom_kill 1\noom_group_kill 1\n")
    assert group.is_exceeded()


def test_the_first_version(tree: Tree) -> None:
    tree.own("5:cpu,cpuacct:/\n4:memory:/jobs/1\n0::/\n")
    files = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    own = tree.has("memory/jobs/1", *files)
    group = cgroup.make(7 * MB)
    assert group is not None and group.path.parent == own
    assert (group.path / "memory.memsw.limit_in_bytes").read_text() == str(7 * MB)
    (group.path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    assert not group.is_exceeded()


def test_without_accounting_of_swap_there_is_none(tree: Tree) -> None:
    tree.own("4:memory:/\n")
    tree.has("memory", "memory.limit_in_bytes", "memory.swappiness")
    group = cgroup.make(7 * MB)
    assert group is not None
    assert (group.path / "memory.swappiness").read_text() == "0"


def test_where_none_may_be_made(tree: Tree) -> None:
    assert cgroup.make(MB) is None  # no /proc
    tree.own("0::/nowhere/at/all\n")
    assert cgroup.make(MB) is None
    tree.own("0::/plain\n")
    tree.has("plain", "pids.max")  # no memory controller
    assert cgroup.make(MB) is None


def test_the_kernel_keeps_the_limit() -> None:
    group = cgroup.make(64 * MB)
    if group is None:
        pytest.skip("no control group may be made here")
    code = "import sys; x = bytearray(int(sys.argv[1])); x[::4096] = b'x' * len(x[::4096])"
    command = group.entering([sys.executable, "-I", "-S", "-c", code])
    try:
        assert subprocess.run([*command, str(16 * MB)]).returncode == 0
        assert not group.is_exceeded()
        assert subprocess.run([*command, str(256 * MB)]).returncode != 0
        assert group.is_exceeded()
    finally:
        group.end()
    assert not group.path.exists()


def test_what_is_left_in_a_group_is_ended() -> None:
    group = cgroup.make(64 * MB)
    if group is None:
        pytest.skip("no control group may be made here")
    with subprocess.Popen(group.entering(["/bin/sleep", "1000"])) as process:
        while process.pid not in group.processes():
            assert process.poll() is None
        group.end()
        assert process.wait(10) == -9
    assert not group.path.exists()
