"""Dense linears of the CPU kernels: against float64, against the int8 definition, and the same bits
on every way.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from amounts import examples
from cpu_kernels import BF16, INT8, dense, int8_linear, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

SHAPES = [(1, 2), (5, 30), (16, 32), (17, 34), (64, 64), (100, 98), (130, 1118), (80, 2880)]
FEW = settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def case(rows: int, cols: int, tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    weight, x = (torch.randn(n, cols, generator=draw).bfloat16() for n in (rows, tokens))
    return weight, x, torch.randn(rows, generator=draw)


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_near_float64(isa: ctypes.CDLL, rows: int, cols: int) -> None:
    for tokens in (1, 2, 7, 13):
        weight, x, bias = case(rows, cols, tokens)
        exact = x.double() @ weight.double().T + bias.double()
        bound = (
            (cols + 2)
            * 2.0**-24
            * (x.double().abs() @ weight.double().abs().T + bias.abs().double())
        )
        assert ((dense(isa, weight, x, bias) - exact).abs() <= bound).all()


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_int8_is_its_definition(isa: ctypes.CDLL, rows: int, cols: int) -> None:
    weight, x, bias = case(rows, cols, 9)
    weight[0] = 0
    w = torch.nn.functional.pad(weight.float(), (0, -cols % 64)).unflatten(1, (-1, 64)).numpy()
    bits = (np.abs(w).max(-1) / np.float32(127)).view(np.uint32)
    scale = ((bits + 0xFFFF) & 0xFFFF0000).view(np.float32)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    q = np.rint(w * inverse[..., None]).reshape(rows, -1, 32)
    assert np.abs(q).max() <= 127
    expected = int8_linear(isa, q, scale.repeat(2, axis=1), x, 64) + bias.numpy()
    assert same(dense(isa, weight, x, bias, INT8), torch.from_numpy(expected))


def test_int8_error_is_small(isa: ctypes.CDLL) -> None:
    weight, x, _ = case(64, 2880, 8)
    exact = x.double() @ weight.double().T
    error = (
        dense(isa, weight, x, kind=INT8) - exact
    ).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < 0.01


@pytest.mark.parametrize("kind", [BF16, INT8])
@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_packed_gives_the_same_bits(isa: ctypes.CDLL, rows: int, cols: int, kind: int) -> None:
    for tokens in (1, 5):
        weight, x, bias = case(rows, cols, tokens)
        assert same(
            dense(isa, weight, x, bias, kind), dense(isa, weight, x, bias, kind, packed=True)
        )


@FEW
@given(
    st.integers(1, 70),
    st.integers(1, 90),
    st.integers(1, 200),
    st.sampled_from([BF16, INT8]),
    st.booleans(),
)
def test_a_token_alone_and_in_a_crowd(
    isa: ctypes.CDLL, tokens: int, rows: int, half: int, kind: int, p: bool
) -> None:
    weight, x, bias = case(rows, 2 * half, tokens, seed=tokens)
    crowd = dense(isa, weight, x, bias, kind, p)
    for t in {0, tokens // 2, tokens - 1}:
        assert same(crowd[t : t + 1], dense(isa, weight, x[t : t + 1], bias, kind, not p))


@pytest.mark.parametrize("kind", [BF16, INT8])
def test_threads_change_no_bit(isa: ctypes.CDLL, kind: int) -> None:
    weight, x, bias = case(300, 192, 30)
    results = []
    for threads in (1, 2, 3):
        isa.ossia_set_threads(threads)
        results.append(dense(isa, weight, x, bias, kind))
    assert same(results[0], results[1]) and same(results[0], results[2])


@pytest.mark.parametrize("kind", [BF16, INT8])
def test_adds_to_what_is_there_and_touches_nothing_else(isa: ctypes.CDLL, kind: int) -> None:
    weight, x, bias = case(21, 64, 15)
    there = torch.randn(15, 40)
    out = dense(isa, weight, x, bias, kind, add_to=there)
    assert same(out[:, :21].contiguous(), there[:, :21] + dense(isa, weight, x, bias, kind))
    assert same(out[:, 21:].contiguous(), there[:, 21:].contiguous())


@pytest.mark.parametrize("kind", [BF16, INT8])
def test_more_tokens_than_a_task_takes(isa: ctypes.CDLL, kind: int) -> None:
    """And the widths from which a kernel takes its tokens in another order."""
    weight, x, bias = case(70, 64, 900)
    out = dense(isa, weight, x, bias, kind)
    for begin, end in ((899, 900), (380, 400), (0, 16), (3, 51), (1, 50)):
        assert same(out[begin:end], dense(isa, weight, x[begin:end], bias, kind))
