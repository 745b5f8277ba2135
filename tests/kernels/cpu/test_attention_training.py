"""Attention of training, compiled, beside autograd through the dense formula in float64."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from ossia.batch import Batch
from ossia.kernels import attention_training
from ossia.kernels.cpu import TrainingAttention

GUARD = 123.0
ALIKE = ("avxvnni", "avx512_vnni", "avx512")  # products of bytes and halves, which these lack


def dense(q: Tensor, k: Tensor, v: Tensor, lo: Tensor, hi: Tensor, sink: Tensor | None) -> Tensor:
    """softmax over all keys that a query sees and the sink as one more, whose value is 0."""
    at = torch.arange(len(k))
    seen = (at >= lo[:, None]) & (at < hi[:, None])
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    z = (torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
    if sink is not None:
        z = torch.cat([z, sink[:, None, None].expand(-1, len(q), 1)], -1)
    return torch.einsum("hqk,khd->qhd", z.softmax(-1)[..., : len(k)], v)


def guarded(*shape: int) -> tuple[Tensor, Tensor]:
    size = int(torch.Size(shape).numel())
    room = torch.full((size + 64,), GUARD)
    return room, room[32 : 32 + size].view(shape)


def compiled(
    library: ctypes.CDLL, inputs: list[Tensor], lo: Tensor, hi: Tensor, grad: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """(output, gradients by q, k, v and the sinks if there are any); nothing beside its arrays may
    be written.
    """
    q, k, v, *rest = inputs
    sink = rest[0] if rest else None
    pointers = [x.data_ptr() for x in (q, k, v)] + [None if sink is None else sink.data_ptr()]
    sizes = (len(q), len(k), q.shape[1], k.shape[1], q.shape[2])
    job = TrainingAttention(*pointers, lo.data_ptr(), hi.data_ptr(), q.shape[2] ** -0.5, *sizes)
    rooms = [guarded(*x.shape) for x in (q, q, k, v)]
    (_, out), (_, dq), (_, dk), (_, dv) = rooms
    lse, ds = torch.empty(q.shape[:2]), torch.zeros(q.shape[1])
    for part in range(2):
        work, inside = guarded(library.ossia_attention_training_room(ctypes.byref(job), part))
        if part == 0:
            given = (inside, out, lse)
            library.ossia_attention_training_forward(
                ctypes.byref(job), *(x.data_ptr() for x in given)
            )
        else:
            dk.zero_(), dv.zero_()
            tensors = (inside, out, lse, grad, dq, dk, dv, ds)
            library.ossia_attention_training_backward(
                ctypes.byref(job), *(x.data_ptr() for x in tensors)
            )
        rooms.append((work, inside))
    assert all((room[:32] == GUARD).all() and (room[-32:] == GUARD).all() for room, _ in rooms)
    return out, [dq, dk, dv] + ([] if sink is None else [ds])


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width"), [(4, 2, 32), (8, 1, 64), (3, 3, 16), (40, 1, 16), (2, 1, 48)]
)
@pytest.mark.parametrize("lengths", [[1], [1, 17, 40, 3], [100, 33, 70]])
@pytest.mark.parametrize(("window", "with_sink"), [(None, True), (8, True), (8, False)])
def test_attention(
    isa: ctypes.CDLL,
    heads: int,
    kv_heads: int,
    width: int,
    lengths: list[int],
    window: int | None,
    with_sink: bool,
) -> None:
    tokens, rng = sum(lengths), torch.Generator().manual_seed(heads + sum(lengths))
    shapes = [(tokens, heads, width), (tokens, kv_heads, width), (tokens, kv_heads, width)]
    inputs = [torch.randn(shape, generator=rng) * 2 for shape in shapes]
    inputs += [torch.randn(heads, generator=rng) * 3] if with_sink else []
    grad = torch.randn(shapes[0], generator=rng)
    spans = Batch.packed(lengths).spans(window)
    lo, hi = spans.lo_T.long().contiguous(), spans.hi_T.long().contiguous()
    out, gradients = compiled(isa, inputs, lo, hi, grad)
    wide = [x.double().requires_grad_() for x in inputs]
    want = dense(*wide[:3], lo, hi, wide[3] if with_sink else None)
    torch.testing.assert_close(out.double(), want.detach(), rtol=1e-4, atol=1e-5)
    for a, b in zip(gradients, torch.autograd.grad(want, wide, grad.double()), strict=True):
        torch.testing.assert_close(
            a.double(), b, rtol=1e-4, atol=3e-5 * max(1.0, float(b.abs().max()))
        )


def test_many_keys_are_done_in_smaller_blocks(isa: ctypes.CDLL) -> None:
    """More scores than a block of 32 rows holds."""
    tokens = 7000
    rng = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(shape, generator=rng)
        for shape in [(3, 40, 16), (tokens, 1, 16), (tokens, 1, 16)]
    ]
    lo, hi = torch.zeros(3, dtype=torch.int64), torch.tensor([tokens - 20, tokens - 1, tokens])
    grad = torch.randn(3, 40, 16, generator=rng)
    out, gradients = compiled(isa, inputs, lo, hi, grad)
    wide = [x.double().requires_grad_() for x in inputs]
    want = dense(*wide, lo, hi, None)
    torch.testing.assert_close(out.double(), want.detach(), rtol=1e-4, atol=1e-5)
    for a, b in zip(gradients, torch.autograd.grad(want, wide, grad.double()), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=3e-5 * float(b.abs().max()))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_no_number_stays_none(isa: ctypes.CDLL, which: int) -> None:
    inputs = [torch.ones(40, 2, 16), torch.ones(40, 1, 16), torch.ones(40, 1, 16)]
    inputs[which][20, 0, 3] = torch.nan
    lo, hi = torch.zeros(40, dtype=torch.int64), torch.arange(1, 41)
    out, gradients = compiled(isa, inputs, lo, hi, torch.ones(40, 2, 16))
    assert out[20].isnan().any() and gradients[0][20].isnan().any()


@pytest.mark.parametrize("with_sink", [True, False])
def test_through_the_models_own_function(with_sink: bool) -> None:
    """Views that are not contiguous, a sink that is not trained, gradients of only some."""
    rng = torch.Generator().manual_seed(1)
    spans = Batch.packed([30, 11]).spans(8)
    q, k, v = (torch.randn(heads, 41, 16, generator=rng).requires_grad_() for heads in (4, 2, 2))
    sink = torch.randn(4, generator=rng) if with_sink else None
    grad = torch.randn(41, 4, 16, generator=rng).transpose(0, 1).contiguous().transpose(0, 1)
    out = attention_training(*(x.transpose(0, 1) for x in (q, k, v)), spans, sink, 0.25)
    wide = [x.detach().double().transpose(0, 1).requires_grad_() for x in (q, k, v)]
    want = dense(*wide, spans.lo_T, spans.hi_T, None if sink is None else sink.double())
    torch.testing.assert_close(out.double(), want, rtol=1e-4, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad(out, (q, k, v), grad),
        torch.autograd.grad(want, wide, grad.double()),
        strict=True,
    ):
        torch.testing.assert_close(
            a.double(), b.transpose(0, 1), rtol=1e-4, atol=3e-5 * float(b.abs().max())
        )


def test_it_is_what_training_uses() -> None:
    """In float32; other types and widths go through torch."""
    spans = Batch.packed([7]).spans(None)
    for dtype, width, expected in (
        (torch.float32, 32, True),
        (torch.float64, 32, False),
        (torch.float32, 8, False),
    ):
        x = torch.ones(7, 2, width, dtype=dtype, requires_grad=True)
        out = attention_training(x, x, x, spans, None, 1.0)
        assert ("Compiled" in type(out.grad_fn).__name__) is expected
