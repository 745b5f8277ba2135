"""E6, context length: none, PI, NTK, NTK-by-parts, YaRN and dynamic, without training and with a
little of it.

Everything starts from the recipe's weights after pre-training at the short context; YaRN trained is
the recipe's own extension, and PI and none have had the same steps on the same text. Then YaRN has
a second stage, at the full length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import hypot
from pathlib import Path
from statistics import mean

from ossia.config import ModelConfig
from ossia.figures import Share
from ossia.model import Transformer
from ossia.tasks import example_random
from ossia.tasks.long.needles import needle
from ossia.tokenizer import Tokenizer
from ossia.train.length import Method, needle_accuracy, scaled, token_losses, using
from ossia.train.loop import train
from ossia.train.pipeline import watchers_of
from ossia.train.run import Run
from ossia.train.weights.export import load_weights
from recipes.embedded.texts import as_document
from recipes.experiments.common import HELD_OUT, Lab, budget_of, losses
from recipes.experiments.results import (
    Criterion,
    Estimate,
    Panel,
    Published,
    Result,
    above,
    at_least,
    below,
    difference,
    line,
    mean_of,
    share_of,
    write,
)

LENGTHS = (256, 512, 1024, 2048, 4096)
EDGES = (0, 64, 128, 256, 512, 1024, 2048, 4096)
METHODS: tuple[Method, ...] = ("none", "pi", "ntk", "ntk_by_parts", "yarn", "dynamic")
TUNED: tuple[Method, ...] = ("none", "pi", "yarn")
TARGET = 2048
# nats by which the loss beyond the short context must exceed that before it; also a share of
# needles
BREAKS = 0.5
SHORT, BEYOND = 256, 1024  # tokens: what the model was pre-trained at, and four times as many
MISMATCHED = 4.0  # a factor that is too small for TARGET


@dataclass(frozen=True)
class Start:
    """An encoder whose texts begin as documents do."""

    tokenizer: Tokenizer

    def encode(self, text: str) -> list[int]:
        return [self.tokenizer.special("<|startoftext|>"), *self.tokenizer.encode(text)]


def tuned_run(lab: Lab, out: Path, method: Method, seed: int) -> Run:
    """The recipe's extension under another method, or with another seed."""
    own = lab.recipe_of(seed).extension
    if method == "yarn" and seed == 0:
        return own
    folder = out / f"{method}-{seed}"
    return replace(own, name=folder.name, config=scaled(own.config, TARGET, method), out=folder)


def second_stage(lab: Lab, out: Path, seed: int) -> Run:
    """On from YaRN's, with documents of about the full length only."""
    recipe, first = lab.recipe_of(seed), tuned_run(lab, out, "yarn", seed)
    hyper = replace(first.hyper, peak_lr=first.hyper.peak_lr * 0.75, warmup=5, decay=1.0, floor=0.0)
    examples = partial(recipe.needles, TARGET // 2)
    folder = out / f"yarn-full-{seed}"
    return replace(
        first,
        name=folder.name,
        out=folder,
        start_from=first.out,
        examples=examples,
        steps=lab.sizes.full_length,
        hyper=hyper,
    )


def all_runs(lab: Lab, out: Path) -> list[Run]:
    """Those that are this experiment's own, in their order."""
    seeds = range(lab.sizes.seeds)
    made = [tuned_run(lab, out, method, s) for s in seeds for method in TUNED]
    return [one for one in made if one.out.parent == out] + [
        second_stage(lab, out, s) for s in seeds
    ]


# ---- measures ------------------------------------------------------------------------------------


def long_documents(lab: Lab, count: int) -> list[list[int]]:
    """Of 4,096 tokens: a needle of a held-out pair somewhere in sentences about the country."""
    tokenizer = lab.recipe.tokenizer
    made = []
    for n in range(count):
        rng = example_random(lab.recipe.config.seed + HELD_OUT, "long", n)
        found = needle(
            rng,
            lambda text: len(tokenizer.encode(text)),
            LENGTHS[-1],
            kind="one",
            split="held_out",
            of=lab.recipe.country,
        )
        made.append(as_document(tokenizer, found.document))
    return made


def by_bucket(
    model: Transformer, documents: Sequence[Sequence[int]], dynamic: bool = False
) -> list[list[float]]:
    """Mean loss of each document between each pair of EDGES; a bucket that a document does not
    reach is left out.

    Under dynamic scaling the angles depend on the length, so each bucket is the end of a document
    of its own.
    """
    if not dynamic:
        found = token_losses(model, documents)
        return [
            [x[a:b].double().mean().item() for x in found if len(x) > a] for a, b in pairwise(EDGES)
        ]
    out = []
    for a, b in pairwise(EDGES):
        cut = token_losses(model, [document[: b + 1] for document in documents], dynamic=True)
        out.append([x[a:b].double().mean().item() for x in cut if len(x) > a])
    return out


def needles(
    model: Transformer, lab: Lab, lengths: Sequence[int], count: int, dynamic: bool = False
) -> dict[int, Share]:
    encoder = Start(lab.recipe.tokenizer)
    make = partial(needle, kind="one", split="held_out", of=lab.recipe.country)
    found = needle_accuracy(
        model, encoder, make, lengths, count=count, seed=HELD_OUT, dynamic=dynamic
    )
    return {length: Share(round(share * count), count) for length, share in found.items()}


@dataclass(frozen=True)
class Reading:
    """What a model makes of long texts under one scaling: loss by bucket and document, needles
    found by length.
    """

    buckets: list[list[float]]
    found: dict[int, Share]


def read(
    model: Transformer,
    config: ModelConfig,
    lab: Lab,
    documents: Sequence[Sequence[int]],
    dynamic: bool,
) -> Reading:
    with using(model, config):
        buckets = by_bucket(model, documents, dynamic)
        found = needles(model, lab, LENGTHS, lab.sizes.needles, dynamic)
    return Reading(buckets, found)


def run(lab: Lab, out: Path) -> Result:
    for one in all_runs(lab, out):
        train(one, watchers=watchers_of(one))
    documents, pages = (
        long_documents(lab, lab.sizes.long_documents),
        lab.held_out_documents(lab.sizes.documents),
    )
    base = load_weights(lab.recipe.short, lab.out / "pretrain").eval()
    lost = [needles(base, lab, [n], lab.sizes.many_needles)[n] for n in (SHORT, BEYOND)]
    readings: dict[str, list[Reading]] = {}
    for method in METHODS:
        config = (
            lab.recipe.short if method == "dynamic" else scaled(lab.recipe.long, TARGET, method)
        )
        readings[f"zero-shot {method}"] = [read(base, config, lab, documents, method == "dynamic")]
    short = {"before": [losses(base, pages)], "after": list[list[float]]()}
    many: list[Share] = []
    mismatch: list[list[float]] = []
    for method in TUNED:
        of = []
        for seed in range(lab.sizes.seeds):
            made = tuned_run(lab, out, method, seed)
            model = load_weights(made.config, made.out).eval()
            of.append(read(model, made.config, lab, documents, False))
            if method == "yarn":
                wrong = replace(made.config, rope_scaling_factor=MISMATCHED)
                with using(model, wrong):
                    mismatch.append(_bucket(by_bucket(model, documents), TARGET))
        readings[f"tuned {method}"] = of
    readings["staged yarn"] = []
    for seed in range(lab.sizes.seeds):
        made = second_stage(lab, out, seed)
        model = load_weights(made.config, made.out).eval()
        readings["staged yarn"].append(read(model, made.config, lab, documents, False))
        short["after"].append(losses(model, pages))
        many.append(needles(model, lab, [TARGET], lab.sizes.many_needles)[TARGET])
    numbers = _numbers(readings, short, lost, many, mismatch)
    result = Result(
        "E6",
        "Context extension",
        _sentence(numbers),
        "the recipe's model, from its pre-trained weights",
        lab.sizes.seeds,
        budget_of(all_runs(lab, out)),
        numbers,
        criteria(readings, lost, many, mismatch),
        _published(numbers),
        _panels(readings),
        _notes(lab, readings),
    )
    write(result, out)
    return result


def _bucket(buckets: list[list[float]], end: int) -> list[float]:
    """The losses of the bucket that ends there."""
    return buckets[EDGES.index(end) - 1]


def _beyond(of: Sequence[Reading]) -> list[list[float]]:
    """Of each seed and document: the mean loss from the short context to TARGET, every bucket
    alike.
    """
    first, last = EDGES.index(256), EDGES.index(TARGET)
    return [
        [mean(values) for values in zip(*reading.buckets[first:last], strict=True)]
        for reading in of
    ]


def _difference_at(
    readings: dict[str, list[Reading]], ours: str, theirs: str, first: int, end: int
) -> Estimate:
    """Of two zero-shot readings: loss minus loss, position `first` to `end`, every bucket alike."""
    chosen = slice(EDGES.index(first), EDGES.index(end))
    of = (
        [
            [mean(values) for values in zip(*one.buckets[chosen], strict=True)]
            for one in readings[f"zero-shot {name}"]
        ]
        for name in (ours, theirs)
    )
    return difference(*of)


def share_lost(before: Share, after: Share) -> Estimate:
    """before - after of independent counts, with Newcombe's interval (1998, method 10, from
    Wilson's).
    """
    (low_a, high_a), (low_b, high_b) = before.wilson(), after.wilson()
    gone = before.value - after.value
    low = gone - hypot(before.value - low_a, high_b - after.value)
    high = gone + hypot(high_a - before.value, after.value - low_b)
    return Estimate(gone, low, high, "items", (gone,))


def _numbers(
    readings: dict[str, list[Reading]],
    short: dict[str, list[list[float]]],
    lost: Sequence[Share],
    many: list[Share],
    mismatch: list[list[float]],
) -> dict[str, dict[str, Estimate]]:
    numbers: dict[str, dict[str, Estimate]] = {}
    for name, of in readings.items():
        numbers[name] = {f"loss, 256 to {TARGET}": mean_of(_beyond(of))}
        numbers[name] |= {
            f"needles at {n}": share_of([one.found[n] for one in of]) for n in LENGTHS
        }
    after = mean_of(short["after"])
    numbers["short documents"] = {
        "loss before": mean_of(short["before"]),
        "loss after": after,
        "change": difference(short["after"], short["before"] * len(short["after"])),
    }
    numbers["zero-shot none"] |= {
        f"needles at {n}, more of them": share_of([one])
        for n, one in zip((SHORT, BEYOND), lost, strict=True)
    }
    numbers["staged yarn"] |= {f"needles at {TARGET}, more of them": share_of(many)}
    numbers["tuned yarn"] |= {
        f"loss, 1024 to {TARGET}": mean_of(
            [_bucket(one.buckets, TARGET) for one in readings["tuned yarn"]]
        ),
        f"the same read with s = {MISMATCHED:g}": mean_of(mismatch),
    }
    return numbers


# ---- in words ------------------------------------------------------------------------------------


def criteria(
    readings: dict[str, list[Reading]],
    lost: Sequence[Share],
    many: list[Share],
    mismatch: list[list[float]],
) -> tuple[Criterion, ...]:
    """Zero-shot orders are those of the mean loss between the short context and TARGET, document by
    document.
    """
    beyond = {name: _beyond(of) for name, of in readings.items()}
    before = [_bucket(one.buckets, SHORT) for one in readings["zero-shot none"]]
    right = [_bucket(one.buckets, TARGET) for one in readings["tuned yarn"]]

    def order(better: str, worse: str) -> Criterion:
        of = difference(beyond[f"zero-shot {better}"], beyond[f"zero-shot {worse}"])
        return below(
            f"zero-shot, {better} is better than {worse}: its loss minus the other's",
            of,
            0.0,
            " nats",
        )

    return (
        above(
            f"without scaling, loss breaks beyond {SHORT} tokens: by",
            difference(beyond["zero-shot none"], before),
            BREAKS,
            " nats",
        ),
        above(
            f"without scaling, needles are lost: share found at {SHORT} tokens minus at {BEYOND}",
            share_lost(*lost),
            BREAKS,
        ),
        order("yarn", "ntk_by_parts"),
        order("ntk_by_parts", "ntk"),
        order("ntk", "pi"),
        at_least(
            f"trained with YaRN in two stages, it finds needles at {TARGET} tokens",
            share_of(many),
            0.9,
        ),
        above(
            f"read with s = {MISMATCHED:g} instead of {TARGET // 256}, loss at 1024 to {TARGET} "
            "rises: by",
            difference(mismatch, right),
            0.0,
            " nats",
        ),
    )


def _sentence(numbers: dict[str, dict[str, Estimate]]) -> str:
    found = {name: numbers[f"tuned {name}"][f"needles at {TARGET}"].mean for name in TUNED}
    staged = numbers["staged yarn"][f"needles at {TARGET}, more of them"].mean
    return (
        f"Pre-trained at 256 tokens and trained a little at up to {TARGET}, the model finds "
        f"{found['yarn']:.0%} of "
        f"needles at {TARGET} with YaRN, {found['pi']:.0%} with PI and {found['none']:.0%} without "
        "scaling; with YaRN "
        f"and a second stage at the full length {staged:.0%}."
    )


def _published(numbers: dict[str, dict[str, Estimate]]) -> tuple[Published, ...]:
    tuned, paper = numbers["tuned yarn"], "YaRN, arXiv 2309.00071"
    zero = {
        m: numbers[f"zero-shot {m}"][f"loss, 256 to {TARGET}"].mean for m in ("pi", "ntk", "yarn")
    }
    short, staged = (
        numbers["short documents"],
        numbers["staged yarn"][f"needles at {TARGET}, more of them"],
    )
    return (
        Published(
            "passkeys found at the full length, trained",
            "99.4% at 128k",
            paper,
            f"{staged.mean:.1%} at {TARGET}",
        ),
        Published(
            "zero-shot, PI / NTK / YaRN",
            "perplexity 8.07 / 6.24 / 6.04 at 10240, s = 2",
            paper,
            " / ".join(f"{zero[m]:.2f}" for m in zero) + f" nats, 256 to {TARGET}, s = 8",
        ),
        Published(
            "a factor that is too small",
            "s = 16: perplexity 2.42 at 64k, over 10 at 128k",
            paper,
            f"s = {MISMATCHED:g}: {tuned[f'the same read with s = {MISMATCHED:g}'].mean:.2f} "
            f"nats at {TARGET}, "
            f"s = 8: {tuned[f'loss, 1024 to {TARGET}'].mean:.2f}",
        ),
        Published(
            "short tasks, before -> after",
            "MMLU 43.8 -> 42.5 / 41.7",
            paper,
            f"loss of short documents {short['loss before'].mean:.3f} -> "
            f"{short['loss after'].mean:.3f} nats",
        ),
    )


def _panels(readings: dict[str, list[Reading]]) -> tuple[Panel, ...]:
    def loss(kind: str, methods: Sequence[str], title: str) -> Panel:
        made = []
        for method in methods:
            of = readings[f"{kind} {method}"]
            found = [mean_of([one.buckets[n] for one in of]) for n in range(len(EDGES) - 1)]
            made.append(line(method, EDGES[1:], found))
        return Panel(title, "position, up to", "nats", tuple(made), log_x=True)

    def accuracy(kind: str, methods: Sequence[str], title: str) -> Panel:
        made = []
        for method in methods:
            found = [
                share_of([one.found[n] for one in readings[f"{kind} {method}"]]) for n in LENGTHS
            ]
            made.append(line(method, LENGTHS, found))
        return Panel(title, "tokens", "needles found", tuple(made), log_x=True, marks=(0.9,))

    return (
        loss("zero-shot", METHODS, "Loss by position, not trained"),
        accuracy("zero-shot", METHODS, "Needles, not trained"),
        loss("tuned", TUNED, "Loss by position, trained"),
        accuracy("tuned", TUNED, "Needles, trained"),
        accuracy("staged", ("yarn",), "Needles, trained in two stages"),
    )


def _notes(lab: Lab, readings: dict[str, list[Reading]]) -> tuple[str, ...]:
    own = lab.recipe.extension
    near, far = (
        mean_of([_bucket(one.buckets, end) for one in readings["tuned yarn"]])
        for end in (128, TARGET)
    )
    by_parts = [
        _difference_at(readings, "ntk_by_parts", "ntk", *ends)
        for ends in ((64, 256), (256, 2048), (2048, 4096))
    ]
    return (
        f"Training: {own.steps} steps of {own.hyper.tokens_per_step} tokens for each method, and "
        f"{lab.sizes.full_length} more for YaRN's second stage, whose rate decays to 0. All "
        "methods but none and "
        f"dynamic have s = {TARGET // SHORT}; 4096 tokens are beyond what any was trained for.",
        "Needles are of one kind, one number to find, in held-out pairs; found means that the "
        "answer would be given "
        "greedily, word for word. gpt-oss's own extension schedule is not public.",
        "Loss here hardly needs what stands far away: nearly all of these texts are sentences that "
        "can be told without "
        f"the others. For YaRN, trained, it is {near} nats at 64 to 128 tokens and {far} at 1024 "
        f"to {TARGET}. So "
        "it can break by little, and what is lost without scaling shows in needles, a criterion "
        "that was added after "
        "the loss had failed its own.",
        f"NTK-by-parts minus NTK, zero-shot: {by_parts[0]} nats at 64 to 256 tokens, where no "
        "scaling was needed, "
        f"{by_parts[1]} at 256 to 2048 and {by_parts[2]} at 2048 to 4096. What it is behind near "
        "by is the price of "
        "the angles that it changes; what it does for length is the difference between these "
        "numbers.",
    )
