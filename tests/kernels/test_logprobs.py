"""Log-probabilities and entropies in chunks against the formulas, and what they hold in memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch
from tiny_model import environment
from torch import Tensor

from ossia.kernels import not_compiled, products
from ossia.kernels.logprobs import logprobs, logprobs_and_entropy, logprobs_of_logits

R, D, V = 7, 5, 11


def draw(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(R, D, generator=rng, dtype=dtype).requires_grad_()
    w = torch.randn(V, D, generator=rng, dtype=dtype).requires_grad_()
    return x, w, torch.randint(0, V, (R,), generator=rng)


@pytest.mark.parametrize("rows", [1, 3, R])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradients_in_chunks(rows: int, temperature: float) -> None:
    x, w, target = draw()
    assert torch.autograd.gradcheck(lambda x, w: logprobs(x, w, target, temperature, rows), (x, w))
    assert torch.autograd.gradcheck(
        lambda x, w: logprobs_and_entropy(x, w, target, temperature, rows), (x, w)
    )


@pytest.mark.parametrize("rows", [1, 3, R])
def test_values_are_those_of_the_formula(rows: int) -> None:
    x, w, target = draw()
    temperature = torch.linspace(0.5, 2.0, R, dtype=torch.float64)
    found, entropy = logprobs_and_entropy(x, w, target, temperature, rows)
    want = ((x @ w.T) / temperature[:, None]).log_softmax(-1)
    torch.testing.assert_close(found, want.gather(1, target[:, None])[:, 0])
    torch.testing.assert_close(entropy, -(want.exp() * want).sum(-1))
    torch.testing.assert_close(logprobs(x, w, target, temperature, rows), found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_follow_float64(dtype: torch.dtype) -> None:
    """Values, and gradients of both at once; log-probabilities are never narrower than float32."""
    exact = draw()
    rough = [t.detach().to(dtype).requires_grad_() for t in exact[:2]]
    exact = (*(t.detach().double().requires_grad_() for t in rough), exact[2])
    found = logprobs_and_entropy(*rough, exact[2], 0.8)
    want = logprobs_and_entropy(*exact, 0.8)
    assert found[0].dtype == torch.float32
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a.double(), b, **close)
    totals = [(f * torch.arange(R)).sum() + h.sum() for f, h in (found, want)]
    gradients = [
        torch.autograd.grad(total, inputs)
        for total, inputs in zip(totals, (rough, exact[:2]), strict=True)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a.double(), b, **close)


def test_of_logits_that_are_there() -> None:
    x, w, target = draw(torch.float32)
    with torch.no_grad():
        found = logprobs_of_logits(products.product(x, w.T), target, 0.7)
        assert torch.equal(found, logprobs(x, w, target, 0.7))


def test_without_rows_gradients_are_zero() -> None:
    x, w, target = draw()
    found = logprobs(x[:0], w, target[:0])
    assert found.shape == (0,)
    dx, dw = torch.autograd.grad(found.sum(), (x, w))
    assert not dx.any() and not dw.any()


def test_a_frozen_unembedding_has_no_gradient() -> None:
    x, w, target = draw()
    logprobs(x, w.detach(), target).sum().backward()
    assert x.grad is not None and w.grad is None


def test_targets_outside_of_the_vocabulary_are_refused() -> None:
    x, w, target = draw()
    with pytest.raises(IndexError, match="vocabulary of 11"):
        logprobs(x, w, target + V)


MEMORY = """
import resource, torch
from ossia.kernels.logprobs import {function} as function
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
x = torch.randn({rows}, 32, requires_grad=True)
w = torch.randn({vocabulary}, 32, requires_grad=True)
target = torch.randint(0, {vocabulary}, ({rows},))
function(x[:64, :], w[:1000], target[:64] % 1000)
before = peak()
found = function(x, w, target)
found = found if isinstance(found, torch.Tensor) else sum(found)
found.sum().backward()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("function", ["logprobs", "logprobs_and_entropy"])
def test_a_large_vocabulary_is_never_held_for_all_rows(function: str) -> None:
    """512 x 201,088 logits would be 412 MB in float32, and their gradient as much again."""
    code = textwrap.dedent(MEMORY).format(function=function, rows=512, vocabulary=201_088)
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert float(ran.stdout) < 400, ran.stdout


# ---- rows alone and among others ----

compiled = pytest.mark.skipif(
    not_compiled() is not None, reason=f"needs the compiled kernels: {not_compiled()}"
)


def a_way() -> str:
    """To multiply whose rows are alike here."""
    for way in products.PRODUCTS:
        if products.rows_are_alike(way, 64, 512, torch.get_num_threads()):
            return way
    pytest.skip("no way to multiply keeps a row's bits on this CPU")


@compiled
def test_rows_have_the_same_bits_in_all_chunks() -> None:
    rng = torch.Generator().manual_seed(1)
    x, w = torch.randn(70, 64, generator=rng), torch.randn(512, 64, generator=rng)
    target = torch.randint(0, 512, (70,), generator=rng)
    products.hold_rows_alike(a_way())
    try:
        found = [logprobs(x, w, target, 0.9, rows) for rows in (1, 2, 3, 23, 69, 70)]
        alone = torch.cat([logprobs(x[n : n + 1], w, target[n : n + 1], 0.9) for n in range(70)])
    finally:
        products.release_rows_alike()
    assert all(torch.equal(found[0], other) for other in (*found, alone))
