"""Phases: done once, resumed, locked, refused when their settings changed; and their times."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pipeline_toy import TOY, Config, phases, toy_run

from ossia.errors import ConfigError, TrainingError
from ossia.train.loop import train
from ossia.train.pipeline import Phase, run_pipeline, state_of, training, watchers_of
from ossia.train.run import Run, StepReport
from ossia.train.settings import Parallel


class Worker:
    """Phases that note when they ran, and fail when they are told to."""

    def __init__(self, out: Path) -> None:
        self.out, self.ran, self.fail = out, list[str](), set[str]()

    def phase(self, name: str, **more: Any) -> Phase:
        return Phase(name, f"Do {name}.", self.work(name), **more)

    def work(self, name: str) -> Callable[[], None]:
        def run() -> None:
            self.ran.append(name)
            (self.out / name / "result").write_text(name)
            if name in self.fail:
                raise TrainingError(f"{name} failed")

        return run


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path / "out")


def read(path: Path) -> dict[str, Any]:
    data = json.loads(path.read_text())
    assert isinstance(data, dict)
    return data


def test_phases_run_in_order_once(worker: Worker) -> None:
    todo = [worker.phase("first", tokens=5), worker.phase("second")]
    told: list[tuple[str, str]] = []
    for _ in range(2):
        outcomes = run_pipeline(
            todo,
            worker.out,
            settings={"a": 1},
            tell=lambda phase, what: told.append((phase.name, what)),
        )
    assert worker.ran == ["first", "second"]
    assert told == [("first", "begins"), ("first", "done"), ("second", "begins"),
        ("second", "done"),
                    ("first", "skipped"), ("second", "skipped")]  # fmt: skip
    assert [(o.name, o.skipped) for o in outcomes] == [("first", True), ("second", True)]
    done = read(worker.out / "first" / "done.json")
    assert done["phase"] == "first" and done["config"] == {"a": 1} and done["does"] == "Do first."
    noted = read(worker.out / "pipeline.json")
    assert [(p["name"], p["state"], p["tokens"]) for p in noted["phases"]] == [
        ("first", "done", 5),
        ("second", "done", 0),
    ]
    assert noted["total_seconds"] == pytest.approx(
        sum(p["seconds"] for p in noted["phases"]), abs=1e-3
    )


def test_a_phase_that_failed_is_gone_on_with_and_its_time_adds_up(worker: Worker) -> None:
    todo = [worker.phase("first"), worker.phase("second")]
    worker.fail = {"second"}
    with pytest.raises(TrainingError, match="second failed"):
        run_pipeline(todo, worker.out)
    assert [state_of(phase, worker.out) for phase in todo] == ["done", "unfinished"]
    started = worker.out / "second" / "started.json"
    began = read(started)["began"]
    # it worked for 40 seconds, then was killed
    os.utime(worker.out / "second" / "result", (began + 40, began + 40))
    worker.fail = set()
    outcomes = run_pipeline(todo, worker.out)
    assert worker.ran == ["first", "second", "second"] and not started.exists()
    assert outcomes[0].skipped and 40 <= outcomes[1].seconds < 60
    assert read(worker.out / "pipeline.json")["phases"][1]["seconds"] == outcomes[1].seconds


def test_an_unfinished_run_is_gone_on_with_only_if_that_is_meant(worker: Worker) -> None:
    todo = [worker.phase("first"), worker.phase("second")]
    worker.fail = {"second"}
    with pytest.raises(TrainingError):
        run_pipeline(todo, worker.out, resume=False)
    worker.fail = set()
    with pytest.raises(
        ConfigError, match=r"1 of 2 phases are done, second is next.*--resume.*--fresh.*--out"
    ):
        run_pipeline(todo, worker.out, resume=False)
    assert worker.ran == ["first", "second"]
    run_pipeline(todo, worker.out, resume=True)
    run_pipeline(todo, worker.out, resume=False)  # nothing is left to do: nothing to ask
    assert worker.ran == ["first", "second", "second"]


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_by_name(finished: bool, worker: Worker) -> None:
    if not finished:
        worker.fail = {"first"}
        with pytest.raises(TrainingError):
            run_pipeline(
                [worker.phase("first")],
                worker.out,
                settings={"rate": 0.1, "old": None, "same": [1, 2]},
            )
    else:
        run_pipeline(
            [worker.phase("first")], worker.out, settings={"rate": 0.1, "old": None, "same": [1, 2]}
        )
    ran = list(worker.ran)
    with pytest.raises(ConfigError) as caught:
        run_pipeline(
            [worker.phase("first")], worker.out, settings={"rate": 0.2, "new": "x", "same": (1, 2)}
        )
    said = str(caught.value)
    for part in ("was done" if finished else "was begun", "rate was 0.1 and is 0.2",
        'new was not there and is "x"',
                 "old was null and is not there", "--fresh", "--out"):  # fmt: skip
        assert part in said
    assert "same" not in said and worker.ran == ran


def test_settings_under_the_names_of_an_earlier_version_are_the_same(worker: Worker) -> None:
    """0.1.0 stored the optimizer as a flag."""
    run_pipeline([worker.phase("first", settings={"hyper.muon": True})], worker.out)
    now = worker.phase("first", settings={"hyper.optimizer": "muon"})
    assert [outcome.skipped for outcome in run_pipeline([now], worker.out)] == [True]
    other = worker.phase("first", settings={"hyper.optimizer": "adamw"})
    with pytest.raises(ConfigError, match=r'hyper.optimizer was "muon" and is "adamw"'):
        run_pipeline([other], worker.out)


def test_a_phase_s_own_settings_count_alone(worker: Worker) -> None:
    run_pipeline([worker.phase("first", settings={"b": 2})], worker.out, settings={"a": 1})
    run_pipeline([worker.phase("first", settings={"b": 2})], worker.out, settings={"a": 3})
    assert worker.ran == ["first"]


def test_fresh_deletes_phases_and_nothing_else(worker: Worker) -> None:
    run_pipeline([worker.phase("first"), worker.phase("gone")], worker.out, settings={"a": 1})
    (worker.out / "notes.txt").write_text("mine")
    (worker.out / "mine").mkdir()
    # where a new phase will work, but no phase has yet
    (worker.out / "mine" / "photo").write_text("")
    run_pipeline(
        [worker.phase("first"), worker.phase("mine")], worker.out, settings={"a": 2}, fresh=True
    )
    assert worker.ran == ["first", "gone", "first", "mine"]
    assert (worker.out / "notes.txt").exists() and (worker.out / "mine" / "photo").exists()
    assert not (worker.out / "gone").exists()


def test_a_folder_of_other_things_is_left_alone(worker: Worker) -> None:
    worker.out.mkdir()
    (worker.out / "thesis.tex").write_text("")
    for fresh in (False, True):
        with pytest.raises(ConfigError, match=r"holds thesis\.tex, and no run"):
            run_pipeline([worker.phase("first")], worker.out, fresh=fresh)
    assert not worker.ran and (worker.out / "thesis.tex").exists()


def test_a_run_of_another_recipe_is_left_alone(worker: Worker) -> None:
    """Nor does the error propose to go on with it, or to delete it."""
    run_pipeline([worker.phase("first"), worker.phase("second")], worker.out)
    for resume in (False, True):
        with pytest.raises(
            ConfigError, match=r"another recipe, with the phases first, second: give another --out$"
        ):
            run_pipeline([worker.phase("merge")], worker.out, resume=resume)
    assert worker.ran == ["first", "second"] and not (worker.out / "merge").exists()
    assert [phase["name"] for phase in read(worker.out / "pipeline.json")["phases"]] == [
        "first",
        "second",
    ]


def test_two_runs_do_not_share_a_folder(worker: Worker) -> None:
    inside: list[str] = []

    def again() -> None:
        with pytest.raises(TrainingError, match=f"in use by process {os.getpid()} on ") as caught:
            run_pipeline([worker.phase("first")], worker.out)
        inside.append(str(caught.value))

    run_pipeline([Phase("outer", "Try another run.", again)], worker.out)
    assert inside and not worker.ran
    run_pipeline([Phase("outer", "Try another run.", again)], worker.out)  # the lock is let go


def test_missing_files_are_named_before_anything_begins(worker: Worker, tmp_path: Path) -> None:
    missing = (tmp_path / "a.jsonl", tmp_path / "b")
    with pytest.raises(
        TrainingError, match=r"a\.jsonl \(for phase second\); .*b \(for phase second\)"
    ):
        run_pipeline([worker.phase("first"), worker.phase("second", needs=missing)], worker.out)
    assert not worker.ran and not worker.out.exists()


@pytest.mark.parametrize("names", [["a", "a"], [], ["../up"], ["a/b"], [".hidden"]])
def test_names_become_folders(names: list[str], worker: Worker) -> None:
    with pytest.raises(ConfigError, match=r"two phases are called|no phases|becomes a folder"):
        run_pipeline([worker.phase(name) for name in names], worker.out)


def test_a_full_disk_leaves_what_was_there(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    run_pipeline([worker.phase("first")], worker.out)
    before = (worker.out / "pipeline.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        TrainingError, match=r"cannot be written \(No space left on device\); make room"
    ):
        run_pipeline([worker.phase("first"), worker.phase("second")], worker.out)
    monkeypatch.undo()
    assert (worker.out / "pipeline.json").read_bytes() == before and worker.ran == ["first"]
    run_pipeline([worker.phase("first"), worker.phase("second")], worker.out)
    assert worker.ran == ["first", "second"]


def test_a_disk_that_fills_inside_a_phase_is_said(worker: Worker) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(TrainingError, match=r"second: cannot be written .*; make room, then go on"):
        run_pipeline([worker.phase("first"), replace(worker.phase("second"), run=full)], worker.out)
    run_pipeline([worker.phase("first"), worker.phase("second")], worker.out, resume=True)
    assert worker.ran == ["first", "second"]


def test_a_damaged_record_is_said(worker: Worker) -> None:
    run_pipeline([worker.phase("first")], worker.out)
    (worker.out / "first" / "done.json").write_text("{")
    with pytest.raises(TrainingError, match=r"done\.json: cannot be read"):
        run_pipeline([worker.phase("first")], worker.out)
    (worker.out / "pipeline.json").write_text("{")
    with pytest.raises(
        TrainingError, match=r"pipeline\.json: cannot be read .* or begin again with --fresh"
    ):
        run_pipeline([worker.phase("first")], worker.out)
    run_pipeline([worker.phase("first")], worker.out, fresh=True)
    assert (
        worker.ran == ["first", "first"]
        and read(worker.out / "pipeline.json")["phases"][0]["state"] == "done"
    )


# ---- several processes ---------------------------------------------------------------------------


def test_other_processes_wait_for_what_the_first_does_alone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    (worker.out / "alone").mkdir(parents=True)
    (worker.out / "both").mkdir()
    looks = 0

    def first_process(seconds: float) -> None:
        nonlocal looks
        looks += 1
        assert worker.ran == []
        if looks < 3:
            return
        (worker.out / "alone" / "done.json.tmp").write_text(json.dumps({"seconds": 1.0}))
        (worker.out / "alone" / "done.json.tmp").rename(worker.out / "alone" / "done.json")

    monkeypatch.setattr("ossia.train.pipeline.time.sleep", first_process)
    run_pipeline([worker.phase("alone"), worker.phase("both", together=True)], worker.out)
    assert worker.ran == ["both"] and looks == 3
    assert (
        not (worker.out / "pipeline.json").exists()
        and not (worker.out / "both" / "done.json").exists()
    )


def test_fresh_is_not_for_many_processes(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="before torchrun"):
        run_pipeline([worker.phase("first")], worker.out, fresh=True)


def test_a_wrong_number_of_processes_is_said_before_anything_begins(worker: Worker) -> None:
    with pytest.raises(
        ConfigError,
        match="over 4 processes, and this is one of 1: start the run with `torchrun --npro",
    ):
        run_pipeline(
            [worker.phase("first"), worker.phase("spread", parallel=Parallel(fsdp=2, tp=2))],
            worker.out,
        )
    assert not worker.ran and not worker.out.exists()


# ---- training ------------------------------------------------------------------------------------


def test_training_phases_are_watched_and_described(tmp_path: Path) -> None:
    seen: list[int] = []

    def watch(run: Run) -> list[Callable[[StepReport], None]]:
        assert run.name == "toy"
        return [lambda report: seen.append(report.step)]

    todo = phases(Config(steps=3), tmp_path / "out")
    assert [(p.name, p.tokens, p.config, p.together) for p in todo] == [
        ("numbers", 0, None, False),
        ("pretrain", 3 * 64, TOY, True),
    ]
    run_pipeline(todo, tmp_path / "out", watch=watch)
    assert seen == [1, 2, 3]
    assert watchers_of(toy_run(tmp_path)) == []  # outside of a pipeline nobody watches
    with pytest.raises(ConfigError, match=r"hyper\.peak_lr was 0\.002 and is 0\.5"):
        changed = toy_run(tmp_path / "out" / "pretrain", 3, hyper=type(todo[1].hyper)(peak_lr=0.5))
        run_pipeline([todo[0], training(changed, "Learn.")], tmp_path / "out")


def test_a_phase_that_was_cut_short_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_pipeline(phases(Config(), whole), whole)
    run = toy_run(cut / "pretrain")

    def stop(_: StepReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(
            phases(Config(), cut), cut, watch=lambda _: [lambda r: stop(r) if r.step == 2 else None]
        )
    outcomes = run_pipeline(phases(Config(), cut), cut)
    assert [o.skipped for o in outcomes] == [True, False]
    weights = [(out / "pretrain" / "weights.safetensors").read_bytes() for out in (whole, cut)]
    assert weights[0] == weights[1]
    assert (cut / "numbers" / "number").read_text() == "7\n"
    assert train(run).config == TOY  # what the phase left is what the trainer reads
