"""Rotary frequencies under the context-extension methods: none, PI, NTK-aware, NTK-by-parts, YaRN
as gpt-oss has it.

theta_i = b^(-2i/h) are the angles per position of a head of width h; s = L'/L is the factor by
which the context grew from L tokens; r_i = L theta_i / 2 pi is how many full turns dimension i made
within L.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from ossia.config import ModelConfig


@cache
def _frequencies_on(config: ModelConfig, device: torch.device) -> Tensor:
    return inverse_frequencies(config).to(device)


@cache
def inverse_frequencies(config: ModelConfig) -> Tensor:
    """float32 [h/2], the angle per position of each pair of dimensions.

    pi            theta / s for all (Chen et al., arXiv 2306.15595)
    ntk           a larger base b' = b s^(h/(h-2)): the slowest dimension is interpolated by s, the
                  fastest hardly
    ntk_by_parts  theta/s where r < alpha, theta where r > beta, linear in r between (YaRN, arXiv
                  2309.00071, sec. 3.2)
    yarn          the same ends, but linear in the dimension's index between them, as gpt-oss and
                  transformers compute it
    """
    c = config
    s = config.rope_scaling_factor
    width = config.head_dim
    base = c.rope_theta
    if c.rope_scaling == "ntk":
        base = base * s ** (width / (width - 2))
    theta = 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float) / width)
    match c.rope_scaling:
        case "none" | "ntk":
            return theta
        case "pi":
            return theta / s
        case "ntk_by_parts":
            turns = c.initial_context_length * theta / (2 * math.pi)
            ramp = (turns - c.rope_ntk_alpha) / (c.rope_ntk_beta - c.rope_ntk_alpha)
            extrapolate = ramp.clamp(0, 1)
        case "yarn":
            low, high = yarn_ramp(c)
            index = torch.arange(width // 2, dtype=torch.float)
            extrapolate = 1 - ((index - low) / (high - low)).clamp(0, 1)
    return theta / s * (1 - extrapolate) + theta * extrapolate


def yarn_ramp(config: ModelConfig) -> tuple[float, float]:
    """Dimension indices between which yarn moves from extrapolation to interpolation: where r is
    beta and alpha.
    """
    low = _dimension_of(config, config.rope_ntk_beta)
    high = _dimension_of(config, config.rope_ntk_alpha)
    if config.rope_truncate:
        low = math.floor(low)
        high = math.ceil(high)
    low = max(low, 0)
    high = min(high, config.head_dim - 1)
    return low, high + 0.001 if low == high else high


def _dimension_of(config: ModelConfig, turns: float) -> float:
    """The dimension index, not whole, that makes so many full turns within the original context."""
    wavelengths = config.initial_context_length / (turns * 2 * math.pi)
    return config.head_dim / 2 * math.log(wavelengths) / math.log(config.rope_theta)


def concentration(config: ModelConfig) -> float:
    """Factor on cos and sin, so that scores grow by its square: 0.1 ln s + 1 for yarn (arXiv
    2309.00071, eq. 22).
    """
    s = config.rope_scaling_factor
    if config.rope_scaling == "yarn" and s > 1:
        return 0.1 * math.log(s) + 1.0
    return 1.0


def cos_sin(config: ModelConfig, positions_T: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, float32 [T, h/2], of every position's angles, times the concentration."""
    frequencies_r = _frequencies_on(config, positions_T.device)
    angles_Tr = positions_T.float().unsqueeze(1) * frequencies_r
    c = concentration(config)
    return angles_Tr.cos() * c, angles_Tr.sin() * c
