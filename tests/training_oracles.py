"""What training differentiates is compared with: plain formulas in float64, and their gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=rng, dtype=torch.float64).requires_grad_() for s in shapes]


def same_gradients(got: Tensor, want: Tensor, inputs: list[Tensor], seed: int = 0) -> None:
    """Equal values, and equal gradients of a random weighting of them, to float64 rounding."""
    (weighting,) = draw(seed, tuple(want.shape))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    ours = torch.autograd.grad(got, inputs, weighting.detach(), retain_graph=True)
    for a, b in zip(ours, torch.autograd.grad(want, inputs, weighting.detach()), strict=True):
        assert a.dtype == torch.float64
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9 * (1 + float(b.abs().max())))


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: list[int], window: int | None, sink: Tensor | None
) -> Tensor:
    """softmax over all T keys and the sink as one more, whose value is 0."""
    total, (heads, width) = sum(lengths), q.shape[1:]
    document = torch.tensor([n for n, length in enumerate(lengths) for _ in range(length)])
    i, j = torch.arange(total)[:, None], torch.arange(total)[None]
    visible = (document[:, None] == document[None]) & (j <= i) & (i - j < (window or total))
    k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
    z = torch.einsum("qhd,khd->hqk", q, k) / width**0.5
    e = z.exp() * visible
    below = e.sum(-1, keepdim=True)
    if sink is not None:
        below = below + sink.exp()[:, None, None]
    return torch.einsum("hqk,khd->qhd", e / below, v)
