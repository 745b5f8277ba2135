"""One optimizer step: parts of a batch side by side in threads, their gradients added up, one
update.

Every target of a step weighs the same, in whatever part it is. On one thread per part the same
batch gives the same bits; the number of parts shapes the sums. Knows the model and one batch; no
data, no files. `Worker` is what steps in one process (here) and in several (`parallel/`) have in
common.
"""

from __future__ import annotations

import math
import threading
from collections import UserDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.batch import Batch
from ossia.data.packing import PackedBatch, split
from ossia.errors import TrainingError
from ossia.kernels import as_in_training, products
from ossia.model import Transformer
from ossia.train.balance import Balancer
from ossia.train.checkpointing import checkpoint_layers, compile_parts, plain
from ossia.train.diagnose import DivergedError, bad_weight, where
from ossia.train.objective import CROSS_ENTROPY, Objective, PartLoss
from ossia.train.optim import Average, Optimizers, trained
from ossia.train.run import Run
from ossia.train.state import State

Parts = list[PackedBatch]
Metrics = dict[str, float]


class Worker:
    """Does the steps of a run, and holds all that decides the next one.

    Uses all of `model`'s parameters that ask for gradients. A subclass says how the gradients of a
    step come about; what is done with them is the same everywhere.
    """

    leads = True  # whether this process writes logs and weights, and tells the watchers
    side_by_side: int  # parts of a step that are worked on at the same time

    def __init__(self, model: Transformer, run: Run, balancer: Balancer) -> None:
        h = run.hyper
        self.model = model
        self.hyper = h
        self.balancer = balancer
        self.objective = run.objective or CROSS_ENTROPY
        self.taken = 0
        self.named = trained(model)
        self.params = list(self.named.values())
        self.optimizer = Optimizers(model, h.peak_lr, h.weight_decay, h.betas, run.optimizer)
        self.average = Average(self.params, h.ema) if h.ema else None
        if h.checkpoint_layers:
            checkpoint_layers(model)

    def step(self, batch: PackedBatch, lr: float) -> tuple[float, Metrics]:
        """(loss, metrics) of one update; no update, if the objective finds nothing to learn. Raises
        `DivergedError`, before anything has changed, if the loss or the gradients are not finite.
        """
        prepared = self.objective.prepare(batch)
        if prepared is None:
            self.taken += 1
            return 0.0, {"gradient_norm": 0.0}
        batch = prepared
        parts = split(batch, self._cuts())
        targets = sum(len(part.rows) for part in parts)
        tokens = sum(len(part.tokens) for part in parts)
        if not targets:
            raise TrainingError(
                "a batch has no token to learn: the masks of its examples are empty"
            )
        loss, found = self._learn(parts, targets, tokens)
        metrics = dict(self.objective.measured(found))
        norm = self._norm()
        if not math.isfinite(loss):
            self._diverged(f"the loss is {loss}", batch, parts)
        if not math.isfinite(norm):
            self._diverged(f"the norm of the gradients is {norm}", batch, parts)
        if self.hyper.clip:
            self._clip(norm)
        self._update(lr)
        if self.average is not None:
            self.average.update()
        self.taken += 1
        return loss, {"gradient_norm": norm} | metrics | self._balanced()

    def _cuts(self) -> int:
        """Parts of a step, if it can be cut so often."""
        return self.hyper.accumulate * self.side_by_side

    # what subclasses do in their own way

    def _learn(self, parts: Parts, targets: int, tokens: int) -> tuple[float, Metrics]:
        """Give every parameter the gradient of the step; the loss of the step and the objective's
        metrics.
        """
        raise NotImplementedError

    def _norm(self) -> float:
        """Of all gradients as one vector."""
        raise NotImplementedError

    def _clip(self, norm: float) -> None:
        raise NotImplementedError

    def _update(self, lr: float) -> None:
        raise NotImplementedError

    def _first_bad(self, batch: PackedBatch, parts: Parts) -> str:
        """The place of the first value that is not finite."""
        raise NotImplementedError

    def _bad_weight(self) -> str | None:
        raise NotImplementedError

    # what is the same for all

    def _diverged(self, what: str, batch: PackedBatch, parts: Parts) -> None:
        place = self._first_bad(batch, parts)
        raise DivergedError(
            f"{what} at step {self.taken + 1}; the first value that is not finite: {place}"
        )

    def _balanced(self) -> Metrics:
        """End a step for its balancer; the metrics. What a router's bias takes over from a
        selection bias the averaged one gets in full: the weights that were averaged chose with it
        too.
        """
        metrics = self.balancer.end()
        if self.average is not None:
            for bias, change in self.balancer.handed_over:
                self.average.move(bias, change)
        return metrics

    def state_dict(self) -> State:
        """All that decides the next step, without copies. Raises `DivergedError` if the weights
        are not finite.
        """
        bad = self._bad_weight()
        if bad is not None:
            raise DivergedError(f"step {self.taken} made weights that are not finite: {bad}")
        state = {
            "taken": self.taken,
            "model": dict(self.named),
            "optimizer": self.optimizer.state_dict(),
            "balancer": self.balancer.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.model.device.type == "cpu":  # there bits depend on what multiplies, too
            state["products"] = asdict(products.serving())
        return state

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        if "products" in state and self.model.device.type == "cpu":
            products.go_on_with(state["products"])
        self.taken = state["taken"]
        for name, p in self.named.items():
            p.copy_(state["model"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.balancer.load_state_dict(state["balancer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def finish(self) -> Transformer:
        """The trained model, whole, in eval mode, with averaged weights if the run averages."""
        if self.average is not None:
            self.average.put()
        return self.model.eval()

    def close(self) -> None:
        plain(self.model)
        for p in self.params:
            p.grad = None


@dataclass(frozen=True)
class _Part:
    gradients: tuple[Tensor, ...]
    loss: PartLoss


class ThreadedStep(Worker):
    """The worker of one process: `hyper.shards` parts at a time, each on one thread. Where
    `run.threads` are fewer, some wait for others; the sums are the same. A GPU gets one part after
    the other, if they do not wait for each other.
    """

    def __init__(self, model: Transformer, run: Run, balancer: Balancer) -> None:
        super().__init__(model, run, balancer)
        self.side_by_side = run.hyper.shards
        self.halves = run.halves
        self.threads = self._threads(run)
        self.pool = ThreadPoolExecutor(
            self.threads, "part", initializer=torch.set_num_threads, initargs=(1,)
        )
        if run.hyper.compile:
            compile_parts(model)
        if model.device.type == "cpu":
            products.serving()  # measured now, if need be, while nothing else runs

    def _threads(self, run: Run) -> int:
        if self.model.device.type != "cpu" and not run.parts_wait:
            return 1  # a part alone can fill the device, and its activations are the only ones
        return min(self.side_by_side, run.threads or self.side_by_side)

    def _cuts(self) -> int:
        cuts = super()._cuts()
        return cuts + cuts % 2 if self.halves else cuts

    def _learn(self, parts: Parts, targets: int, tokens: int) -> tuple[float, Metrics]:
        losses: list[PartLoss] = []
        gradients: list[Tensor] = []
        half: list[Tensor] = []  # of the parts up to the middle
        for first in range(0, len(parts), self.side_by_side):
            together = parts[first : first + self.side_by_side]
            for part in self._together(together, targets, tokens):
                losses.append(part.loss)
                gradients = _added(gradients, part.gradients)
                if self.halves and len(losses) == len(parts) // 2:
                    half = [gradient.clone() for gradient in gradients]
        for p, gradient in zip(self.params, gradients, strict=True):
            p.grad = gradient
        loss = 0.0
        for one in losses:
            loss += one.loss.item()
        sums, most = sums_and_most(losses)
        return loss, sums | most | _cosine(half, gradients)

    def _together(self, parts: Parts, targets: int, tokens: int) -> list[_Part]:
        self.balancer.begin(len(parts), self.taken)
        work: list[Future[_Part]] = []
        for n, part in enumerate(parts):
            of_targets = len(part.rows) / targets
            of_tokens = len(part.tokens) / tokens
            work.append(self.pool.submit(self._gradients, n, part, of_targets, of_tokens))
        errors = list(filter(None, [future.exception() for future in work]))
        if errors:
            raise min(errors, key=_only_waited)
        return [future.result() for future in work]

    def _gradients(self, n: int, part: PackedBatch, of_targets: float, of_tokens: float) -> _Part:
        try:
            loss = part_loss(
                self.model, part, self.balancer, n, of_targets, of_tokens, self.objective
            )
            gradients = torch.autograd.grad(loss.total, self.params)
            return _Part(gradients, without_graph(loss))
        except BaseException:
            self.balancer.abort()
            raise

    def _norm(self) -> float:
        gradients = [p.grad for p in self.params if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients).item()

    def _clip(self, norm: float) -> None:
        first = self.params[0]
        total = torch.tensor(norm, dtype=first.dtype, device=first.device)
        torch.nn.utils.clip_grads_with_norm_(self.params, self.hyper.clip, total)

    def _update(self, lr: float) -> None:
        # the pool's threads are single ones: only where they are as many as torch would use
        enough = self.threads >= torch.get_num_threads() and self.model.device.type == "cpu"
        self.optimizer.step(lr, self.pool if enough else None)

    def _first_bad(self, batch: PackedBatch, parts: Parts) -> str:
        def forward() -> PartLoss:
            return part_loss(self.model, batch, None, 0, 1.0, 1.0, self.objective)

        return where(self.model, forward)

    def _bad_weight(self) -> str | None:
        return bad_weight(self.model)

    def finish(self) -> Transformer:
        """As of several processes: on the CPU, wherever it was trained."""
        return super().finish().cpu()

    def close(self) -> None:
        self.pool.shutdown()
        super().close()


def _only_waited(error: BaseException) -> bool:
    """For a part that failed: such an error tells less than that one's."""
    return isinstance(error.__cause__, threading.BrokenBarrierError)


def _added(sums: list[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    if not sums:
        return list(gradients)
    for total, gradient in zip(sums, gradients, strict=True):
        total += gradient
    return sums


def _cosine(half: Sequence[Tensor], whole: Sequence[Tensor]) -> Metrics:
    """Between the gradient of one half of a step and that of the rest: near 1 where a step of half
    the size would do, near 0 where it is mostly noise. Nothing without halves, or if one is 0.
    """
    if not half:
        return {}
    both = 0.0
    of_one = 0.0
    of_other = 0.0
    for one, total in zip(half, whole, strict=True):
        other = total - one
        both += _dot(one, other)
        of_one += _dot(one, one)
        of_other += _dot(other, other)
    scale = math.sqrt(of_one * of_other)
    return {"halves_cosine": both / scale} if scale else {}


def _dot(a: Tensor, b: Tensor) -> float:
    return (a * b).sum(dtype=torch.float64).item()


def without_graph(loss: PartLoss) -> PartLoss:
    number = loss.loss.detach()
    return replace(loss, total=number, loss=number)


def sums_and_most(losses: Sequence[PartLoss]) -> tuple[Metrics, Metrics]:
    """The metrics of these parts together, by how they come together."""
    sums: Metrics = {}
    most: Metrics = {}
    for loss in losses:
        for name, value in loss.sums.items():
            sums[name] = sums.get(name, 0.0) + value
        for name, value in loss.most.items():
            most[name] = max(most.get(name, value), value)
    return sums, most


def hidden(model: Transformer, part: PackedBatch) -> tuple[Tensor, UserDict[int, Tensor]]:
    """The rows that the loss reads, and the routers' logits by layer; by the kernels of training,
    also what is frozen, so that an exact engine can do the same.

    The logits go into a mapping that is not a dict: FSDP2 looks for tensors in the dicts of a
    layer's arguments, and would take the logits of earlier layers for inputs of this one.
    """
    logits: UserDict[int, Tensor] = UserDict()
    device = model.device
    batch = packed(part, device, logits)
    with as_in_training():
        return model.hidden(_ids(part.tokens, device), batch), logits


def packed(
    part: PackedBatch, device: torch.device, logits: UserDict[int, Tensor] | None = None
) -> Batch:
    """What the model is told of a part; the routers' logits go to `logits`."""
    starts = part.starts
    if starts is None:
        starts = [0] * len(part.lengths)
    return Batch(
        tuple(part.lengths),
        tuple(starts),
        device,
        output_rows=_ids(part.rows, device),
        gather=_some_ids(part.gather, device),
        router_logits=logits,
        experts=_some_ids(part.experts, device),
    )


def _some_ids(numbers: NDArray[Any] | None, device: torch.device) -> Tensor | None:
    return None if numbers is None else _ids(numbers, device)


def _ids(numbers: NDArray[Any], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device=device)


def part_loss(
    model: Transformer,
    part: PackedBatch,
    balancer: Balancer | None,
    n: int,
    of_targets: float,
    of_tokens: float,
    objective: Objective = CROSS_ENTROPY,
) -> PartLoss:
    """Of part `n` of a step, which has these shares of the step's targets and tokens. Its losses
    are shares of the step's; what is differentiated includes the auxiliary losses of `balancer`.
    """
    x_RD, logits = hidden(model, part)
    found = objective.loss(model, x_RD, part, of_targets)
    if balancer is None:
        return found
    auxiliary = balancer.loss(n, logits, part.lengths, of_tokens)
    return replace(found, total=found.total + auxiliary)
