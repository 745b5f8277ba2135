"""Attention: the tiled forms against the definition, a softmax with the sink as one more column."""

from __future__ import annotations

import importlib

import pytest
import torch
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ossia import kernels
from ossia.batch import Batch


def by_definition(
    q: Tensor, k: Tensor, v: Tensor, lengths: list[int], window: int | None, sink: Tensor | None
) -> Tensor:
    heads, groups = q.shape[1], q.shape[1] // k.shape[1]
    out, begin = [], 0
    for n in lengths:
        s = slice(begin, begin + n)
        z = (
            torch.einsum("qhd,khd->hqk", q[s], k[s].repeat_interleave(groups, 1))
            * q.shape[-1] ** -0.5
        )
        i, j = torch.arange(n)[:, None], torch.arange(n)[None]
        z = z.masked_fill((j > i) | ((i - j) >= (window or n)), -torch.inf)
        if sink is not None:
            z = torch.cat((z, sink.view(heads, 1, 1).expand(-1, n, 1)), -1)
        p = z.softmax(-1)[..., :n]
        out.append(torch.einsum("hqk,khd->qhd", p, v[s].repeat_interleave(groups, 1)))
        begin += n
    return torch.cat(out)


def random_qkv(
    lengths: list[int], heads: int, kv_heads: int, width: int, seed: int
) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    shapes = [
        (sum(lengths), heads, width),
        (sum(lengths), kv_heads, width),
        (sum(lengths), kv_heads, width),
        (heads,),
    ]
    return tuple(torch.randn(shape, generator=rng).requires_grad_() for shape in shapes)


@settings(max_examples=examples(40), deadline=None)
@given(
    st.lists(st.integers(1, 290), min_size=1, max_size=5),
    st.one_of(st.none(), st.integers(1, 150)),
    st.sampled_from([(4, 2, 16), (6, 1, 8), (3, 3, 10)]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_equals_the_definition(
    lengths: list[int], window: int | None, shape: tuple[int, int, int], with_sink: bool, seed: int
) -> None:
    q, k, v, sink = random_qkv(lengths, *shape, seed)
    sink = sink if with_sink else None
    spans = Batch.packed(lengths).spans(window)
    want = by_definition(q, k, v, lengths, window, sink)
    for attend in (kernels.attention, kernels.attention_training):
        got = attend(q, k, v, spans, sink, shape[2] ** -0.5)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("window", [None, 7, 64])
def test_gradients_equal_those_of_the_definition(window: int | None) -> None:
    lengths = [5, 130, 60, 301, 1]
    q, k, v, sink = random_qkv(lengths, 6, 2, 16, seed=3)
    spans = Batch.packed(lengths).spans(window)
    wanted = by_definition(q, k, v, lengths, window, sink)
    given_grad = torch.randn_like(wanted)
    want = torch.autograd.grad(wanted, (q, k, v, sink), given_grad)
    for attend in (kernels.attention, kernels.attention_training):
        got = torch.autograd.grad(attend(q, k, v, spans, sink, 0.25), (q, k, v, sink), given_grad)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


def test_keys_are_walked_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [700]
    q, k, v, sink = random_qkv(lengths, 4, 2, 16, seed=1)
    spans = Batch.packed(lengths).spans(None)
    whole = kernels.attention(q, k, v, spans, sink, 0.25)
    monkeypatch.setattr(importlib.import_module("ossia.kernels.attention"), "KEY_CHUNK", 64)
    torch.testing.assert_close(kernels.attention(q, k, v, spans, sink, 0.25), whole)


def test_huge_scores_and_sinks_do_not_overflow() -> None:
    q, k, v, _ = random_qkv([50], 4, 2, 16, seed=2)
    spans = Batch.packed([50]).spans(None)
    for sink in (-1e7, 1e7):
        out = kernels.attention(q * 100, k * 100, v, spans, torch.full((4,), sink), 1.0)
        assert bool(torch.isfinite(out).all())
    # a sink far above every score takes all the weight
    assert float(out.detach().abs().max()) < 1.0
