"""Rewards on two processes that train together, each of which samples its share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
from rl_runs import config_of, files_of, learned, log_of, task
from two_processes import launch

pytestmark = pytest.mark.slow

STEPS = ("steps=8", "sampling.groups=5", "save_every=2", "hyper.peak_lr=3e-3")
WAYS = {
    "fsdp": ("parallel.fsdp=2",),
    "ep": ("parallel.ep=2",),
    "tp": ("parallel.tp=2",),
    "updates": ("parallel.fsdp=2", "objective.updates=2", "objective.loss=clip"),
}


@pytest.fixture(scope="module")
def folder(four: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    given = [f"data={task(folder, 'gold')}", *STEPS]
    tasks = []
    for name, way in WAYS.items():
        run = {"do": "rewards", "model": str(four), "settings": [*given, *way]}
        tasks.append(run | {"out": str(folder / name)})
    cut = tasks[0] | {"out": str(folder / "cut")}
    tasks += [cut | {"stop_after": 3}, cut]
    launch(folder, 2, tasks)
    learned(config_of(four, *given), folder / "alone")
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_each_process_samples_its_share(way: str, folder: Path) -> None:
    """Before the first update as one process would, to the byte; afterwards as well as that."""
    first = "rollouts/000000.jsonl"
    log = log_of(folder / way)
    assert len(log) == len(files_of(folder / way)) == 8
    if way == "updates":  # another objective: the file says so
        rows = [folder / name / "train" / first for name in (way, "alone")]
        ours, theirs = ([*map(json.loads, row.read_text().splitlines())] for row in rows)
        assert [line["segments"] for line in ours] == [line["segments"] for line in theirs]
    else:
        assert files_of(folder / way, first) == files_of(folder / "alone", first)
    assert all(line["mismatch_largest"] < 1e-4 for line in log if "mismatch_largest" in line)
    assert log[0]["gradient_norm"] == pytest.approx(
        log_of(folder / "alone")[0]["gradient_norm"], rel=1e-4
    )
    assert log[-1]["correct"] > 0.9 > log[0]["correct"]


def test_what_was_interrupted_ends_with_the_same_bytes(folder: Path) -> None:
    assert files_of(folder / "cut") == files_of(folder / "fsdp")
    weights = [
        safetensors.torch.load_file(folder / name / "train" / "weights.safetensors")
        for name in ("cut", "fsdp")
    ]
    assert all(weights[0][name].equal(value) for name, value in weights[1].items())


def test_the_first_process_may_have_actors(folder: Path, four: Path) -> None:
    """All then have what each would have sampled itself."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ossia[ray]'")
    settings = [f"data={folder / 'task.jsonl'}", *STEPS, *WAYS["fsdp"], "actors.count=1"]
    out = folder / "actors"
    run = {"do": "rewards", "model": str(four), "settings": settings, "out": str(out)}
    launch(folder / "launched", 2, [run])
    assert files_of(out) == files_of(folder / "fsdp")
    assert len(files_of(out)) == 8
