"""The training loop: batches in, optimizer steps, a state that resumes exactly, a log.

A run is a list of stages that share one model, one optimizer and one learning-rate schedule: pre-training, then
fine-tuning on Harmony, then the same with the experts seen through MXFP4. Knows no tasks and no text.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from ossia.batch import Batch
from ossia.config import ModelConfig, as_dict
from ossia.data.packing import Example, PackedBatch, pack, split
from ossia.errors import TrainingError
from ossia.model import TrainableExperts, Transformer
from ossia.train.losses import cross_entropy, load_balance, router_z
from ossia.train.optim import Optimizers
from ossia.train.schedule import Schedule
from ossia.train.state import load_state, save_state

ExamplesFrom = Callable[[int], Iterator[tuple[Example, int]]]


@dataclass(frozen=True)
class Stage:
    """`steps` batches of the examples that `examples(start)` yields as (example, next start)."""

    name: str
    examples: ExamplesFrom
    steps: int
    quantize: bool = False  # train the experts as the MXFP4 values they will be exported as
    restart: float | None = None  # peak of a schedule of the stage's own; otherwise stages share one


@dataclass(frozen=True)
class Hyperparameters:
    tokens_per_step: int = 8192
    longest: int = 1024  # tokens of one example
    peak_lr: float = 2e-3
    warmup: int = 100
    decay: float = 0.5
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    muon: bool = True  # for matrices; otherwise AdamW for everything
    clip: float = 1.0
    load_balance: float = 1e-2
    router_z: float = 1e-3
    shards: int = 2  # parts of a step that are worked on side by side, one thread each; their number shapes the sums
    seed: int = 0
    bfloat16: bool = False  # matrix products; the weights, the residual stream, the router and the loss stay float32


@dataclass(frozen=True)
class Run:
    config: ModelConfig
    stages: tuple[Stage, ...]
    hyper: Hyperparameters
    out: Path
    save_every: int = 200

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def lr(self, step: int) -> float:
        """One schedule for all stages without a `restart`, and one for each with."""
        stage, end = _stage_at(self, step)
        if stage.restart is not None:
            return Schedule(stage.restart, stage.steps, warmup=20, decay=1.0).at(step - (end - stage.steps))
        shared = sum(s.steps for s in self.stages if s.restart is None)
        own = sum(s.steps for s in self.stages[: self.stages.index(stage)] if s.restart is not None)
        return Schedule(self.hyper.peak_lr, shared, self.hyper.warmup, self.hyper.decay).at(step - own)

    def identity(self) -> dict[str, Any]:
        """What must not change between a run and its resumption, as JSON values."""
        stages = [[stage.name, stage.steps, stage.quantize, stage.restart] for stage in self.stages]
        return {"config": as_dict(self.config), "stages": stages, "hyper": json.loads(json.dumps(asdict(self.hyper)))}


def train(run: Run, stop_after: int | None = None) -> Transformer:
    """Train to the end, from `run.out/state.pt` if a run was cut short there; `stop_after` steps for tests.

    Raises `TrainingError` if that state is of another run, or if the loss is not a number (the last state is kept).
    """
    model = Transformer(run.config).train()
    model.init_weights(run.hyper.seed)
    if run.hyper.bfloat16:
        model.compute_dtype = torch.bfloat16
    h = run.hyper
    optimizer = Optimizers(model, h.peak_lr, h.weight_decay, h.betas, h.muon)
    step, cursors = _resume(run, model, optimizer)
    workers = ThreadPoolExecutor(run.hyper.shards, initializer=torch.set_num_threads, initargs=(1,))
    with (run.out / "log.jsonl").open("a") as log, _progress() as bar, workers as pool:
        task = bar.add_task("train", total=run.steps, completed=step, loss=math.nan, stage="")
        while step < run.steps and (stop_after is None or step < stop_after):
            stage, stage_end = _stage_at(run, step)
            _set_fake_quantize(model, stage.quantize)
            batches = _batches(run, stage, cursors[stage.name])
            for batch, cursors[stage.name] in batches:
                began = time.perf_counter()
                shards = split(batch, run.hyper.shards)
                loss, metrics = _step(model, optimizer, shards, pool, run.hyper, run.lr(step))
                if not math.isfinite(loss):
                    raise TrainingError(f"the loss is {loss} at step {step}; the last good state is in {run.out}")
                step += 1
                took = time.perf_counter() - began
                entry = {"step": step, "stage": stage.name, "loss": loss, "lr": run.lr(step - 1), **metrics}
                log.write(json.dumps(entry | {"tokens_per_s": round(len(batch.tokens) / took)}) + "\n")
                bar.update(task, completed=step, loss=loss, stage=stage.name)
                if step % run.save_every == 0 or step == run.steps or step == stop_after:
                    log.flush()
                    _save(run, model, optimizer, step, cursors)
                if step in (stage_end, stop_after):
                    break
    return model.eval()


def _progress() -> Progress:
    text = TextColumn("{task.fields[stage]} loss {task.fields[loss]:.3f}")
    return Progress(BarColumn(), MofNCompleteColumn(), text, TimeElapsedColumn(), TimeRemainingColumn())


def _resume(run: Run, model: Transformer, optimizer: Optimizers) -> tuple[int, dict[str, int]]:
    run.out.mkdir(parents=True, exist_ok=True)
    state = load_state(run.out / "state.pt", run.identity())
    if state is None:
        return 0, {stage.name: 0 for stage in run.stages}
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    _forget_after(run.out / "log.jsonl", state["step"])
    return state["step"], state["cursors"]


def _forget_after(log: Path, step: int) -> None:
    """Drop the lines of steps that were taken after the state was saved: they will be taken, and logged, again."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    temporary = log.with_name(log.name + ".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(log)


def _save(run: Run, model: Transformer, optimizer: Optimizers, step: int, cursors: dict[str, int]) -> None:
    state = {"identity": run.identity(), "step": step, "cursors": dict(cursors)}
    save_state(run.out / "state.pt", state | {"model": model.state_dict(), "optimizer": optimizer.state_dict()})


def _stage_at(run: Run, step: int) -> tuple[Stage, int]:
    """The stage that `step` belongs to and the step at which it ends."""
    end = 0
    for stage in run.stages:
        end += stage.steps
        if step < end:
            return stage, end
    raise AssertionError(f"step {step} is past the end of the run")


def _batches(run: Run, stage: Stage, start: int) -> Iterator[tuple[PackedBatch, int]]:
    return pack(stage.examples(start), run.hyper.tokens_per_step, run.hyper.longest, start)


def _set_fake_quantize(model: Transformer, on: bool) -> None:
    for module in model.modules():
        if isinstance(module, TrainableExperts):
            module.fake_quantize = on


def _step(
    model: Transformer,
    optimizer: Optimizers,
    shards: list[PackedBatch],
    pool: Executor,
    hyper: Hyperparameters,
    lr: float,
) -> tuple[float, dict[str, float]]:
    """One update from the shards' gradients, added up in their order; every target of the step weighs the same."""
    targets, tokens = sum(len(s.rows) for s in shards), sum(len(s.tokens) for s in shards)
    if not targets:
        raise TrainingError("a batch has no token to learn: the masks of its examples are empty")
    work = [pool.submit(_gradients, model, s, hyper, len(s.rows) / targets, len(s.tokens) / tokens) for s in shards]
    results = [future.result() for future in work]
    for n, p in enumerate(model.parameters()):
        p.grad = results[0].gradients[n]
        for other in results[1:]:
            p.grad += other.gradients[n]
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), hyper.clip)
    optimizer.step(lr)
    loss, balance = sum(r.loss for r in results), sum(r.balance for r in results)
    return loss, {"balance": balance, "gradient_norm": norm.item()}


@dataclass(frozen=True)
class _ShardResult:
    gradients: tuple[Tensor, ...]
    loss: float  # the shard's part of the step's mean
    balance: float


def _gradients(
    model: Transformer, shard: PackedBatch, hyper: Hyperparameters, of_targets: float, of_tokens: float
) -> _ShardResult:
    logits: list[Tensor] = []
    rows = torch.tensor(shard.rows, dtype=torch.int64)  # also where there are none
    batch = Batch.packed(shard.lengths, output_rows=rows, router_logits=logits)
    x_RD = model.hidden(torch.tensor(shard.tokens), batch)
    targets = torch.tensor(shard.targets, dtype=torch.int64)
    loss = of_targets * cross_entropy(x_RD, model.unembedding.weight, targets)
    balance = of_tokens * _mean([load_balance(x, model.config.experts_per_token) for x in logits])
    z = of_tokens * _mean([router_z(x) for x in logits])
    total = loss + hyper.load_balance * balance + hyper.router_z * z
    return _ShardResult(torch.autograd.grad(total, list(model.parameters())), loss.item(), balance.item())


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean() if values else torch.zeros(())
