"""Killed at a random moment, a run goes on to the same bits: weights, losses, everything that has a
state.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import pytest
import torch
from training_runs import everything_on, losses, tiny_run, train_slowly

from ossia.errors import TrainingError
from ossia.train.loop import train


def started(out: Path, steps: int) -> BaseProcess:
    """The run in a process of its own, which has the modules already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ossia.train.loop", "torch._dynamo"])
    process = context.Process(target=train_slowly, args=(out, steps))
    process.start()
    return process


def lines(out: Path) -> int:
    log = out / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def kill_after(process: BaseProcess, out: Path, step: int, rng: Random) -> None:
    """SIGKILL, some moment after the run has got to `step`."""
    deadline = time.monotonic() + 120
    while lines(out) < step:
        assert process.is_alive() and time.monotonic() < deadline, process.exitcode
        time.sleep(0.002)
    time.sleep(rng.random() * 0.05)
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, "the run was over before it could be killed"


def check_kills(tmp_path: Path, kills: int, steps: int, seed: int) -> None:
    rng = Random(seed)
    out, whole = tmp_path / "killed", tmp_path / "whole"
    for step in sorted(rng.sample(range(1, steps - 6), kills)):
        kill_after(started(out, steps), out, step, rng)
        assert not (out / "weights.safetensors").exists()
    for folder in (out, whole):
        process = started(folder, steps)
        process.join(240)
        assert process.exitcode == 0
    assert losses(out) == losses(whole) and len(losses(out)) == steps
    assert (out / "weights.safetensors").read_bytes() == (
        whole / "weights.safetensors"
    ).read_bytes()
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in whole.iterdir())


@pytest.mark.slow
def test_a_run_killed_three_times_ends_with_the_same_bits(tmp_path: Path) -> None:
    check_kills(tmp_path, 3, 16, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_a_run_killed_ten_times_ends_with_the_same_bits(tmp_path: Path, seed: int) -> None:
    check_kills(tmp_path, 10, 40, seed)


@pytest.mark.parametrize("at", [1, 3, 4])
def test_stopped_and_resumed_the_whole_state_is_the_same(tmp_path: Path, at: int) -> None:
    """Not the weights alone: the optimizers' momenta, the average, the biases, where the data
    stands.
    """
    train(everything_on(tmp_path / "whole", 20), stop_after=7)
    train(everything_on(tmp_path / "stopped", 20), stop_after=at)
    train(everything_on(tmp_path / "stopped", 20), stop_after=7)
    whole, stopped = (torch.load(tmp_path / name / "state.pt") for name in ("whole", "stopped"))
    assert same(whole, stopped)
    assert whole["data"]["seen"] > 7 and any(
        float(b.abs().sum()) > 0 for b in whole["worker"]["balancer"]["biases"].values()
    )


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("hyper", [{"optimizer": "adamw"}, {"precision": "bfloat16", "shards": 3}])
def test_other_settings_resume_too(tmp_path: Path, hyper: dict[str, object]) -> None:
    train(tiny_run(tmp_path / "whole", **hyper))
    train(tiny_run(tmp_path / "stopped", **hyper), stop_after=3)
    train(tiny_run(tmp_path / "stopped", **hyper))
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")
    a, b = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert a == b


def test_a_state_that_names_the_optimizer_as_a_flag_goes_on(tmp_path: Path) -> None:
    """0.1.0 stored `hyper.muon`."""
    train(tiny_run(tmp_path / "whole"))
    train(tiny_run(tmp_path / "stopped"), stop_after=3)
    path = tmp_path / "stopped" / "state.pt"
    state = torch.load(path)
    assert state["identity"].pop("hyper.optimizer") == "muon"
    state["identity"]["hyper.muon"] = True
    torch.save(state, path)
    with pytest.raises(TrainingError, match=r"hyper.optimizer was 'muon' and is 'adamw'"):
        train(tiny_run(tmp_path / "stopped", optimizer="adamw"))
    train(tiny_run(tmp_path / "stopped"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")
