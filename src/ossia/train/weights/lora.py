"""LoRA: frozen weights with trained low-rank changes, W + (alpha / rank) B A (arXiv 2106.09685).

The model does not know: its linear maps and experts are swapped from outside for ones that add the
change. Packed experts stay MXFP4 and are decoded one at a time (`kernels/experts_lora.py`). Every
native name stays as it was; the changes are called `<matrix>.lora_a` and `<matrix>.lora_b`, [..,
rank, inputs] and [.., outputs, rank], and are all that is trained and stored: in files by
`adapter.py`, put into a checkpoint by `merge.py`.

E experts, r rank.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor, nn

from ossia import kernels, mxfp4
from ossia.errors import ConfigError
from ossia.kernels.experts_lora import FrozenMatrices, LowRank, experts_lora
from ossia.model import PackedExperts, TrainableExperts, Transformer
from ossia.model.common import Linear
from ossia.model.moe import Experts
from ossia.model.transformer import Block
from ossia.train.settings import Lora

ADAPTER = "adapter.json"  # the settings, beside the weights and the config of a run
A, B = "lora_a", "lora_b"
ATTENTION = ("q", "k", "v", "out")
EXPERTS = ("gate_up", "down")
Leaf = PackedExperts | TrainableExperts


class LoraLinear(Linear):
    """y = x W^T + b + s (x A^T) B^T, of which only A and B are trained."""

    def __init__(self, base: Linear, rank: int, scale: float) -> None:
        nn.Module.__init__(self)  # the weights are the base's own
        self.weight, self.bias, self.scale = base.weight, base.bias, scale
        outputs, inputs = base.weight.shape
        self.lora_a = nn.Parameter(torch.zeros(rank, inputs, device=base.weight.device))
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank, device=base.weight.device))

    def forward(self, x_TK: Tensor) -> Tensor:
        y_TN = super().forward(x_TK)
        low = x_TK.to(y_TN.dtype) @ self.lora_a.to(y_TN.dtype).T
        return y_TN + (low @ self.lora_b.to(y_TN.dtype).T) * self.scale

    def delta(self) -> Tensor:
        """What is added to the weight, in float32."""
        return low_rank_product(self.lora_a.detach(), self.lora_b.detach(), self.scale)


class LoraExperts(Experts):
    """The experts with frozen matrices, and low-rank changes if `rank` is not 0.

    With `fake_quantize` the forward sees matrix and change together, rounded to MXFP4 under that
    rule, with the gradient of the identity: what merging under the rule will store.
    """

    def __init__(self, base: Experts, rank: int, scale: float) -> None:
        nn.Module.__init__(self)
        self.gate_up, self.down = base.gate_up, base.down
        self.rank, self.scale = rank, scale
        self.fake_quantize: bool | mxfp4.ScaleRule = False
        for leaf in (self.gate_up, self.down) if rank else ():
            experts, rows, columns = shape_of(leaf)
            place = leaf.bias.device
            leaf.register_parameter(
                A, nn.Parameter(torch.zeros(experts, rank, columns, device=place))
            )
            leaf.register_parameter(B, nn.Parameter(torch.zeros(experts, rows, rank, device=place)))

    def forward(self, x_TD: Tensor, choice_Tk: Tensor, weight_Tk: Tensor, limit: float) -> Tensor:
        trained = any(p.requires_grad for p in self.parameters())
        if torch.is_grad_enabled() and (x_TD.requires_grad or weight_Tk.requires_grad or trained):
            return experts_lora(
                x_TD, choice_Tk, weight_Tk, self._pair(self.gate_up), self._pair(self.down), limit
            )
        gate_up = partial(self.matrix, self.gate_up), self.gate_up.bias
        down = partial(self.matrix, self.down), self.down.bias
        return kernels.experts(x_TD, choice_Tk, weight_Tk, gate_up, down, limit)

    def matrix(self, leaf: Leaf, expert: int, dtype: torch.dtype) -> Tensor:
        """What the forward sees of one expert: matrix and change together."""
        if not self.rank:
            return leaf.matrix(expert, dtype)
        whole = leaf.matrix(expert, torch.float32) + self._low_rank(leaf, detached=True).delta(
            expert
        )
        if self.fake_quantize:
            whole = mxfp4.fake_quantize(whole, mxfp4.rule_of(self.fake_quantize))
        return whole.to(dtype)

    def _pair(self, leaf: Leaf) -> tuple[FrozenMatrices, LowRank | None]:
        if not self.rank:
            return FrozenMatrices(leaf.matrix, leaf.bias), None
        if self.fake_quantize:
            return FrozenMatrices(
                partial(self.matrix, leaf), leaf.bias, whole=True
            ), self._low_rank(leaf)
        return FrozenMatrices(leaf.matrix, leaf.bias), self._low_rank(leaf)

    def _low_rank(self, leaf: Leaf, detached: bool = False) -> LowRank:
        a, b = getattr(leaf, A), getattr(leaf, B)
        return (
            LowRank(a.detach(), b.detach(), self.scale) if detached else LowRank(a, b, self.scale)
        )


def low_rank_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale * b @ a: [rows, r] by [r, columns], added up in float32."""
    return (b.float() @ a.float()).mul_(scale)


def shape_of(leaf: Leaf) -> tuple[int, int, int]:
    """(experts, rows, columns) of the matrices."""
    if isinstance(leaf, TrainableExperts):
        return leaf.weight.shape[0], leaf.weight.shape[1], leaf.weight.shape[2]
    blocks: Tensor = leaf.blocks  # type: ignore[assignment]
    return blocks.shape[0], blocks.shape[1], blocks.shape[2] * mxfp4.BLOCK


def attach(model: Transformer, lora: Lora, seed: int = 0) -> Transformer:
    """Freeze `model` and give it low-rank changes, in place: A is normal with variance 1 / inputs,
    B zero, so that nothing changes yet. Experts may be packed or trainable. Raises `ConfigError` if
    it has changes already.
    """
    if any(isinstance(module, LoraLinear | LoraExperts) for module in model.modules()):
        raise ConfigError(
            "the model has low-rank changes already: merge them, then attach new ones"
        )
    model.requires_grad_(False)
    scale = lora.alpha / lora.rank
    for layer in model.layers:
        assert isinstance(layer, Block)
        for name in ATTENTION if lora.attention else ():
            setattr(layer.attn, name, LoraLinear(getattr(layer.attn, name), lora.rank, scale))
        # also where the experts keep their matrices: it is this kernel that needs no gradients of
        # them
        layer.moe.experts = LoraExperts(layer.moe.experts, lora.rank if lora.experts else 0, scale)
    for name, p in model.named_parameters():
        if name.endswith(A):
            rng = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ (seed << 32))
            p.data.copy_(torch.randn(p.shape, generator=rng) * p.shape[-1] ** -0.5)
    model.lora = lora  # type: ignore[assignment]
    return model


def lora_parameters(model: Transformer) -> dict[str, nn.Parameter]:
    """The trained changes by name."""
    return {name: p for name, p in model.named_parameters() if name.endswith((A, B))}


def settings_of(model: Transformer) -> Lora | None:
    """The settings under which changes were attached; None if there are none."""
    return getattr(model, "lora", None)


def describe_adapter(model: Transformer) -> bytes | None:
    """The text of `adapter.json` for a model with low-rank changes."""
    lora = settings_of(model)
    return (
        None
        if lora is None
        else json.dumps({"ossia": "lora"} | asdict(lora), indent=2).encode() + b"\n"
    )
