"""E3, attention sinks: where attention goes that is wanted nowhere, with a learned sink, one fixed
at 0, and none.

Two kinds of model are looked at. Small ones learn Bigram-Backcopy from nothing, without windows and
with AdamW, as in the paper that the task is from: on the recipe's pages a small model formed no
sink in 900 trial steps. The other is the recipe's own after pre-training, with its sinks and with
them taken away. Attention is worked out once more from what enters a layer, because no kernel keeps
it.

T tokens of one document, H query heads, K key-value heads, h head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from ossia import kernels
from ossia.batch import Batch, Spans
from ossia.config import FULL, AttentionSink, ModelConfig
from ossia.figures import markdown_table
from ossia.model import Transformer
from ossia.model.transformer import Attention
from ossia.train.run import Run
from recipes.experiments import backcopy
from recipes.experiments.common import HELD_OUT, Lab, budget_of, losses, train_all, trained
from recipes.experiments.results import (
    Criterion,
    Estimate,
    Panel,
    Result,
    above,
    below,
    difference,
    mean_of,
    points,
    write,
)

KINDS: tuple[AttentionSink, ...] = ("learned", "off_by_one", "none")
OWN, AT_ZERO, BARE = "pre-trained", "pre-trained, sinks at 0", "pre-trained, no sinks"
LAYERS = 1  # of the small models
FROM = 16  # queries before have few keys to choose from
# from this position on the first token is forgotten; over the windows of the recipe's models
EVICTED_AT = 64
SHORTEST = 128  # tokens of a document that is looked at
MUCH = 5.0  # times the uniform mass
SPREAD = 0.7  # entropy over that of even attention, from which on attention is called spread
MASS, FIRST = "mass on position 0", "largest activation at position 0"
LATE = f"loss from position {EVICTED_AT} on"
Measures = dict[str, list[float]]  # one value a document


def runs(lab: Lab, out: Path) -> dict[str, list[Run]]:
    """Of each kind, one a seed: small models on Bigram-Backcopy."""
    hyper = replace(lab.small_hyper, optimizer="adamw")

    def one(kind: AttentionSink, seed: int) -> Run:
        made = lab.small_run(out, kind, _small(lab, kind), lab.sizes.sinks, seed, hyper)
        return replace(made, examples=partial(backcopy.examples, seed))

    return {
        kind: [one(kind, seed) for seed in range(1, lab.sizes.judged_seeds + 1)] for kind in KINDS
    }


def _small(lab: Lab, kind: AttentionSink) -> ModelConfig:
    """Every layer sees everything, and none has experts."""
    return replace(
        lab.small,
        num_hidden_layers=LAYERS,
        layer_types=(FULL,) * LAYERS,
        moe_stride=LAYERS + 1,
        vocab_size=backcopy.VOCABULARY,
        attention_sink=kind,
    )


def run(lab: Lab, out: Path) -> Result:
    made = runs(lab, out)
    everything = [one for of in made.values() for one in of]
    train_all(everything, lab.sizes.processes)
    count = lab.sizes.documents // 2
    sequences = [list(one.ids) for one, _ in islice(backcopy.examples(HELD_OUT, None), count)]
    small = {kind: [measure(trained(one), sequences) for one in of] for kind, of in made.items()}
    documents = lab.held_out_documents(count, shortest=SHORTEST)
    nano, by_head = {}, {}
    for name, model in recipe_models(lab).items():
        nano[name] = measure(model, documents)
        by_head[name] = heads(model, documents)
    numbers = {
        kind: {key: mean_of([one[key] for one in of]) for key in of[0]}
        for kind, of in small.items()
    }
    numbers |= {name: {key: mean_of([of[key]]) for key in of} for name, of in nano.items()}
    result = Result(
        "E3",
        "Attention sinks",
        _sentence(numbers),
        _models(lab),
        lab.sizes.judged_seeds,
        budget_of(everything),
        numbers,
        criteria(small),
        (),
        _panels(numbers),
        _notes(lab, small, nano, by_head),
        (_table(by_head),),
    )
    write(result, out)
    return result


def recipe_models(lab: Lab) -> dict[str, Transformer]:
    """The recipe's model after pre-training, and the same weights with other sinks, not trained any
    further.
    """
    whole = trained(lab.recipe.pretraining)
    state = whole.state_dict()
    made = {OWN: whole}
    others: dict[str, AttentionSink] = {AT_ZERO: "off_by_one", BARE: "none"}
    for name, kind in others.items():
        model = Transformer(replace(whole.config, attention_sink=kind))
        model.load_state_dict(
            {key: tensor for key, tensor in state.items() if not key.endswith(".sinks")}
        )
        made[name] = model.eval()
    return made


@torch.no_grad()
def look(model: Transformer, documents: Sequence[Sequence[int]]) -> Looked:
    looked = Looked()
    hooks = looked.watch(model)
    try:
        for document in documents:
            model.hidden(torch.tensor(list(document[:-1])), Batch.packed([len(document) - 1]))
    finally:
        for hook in hooks:
            hook.remove()
    return looked


def heads(model: Transformer, documents: Sequence[Sequence[int]]) -> dict[int, list[float]]:
    """Mass on position 0, times uniform, by full layer and head."""
    return {
        layer: torch.stack(of).mean(0).tolist()
        for layer, of in look(model, documents).first.items()
    }


def _over_layers(
    statistic: Callable[[Sequence[float]], float], of: Mapping[int, Sequence[float]]
) -> list[float]:
    """For each document."""
    return [statistic(values) for values in zip(*of.values(), strict=True)]


def measure(model: Transformer, documents: Sequence[Sequence[int]]) -> Measures:
    """`mass`: what full layers give to position 0, in units of what they would if every key got the
    same; `spread`: the entropy of what they give to keys, 1 if every key gets the same.
    """
    looked = look(model, documents)
    # [documents, heads of full layers]
    first = torch.cat([torch.stack(of) for of in looked.first.values()], 1)
    kept, evicted = (
        [_late_loss(model, document, gone) for document in documents] for gone in (False, True)
    )
    windows = (
        {"mass in the sinks, windows": _over_layers(mean, looked.sunk_windows)}
        if looked.sunk_windows
        else {}
    )
    return {
        MASS: first.mean(1).tolist(),
        "mass on position 0, strongest head": first[:, first.mean(0).argmax()].tolist(),
        "spread of attention": _over_layers(mean, looked.spread),
        "mass in the sinks, full layers": _over_layers(mean, looked.sunk),
        **windows,
        "largest activation": _over_layers(max, looked.largest),
        FIRST: _over_layers(max, looked.largest_first),
        "loss": losses(model, documents),
        LATE: kept,
        "the same without the first token": evicted,
        "loss added by eviction": [b - a for a, b in zip(kept, evicted, strict=True)],
    }


# ---- looking at attention ------------------------------------------------------------------------


@dataclass
class Looked:
    """By layer, one value a document; attention is that of queries from FROM on."""

    # of full layers: [H], on position 0, times uniform
    first: dict[int, list[Tensor]] = field(default_factory=dict)
    # of full layers: entropy, over that if it were even
    spread: dict[int, list[float]] = field(default_factory=dict)
    # of full layers: share that goes into the sinks
    sunk: dict[int, list[float]] = field(default_factory=dict)
    # the same of layers with windows
    sunk_windows: dict[int, list[float]] = field(default_factory=dict)
    # of the residual stream, in absolute value
    largest: dict[int, list[float]] = field(default_factory=dict)
    largest_first: dict[int, list[float]] = field(default_factory=dict)  # the same at position 0

    def watch(self, model: Transformer) -> list[Any]:
        """Hooks on the layers of a model that reads one document at a time."""
        hooks = []
        layers: Any = model.layers
        for n, layer in enumerate(layers):
            hooks.append(layer.register_forward_hook(partial(self._stream, n)))
            hooks.append(layer.attn.register_forward_pre_hook(self._attention))
        return hooks

    def _attention(self, attention: Attention, inputs: tuple[Any, ...]) -> None:
        x_TD, _, rope, _ = inputs
        p_HTT = probabilities(attention, x_TD, rope)[:, FROM:].double()
        sunk = (1 - p_HTT.sum(-1)).mean().item()
        if attention.window is not None:
            self.sunk_windows.setdefault(attention.layer, []).append(sunk)
            return
        self.sunk.setdefault(attention.layer, []).append(sunk)
        keys_T = torch.arange(FROM + 1, len(x_TD) + 1).double()
        self.first.setdefault(attention.layer, []).append(
            p_HTT[:, :, 0].sum(1) / (1 / keys_T).sum()
        )
        on_keys_HTT = p_HTT / p_HTT.sum(-1, keepdim=True)
        spread_HT = -torch.xlogy(on_keys_HTT, on_keys_HTT).sum(-1) / keys_T.log()
        self.spread.setdefault(attention.layer, []).append(spread_HT.mean().item())

    def _stream(self, n: int, layer: Any, inputs: Any, x_TD: Tensor) -> None:
        self.largest.setdefault(n, []).append(x_TD.abs().max().item())
        self.largest_first.setdefault(n, []).append(x_TD[0].abs().max().item())


def probabilities(attention: Attention, x_TD: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """[H, T, T]: what each query gives to each key of one document; with a sink, less than 1 in
    all.
    """
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
    sink_H = {
        "learned": getattr(attention, "sinks", None),
        "none": z_HTT.new_full((len(z_HTT),), -torch.inf),
    }.get(attention.sink_kind, z_HTT.new_zeros(len(z_HTT)))
    assert sink_H is not None
    with_sink = torch.cat([z_HTT, sink_H.view(-1, 1, 1).expand(-1, tokens, 1)], -1)
    return with_sink.softmax(-1)[..., :-1]


# ---- forgetting the first token ------------------------------------------------------------------


@dataclass(frozen=True)
class Evicting(Batch):
    """One document, whose key and value of position 0 are gone for queries from `after` on, as when
    a cache that is full drops its oldest entry (StreamingLLM, arXiv 2309.17453). What earlier
    positions took from it stays.
    """

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


def criteria(small: dict[str, list[Measures]]) -> tuple[Criterion, ...]:
    """`small` by kind, the measures of each seed."""

    def mass(kind: str) -> list[list[float]]:
        return [[mean(one["mass on position 0"])] for one in small[kind]]

    return (
        above(
            "without a sink, full layers put much of their attention on the first token",
            mean_of(mass("none")),
            MUCH,
            " x uniform",
        ),
        below(
            "a learned sink takes it away: learned minus none",
            difference(mass("learned"), mass("none")),
            0.0,
        ),
    )


def _models(lab: Lab) -> str:
    return (
        f"One layer of full attention, hidden size {lab.small.hidden_size}, no experts, trained "
        "from nothing on "
        f"Bigram-Backcopy for {lab.sizes.sinks} steps of 2,048 tokens; and the recipe's after "
        "pre-training, as it is "
        "or with its sinks changed but not trained again (intervals over documents)"
    )


def _sentence(numbers: dict[str, dict[str, Estimate]]) -> str:
    mass = {name: of["mass on position 0"].mean for name, of in numbers.items()}
    strongest = numbers[OWN]["mass on position 0, strongest head"].mean
    return (
        f"In small models the first token gets {mass['none']:.1f} times its even share of "
        "attention without a sink, "
        f"{mass['off_by_one']:.1f} times with one fixed at 0 and {mass['learned']:.1f} times with "
        "a learned one. In "
        f"full layers of the recipe's own model, whose sinks are learned, it gets {mass[OWN]:.1f} "
        f"times, and {strongest:.1f} times in the strongest head."
    )


def _notes(
    lab: Lab,
    small: dict[str, list[Measures]],
    nano: dict[str, Measures],
    by_head: dict[str, dict[int, list[float]]],
) -> tuple[str, ...]:
    own, without = nano[OWN], nano[BARE]
    loss = {kind: [[mean(one["loss"])] for one in of] for kind, of in small.items()}
    sunk = mean(own["mass in the sinks, full layers"]), mean(own["mass in the sinks, windows"])
    strong = [x for of in by_head[OWN].values() for x in of]
    return (
        "Bigram-Backcopy (arXiv 2410.13835): a word is followed by one of a few, a trigger by the "
        "word before it; to "
        "copy is right after triggers and wrong elsewhere. The difference in held-out loss, "
        "learned minus none, is "
        f"{difference(loss['learned'], loss['none'])} nats; it was expected to be within the noise "
        "and is no "
        "criterion.",
        f"In the recipe's model the learned sinks take {sunk[1]:.1%} of the attention of layers "
        "with windows, which do "
        f"not see the first token, and {sunk[0]:.1%} of full layers, where "
        f"{sum(x > MUCH for x in strong)} of "
        f"{len(strong)} heads give the first token more than {MUCH:g} times its even share. Taken "
        "away, without any "
        f"training, the sinks leave a loss of {mean(without['loss']):.3f} nats instead of "
        f"{mean(own['loss']):.3f} "
        f"(from position {EVICTED_AT} on {mean(without[LATE]):.3f} instead of "
        f"{mean(own[LATE]):.3f}); the largest "
        f"activation at position 0 is then {mean(without[FIRST]):.0f} instead of "
        f"{mean(own[FIRST]):.0f}, and its mass "
        f"{mean(without[MASS]):.2f} times uniform instead of {mean(own[MASS]):.2f}.",
        f"Evicting: from position {EVICTED_AT} on the first token can no longer be looked at.",
        *_shortfalls(small),
    )


def _shortfalls(small: dict[str, list[Measures]]) -> tuple[str, ...]:
    """What is known where small models without a sink did not come to use the first token as
    one.
    """
    mass = [mean(one["mass on position 0"]) for one in small["none"]]
    if mean_of([[x] for x in mass]).low > MUCH:
        return ()
    strongest = [mean(one["mass on position 0, strongest head"]) for one in small["none"]]
    spread = mean(mean(one["spread of attention"]) for one in small["none"])
    notes = [
        f"Without a sink not surely more than {MUCH:g} times uniform: seed by seed "
        f"{_listed(mass)}, in the strongest "
        f"head {_listed(strongest)}. In language models sinks are reported to form in the first "
        "thousands of steps of "
        "far larger batches (arXiv 2410.10781)."
    ]
    if spread > SPREAD:
        notes.append(
            "These models have another way to do nothing: their attention is spread over all keys "
            "(its entropy is "
            f"{spread:.2f} of that of even attention), and the mean of many values is little."
        )
    return tuple(notes)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _table(by_head: dict[str, dict[int, list[float]]]) -> str:
    def row(name: str, layer: int, of: Sequence[float]) -> list[str]:
        return [name, str(layer), *(f"{x:.1f}" for x in of)]

    rows = [
        row(name, layer, of) for name, layers in by_head.items() for layer, of in layers.items()
    ]
    columns = max(len(row) for row in rows) - 2
    titles = [
        "mass on position 0, times uniform",
        "full layer",
        *(f"head {n}" for n in range(columns)),
    ]
    return markdown_table(titles, rows)


def _panels(numbers: dict[str, dict[str, Estimate]]) -> tuple[Panel, ...]:
    def column(measure: str) -> dict[str, Estimate]:
        return {name: of[measure] for name, of in numbers.items() if measure in of}

    return (
        points(
            "Attention on position 0", "times uniform", column("mass on position 0"), (1.0, MUCH)
        ),
        points(
            "The same, strongest head",
            "times uniform",
            column("mass on position 0, strongest head"),
            (1.0, MUCH),
        ),
        points(
            "Spread of attention, full layers",
            "entropy, even = 1",
            column("spread of attention"),
            (1.0,),
        ),
        points(
            "In the sinks, full layers",
            "share of attention",
            column("mass in the sinks, full layers"),
        ),
        points(
            "In the sinks, layers with windows",
            "share of attention",
            column("mass in the sinks, windows"),
        ),
        points("Largest activation at position 0", "residual stream", column(FIRST)),
        points("Held-out loss", "nats", column("loss")),
        points(
            "Loss added by evicting the first token",
            "nats",
            column("loss added by eviction"),
            (0.0,),
        ),
    )
