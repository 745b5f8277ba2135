"""E3, attention sinks: where attention goes that is wanted nowhere, with a learned sink, one fixed at 0, and none.

Attention is worked out once more from what enters a layer, because no kernel keeps it.

T tokens of one document, H query heads, K key-value heads, h head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from ossia import kernels
from ossia.batch import Batch, Spans
from ossia.config import AttentionSink
from ossia.model import Transformer
from ossia.model.transformer import Attention
from ossia.train.run import Run
from recipes.experiments.common import Lab, budget_of, losses, train_all, trained
from recipes.experiments.results import (
    Criterion,
    Estimate,
    Result,
    above,
    below,
    difference,
    over_seeds,
    points,
    write,
)

KINDS: tuple[AttentionSink, ...] = ("learned", "off_by_one", "none")
FROM = 16  # queries before have few keys to choose from
EVICTED_AT = 64  # from this position on the first token is forgotten; over the small model's window
SHORTEST = 128  # tokens of a document that is looked at


def runs(lab: Lab, out: Path) -> dict[str, list[Run]]:
    """Of each kind, one a seed."""
    return {
        kind: [
            lab.small_run(
                out, kind, replace(lab.small, attention_sink=kind), lab.sizes.sinks, seed, lab.small_hyper
            )
            for seed in range(1, lab.sizes.small_seeds + 1)
        ]
        for kind in KINDS
    }  # fmt: skip


def run(lab: Lab, out: Path) -> Result:
    made = runs(lab, out)
    everything = [one for of in made.values() for one in of]
    train_all(everything, lab.sizes.processes)
    documents = lab.held_out_documents(lab.sizes.documents, shortest=SHORTEST)
    found = {kind: [measure(trained(one), documents) for one in of] for kind, of in made.items()}
    numbers = {kind: {key: over_seeds([one[key] for one in of]) for key in of[0]} for kind, of in found.items()}
    columns = {key: {kind: of[key] for kind, of in numbers.items()} for key in found["none"][0]}
    panels = (
        points("Attention on position 0", "times uniform", columns["mass on position 0"], (1.0, 5.0)),
        points("The same, strongest head", "times uniform", columns["mass on position 0, strongest head"], (1.0, 5.0)),
        points("Largest activation", "residual stream", columns["largest activation"]),
        points("Held-out loss", "nats", columns["loss"]),
        points("Loss added by evicting the first token", "nats", columns["loss added by eviction"], (0.0,)),
    )
    result = Result(
        "E3", "Attention sinks", _sentence(numbers), lab.small_in_words, lab.sizes.small_seeds, budget_of(everything),
        numbers, criteria(found), (), panels, _notes(found),
    )  # fmt: skip
    write(result, out)
    return result


def measure(model: Transformer, documents: Sequence[Sequence[int]]) -> dict[str, float]:
    looked = Looked()
    hooks = looked.watch(model)
    try:
        with torch.no_grad():
            for document in documents:
                model.hidden(torch.tensor(list(document[:-1])), Batch.packed([len(document) - 1]))
    finally:
        for hook in hooks:
            hook.remove()
    kept, evicted = (
        mean(_late_loss(model, document, gone) for document in documents) for gone in (False, True)
    )  # fmt: skip
    return {
        "mass on position 0": looked.mass / looked.uniform,
        "mass on position 0, strongest head": max((m / even).max().item() for m, even in looked.heads.values()),
        "largest activation": looked.largest,
        "largest activation at position 0": looked.largest_first,
        "loss": mean(losses(model, documents)),
        f"loss from position {EVICTED_AT} on": kept,
        "the same without the first token": evicted,
        "loss added by eviction": evicted - kept,
    }


# ---- looking at attention ------------------------------------------------------------------------


@dataclass
class Looked:
    """Sums over documents, full layers and heads; queries from FROM on."""

    mass: float = 0.0  # attention on position 0
    uniform: float = 0.0  # what it would be if every visible key got the same
    heads: dict[int, tuple[Tensor, float]] = field(default_factory=dict)  # both, by layer and head
    largest: float = 0.0  # of the residual stream, in absolute value
    largest_first: float = 0.0  # the same at position 0

    def watch(self, model: Transformer) -> list[Any]:
        """Hooks on the layers of a model that reads one document at a time."""
        hooks = []
        layers: Any = model.layers
        for layer in layers:
            hooks.append(layer.register_forward_hook(self._stream))
            if layer.attn.window is None:
                hooks.append(layer.attn.register_forward_pre_hook(self._attention))
        return hooks

    def _attention(self, attention: Attention, inputs: tuple[Any, ...]) -> None:
        x_TD, _, rope, _ = inputs
        p_HTT = probabilities(attention, x_TD, rope)
        heads, tokens, _ = p_HTT.shape
        mass_H = p_HTT[:, FROM:, 0].double().sum(1)
        even = (1 / torch.arange(FROM + 1, tokens + 1).double()).sum().item()
        self.mass += mass_H.sum().item()
        self.uniform += heads * even
        before = self.heads.get(attention.layer, (torch.zeros(heads, dtype=torch.float64), 0.0))
        self.heads[attention.layer] = before[0] + mass_H, before[1] + even

    def _stream(self, layer: Any, inputs: Any, x_TD: Tensor) -> None:
        self.largest = max(self.largest, x_TD.abs().max().item())
        self.largest_first = max(self.largest_first, x_TD[0].abs().max().item())


def probabilities(attention: Attention, x_TD: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """[H, T, T]: what each query gives to each key of one document; with a sink, less than 1 in all."""
    t_TD = attention.norm(x_TD)
    q_THh = kernels.rotate(attention.q(t_TD).unflatten(-1, (-1, attention.head_dim)), *rope)
    k_TKh = kernels.rotate(attention.k(t_TD).unflatten(-1, (-1, attention.head_dim)), *rope)
    k_THh = k_TKh.repeat_interleave(q_THh.shape[1] // k_TKh.shape[1], 1)
    z_HTT = torch.einsum("qHh,kHh->Hqk", q_THh, k_THh) * attention.head_dim**-0.5
    tokens = len(x_TD)
    visible_TT = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    if attention.window is not None:
        visible_TT &= ~torch.ones_like(visible_TT).tril(-attention.window)
    z_HTT = z_HTT.masked_fill(~visible_TT, -torch.inf)
    sink_H = {"learned": getattr(attention, "sinks", None), "none": z_HTT.new_full((len(z_HTT),), -torch.inf)}.get(
        attention.sink_kind, z_HTT.new_zeros(len(z_HTT))
    )
    assert sink_H is not None
    with_sink = torch.cat([z_HTT, sink_H.view(-1, 1, 1).expand(-1, tokens, 1)], -1)
    return with_sink.softmax(-1)[..., :-1]


# ---- forgetting the first token ------------------------------------------------------------------


@dataclass(frozen=True)
class Evicting(Batch):
    """One document, whose key and value of position 0 are gone for queries from `after` on, as when a cache that is
    full drops its oldest entry (StreamingLLM, arXiv 2309.17453). What earlier positions took from it stays."""

    after: int = EVICTED_AT

    def spans(self, window: int | None) -> Spans:
        whole = super().spans(window)
        late_T = torch.arange(self.num_tokens) >= self.after
        return replace(whole, lo_T=torch.where(late_T, whole.lo_T.clamp(min=1), whole.lo_T))


@torch.no_grad()
def _late_loss(model: Transformer, document: Sequence[int], evict: bool) -> float:
    """Mean loss from EVICTED_AT on."""
    ids = torch.tensor(list(document))
    kind = Evicting if evict else Batch
    logits_TV = model(ids[:-1], kind((len(ids) - 1,), (0,)))
    return torch.nn.functional.cross_entropy(logits_TV[EVICTED_AT:], ids[1 + EVICTED_AT :]).item()


# ---- in words ------------------------------------------------------------------------------------


def criteria(found: dict[str, list[dict[str, float]]]) -> tuple[Criterion, ...]:
    """`found` by kind, one set of measures a seed."""

    def mass(kind: str) -> list[list[float]]:
        return [[one["mass on position 0"]] for one in found[kind]]

    plain = over_seeds([of[0] for of in mass("none")])
    return (
        above("without a sink, full layers put much of their attention on the first token", plain, 5.0, " x uniform"),
        below("a learned sink takes it away: learned minus none", difference(mass("learned"), mass("none")), 0.0),
    )


def _sentence(numbers: dict[str, dict[str, Estimate]]) -> str:
    mass = {kind: of["mass on position 0"].mean for kind, of in numbers.items()}
    return (
        f"The first token gets {mass['none']:.1f} times its even share of attention without a sink, "
        f"{mass['off_by_one']:.1f} times with one fixed at 0 and {mass['learned']:.1f} times with a learned one."
    )


def _notes(found: dict[str, list[dict[str, float]]]) -> tuple[str, ...]:
    loss = {kind: [[one["loss"]] for one in of] for kind, of in found.items()}
    found_difference = difference(loss["learned"], loss["none"])
    return (
        f"The difference in held-out loss, learned minus none, is {found_difference} nats; it was expected to be "
        "within the noise and is no criterion.",
        f"Evicting: from position {EVICTED_AT} on the first token can no longer be looked at.",
    )
