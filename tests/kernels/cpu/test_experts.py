"""The CPU kernels' MXFP4 linears and mixture-of-experts half: against decoded weights, and the same
bits always.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from amounts import examples
from cpu_kernels import BF16, INT8, Moe, dense, expert_linear, int8_linear, random_mxfp4, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ossia import mxfp4
from ossia.kernels.experts import swiglu
from ossia.kernels.norm import rms_norm

SHAPES = [(16, 32), (5, 96), (17, 160), (64, 64), (100, 224), (48, 2880)]
FEW = settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def weights(rows: int, cols: int, low: int = 115, high: int = 122) -> tuple[Tensor, Tensor]:
    return random_mxfp4(torch.Generator().manual_seed(rows), 2, rows, cols, low=low, high=high)


def comparable(y: Tensor) -> Tensor:
    """All NaN the same, and all zeros: where products are too small for a float32, -0 and 0 are not
    told apart.
    """
    return torch.nan_to_num(y, 0.5) + 0.0


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
@pytest.mark.parametrize("scales", [(115, 122), (0, 254), (0, 3), (250, 254)])
def test_exact_is_the_dense_linear_of_decoded_weights(
    isa: ctypes.CDLL, rows: int, cols: int, scales: tuple[int, int]
) -> None:
    blocks, exponents = weights(rows, cols, *scales)
    decoded = mxfp4.decode(blocks[1], exponents[1])
    for tokens in (1, 2, 5, 13):
        x = torch.randn(tokens, cols).bfloat16()
        expected = dense(isa, decoded, x)
        for packed in (False, True):
            out = expert_linear(isa, blocks, exponents, x, 1, packed=packed)
            assert same(comparable(out), comparable(expected))


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_exact_is_near_float64(isa: ctypes.CDLL, rows: int, cols: int) -> None:
    blocks, scales = weights(rows, cols)
    bias, x = torch.randn(2, rows), torch.randn(7, cols).bfloat16()
    w = mxfp4.decode(blocks[1], scales[1]).double()
    exact = x.double() @ w.T + bias[1].double()
    bound = (cols + 2) * 2.0**-24 * (x.double().abs() @ w.abs().T + bias[1].abs().double())
    assert ((expert_linear(isa, blocks, scales, x, 1, bias) - exact).abs() <= bound).all()


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
@pytest.mark.parametrize("scales", [(115, 122), (0, 254)])
def test_int8_is_its_definition(
    isa: ctypes.CDLL, rows: int, cols: int, scales: tuple[int, int]
) -> None:
    blocks, exponents = weights(rows, cols, *scales)
    bias, x = torch.randn(2, rows), torch.randn(9, cols).bfloat16()
    x[:, :32] = 0
    unit = mxfp4.decode(blocks[0], torch.full_like(exponents[0], 127), torch.float32)
    scale = np.ldexp(np.float32(1), exponents[0].int().numpy() - 127)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = (
            int8_linear(isa, unit.unflatten(1, (-1, 32)).numpy(), scale, x, 32) + bias[0].numpy()
        )
    for packed in (False, True):
        out = expert_linear(isa, blocks, exponents, x, 0, bias, INT8, packed=packed)
        assert same(comparable(out), comparable(torch.from_numpy(expected)))


@pytest.mark.parametrize("activations", [BF16, INT8])
def test_interleaved_rows_are_the_same_rows(isa: ctypes.CDLL, activations: int) -> None:
    blocks, scales = weights(192, 64)
    bias, x = torch.randn(2, 192), torch.randn(7, 64).bfloat16()
    plain = expert_linear(isa, blocks, scales, x, 1, bias, activations)
    for packed in (False, True):
        assert same(
            plain, expert_linear(isa, blocks, scales, x, 1, bias, activations, True, packed)
        )


@FEW
@given(
    st.integers(1, 70),
    st.integers(1, 90),
    st.integers(1, 12),
    st.sampled_from([BF16, INT8]),
    st.booleans(),
)
def test_a_token_alone_and_in_a_crowd(
    isa: ctypes.CDLL, tokens: int, rows: int, k: int, mode: int, p: bool
) -> None:
    blocks, scales = weights(rows, 32 * k)
    x = torch.randn(tokens, 32 * k, generator=torch.Generator().manual_seed(tokens)).bfloat16()
    crowd = expert_linear(isa, blocks, scales, x, activations=mode, packed=p)
    for t in {0, tokens // 2, tokens - 1}:
        alone = expert_linear(isa, blocks, scales, x[t : t + 1], activations=mode, packed=not p)
        assert same(crowd[t : t + 1], alone)


def reference(moe: Moe, x_TD: Tensor, choice_Tk: Tensor, weight_Tk: Tensor) -> Tensor:
    """The half by its definition in float64, bfloat16 where the definition rounds to it."""
    t_TD = rms_norm(x_TD, moe.norm, moe.eps).bfloat16().double()
    up, down = (mxfp4.decode(*w, torch.float32).double() for w in (moe.gate_up, moe.down))
    out = x_TD.double()
    for t in range(len(x_TD)):
        for e, w in zip(choice_Tk[t].tolist(), weight_Tk[t].tolist(), strict=True):
            a = swiglu(up[e] @ t_TD[t] + moe.bias_up[e].double(), moe.limit).bfloat16().double()
            out[t] += w * (down[e] @ a + moe.bias_down[e].double())
    return out


@pytest.mark.parametrize("activations", [BF16, INT8])
@pytest.mark.parametrize(
    ("d", "f", "experts", "k"), [(32, 32, 1, 1), (96, 64, 5, 2), (160, 224, 9, 4)]
)
def test_half_is_its_definition(
    isa: ctypes.CDLL, d: int, f: int, experts: int, k: int, activations: int
) -> None:
    moe = Moe(d, f, experts, k)
    for tokens in (1, 6, 40):
        x = torch.randn(tokens, d) * 2
        out, expected = moe(isa, x, activations), reference(moe, x, *moe.route(isa, x))
        error = (out - expected).square().mean().sqrt() / (expected - x).square().mean().sqrt()
        assert error < (3e-3 if activations == BF16 else 2e-2)


@pytest.mark.parametrize("activations", [BF16, INT8])
def test_half_gives_the_same_bits_always(isa: ctypes.CDLL, activations: int) -> None:
    moe = Moe(96, 160, 6, 3)
    x = torch.randn(70, 96)
    crowd = moe(isa, x, activations)
    assert same(crowd, moe(isa, x, activations, packed=True))
    for begin, end in ((0, 1), (1, 2), (69, 70), (3, 40), (40, 45)):
        assert same(crowd[begin:end], moe(isa, x[begin:end], activations))
    for threads in (1, 3):
        isa.ossia_set_threads(threads)
        assert same(crowd, moe(isa, x, activations))


def test_half_in_turns(isa: ctypes.CDLL) -> None:
    moe = Moe(32, 32, 3, 2)
    x = torch.randn(2500, 32)
    out = moe(isa, x)
    assert same(out[2000:2100].contiguous(), moe(isa, x[2000:2100].contiguous()))


def test_no_router_means_one_expert(isa: ctypes.CDLL) -> None:
    moe = Moe(64, 32, 1, 1)
    x = torch.randn(7, 64)
    assert same(moe(isa, x), moe(isa, x, routed=False))


def test_router_against_float64(isa: ctypes.CDLL) -> None:
    moe = Moe(192, 32, 13, 4)
    x = torch.randn(50, 192)
    t = rms_norm(x, moe.norm, moe.eps).bfloat16().double()
    logits = t @ moe.router.double().T + moe.router_bias.double()
    top = logits.topk(4)
    choice, weight = moe.route(isa, x)
    assert choice.tolist() == top.indices.tolist()
    assert torch.allclose(weight.double(), top.values.softmax(-1), rtol=1e-4, atol=1e-6)


def test_equal_logits_go_to_the_lower_number(isa: ctypes.CDLL) -> None:
    moe = Moe(64, 32, 10, 4)
    moe.router[:] = moe.router[0].clone()
    moe.router_bias[:] = torch.tensor([0.0, 1, 0, 1, 1, 0, 2, 0, 1, 0])
    choice, weight = moe.route(isa, torch.randn(5, 64))
    assert choice.tolist() == [[6, 1, 3, 4]] * 5
    assert torch.allclose(weight, torch.tensor([2.0, 1, 1, 1]).softmax(0).expand(5, 4), rtol=1e-6)
