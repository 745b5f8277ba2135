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
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor, nn

from ossia import kernels, mxfp4
from ossia.checkpoint.adapter import A, B, Change
from ossia.errors import ConfigError
from ossia.kernels.experts_lora import FrozenMatrices, LowRank, experts_lora
from ossia.model import PackedExperts, TrainableExperts, Transformer
from ossia.model.common import Linear
from ossia.model.moe import Experts
from ossia.model.transformer import Block
from ossia.train.settings import Lora

ATTENTION = ("q", "k", "v", "out")
# Of seeds, over all 32 bits of which torch's generator makes use: an odd number, near 2^32 / phi.
SPREAD = 0x9E3779B1
Leaf = PackedExperts | TrainableExperts
Matrix = Callable[[int, torch.dtype], Tensor]


class LoraLinear(Linear):
    """y = x W^T + b + s (x A^T) B^T, of which only A and B are trained."""

    def __init__(self, base: Linear, rank: int, scale: float) -> None:
        nn.Module.__init__(self)  # the weights are the base's own
        self.weight = base.weight
        self.bias = base.bias
        self.scale = scale
        outputs, inputs = base.weight.shape
        place = base.weight.device
        self.lora_a = _zeros(place, rank, inputs)
        self.lora_b = _zeros(place, outputs, rank)

    def forward(self, x_TK: Tensor) -> Tensor:
        y_TN = super().forward(x_TK)
        dtype = y_TN.dtype
        low_Tr = kernels.linear(x_TK.to(dtype), self.lora_a)
        change_TN = kernels.linear(low_Tr, self.lora_b)
        return y_TN + change_TN * self.scale

    def delta(self) -> Tensor:
        """What is added to the weight, in float32."""
        a = self.lora_a.detach()
        b = self.lora_b.detach()
        return Change(a, b, self.scale).delta()


class LoraExperts(Experts):
    """The experts with frozen matrices, and low-rank changes if `rank` is not 0.

    With `fake_quantize` the forward sees matrix and change together, rounded to MXFP4 under that
    rule, with the gradient of the identity: what merging under the rule will store.
    """

    def __init__(self, base: Experts, rank: int, scale: float) -> None:
        nn.Module.__init__(self)
        self.gate_up = base.gate_up
        self.down = base.down
        self.rank = rank
        self.scale = scale
        self.fake_quantize: bool | mxfp4.ScaleRule = False
        if rank:
            self._add_changes(self.gate_up)
            self._add_changes(self.down)

    def _add_changes(self, leaf: Leaf) -> None:
        experts, rows, columns = shape_of(leaf)
        place = leaf.bias.device
        a = _zeros(place, experts, self.rank, columns)
        b = _zeros(place, experts, rows, self.rank)
        leaf.register_parameter(A, a)
        leaf.register_parameter(B, b)

    def forward(self, x_TD: Tensor, choice_Tk: Tensor, weight_Tk: Tensor, limit: float) -> Tensor:
        inputs = [x_TD, weight_Tk, *self.parameters()]
        if kernels.in_training(*inputs):
            gate_up_pair = self._pair(self.gate_up)
            down_pair = self._pair(self.down)
            return experts_lora(x_TD, choice_Tk, weight_Tk, gate_up_pair, down_pair, limit)
        gate_up = self._seen(self.gate_up)
        down = self._seen(self.down)
        return kernels.experts(x_TD, choice_Tk, weight_Tk, gate_up, down, limit)

    @torch.no_grad()
    def matrix(self, leaf: Leaf, expert: int, dtype: torch.dtype) -> Tensor:
        """What the forward sees of one expert: matrix and change together."""
        if not self.rank:
            return leaf.matrix(expert, dtype)
        change = self._change(leaf).delta(expert)
        whole = leaf.matrix(expert, torch.float32) + change
        if self.fake_quantize:
            rule = mxfp4.rule_of(self.fake_quantize)
            whole = mxfp4.fake_quantize(whole, rule)
        return whole.to(dtype)

    def _pair(self, leaf: Leaf) -> tuple[FrozenMatrices, LowRank | None]:
        frozen = FrozenMatrices(leaf.matrix, leaf.bias)
        if not self.rank:
            return frozen, None
        if self.fake_quantize:
            matrix, bias = self._seen(leaf)
            frozen = FrozenMatrices(matrix, bias, whole=True)
        return frozen, self._change(leaf)

    def _seen(self, leaf: Leaf) -> tuple[Matrix, Tensor]:
        return partial(self.matrix, leaf), leaf.bias

    def _change(self, leaf: Leaf) -> LowRank:
        a = getattr(leaf, A)
        b = getattr(leaf, B)
        return LowRank(a, b, self.scale)


def _zeros(place: torch.device, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape, device=place))


def shape_of(leaf: Leaf) -> tuple[int, int, int]:
    """(experts, rows, columns) of the matrices."""
    if isinstance(leaf, TrainableExperts):
        experts, rows, columns = leaf.weight.shape
        return experts, rows, columns
    blocks: Tensor = leaf.blocks  # type: ignore[assignment]
    experts, rows, groups, _ = blocks.shape
    return experts, rows, groups * mxfp4.BLOCK


def attach(model: Transformer, lora: Lora, seed: int = 0) -> Transformer:
    """Freeze `model` and give it low-rank changes, in place: A is normal with variance 1 / inputs,
    B zero, so that nothing changes yet. Experts may be packed or trainable. Raises `ConfigError` if
    it has changes already.
    """
    for module in model.modules():
        if isinstance(module, LoraLinear | LoraExperts):
            raise ConfigError(
                "the model has low-rank changes already: merge them, then attach new ones"
            )
    model.requires_grad_(False)
    scale = lora.alpha / lora.rank
    for layer in model.layers:
        assert isinstance(layer, Block)
        if lora.attention:
            for name in ATTENTION:
                base = getattr(layer.attn, name)
                changed = LoraLinear(base, lora.rank, scale)
                setattr(layer.attn, name, changed)
        # also where the experts keep their matrices: it is this kernel that needs no gradients of
        # them
        rank = lora.rank if lora.experts else 0
        layer.moe.experts = LoraExperts(layer.moe.experts, rank, scale)
    for name, p in model.named_parameters():
        if name.endswith(A):
            of_name = zlib.crc32(name.encode())
            rng = torch.Generator().manual_seed(of_name ^ seed * SPREAD % (1 << 32))
            value = torch.randn(p.shape, generator=rng)
            inputs = p.shape[-1]
            p.data.copy_(value * inputs**-0.5)
    model.lora = lora  # type: ignore[assignment]
    return model


def lora_parameters(model: Transformer) -> dict[str, nn.Parameter]:
    """The trained changes by name."""
    found: dict[str, nn.Parameter] = {}
    for name, p in model.named_parameters():
        if name.endswith((A, B)):
            found[name] = p
    return found


def settings_of(model: Transformer) -> Lora | None:
    """The settings under which changes were attached; None if there are none."""
    return getattr(model, "lora", None)


def describe_adapter(model: Transformer) -> bytes | None:
    """The text of `adapter.json` for a model with low-rank changes."""
    lora = settings_of(model)
    if lora is None:
        return None
    settings = {"ossia": "lora", **asdict(lora)}
    text = json.dumps(settings, indent=2) + "\n"
    return text.encode()
