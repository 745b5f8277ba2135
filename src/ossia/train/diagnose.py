"""Where values first stop being finite: which layer, which part, weight or activation or gradient.

Knows the names of a Transformer's parts; runs the forward it is handed, once, without gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ossia.errors import TrainingError
from ossia.model import Transformer

PARTS = {
    "router": "router",
    "experts": "experts",
    "attn": "attention",
    "moe": "norm before the experts",
}


class DivergedError(TrainingError):
    """The loss or a gradient is not finite. The loop adds where the last good state is."""


def bad_weight(model: nn.Module) -> str | None:
    """The first parameter, in the order of the model, that holds a value that is not finite; None
    if all are good.
    """
    for name, p in model.named_parameters():
        if not _finite(p):
            return f"{_place(name)}: weight {name}"
    return None


def bad_gradient(model: nn.Module) -> str | None:
    """The parameter with such a gradient that the backward pass reached first."""
    for name, p in reversed(list(model.named_parameters())):
        if p.grad is not None and not _finite(p.grad):
            return f"{_place(name)}: gradient of {name}"
    return None


def bad_activation(model: Transformer, forward: Callable[[], Any]) -> str | None:
    """The first part whose output is not finite when `forward` runs the model."""
    found: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            floats = [t for t in tensors if t.is_floating_point()]
            if not found and not all(map(_finite, floats)):
                found.append(f"{_place(name)}: activation, the output of {name}")

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in _parts(model)]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in hooks:
            handle.remove()
    return found[0] if found else None


def where(model: Transformer, forward: Callable[[], Any]) -> str:
    """One phrase for the first thing that is not finite: a weight, else an activation, else a
    gradient.
    """
    place = bad_weight(model) or bad_activation(model, forward) or bad_gradient(model)
    return place or "all weights, activations and gradients are finite, so it is the loss itself"


def _parts(model: Transformer) -> Iterator[tuple[str, nn.Module]]:
    """In the order in which a forward runs them."""
    yield "embedding", model.embedding
    for n, layer in enumerate(model.layers):
        named = dict(layer.named_modules())
        for part in ("attn", "moe.norm", "moe.router", "moe.experts"):
            if part in named:
                yield f"layers.{n}.{part}", named[part]
    yield "norm", model.norm


def _place(name: str) -> str:
    """`layers.3.moe.experts.down.weight` -> `layer 3, experts`."""
    pieces = name.split(".")
    if pieces[0] != "layers":
        return pieces[0]
    return f"layer {pieces[1]}, " + next(text for part, text in PARTS.items() if part in pieces)


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())
