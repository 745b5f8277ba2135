"""Weights, caches and batches in the form that the compiled kernels take: C structures that keep
their tensors alive.

A weight has a published form, which may be a view of a mapped file, and a packed form once `pack`
has made it; both give the same bits. Knows shapes and dtypes; knows no model, no files.

T tokens, S sequences, D hidden, N rows and K columns of a weight, E experts, h head width.
"""

from __future__ import annotations

import ctypes
from collections.abc import MutableMapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ossia.batch import Pages
from ossia.config import kv_page_bytes
from ossia.kernels.cpu import library as c
from ossia.kernels.cpu.memory import huge

KINDS = {"bf16": 0, "int8": 1}
# Rows of a piece, if a dense weight is packed in pieces: whole tiles of pack.inc, which follow each
# other in memory.
PIECE_ROWS = 8192


class Packable(Protocol):
    """A weight that can be packed, in a number of steps, while it is in use."""

    published: list[Tensor]  # no longer read once the weight is packed
    packed_bytes: int
    pieces: int

    def sources(self, piece: int) -> list[Tensor]:
        """Views of the published form: everything that is read to make this piece."""
        ...

    def pack(self, piece: int, memory: Tensor) -> None:
        """Make one piece of the packed form in `memory`, uint8 [packed_bytes]."""
        ...

    def use(self, memory: Tensor) -> None:
        """From now on read the packed form, all of whose pieces have been made, and let the
        published one go.
        """
        ...


def own(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """A copy, also of what has that dtype: what is small is read from no file after loading."""
    return tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)


def rms_norm(x_TD: Tensor, scale_D: Tensor, eps: float) -> Tensor:
    """bfloat16 [T, D] from float32."""
    assert x_TD.dtype == scale_D.dtype == torch.float32 and x_TD.is_contiguous()
    out_TD = torch.empty(x_TD.shape, dtype=torch.bfloat16)
    c.loaded().ossia_rms_norm(
        x_TD.data_ptr(), scale_D.data_ptr(), eps, *x_TD.shape, out_TD.data_ptr()
    )
    return out_TD


class Dense:
    """y = x W^T + b: float32 [T, N] from bfloat16 [T, K]; `kind` "bf16" or "int8" is what W is
    multiplied as.
    """

    def __init__(self, weight_NK: Tensor, bias_N: Tensor | None, kind: str) -> None:
        rows, cols = weight_NK.shape
        # weights of another dtype are rounded, as they would be at each use
        weight_NK = weight_NK.detach().to(torch.bfloat16).contiguous()
        self.bias = None if bias_N is None else own(bias_N)
        bias = None if self.bias is None else self.bias.data_ptr()
        self.c = c.DenseWeight(weight_NK.data_ptr(), None, bias, rows, cols, KINDS[kind])
        self.published = [weight_NK]
        self.pieces = -(-rows // PIECE_ROWS)
        self.packed_bytes: int = c.loaded().ossia_dense_bytes(ctypes.byref(self.c))
        self.users: list[c.DenseWeight] = [self.c]

    def __call__(self, x_TK: Tensor) -> Tensor:
        assert (
            x_TK.dtype == torch.bfloat16 and x_TK.is_contiguous() and x_TK.shape[1] == self.c.cols
        )
        out_TN = torch.empty(x_TK.shape[0], self.c.rows)
        c.loaded().ossia_dense(
            ctypes.byref(self.c), x_TK.data_ptr(), x_TK.shape[0], out_TN.data_ptr(), self.c.rows, 0
        )
        return out_TN

    def sources(self, piece: int) -> list[Tensor]:
        return [
            weight_NK[piece * PIECE_ROWS : (piece + 1) * PIECE_ROWS] for weight_NK in self.published
        ]

    def pack(self, piece: int, memory: Tensor) -> None:
        (part_NK,) = self.sources(piece)
        whole = c.DenseWeight(part_NK.data_ptr(), None, None, PIECE_ROWS, self.c.cols, self.c.kind)
        begin = piece * c.loaded().ossia_dense_bytes(ctypes.byref(whole))
        part = c.DenseWeight(
            part_NK.data_ptr(), None, None, part_NK.shape[0], self.c.cols, self.c.kind
        )
        c.loaded().ossia_pack_dense(ctypes.byref(part), memory.data_ptr() + begin)

    def use(self, memory: Tensor) -> None:
        self.memory = memory
        for user in self.users:
            user.packed = memory.data_ptr()
        c.loaded().ossia_fence()  # a call that began before may still read the published form
        for user in self.users:
            user.raw = None
        self.published = []


class Experts:
    """E matrices [N, K] in MXFP4 with biases; `interleaved` rows are gate, linear, gate, linear,
    ...
    """

    def __init__(self, blocks: Tensor, scales: Tensor, bias_EN: Tensor, interleaved: bool) -> None:
        experts, rows, groups = scales.shape
        blocks = blocks.contiguous()
        scales = scales.contiguous()
        self.bias = own(bias_EN)
        pointers = (blocks.data_ptr(), scales.data_ptr(), None, self.bias.data_ptr())
        self.c = c.ExpertWeight(*pointers, experts, rows, groups * 32, interleaved)
        self.published = [blocks, scales]
        self.pieces = experts
        self.expert_bytes: int = c.loaded().ossia_expert_bytes(ctypes.byref(self.c))
        self.packed_bytes = experts * self.expert_bytes
        self.users: list[c.ExpertWeight] = [self.c]

    def sources(self, piece: int) -> list[Tensor]:
        return [tensor[piece] for tensor in self.published]

    def pack(self, piece: int, memory: Tensor) -> None:
        to = memory.data_ptr() + piece * self.expert_bytes
        c.loaded().ossia_pack_experts(ctypes.byref(self.c), piece, 1, to)

    def use(self, memory: Tensor) -> None:
        self.memory = memory
        for user in self.users:
            user.packed = memory.data_ptr()
        c.loaded().ossia_fence()
        for user in self.users:
            user.blocks = None
            user.scales = None
        self.published = []


class KvLayer:
    """Keys and values of one layer: `pages` pages of PAGE positions, in `kind` "bf16" or "int8"
    (with a scale for every position and head). Memory is touched only as it is used.
    """

    def __init__(self, pages: int, kv_heads: int, head_dim: int, kind: str = "bf16") -> None:
        self.memory = huge(pages * kv_heads * kv_page_bytes(head_dim, kind))
        self.c = c.KvLayer(self.memory.data_ptr(), kv_heads, head_dim, KINDS[kind])
        self.ref = ctypes.byref(self.c)

    def copy(self, src: int, dst: int) -> None:
        c.loaded().ossia_copy_page(self.ref, src, dst)


class KvLayers:
    """The cache of every layer, in their order; the same one may serve several layers."""

    def __init__(self, layers: Sequence[KvLayer]) -> None:
        self.layers = tuple(layers)
        self.pointers = (ctypes.c_void_p * len(self.layers))(
            *(ctypes.addressof(kv.c) for kv in self.layers)
        )


class Step:
    """The rows of a batch: the sequences, their positions, and the places of their keys and values.
    Made once for each batch.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        starts: Sequence[int],
        pages: Pages,
        rope: tuple[Tensor, Tensor],
    ) -> None:
        begin = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(lengths, out=begin[1:])
        start = np.array(starts, dtype=np.int32)
        cos, sin = (part.contiguous() for part in rope)
        self.keep = [begin, start, cos, sin]  # alive as long as this
        step = c.Step(int(begin[-1]), len(lengths), begin.ctypes.data, start.ctypes.data)
        for window, table in pages.tables.items():
            kind = 0 if window is None else 1
            pages_SP = np.ascontiguousarray(table.pages_SP, dtype=np.int32)
            first_S = np.ascontiguousarray(table.first_S, dtype=np.int32)
            step.pages[kind] = pages_SP.ctypes.data
            step.stride[kind] = pages_SP.shape[1]
            step.first_page[kind] = first_S.ctypes.data
            self.keep += [pages_SP, first_S]
        step.cos = cos.data_ptr()
        step.sin = sin.data_ptr()
        self.c = step
        self.ref = ctypes.byref(step)


class Attention:
    """The data of x += out(attention(norm(x))). `dense`: q, k, v, out; `window` None: full
    attention.
    """

    def __init__(
        self,
        dense: Sequence[Dense],
        norm_D: Tensor,
        sinks_H: Tensor | None,
        eps: float,
        score_scale: float,
        head_dim: int,
        window: int | None,
    ) -> None:
        self.parts = tuple(dense)  # alive as long as this
        self.norm = own(norm_D)
        self.sinks = None if sinks_H is None else own(sinks_H)
        sinks = None if self.sinks is None else self.sinks.data_ptr()
        heads = dense[0].c.rows // head_dim
        rest = (sinks, eps, score_scale, heads, window or 0)
        self.c = c.AttentionHalf(self.norm.data_ptr(), *(part.c for part in dense), *rest)
        for part, place in zip(dense, (self.c.q, self.c.k, self.c.v, self.c.out), strict=True):
            part.users.append(place)  # the structure holds a copy


class Moe:
    """The data of x += experts(norm(x)). `parts`: gate_up, down; `router`: weight [E, D] and bias;
    None: one expert.
    """

    def __init__(
        self,
        parts: Sequence[Experts],
        norm_D: Tensor,
        router: tuple[Tensor, Tensor] | None,
        eps: float,
        limit: float,
        top_k: int,
        activations: str,
    ) -> None:
        self.parts = tuple(parts)
        self.norm = own(norm_D)
        dtypes = (torch.bfloat16, torch.float32)
        self.router: list[Tensor] = []  # alive as long as this
        pointers: list[int | None] = [None, None]
        if router is not None:
            parts_and_dtypes = zip(router, dtypes, strict=True)
            self.router = [own(part, dtype) for part, dtype in parts_and_dtypes]
            pointers = [part.data_ptr() for part in self.router]
        numbers = (eps, limit, top_k, KINDS[activations])
        self.c = c.MoeHalf(self.norm.data_ptr(), *pointers, *(part.c for part in parts), *numbers)
        for part, place in zip(parts, (self.c.gate_up, self.c.down), strict=True):
            part.users.append(place)

    def choose(self, x_TD: Tensor) -> Tensor:
        """The experts that each row goes to, int64 [T, k]."""
        choice_Tk = torch.empty(len(x_TD), self.c.top_k, dtype=torch.int32)
        weight_Tk = torch.empty(choice_Tk.shape)
        made = (choice_Tk.data_ptr(), weight_Tk.data_ptr())
        c.loaded().ossia_moe_route(ctypes.byref(self.c), x_TD.data_ptr(), len(x_TD), *made)
        return choice_Tk.long()


class Layers:
    """All layers in one call, which adds to x in place: float32 [T, D] through each attention, then
    each Moe.
    """

    def __init__(self, halves: Sequence[tuple[Attention, Moe]]) -> None:
        self.halves = tuple(halves)  # alive as long as this
        pointers = [
            c.Layer(ctypes.addressof(attention.c), ctypes.addressof(moe.c))
            for attention, moe in halves
        ]
        self.c = (c.Layer * len(pointers))(*pointers)
        self.call = c.loaded().ossia_layers

    def __call__(self, x_TD: Tensor, step: Step, kv: KvLayers) -> None:
        assert x_TD.dtype == torch.float32
        assert x_TD.is_contiguous()
        assert len(kv.layers) == len(self.c)
        self.call(self.c, kv.pointers, len(self.c), step.ref, x_TD.data_ptr())

    def one_by_one(
        self, x_TD: Tensor, step: Step, kv: KvLayers, choices: MutableMapping[int, Tensor]
    ) -> None:
        """The same, to the bit, in a call for each half; the experts that each layer chooses,
        int64 [T, k], go to `choices`.
        """
        assert x_TD.dtype == torch.float32
        assert x_TD.is_contiguous()
        library = c.loaded()
        tokens = len(x_TD)
        x = x_TD.data_ptr()
        for n, (attention, moe) in enumerate(self.halves):
            library.ossia_attention_half(
                ctypes.byref(attention.c), ctypes.byref(kv.layers[n].c), step.ref, x
            )
            if moe.router:
                choices[n] = moe.choose(x_TD)
            library.ossia_moe_half(ctypes.byref(moe.c), x, tokens)
