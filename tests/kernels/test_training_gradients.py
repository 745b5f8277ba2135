"""What training differentiates, against autograd through the plain dense formula, in float64."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training_oracles import dense_attention, draw, same_gradients

from ossia import kernels, mxfp4
from ossia.batch import Batch
from ossia.config import ModelConfig
from ossia.model.moe import Moe, expert_capacity
from ossia.model.rope import cos_sin
from ossia.model.transformer import Block

attention_module = importlib.import_module("ossia.kernels.attention_training")
SHAPES = [(4, 2, 16), (6, 1, 8), (3, 3, 10), (1, 1, 2)]  # query heads, key-value heads, width


# ---- attention ----


@settings(max_examples=examples(40), deadline=None)
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=5),
    window=st.none() | st.integers(1, 140),
    shape=st.sampled_from(SHAPES),
    kind=st.sampled_from(["learned", "off_by_one", "none"]),
    fused=st.booleans(),
    seed=st.integers(0, 1 << 16),
)
def test_attention(
    lengths: list[int],
    window: int | None,
    shape: tuple[int, int, int],
    kind: str,
    fused: bool,
    seed: int,
) -> None:
    heads, kv_heads, width = shape
    total = sum(lengths)
    inputs = draw(
        seed, (total, heads, width), (total, kv_heads, width), (total, kv_heads, width), (heads,)
    )
    q, k, v, learned = inputs
    sink = {
        "learned": learned,
        "off_by_one": torch.zeros(heads, dtype=torch.float64),
        "none": None,
    }[kind]
    with pytest.MonkeyPatch.context() as patch:
        if not fused:
            patch.setattr(attention_module, "_is_fused", lambda x: False)
        got = kernels.attention_training(
            q, k, v, Batch.packed(lengths).spans(window), sink, width**-0.5
        )
        want = dense_attention(q, k, v, lengths, window, sink)
        same_gradients(got, want, inputs if kind == "learned" else inputs[:3], seed + 1)


@pytest.mark.parametrize("fused", [True, False])
def test_bfloat16_is_close(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To what float64 makes of the same bfloat16 values, within a few of bfloat16's steps of
    1/256.
    """
    if not fused:
        monkeypatch.setattr(attention_module, "_is_fused", lambda x: False)
    lengths, shapes = [70, 3, 40], [(113, 4, 16), (113, 2, 16), (113, 2, 16), (4,)]
    half = [x.detach().bfloat16().requires_grad_() for x in draw(8, *shapes)]
    full = [x.detach().double().requires_grad_() for x in half]
    got = kernels.attention_training(*half[:3], Batch.packed(lengths).spans(20), half[3], 0.25)
    want = dense_attention(*full[:3], lengths, 20, full[3])
    ours, theirs = torch.autograd.grad(got.sum(), half), torch.autograd.grad(want.sum(), full)
    for a, b in zip((got, *ours), (want, *theirs), strict=True):
        assert a.dtype == torch.bfloat16
        assert float((a.double() - b).norm().detach() / b.norm().detach()) < 0.02


@pytest.mark.parametrize("value", [-800.0, 800.0])
@pytest.mark.parametrize("fused", [True, False])
def test_extreme_sinks_have_finite_gradients(
    value: float, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """e^800 is infinite in float64: an absent sink, or one that takes everything."""
    if not fused:
        monkeypatch.setattr(attention_module, "_is_fused", lambda x: False)
    q, k, v = draw(3, (70, 2, 8), (70, 1, 8), (70, 1, 8))
    sink = torch.full((2,), value, dtype=torch.float64, requires_grad=True)
    got = kernels.attention_training(q, k, v, Batch.packed([70]).spans(None), sink, 1.0)
    gradients = torch.autograd.grad(got.sum(), (q, k, v, sink), retain_graph=True)
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    assert float(gradients[3].abs().max()) < 1e-100
    if value > 0:
        assert float(got.detach().abs().max()) < 1e-100
    else:
        same_gradients(
            got,
            kernels.attention_training(q, k, v, Batch.packed([70]).spans(None), None, 1.0),
            [q, k, v],
        )


class Largest(TorchDispatchMode):
    """Remembers the elements of the largest tensor that any operation made, backward passes
    included.
    """

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [
            x.untyped_storage().nbytes() // x.element_size()
            for x in tree_leaves(out)
            if isinstance(x, Tensor)
        ]
        Largest.elements = max([Largest.elements, *made])
        return out


@pytest.mark.parametrize("window", [None, 32])
@pytest.mark.parametrize("form", ["compiled", "fused", "products"])
@pytest.mark.slow
def test_no_tensor_grows_with_the_square_of_the_length(
    window: int | None, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole layer of attention over 8192 tokens makes nothing near T x T = 67 million elements,
    for either pass.
    """
    if form != "compiled":
        monkeypatch.setenv("OSSIA_KERNELS", "reference")
    if form == "products":
        monkeypatch.setattr(attention_module, "_is_fused", lambda x: False)
    tokens, heads, width = 8192, 2, 16
    q = torch.randn(tokens, heads, width, requires_grad=True)
    k, v = (torch.randn(tokens, 1, width, requires_grad=True) for _ in range(2))
    sink = torch.zeros(heads, requires_grad=True)
    spans = Batch.packed([tokens]).spans(window)
    Largest.elements = 0
    with Largest():
        out = kernels.attention_training(q, k, v, spans, sink, width**-0.5)
        torch.autograd.grad(out.sum(), (q, k, v, sink))
    per_query = Largest.elements / tokens
    assert tokens * heads * width <= Largest.elements, "the output itself was seen"
    assert per_query <= heads * (2 * 128 if window is None else 4 * (64 + 32)), per_query


# ---- experts ----

CONFIG = replace(
    ModelConfig.preset("nano"),
    hidden_size=32,
    intermediate_size=32,
    num_experts=6,
    swiglu_limit=1.5,
)


def dense_moe(
    moe: Moe, x: Tensor, keep: Callable[[Tensor], Tensor], values: Callable[[Tensor], Tensor]
) -> Tensor:
    """x + sum over ALL experts of gate_te * expert_e(norm(x)), gate_te being 0 for most."""
    assert moe.router is not None
    t = x / (x.square().mean(-1, keepdim=True) + moe.norm.eps).sqrt() * moe.norm.scale
    logits = t @ moe.router.weight.T + moe.router.bias
    score = logits if moe.router.selection_bias is None else logits + moe.router.selection_bias
    kth = score.sort(-1, descending=True).values[:, moe.router.top_k - 1 : moe.router.top_k]
    chosen = score >= kth
    gate = logits.masked_fill(~chosen, -torch.inf).softmax(-1) * keep(chosen)
    y = torch.zeros_like(x)
    for e in range(logits.shape[1]):
        h = t @ values(moe.experts.gate_up.weight)[e].T + moe.experts.gate_up.bias[e]
        a, b = h[:, 0::2].clamp(max=moe.limit), h[:, 1::2].clamp(-moe.limit, moe.limit)
        out = (a * torch.sigmoid(1.702 * a) * (b + 1)) @ values(moe.experts.down.weight)[e].T
        y = y + gate[:, e : e + 1] * (out + moe.experts.down.bias[e])
    return x + y


def random_moe(seed: int, top_k: int, experts: int = 6) -> Moe:
    moe = Moe(
        replace(CONFIG, experts_per_token=top_k, num_experts=experts), 1, "trainable"
    ).double()
    rng = torch.Generator().manual_seed(seed)
    for p in moe.parameters():
        p.data.normal_(0, p.shape[-1] ** -0.5 if p.dim() > 1 else 1.0, generator=rng)
    return moe


def first_come(limit: int) -> Callable[[Tensor], Tensor]:
    """Token by token: an expert takes those that come until it is full."""

    def keep(chosen: Tensor) -> Tensor:
        out, taken = torch.zeros_like(chosen), [0] * chosen.shape[1]
        for t, e in chosen.nonzero().tolist():
            out[t, e] = taken[e] < limit
            taken[e] += 1
        return out

    return keep


@settings(max_examples=examples(40), deadline=None)
@given(
    tokens=st.integers(1, 90),
    experts=st.integers(1, 8),
    top_k=st.integers(1, 4),
    capacity=st.none() | st.floats(0.2, 2.0),
    biased=st.booleans(),
    seed=st.integers(0, 1 << 16),
)
def test_moe_with_and_without_dropping(
    tokens: int, experts: int, top_k: int, capacity: float | None, biased: bool, seed: int
) -> None:
    """By everything: the stream, the norm, the router's weight and bias, the experts' weights and
    biases.
    """
    top_k = min(top_k, experts)
    moe = random_moe(seed, top_k, experts)
    assert moe.router is not None
    moe.capacity = capacity
    if biased:
        moe.router.selection_bias = draw(seed + 1, (experts,))[0].detach() * 3
    (x,) = draw(seed + 2, (tokens, 32))
    keep: Callable[[Tensor], Tensor] = torch.ones_like
    if capacity is not None:
        keep = first_come(expert_capacity(capacity, tokens, top_k, experts))
    got = moe(x, Batch.packed([tokens]), torch.float64)
    same_gradients(got, dense_moe(moe, x, keep, lambda w: w), [x, *moe.parameters()], seed)


def test_dropped_assignments_leave_no_trace() -> None:
    """What a full expert refuses changes neither the output nor any gradient of that expert."""
    moe = random_moe(1, 1, experts=2)
    assert moe.router is not None
    moe.capacity = 0.5
    # all to expert 0, of whose 12 the first 4 are taken
    moe.router.bias.data.copy_(torch.tensor([50.0, -50.0]))
    (x,) = draw(2, (12, 32))
    weights = list(moe.experts.parameters())
    got = moe(x, Batch.packed([12]), torch.float64)
    assert torch.equal(got[4:], x[4:]) and not torch.isclose(got[:4], x[:4]).all()
    some = moe(x[:4], Batch.packed([4]), torch.float64)
    for a, b in zip(
        torch.autograd.grad(got.sum(), weights),
        torch.autograd.grad(some.sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_capacity_is_for_training_only() -> None:
    moe = random_moe(1, 1, experts=2)
    (x,) = draw(2, (40, 32))
    batch = Batch.packed([40])
    whole = moe(x, batch, torch.float64)
    moe.capacity = 0.1
    assert not torch.allclose(moe(x, batch, torch.float64), whole)
    torch.testing.assert_close(moe.eval()(x, batch, torch.float64), whole, rtol=0, atol=0)


@settings(max_examples=examples(15), deadline=None)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 1 << 16))
def test_fake_quantized_experts_have_the_gradients_of_the_quantized_ones(
    tokens: int, top_k: int, seed: int
) -> None:
    """Straight-through: by the exact weights, what the dense formula has by the MXFP4 values it is
    computed from.
    """
    moe = random_moe(seed, top_k)
    for leaf in (moe.experts.gate_up, moe.experts.down):
        leaf.fake_quantize = True
    (x,) = draw(seed, (tokens, 32))
    got = moe(x, Batch.packed([tokens]), torch.float64)
    quantized = random_moe(seed, top_k)
    for leaf in (quantized.experts.gate_up, quantized.experts.down):
        leaf.weight.data = mxfp4.decode(*mxfp4.encode(leaf.weight.data), torch.float64)
    want = dense_moe(quantized, x, torch.ones_like, lambda w: w)
    (grad,) = draw(seed + 1, tuple(want.shape))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    ours = torch.autograd.grad(got, [x, *moe.parameters()], grad.detach())
    theirs = torch.autograd.grad(want, [x, *quantized.parameters()], grad.detach())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9 * (1 + float(b.abs().max())))


def test_fake_quantize_passes_gradients_straight_through() -> None:
    w, grad = draw(5, (4, 64), (4, 64))
    out = mxfp4.fake_quantize(w)
    assert torch.equal(out, mxfp4.decode(*mxfp4.encode(w), torch.float64))
    assert torch.equal(torch.autograd.grad(out, w, grad.detach())[0], grad)


# ---- a whole block ----


@pytest.mark.parametrize("sink", ["learned", "off_by_one", "none"])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_block(sink: str, layer: int) -> None:
    """Attention (windowed in layer 0) and experts in one, by all of its parameters. The rotation, a
    constant, comes from its float32 table in both.
    """
    config = replace(
        CONFIG, attention_sink=sink, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        sliding_window=5,
        rope_ntk_beta=4.0, rope_scaling="none",
    )  # fmt: skip
    block, lengths = Block(config, layer, "trainable").double(), [9, 1, 23]
    rng = torch.Generator().manual_seed(4)
    for p in block.parameters():
        p.data.normal_(0, 0.3, generator=rng)
    batch = Batch.packed(lengths)
    rope = cos_sin(config, batch.positions())
    (x,) = draw(6, (sum(lengths), 32))
    a = block.attn

    def rotated(y: Tensor) -> Tensor:
        cos, sin = (t.double()[:, None].repeat(1, 1, 2) for t in rope)
        half = y.shape[-1] // 2
        return y * cos + torch.cat((-y[..., half:], y[..., :half]), -1) * sin

    t = x / (x.square().mean(-1, keepdim=True) + a.norm.eps).sqrt() * a.norm.scale
    q, k, v = ((t @ part.weight.T + part.bias).unflatten(-1, (-1, 8)) for part in (a.q, a.k, a.v))
    sinks = {"none": None, "off_by_one": torch.zeros(4).double()}.get(
        sink, getattr(a, "sinks", None)
    )
    o = dense_attention(rotated(q), rotated(k), v, lengths, a.window, sinks)
    want = dense_moe(
        block.moe, x + o.flatten(1) @ a.out.weight.T + a.out.bias, torch.ones_like, lambda w: w
    )
    same_gradients(block(x, batch, rope, torch.float64), want, [x, *block.parameters()])
