"""Matrix products of training, in float32, beside float64: transposed views, odd shapes, with and
without a bias.
"""

from __future__ import annotations

import pytest
import torch
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ossia.kernels.products import SMALLEST, linear_training, product


def matrix(rng: torch.Generator, rows: int, columns: int, transposed: bool) -> Tensor:
    return (
        torch.randn(columns, rows, generator=rng).T
        if transposed
        else torch.randn(rows, columns, generator=rng)
    )


@settings(max_examples=examples(30), deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 200),
    st.integers(1, 90),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_product(
    m: int, k: int, n: int, a_transposed: bool, b_transposed: bool, with_bias: bool
) -> None:
    """On both sides of the size from which oneDNN is asked."""
    rng = torch.Generator().manual_seed(m * n + k)
    a, b = matrix(rng, m, k, a_transposed), matrix(rng, k, n, b_transposed)
    bias = torch.randn(n, generator=rng) if with_bias else None
    want = a.double() @ b.double() + (0 if bias is None else bias.double())
    got = product(a, b, bias)
    assert got.dtype == torch.float32 and got.shape == want.shape
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5 * k**0.5)


@pytest.mark.parametrize("bias", [torch.ones(1).expand(128), torch.arange(256.0)[::2]])
def test_a_bias_may_be_a_view(bias: Tensor) -> None:
    x = torch.ones(128, 128)
    torch.testing.assert_close(product(x, x, bias), 128 + bias.expand(128, 128))


def test_the_large_one_is_above_the_smallest() -> None:
    assert 90 * 200 * 90 > SMALLEST > 1


@pytest.mark.parametrize("rows", [0, 1, 64])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_training(rows: int, with_bias: bool) -> None:
    rng = torch.Generator().manual_seed(rows)
    x, w = torch.randn(rows, 96, generator=rng), torch.randn(80, 96, generator=rng)
    tensors = [x, w, torch.randn(80, generator=rng)] if with_bias else [x, w]
    ours = [t.clone().requires_grad_() for t in tensors]
    wide = [t.double().requires_grad_() for t in tensors]
    y = linear_training(ours[0], ours[1], ours[2] if with_bias else None)
    want = torch.nn.functional.linear(*wide)
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-4)
    g = torch.randn(y.shape, generator=rng)
    for a, b in zip(
        torch.autograd.grad(y, ours, g), torch.autograd.grad(want, wide, g.double()), strict=True
    ):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-4)
