"""One model on several processes that answer together: what each of them holds, and what it does
with the others.

Parameters are cut as `parallel.py:TABLE` says, for training and here: experts over the processes of
`ep`, heads of attention and the width of every expert over those of `tp`. Here they are plain
tensors, experts stay packed in MXFP4, and every process is given the same tokens: it computes its
part, and parts are added up, after attention over a `tp` group, after the experts over all. There
is no gradient.

Rank e * tp + t has part e of the experts and part t of the heads. Rank 0 leads: it decides what is
computed (engine/beside.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ossia import kernels
from ossia.config import ModelConfig
from ossia.model.moe import Experts, Moe
from ossia.model.parallel import (
    ColumnLinear,
    HeadsAttention,
    RowLinear,
    become,
    check,
    cut_of,
)
from ossia.model.processes import Spread
from ossia.model.transformer import Attention, Transformer
from ossia.parts import Parts


def check_parts(config: ModelConfig, parts: Parts, is_packed: bool) -> None:
    """Raises `ConfigError` for parts that a model's sizes cannot be divided into."""
    check(config, ep=parts.ep, tp=parts.tp, quantize=is_packed)


def part_of(name: str, tensor: Tensor, config: ModelConfig, spread: Spread) -> Tensor:
    """What this process has of a whole tensor, by its native name: a view, where it lies in one
    piece there.
    """
    cut = cut_of(name, config)
    places = (
        (cut.ep, spread.expert_part, spread.parts.ep),
        (cut.tp, spread.head_part, spread.parts.tp),
    )
    for dimension, part, parts in places:
        if dimension is not None and parts > 1:
            size = tensor.shape[dimension] // parts
            tensor = tensor.narrow(dimension, part * size, size)
    if name.endswith("experts.down.bias") and spread.head_part > 0:
        return torch.zeros_like(tensor)  # it is in the sum over widths once
    return tensor.contiguous()


def apply(model: Transformer, spread: Spread) -> None:
    """Make of a whole model on the device "meta" the part that this process has, to be loaded with
    what `part_of` gives.
    """
    config = model.config
    for name, whole in [*model.named_parameters(), *model.named_buffers()]:
        owner, _, leaf = name.rpartition(".")
        part = part_of(name, whole.detach(), config, spread)
        is_parameter = isinstance(whole, nn.Parameter)
        held = nn.Parameter(part, requires_grad=False) if is_parameter else part
        setattr(model.get_submodule(owner), leaf, held)
    tp = spread.parts.tp
    model.here = replace(
        config,
        num_attention_heads=config.num_attention_heads // tp,
        num_key_value_heads=config.num_key_value_heads // tp,
    )
    model.spread = spread
    for module in [*model.modules()]:
        if isinstance(module, Attention) and tp > 1:
            become(module, HeadsAttention)
            for projection in (module.q, module.k, module.v):
                become(projection, ColumnLinear)
            become(module.out, HeadsOutput, spread=spread)
        if isinstance(module, Moe):
            _spread_experts(module, spread)


def _spread_experts(moe: Moe, spread: Spread) -> None:
    """A dense layer's one expert is cut by `tp` only."""
    if moe.router is not None and spread.parts.processes > 1:
        group = spread.everybody
    elif spread.parts.tp > 1:
        group = spread.heads
    else:
        return
    count = moe.experts.gate_up.bias.shape[0]
    first = 0 if moe.router is None else spread.expert_part * count
    become(moe.experts, SomeExperts, spread=spread, group=group, first=first, count=count)


class HeadsOutput(RowLinear):
    """The output of attention, of some of the heads."""

    spread: Spread

    def forward(self, x_TK: Tensor) -> Tensor:
        part_TN = self.part(x_TK)
        y_TN = self.spread.summed(part_TN, self.spread.heads, kernels.same_bits())
        return self.completed(y_TN)


class SomeExperts(Experts):
    """`count` of the experts from `first` on, or a slice of the width of each, or both. A token
    that goes to another expert goes to none here: in the kernels' words, to number `count`.
    """

    spread: Spread
    group: Any
    first: int
    count: int

    def forward(self, x_TD: Tensor, choice_Tk: Tensor, weight_Tk: Tensor, limit: float) -> Tensor:
        here_Tk = choice_Tk - self.first
        is_here_Tk = (here_Tk >= 0) & (here_Tk < self.count)
        here_Tk = torch.where(is_here_Tk, here_Tk, self.count)
        y_TD = super().forward(x_TD, here_Tk, weight_Tk, limit)
        return self.spread.summed(y_TD, self.group, kernels.same_bits())
