"""The operations of training between its matrix products: compiled for float32 on a CPU, else
torch.

The clamped SwiGLU, RMSNorm and RoPE with their gradients, sums of experts' outputs, the gradient of
cross-entropy. Bound: bytes, each value read and written once; in torch every operation is a pass
over memory of its own, and the passes cost training as much as its matrix products. Each works on
the calling thread, whatever torch's number of threads.

n tokens of one expert, F intermediate, T tokens, D hidden, R rows, V vocabulary, H heads, h head
width, r = h / 2.
"""

from __future__ import annotations

import os
from ctypes import CDLL
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ossia.config import SWIGLU_ALPHA
from ossia.kernels import cpu
from ossia.kernels.experts import swiglu


def swiglu_forward(h_nF2: Tensor, limit: float) -> Tensor:
    """As `swiglu`: [n, F] from the interleaved [n, 2F]."""
    library = compiled_for(h_nF2)
    if library is None:
        return swiglu(h_nF2, limit)
    h_nF2 = h_nF2.contiguous()
    a_nF = h_nF2.new_empty(h_nF2.shape[0], h_nF2.shape[1] // 2)
    library.ossia_swiglu_forward(h_nF2.data_ptr(), limit, *a_nF.shape, a_nF.data_ptr())
    return a_nF


def swiglu_backward(
    h_nF2: Tensor, da_nF: Tensor, weight_n: Tensor, limit: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward pass of a = swiglu(h), from `da`, the gradient by a before the `weight` of each
    output.

    Returns weight * gradient by h [n, 2F], weight * a [n, F], and the sums of da * a over the
    features [n]; a clamp that holds gives no gradient. `weight` and the sums are in float32 at
    least.
    """
    library = compiled_for(h_nF2)
    if library is None or da_nF.dtype != h_nF2.dtype or weight_n.dtype != torch.float32:
        return _swiglu_backward(h_nF2, da_nF, weight_n, limit)
    h_nF2 = h_nF2.contiguous()
    da_nF = da_nF.contiguous()
    weight_n = weight_n.contiguous()
    dh_nF2 = torch.empty_like(h_nF2)
    a_nF = torch.empty_like(da_nF)
    along_n = torch.zeros_like(weight_n)
    given = (h_nF2.data_ptr(), da_nF.data_ptr(), weight_n.data_ptr(), limit, *da_nF.shape)
    library.ossia_swiglu_backward(*given, dh_nF2.data_ptr(), a_nF.data_ptr(), along_n.data_ptr())
    return dh_nF2, a_nF, along_n


def _swiglu_backward(
    h_nF2: Tensor, da_nF: Tensor, weight_n: Tensor, limit: float
) -> tuple[Tensor, Tensor, Tensor]:
    a_nF, slope_nF2 = swiglu_with_gradient(h_nF2, limit)
    wide = weight_n.dtype
    weight_n1 = weight_n.unsqueeze(1)
    along_n = (da_nF.to(wide) * a_nF.to(wide)).sum(-1)
    da_nF = (da_nF * weight_n1).to(h_nF2.dtype)
    dh_nF2 = da_nF.repeat_interleave(2, dim=1).mul_(slope_nF2)
    a_nF = (a_nF * weight_n1).to(h_nF2.dtype)
    return dh_nF2, a_nF, along_n


def swiglu_with_gradient(h_nF2: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """swiglu(h) [n, F] and its derivative by each input [n, 2F]; 0 where a clamp holds."""
    wide = h_nF2.to(torch.promote_types(h_nF2.dtype, torch.float32))
    gate_in = wide[..., 0::2]
    up_in = wide[..., 1::2]
    gate = gate_in.clamp(max=limit)
    up = up_in.clamp(-limit, limit)
    sigmoid = torch.sigmoid(SWIGLU_ALPHA * gate)
    glu = gate * sigmoid
    slope = sigmoid + SWIGLU_ALPHA * glu * (1 - sigmoid)
    d = torch.empty_like(h_nF2)
    d[..., 0::2] = slope * (up + 1) * (gate_in <= limit)
    d[..., 1::2] = glu * (up_in.abs() <= limit)
    return (glu * (up + 1)).to(h_nF2.dtype), d


def add_rows(out_TD: Tensor, rows_n: Tensor, x_nD: Tensor, scale_n: Tensor | None = None) -> None:
    """out[rows] += scale * x in place, row after row; a row may come more than once. `out` is
    float32 at least.
    """
    library = compiled_for(out_TD)
    given = [x_nD] if scale_n is None else [x_nD, scale_n]
    if library is None or any(x.dtype != torch.float32 for x in given):
        x_nD = x_nD.to(out_TD.dtype)
        if scale_n is not None:
            x_nD = x_nD * scale_n.unsqueeze(1)
        out_TD.index_add_(0, rows_n, x_nD)
        return
    assert out_TD.is_contiguous()
    assert rows_n.dtype == torch.int64
    assert x_nD.shape == (len(rows_n), out_TD.shape[1])
    x_nD = x_nD.contiguous()
    rows_n = rows_n.contiguous()
    scale = None
    if scale_n is not None:
        assert scale_n.shape == rows_n.shape
        scale_n = scale_n.contiguous()
        scale = scale_n.data_ptr()
    pointers = (x_nD.data_ptr(), rows_n.data_ptr(), scale)
    library.ossia_add_rows(*pointers, *x_nD.shape, out_TD.data_ptr())


class _Taken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TN: Tensor, rows_n: Tensor) -> Tensor:
        ctx.save_for_backward(rows_n)
        ctx.like = x_TN.shape
        return x_TN.index_select(0, rows_n)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nN: Tensor) -> tuple[Tensor | None, ...]:
        (rows_n,) = ctx.saved_tensors
        wide = torch.promote_types(grad_nN.dtype, torch.float32)
        dx_TN = torch.zeros(ctx.like, dtype=wide, device=grad_nN.device)
        add_rows(dx_TN.flatten(1), rows_n, grad_nN.flatten(1))
        return dx_TN.to(grad_nN.dtype), None


def take_rows(x_TN: Tensor, rows_n: Tensor) -> Tensor:
    """x[rows], differentiable by x; a row may be taken several times. torch's own backward pass
    calls an addition for each row.
    """
    apply: Any = _Taken.apply
    out_nN: Tensor = apply(x_TN, rows_n)
    return out_nN


def check_targets(target_R: Tensor, vocabulary: int) -> None:
    """Raises `IndexError` for a target outside of the vocabulary. Waits for a GPU once."""
    if not len(target_R):
        return
    low, high = torch.stack(target_R.aminmax()).tolist()
    if not 0 <= low <= high < vocabulary:
        raise IndexError(f"a target is outside of the vocabulary of {vocabulary} tokens")


def softmax_gradient(logits_RV: Tensor, target_R: Tensor) -> tuple[Tensor, Tensor]:
    """-log softmax(logits)[target] [R], and its gradient by the logits [R, V]. `logits` may be
    overwritten.

    Call `check_targets` first: here the targets are memory addresses.
    """
    library = compiled_for(logits_RV)
    if library is None:
        lse_R1 = logits_RV.logsumexp(-1, keepdim=True)
        loss_R1 = lse_R1 - logits_RV.gather(1, target_R.unsqueeze(1))
        p_RV = logits_RV.sub_(lse_R1).exp_()
        minus_one_R1 = torch.full_like(lse_R1, -1.0)
        gradient_RV = p_RV.scatter_add_(1, target_R.unsqueeze(1), minus_one_R1)
        return loss_R1.squeeze(1), gradient_RV
    assert target_R.dtype == torch.int64
    assert target_R.shape == logits_RV.shape[:1]
    logits_RV = logits_RV.contiguous()
    target_R = target_R.contiguous()
    loss_R = logits_RV.new_empty(logits_RV.shape[0])
    given = (logits_RV.data_ptr(), target_R.data_ptr(), *logits_RV.shape)
    library.ossia_cross_entropy(*given, loss_R.data_ptr())
    return loss_R, logits_RV


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, scale_D: Tensor, eps: float) -> Tensor:
        x_TD = x_TD.contiguous()
        scale_D = scale_D.contiguous()
        out_TD = torch.empty_like(x_TD)
        inverse_T = x_TD.new_empty(x_TD.shape[0])
        given = (x_TD.data_ptr(), scale_D.data_ptr(), eps, *x_TD.shape)
        cpu.loaded().ossia_norm_forward(*given, out_TD.data_ptr(), inverse_T.data_ptr())
        ctx.save_for_backward(x_TD, scale_D, inverse_T)
        return out_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, scale_D, inverse_T = ctx.saved_tensors
        grad_TD = grad_TD.contiguous()
        dx_TD = torch.empty_like(x_TD)
        dscale_D = torch.zeros_like(scale_D)
        given = [x.data_ptr() for x in (x_TD, scale_D, inverse_T, grad_TD)]
        made = [x.data_ptr() for x in (dx_TD, dscale_D)]
        cpu.loaded().ossia_norm_backward(*given, *x_TD.shape, *made)
        return dx_TD, dscale_D, None


def norm_training(x_TD: Tensor, scale_D: Tensor, eps: float) -> Tensor | None:
    """As `rms_norm`, with a backward pass of its own; None if that is not compiled."""
    if x_TD.ndim != 2 or x_TD.shape[1] % 16 or scale_D.shape != x_TD.shape[1:]:
        return None
    if compiled_for(x_TD) is None or compiled_for(scale_D) is None:
        return None
    apply: Any = _Norm.apply
    out_TD: Tensor = apply(x_TD, scale_D, eps)
    return out_TD


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_THh: Tensor, cos_Tr: Tensor, sin_Tr: Tensor) -> Tensor:
        ctx.save_for_backward(cos_Tr, sin_Tr)
        return _rotated(x_THh, cos_Tr, sin_Tr, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THh: Tensor) -> tuple[Tensor | None, ...]:
        cos_Tr, sin_Tr = ctx.saved_tensors
        return _rotated(grad_THh, cos_Tr, sin_Tr, -1.0), None, None


def _rotated(x_THh: Tensor, cos_Tr: Tensor, sin_Tr: Tensor, sign: float) -> Tensor:
    x_THh = x_THh.contiguous()
    cos_Tr = cos_Tr.contiguous()
    sin_Tr = sin_Tr.contiguous()
    out_THh = torch.empty_like(x_THh)
    tokens, heads, width = x_THh.shape
    given = (x_THh.data_ptr(), cos_Tr.data_ptr(), sin_Tr.data_ptr(), sign)
    sizes = (tokens, heads, width // 2)
    cpu.loaded().ossia_rotate_heads(*given, *sizes, out_THh.data_ptr())
    return out_THh


def rotate_training(x_THh: Tensor, cos_Tr: Tensor, sin_Tr: Tensor) -> Tensor | None:
    """As `rotate`, differentiable by x; None if that is not compiled."""
    if x_THh.ndim != 3:
        return None
    tokens, _, width = x_THh.shape
    if not cos_Tr.shape == sin_Tr.shape == (tokens, width // 2):
        return None
    if any(compiled_for(x) is None for x in (x_THh, cos_Tr, sin_Tr)):
        return None
    apply: Any = _Rotation.apply
    out_THh: Tensor = apply(x_THh, cos_Tr, sin_Tr)
    return out_THh


def compiled_for(x: Tensor) -> CDLL | None:
    """The compiled kernels, if they serve tensors like x in training: plain ones in float32 on a
    CPU.
    """
    is_plain = type(x) in (Tensor, torch.nn.Parameter)
    if not is_plain or x.dtype != torch.float32 or x.device.type != "cpu":
        return None
    if torch.compiler.is_compiling() or os.environ.get("OSSIA_KERNELS") == "reference":
        return None
    found = cpu.compiled()
    return None if isinstance(found, str) else found
