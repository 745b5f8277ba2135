"""Several processes train what one process trains: FSDP2, expert and tensor parallelism, their
states and their errors.

Two processes (gloo) run all fast cases in one go; four run the combinations, marked slow. The
oracle is the same run in one process, with one thread for each part of a step. Matches are for
AdamW: Muon may round to bfloat16 inside, which turns the last bit of a sum into a visible
difference, so it is compared where the sums are the same bits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from distributed_worker import SMALL, run_of
from two_processes import (
    BASIC,
    CONTINUED,
    LOW_RANK,
    RESHARDED,
    WORKER,
    Task,
    cut_in_other_ways,
    launch,
)

from ossia.data.packing import Example
from ossia.errors import ConfigError, TrainingError
from ossia.model import TrainableExperts, Transformer
from ossia.model.parallel import TABLE, check, cut_of
from ossia.train.loop import train
from ossia.train.parallel.distributed import join, prepare
from ossia.train.run import StepReport
from ossia.train.settings import Parallel
from ossia.train.weights.export import save_weights

SWITCHED: dict[str, Task] = {
    "memory": {
        "parallel": {"ep": 2},
        "hyper": {"accumulate": 2, "checkpoint_layers": True, "ema": 0.9},
        "steps": 6,
    },
    "dense": {
        "parallel": {"tp": 2},
        "config": {"moe_stride": 2, "attention_sink": "off_by_one"},
        "steps": 6,
    },
    "dense ep": {
        "parallel": {"ep": 2},
        "config": {"moe_stride": 2, "attention_sink": "none"},
        "steps": 6,
    },
    "quantized": {"parallel": {"tp": 2}, "quantize": True, "steps": 6},
    "capacity": {
        "parallel": {"ep": 2},
        "hyper": {"balance": {"mode": "bias", "capacity": 1.0}},
        "steps": 6,
    },
}
BFLOAT16: Task = {"parallel": {"fsdp": 2}, "hyper": {"precision": "bfloat16"}, "steps": 6}
COMBINED: dict[str, Task] = {
    "fsdp ep": {"parallel": {"fsdp": 2, "ep": 2}},
    "fsdp tp": {"parallel": {"fsdp": 2, "tp": 2}},
    "ep tp": {"parallel": {"ep": 2, "tp": 2}},
    "replicate fsdp": {"parallel": {"replicate": 2, "fsdp": 2}},
    "idle": {
        "parallel": {"fsdp": 2, "ep": 2},
        "source": "every second",
        "hyper": {"tokens_per_step": 60},
        "steps": 8,
    },
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def alone(task: Task, out: Path) -> Path:
    """The same in one process."""
    sizes = {"replicate": 1, "fsdp": 1, "ep": 1} | task["parallel"]
    parts = sizes["replicate"] * sizes["fsdp"] * sizes["ep"]
    train(
        run_of(
            {k: v for k, v in task.items() if k != "parallel"}
            | {"hyper": task.get("hyper", {}) | {"shards": parts}},
            out,
        )
    )
    return out


def log(out: Path, key: str = "loss") -> list[float]:
    return [json.loads(line)[key] for line in (out / "log.jsonl").read_text().splitlines()]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(out / "weights.safetensors")


def assert_matches(
    found: Path, wanted: Path, tolerance: float = 1e-5, of_weights: float = 1e-5
) -> None:
    assert len(log(found)) == len(log(wanted))
    for key in ("loss", "gradient_norm", "balance", "router_z", "dropped"):
        assert log(found, key) == pytest.approx(log(wanted, key), abs=tolerance, rel=tolerance), key
    a, b = weights(found), weights(wanted)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=of_weights, atol=of_weights, msg=name)
    assert (found / "config.json").read_bytes() == (wanted / "config.json").read_bytes()


@pytest.mark.parametrize("name", BASIC)
def test_two_processes_match_one(name: str, two: Path, tmp_path: Path) -> None:
    wanted = alone(BASIC[name], tmp_path)
    assert_matches(two / name, wanted)
    assert min(log(wanted)) < log(wanted)[0]


@pytest.mark.slow
def test_switches_work_on_two_processes(tmp_path: Path) -> None:
    tasks = [
        task | {"out": str(tmp_path / name)}
        for name, task in (SWITCHED | {"bfloat16": BFLOAT16}).items()
    ]
    launch(tmp_path, 2, tasks)
    for name, task in SWITCHED.items():
        # AdamW divides by the size of a gradient: where that is tiny, another order of sums moves a
        # weight by more
        assert_matches(tmp_path / name, alone(task, tmp_path / "alone" / name), of_weights=3e-5)
    # weights travel in bfloat16, gradients are added up in float32: nearer than bfloat16 itself is
    wanted = alone(BFLOAT16, tmp_path / "alone" / "bfloat16")
    assert log(tmp_path / "bfloat16") == pytest.approx(log(wanted), abs=2e-3)


def test_fsdp_and_muon_are_the_same_bits(two: Path, tmp_path: Path) -> None:
    """As many parts as threads, added up in the same order; without clipping, whose norm is summed
    otherwise.
    """
    wanted = alone(BASIC["muon"], tmp_path)
    assert log(two / "muon") == log(wanted)
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights(two / "muon").values(), weights(wanted).values(), strict=True)
    )


def test_a_run_starts_from_the_weights_of_another(two: Path, tmp_path: Path) -> None:
    assert_matches(
        two / "continued", alone(CONTINUED | {"start_from": str(two / "fsdp")}, tmp_path)
    )
    assert log(two / "continued")[0] < log(two / "fsdp")[1]


def test_two_processes_train_low_rank_changes_as_one(two: Path, tmp_path: Path) -> None:
    """On two copies of the frozen model; stopped after two steps, and gone on with."""
    task = LOW_RANK | {"start_from": str(two / "fsdp")}
    wanted = alone(task, tmp_path)
    found = two / "low rank"
    for key in ("loss", "gradient_norm"):
        assert log(found, key) == pytest.approx(log(wanted, key), abs=1e-5), key
    a, b = weights(found), weights(wanted)
    assert a.keys() == b.keys() and all(".lora_" in name for name in a)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-5, msg=name)


def test_low_rank_changes_are_not_cut(tmp_path: Path) -> None:
    task = LOW_RANK | {"parallel": {"ep": 2}, "start_from": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"set parallel\.replicate=2"):
        prepare(run_of(task, tmp_path))


def test_muon_clipping_and_dispatch_by_themselves(two: Path) -> None:
    """The worker has asserted it."""
    assert all((two / name / "done").exists() for name in ("muon tp", "muon ep", "dispatch"))


def test_objectives_have_the_gradients_of_one_process(two: Path) -> None:
    """The worker has asserted it, for every normalizer."""
    assert all((two / f"objective {name}" / "done").exists() for name in ("fsdp", "ep", "tp"))


def test_a_finished_run_gives_every_process_its_part(two: Path) -> None:
    assert all((two / "tp" / f"again-{rank}").exists() for rank in range(2))


def test_a_loss_that_is_not_finite_is_told_by_every_process(two: Path) -> None:
    told = [(two / "diverged" / f"error-{rank}").read_text() for rank in range(2)]
    assert told[0] == told[1] and told[0].startswith("TrainingError") and "not finite: " in told[0]
    assert "No state had been saved" in told[0]


@pytest.mark.slow
def test_a_state_loses_nothing_when_it_is_cut_in_another_way(tmp_path: Path) -> None:
    """Weights, optimizers and average, whole, are the same bits however they were cut; the run goes
    on from them with the bits of an undisturbed one; and a finished run is only read, also by
    processes of another cut.
    """
    out = tmp_path / "resharded"
    cut_in_other_ways(out)
    first, *others = (torch.load(out / f"{name}.pt") for name in ("fsdp", "tp", "ep"))
    assert {name.split("/")[1] for name in first} >= {"model", "optimizer", "average"}
    for other in others:
        assert first.keys() == other.keys()
        assert all(torch.equal(first[name], other[name]) for name in first)
    whole = alone(RESHARDED | {"parallel": {"fsdp": 2}}, tmp_path / "whole")
    assert log(out) == log(whole)
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights(out).values(), weights(whole).values(), strict=True)
    )
    assert [p.name for p in out.glob("state-*")] == ["state-00000006-end"]


def test_sizes_that_do_not_divide() -> None:
    with pytest.raises(
        ConfigError, match=r"tp=3 does not divide num_key_value_heads \(2\): choose 1, 2"
    ):
        check(SMALL, tp=3)
    with pytest.raises(
        ConfigError, match=r"ep=3 does not divide num_experts \(4\): choose 1, 2, 4"
    ):
        check(SMALL, ep=3)
    check(replace(SMALL, num_key_value_heads=4), tp=4)
    with pytest.raises(ConfigError, match="MXFP4 has blocks of 32"):
        check(replace(SMALL, num_key_value_heads=4), tp=4, quantize=True)


def test_processes_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(
        ConfigError,
        match=r"asks for 4 processes .*fsdp 2 x ep 1 x tp 2.*torchrun --nproc-per-node 4",
    ):
        join(Parallel(fsdp=2, tp=2), "cpu")
    run = run_of({"parallel": {"fsdp": 2}, "hyper": {"compile": True}}, tmp_path)
    with pytest.raises(ConfigError, match=r"hyper\.compile works in one process only"):
        train(run)


def test_the_table_names_parameters_that_there_are() -> None:
    model = Transformer(SMALL)
    cut = {n: cut_of(n, SMALL) for n, _ in model.named_parameters()}
    for pattern, what in TABLE:
        assert what in cut.values(), pattern
    whole = {
        n.replace("layers.0.", "")
        for n, c in cut.items()
        if c.ep is None and c.tp is None and "s.1." not in n
    }
    assert whole == {
        "attn.norm.scale", "attn.out.bias", "moe.norm.scale", "moe.router.weight",
        "moe.router.bias",
        "embedding.weight", "unembedding.weight", "norm.scale", 
    }  # fmt: skip


@pytest.mark.slow
def test_killed_processes_go_on(tmp_path: Path) -> None:
    """All are killed after step 7; the state is that of step 4, or of 6 if it was written in
    time.
    """
    task = {
        "parallel": {"fsdp": 2},
        "steps": 12,
        "save_every": 2,
        "kill_at": 7,
        "out": str(tmp_path / "killed"),
    }
    assert any(launch(tmp_path / "a", 2, [task]))
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    launch(tmp_path / "b", 2, [task | {"kill_at": None}])
    assert_matches(tmp_path / "killed", alone(task | {"kill_at": None}, tmp_path / "whole"))


@pytest.mark.slow
def test_four_processes_match_one(tmp_path: Path) -> None:
    """By torchrun, as the docs say. Among them a state of two processes that one has read and
    written again.
    """
    tasks = [task | {"out": str(tmp_path / name)} for name, task in COMBINED.items()]
    resharded = RESHARDED | {"out": str(tmp_path / "resharded")}
    carried = resharded | {"do": "carry"}
    two = [
        resharded | {"parallel": {"ep": 2}, "stop_after": 3},
        carried | {"parallel": {"ep": 2}, "whole": "2.pt"},
    ]
    launch(tmp_path / "2", 2, two)
    launch(tmp_path / "1", 1, [carried | {"parallel": {}, "whole": "1.pt"}])
    tasks += [carried | {"parallel": {"fsdp": 2, "tp": 2}, "whole": "4.pt"}]
    tasks += [resharded | {"parallel": {"fsdp": 2, "ep": 2}}]
    for task in tasks:
        Path(task["out"]).mkdir(parents=True, exist_ok=True)
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "4",
        "--rdzv-backend",
        "c10d",
    ]
    command = [
        *torchrun,
        "--rdzv-endpoint",
        "localhost:0",
        str(WORKER),
        str(tmp_path / "tasks.json"),
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(WORKER.parent), *sys.path]),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-6000:]
    for name, task in COMBINED.items():
        assert_matches(tmp_path / name, alone(task, tmp_path / "alone" / name))
    first, *others = (torch.load(tmp_path / "resharded" / f"{n}.pt") for n in (2, 1, 4))
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first | other)
    assert len(log(tmp_path / "resharded")) == RESHARDED["steps"]
    assert (tmp_path / "resharded" / "weights.safetensors").exists()


def test_a_state_that_cannot_be_written_leaves_the_one_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    run = run_of({"parallel": {}, "steps": 8, "save_every": 2}, tmp_path)

    def be_in_the_way(report: StepReport) -> None:
        if report.step == 3:
            (tmp_path / "state-00000004").touch()

    try:
        with pytest.raises(
            TrainingError, match=r"state-00000004: cannot be written .*state before is untouched"
        ):
            train(run, watchers=[be_in_the_way])
        assert json.loads((tmp_path / "state.json").read_text())["folder"] == "state-00000002"
        (tmp_path / "state-00000004").unlink()
        train(run)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    assert len(log(tmp_path)) == 8


def test_the_first_bad_activation_may_be_in_a_later_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    bad = Transformer(SMALL)
    bad.init_weights(0)
    with torch.no_grad():  # values overflow for the token 63 alone
        bad.embedding.weight[:, 0] = bad.embedding.weight[63] = 0
        bad.embedding.weight[63, 0] = 1
        bad.layers[0].attn.v.weight[:, 0] = 3e38
    save_weights(bad, tmp_path / "bad")

    def examples(state: Any) -> Iterator[tuple[Example, int]]:
        """The token 1, and in the second half of every step 63."""
        for index in range(state or 0, 100):
            yield Example([63 if index % 8 > 3 else 1] * 31, [True] * 31), index + 1

    task = {"parallel": {}, "hyper": {"accumulate": 2}, "start_from": str(tmp_path / "bad")}
    run = replace(run_of(task, tmp_path / "run"), examples=examples)
    try:
        with pytest.raises(TrainingError, match=r"not finite: layer 0, attention: activation"):
            train(run)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def test_the_whole_model_computes_as_it_was_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And averages take over what biases hand over, as in one process."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    hyper = {"precision": "bfloat16", "ema": 0.9, "balance": {"mode": "bias", "bias_rate": 0.1}}
    task = {"steps": 6, "quantize": True, "hyper": hyper}
    try:
        found = train(run_of(task | {"parallel": {}}, tmp_path / "group"))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    wanted = train(run_of(task | {"hyper": hyper | {"shards": 1}}, tmp_path / "alone"))
    for model in (found, wanted):
        assert model.compute_dtype == torch.bfloat16
        assert all(m.fake_quantize for m in model.modules() if isinstance(m, TrainableExperts))
    for a, b in zip(found.layers, wanted.layers, strict=True):
        torch.testing.assert_close(a.moe.router.bias, b.moe.router.bias, rtol=1e-4, atol=1e-4)


def test_a_state_of_one_kind_of_run_is_not_mistaken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One process may be a group of one, without torchrun."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    (tmp_path / "state.pt").touch()
    try:
        with pytest.raises(TrainingError, match="leave parallel out"):
            train(run_of({"parallel": {}, "steps": 2}, tmp_path))
        (tmp_path / "state.pt").unlink()
        train(run_of({"parallel": {}, "steps": 2}, tmp_path))
        with pytest.raises(
            TrainingError, match=r"another run: .*hyper\.clip was 1\.0 and is 0\.5.*another folder"
        ):
            train(run_of({"parallel": {}, "steps": 2, "hyper": {"clip": 0.5}}, tmp_path))
        (tmp_path / "state.json").write_text("{")
        with pytest.raises(TrainingError, match="delete it to start again"):
            train(run_of({"parallel": {}, "steps": 2}, tmp_path))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
