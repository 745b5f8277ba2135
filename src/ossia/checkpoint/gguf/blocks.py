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
Q8_BYTES = 2 + MX_BLOCK
CHUNK = 1 << 20  # values decoded at a time: in between they are float32
# Of IQ4_NL and IQ4_XS: what the sixteen codes stand for.
_UNEVEN = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _bits(raw_NB: Tensor, width: int, run: int) -> Tensor:
    """Fields of `width` bits: of each run of bytes first all lowest fields, then the next ones."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8).unsqueeze(-1)
    runs = raw_NB.unflatten(-1, (-1, 1, run))
    fields: Tensor = (runs >> shifts) & ((1 << width) - 1)
    return fields.flatten(1)


def _half(raw_N2: Tensor) -> Tensor:
    return raw_N2.contiguous().view(torch.float16).float()


def _scaled(codes_NV: Tensor, scale_NS: Tensor, minimum_NS: Tensor | None = None) -> Tensor:
    """scale * code - minimum, where S scales share the block's values evenly."""
    shared = codes_NV.float().unflatten(-1, (scale_NS.shape[-1], -1))
    values = shared * scale_NS.unsqueeze(-1)
    if minimum_NS is not None:
        values -= minimum_NS.unsqueeze(-1)
    flat: Tensor = values.flatten(-2)
    return flat


def _signed(codes: Tensor, offset: int) -> Tensor:
    return codes.to(torch.int8) - offset


def _uneven(codes: Tensor) -> Tensor:
    values: Tensor = torch.tensor(_UNEVEN)[codes.int()]
    return values


def _q8_0(raw: Tensor) -> Tensor:
    return _scaled(raw[:, 2:].view(torch.int8), _half(raw[:, :2]))


def _q4_0(raw: Tensor) -> Tensor:
    return _scaled(_signed(_bits(raw[:, 2:], 4, 16), 8), _half(raw[:, :2]))


def _q4_1(raw: Tensor) -> Tensor:
    return _scaled(_bits(raw[:, 4:], 4, 16), _half(raw[:, :2]), -_half(raw[:, 2:4]))


def _q5_0(raw: Tensor) -> Tensor:
    high = _bits(raw[:, 2:6], 1, 1) << 4
    return _scaled(_signed(_bits(raw[:, 6:], 4, 16) | high, 16), _half(raw[:, :2]))


def _q5_1(raw: Tensor) -> Tensor:
    high = _bits(raw[:, 4:8], 1, 1) << 4
    codes = _bits(raw[:, 8:], 4, 16) | high
    return _scaled(codes, _half(raw[:, :2]), -_half(raw[:, 2:4]))


def _iq4_nl(raw: Tensor) -> Tensor:
    return _scaled(_uneven(_bits(raw[:, 2:], 4, 16)), _half(raw[:, :2]))


def _iq4_xs(raw: Tensor) -> Tensor:
    low = _bits(raw[:, 4:8], 4, 1)
    high = _bits(raw[:, 2:4], 2, 1) << 4
    scale = _half(raw[:, :2]) * _signed(low | high, 32)
    return _scaled(_uneven(_bits(raw[:, 8:], 4, 16)), scale)


def _q2_k(raw: Tensor) -> Tensor:
    scale = _half(raw[:, 80:82]) * (raw[:, :16] & 15)
    minimum = _half(raw[:, 82:]) * (raw[:, :16] >> 4)
    return _scaled(_bits(raw[:, 16:80], 2, 32), scale, minimum)


def _q3_k(raw: Tensor) -> Tensor:
    high = _bits(raw[:, :32], 1, 32) << 2
    codes = _signed(_bits(raw[:, 32:96], 2, 32) | high, 4)
    low = _bits(raw[:, 96:104], 4, 8)
    scale = _signed(low | (_bits(raw[:, 104:108], 2, 4) << 4), 32)
    return _scaled(codes, _half(raw[:, 108:]) * scale)


def _scales_of_8(raw: Tensor) -> tuple[Tensor, Tensor]:
    """The eight scales and minima that Q4_K and Q5_K pack into 12 bytes, 6 bits each."""
    first, second, third = raw[:, 4:8], raw[:, 8:12], raw[:, 12:16]
    scale = torch.cat((first & 63, (third & 15) | ((first >> 2) & 48)), -1)
    minimum = torch.cat((second & 63, (third >> 4) | ((second >> 2) & 48)), -1)
    return _half(raw[:, :2]) * scale, _half(raw[:, 2:4]) * minimum


def _q4_k(raw: Tensor) -> Tensor:
    return _scaled(_bits(raw[:, 16:], 4, 32), *_scales_of_8(raw))


def _q5_k(raw: Tensor) -> Tensor:
    high = _bits(raw[:, 16:48], 1, 32) << 4
    return _scaled(_bits(raw[:, 48:], 4, 32) | high, *_scales_of_8(raw))


def _q6_k(raw: Tensor) -> Tensor:
    high = _bits(raw[:, 128:192], 2, 32) << 4
    codes = _signed(_bits(raw[:, :128], 4, 64) | high, 32)
    return _scaled(codes, _half(raw[:, 208:]) * raw[:, 192:208].view(torch.int8))


def _mxfp4(raw: Tensor) -> Tensor:
    return mxfp4.decode(blocks_from_ggml(raw.unsqueeze(1)), raw[:, :1].contiguous(), torch.float32)


@dataclass(frozen=True)
class Format:
    """GGUF's `number` for it; a block has `values` in `nbytes`. Without `decode` it is torch's own.

    `dtype` is what values are kept in: float16 is off by at most 2^-11 of each, and exact for none
    of these formats but MXFP4, which bfloat16 holds exactly.
    """

    number: int
    values: int
    nbytes: int
    decode: Callable[[Tensor], Tensor] | None = None
    dtype: torch.dtype = torch.float16


FORMATS = {
    "F32": Format(0, 1, 4, dtype=torch.float32),
    "F16": Format(1, 1, 2),
    "Q4_0": Format(2, 32, 18, _q4_0),
    "Q4_1": Format(3, 32, 20, _q4_1),
    "Q5_0": Format(6, 32, 22, _q5_0),
    "Q5_1": Format(7, 32, 24, _q5_1),
    "Q8_0": Format(8, 32, Q8_BYTES, _q8_0),
    "Q2_K": Format(10, 256, 84, _q2_k),
    "Q3_K": Format(11, 256, 110, _q3_k),
    "Q4_K": Format(12, 256, 144, _q4_k),
    "Q5_K": Format(13, 256, 176, _q5_k),
    "Q6_K": Format(14, 256, 210, _q6_k),
    "IQ4_NL": Format(20, 32, 18, _iq4_nl),
    "IQ4_XS": Format(23, 256, 136, _iq4_xs),
    "BF16": Format(30, 1, 2, dtype=torch.bfloat16),
    "MXFP4": Format(39, 32, MXFP4_BYTES, _mxfp4, torch.bfloat16),
}


def decoded(raw: Tensor, name: str) -> Tensor:
    """The values [..., K] of rows in format `name`, uint8 [..., bytes of a row].

    A view where the format is torch's own. bfloat16 if float16 cannot hold the largest.
    """
    form = FORMATS[name]
    if form.decode is None:
        return raw.view(form.dtype)
    blocks = raw.unflatten(-1, (-1, form.nbytes))
    flat_NB = blocks.reshape(-1, form.nbytes)
    values = _converted(flat_NB, form, form.dtype)
    if form.dtype == torch.float16 and not bool(torch.isfinite(values).all()):
        values = _converted(flat_NB, form, torch.bfloat16)
    return values.view(*raw.shape[:-1], -1)


def _converted(flat_NB: Tensor, form: Format, dtype: torch.dtype) -> Tensor:
    assert form.decode is not None
    out_NV = torch.empty(len(flat_NB), form.values, dtype=dtype)
    step = CHUNK // form.values
    for start in range(0, len(flat_NB), step):
        out_NV[start : start + step] = form.decode(flat_NB[start : start + step])
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
