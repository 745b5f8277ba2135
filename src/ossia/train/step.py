"""One optimizer step: parts of a batch side by side in threads, their gradients added up, one
update.

Every target of a step weighs the same, in whatever part it is. On one thread per part the same
batch gives the same bits; the number of parts shapes the sums. Knows the model and one batch; no
data, no files.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ossia.batch import Batch
from ossia.data.packing import PackedBatch, split
from ossia.errors import TrainingError
from ossia.kernels import products
from ossia.model import Transformer
from ossia.train.balance import Balancer
from ossia.train.checkpointing import checkpoint_layers, compile_parts, plain
from ossia.train.diagnose import DivergedError, bad_weight, where
from ossia.train.losses import cross_entropy
from ossia.train.optim import Average, Optimizers
from ossia.train.run import Run


class Worker(Protocol):
    """What the loop needs of whoever does the steps: one process with threads, or many processes."""

    model: Transformer
    leads: bool  # whether this process writes logs and weights, and tells the watchers
    balancer: Balancer

    def step(self, batch: PackedBatch, lr: float) -> tuple[float, dict[str, float]]:
        """(loss, metrics) of one update. Raises `DivergedError`, before anything has changed, if it
        would be bad.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that decides the next step, without copies."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def finish(self) -> Transformer:
        """The trained model, whole, in eval mode, with averaged weights if the run averages."""

    def close(self) -> None: ...


class ThreadedStep:
    """`Worker` of one process. Uses all of `model`'s parameters that ask for gradients."""

    def __init__(self, model: Transformer, run: Run, balancer: Balancer) -> None:
        h = run.hyper
        self.leads, self.model, self.hyper, self.balancer = True, model, h, balancer
        self.taken = 0
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.params = list(self.named.values())
        self.optimizer = Optimizers(
            model, h.peak_lr, h.weight_decay, h.betas, h.muon and run.lora is None
        )
        self.average = Average(self.params, h.ema) if h.ema else None
        self.pool = ThreadPoolExecutor(
            h.shards, "part", initializer=torch.set_num_threads, initargs=(1,)
        )
        if h.compile:
            compile_parts(model)
        if h.checkpoint_layers:
            checkpoint_layers(model)
        if model.device.type == "cpu":
            products.serving()  # measured now, if need be, while nothing else runs

    def step(self, batch: PackedBatch, lr: float) -> tuple[float, dict[str, float]]:
        parts = split(batch, self.hyper.accumulate * self.hyper.shards)
        targets, tokens = sum(len(p.rows) for p in parts), sum(len(p.tokens) for p in parts)
        if not targets:
            raise TrainingError(
                "a batch has no token to learn: the masks of its examples are empty"
            )
        loss, gradients = 0.0, list[Tensor]()
        for first in range(0, len(parts), self.hyper.shards):
            for part in self._side_by_side(
                parts[first : first + self.hyper.shards], targets, tokens
            ):
                loss += part.loss
                gradients = _added(gradients, part.gradients)
        for p, gradient in zip(self.params, gradients, strict=True):
            p.grad = gradient
        norm_of_all = torch.nn.utils.get_total_norm(gradients)
        norm = norm_of_all.item()
        if not math.isfinite(loss) or not math.isfinite(norm):
            what = (
                f"the loss is {loss}"
                if not math.isfinite(loss)
                else f"the norm of the gradients is {norm}"
            )
            place = where(self.model, lambda: part_loss(self.model, batch, None, 0, 1.0, 1.0))
            raise DivergedError(
                f"{what} at step {self.taken + 1}; the first value that is not finite: {place}"
            )
        if self.hyper.clip:
            torch.nn.utils.clip_grads_with_norm_(self.params, self.hyper.clip, norm_of_all)
        # the pool's threads are single ones: only where they are as many as torch would use
        self.optimizer.step(lr, self.pool if self.hyper.shards >= torch.get_num_threads() else None)
        if self.average is not None:
            self.average.update()
        self.taken += 1
        return loss, {"gradient_norm": norm} | balanced(self.balancer, self.average)

    def _side_by_side(self, parts: Sequence[PackedBatch], targets: int, tokens: int) -> list[_Part]:
        self.balancer.begin(len(parts), self.taken)
        work = [
            self.pool.submit(
                self._gradients, n, part, len(part.rows) / targets, len(part.tokens) / tokens
            )
            for n, part in enumerate(parts)
        ]
        errors = [error for future in work if (error := future.exception()) is not None]
        if errors:  # a part that only waited for another that failed tells less
            raise min(
                errors, key=lambda error: isinstance(error.__cause__, threading.BrokenBarrierError)
            )
        return [future.result() for future in work]

    def _gradients(self, n: int, part: PackedBatch, of_targets: float, of_tokens: float) -> _Part:
        try:
            total, loss = part_loss(self.model, part, self.balancer, n, of_targets, of_tokens)
            return _Part(torch.autograd.grad(total, self.params), loss.item())
        except BaseException:
            self.balancer.abort()
            raise

    def state_dict(self) -> dict[str, Any]:
        """Raises `DivergedError` if the weights are not finite."""
        if (bad := bad_weight(self.model)) is not None:
            raise DivergedError(f"step {self.taken} made weights that are not finite: {bad}")
        return state_of(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        put_state(self, state)

    def finish(self) -> Transformer:
        if self.average is not None:
            self.average.put()
        return self.model.eval()

    def close(self) -> None:
        self.pool.shutdown()
        plain(self.model)
        for p in self.params:
            p.grad = None


def balanced(balancer: Balancer, average: Average | None) -> dict[str, float]:
    """End a step for its balancer; the metrics. What a router's bias takes over from a selection
    bias the averaged one gets in full: the weights that were averaged chose with it too.
    """
    metrics = balancer.end()
    if average is not None:
        for bias, change in balancer.handed_over:
            average.move(bias, change)
    return metrics


@dataclass(frozen=True)
class _Part:
    gradients: tuple[Tensor, ...]
    loss: float  # the part's share of the step's mean


def _added(sums: list[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    if not sums:
        return list(gradients)
    for total, gradient in zip(sums, gradients, strict=True):
        total += gradient
    return sums


def part_loss(
    model: Transformer,
    part: PackedBatch,
    balancer: Balancer | None,
    n: int,
    of_targets: float,
    of_tokens: float,
) -> tuple[Tensor, Tensor]:
    """(what to differentiate, cross-entropy) of part `n` of a step, which has these shares of the
    step's targets and tokens. Both are shares of the step's mean; the first includes the auxiliary
    losses of `balancer`.
    """
    device = model.device
    logits: dict[int, Tensor] = {}
    rows = torch.tensor(part.rows, dtype=torch.int64, device=device)  # also where there are none
    batch = Batch.packed(part.lengths, device, output_rows=rows, router_logits=logits)
    x_RD = model.hidden(torch.tensor(part.tokens, device=device), batch)
    targets = torch.tensor(part.targets, dtype=torch.int64, device=device)
    loss = of_targets * cross_entropy(x_RD, model.unembedding.weight, targets)
    if balancer is None:
        return loss, loss
    return loss + balancer.loss(n, logits, part.lengths, of_tokens), loss.detach()


# ---- what every worker keeps from step to step ----


class Stateful(Protocol):
    taken: int
    named: Any  # name -> parameter
    optimizer: Any
    balancer: Balancer
    average: Any  # of the weights, or None
    model: Transformer


def state_of(worker: Stateful) -> dict[str, Any]:
    average = {"average": worker.average.state_dict()} if worker.average is not None else {}
    state = {"model": dict(worker.named), "optimizer": worker.optimizer.state_dict()}
    # on a CPU bits depend on what multiplies, too
    serving = {"products": asdict(products.serving())} if worker.model.device.type == "cpu" else {}
    return {
        "taken": worker.taken,
        **state,
        **average,
        "balancer": worker.balancer.state_dict(),
        **serving,
    }


@torch.no_grad()
def put_state(worker: Stateful, state: dict[str, Any]) -> None:
    if "products" in state and worker.model.device.type == "cpu":
        products.go_on_with(state["products"])
    worker.taken = state["taken"]
    for name, p in worker.named.items():
        p.copy_(state["model"][name])
    worker.optimizer.load_state_dict(state["optimizer"])
    worker.balancer.load_state_dict(state["balancer"])
    if worker.average is not None:
        worker.average.load_state_dict(state["average"])
