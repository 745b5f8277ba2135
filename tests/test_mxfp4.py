"""MXFP4 against plain arithmetic on Python numbers, and against transformers' decoder."""

from __future__ import annotations

import math

import pytest
import torch
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ossia.mxfp4 import BLOCK, LARGEST, NAN_SCALE, VALUES, ScaleRule, decode, encode, fake_quantize

RULES: tuple[ScaleRule, ...] = ("floor", "rceil", "even", "best")
LARGEST_FINITE = (
    252  # the largest scale byte under which every code is finite in float32: 6 * 2^125
)
bytes_ = st.integers(0, 255)
packed_block = st.tuples(st.lists(bytes_, min_size=16, max_size=16), st.integers(0, LARGEST_FINITE))
# Above 1.5 * 2^127 the nearest value may be 2^128, which float32 has not.
numbers = st.floats(-1.5 * 2.0**127, 1.5 * 2.0**127, width=32)
on_ties = st.sampled_from(
    [v * 2.0**e for v in (0.25, 0.75, 1.25, 5.0, 6.0, 7.0) for e in (-3, 0, 4)]
)
ordinary = st.lists(st.floats(-8, 8, width=16) | on_ties, min_size=BLOCK, max_size=BLOCK)
rows = st.lists(numbers, min_size=BLOCK, max_size=BLOCK) | ordinary


def value(code: int, scale: int) -> float:
    """What one code stands for, exactly (float64 holds it)."""
    return (-1 if code & 8 else 1) * VALUES[code & 7] * 2.0 ** (scale - 127)


def exponent_under(rule: str, amax: float) -> int:
    """The scale's exponent by the rules' definitions."""
    if amax == 0:
        return -127
    # amax = (2 * fraction) * 2^(power - 1), 1 <= 2 * fraction < 2
    fraction, power = math.frexp(amax)
    if rule == "rceil":
        exponent = power - 3  # 8 * 2^e > amax: at most one too few
        exponent += 6 * 2.0**exponent < amax
    elif rule == "even":
        exponent = power - 3 + (round(4 * fraction) == 4)  # to multiples of a half, ties to even
    else:
        exponent = power - 3
    return max(-127, min(127, exponent))


def nearest_code(x: float, exponent: int) -> int:
    """Ties to the code with an even last bit; what is too large becomes the largest."""
    scaled = abs(x) / 2.0**exponent
    code = min(range(8), key=lambda c: (abs(VALUES[c] - scaled), c & 1))
    return code | (8 if math.copysign(1, x) < 0 else 0)


def unpack(blocks: Tensor) -> list[int]:
    return [nibble for byte in blocks.flatten().tolist() for nibble in (byte & 15, byte >> 4)]


def random_packed(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (*shape, 16), generator=rng, dtype=torch.uint8)
    return blocks, torch.randint(0, LARGEST_FINITE + 1, shape, generator=rng, dtype=torch.uint8)


# ---- decode ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_byte_under_every_scale(dtype: torch.dtype) -> None:
    """The low nibble comes first; nothing is rounded; 0 and the subnormal end included."""
    blocks = torch.arange(256, dtype=torch.uint8).view(16, 16)
    for scale in range(NAN_SCALE):
        found = (
            decode(blocks, torch.full((16,), scale, dtype=torch.uint8), dtype).flatten().tolist()
        )
        exact = [value(nibble, scale) for byte in range(256) for nibble in (byte & 15, byte >> 4)]
        largest = torch.finfo(dtype).max
        assert found == [v if abs(v) <= largest else math.copysign(math.inf, v) for v in exact]


def test_the_last_scale_is_not_a_number() -> None:
    blocks = torch.zeros(2, 16, dtype=torch.uint8)
    found = decode(blocks, torch.tensor([NAN_SCALE, 127], dtype=torch.uint8))
    assert found[:BLOCK].isnan().all() and not found[BLOCK:].isnan().any()


def test_shapes_and_views() -> None:
    blocks, scales = random_packed(3, 5, 2)
    assert decode(blocks, scales).shape == (3, 5, 64)
    assert decode(blocks[1], scales[1]).equal(decode(blocks, scales)[1])
    turned = decode(blocks.transpose(0, 1), scales.transpose(0, 1))
    assert turned.equal(decode(blocks, scales).transpose(0, 1))
    assert decode(blocks[:0], scales[:0]).shape == (0, 5, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_decodes_the_same(dtype: torch.dtype) -> None:
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    blocks, scales = random_packed(4, 64, 6)
    scales[0, 0, :4] = torch.tensor([0, 1, 127, LARGEST_FINITE])
    theirs = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=dtype)
    assert theirs.transpose(1, 2).equal(decode(blocks, scales, dtype))


# ---- encode ----


@pytest.mark.parametrize("rule", ["floor", "rceil", "even"])
@given(row=rows)
@settings(max_examples=examples(100), deadline=None)
def test_scale_and_codes_by_definition(rule: ScaleRule, row: list[float]) -> None:
    blocks, scales = encode(torch.tensor(row), rule)
    exponent = exponent_under(rule, max(map(abs, row)))
    assert scales.item() == exponent + 127
    assert unpack(blocks) == [nearest_code(x, exponent) for x in row]


@given(row=ordinary)
@settings(max_examples=examples(100), deadline=None)
def test_best_is_the_better_of_two_scales(row: list[float]) -> None:
    def error(exponent: int) -> float:
        return sum((value(nearest_code(x, exponent), exponent + 127) - x) ** 2 for x in row)

    blocks, scales = encode(torch.tensor(row), "best")
    chosen, low = scales.item() - 127, exponent_under("floor", max(map(abs, row)))
    assert chosen in (low, low + 1)
    assert unpack(blocks) == [nearest_code(x, chosen) for x in row]
    assert error(chosen) <= min(error(low), error(min(low + 1, 127))) * (1 + 1e-5)


@given(block=packed_block)
@settings(max_examples=examples(200), deadline=None)
def test_rceil_gives_back_every_value_mxfp4_can_hold(block: tuple[list[int], int]) -> None:
    blocks, scale = (torch.tensor([part], dtype=torch.uint8) for part in block)
    values = decode(blocks, scale, torch.float32)
    again = decode(*encode(values), torch.float32)
    assert again.equal(values) and torch.signbit(again).equal(torch.signbit(values))


def test_rceil_gives_back_many_random_blocks_in_both_dtypes() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        values = decode(*random_packed(50, 40, 9), dtype)
        assert decode(*encode(values), dtype).equal(values)


@given(row=rows)
@settings(max_examples=examples(100), deadline=None)
def test_encoding_twice_is_encoding_once(row: list[float]) -> None:
    values = decode(*encode(torch.tensor(row)), torch.float32)
    blocks, scales = encode(values)
    assert all(map(torch.equal, encode(decode(blocks, scales, torch.float32)), (blocks, scales)))


@pytest.mark.parametrize("rule", RULES)
def test_the_ends_of_the_range(rule: ScaleRule) -> None:
    """The largest and smallest floats, zeros of both signs: no scale byte leaves 0..254, signs
    stay.
    """
    ends = torch.finfo(torch.float32)
    for x in (ends.max, ends.tiny, ends.smallest_normal, 2.0**-149, 2.0**-130, 0.0, -0.0):
        row = torch.full((BLOCK,), x)
        row[0] = -row[0]
        blocks, scales = encode(row, rule)
        decoded = decode(blocks, scales, torch.float64)
        assert scales.item() < NAN_SCALE
        assert torch.signbit(decoded).equal(torch.signbit(row))
        assert decoded.abs().max() <= LARGEST * 2.0**127


@pytest.mark.parametrize("rule", RULES)
def test_relative_error_is_that_of_the_format(rule: ScaleRule) -> None:
    values = torch.randn(64, 320, generator=torch.Generator().manual_seed(0))
    error = (decode(*encode(values, rule), torch.float32) - values).square().mean().sqrt()
    assert 0.09 < error < 0.13


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    values = torch.zeros(2, 64)
    values[1, 3] = bad
    with pytest.raises(ValueError, match="infinite or not a number"):
        encode(values)


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match="multiple of 32 values in a row, found 33"):
        encode(torch.zeros(4, 33))
    with pytest.raises(ValueError, match="floor, rceil, even, best, found 'ceil'"):
        encode(torch.zeros(32), "ceil")  # type: ignore[arg-type]


# ---- fake quantization ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_fake_quantization_is_encode_then_decode(rule: ScaleRule, dtype: torch.dtype) -> None:
    values = torch.randn(16, 96, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert fake_quantize(values, rule).equal(decode(*encode(values, rule), dtype))


def test_its_gradient_goes_straight_through() -> None:
    values = torch.randn(4, 64, requires_grad=True)
    wanted = torch.randn(4, 64)
    (fake_quantize(values) * wanted).sum().backward()
    assert values.grad is not None and values.grad.equal(wanted)
