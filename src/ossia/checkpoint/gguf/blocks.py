"""GGML's formats of numbers: what each takes in a file, the values of its blocks, and the two that
are written.

The definitions are GGML's (`ggml-quants.c`, `dequantize_row_*`); the gguf package's are the oracle
in tests. Knows bytes and numbers, neither files nor models. `_bits` says how all of them lay out
small integers: fields of some bits, the lowest of a run of bytes first.

MXFP4's sixteen bytes are laid out otherwise than in the published files: there byte j holds values
2j and 2j+1, here values j and j+16, and the scale's byte comes before them instead of in a tensor
of its own. The scale is the same e8m0 byte: GGML doubles the sixteen values and halves the scale
(`kvalues_fp4`, `ggml_e8m0_to_fp32_half`). So re-laying moves bits and loses none.

Bound: the bytes read, and two bytes written a value; about ten operations a value in between.

N blocks, B bytes of a block, V values of a block, G blocks in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ossia import mxfp4
from ossia.config import MX_BLOCK

MXFP4_BYTES = 1 + MX_BLOCK // 2
CHUNK = 1 << 20  # values decoded at a time: in between they are float32
# Of IQ4_NL and IQ4_XS: what the sixteen codes stand for.
_UNEVEN = (
    -127,
    -104,
    -83,
    -65,
    -49,
    -35,
    -22,
    -10,
    1,
    13,
    25,
    38,
    53,
    69,
    89,
    113,
)


def _bits(raw_NB: Tensor, width: int, run: int) -> Tensor:
    """Fields of `width` bits: of each run of bytes first all lowest fields, then the next ones."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8)
    runs = raw_NB.unflatten(-1, (-1, 1, run))
    shifted = runs >> shifts.unsqueeze(-1)
    mask = (1 << width) - 1
    fields: Tensor = shifted & mask
    return fields.flatten(1)


def _fields(raw_NB: Tensor, *sizes: int) -> tuple[Tensor, ...]:
    """What stands in a block one after the other, by bytes."""
    fields: tuple[Tensor, ...] = raw_NB.split(sizes, dim=-1)
    return fields


def _half(raw_N2: Tensor) -> Tensor:
    aligned = raw_N2.contiguous()
    return aligned.view(torch.float16).float()


def _joined(low: Tensor, high: Tensor, bits: int = 4) -> Tensor:
    """Codes whose upper bits stand apart."""
    upper = high << bits
    return low | upper


def _signed(codes: Tensor, offset: int) -> Tensor:
    signed = codes.to(torch.int8)
    return signed - offset


def _uneven(codes: Tensor) -> Tensor:
    meant = torch.tensor(_UNEVEN)
    values: Tensor = meant[codes.int()]
    return values


def _scaled(codes_NV: Tensor, scale_NS: Tensor, minimum_NS: Tensor | None = None) -> Tensor:
    """scale * code - minimum, where S scales share the block's values evenly."""
    scales = scale_NS.shape[-1]
    codes = codes_NV.float()
    shared = codes.unflatten(-1, (scales, -1))
    values = shared * scale_NS.unsqueeze(-1)
    if minimum_NS is not None:
        values -= minimum_NS.unsqueeze(-1)
    flat: Tensor = values.flatten(-2)
    return flat


# Of every format: d the scale of the block, m or dmin its minimum, qs the lower bits of the codes,
# qh the upper ones, as GGML's structures call them.


def _q8_0(raw: Tensor) -> Tensor:
    d, qs = _fields(raw, 2, 32)
    codes = qs.view(torch.int8)
    scale = _half(d)
    return _scaled(codes, scale)


def _q4_0(raw: Tensor) -> Tensor:
    d, qs = _fields(raw, 2, 16)
    low = _bits(qs, 4, 16)
    codes = _signed(low, 8)
    scale = _half(d)
    return _scaled(codes, scale)


def _q4_1(raw: Tensor) -> Tensor:
    d, m, qs = _fields(raw, 2, 2, 16)
    codes = _bits(qs, 4, 16)
    minimum = -_half(m)
    scale = _half(d)
    return _scaled(codes, scale, minimum)


def _q5_0(raw: Tensor) -> Tensor:
    d, qh, qs = _fields(raw, 2, 4, 16)
    high = _bits(qh, 1, 1)
    low = _bits(qs, 4, 16)
    joined = _joined(low, high)
    codes = _signed(joined, 16)
    scale = _half(d)
    return _scaled(codes, scale)


def _q5_1(raw: Tensor) -> Tensor:
    d, m, qh, qs = _fields(raw, 2, 2, 4, 16)
    high = _bits(qh, 1, 1)
    low = _bits(qs, 4, 16)
    codes = _joined(low, high)
    minimum = -_half(m)
    scale = _half(d)
    return _scaled(codes, scale, minimum)


def _iq4_nl(raw: Tensor) -> Tensor:
    d, qs = _fields(raw, 2, 16)
    codes = _bits(qs, 4, 16)
    values = _uneven(codes)
    scale = _half(d)
    return _scaled(values, scale)


def _iq4_xs(raw: Tensor) -> Tensor:
    d, scales_h, scales_l, qs = _fields(raw, 2, 2, 4, 128)
    high = _bits(scales_h, 2, 1)
    low = _bits(scales_l, 4, 1)
    joined = _joined(low, high)
    whole = _half(d)
    share = _signed(joined, 32)
    scale = whole * share
    codes = _bits(qs, 4, 16)
    values = _uneven(codes)
    return _scaled(values, scale)


def _q2_k(raw: Tensor) -> Tensor:
    scales, qs, d, dmin = _fields(raw, 16, 64, 2, 2)
    codes = _bits(qs, 2, 32)
    share = scales & 15
    rest = scales >> 4
    scale = _half(d) * share
    minimum = _half(dmin) * rest
    return _scaled(codes, scale, minimum)


def _q3_k(raw: Tensor) -> Tensor:
    qh, qs, scales_l, scales_h, d = _fields(raw, 32, 64, 8, 4, 2)
    high = _bits(qh, 1, 32)
    low = _bits(qs, 2, 32)
    joined = _joined(low, high, 2)
    codes = _signed(joined, 4)
    high = _bits(scales_h, 2, 4)
    low = _bits(scales_l, 4, 8)
    joined = _joined(low, high)
    whole = _half(d)
    share = _signed(joined, 32)
    scale = whole * share
    return _scaled(codes, scale)


def _scales_of_8(d: Tensor, dmin: Tensor, packed: Tensor) -> tuple[Tensor, Tensor]:
    """The eight scales and minima that Q4_K and Q5_K pack into 12 bytes, 6 bits each."""
    first, second, third = _fields(packed, 4, 4, 4)
    # of the last four of each the upper two bits stand above the first four
    above_scales = (first >> 2) & 48
    above_minima = (second >> 2) & 48
    late_scales = above_scales | (third & 15)
    late_minima = above_minima | (third >> 4)
    early_scales = first & 63
    early_minima = second & 63
    scales = torch.cat((early_scales, late_scales), -1)
    minima = torch.cat((early_minima, late_minima), -1)
    scale = _half(d) * scales
    minimum = _half(dmin) * minima
    return scale, minimum


def _q4_k(raw: Tensor) -> Tensor:
    d, dmin, packed, qs = _fields(raw, 2, 2, 12, 128)
    scale, minimum = _scales_of_8(d, dmin, packed)
    codes = _bits(qs, 4, 32)
    return _scaled(codes, scale, minimum)


def _q5_k(raw: Tensor) -> Tensor:
    d, dmin, packed, qh, qs = _fields(raw, 2, 2, 12, 32, 128)
    scale, minimum = _scales_of_8(d, dmin, packed)
    high = _bits(qh, 1, 32)
    low = _bits(qs, 4, 32)
    codes = _joined(low, high)
    return _scaled(codes, scale, minimum)


def _q6_k(raw: Tensor) -> Tensor:
    qs, qh, scales, d = _fields(raw, 128, 64, 16, 2)
    high = _bits(qh, 2, 32)
    low = _bits(qs, 4, 64)
    joined = _joined(low, high)
    codes = _signed(joined, 32)
    whole = _half(d)
    share = scales.view(torch.int8)
    scale = whole * share
    return _scaled(codes, scale)


def _mxfp4(raw: Tensor) -> Tensor:
    blocks = blocks_from_ggml(raw.unsqueeze(1))
    scales = raw[:, :1].contiguous()
    return mxfp4.decode(blocks, scales, torch.float32)


@dataclass(frozen=True)
class Format:
    """GGUF's `number` for it; a block has `values` in `nbytes`. Without `decode` it is torch's own.

    `dtype` is what values are kept in: float16 is off by at most 2^-11 of each, bfloat16 holds
    MXFP4's exactly.
    """

    number: int
    values: int
    nbytes: int
    dtype: torch.dtype
    decode: Callable[[Tensor], Tensor] | None


_SIZES = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "IQ4_NL": (20, 32, 18),
    "IQ4_XS": (23, 256, 136),
    "BF16": (30, 1, 2),
    "MXFP4": (39, 32, 17),
}
_DECODERS = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
}
_DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "MXFP4": torch.bfloat16,
}
FORMATS: dict[str, Format] = {}
for _name, _sizes in _SIZES.items():
    _dtype = _DTYPES.get(_name, torch.float16)
    _decode = _DECODERS.get(_name)
    FORMATS[_name] = Format(*_sizes, _dtype, _decode)


def decoded(raw: Tensor, name: str) -> Tensor:
    """The values [..., K] of rows in format `name`, uint8 [..., bytes of a row].

    A view where the format is torch's own. bfloat16 if float16 cannot hold the largest.
    """
    form = FORMATS[name]
    if form.decode is None:
        return raw.view(form.dtype)
    flat_NB = raw.reshape(-1, form.nbytes)
    values = _converted(flat_NB, form, form.dtype)
    is_finite = torch.isfinite(values).all()
    if form.dtype == torch.float16 and not is_finite:
        values = _converted(flat_NB, form, torch.bfloat16)
    rows = raw.shape[:-1]
    return values.view(*rows, -1)


def _converted(flat_NB: Tensor, form: Format, dtype: torch.dtype) -> Tensor:
    assert form.decode is not None
    out_NV = torch.empty(len(flat_NB), form.values, dtype=dtype)
    step = CHUNK // form.values
    for start in range(0, len(flat_NB), step):
        part = slice(start, start + step)
        out_NV[part] = form.decode(flat_NB[part])
    return out_NV


# ---- MXFP4 and Q8_0, both ways -------------------------------------------------------------------

# Eight bytes at a time, as words; shifted bits never leave their byte, so the byte order does not
# matter.
_LOW = 0x0F0F0F0F0F0F0F0F
_HIGH = -0x0F0F0F0F0F0F0F10


def to_ggml(blocks: Tensor, scales: Tensor) -> Tensor:
    """Published blocks [..., G, 16] and scales [..., G] as GGML's [..., G, 17]; all uint8."""
    words = blocks.contiguous().view(torch.int64)
    first, second = words.unbind(-1)  # values 0..15 and 16..31
    even = _low_of_both(first, second)
    odd = _high_of_both(first, second)
    out = torch.empty(*scales.shape, MXFP4_BYTES, dtype=torch.uint8)
    out[..., 0] = scales
    out[..., 1::2] = _as_bytes(even)
    out[..., 2::2] = _as_bytes(odd)
    return out


def blocks_from_ggml(raw: Tensor) -> Tensor:
    """GGML's [..., G, 17] as published blocks [..., G, 16]; the scales are raw[..., 0]."""
    even = _as_words(raw[..., 1::2])
    odd = _as_words(raw[..., 2::2])
    first = _low_of_both(even, odd)
    second = _high_of_both(even, odd)
    blocks = torch.stack((first, second), dim=-1)
    return blocks.view(torch.uint8)


def _low_of_both(a: Tensor, b: Tensor) -> Tensor:
    """Bytes of the low halves of a's and b's bytes, b's above a's."""
    lower = a & _LOW
    upper = (b & _LOW) << 4
    return lower | upper


def _high_of_both(a: Tensor, b: Tensor) -> Tensor:
    """Bytes of the high halves of a's and b's bytes, b's above a's."""
    lower = (a >> 4) & _LOW
    upper = b & _HIGH
    return lower | upper


def _as_words(raw: Tensor) -> Tensor:
    words = raw.contiguous().view(torch.int64)
    return words.squeeze(-1)


def _as_bytes(words: Tensor) -> Tensor:
    return words.unsqueeze(-1).view(torch.uint8)


def to_q8(values: Tensor) -> Tensor:
    """Q8_0 [..., K/32 * 34] uint8 of `values` [..., K], rounded as llama.cpp's reference does."""
    grouped = values.float().unflatten(-1, (-1, MX_BLOCK))
    largest = grouped.abs().amax(-1, keepdim=True)
    scale = largest / 127
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    scaled = grouped * inverse
    size = scaled.abs()
    whole = size.floor()
    rest = size - whole
    nearest = whole + (rest >= 0.5)  # halves away from zero
    codes = torch.copysign(nearest, scaled).to(torch.int8)
    scale_bytes = scale.half().view(torch.uint8)
    code_bytes = codes.view(torch.uint8)
    return torch.cat((scale_bytes, code_bytes), dim=-1).flatten(-2)
