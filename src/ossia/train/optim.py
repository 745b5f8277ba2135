"""Optimizers: AdamW for vectors and tables, Muon for matrices, the experts' stacks included; an
average of weights.

Muon (Keller Jordan et al., https://kellerjordan.github.io/posts/muon/) steps along the momentum
with all its singular values brought to about 1. torch.optim.Muon refuses an expert tensor [E, rows,
columns], which is E matrices, and iterates in bfloat16 everywhere, which CPUs without such
instructions emulate; so this `Muon` is our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ossia.errors import TrainingError
from ossia.kernels.products import stack_dtype
from ossia.train.settings import OptimizerName

# the quintic of the reference, which drives singular values into [0.7, 1.2]
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
STEPS = 5
MOMENTUM = 0.95

Group = dict[str, Any]  # parameters and their weight decay, as torch.optim takes them
Betas = tuple[float, float]
All = list[torch.optim.Optimizer]

FINISH_IT = "finish the run with the version that began it, or begin again"


def orthogonalize(g: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """U V^T for every matrix U S V^T in [..., rows, columns], roughly, by a Newton-Schulz iteration
    in `dtype`; None: bfloat16 or float32, what this machine is faster in.
    """
    a, b, c = NEWTON_SCHULZ
    if dtype is None:
        dtype = stack_dtype(g.device)
    rows, columns = g.shape[-2:]
    wide = rows <= columns
    x = g if wide else g.mT
    norm = x.norm(dim=(-2, -1), keepdim=True)
    x = (x / (norm + 1e-7)).to(dtype).reshape(-1, *x.shape[-2:])
    for _ in range(STEPS):
        s = x @ x.mT
        quintic = torch.baddbmm(s, s, s, beta=b, alpha=c)
        x = torch.baddbmm(x, quintic, x, beta=a)
    out: Tensor = x if wide else x.mT
    return out.to(g.dtype).reshape(g.shape)


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon with `match_rms_adamw`, for matrices and stacks of them, [..., rows,
    columns].

    Nesterov momentum, orthogonalized, times 0.2 sqrt(max(rows, columns)): then a step is as long as
    one of AdamW, and both can share a learning rate and weight decay (Liu et al., arXiv 2502.16982,
    sec. 2.2).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = MOMENTUM,
        weight_decay: float = 0.1,
    ):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None
        for piece in self.updates():
            piece()

    def updates(self) -> list[Callable[[], None]]:
        """A step as pieces, one a parameter, that may be done in any order and at the same time."""
        return [
            partial(self.update, group, p)
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        ]

    @torch.no_grad()
    def update(self, group: Group, p: Tensor) -> None:
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        momentum = state["momentum"]
        kept = group["momentum"]
        momentum.lerp_(p.grad, 1 - kept)
        direction = self.direction(p.grad.lerp(momentum, kept))
        lr = group["lr"]
        length = 0.2 * max(p.shape[-2:]) ** 0.5
        here = self.here(p)
        here.mul_(1 - lr * group["weight_decay"])
        here.add_(direction, alpha=-lr * length)

    def direction(self, update: Tensor) -> Tensor:
        return orthogonalize(update)

    def here(self, p: Tensor) -> Tensor:
        """What of the parameter is updated in this process."""
        return p


# ---- what settings can name ----


@dataclass(frozen=True)
class Optimizer:
    """A row of `OPTIMIZERS`: all that the trainer, the planner and the commands know about one.

    A new one is its row here and its name in `settings.OptimizerName`.
    """

    title: str
    state_bytes: Callable[[str], int]  # for each element of the parameter of that native name
    # (vectors and tables, matrices, learning rate, betas)
    make: Callable[[Group, Group, float, Betas], All]


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that ask for gradients, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def is_matrix(name: str) -> bool:
    """Whether a parameter is a weight and not one of the two tables: Muon's, and with decay."""
    return name.endswith("weight") and "embedding" not in name


def _adamw(others: Group, matrices: Group, lr: float, betas: Betas) -> All:
    return [torch.optim.AdamW([others, matrices], lr=lr, betas=betas, fused=True)]


def _muon(others: Group, matrices: Group, lr: float, betas: Betas) -> All:
    made: All = [torch.optim.AdamW([others], lr=lr, betas=betas, fused=True)]
    if matrices["params"]:
        made.append(Muon(**matrices, lr=lr))
    return made


OPTIMIZERS: dict[OptimizerName, Optimizer] = {
    "adamw": Optimizer("AdamW", lambda name: 8, _adamw),  # two moments in float32
    "muon": Optimizer("Muon", lambda name: 4 if is_matrix(name) else 8, _muon),
}


class Optimizers:
    """One learning rate for several optimizers, and one state for all of them."""

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        weight_decay: float,
        betas: Betas,
        optimizer: OptimizerName,
    ) -> None:
        """For the parameters that ask for gradients. Weight decay on matrices only: not on biases,
        norms, sinks, the two tables, nor LoRA's factors.
        """
        others: Group = {"params": [], "weight_decay": 0.0}
        matrices: Group = {"params": [], "weight_decay": weight_decay}
        for name, p in trained(model).items():
            group = matrices if is_matrix(name) else others
            group["params"].append(p)
        self.all = OPTIMIZERS[optimizer].make(others, matrices, lr, betas)

    def step(self, lr: float, pool: Executor | None = None) -> None:
        """One step, in pieces on the threads of `pool` if there is one; the bits are the same."""
        pieces: list[Callable[[], Any]] = []
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = lr
            if isinstance(optimizer, Muon):
                pieces += optimizer.updates()
            else:
                pieces.append(optimizer.step)
        if pool is None:
            for piece in pieces:
                piece()
            return
        for future in [pool.submit(piece) for piece in pieces]:
            future.result()

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self.all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Raises `TrainingError` for the states of other optimizers."""
        if len(states) != len(self.all):  # an earlier version had two for Muon
            raise TrainingError(
                f"the state holds {len(states)} optimizers, and this version of ossia has "
                f"{len(self.all)} for this run: {FINISH_IT}"
            )
        for optimizer, state in zip(self.all, states, strict=True):
            if isinstance(optimizer, Muon) and not _of_muon(state):
                raise TrainingError(
                    f"the state holds another Muon than this version of ossia has: {FINISH_IT}"
                )
        for optimizer, state in zip(self.all, states, strict=True):
            optimizer.load_state_dict(state)


def _of_muon(state: dict[str, Any]) -> bool:
    """An earlier version used torch's Muon where there were no stacks."""
    kept = state["state"].values()
    return all(one.keys() == {"momentum"} for one in kept)


class Average:
    """Exponential moving average of parameters: after n updates, the mean of what they were,
    weighted by decay^(n - i), the weights adding up to 1 (the correction of Adam, arXiv 1412.6980,
    sec. 3).
    """

    def __init__(self, params: Sequence[Tensor], decay: float) -> None:
        self.params = params
        self.decay = decay
        self.updates = 0
        self.values = [p.detach().clone() for p in params]

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        # 1 at first: nothing is left of the initial values
        weight = 1 - self.decay**self.updates
        share = (1 - self.decay) / weight
        for value, p in self._pairs():
            value.lerp_(p, share)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(average, parameter)"""
        return zip(self.values, self.params, strict=True)

    @torch.no_grad()
    def move(self, param: Tensor, change: Tensor) -> None:
        """Add `change` to the average of a parameter, as if all that went into it had been so from
        the beginning.
        """
        for value, p in self._pairs():
            if p is param:
                value.add_(change)

    @torch.no_grad()
    def put(self) -> None:
        """Make the parameters what their average is."""
        for value, p in self._pairs():
            p.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "values": self.values}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for value, saved in zip(self.values, state["values"], strict=True):
            value.copy_(saved)
