"""The losses against the formulas they are taken from, written out plainly, in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ossia.train.losses import (
    assignments,
    cross_entropy,
    load_balance,
    router_z,
    sequence_load_balance,
)


def draw(seed: int, *shape: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()


def switch(logits: Tensor, top_k: int, share_from: Tensor | None = None) -> Tensor:
    """E sum_i f_i P_i, one expert and one token at a time."""
    tokens, experts = logits.shape
    of = logits if share_from is None else share_from
    total = torch.zeros((), dtype=torch.float64)
    for i in range(experts):
        routed = sum(
            i in sorted(range(experts), key=lambda e: -row[e])[:top_k] for row in of.tolist()
        )
        f = routed / (top_k * len(of))
        p = sum(logits[t, i].exp() / logits[t].exp().sum() for t in range(tokens)) / tokens
        total = total + experts * f * p
    return total


def same(got: Tensor, want: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    pairs = zip(torch.autograd.grad(got, inputs), torch.autograd.grad(want, inputs), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


shapes = st.tuples(st.integers(1, 12), st.integers(1, 6), st.integers(1, 6)).map(
    lambda s: (s[0], s[1], min(s[1:]))
)


@settings(max_examples=examples(30), deadline=None)
@given(shapes, st.integers(0, 1 << 16))
def test_load_balance(shape: tuple[int, int, int], seed: int) -> None:
    tokens, experts, top_k = shape
    logits, other = draw(seed, tokens, experts), draw(seed + 1, 2 * tokens, experts)
    same(load_balance(logits, top_k), switch(logits, top_k), logits)
    counts = assignments(other.topk(top_k).indices, experts)
    assert int(counts.sum()) == 2 * tokens * top_k
    same(load_balance(logits, top_k, counts), switch(logits, top_k, other), logits)


@settings(max_examples=examples(30), deadline=None)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.integers(2, 6),
    st.integers(1, 2),
    st.integers(0, 1000),
)
def test_sequence_load_balance(lengths: list[int], experts: int, top_k: int, seed: int) -> None:
    logits = draw(seed, sum(lengths), experts)
    ends = [sum(lengths[:n]) for n in range(len(lengths) + 1)]
    each = [switch(logits[a:b], top_k) * (b - a) for a, b in pairwise(ends)]
    same(
        sequence_load_balance(logits, top_k, lengths),
        torch.stack(each).sum() / sum(lengths),
        logits,
    )
    whole = sequence_load_balance(logits, top_k, [sum(lengths)])
    torch.testing.assert_close(whole, load_balance(logits, top_k), rtol=1e-12, atol=0)


@settings(max_examples=examples(20), deadline=None)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 1000))
def test_router_z(tokens: int, experts: int, seed: int) -> None:
    logits = draw(seed, tokens, experts)
    want = torch.stack([row.exp().sum().log() ** 2 for row in logits]).mean()
    same(router_z(logits), want, logits)


@settings(max_examples=examples(20), deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(2, 50),
    st.integers(1, 400),
    st.integers(0, 1000),
)
def test_cross_entropy(rows: int, hidden: int, vocabulary: int, held: int, seed: int) -> None:
    """However few logits are held at a time, also for a gradient that is not 1."""
    x, w = draw(seed, rows, hidden), draw(seed + 1, vocabulary, hidden)
    target = torch.randint(0, vocabulary, (rows,), generator=torch.Generator().manual_seed(seed))
    want = -torch.stack(
        [(w @ row).log_softmax(0)[t] for row, t in zip(x, target.tolist(), strict=True)]
    ).mean()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ossia.kernels.logprobs.CHUNK_ELEMENTS", held)
        patch.setattr("ossia.kernels.logprobs.CHUNK_ROWS", 1)
        got = cross_entropy(x, w, target)
    same(got * 3, want * 3, x, w)


def test_cross_entropy_of_no_rows_is_zero() -> None:
    x, w = torch.zeros(0, 4, requires_grad=True), torch.ones(7, 4, requires_grad=True)
    loss = cross_entropy(x, w, torch.zeros(0, dtype=torch.int64))
    assert float(loss.detach()) == 0
    assert not torch.autograd.grad(loss, w)[0].any()


@pytest.mark.parametrize("target", [-1, 8])
def test_a_target_outside_of_the_vocabulary_is_refused(target: int) -> None:
    x, w = torch.zeros(300, 4), torch.zeros(8, 4)
    targets = torch.zeros(300, dtype=torch.int64)
    targets[-1] = target
    with pytest.raises(IndexError, match="vocabulary of 8"):
        cross_entropy(x, w, targets)


def test_known_points() -> None:
    assert float(router_z(torch.zeros(64, 8))) == pytest.approx(math.log(8) ** 2)
    one_sided = torch.zeros(64, 8)
    one_sided[:, :2] = 50.0
    assert float(load_balance(one_sided, 2)) == pytest.approx(8 / 2)
    balanced = torch.full((8, 8), -50.0).fill_diagonal_(50.0)
    assert float(load_balance(balanced, 1)) == pytest.approx(1.0)
    pairs = balanced.clone()
    pairs[torch.arange(8), (torch.arange(8) + 1) % 8] = 49.0
    assert float(load_balance(pairs, 2)) == pytest.approx(1.0), "the optimum does not depend on k"
    assert float(sequence_load_balance(balanced, 1, [1] * 8)) == pytest.approx(8.0), (
        "each document sees one expert"
    )


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits = draw(3, 500, 16).detach().bfloat16()
    for loss in (
        lambda x: load_balance(x, 2),
        lambda x: sequence_load_balance(x, 2, [300, 200]),
        router_z,
    ):
        assert loss(logits).dtype == torch.float32
        torch.testing.assert_close(loss(logits).double(), loss(logits.double()), rtol=1e-5, atol=0)
