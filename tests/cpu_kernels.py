"""Calls of the compiled CPU kernels on torch tensors, for their tests: each input lies unaligned
between NaNs.

Shapes: T tokens, R rows, K columns, E experts. Knows the C structures, nothing of how the kernels
work.
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from torch import Tensor

from ossia.kernels.cpu.library import DenseWeight, ExpertWeight, MoeHalf

BF16, INT8 = 0, 1


# AddressSanitizer's, where a test runs under it: a read of these bytes is then an error even if
# nothing comes of it.
POISON = getattr(ctypes.CDLL(None), "__asan_poison_memory_region", None)


class Arena:
    """Keeps what C reads alive, with 0xff bytes around it: NaN as bfloat16, float32 and MXFP4
    scale.
    """

    def __init__(self) -> None:
        self._kept: list[object] = []

    def keep(self, value: object) -> object:
        self._kept.append(value)
        return value

    def copy(self, tensor: Tensor | None) -> int | None:
        """Address of a copy that is aligned to its elements only, or None."""
        if tensor is None:
            return None
        raw = tensor.contiguous().view(-1).view(torch.uint8)
        element = tensor.element_size()
        room = torch.full((raw.numel() + 256,), 255, dtype=torch.uint8)
        begin = 64 + element + (-room.data_ptr()) % 64
        room[begin : begin + raw.numel()] = raw
        self.keep(room)
        if POISON:
            end = begin + raw.numel()
            POISON(ctypes.c_void_p(room.data_ptr()), ctypes.c_size_t(begin))
            POISON(ctypes.c_void_p(room.data_ptr() + end), ctypes.c_size_t(room.numel() - end))
        return room.data_ptr() + begin

    def output(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full(shape, -1 if dtype == torch.int32 else torch.nan, dtype=dtype)

    def packed(self, size: int) -> Tensor:
        room = torch.full((size + 64,), 255, dtype=torch.uint8)
        begin = (-room.data_ptr()) % 64
        self.keep(room)
        return room[begin : begin + size]


def dense(
    library: ctypes.CDLL,
    weight_RK: Tensor,
    x_TK: Tensor,
    bias_R: Tensor | None = None,
    kind: int = BF16,
    packed: bool = False,
    add_to: Tensor | None = None,
) -> Tensor:
    """[T, R] float32; `add_to` may have more columns than R: the rest comes back unchanged."""
    arena = Arena()
    rows, cols = weight_RK.shape
    weight = DenseWeight(arena.copy(weight_RK), None, arena.copy(bias_R), rows, cols, kind)
    if packed:
        room = arena.packed(library.ossia_dense_bytes(ctypes.byref(weight)))
        library.ossia_pack_dense(ctypes.byref(weight), room.data_ptr())
        weight.raw, weight.packed = None, room.data_ptr()
    out = arena.output(x_TK.shape[0], rows) if add_to is None else add_to.clone()
    args = (arena.copy(x_TK), x_TK.shape[0], out.data_ptr(), out.shape[1], int(add_to is not None))
    library.ossia_dense(ctypes.byref(weight), *args)
    return out


def expert_weight(
    library: ctypes.CDLL,
    arena: Arena,
    blocks: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    interleaved: bool = False,
    packed: bool = False,
) -> ExpertWeight:
    """From blocks uint8 [E, R, K/32, 16], scales uint8 [E, R, K/32] and bias float32 [E, R]."""
    experts, rows, groups = scales.shape
    at = (arena.copy(blocks), arena.copy(scales), None, arena.copy(bias))
    weight = ExpertWeight(*at, experts, rows, 32 * groups, int(interleaved))
    if packed:
        size = library.ossia_expert_bytes(ctypes.byref(weight))
        room = arena.packed(size * experts)
        library.ossia_pack_experts(ctypes.byref(weight), 0, 1, room.data_ptr())
        library.ossia_pack_experts(ctypes.byref(weight), 1, experts - 1, room.data_ptr() + size)
        weight.blocks = weight.scales = None
        weight.packed = room.data_ptr()
    return weight


def expert_linear(
    library: ctypes.CDLL,
    blocks: Tensor,
    scales: Tensor,
    x_TK: Tensor,
    expert: int = 0,
    bias: Tensor | None = None,
    activations: int = BF16,
    interleaved: bool = False,
    packed: bool = False,
) -> Tensor:
    """[T, R] float32 of one expert."""
    arena = Arena()
    weight = expert_weight(library, arena, blocks, scales, bias, interleaved, packed)
    out = arena.output(x_TK.shape[0], scales.shape[1])
    args = (expert, activations, arena.copy(x_TK), x_TK.shape[0], out.data_ptr())
    library.ossia_expert_linear(ctypes.byref(weight), *args)
    return out


class Moe:
    """A random mixture-of-experts half: D hidden, F features, E experts, k chosen."""

    def __init__(self, d: int, f: int, experts: int, k: int, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.d, self.f, self.experts, self.k, self.eps, self.limit = d, f, experts, k, 1e-5, 7.0
        self.norm = torch.rand(d, generator=draw) + 0.5
        self.router = torch.randn(experts, d, generator=draw).bfloat16()
        self.router_bias = torch.randn(experts, generator=draw)
        self.gate_up = random_mxfp4(draw, experts, 2 * f, d)
        self.down = random_mxfp4(draw, experts, d, f)
        self.bias_up = torch.randn(experts, 2 * f, generator=draw)
        self.bias_down = torch.randn(experts, d, generator=draw)

    def half(
        self,
        library: ctypes.CDLL,
        arena: Arena,
        activations: int,
        packed: bool,
        routed: bool = True,
    ) -> MoeHalf:
        up = expert_weight(library, arena, *self.gate_up, self.bias_up, True, packed)
        down = expert_weight(library, arena, *self.down, self.bias_down, False, packed)
        router = (arena.copy(self.router), arena.copy(self.router_bias)) if routed else (None, None)
        return MoeHalf(
            arena.copy(self.norm), *router, up, down, self.eps, self.limit, self.k, activations
        )

    def __call__(
        self,
        library: ctypes.CDLL,
        x_TD: Tensor,
        activations: int = BF16,
        packed: bool = False,
        routed: bool = True,
    ) -> Tensor:
        arena, out = Arena(), x_TD.clone()
        half = self.half(library, arena, activations, packed, routed)
        library.ossia_moe_half(ctypes.byref(half), out.data_ptr(), x_TD.shape[0])
        return out

    def route(self, library: ctypes.CDLL, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """(choice int32 [T, k], weight float32 [T, k])"""
        arena = Arena()
        half = self.half(library, arena, BF16, False)
        tokens = x_TD.shape[0]
        choice, weight = (
            arena.output(tokens, self.k, dtype=torch.int32),
            arena.output(tokens, self.k),
        )
        at = (arena.copy(x_TD), tokens, choice.data_ptr(), weight.data_ptr())
        library.ossia_moe_route(ctypes.byref(half), *at)
        return choice, weight


def random_mxfp4(
    draw: torch.Generator, *shape: int, low: int = 115, high: int = 122
) -> tuple[Tensor, Tensor]:
    """Random blocks and scales of a weight of that shape, scale bytes from `low` to `high`."""
    *front, cols = shape
    blocks = torch.randint(0, 256, (*front, cols // 32, 16), dtype=torch.uint8, generator=draw)
    scales = torch.randint(low, high + 1, (*front, cols // 32), dtype=torch.uint8, generator=draw)
    blocks[torch.rand(scales.shape, generator=draw) < 0.05] = (
        0x80  # blocks of zeros, some of them negative
    )
    return blocks, scales


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a.view(torch.int32) == b.view(torch.int32)).all())


def fused(library: ctypes.CDLL, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c as the instruction set does it: rounded twice, or once (a * b needs at most 48 bits
    here).
    """
    if library.ossia_isa() == b"generic":
        return (a * b).astype(np.float32) + c
    product, c = a.astype(np.longdouble) * b, c.astype(np.longdouble)
    total = product + c
    lost = np.where(abs(product) > abs(c), (product - total) + c, (c - total) + product)
    below, above = (np.nextafter(total, side).astype(np.float32) for side in (-np.inf, np.inf))
    tie = (below != above) & (total - below == above - total)  # what was lost decides
    return np.where(tie & (lost != 0), np.where(lost > 0, above, below), total.astype(np.float32))


def quantized(x_TK: Tensor, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(q [T, blocks, 32], d [T, blocks]) of activations by the definition; K is filled up to a
    multiple of `size`.
    """
    x = (
        torch.nn.functional.pad(x_TK.float(), (0, -x_TK.shape[1] % size))
        .unflatten(1, (-1, 32))
        .numpy()
    )
    d = np.abs(x).max(-1) / np.float32(127)
    return np.rint(np.divide(x, d[..., None], out=np.zeros_like(x), where=d[..., None] > 0)), d


def int8_linear(
    library: ctypes.CDLL, q_RBk: np.ndarray, scale_RB: np.ndarray, x_TK: Tensor, size: int
) -> np.ndarray:
    """[T, R] by the definition: one chain a row over blocks of 32."""
    q, d = quantized(x_TK, size)
    sums = np.zeros((len(q), len(q_RBk)), np.float32)
    for b in range(q.shape[1]):
        dots = (q[:, b] @ q_RBk[:, b].T).astype(np.float32)
        sums = fused(library, dots, scale_RB[:, b] * d[:, b, None], sums)
    return sums
