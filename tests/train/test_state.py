"""The state on the disk: whole or not at all, of this run or refused, and what happens when there
is no room.
"""

from __future__ import annotations

import errno
import multiprocessing
import resource
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import examples, losses, tiny_run

from ossia.errors import TrainingError
from ossia.train import state as state_module
from ossia.train.log import Log, read_log
from ossia.train.loop import train
from ossia.train.run import StepReport
from ossia.train.settings import Balance
from ossia.train.state import Saver, copied, load_state, save_state
from ossia.train.weights.export import save_weights, start


def test_a_state_comes_back(tmp_path: Path) -> None:
    state = {
        "identity": {"a": 1},
        "step": 3,
        "data": {"file": "x", "at": [1, None]},
        "worker": [torch.randn(3)],
    }
    save_state(tmp_path / "state.pt", state)
    found = load_state(tmp_path / "state.pt", {"a": 1})
    assert (
        found is not None
        and torch.equal(found["worker"].pop(), state["worker"].pop())
        and found == state
    )
    assert load_state(tmp_path / "none.pt", {}) is None


def test_copies_share_no_memory() -> None:
    state = {
        "a": torch.zeros(2),
        "b": [torch.zeros(2, requires_grad=True), (torch.zeros(2), "text")],
        "n": 1,
    }
    copy = copied(state)
    state["a"].add_(1)
    with torch.no_grad():
        state["b"][0].add_(1)
        state["b"][1][0].add_(1)
    assert all(float(t.sum()) == 0 for t in (copy["a"], copy["b"][0], copy["b"][1][0]))
    assert not copy["b"][0].requires_grad and copy["b"][1][1] == "text" and copy["n"] == 1


def test_a_state_of_another_run_is_refused_by_name(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    train(run, stop_after=2)
    others = {
        r"hyper\.peak_lr was 0\.005 and is 1\.0": replace(
            run, hyper=replace(run.hyper, peak_lr=1.0)
        ),
        r"hyper\.balance\.mode was 'aux' and is 'none'": replace(
            run, hyper=replace(run.hyper, balance=Balance(mode="none"))
        ),
        r"config\.sliding_window was 8 and is 16; name was 'tiny' and is 'other'": replace(
            run, name="other", config=replace(run.config, sliding_window=16)
        ),
        r"steps was 6 and is 7": replace(run, steps=7),
    }
    for message, other in others.items():
        with pytest.raises(
            TrainingError, match=f"is of another run: {message}; use another folder"
        ):
            train(other)
    save_weights(start(run), tmp_path / "weights")
    with pytest.raises(
        TrainingError, match=r"another run: start_from was None and is '[0-9a-f]{16}'"
    ):
        train(replace(run, start_from=tmp_path / "weights"))
    train(replace(run, save_every=1))  # changes nothing about the weights


@pytest.mark.parametrize("keep", [0, 1, 1000, -1])
def test_a_damaged_state_is_refused(tmp_path: Path, keep: int) -> None:
    save_state(tmp_path / "state.pt", {"identity": {}, "step": 1, "w": torch.randn(1000)})
    whole = (tmp_path / "state.pt").read_bytes()
    for data in (whole[:keep], b"PK not a state", b"\x80\x02K\x01."):
        (tmp_path / "state.pt").write_bytes(data)
        with pytest.raises(TrainingError, match=r"cannot be read.*delete it"):
            load_state(tmp_path / "state.pt", {})


def test_a_state_of_several_processes_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"several processes.*torchrun"):
        train(tiny_run(tmp_path), stop_after=1)


def test_other_weights_to_start_from_are_noticed(tmp_path: Path) -> None:
    run = replace(tiny_run(tmp_path / "run"), start_from=tmp_path / "from")
    save_weights(start(tiny_run(tmp_path)), tmp_path / "from")
    train(run, stop_after=2)
    shutil.copytree(tmp_path / "from", tmp_path / "elsewhere")
    # the same, in another place
    train(replace(run, start_from=tmp_path / "elsewhere"), stop_after=3)
    save_weights(start(tiny_run(tmp_path, seed=1)), tmp_path / "from")
    with pytest.raises(TrainingError, match="another run: start_from was"):
        train(run)


# ---- no room ----


class FullDisk:
    """A file that takes so many bytes and no more."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        self.room -= memoryview(data).nbytes
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self.file.write(data))

    def flush(self) -> None:
        self.file.flush()


@pytest.mark.parametrize("room", [0, 100, 2000, 70_000])
def test_a_full_disk_keeps_the_old_state(
    tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    old, new = (
        {"identity": {}, "step": 1},
        {"identity": {}, "step": 2, "w": torch.randn(10_000), "v": torch.randn(9000)},
    )
    save_state(path, old)
    save_state(tmp_path / "measured.pt", new)
    real = state_module._Watched
    with monkeypatch.context() as patch:
        patch.setattr(state_module, "_Watched", lambda file: real(FullDisk(file, room)))
        with pytest.raises(TrainingError, match="No space left on device") as caught:
            save_state(path, new)
    needed = int(str(caught.value).split(" bytes are needed")[0].split()[-1].replace(",", ""))
    # the name of the file is in it
    assert abs(needed - (tmp_path / "measured.pt").stat().st_size) < 200
    assert "are free there" in str(caught.value) and "from before is untouched. Make room" in str(
        caught.value
    )
    assert load_state(path, {}) == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["measured.pt", "state.pt"]


def test_errors_that_are_no_disk_errors_pass(tmp_path: Path) -> None:
    with pytest.raises((AttributeError, TypeError)):
        save_state(tmp_path / "state.pt", {"identity": {}, "step": 1, "f": lambda: None})
    assert not list(tmp_path.iterdir())


def limited(out: Path, most: int) -> None:
    """A run in a process of its own, in which no file may be larger than `most` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        train(tiny_run(out, steps=12, save_every=2))
    except TrainingError as error:
        (out / "error").write_text(str(error))


def in_a_process(function: Any, *args: Any) -> int | None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ossia.train.loop", "torch._dynamo"])
    process = context.Process(target=function, args=args)
    process.start()
    process.join(120)
    assert process.exitcode is not None, "still running"
    return process.exitcode


def test_a_run_out_of_room_says_so_and_goes_on_later(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", steps=12)
    train(run, stop_after=3)
    whole = tiny_run(tmp_path / "whole", steps=12)
    train(whole)
    good = (run.out / "state.pt").read_bytes()
    assert in_a_process(limited, run.out, len(good) // 2) == 0
    message = (run.out / "error").read_text()
    assert (
        "state.pt: cannot be written (File too large)" in message and "bytes are needed" in message
    )
    assert f"{len(good):,}"[:3] in message and "Make room" in message
    assert (run.out / "state.pt").read_bytes() == good
    assert sorted(p.name for p in run.out.iterdir()) == ["error", "log.jsonl", "state.pt"]
    train(run)
    assert losses(run.out) == losses(whole.out)
    assert (run.out / "weights.safetensors").read_bytes() == (
        whole.out / "weights.safetensors"
    ).read_bytes()


def test_no_room_for_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is there already: the run, called again, writes the weights."""
    run = tiny_run(tmp_path, steps=3)
    real = state_module._Watched

    def watched(file: Any) -> Any:
        return real(FullDisk(file, 1000) if "weights" in Path(file.name).name else file)

    with monkeypatch.context() as patch:
        patch.setattr(state_module, "_Watched", watched)
        with pytest.raises(TrainingError, match=r"weights\.safetensors: cannot be written"):
            train(run)
    assert not (tmp_path / "weights.safetensors").exists() and not list(tmp_path.glob("*.tmp"))
    train(run, watchers=[lambda report: pytest.fail("a step was taken again")])
    assert (tmp_path / "weights.safetensors").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB, where the system lets us have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount command")
def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    run = tiny_run(small_disk, steps=8, optimizer="adamw")
    with pytest.raises(
        TrainingError, match=r"state\.pt: cannot be written \(No space left on device\)"
    ):
        train(run)
    assert not list(small_disk.glob("*.tmp"))


# ---- while training goes on ----


def test_saving_does_not_hold_up_training_nor_see_its_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first save waits until two more steps have been taken; the state it writes is still that
    of its step.
    """
    train(tiny_run(tmp_path / "plain", steps=6), stop_after=2)
    expected = torch.load(tmp_path / "plain" / "state.pt")["worker"]["model"]
    gate, real, written = threading.Event(), save_state, []

    def slow(path: Path, state: dict[str, Any]) -> None:
        assert gate.wait(60)
        written.append(state)
        real(path, state)

    def watch(report: StepReport) -> None:
        if report.step == 4:
            assert not written
            gate.set()

    monkeypatch.setattr(state_module, "save_state", slow)
    train(tiny_run(tmp_path / "run", steps=6), watchers=[watch])
    assert [state["step"] for state in written] == [2, 4, 6, 6] and "finished" in written[-1]
    assert all(torch.equal(p, expected[name]) for name, p in written[0]["worker"]["model"].items())


def test_an_error_in_the_writing_thread_stops_the_run_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, state: dict[str, Any]) -> None:
        raise TrainingError(f"no room for step {state['step']}")

    monkeypatch.setattr(state_module, "save_state", fail)
    with pytest.raises(TrainingError, match="no room for step 2"):
        train(
            tiny_run(tmp_path, steps=100),
            watchers=[lambda report: threading.Event().wait(0.02) and None],
        )
    assert len(losses(tmp_path)) < 10


def test_what_a_closed_saver_leaves(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    assert saver.load({}) is None
    saver.write({"identity": {}, "step": 5})
    saver.wait()
    saver.close()
    assert load_state(tmp_path / "state.pt", {}) == {"identity": {}, "step": 5}


# ---- the log ----


def test_a_log_that_was_cut_short_can_be_read_and_continued(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, steps=6)
    train(run, stop_after=3)
    lines = (tmp_path / "log.jsonl").read_text()
    (tmp_path / "log.jsonl").write_text(
        lines + lines.splitlines()[0].replace('"step": 1', '"step": 4') + "\n" + '{"st'
    )
    assert [entry["step"] for entry in read_log(tmp_path / "log.jsonl")] == [1, 2, 3, 4]
    train(run)
    assert [entry["step"] for entry in read_log(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_lines_from_before_the_first_state_are_forgotten(tmp_path: Path) -> None:
    tmp_path.joinpath("log.jsonl").write_text('{"step": 1, "loss": 9}\n{"step": 2, "loss": 9}\n')
    train(tiny_run(tmp_path, steps=3))
    assert [entry["step"] for entry in read_log(tmp_path)] == [1, 2, 3] and 9 not in losses(
        tmp_path
    )


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"loss": 1}'])
def test_a_damaged_log_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
    with pytest.raises(TrainingError, match=r"log\.jsonl:2: .*delete that line"):
        read_log(tmp_path)
    assert read_log(tmp_path / "none.jsonl") == []


def test_no_room_for_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(tiny_run(tmp_path), examples=examples)
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    monkeypatch.setattr("ossia.train.log._forget_after", lambda path, step: None)
    with pytest.raises(
        TrainingError, match=r"log\.jsonl: cannot be written \(No space left on device\); make room"
    ):
        train(run)


def test_a_log_that_cannot_be_cut_says_so(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    train(run, stop_after=2)
    (tmp_path / "log.jsonl.tmp").mkdir()
    with pytest.raises(
        TrainingError, match=r"log\.jsonl: cannot be written \(Is a directory\); make room"
    ):
        train(run)


def test_a_line_that_is_taken_bit_by_bit_is_whole(tmp_path: Path) -> None:
    """A disk that is nearly full takes less than it is given, and says no error."""

    class Sparing:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            return int(self.file.write(data[:5]))

    log = Log(tmp_path, 0)
    file, log._file = log._file, Sparing(log._file)  # type: ignore[assignment]
    log.write({"step": 1, "loss": 2.5})
    log.write({"step": 2, "loss": 2.25})
    file.close()
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25}]
