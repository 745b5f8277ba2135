"""Norm, router and the product of fixed tiles, against torch."""

from __future__ import annotations

import pytest
import torch
from device_kernels import close, needs_triton

from ossia import kernels
from ossia.kernels.norm import rms_norm


@needs_triton
def test_norm_of_rows(device: torch.device) -> None:
    x = torch.randn(3, 40) * 3
    scale = torch.rand(40)
    wanted = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * scale
    close(rms_norm(x.to(device), scale.to(device), 1e-5), wanted)


@needs_triton
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy's, of NaN, as interpreter
def test_router(device: torch.device) -> None:
    """The same experts and weights as torch's; ties go to the lower number, rows of padding to no
    expert, and NaN chooses experts that exist.
    """
    x = torch.randn(5, 40)
    weight = torch.randn(6, 40)
    weight[4] = weight[1]
    bias = torch.randn(6)
    bias[4] = bias[1] = 100.0
    rows = torch.tensor([4], dtype=torch.int32, device=device)
    x[3] = torch.nan
    given = [part.to(device) for part in (x, weight, bias)]
    found = kernels.route(*given, 3, rows)
    assert found is not None
    choice, share, logits = (part.cpu() for part in found)
    wanted = x @ weight.T + bias
    torch.testing.assert_close(logits[:3], wanted[:3])
    assert choice[:3, :2].tolist() == [[1, 4]] * 3
    rest = wanted[:3].clone()
    rest[:, [1, 4]] = -torch.inf
    assert torch.equal(choice[:3, 2], rest.argmax(1))
    torch.testing.assert_close(share[:3], wanted[:3].gather(1, choice[:3]).softmax(-1))
    assert 0 <= int(choice[3].min()) <= int(choice[3].max()) < 6
    assert choice[4].tolist() == [6, 6, 6]


@needs_triton
@pytest.mark.parametrize("bias", [True, False])
def test_product_of_fixed_tiles(device: torch.device, bias: bool) -> None:
    """Within `with_same_bits`: as torch's, and a row's bits do not depend on the others."""
    x = torch.randn(19, 300)
    weight = torch.randn(130, 300)
    b = torch.randn(130) if bias else None
    wanted = torch.nn.functional.linear(x, weight, b)
    given = [None if part is None else part.to(device) for part in (x, weight, b)]
    with kernels.with_same_bits():
        found = kernels.linear(*given)
        alone = kernels.linear(given[0][7:8], *given[1:])
    close(found, wanted)
    assert torch.equal(found[7], alone[0])


@needs_triton
def test_gradients_stay_with_torch(device: torch.device) -> None:
    """These kernels have none: what wants one is computed by others."""
    from ossia.kernels import triton

    x = torch.randn(2, 32, device=device)
    scale = torch.rand(32, device=device, requires_grad=True)
    assert triton.serves(x) and not triton.serves(x, scale)
    rms_norm(x, scale, 1e-5).sum().backward()
    assert scale.grad is not None
    with torch.no_grad():
        assert triton.serves(x, scale)
    assert not triton.serves(x.double())


@needs_triton
def test_info_says_what_serves(device: torch.device) -> None:
    rows = {name: (how, why) for name, how, why in kernels.in_use()}
    how, why = rows["GPU experts"]
    assert "interpreter" in how or "compute capability" in how
    assert "16x" in why


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_info_says_why_nothing_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSSIA_KERNELS", raising=False)
    assert ("on a GPU", "torch", "torch sees no CUDA device") in kernels.in_use()
    monkeypatch.setenv("OSSIA_KERNELS", "reference")
    assert ("on a GPU", "torch", "OSSIA_KERNELS=reference") in kernels.in_use()
