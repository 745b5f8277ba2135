"""Steps of a run on several processes, started by torchrun: what `loop.train` uses where
`run.parallel` is given.

Every process reads the same batches and takes its part of each; those of one tensor-parallel group
take the same part. A loss is divided by the targets of the whole step, gradients are added up by
`model/parallel.py`. Knows the model, one batch and the environment that torchrun makes; the state
on disk is `state.py`'s.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ossia.data.packing import PackedBatch
from ossia.errors import ConfigError
from ossia.kernels import products
from ossia.model import Transformer
from ossia.model.parallel import Meshes, apply, assign, check, local, whole
from ossia.model.processes import begin_processes
from ossia.train.balance import Balancer
from ossia.train.diagnose import bad_activation
from ossia.train.objective import PartLoss
from ossia.train.parallel.optim import clip_gradients, norm_of_gradients, spread
from ossia.train.parallel.state import ShardedSaver
from ossia.train.run import Run
from ossia.train.settings import Parallel
from ossia.train.state import State
from ossia.train.step import (
    Metrics,
    Parts,
    Worker,
    hidden,
    part_loss,
    sums_and_most,
    without_graph,
)
from ossia.train.weights import export as weights
from ossia.train.weights.device import device_of
from ossia.train.weights.quantization import set_fake_quantize

NONE = np.zeros(0, np.int64)
TOKEN = np.zeros(1, np.int64)


def nothing_like(part: PackedBatch) -> PackedBatch:
    """A token, no target, and the same streams."""
    streams = {name: values[:0] for name, values in part.streams.items()}
    return PackedBatch(TOKEN, [1], rows=NONE, targets=NONE, streams=streams)


def _over_processes(metrics: Metrics, how: Any) -> Metrics:
    """Collective; every process has the same names."""
    if not metrics:
        return {}
    values = torch.tensor([*metrics.values()], dtype=torch.float64)
    dist.all_reduce(values, how)
    return dict(zip(metrics, values.tolist(), strict=True))


def prepare(run: Run) -> tuple[DistributedStep, ShardedSaver]:
    """The worker and the store of this process. Collective: all processes that torchrun has started
    call it.

    Raises `ConfigError` if there are not as many processes as `run.parallel` says, if sizes of the
    model do not divide, or if the run asks for what works in one process only.
    """
    assert run.parallel is not None
    parallel = run.parallel
    if run.lora is not None and parallel.processes > parallel.replicate:
        raise ConfigError(
            "LoRA's frozen model is whole in every process, and only the tokens are divided: set "
            f"parallel.replicate={parallel.processes}, and leave fsdp, ep and tp out"
        )
    if run.hyper.compile:
        raise ConfigError(
            "hyper.compile works in one process only: set it to false, or leave parallel out"
        )
    if run.halves:
        raise ConfigError(
            "the halves of a step are compared in one process only: leave them, or parallel, out"
        )
    quantized = bool(run.quantize)
    check(run.config, ep=parallel.ep, tp=parallel.tp, quantize=quantized)
    meshes = join(parallel, device_of(run).type)
    model = start(run, meshes) if run.lora is None else weights.start(run)
    balancer = Balancer(model, run.hyper.balance, run.steps * run.updates)
    kind = DistributedStep if run.lora is None else LowRankStep
    worker = kind(model, run, balancer, meshes)
    return worker, ShardedSaver(run.out, worker.like)


def join(parallel: Parallel, device: str) -> Meshes:
    """Make this one of the processes that torchrun started: by NCCL on "cuda", else by gloo."""
    found = int(os.environ.get("WORLD_SIZE", "1"))
    wanted = parallel.processes
    if found != wanted:
        named = asdict(parallel)
        sizes = " x ".join(f"{name} {size}" for name, size in named.items())
        raise ConfigError(
            f"parallel asks for {wanted} processes ({sizes}), but there is {found}: start the run"
            f" with `torchrun --nproc-per-node {wanted} ...` on one machine, or change parallel"
        )
    begin_processes(device)
    # gathers in two moves where one might do: when saving, and under Muon for what is cut by both
    # fsdp and tp
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    return Meshes.make(**asdict(parallel), device=device)


def start(run: Run, meshes: Meshes) -> Transformer:
    """As `weights.start`, the same values, in parts: a process never holds the whole model.
    Collective.
    """
    dtype = getattr(torch, run.hyper.precision)
    with torch.device("meta"):
        model = Transformer(run.config)
    set_fake_quantize(model, run.quantize)
    model.compute_dtype = dtype
    narrow = dtype == torch.bfloat16 and not run.quantize
    apply(model, meshes, gather=dtype if narrow else None)
    model.to_empty(device=meshes.dense.device_type)
    if run.start_from is not None:
        weights.load_weights(model, run.start_from)
    else:
        rng = torch.Generator().manual_seed(run.hyper.seed)
        for name, p in model.named_parameters():
            value = torch.empty(p.shape)
            model.init_weight(name, value, rng)
            assign(p, value)
    return model.train()


class DistributedStep(Worker):
    """The worker of one process among several. `model` has been through `parallel.apply`.

    Every method is collective, and its results are the same on every process.
    """

    def __init__(self, model: Transformer, run: Run, balancer: Balancer, meshes: Meshes) -> None:
        super().__init__(model, run, balancer)
        self.quantize = run.quantize
        self.leads = dist.get_rank() == 0
        part, parts = meshes.data()
        self.part = part
        self.side_by_side = parts
        self.tp = meshes.tp
        spread(self.optimizer)
        self._agree()

    def _learn(self, parts: Parts, targets: int, tokens: int) -> tuple[float, Metrics]:
        device = self.model.device
        loss = torch.tensor(0.0, dtype=torch.float64, device=device)
        found: list[PartLoss] = []
        # every process works as often, because collectives must match
        for part in self._mine(parts):
            self.balancer.begin(1, self.taken)
            one = self._backward(part, targets, tokens)
            loss += one.loss.double()
            found.append(one)
        dist.all_reduce(loss)
        return loss.item() / self.tp, self._metrics(found)

    def _metrics(self, found: list[PartLoss]) -> Metrics:
        """Of all processes. Those of one tensor-parallel group saw the same."""
        sums, most = sums_and_most(found)
        shares = {name: value / self.tp for name, value in sums.items()}
        return _over_processes(shares, dist.ReduceOp.SUM) | _over_processes(most, dist.ReduceOp.MAX)

    def _mine(self, parts: Parts) -> Parts:
        """One part for every round; in the last one there may be none left for this process."""
        rounds = math.ceil(len(parts) / self.side_by_side)
        mine = [*parts[self.part :: self.side_by_side], nothing_like(parts[0])]
        return mine[:rounds]

    def _backward(self, part: PackedBatch, targets: int, tokens: int) -> PartLoss:
        """Adds to the gradients; the part's loss, without its graph. A part without targets goes
        through the model and counts for nothing: the other processes wait for this one in every
        layer.
        """
        if not len(part.rows):
            found = self._without_targets(part)
        else:
            of_targets = len(part.rows) / targets
            of_tokens = len(part.tokens) / tokens
            found = part_loss(
                self.model, part, self.balancer, 0, of_targets, of_tokens, self.objective
            )
        found.total.backward()
        return without_graph(found)

    def _without_targets(self, part: PackedBatch) -> PartLoss:
        x_RD, logits = hidden(self.model, part)
        found = self.objective.loss(self.model, x_RD, part, 0.0)
        of_no_token = {layer: x_TE[:0] for layer, x_TE in logits.items()}
        self.balancer.loss(0, of_no_token, [], 0.0)
        return found

    def _norm(self) -> float:
        return norm_of_gradients(self.params)

    def _clip(self, norm: float) -> None:
        clip_gradients(self.params, norm, self.hyper.clip)

    def _update(self, lr: float) -> None:
        self.optimizer.step(lr)
        for p in self.params:
            p.grad = None

    def _first_bad(self, batch: PackedBatch, parts: Parts) -> str:
        def forward() -> None:
            for part in self._mine(parts):
                hidden(self.model, part)

        weight = self._bad_weight()
        activation = _first(bad_activation(self.model, forward))
        return weight or activation or "a gradient, while all activations are finite"

    def _bad_weight(self) -> str | None:
        return _first(bad_weight(self.named))

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._agree()

    def _agree(self) -> None:
        """What multiplies in the leading process does in all, so that copies of a weight stay the
        same. Collective.
        """
        if self.model.device.type == "cpu":
            found: list[Any] = [None]
            if self.leads:
                found = [products.serving()]
            dist.broadcast_object_list(found)
            products.use(found[0])

    def like(self, path: tuple[Any, ...]) -> Tensor | None:
        """The parameter that a tensor of the state belongs to, and is cut as; None if to none.
        `path` leads to it in `state_dict()`.
        """
        match path:
            case ("model", name):
                return self.named[name]
            case ("average", "values", int(n)):
                return self.params[n]
            case ("optimizer", int(n), "state", int(p), _):
                params: list[Tensor] = []
                for group in self.optimizer.all[n].param_groups:
                    params += group["params"]
                return params[p]
        return None

    def finish(self) -> Transformer:
        """On the leading process the trained model, whole and on the CPU; on the others their parts
        of it.
        """
        model = gather(super().finish(), self.leads)
        model.compute_dtype = self.model.compute_dtype
        set_fake_quantize(model, self.quantize)
        return model.eval()


class LowRankStep(DistributedStep):
    """Of LoRA: the model is whole in every process, frozen, and so are its low-rank changes, whose
    gradients are added up.
    """

    def _learn(self, parts: Parts, targets: int, tokens: int) -> tuple[float, Metrics]:
        for p in self.params:  # a process whose tokens miss an expert has no gradient of it
            p.grad = torch.zeros_like(p)
        learned = super()._learn(parts, targets, tokens)
        gradients = self._gradients()
        flat = [gradient.flatten() for gradient in gradients]
        together = torch.cat(flat)  # one message
        dist.all_reduce(together)
        begin = 0
        for gradient in gradients:
            end = begin + gradient.numel()
            piece = together[begin:end]
            gradient.copy_(piece.view_as(gradient))
            begin = end
        return learned

    def _norm(self) -> float:
        gradients = self._gradients()
        total = torch.nn.utils.get_total_norm(gradients)
        return total.item()

    def _gradients(self) -> list[Tensor]:
        found: list[Tensor] = []
        for p in self.params:
            assert p.grad is not None
            found.append(p.grad)
        return found

    def _clip(self, norm: float) -> None:
        most = self.hyper.clip
        device = self.model.device
        total = torch.tensor(norm, device=device)
        torch.nn.utils.clip_grads_with_norm_(self.params, most, total)

    def like(self, path: tuple[Any, ...]) -> Tensor | None:
        """None: all of the state is whole everywhere."""
        return None

    def finish(self) -> Transformer:
        """On every process, on the CPU."""
        return Worker.finish(self).cpu()


def _first(found: str | None) -> str | None:
    """What the first process found that found anything. Collective."""
    everywhere = [found] * dist.get_world_size()
    dist.all_gather_object(everywhere, found)
    return next(filter(None, everywhere), None)


def bad_weight(named: Mapping[str, Tensor]) -> str | None:
    """The first parameter whose part in this process holds a value that is not finite."""
    for name, p in named.items():
        if not torch.isfinite(local(p)).all():
            return f"weight {name}"
    return None


@torch.no_grad()
def gather(model: Transformer, here: bool) -> Transformer:
    """The whole model on the CPU where `here`, gathered one parameter at a time; `model` itself
    elsewhere.

    Collective. The process that has it needs room for all weights in float32, the others for the
    largest one.
    """
    out = Transformer(model.config).requires_grad_(False) if here else model
    targets = dict(out.named_parameters())
    for name, p in model.named_parameters():
        full = whole(p)
        if here:
            target = targets[name].requires_grad_(p.requires_grad)
            assign(target, full.cpu())
    return out
