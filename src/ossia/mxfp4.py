"""MXFP4, the format of the experts' weights: 32 values share one power-of-two scale, each value has
four bits.

The reference for every faster version. Knows torch tensors, nothing of models or files.

A row of K values is stored as G = K/32 blocks. `blocks` uint8 [..., G, 16]: byte j holds value 2j
in its low nibble and value 2j+1 in its high one, each an e2m1 code (bit 3 is the sign). `scales`
uint8 [..., G]: e8m0, 2^(byte - 127); 255 is NaN. Source: OCP Microscaling Formats (MX) v1.0,
sections 5.3.3 and 5.4.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
_PAIRS = torch.tensor(
    [[s * v for s in (1, -1) for v in VALUES][n] for b in range(256) for n in (b & 15, b >> 4)]
)
_PAIRS = _PAIRS.reshape(256, 2)
_ZERO_ONE = tuple(torch.tensor(n, dtype=torch.int32) for n in (0, 1))


def decode(blocks: Tensor, scales: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Values [..., G*32] of `blocks` [..., G, 16] and `scales` [..., G]; exact in float32 and
    bfloat16.
    """
    assert blocks.dtype == scales.dtype == torch.uint8, (blocks.dtype, scales.dtype)
    assert blocks.shape == (*scales.shape, BLOCK // 2), (blocks.shape, scales.shape)
    pairs = _PAIRS.to(blocks.device, dtype)
    codes = pairs.index_select(0, blocks.reshape(-1).int()).view(*scales.shape, BLOCK)
    return codes.mul_(_scale_values(scales, dtype).unsqueeze(-1)).flatten(-2)


def _scale_values(scales: Tensor, dtype: torch.dtype) -> Tensor:
    """2^(byte - 127), NaN for 255."""
    value = _power_of_two(scales.int() - BIAS)
    return torch.where(scales == NAN_SCALE, torch.nan, value).to(dtype)


def _power_of_two(exponents: Tensor) -> Tensor:
    """2^exponents in float32, exactly, for int32 exponents in [-252, 254]; subnormal or infinite
    where that is.
    """
    half = exponents >> 1
    low, high = (((e + BIAS) << 23).view(torch.float32) for e in (half, exponents - half))  # bits
    return low * high


def encode(values: Tensor, rule: ScaleRule = "rceil") -> tuple[Tensor, Tensor]:
    """(blocks, scales) nearest to `values` [..., K], K a multiple of 32, under one of four rules
    for the scale:

    `floor`  the OCP rule 2^(floor(log2 amax) - 2): values above 6 scales saturate.
    `rceil`  2^ceil(log2(amax / 6)): never saturates, and gives back exactly what MXFP4 can hold.
    `even`   as floor after rounding amax to a value with two bits of mantissa: saturates less.
    `best`   floor's exponent or the one above, per block: that with the smaller squared error.

    Raises `ValueError` for values that are not finite, another rule, or a K that is not a multiple
    of 32.
    """
    rule = rule_of(rule)
    if values.shape[-1] % BLOCK:
        raise ValueError(
            f"MXFP4 needs a multiple of {BLOCK} values in a row, found {values.shape[-1]}"
        )
    grouped = values.detach().to(torch.float32).unflatten(-1, (-1, BLOCK))
    if not bool(torch.isfinite(grouped).all()):
        raise ValueError("MXFP4 cannot hold values that are infinite or not a number")
    exponents = block_exponents(grouped, rule)
    codes = _codes(grouped, exponents)
    blocks = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return blocks, (exponents.squeeze(-1) + BIAS).to(torch.uint8)


def fake_quantize(values: Tensor, rule: ScaleRule = "rceil") -> Tensor:
    """decode(encode(values)) in one go, with the gradient of the identity (straight-through): for
    training.

    Raises `ValueError` for another rule.
    """
    grouped = values.detach().to(torch.float32).unflatten(-1, (-1, BLOCK))
    exponents = block_exponents(grouped, rule_of(rule))
    nearest = _on_grid(grouped, exponents).flatten(-2).to(values.dtype)
    return nearest + (values - values.detach())  # adds exactly 0; the other way round would round


def rule_of(choice: ScaleRule | bool) -> ScaleRule:
    """The rule that a switch names; True is the default. Raises `ValueError` for anything else."""
    rule = "rceil" if choice is True else choice
    if rule not in get_args(ScaleRule):
        raise ValueError(
            f"scale rule must be one of {', '.join(get_args(ScaleRule))}, found {choice!r}"
        )
    return rule  # type: ignore[return-value]


def block_exponents(grouped: Tensor, rule: ScaleRule) -> Tensor:
    """The scale's exponent of each block: int32 [..., G, 1], from values [..., G, 32]."""
    amax = grouped.abs().amax(-1, keepdim=True)
    if rule == "best":
        low = block_exponents(grouped, "floor")
        scaled = _times_power(grouped, -low)  # in units of the lower scale: no error overflows
        errors = [
            (_times_power(_rounded(_times_power(scaled, -e)), e) - scaled).square()
            for e in _ZERO_ONE
        ]
        worse = errors[1].sum(-1, keepdim=True) < errors[0].sum(-1, keepdim=True)
        return (low + worse.int()).clamp(max=BIAS)
    mantissa, exponent = torch.frexp(amax)  # amax = mantissa * 2^exponent, mantissa in [0.5, 1)
    if rule == "rceil":  # 6 * 2^s >= amax  <=>  mantissa * 2^exponent <= 0.75 * 2^(s+3)
        exponent = torch.where(mantissa <= 0.75, exponent - 3, exponent - 2)
    # floor(log2 amax) is exponent - 1; `even` first rounds the mantissa, 0.875 up to the next power
    # of two
    else:
        exponent = torch.where((mantissa >= 0.875) & (rule == "even"), exponent - 2, exponent - 3)
    return exponent.int().clamp(-BIAS, BIAS).masked_fill(amax == 0, -BIAS)


def _times_power(values: Tensor, exponents: Tensor) -> Tensor:
    """values * 2^exponents, in two factors: one alone would overflow float32 at the ends of the
    range.
    """
    half = exponents >> 1
    return values * _power_of_two(half) * _power_of_two(exponents - half)


def _rounded(scaled: Tensor) -> Tensor:
    """The nearest e2m1 values, saturating at 6. Steps are .5 below 2, 1 below 4, then 2; a tie goes
    to the even code, which is what rounding half to even does in each of the three ranges.
    """
    magnitude = scaled.abs().clamp(max=LARGEST)
    step = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0))
    return torch.copysign(torch.round(magnitude / step) * step, scaled)


def _codes(grouped: Tensor, exponents: Tensor) -> Tensor:
    """e2m1 codes, uint8 of the shape of `grouped`."""
    value = _rounded(_times_power(grouped, -exponents))
    v = value.abs()
    code = torch.where(v < 2, 2 * v, torch.where(v < 4, v + 2, v / 2 + 4)).to(torch.uint8)
    return code | (torch.signbit(value).to(torch.uint8) << 3)


def _on_grid(grouped: Tensor, exponents: Tensor) -> Tensor:
    """The values that the codes stand for, in float32."""
    return _times_power(_rounded(_times_power(grouped, -exponents)), exponents)


# ---- what rounding costs ----


@dataclass(frozen=True)
class RoundingError:
    """What one rule does to one tensor (or to several, added up): sums over its values."""

    tensor: str
    rule: ScaleRule
    values: int = 0
    power: float = 0.0  # sum of squares
    noise: float = 0.0  # sum of squared errors
    largest: float = 0.0  # error of a single value
    saturated: int = 0  # values beyond the largest that their block's scale can hold

    @property
    def relative_rmse(self) -> float:
        """Root of noise over power; 0 for a tensor of zeros."""
        if not self.power:
            return 0.0
        return math.sqrt(self.noise / self.power)

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise, in dB."""
        if not self.noise:
            return math.inf
        return 10 * math.log10(self.power / self.noise)

    @property
    def saturated_share(self) -> float:
        return self.saturated / self.values if self.values else 0.0

    def __str__(self) -> str:
        return (
            f"{self.values:,} values rounded to MXFP4 under {self.rule}: relative RMSE "
            f"{self.relative_rmse:.2%}, largest error {self.largest:.3g}, "
            f"{self.saturated_share:.3%} saturated"
        )

    def __add__(self, other: RoundingError) -> RoundingError:
        return replace(
            self,
            values=self.values + other.values,
            power=self.power + other.power,
            noise=self.noise + other.noise,
            largest=max(self.largest, other.largest),
            saturated=self.saturated + other.saturated,
        )


def error_of(
    values: Tensor, rule: ScaleRule, name: str = "", rounded: Tensor | None = None
) -> RoundingError:
    """The rounding error of one tensor [..., a multiple of 32]; `rounded`: what it becomes, if that
    is known.
    """
    values = values.detach().float()
    if rounded is None:
        rounded = fake_quantize(values, rule)
    error = (rounded - values).double()
    grouped = values.unflatten(-1, (-1, BLOCK))
    exponents = block_exponents(grouped, rule)
    largest = torch.full_like(exponents, LARGEST, dtype=torch.float64)
    limit = torch.ldexp(largest, exponents)
    exact = values.double()
    return RoundingError(
        tensor=name,
        rule=rule,
        values=values.numel(),
        power=float(exact.square().sum()),
        noise=float(error.square().sum()),
        largest=float(error.abs().max()),
        saturated=int((grouped.abs() > limit).sum()),
    )
