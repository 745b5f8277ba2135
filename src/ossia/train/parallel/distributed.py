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
from collections import UserDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ossia.batch import Batch
from ossia.data.packing import PackedBatch, split
from ossia.errors import ConfigError, TrainingError
from ossia.kernels import products
from ossia.model import Transformer
from ossia.model.parallel import Meshes, apply, assign, check, local, whole
from ossia.train.balance import Balancer
from ossia.train.checkpointing import checkpoint_layers, plain
from ossia.train.diagnose import DivergedError, bad_activation
from ossia.train.losses import cross_entropy
from ossia.train.optim import Average, Optimizers
from ossia.train.parallel.optim import clip_gradients, norm_of_gradients, spread
from ossia.train.parallel.state import ShardedSaver
from ossia.train.run import Run
from ossia.train.settings import Parallel
from ossia.train.step import balanced, put_state, state_of
from ossia.train.weights.export import load_weights
from ossia.train.weights.quantization import set_fake_quantize

NOTHING = PackedBatch(
    np.zeros(1, np.int64), [1], np.zeros(0, np.int64), np.zeros(0, np.int64)
)  # a token, no target


def prepare(run: Run) -> tuple[DistributedStep, ShardedSaver]:
    """The worker and the store of this process. Collective: all processes that torchrun has started
    call it.

    Raises `ConfigError` if there are not as many processes as `run.parallel` says, if sizes of the
    model do not divide, or if the run asks for what works in one process only.
    """
    assert run.parallel is not None
    if run.lora is not None:
        raise ConfigError("LoRA is trained in one process: leave parallel out")
    if run.hyper.compile:
        raise ConfigError(
            "hyper.compile works in one process only: set it to false, or leave parallel out"
        )
    check(run.config, ep=run.parallel.ep, tp=run.parallel.tp, quantize=bool(run.quantize))
    meshes = join(run.parallel)
    model = start(run, meshes)
    worker = DistributedStep(model, run, Balancer(model, run.hyper.balance, run.steps), meshes)
    return worker, ShardedSaver(run.out, worker.like)


def join(parallel: Parallel) -> Meshes:
    """Make this one of the processes that torchrun started. Uses CUDA and NCCL where there is a
    GPU, else gloo.
    """
    found, wanted = int(os.environ.get("WORLD_SIZE", "1")), parallel.processes
    if found != wanted:
        sizes = f"replicate {parallel.replicate} x fsdp {parallel.fsdp} x ep {parallel.ep} x tp {parallel.tp}"
        raise ConfigError(
            f"parallel asks for {wanted} processes ({sizes}), but there is {found}: start the run with "
            f"`torchrun --nproc-per-node {wanted} ...` on one machine, or change parallel"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        if "WORLD_SIZE" in os.environ:
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    # gathers in two moves where one might do: when saving, and under Muon for what is cut by both
    # fsdp and tp
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    return Meshes.make(parallel.replicate, parallel.fsdp, parallel.ep, parallel.tp, device)


def start(run: Run, meshes: Meshes) -> Transformer:
    """As `weights.start`, the same values, in parts: a process never holds the whole model.
    Collective.
    """
    low = run.hyper.precision == "bfloat16"
    with torch.device("meta"):
        model = Transformer(run.config)
    set_fake_quantize(model, run.quantize)
    model.compute_dtype = torch.bfloat16 if low else torch.float32
    apply(model, meshes, gather=torch.bfloat16 if low and not run.quantize else None)
    model.to_empty(device=meshes.dense.device_type)
    if run.start_from is not None:
        load_weights(model, run.start_from)
    else:
        rng = torch.Generator().manual_seed(run.hyper.seed)
        for name, p in model.named_parameters():
            value = torch.empty(p.shape)
            model.init_weight(name, value, rng)
            assign(p, value)
    return model.train()


class DistributedStep:
    """`step.Worker` of one process among several. `model` has been through `parallel.apply`."""

    def __init__(self, model: Transformer, run: Run, balancer: Balancer, meshes: Meshes) -> None:
        h = run.hyper
        self.model, self.hyper, self.balancer, self.quantize = model, h, balancer, run.quantize
        self.leads = dist.get_rank() == 0
        self.part, self.parts = meshes.data()
        self.tp = meshes.tp
        self.taken = 0
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.params = list(self.named.values())
        self.optimizer = spread(Optimizers(model, h.peak_lr, h.weight_decay, h.betas, h.muon))
        self.average = Average(self.params, h.ema) if h.ema else None
        if h.checkpoint_layers:
            checkpoint_layers(model)
        self._agree()

    def step(self, batch: PackedBatch, lr: float) -> tuple[float, dict[str, float]]:
        """(loss of the whole step, metrics), the same on every process. Raises `DivergedError` on
        every process, before anything has changed, if the loss or the gradients are not finite.
        """
        parts = split(batch, self.parts * self.hyper.accumulate)
        targets, tokens = sum(len(p.rows) for p in parts), sum(len(p.tokens) for p in parts)
        if not targets:
            raise TrainingError(
                "a batch has no token to learn: the masks of its examples are empty"
            )
        loss = torch.zeros((), dtype=torch.float64, device=self.model.device)
        for first in range(
            0, len(parts), self.parts
        ):  # every process works as often, because collectives must match
            mine = parts[first + self.part] if first + self.part < len(parts) else None
            self.balancer.begin(1, self.taken)
            loss += self._backward(mine, targets, tokens)
        dist.all_reduce(loss)
        norm = norm_of_gradients(self.params)
        self._check(loss.item(), norm, parts)
        if self.hyper.clip:
            clip_gradients(self.params, norm, self.hyper.clip)
        self.optimizer.step(lr)
        if self.average is not None:
            self.average.update()
        for p in self.params:
            p.grad = None
        self.taken += 1
        return loss.item() / self.tp, {"gradient_norm": norm} | balanced(
            self.balancer, self.average
        )

    def _backward(self, part: PackedBatch | None, targets: int, tokens: int) -> Tensor:
        """Adds to the gradients; the part's share of the loss. Without a part, a token goes through
        the model that counts for nothing: the other processes wait for this one in every layer.
        """
        there = part is not None
        part = NOTHING if part is None else part
        x_RD, logits = _hidden(self.model, part)
        targets_R = torch.as_tensor(part.targets, dtype=torch.int64, device=self.model.device)
        loss = (
            len(part.rows) / targets * cross_entropy(x_RD, self.model.unembedding.weight, targets_R)
        )
        if there:
            total = loss + self.balancer.loss(0, logits, part.lengths, len(part.tokens) / tokens)
        else:
            self.balancer.loss(0, {layer: x_TE[:0] for layer, x_TE in logits.items()}, [], 0.0)
            total = loss
        total.backward()
        return loss.detach().double()

    def _check(self, loss: float, norm: float, parts: list[PackedBatch]) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        mine = [*parts[self.part :: self.parts], NOTHING][
            : -(-len(parts) // self.parts)
        ]  # one for every round
        found = [
            bad_weight(self.named),
            bad_activation(self.model, lambda: [_hidden(self.model, p) for p in mine]),
        ]
        everywhere: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everywhere, found)
        weights, activations = zip(*everywhere, strict=True)
        place = next(
            (p for p in (*weights, *activations) if p),
            "a gradient, while all activations are finite",
        )
        what = (
            f"the loss is {loss}"
            if not math.isfinite(loss)
            else f"the norm of the gradients is {norm}"
        )
        raise DivergedError(
            f"{what} at step {self.taken + 1}; the first value that is not finite: {place}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Raises `DivergedError`, on every process, if the weights are not finite."""
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, bad_weight(self.named))
        if any(found):
            raise DivergedError(
                f"step {self.taken} made weights that are not finite: {next(filter(None, found))}"
            )
        return state_of(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        put_state(self, state)
        self._agree()

    def _agree(self) -> None:
        """What multiplies in the leading process does in all, so that copies of a weight stay the
        same. Collective.
        """
        if self.model.device.type == "cpu":
            found = [products.serving()] if self.leads else [None]
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
                groups = self.optimizer.all[n].param_groups
                of_group: list[Tensor] = [param for group in groups for param in group["params"]]
                return of_group[p]
        return None

    def finish(self) -> Transformer:
        """On the leading process the trained model, whole and on the CPU; on the others their parts
        of it.
        """
        if self.average is not None:
            self.average.put()
        model = gather(self.model, self.leads)
        model.compute_dtype = self.model.compute_dtype
        set_fake_quantize(model, self.quantize)
        return model.eval()

    def close(self) -> None:
        plain(self.model)
        for p in self.params:
            p.grad = None


def _hidden(model: Transformer, part: PackedBatch) -> tuple[Tensor, UserDict[int, Tensor]]:
    """The rows that the loss reads, and the routers' logits by layer.

    These go into a mapping that is no dict: FSDP2 looks for tensors in the dicts of a layer's
    arguments, and would take the logits of earlier layers for inputs of this one.
    """
    logits: UserDict[int, Tensor] = UserDict()
    rows = torch.as_tensor(part.rows, dtype=torch.int64, device=model.device)
    batch = Batch.packed(part.lengths, model.device, output_rows=rows, router_logits=logits)
    return model.hidden(torch.as_tensor(part.tokens, device=model.device), batch), logits


def bad_weight(named: Mapping[str, Tensor]) -> str | None:
    """The first parameter whose part in this process holds a value that is not finite."""
    return next(
        (f"weight {n}" for n, p in named.items() if not bool(torch.isfinite(local(p)).all())), None
    )


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
            assign(targets[name].requires_grad_(p.requires_grad), full.cpu())
    return out
