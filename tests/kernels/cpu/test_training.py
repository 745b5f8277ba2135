"""What training does between its matrix products, compiled, beside the same in float64; no value
beyond is touched.
"""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from ossia import kernels
from ossia.kernels.training import swiglu_with_gradient

GUARD = 123.0
LIMIT = 1.5  # low enough that clamps hold often
ALIKE = ("avxvnni", "avx512_vnni", "avx512")  # products of bytes and halves, which these lack


def guarded(*shape: int) -> tuple[Tensor, Tensor]:
    """(all, its middle): an array with room before and behind that has to stay as it is."""
    size = int(torch.Size(shape).numel())
    room = torch.full((size + 32,), GUARD)
    return room, room[16 : 16 + size].view(shape)


def untouched(room: Tensor) -> bool:
    return bool((room[:16] == GUARD).all() and (room[-16:] == GUARD).all())


def close(got: Tensor, want: Tensor, rtol: float = 3e-6) -> None:
    torch.testing.assert_close(
        got.double(), want, rtol=rtol, atol=rtol * float(want.abs().max() + 1e-30)
    )


@pytest.mark.parametrize(
    ("rows", "width"), [(1, 1), (3, 7), (5, 8), (2, 9), (7, 16), (4, 33), (33, 128)]
)
def test_swiglu(isa: ctypes.CDLL, rows: int, width: int) -> None:
    rng = torch.Generator().manual_seed(rows * 1000 + width)
    h, da = torch.randn(rows, 2 * width, generator=rng) * 3, torch.randn(rows, width, generator=rng)
    weight = torch.rand(rows, generator=rng)
    want_a, slope = swiglu_with_gradient(h.double(), LIMIT)
    rooms = [guarded(rows, width), guarded(rows, 2 * width), guarded(rows, width)]
    (room, a), (room_dh, dh), (room_wa, wa) = rooms
    isa.ossia_swiglu_forward(h.data_ptr(), LIMIT, rows, width, a.data_ptr())
    along = torch.zeros(rows)
    given = (h.data_ptr(), da.data_ptr(), weight.data_ptr(), LIMIT, rows, width)
    isa.ossia_swiglu_backward(*given, dh.data_ptr(), wa.data_ptr(), along.data_ptr())
    close(a, want_a)
    close(wa, want_a * weight.double().unsqueeze(1))
    close(dh, (da.double() * weight.double().unsqueeze(1)).repeat_interleave(2, 1) * slope)
    close(along, (da.double() * want_a).sum(1), 2e-5)
    assert all(map(untouched, (room, room_dh, room_wa)))


def test_swiglu_at_the_clamps_and_of_no_number(isa: ctypes.CDLL) -> None:
    """On the edge a clamp does not hold yet; what is no number or infinite is seen in what comes
    out.
    """
    h = torch.tensor(
        [[LIMIT, -LIMIT, 90.0, -90.0, -90.0, 90.0, torch.nan, 0.0, 0.0, torch.nan, -torch.inf, 1.0]]
    )
    want, slope = swiglu_with_gradient(h, LIMIT)
    a, dh, wa = torch.empty(1, 6), torch.empty(1, 12), torch.empty(1, 6)
    one, da, along = torch.ones(1), torch.ones(1, 6), torch.zeros(1)
    isa.ossia_swiglu_forward(h.data_ptr(), LIMIT, 1, 6, a.data_ptr())
    given = (h.data_ptr(), da.data_ptr(), one.data_ptr(), LIMIT, 1, 6)
    isa.ossia_swiglu_backward(*given, dh.data_ptr(), wa.data_ptr(), along.data_ptr())
    assert a[0, 3].isnan() and a[0, 4].isnan() and along.isnan().all()
    torch.testing.assert_close(a[0, :3], want[0, :3])
    torch.testing.assert_close(dh[0, :6], slope[0, :6], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [1, 15, 16, 40])
@pytest.mark.parametrize("scaled", [False, True])
def test_add_rows(isa: ctypes.CDLL, width: int, scaled: bool) -> None:
    """Rows come several times, or never."""
    rng = torch.Generator().manual_seed(width)
    x, scale = torch.randn(9, width, generator=rng), torch.randn(9, generator=rng)
    rows = torch.tensor([3, 0, 3, 3, 1, 0, 5, 5, 3])
    room, out = guarded(7, width)
    out.zero_()
    pointer = scale.data_ptr() if scaled else None
    isa.ossia_add_rows(x.data_ptr(), rows.data_ptr(), pointer, 9, width, out.data_ptr())
    added = x.double() * (scale.double().unsqueeze(1) if scaled else 1)
    close(out, torch.zeros(7, width, dtype=torch.float64).index_add_(0, rows, added))
    assert untouched(room)


@pytest.mark.parametrize(("rows", "vocab"), [(1, 1), (3, 5), (2, 16), (5, 31), (4, 201)])
@pytest.mark.parametrize("size", [1.0, 60.0])
def test_cross_entropy(isa: ctypes.CDLL, rows: int, vocab: int, size: float) -> None:
    rng = torch.Generator().manual_seed(vocab)
    values = torch.randn(rows, vocab, generator=rng) * size
    target = torch.randint(0, vocab, (rows,), generator=rng)
    wide = values.double().requires_grad_()
    want = torch.nn.functional.cross_entropy(wide, target, reduction="none")
    (gradient,) = torch.autograd.grad(want.sum(), wide)
    room, logits = guarded(rows, vocab)
    logits.copy_(values)
    loss = torch.empty(rows)
    isa.ossia_cross_entropy(logits.data_ptr(), target.data_ptr(), rows, vocab, loss.data_ptr())
    torch.testing.assert_close(loss.double(), want.detach(), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(logits.double(), gradient, rtol=3e-6, atol=1e-6)
    assert untouched(room)


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [3, 40])  # in a whole vector and behind it
def test_cross_entropy_of_no_number_is_none(isa: ctypes.CDLL, odd: float, place: int) -> None:
    logits = torch.zeros(1, 41)
    logits[0, place] = odd
    loss, target = torch.empty(1), torch.tensor([7])
    isa.ossia_cross_entropy(logits.data_ptr(), target.data_ptr(), 1, 41, loss.data_ptr())
    assert not loss.isfinite().any()


def test_angles_that_are_shared_by_all_rows_go_through_torch() -> None:
    x = torch.randn(5, 2, 16, requires_grad=True)
    out = kernels.rotate(x, torch.ones(1, 8), torch.zeros(1, 8))
    torch.testing.assert_close(out, x)


@pytest.mark.parametrize(("rows", "width"), [(1, 16), (5, 48), (33, 128)])
def test_norm(isa: ctypes.CDLL, rows: int, width: int) -> None:
    rng = torch.Generator().manual_seed(width)
    x, scale, grad = (
        torch.randn(shape, generator=rng) * 3 for shape in ((rows, width), (width,), (rows, width))
    )
    wide = [x.double().requires_grad_(), scale.double().requires_grad_()]
    want = wide[0] / (wide[0].square().mean(-1, keepdim=True) + 1e-5).sqrt() * wide[1]
    (room, out), (room_dx, dx), (room_ds, dscale) = (
        guarded(rows, width),
        guarded(rows, width),
        guarded(width),
    )
    inverse = torch.empty(rows)
    dscale.zero_()
    isa.ossia_norm_forward(
        x.data_ptr(), scale.data_ptr(), 1e-5, rows, width, out.data_ptr(), inverse.data_ptr()
    )
    given = (x.data_ptr(), scale.data_ptr(), inverse.data_ptr(), grad.data_ptr(), rows, width)
    isa.ossia_norm_backward(*given, dx.data_ptr(), dscale.data_ptr())
    close(out, want.detach())
    for got, wanted in zip(
        (dx, dscale), torch.autograd.grad(want, wide, grad.double()), strict=True
    ):
        close(got, wanted, 1e-5)
    assert all(map(untouched, (room, room_dx, room_ds)))


@pytest.mark.parametrize(("heads", "half"), [(1, 1), (3, 8), (2, 16), (4, 20)])
def test_rotation_and_back(isa: ctypes.CDLL, heads: int, half: int) -> None:
    """Half-split: i is paired with i + half. Turned back it is what it was."""
    rng = torch.Generator().manual_seed(half)
    x, angle = torch.randn(7, heads, 2 * half, generator=rng), torch.randn(7, half, generator=rng)
    cos, sin = angle.cos(), angle.sin()
    room, out = guarded(7, heads, 2 * half)
    again = torch.empty_like(x)
    isa.ossia_rotate_heads(
        x.data_ptr(), cos.data_ptr(), sin.data_ptr(), 1.0, 7, heads, half, out.data_ptr()
    )
    isa.ossia_rotate_heads(
        out.data_ptr(), cos.data_ptr(), sin.data_ptr(), -1.0, 7, heads, half, again.data_ptr()
    )
    turned = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.exp(
        1j * angle.double()
    ).unsqueeze(1)
    close(out, torch.cat([turned.real, turned.imag], -1))
    close(again, x.double())
    assert untouched(room)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norm_and_rotation_give_the_gradients_of_torch(dtype: torch.dtype) -> None:
    """Through the model's own functions; float64 goes through torch."""
    rng = torch.Generator().manual_seed(0)
    x, scale = torch.randn(6, 32, generator=rng), torch.randn(32, generator=rng)
    cos, sin, grad = (torch.randn(shape, generator=rng) for shape in ((6, 8), (6, 8), (6, 2, 16)))

    def gradients(of: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [x.to(of).requires_grad_(), scale.to(of).requires_grad_()]
        y = kernels.rotate(
            kernels.rms_norm(leaves[0], leaves[1], 1e-5).view(6, 2, 16), cos.to(of), sin.to(of)
        )
        return torch.autograd.grad(y, leaves, grad.to(of))

    for got, want in zip(gradients(dtype), gradients(torch.float64), strict=True):
        assert got.dtype == dtype
        close(got, want, 1e-5)
