"""Activation checkpointing and compilation, put on the layers of a model from outside and taken off
again.

With checkpointing a layer keeps only its input; what its backward pass needs is computed again when
it is needed (Chen et al., arXiv 1604.06174). Knows blocks as modules, nothing of what is in them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ossia.kernels import as_in_training
from ossia.model import Transformer
from ossia.model.common import RMSNorm
from ossia.model.moe import Router


def checkpoint_layers(model: Transformer) -> None:
    """Let every block forget its activations, wherever gradients are wanted. Gradients are the same
    bits as without.
    """
    for layer in model.layers:
        layer.forward = _Forgetful(layer.forward)


def compile_parts(model: Transformer) -> None:
    """torch.compile, on first use, for what is neither a hand-written kernel everywhere nor one
    matrix product: the norms and the routers; on a CPU it then takes the place of the compiled
    norm. (Around the kernels the compiler would compile again for every batch.) Needs a C++
    compiler; sums are then in another order.
    """
    for module in _compiled(model):
        module.forward = torch.compile(module.forward, dynamic=True, fullgraph=True)


def plain(model: Transformer) -> None:
    """Take off what the others put on."""
    for module in (*model.layers, *_compiled(model)):
        vars(module).pop("forward", None)


def _compiled(model: Transformer) -> list[nn.Module]:
    parts = model.modules()
    return [part for part in parts if isinstance(part, RMSNorm | Router)]


class _Forgetful:
    def __init__(self, forward: Any) -> None:
        self.forward = forward

    def __call__(self, *args: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args)
        return checkpoint(self.again, *args, use_reentrant=False, preserve_rng_state=False)

    def again(self, *args: Any) -> Any:
        """Also what is frozen by the kernels of training, which the first time had, too."""
        with as_in_training():
            return self.forward(*args)
