"""Optimizers: AdamW for vectors and tables, Muon for matrices, the experts' stacks of matrices included.

Muon (Keller Jordan et al., https://kellerjordan.github.io/posts/muon/) steps along the momentum with all its singular
values brought to about 1. torch.optim.Muon takes single matrices only; an expert tensor
[E, rows, columns] is E of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the quintic of the reference, which drives singular values into [0.7, 1.2]
STEPS = 5


def orthogonalize(g: Tensor) -> Tensor:
    """U V^T for every matrix U S V^T in the last two dimensions, roughly, by a Newton-Schulz iteration."""
    a, b, c = NEWTON_SCHULZ
    wide = g.shape[-2] <= g.shape[-1]
    x = g if wide else g.mT
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(STEPS):
        s = x @ x.mT
        x = a * x + (b * s + c * (s @ s)) @ x
    out: Tensor = x if wide else x.mT
    return out.float()


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized, times 0.2 sqrt(max(rows, columns)): then a step is as long as one of AdamW,
    and both can share a learning rate and weight decay (Liu et al., arXiv 2502.16982, sec. 2.2)."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.1):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalize(p.grad.lerp(state["momentum"], group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape[-2:]) ** 0.5)


class Optimizers:
    """One learning rate for several optimizers, and one state for all of them."""

    def __init__(
        self, model: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float], muon: bool
    ) -> None:
        """Weight decay on matrices only: not on biases, norms, sinks, nor the two tables."""
        named = list(model.named_parameters())
        matrices = [p for n, p in named if n.endswith("weight") and "embedding" not in n]
        others = [p for n, p in named if not (n.endswith("weight") and "embedding" not in n)]
        groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
        if not muon:
            groups.append({"params": matrices, "weight_decay": weight_decay})
        self.all: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)]
        if muon:
            self.all.append(Muon(matrices, lr=lr, weight_decay=weight_decay))

    def step(self, lr: float) -> None:
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self.all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self.all, states, strict=True):
            optimizer.load_state_dict(state)
