"""E7: what rewards teach, against fine-tuning on the answers that would have been rewarded, with as
many sampled tokens.

Knows rows of answers, the log of the steps, and statistics; trains and samples nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ossia.figures import pass_at
from ossia.harmony import Effort
from ossia.tasks.effort import Prices
from recipes.experiments.results import (
    Budget,
    Estimate,
    Panel,
    Published,
    Result,
    Series,
    above,
    at_least,
    in_every_seed,
    points,
)
from recipes.reasoning.measure import Row

K = 8
SMOOTH = 5  # steps that a point of a curve is the mean of
EFFORTS = tuple(effort.value for effort in Effort)
Log = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Item:
    """A problem at one effort or at all of them: means over efforts."""

    first: float  # pass@1
    some: float  # pass@K


Pair = tuple[Item, Item]  # the same problem, ours and theirs


def items(rows: Sequence[Row], effort: str | None = None) -> list[Item]:
    found: dict[int, dict[str, list[bool]]] = {}
    for row in rows:
        if effort is None or row.effort == effort:
            found.setdefault(row.problem, {}).setdefault(row.effort, []).append(row.right)
    return [
        Item(
            fmean(fmean(of) for of in found[problem].values()),
            fmean(pass_at(min(K, len(of)), sum(of), len(of)) for of in found[problem].values()),
        )
        for problem in sorted(found)
    ]


def first(chosen: Sequence[Item]) -> float:
    return fmean(item.first for item in chosen)


def some(chosen: Sequence[Item]) -> float:
    return fmean(item.some for item in chosen)


def more(of: Callable[[Sequence[Item]], float]) -> Callable[[Sequence[Pair]], float]:
    """Ours less theirs, problem by problem."""
    return lambda pairs: of([a for a, _ in pairs]) - of([b for _, b in pairs])


def paired(
    ours: Sequence[Sequence[Row]], theirs: Sequence[Sequence[Row]], effort: str | None = None
) -> list[list[Pair]]:
    """Seed by seed; a single one of theirs stands beside each of ours."""
    beside = list(theirs) * len(ours) if len(theirs) == 1 else list(theirs)
    return [
        list(zip(items(mine, effort), items(its, effort), strict=True))
        for mine, its in zip(ours, beside, strict=True)
    ]


def result(
    seeds: Sequence[Row],
    after: Sequence[Sequence[Row]],
    control: Sequence[Sequence[Row]],
    logs: Sequence[Log],
    prices: Prices,
    model: str,
    budget: Budget,
    notes: Sequence[str],
) -> Result:
    """`after` and `control`: of each seed. `logs`: of the runs with rewards, at these `prices`."""
    variants = {"seeds": [seeds], "rewards": after, "rejection sampling": control}
    numbers = {name: _numbers(per_seed) for name, per_seed in variants.items()}
    for name, per_seed in variants.items():
        paid = [_paid(rows, prices) for rows in per_seed]
        numbers[name]["reward, thoughts paid for"] = in_every_seed(paid, fmean)
    against = {"the seeds": [seeds], "rejection sampling": control}
    for name, theirs in against.items():
        numbers[f"rewards less {name}"] = _differences(after, theirs)
    base = numbers["rewards less the seeds"]
    other = numbers["rewards less rejection sampling"]
    criteria = (
        at_least("rewards raise pass@1 over the seeds", base["pass@1"], 0.2),
        at_least("pass@8 is not lower than the seeds'", base["pass@8"], 0.0),
        above(
            "rewards are above rejection sampling with as many sampled tokens, in pass@1",
            other["pass@1"],
            0.0,
        ),
    )
    return Result(
        experiment="E7",
        title="Rewards",
        sentence=_sentence(numbers),
        model=model,
        seeds=len(after),
        budget=budget,
        numbers=numbers,
        criteria=criteria,
        published=(
            Published(
                "pass@1 of AIME 2024 by rewards alone",
                "15.6% -> 71.0%",
                "DeepSeek-R1-Zero, arXiv 2501.12948",
                f"{numbers['seeds']['pass@1'].mean:.0%} -> {numbers['rewards']['pass@1'].mean:.0%}",
            ),
        ),
        panels=_panels(numbers, logs),
        notes=tuple(notes),
    )


def _numbers(per_seed: Sequence[Sequence[Row]]) -> dict[str, Estimate]:
    every = [items(rows) for rows in per_seed]
    found = {"pass@1": in_every_seed(every, first), "pass@8": in_every_seed(every, some)}
    for effort in EFFORTS:
        of = [items(rows, effort) for rows in per_seed]
        found[f"pass@1, {effort}"] = in_every_seed(of, first)
        found[f"pass@8, {effort}"] = in_every_seed(of, some)
    for effort, grain in (("high", "high"), ("medium", "high"), ("low", "high"), ("low", "low")):
        written = "every step" if grain == "high" else "the answer alone"
        shares = [_grains(rows, effort, grain) for rows in per_seed]
        found[f"{written} at {effort}"] = in_every_seed(shares, fmean)
    return found


def _grains(rows: Sequence[Row], effort: str, grain: str) -> list[float]:
    """Share of a problem's answers at this effort that have that grain."""
    found: dict[int, list[bool]] = {}
    for row in rows:
        if row.effort == effort:
            found.setdefault(row.problem, []).append(row.grain == grain)
    return [fmean(of) for of in found.values()]


def _paid(rows: Sequence[Row], prices: Prices) -> list[float]:
    """Of each problem, what its answers are worth after their thoughts are paid for."""
    found: dict[int, list[float]] = {}
    for row in rows:
        worth = prices.of(Effort(row.effort)).reward(float(row.right), row.thoughts)
        found.setdefault(row.problem, []).append(worth)
    return [fmean(of) for of in found.values()]


def _differences(
    ours: Sequence[Sequence[Row]], theirs: Sequence[Sequence[Row]]
) -> dict[str, Estimate]:
    found = {}
    for effort in (None, *EFFORTS):
        name = "" if effort is None else f", {effort}"
        pairs = paired(ours, theirs, effort)
        found[f"pass@1{name}"] = in_every_seed(pairs, more(first))
        found[f"pass@8{name}"] = in_every_seed(pairs, more(some))
    return found


def _sentence(numbers: Mapping[str, Mapping[str, Estimate]]) -> str:
    said = [
        f"{of['pass@1'].mean:.0%} and {of['pass@8'].mean:.0%} {words}"
        for words, of in (
            ("after the seeds", numbers["seeds"]),
            ("after rewards", numbers["rewards"]),
            ("after rejection sampling", numbers["rejection sampling"]),
        )
    ]
    at_high = ", ".join(
        f"{numbers[name]['pass@1, high'].mean:.0%} {name}"
        for name in ("seeds", "rewards", "rejection sampling")
    )
    paid = ", ".join(
        f"{numbers[name]['reward, thoughts paid for'].mean:.2f} {name}"
        for name in ("seeds", "rewards", "rejection sampling")
    )
    begin = f"pass@1 and pass@8 over the three efforts: {', '.join(said)}."
    end = f"Counted as rewards count, with thoughts paid for: {paid}."
    return f"{begin} pass@1 at high effort alone: {at_high}. {end}"


def _panels(
    numbers: Mapping[str, Mapping[str, Estimate]], logs: Sequence[Log]
) -> tuple[Panel, ...]:
    variants = ("seeds", "rewards", "rejection sampling")
    return (
        Panel("Steps", "step", "right answers sampled", _curves(logs, "correct")),
        Panel("Thoughts", "step", "tokens", _curves(logs, "analysis", "/mean")),
        points("pass@1", "right", {name: numbers[name]["pass@1"] for name in variants}),
        points("pass@8", "right", {name: numbers[name]["pass@8"] for name in variants}),
        points(
            "Every step is written, high effort",
            "share",
            {name: numbers[name]["every step at high"] for name in variants},
        ),
        points(
            "The answer alone, low effort",
            "share",
            {name: numbers[name]["the answer alone at low"] for name in variants},
        ),
    )


def _curves(logs: Sequence[Log], name: str, ending: str = "") -> tuple[Series, ...]:
    """One an effort: means over the seeds, and over some steps that had this effort."""
    found = []
    for effort in EFFORTS:
        key = f"{name}/{effort}{ending}"
        x = []
        y = []
        steps = min(len(log) for log in logs)
        for begin in range(0, steps, SMOOTH):
            values = [
                line[key] for log in logs for line in log[begin : begin + SMOOTH] if key in line
            ]
            if values:
                x.append(min(begin + SMOOTH, steps))
                y.append(fmean(values))
        found.append(Series(effort, tuple(x), tuple(y)))
    return tuple(found)
