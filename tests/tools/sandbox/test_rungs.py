"""The ladder: every rung that this machine has holds against the same list of attempts; those that
it has not are skipped, with the reason.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from unprivileged import run_python

from ossia.errors import SandboxError
from ossia.tools.sandbox import Job, Limits, choose, ladder, run, selftest
from ossia.tools.sandbox.best import Found, find
from ossia.tools.sandbox.bubblewrap import Bubblewrap
from ossia.tools.sandbox.engines import Engine
from ossia.tools.sandbox.interpreter import interpreter
from ossia.tools.sandbox.landlock import Sandlock
from ossia.tools.sandbox.rung import Rung, resource_limits
from ossia.tools.sandbox.unsafe import Unsafe

# A session in such a process.
CELLS = """
import json, sys
from ossia.tools import SessionKey, Sessions
from ossia.tools.python import Python
from ossia.tools.sandbox import ladder
rung = {rung.name.split()[0]: rung for rung in ladder()}[sys.argv[1]]
if (missing := rung.missing()) is not None:
    sys.exit(print(json.dumps([missing])))
tool = Python(rung=rung)
sessions = Sessions(SessionKey("alice", "c"))
cells = [
    "import os; x = os.getuid(); open('written', 'w').write('x'); print(os.listdir())",
    "import os; os.remove('written'); x > 0",
    "import os; os._exit(1)",
    "import os, time\\nfor _ in range(100):\\n    if os.fork() == 0: time.sleep(99)",
]
for cell in cells:
    (result,) = sessions.call_all([(tool, "", cell)])
    cells[cells.index(cell)] = result.text
area = tool.session(sessions.key).container.area
below = tool.close()
print(json.dumps([None, *cells, [file.path for file in area.files()]]))
"""
NONE_SUCCEED = dict.fromkeys(selftest.ATTEMPTS, False)
# In a process of another user, as one line of JSON.
ELSEWHERE = """
import json, sys
from ossia.tools.sandbox import ladder, selftest
rung = {rung.name.split()[0]: rung for rung in ladder()}[sys.argv[1]]
missing = rung.missing()
print(json.dumps([missing, missing or selftest.attempts(rung)]))
"""


@pytest.mark.parametrize("rung", ladder(), ids=lambda rung: rung.name)
def test_a_rung_of_this_user_holds(rung: Rung) -> None:
    if (missing := rung.missing()) is not None:
        pytest.skip(f"{rung.name}: {missing.splitlines()[0]}")
    if isinstance(rung, Sandlock) and os.geteuid() == 0:
        pytest.skip("sandlock: tried below, with an interpreter that not only root can read")
    assert selftest.attempts(rung) == NONE_SUCCEED


@pytest.mark.parametrize("as_nobody", [True, False], ids=["nobody", "root"])
@pytest.mark.parametrize("name", ["bubblewrap", "sandlock"])
def test_a_rung_of_another_user_holds(name: str, as_nobody: bool) -> None:
    missing, attempts = json.loads(run_python(ELSEWHERE, name, as_nobody=as_nobody))
    if missing is not None:
        pytest.skip(f"{name}: {missing.splitlines()[0]}")
    assert attempts == NONE_SUCCEED


@pytest.mark.parametrize("as_nobody", [True, False], ids=["nobody", "root"])
@pytest.mark.parametrize("name", ["bubblewrap", "sandlock"])
def test_a_session_in_every_rung(name: str, as_nobody: bool) -> None:
    missing, *found = json.loads(run_python(CELLS, name, as_nobody=as_nobody))
    if missing is not None:
        pytest.skip(f"{name}: {missing.splitlines()[0]}")
    listed, kept, died, forked, files = found
    assert listed == "['written']\n" and kept == "True\n"
    assert "(the interpreter died)" in died
    assert "BlockingIOError" in forked
    assert files == []


def test_without_a_sandbox_the_attempts_succeed() -> None:
    """So the list tests something. What needs privileges may fail for a user."""
    found = selftest.attempts(Unsafe(interpreter()), Limits(processes=1000))
    certain = ("reads_secret", "writes_outside", "reaches_network", "reaches_sockets")
    certain += ("changes_modes", "forks_a_hundred", "signals_parent", "is_privileged")
    assert [name for name in certain if not found[name]] == []


class Leaky(Unsafe):
    name = "leaky"
    is_watched = False  # or it would be ended before it can say what it did


def test_the_ladder_is_climbed_down_until_one_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    best = find.__wrapped__()
    if best.rung is None:
        pytest.skip("nothing here confines")
    leaky = Leaky(interpreter())
    absent = Engine("no-such-engine")
    monkeypatch.setattr("ossia.tools.sandbox.best.ladder", lambda _: (absent, leaky, best.rung))
    found = find.__wrapped__()
    assert found.rung is best.rung
    (first, missing), (second, leak) = found.refused
    assert (first, missing) == ("no-such-engine", "no-such-engine is not installed")
    assert second == "leaky" and leak.startswith("confined code reads secret, writes outside")
    assert found.described.splitlines()[0].startswith(best.rung.name)


def test_nothing_confines(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    nothing = Found(None, (("docker", "docker is not installed"),))
    monkeypatch.setattr("ossia.tools.sandbox.best.find", lambda _: nothing)
    with pytest.raises(SandboxError, match=r"docker is not installed(.|\n)*--python-unsafe"):
        choose()
    assert nothing.described.startswith("none: code is not run")
    assert choose(unsafe=True).name == "unsafe"
    assert "WITHOUT a sandbox" in caplog.text


def test_reasons_against_rungs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = interpreter()
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    for rung in (Bubblewrap(python), Sandlock(python)):
        if (missing := rung.missing()) is not None and "installed" not in missing:
            assert "no system call filter for riscv64" in missing
    monkeypatch.undo()
    monkeypatch.setattr("platform.release", lambda: "6.8.0-generic")
    assert "6.12 or newer" in str(Sandlock(python).missing()) or _absent("sandlock")
    old = Bubblewrap(python)
    old.__dict__.update(program="/usr/bin/bwrap", version=(0, 6, 1))
    assert old.missing() == "bwrap 0.6.1 is too old: 0.8 or newer is needed"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install the package bubblewrap" in str(Bubblewrap(python).missing())


def _absent(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is None


def test_ubuntu_is_told_its_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setting = tmp_path / "setting"
    setting.write_text("1\n")
    monkeypatch.setattr("ossia.tools.sandbox.bubblewrap.APPARMOR", setting)
    rung = Bubblewrap(interpreter(), as_root=False)
    rung.__dict__.update(program="/usr/bin/bwrap", version=(0, 9, 0))
    assert "profile bwrap /usr/bin/bwrap flags=(unconfined)" in str(rung.missing())


def test_a_container_engine_is_asked_for_everything(tmp_path: Path) -> None:
    job = Job(("python3", "x.py"), (tmp_path / "x.py",), tmp_path, Limits(memory=7 << 20))
    argv = Engine("docker").launch(job).argv
    line = " ".join(argv)
    for words in (
        "docker run -i --rm",
        "--pull never --network none --read-only --cap-drop ALL",
        "--security-opt no-new-privileges --memory 7340032 --memory-swap 7340032",
        "--pids-limit 64",
        f"source={tmp_path},target=/mnt/data",
        "target=/run/ossia/x.py,readonly",
        "--ulimit core=0",
    ):
        assert words in line
    assert argv[argv.index("--user") + 1].split(":")[0] != "0"
    assert argv[-3:] == ["python:3.12-slim", "python3", "x.py"]


def test_a_container_engine_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "podman"
    fake.write_text("#!/bin/sh\necho 'cannot connect' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert Engine("podman").missing() == "podman does not answer: cannot connect"
    fake.write_text('#!/bin/sh\n[ "$1" = info ]\n')
    assert Engine("podman").missing() == "the image is not here: podman pull python:3.12-slim"


def test_memory_of_many_processes_is_bounded_by_the_watch_alone() -> None:
    """No limit of one process stands in the way of a library that reserves much."""
    limits = resource_limits(Limits())
    assert limits["AS"] > 8 << 30 and limits["CORE"] == 0 and limits["NPROC"] == 64
    assert "NPROC" not in resource_limits(Limits(), processes=False)


def test_an_interpreter_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="is not a Python that runs"):
        interpreter(str(tmp_path / "python"))


def test_a_command_with_an_input_and_a_status() -> None:
    rung = find().rung
    if rung is None:
        pytest.skip("nothing here confines")
    code = "import sys; print(sys.stdin.read()[::-1]); print('no', file=sys.stderr); sys.exit(3)"
    ran = run(rung, Job((rung.python, "-I", "-S", "-c", code)), seconds=60, given=b"olleh")
    assert (ran.out, ran.err, ran.status, ran.reason) == ("hello\n", "no\n", 3, None)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import time; time.sleep(1000)", "time limit"),
        # with its streams closed, it cannot be heard ending
        ("import os, time; os.closerange(0, 3); time.sleep(1000)", "time limit"),
        ("x = bytearray(300 << 20); import time; time.sleep(1000)", "memory limit"),
    ],
)
def test_a_command_that_is_ended(code: str, reason: str) -> None:
    rung = find().rung
    if rung is None:
        pytest.skip("nothing here confines")
    job = Job((rung.python, "-I", "-S", "-c", code), limits=Limits(memory=200 << 20))
    seconds = 60.0 if reason == "memory limit" else 0.3
    assert run(rung, job, seconds=seconds).reason == reason


def test_a_command_that_is_interrupted() -> None:
    rung = find().rung
    if rung is None:
        pytest.skip("nothing here confines")
    job = Job((rung.python, "-I", "-S", "-c", "import time; time.sleep(1000)"))
    assert run(rung, job, seconds=60.0, interrupted=lambda: True).reason == "interrupted"
