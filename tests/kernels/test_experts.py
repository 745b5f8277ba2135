"""The experts: grouped against one token at a time, and the hand-written backward pass against
autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ossia import kernels
from ossia.kernels.experts import swiglu


def random_layer(
    experts: int, hidden: int, width: int, tokens: int, seed: int = 0
) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = {
        "x": (tokens, hidden), "logits": (tokens, experts), "w1": (experts, 2 * width, hidden),
        "b1": (experts, 2 * width), "w2": (experts, hidden, width), "b2": (experts, hidden),
    }  # fmt: skip
    make = {
        n: torch.randn(s, generator=rng, dtype=torch.float64).requires_grad_()
        for n, s in shapes.items()
    }
    return make


def grouped(t: dict[str, Tensor], top_k: int, limit: float) -> Tensor:
    top, choice = t["logits"].topk(top_k)
    pairs = ((lambda e, dtype: t["w1"][e]), t["b1"]), ((lambda e, dtype: t["w2"][e]), t["b2"])
    return kernels.experts(t["x"], choice, top.softmax(-1), *pairs, limit)


def test_grouped_equals_token_by_token() -> None:
    t = random_layer(experts=6, hidden=10, width=7, tokens=33)
    top, choice = t["logits"].topk(3)
    weight = top.softmax(-1)
    want = []
    for n in range(33):
        y = torch.zeros(10, dtype=torch.float64)
        for e, w in zip(choice[n].tolist(), weight[n], strict=True):
            h = t["w1"][e] @ t["x"][n] + t["b1"][e]
            gate, up = h[0::2].clamp(max=2.0), h[1::2].clamp(-2.0, 2.0)
            y = y + w * (t["w2"][e] @ (gate * torch.sigmoid(1.702 * gate) * (up + 1)) + t["b2"][e])
        want.append(y)
    torch.testing.assert_close(grouped(t, 3, 2.0), torch.stack(want), rtol=1e-5, atol=1e-5)


def test_training_form_has_the_same_values_and_gradients() -> None:
    for experts, tokens, top_k in ((5, 40, 2), (7, 3, 4), (1, 9, 1)):
        t = random_layer(experts, 12, 10, tokens, seed=experts)
        top, choice = t["logits"].topk(top_k)
        got = kernels.experts_training(
            t["x"], choice, top.softmax(-1), (t["w1"], t["b1"]), (t["w2"], t["b2"]), 1.5
        )
        want = grouped(t, top_k, 1.5)
        grad = torch.randn_like(want)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        inputs = tuple(t.values())
        pairs = zip(
            torch.autograd.grad(got, inputs, grad),
            torch.autograd.grad(want, inputs, grad),
            strict=True,
        )
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_swiglu_clamps_the_gate_above_only() -> None:
    h = torch.tensor([[100.0, 0.0, -100.0, 0.0, 1.0, 100.0, 1.0, -100.0]])
    gate = torch.tensor([7.0, -100.0, 1.0, 1.0])
    up = torch.tensor([0.0, 0.0, 7.0, -7.0])
    torch.testing.assert_close(swiglu(h, 7.0)[0], gate * torch.sigmoid(1.702 * gate) * (up + 1))
