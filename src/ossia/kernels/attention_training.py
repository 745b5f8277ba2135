"""Attention with a backward pass: training uses it instead of autograd through `attention`.

Memory is O(tile x keys), never T x N, forward and backward: between the two only the output and one
number per query and head are kept, besides q, k and v. In float32 on a CPU both are compiled
(cpu/attention_training.inc), on a GPU attention_flex.py serves. Otherwise a tile goes through
torch's own fused attention on CPUs; elsewhere, and in the same form, through matrix products. There
the sink is folded in exactly: such a backward pass rebuilds the probabilities as exp(z - L) from
the log-sum-exp L that it is given, so giving it the one that counts the sink, L' = log(exp(L) +
exp(s)), and the output that was scaled for it, makes it compute dq, dk and dv of the softmax with
the sink; and ds = -sum over queries of exp(s - L') <do, o>.

T queries, N keys, H query heads, K key-value heads, G = H/K, h head width; n tiles of q queries and
m keys.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ossia.batch import Spans, Tile
from ossia.kernels import attention_flex, cpu
from ossia.kernels.attention import groups_of, rows_of
from ossia.kernels.training import compiled_for

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_THh: Tensor,
        k_NKh: Tensor,
        v_NKh: Tensor,
        sink_H: Tensor | None,
        spans: Spans,
        scale: float,
    ) -> Tensor:
        out_THh = torch.empty_like(q_THh)
        ctx.spans = spans
        ctx.scale = scale
        ctx.has_sink = sink_H is not None
        saved = [q_THh, k_NKh, v_NKh, q_THh.new_empty(0) if sink_H is None else sink_H]
        for tiles in groups_of(spans.tiles, q_THh.shape[1]):
            group = _Group(tiles, spans, q_THh, k_NKh)
            q = group.queries(q_THh)
            k = group.keys(k_NKh)
            v = group.keys(v_NKh)
            o, lse = _forward(q, k, v, group.mask(q.dtype), scale)
            if sink_H is not None:
                sink = group.per_head(sink_H)
                o = o * torch.sigmoid(lse - sink).unsqueeze(-1).to(o.dtype)
                lse = torch.logaddexp(lse, sink)
            group.scatter(o, out_THh)
            saved += [o, lse]
        ctx.save_for_backward(*saved)
        return out_THh

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THh: Tensor) -> tuple[Tensor | None, ...]:
        q_THh, k_NKh, v_NKh, sink_H, *saved = ctx.saved_tensors
        dq_THh = torch.empty_like(q_THh)
        dk_NKh = torch.zeros_like(k_NKh)
        dv_NKh = torch.zeros_like(v_NKh)
        wide = torch.promote_types(q_THh.dtype, torch.float32)
        ds_H = None
        if ctx.has_sink:
            ds_H = torch.zeros(q_THh.shape[1], dtype=wide, device=q_THh.device)
        for n, tiles in enumerate(groups_of(ctx.spans.tiles, q_THh.shape[1])):
            o, lse = saved[2 * n : 2 * n + 2]
            group = _Group(tiles, ctx.spans, q_THh, k_NKh)
            q = group.queries(q_THh)
            k = group.keys(k_NKh)
            v = group.keys(v_NKh)
            do = group.queries(grad_THh)
            do = do * group.real_rows(do)
            dq, dk, dv = _backward(do, q, k, v, o, lse, group.mask(q.dtype), ctx.scale)
            group.scatter(dq, dq_THh)
            group.scatter_add_keys(dk, dk_NKh)
            group.scatter_add_keys(dv, dv_NKh)
            if ds_H is not None:
                p_sink = torch.exp(group.per_head(sink_H) - lse)
                along = (do.to(wide) * o.to(wide)).sum(-1)
                ds_H -= group.sum_per_head(p_sink * along)
        ds = None if ds_H is None else ds_H.to(sink_H.dtype)
        return dq_THh, dk_NKh, dv_NKh, ds, None, None


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_THh: Tensor,
        k_NKh: Tensor,
        v_NKh: Tensor,
        sink_H: Tensor | None,
        spans: Spans,
        scale: float,
    ) -> Tensor:
        given = [x.contiguous() for x in (q_THh, k_NKh, v_NKh)]
        spans_T = [x.to(torch.int64).contiguous() for x in (spans.lo_T, spans.hi_T)]
        sink = None if sink_H is None else sink_H.contiguous()
        out_THh = torch.empty_like(given[0])
        lse_TH = q_THh.new_empty(q_THh.shape[:2])
        job, room = _job(given, spans_T, sink, scale, backward=False)
        cpu.loaded().ossia_attention_training_forward(
            job, room.data_ptr(), out_THh.data_ptr(), lse_TH.data_ptr()
        )
        ctx.save_for_backward(*given, *spans_T, sink, out_THh, lse_TH)
        ctx.scale = scale
        return out_THh

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THh: Tensor) -> tuple[Tensor | None, ...]:
        *given, lo_T, hi_T, sink, out_THh, lse_TH = ctx.saved_tensors
        dq = torch.empty_like(given[0])
        dk = torch.zeros_like(given[1])
        dv = torch.zeros_like(given[2])
        ds = None if sink is None else torch.zeros_like(sink)
        job, room = _job(given, [lo_T, hi_T], sink, ctx.scale, backward=True)
        grad_THh = grad_THh.contiguous()
        tensors = (room, out_THh, lse_TH, grad_THh, dq, dk, dv)
        pointers = [x.data_ptr() for x in tensors]
        sinks = None if ds is None else ds.data_ptr()
        cpu.loaded().ossia_attention_training_backward(job, *pointers, sinks)
        return dq, dk, dv, ds, None, None


def _job(
    given: list[Tensor], spans_T: list[Tensor], sink: Tensor | None, scale: float, backward: bool
) -> tuple[object, Tensor]:
    """The structure that the compiled functions take, and the memory that they work in. The tensors
    have to outlive the call.
    """
    queries, heads, width = given[0].shape
    keys, kv_heads, _ = given[1].shape
    assert given[1].shape == given[2].shape == (keys, kv_heads, width)
    assert heads % kv_heads == 0
    assert all(len(x) == queries for x in spans_T)
    assert sink is None or sink.shape == (heads,)
    pointers = [x.data_ptr() for x in given]
    sinks = None if sink is None else sink.data_ptr()
    spans = [x.data_ptr() for x in spans_T]
    sizes = (queries, keys, heads, kv_heads, width)
    job = ctypes.byref(cpu.TrainingAttention(*pointers, sinks, *spans, scale, *sizes))
    room = cpu.loaded().ossia_attention_training_room(job, int(backward))
    return job, given[0].new_empty(room)


def _serves(q_THh: Tensor, k_NKh: Tensor, v_NKh: Tensor, sink_H: Tensor | None) -> bool:
    tensors = [q_THh, k_NKh, v_NKh]
    if sink_H is not None:
        tensors.append(sink_H)
    return q_THh.shape[-1] % 16 == 0 and all(compiled_for(x) is not None for x in tensors)


class _Group:
    """Tiles of one shape: gathers their queries and keys to [n, K, G*q, h] and [n, K, m, h], and
    puts results back.
    """

    def __init__(self, tiles: list[Tile], spans: Spans, q_THh: Tensor, k_NKh: Tensor) -> None:
        device = q_THh.device
        num_keys, kv_heads, _ = k_NKh.shape
        self.groups = q_THh.shape[1] // kv_heads
        self.rows_nq, self.real_nq = rows_of(tiles, device)
        first = torch.tensor([[t.k0] for t in tiles], device=device)
        most = max(t.k1 - t.k0 for t in tiles)
        at_nm = first + torch.arange(most, device=device)
        at_n1m = at_nm.unsqueeze(1)
        lo_nq1 = spans.lo_T[self.rows_nq].unsqueeze(2)
        hi_nq1 = spans.hi_T[self.rows_nq].unsqueeze(2)
        self.allowed_nqm = (at_n1m >= lo_nq1) & (at_n1m < hi_nq1)
        self.at_nm = at_nm.clamp(max=num_keys - 1)

    def mask(self, dtype: torch.dtype) -> Tensor:
        """[n, 1, G*q, m]: 0 where a query sees a key, else -inf."""
        allowed_nqm = self.allowed_nqm
        mask_nqm = torch.zeros(allowed_nqm.shape, dtype=dtype, device=allowed_nqm.device)
        mask_nqm = mask_nqm.masked_fill_(~allowed_nqm, -torch.inf)
        return mask_nqm.repeat(1, self.groups, 1).unsqueeze(1)

    def queries(self, x_THh: Tensor) -> Tensor:
        n, q = self.rows_nq.shape
        x = x_THh.index_select(0, self.rows_nq.flatten())
        x_nqKGh = x.view(n, q, -1, self.groups, x_THh.shape[-1])
        return x_nqKGh.permute(0, 2, 3, 1, 4).flatten(2, 3)

    def keys(self, x_NKh: Tensor) -> Tensor:
        x = x_NKh.index_select(0, self.at_nm.flatten())
        x_nmKh = x.view(*self.at_nm.shape, *x_NKh.shape[1:])
        return x_nmKh.transpose(1, 2)

    def scatter(self, x: Tensor, out_THh: Tensor) -> None:
        n, q = self.rows_nq.shape
        x_nKGqh = x.unflatten(2, (self.groups, q))
        x_bHh = x_nKGqh.permute(0, 3, 1, 2, 4).reshape(n * q, *out_THh.shape[1:])
        rows = self.rows_nq.flatten()
        real = self.real_nq.flatten()
        if not bool(real.all()):
            rows = rows[real]
            x_bHh = x_bHh[real]
        out_THh.index_copy_(0, rows, x_bHh.to(out_THh.dtype))

    def scatter_add_keys(self, x: Tensor, out_NKh: Tensor) -> None:
        x = x.transpose(1, 2).reshape(-1, *out_NKh.shape[1:])
        out_NKh.index_add_(0, self.at_nm.flatten(), x)

    def per_head(self, sink_H: Tensor) -> Tensor:
        """[1, K, G*q], in float32 at least."""
        q = self.rows_nq.shape[1]
        sink_H = sink_H.to(torch.promote_types(sink_H.dtype, torch.float32))
        sink_1KG1 = sink_H.view(1, -1, self.groups, 1)
        return sink_1KG1.expand(-1, -1, -1, q).flatten(2)

    def sum_per_head(self, x: Tensor) -> Tensor:
        per_head: Tensor = x.unflatten(2, (self.groups, -1)).sum((0, 3)).flatten()
        return per_head

    def real_rows(self, like: Tensor) -> Tensor:
        """1 for real queries, 0 for padding, as [n, 1, G*q, 1]."""
        return self.real_nq.repeat(1, self.groups).to(like.dtype)[:, None, :, None]


def _is_fused(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _forward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Outputs [n, K, G*q, h], and the log-sum-exps [n, K, G*q] of the scores, float32 at least."""
    if _is_fused(q):
        fused: tuple[Tensor, Tensor] = _fused(q, k, v, 0.0, False, attn_mask=mask, scale=scale)
        return fused
    z = _scores(q, k, mask, scale)
    lse = z.logsumexp(-1)
    return (z - lse.unsqueeze(-1)).exp().to(v.dtype) @ v, lse


def _backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by q, k and v."""
    if _is_fused(q):
        gradients: tuple[Tensor, Tensor, Tensor] = _fused_backward(
            do, q, k, v, o, lse, 0.0, False, attn_mask=mask, scale=scale
        )
        return gradients
    p = (_scores(q, k, mask, scale) - lse.unsqueeze(-1)).exp()
    dp = (do @ v.transpose(-1, -2)).to(p.dtype)
    along = (do.to(p.dtype) * o).sum(-1, keepdim=True)
    dz = (p * (dp - along) * scale).to(q.dtype)
    dq = dz @ k
    dk = dz.transpose(-1, -2) @ q
    dv = p.to(do.dtype).transpose(-1, -2) @ do
    return dq, dk, dv


def _scores(q: Tensor, k: Tensor, mask: Tensor, scale: float) -> Tensor:
    wide = torch.promote_types(q.dtype, torch.float32)
    return (q @ k.transpose(-1, -2)).to(wide) * scale + mask


def attention_training(
    q_THh: Tensor, k_NKh: Tensor, v_NKh: Tensor, spans: Spans, sink_H: Tensor | None, scale: float
) -> Tensor:
    """As `attention`, differentiable by q, k, v and the sinks; computed in the dtype of q."""
    if sink_H is not None:  # a frozen one may be stored in bfloat16, which is not compiled
        sink_H = sink_H.to(torch.promote_types(q_THh.dtype, torch.float32))
    if attention_flex.serves(q_THh):
        return attention_flex.attention_flex(q_THh, k_NKh, v_NKh, spans, sink_H, scale)
    is_compiled = _serves(q_THh, k_NKh, v_NKh, sink_H)
    apply: Any = (_Compiled if is_compiled else _Attention).apply
    out_THh: Tensor = apply(q_THh, k_NKh, v_NKh, sink_H, spans, scale)
    return out_THh
