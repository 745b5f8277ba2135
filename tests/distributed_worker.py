"""What one process of the distributed tests does: the tasks in a JSON file, one after the other, in
one process group.

A task is a run (`run_of`), or the name of one of the functions here.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from balance_cases import in_two_processes
from objective_cases import Weighted, a_batch_of_groups
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from ossia.config import ModelConfig
from ossia.data.packing import Example, PackedBatch, split
from ossia.kernels.experts_dispatch import experts_dispatch, experts_of_rows
from ossia.kernels.experts_training import experts_training
from ossia.model.parallel import Meshes, part_of, whole
from ossia.train.balance import Balancer
from ossia.train.loop import train
from ossia.train.optim import Optimizers
from ossia.train.parallel.distributed import prepare
from ossia.train.parallel.optim import clip_gradients, norm_of_gradients, spread
from ossia.train.run import Run, StepReport
from ossia.train.settings import Balance, Hyperparameters, Lora, Parallel
from ossia.train.state import copied
from ossia.train.step import ThreadedStep, Worker
from ossia.train.weights.export import start

SMALL = replace(
    ModelConfig.preset("nano"), num_hidden_layers=2, layer_types=(), hidden_size=32,
    intermediate_size=64,
    num_experts=4, num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=64,
    sliding_window=8,
    rope_ntk_beta=4.0,
)  # fmt: skip


def examples(state: Any) -> Iterator[tuple[Example, int]]:
    index = state or 0
    while True:
        rng = Random(index)
        start, step = rng.randrange(64), rng.randrange(1, 4)
        ids = [(start + n * step) % 64 for n in range(rng.randrange(5, 30))]
        yield Example(ids, [rng.random() < 0.8 for _ in ids]), index + 1
        index += 1


def every_second(state: Any) -> Iterator[tuple[Example, int]]:
    """Every second example has nothing to learn."""
    for example, index in examples(state):
        yield Example(example.ids, [index % 2 == 1] * len(example.ids)), index


SOURCES = {"examples": examples, "every second": every_second}


def run_of(task: dict[str, Any], out: Path) -> Run:
    """In one process, a task with `parallel` is a run with as many threads as there would be
    parts.
    """
    parallel = Parallel(**task["parallel"]) if "parallel" in task else None
    given = dict(task.get("hyper", {}))
    balance = Balance(**given.pop("balance", {}))
    usual = {
        "tokens_per_step": 240,
        "longest": 60,
        "peak_lr": 2e-3,
        "warmup": 4,
        "optimizer": "adamw",
    }
    hyper = Hyperparameters(**usual | given, balance=balance)
    return Run(
        "test",
        replace(SMALL, **task.get("config", {})),
        SOURCES[task.get("source", "examples")],
        task.get("steps", 20),
        hyper,
        out,
        start_from=Path(task["start_from"]) if "start_from" in task else None,
        quantize=task.get("quantize", False),
        save_every=task.get("save_every", 1000),
        lora=Lora(**task["lora"]) if "lora" in task else None,
        parallel=parallel,
        device="cpu",
    )


def do_run(task: dict[str, Any], out: Path) -> None:
    def die(report: StepReport) -> None:
        if report.step == task.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        train(run_of(task, out), watchers=[die], stop_after=task.get("stop_after"))
    except Exception as error:
        if not task.get("fails"):
            raise
        (out / f"error-{dist.get_rank()}").write_text(f"{type(error).__name__}: {error}")


def muon(task: dict[str, Any], out: Path) -> None:
    """Optimizers on parameters that are cut in every way, beside the same on whole ones."""
    meshes = Meshes.make(**task["parallel"])
    cuts = {  # name: mesh dimensions and placements
        "experts.weight": (meshes.experts["fsdp", "ep"], [Replicate(), Shard(0)], (4, 6, 8)),
        "rows.weight": (meshes.experts["fsdp", "tp"], [Replicate(), Shard(1)], (4, 6, 8)),
        "both.weight": (meshes.dense["shard", "tp"], [Shard(0), Shard(1)], (6, 4)),
        "columns.weight": (meshes.dense["shard"], [Shard(1)], (5, 8)),
        "scale": (meshes.dense["shard"], [Shard(0)], (5,)),
    }
    rng = torch.Generator().manual_seed(0)
    ones, alone = {}, {}
    for name, (mesh, placements, shape) in cuts.items():
        value = torch.randn(shape, generator=rng)
        alone[name] = nn.Parameter(value.clone())
        ones[name] = nn.Parameter(distribute_tensor(value, mesh, placements, src_data_rank=None))
    pair = [_Named(ones), _Named(alone)]
    optimizers = [Optimizers(m, 1e-2, 0.1, (0.9, 0.95), "muon") for m in pair]
    spread(optimizers[0])
    for _ in range(3):
        for name, p in alone.items():
            p.grad = torch.randn(p.shape, generator=rng)
            here = part_of(p.grad, ones[name])
            ones[name].grad = torch.zeros_like(ones[name])
            ones[name].grad.to_local().copy_(here)
        norm = torch.nn.utils.get_total_norm([p.grad for p in alone.values()])
        found = norm_of_gradients(list(ones.values()))
        assert abs(found - norm.item()) < 1e-5, (found, norm)
        torch.nn.utils.clip_grads_with_norm_(list(alone.values()), 1.0, norm)
        clip_gradients(list(ones.values()), norm.item(), 1.0)
        for optimizer in optimizers:
            optimizer.step(1e-2)
    for name, p in ones.items():
        torch.testing.assert_close(whole(p).detach(), alone[name].detach(), rtol=1e-6, atol=1e-6)
    (out / "done").touch()


class _Named(nn.Module):
    def __init__(self, params: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.params = params

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.params.items()


def dispatch(task: dict[str, Any], out: Path) -> None:
    """Experts on two processes beside all of them in one; the second brings no token of its own in
    one case.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    for tokens in ([7, 5], [6, 0]):
        rng = torch.Generator().manual_seed(1)
        x, w1, b1, w2, b2 = (
            torch.randn(shape, generator=rng, dtype=torch.float64)
            for shape in ((sum(tokens), 8), (4, 12, 8), (4, 12), (4, 8, 6), (4, 8))
        )
        choice = torch.stack([torch.randperm(4, generator=rng)[:2] for _ in range(sum(tokens))])
        weight = torch.rand(sum(tokens), 2, generator=rng, dtype=torch.float64)
        weight[0, 1] = weight[3] = 0.0  # dropped
        direction = torch.randn(x.shape, generator=rng, dtype=torch.float64)

        leaves = [t.clone().requires_grad_() for t in (x, weight, w1, b1, w2, b2)]
        y = experts_training(
            leaves[0], choice, leaves[1], (leaves[2], leaves[3]), (leaves[4], leaves[5]), 7.0
        )
        wanted = [y.detach(), *torch.autograd.grad((y * direction).sum(), leaves)]

        first = sum(tokens[:rank])
        mine, own = (
            slice(first, first + tokens[rank]),
            slice(rank * 4 // size, (rank + 1) * 4 // size),
        )
        parts = [
            t.clone().requires_grad_()
            for t in (x[mine], weight[mine], w1[own], b1[own], w2[own], b2[own])
        ]
        y = experts_dispatch(
            parts[0], choice[mine], parts[1], 4, dist.group.WORLD,
            lambda rows, e, p=parts: experts_of_rows(rows, e, (p[2], p[3]), (p[4], p[5]), 7.0),
        )  # fmt: skip
        found = [y.detach(), *torch.autograd.grad((y * direction[mine]).sum(), parts)]
        places = [mine, mine, mine, own, own, own, own]
        for a, b, place in zip(found, wanted, places, strict=True):
            torch.testing.assert_close(a, b[place])
    (out / "done").touch()


def carry(task: dict[str, Any], out: Path) -> None:
    """Read a state, hand it to a worker, write what the worker has; and all of it, whole, to
    `task["whole"]`.
    """
    run = run_of(task, out)
    worker, store = prepare(run)
    state = store.load(run.identity() | {"start_from": None})
    assert state is not None
    worker.load_state_dict(state["worker"])
    store.write(copied(state | {"worker": worker.state_dict()}))
    store.wait()
    tensors: dict[str, torch.Tensor] = {}
    _gather(worker.state_dict(), "", tensors)
    if worker.leads:
        torch.save(tensors, out / task["whole"])
    store.close()
    worker.close()


def again(task: dict[str, Any], out: Path) -> None:
    """A finished run gives what it has trained: all of it to the first process, their parts to the
    others.
    """
    model, stored = (
        train(run_of(task, out)),
        safetensors.torch.load_file(out / "weights.safetensors"),
    )
    assert not model.training
    for name, p in model.named_parameters():
        assert isinstance(p, DTensor) == (dist.get_rank() > 0)
        assert (
            torch.equal(p.to_local(), part_of(stored[name], p))
            if isinstance(p, DTensor)
            else stored[name].equal(p)
        )
    (out / f"again-{dist.get_rank()}").touch()


def _gather(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> None:
    if isinstance(value, torch.Tensor):
        tensors[name] = whole(value).detach().clone()
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _gather(item, f"{name}/{key}", tensors)


def objective(task: dict[str, Any], out: Path) -> None:
    """A step of answers in groups, of which some do not count, by every normalizer: its gradients
    and metrics beside those of one part in this process.
    """
    for normalizer in task["normalizers"]:
        weighted = {"examples": None, "batches": no_batches, "objective": Weighted(normalizer)}
        run = replace(run_of(task, out), **weighted)
        worker, store = prepare(run)
        alone = replace(run, parallel=None, hyper=replace(run.hyper, shards=1))
        model = start(alone)
        single = ThreadedStep(model, alone, Balancer(model, alone.hyper.balance, 1))
        for seed in (1, 2):
            groups = 1 if seed == 2 else 6  # one cannot be cut: a process has nothing to do
            batch = a_batch_of_groups(seed, groups)
            found, wanted = (gradients(one, batch) for one in (worker, single))
            assert found[0].keys() == wanted[0].keys()
            for name, gradient in wanted[0].items():
                torch.testing.assert_close(found[0][name], gradient, rtol=1e-5, atol=1e-6)
            assert abs(found[1] - wanted[1]) < 1e-6
            assert found[2]["kept"] == wanted[2]["kept"]
            assert abs(found[2]["largest"] - wanted[2]["largest"]) < 1e-4
        store.close()
        worker.close()
        single.close()
    (out / "done").touch()


def gradients(
    worker: Worker, batch: PackedBatch
) -> tuple[dict[str, torch.Tensor], float, dict[str, float]]:
    """Of one step by name, whole; its loss and its metrics."""
    prepared = worker.objective.prepare(batch)
    assert prepared is not None
    parts = split(prepared, worker.side_by_side)
    loss, metrics = worker._learn(parts, len(batch.targets), len(batch.tokens))
    found = {name: whole(p.grad) for name, p in worker.named.items()}
    for p in worker.params:
        p.grad = None
    return found, loss, metrics


def no_batches(worker: Worker, state: Any) -> Iterator[tuple[PackedBatch, Any]]:
    raise NotImplementedError


def balance(task: dict[str, Any], out: Path) -> None:
    in_two_processes(out)


def rewards(task: dict[str, Any], out: Path) -> None:
    """A run of `ossia train rl`."""
    from rl_runs import config_of, learned

    learned(config_of(Path(task["model"]), *task["settings"]), out, task.get("stop_after"))


def answers(task: dict[str, Any], out: Path) -> None:
    """What an engine over a model in several parts answers."""
    from spread_answers import answered

    answered(task, out)


DO = {
    "answers": answers,
    "rewards": rewards,
    "run": do_run,
    "again": again,
    "carry": carry,
    "muon": muon,
    "dispatch": dispatch,
    "balance": balance,
    "objective": objective,
}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    for task in json.loads(Path(sys.argv[1]).read_text()):
        DO[task.get("do", "run")](task, Path(task["out"]))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
