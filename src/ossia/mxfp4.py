"""MXFP4, the format of the experts' weights: 32 values share one power-of-two scale, each value has four bits.

The reference for every faster version. Knows torch tensors, nothing of models or files.

A row of K values is stored as G = K/32 blocks. `blocks` uint8 [..., G, 16]: byte j holds value 2j in its low nibble and
value 2j+1 in its high one, each an e2m1 code (bit 3 is the sign). `scales` uint8 [..., G]: e8m0, 2^(byte - 127); 255 is
NaN. Source: OCP Microscaling Formats (MX) v1.0, sections 5.3.3 and 5.4.1.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

BLOCK = 32
BIAS = 127
NAN_SCALE = 255
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of the codes 0..7; 8..15 are their negatives
LARGEST = VALUES[-1]
ScaleRule = Literal["floor", "rceil", "even", "best"]

# Two values a byte: row b of this table is what byte b decodes to, before the scale.
_PAIRS = torch.tensor([[s * v for s in (1, -1) for v in VALUES][n] for b in range(256) for n in (b & 15, b >> 4)])
_PAIRS = _PAIRS.reshape(256, 2)
# Codes round to the nearest value, ties to the even code: the midpoints between neighbours.
_MIDPOINTS = torch.tensor([(a + b) / 2 for a, b in zip(VALUES, VALUES[1:], strict=False)])


def decode(blocks: Tensor, scales: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Values [..., G*32] of `blocks` [..., G, 16] and `scales` [..., G]; exact in float32 and (normal range) bfloat16."""
    assert blocks.dtype == scales.dtype == torch.uint8, (blocks.dtype, scales.dtype)
    assert blocks.shape == (*scales.shape, BLOCK // 2), (blocks.shape, scales.shape)
    pairs = _PAIRS.to(blocks.device, dtype)
    codes = pairs.index_select(0, blocks.reshape(-1).int()).view(*scales.shape, BLOCK)
    return codes.mul_(_scale_values(scales, dtype).unsqueeze(-1)).flatten(-2)


def _scale_values(scales: Tensor, dtype: torch.dtype) -> Tensor:
    """2^(byte - 127), NaN for 255. As two factors, since 2^-127 is subnormal and must not be flushed on the way."""
    exponent = scales.to(torch.float32) - BIAS
    value = torch.exp2(torch.clamp(exponent, min=-120.0)) * torch.exp2(torch.clamp(exponent + 120.0, max=0.0))
    return torch.where(scales == NAN_SCALE, torch.nan, value).to(dtype)


def encode(values: Tensor, rule: ScaleRule = "rceil") -> tuple[Tensor, Tensor]:
    """(blocks, scales) nearest to `values` [..., K], K a multiple of 32, under one of four rules for the scale:

    `floor`  the OCP rule 2^(floor(log2 amax) - 2): values above 6 scales saturate.
    `rceil`  2^ceil(log2(amax / 6)): never saturates, and gives back exactly any values that MXFP4 can hold.
    `even`   as floor after rounding amax to a value with two bits of mantissa: saturates less.
    `best`   of floor's exponent and the one above, per block, the one with the smaller squared error.

    Raises `ValueError` for values that are not finite, another rule, or a K that is not a multiple of 32.
    """
    if rule not in get_args(ScaleRule):
        raise ValueError(f"scale rule must be one of {', '.join(get_args(ScaleRule))}, found {rule!r}")
    if values.shape[-1] % BLOCK:
        raise ValueError(f"MXFP4 needs a multiple of {BLOCK} values in a row, found {values.shape[-1]}")
    grouped = values.detach().to(torch.float32).unflatten(-1, (-1, BLOCK))
    if not bool(torch.isfinite(grouped).all()):
        raise ValueError("MXFP4 cannot hold values that are infinite or not a number")
    exponents = block_exponents(grouped, rule)
    codes = _codes(grouped, exponents)
    blocks = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return blocks, (exponents.squeeze(-1) + BIAS).to(torch.uint8)


def fake_quantize(values: Tensor, rule: ScaleRule = "rceil") -> Tensor:
    """decode(encode(values)) in one go, with the gradient of the identity (straight-through): for training."""
    grouped = values.detach().to(torch.float32).unflatten(-1, (-1, BLOCK))
    exponents = block_exponents(grouped, rule)
    nearest = _on_grid(grouped, exponents).flatten(-2).to(values.dtype)
    return values + (nearest - values.detach())


def block_exponents(grouped: Tensor, rule: ScaleRule) -> Tensor:
    """The scale's exponent of each block: int32 [..., G, 1], from values [..., G, 32]."""
    amax = grouped.abs().amax(-1, keepdim=True)
    if rule == "best":
        low = block_exponents(grouped, "floor")
        high = (low + 1).clamp(max=BIAS)
        errors = [(_on_grid(grouped, e) - grouped).square().sum(-1, keepdim=True) for e in (low, high)]
        return torch.where(errors[1] < errors[0], high, low)
    mantissa, exponent = torch.frexp(amax)  # amax = mantissa * 2^exponent, mantissa in [0.5, 1)
    if rule == "rceil":  # 6 * 2^s >= amax  <=>  mantissa * 2^exponent <= 0.75 * 2^(s+3)
        exponent = torch.where(mantissa <= 0.75, exponent - 3, exponent - 2)
    else:  # floor(log2 amax) is exponent - 1; `even` first rounds the mantissa, 0.875 up to the next power of two
        exponent = torch.where((mantissa >= 0.875) & (rule == "even"), exponent - 2, exponent - 3)
    return exponent.clamp(-BIAS, BIAS).masked_fill(amax == 0, -BIAS)


def _scaled_magnitude(grouped: Tensor, exponents: Tensor) -> Tensor:
    # ldexp in two halves: 2^-exponents alone overflows float32 at the ends of the range
    half = exponents // 2
    return torch.ldexp(torch.ldexp(grouped.abs(), -half), half - exponents).clamp(max=LARGEST)


def _codes(grouped: Tensor, exponents: Tensor) -> Tensor:
    """e2m1 codes, uint8 of the shape of `grouped`; ties go to the code whose mantissa bit is 0."""
    magnitude = _scaled_magnitude(grouped, exponents)
    code = torch.bucketize(magnitude, _MIDPOINTS.to(magnitude.device)).to(torch.uint8)  # a tie goes to the lower code
    on_tie = torch.zeros_like(code, dtype=torch.bool)
    for n, midpoint in enumerate(_MIDPOINTS.tolist()):
        if n % 2:  # the lower code is odd: the even neighbour is the upper one
            on_tie |= magnitude == midpoint
    code += on_tie.to(torch.uint8)
    return code | (torch.signbit(grouped).to(torch.uint8) << 3)


def _on_grid(grouped: Tensor, exponents: Tensor) -> Tensor:
    """The values that the codes stand for, in float32. Steps of .5 below 2, 1 below 4, 2 above; round half to even."""
    magnitude = _scaled_magnitude(grouped, exponents)
    step = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0))
    rounded = torch.round(magnitude / step) * step
    return torch.copysign(torch.ldexp(rounded, exponents), grouped)
