"""linear and rms_norm: the conversions on the way."""

from __future__ import annotations

import importlib

import pytest
import torch

from ossia import kernels


@pytest.mark.parametrize("grad", [False, True])
def test_weights_of_another_dtype_are_converted_in_chunks(
    monkeypatch: pytest.MonkeyPatch, grad: bool
) -> None:
    weight = torch.randn(37, 16).bfloat16()
    x, bias = torch.randn(5, 16), torch.randn(37)
    monkeypatch.setattr(importlib.import_module("ossia.kernels.linear"), "CHUNK_ELEMENTS", 16 * 10)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(kernels.linear(x, weight, bias), x @ weight.float().T + bias)


def test_rms_norm_scales_before_it_rounds() -> None:
    x, scale = torch.randn(4, 64).bfloat16(), torch.randn(64)
    want = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5) * scale
    assert torch.equal(kernels.rms_norm(x, scale, 1e-5), want.bfloat16())
