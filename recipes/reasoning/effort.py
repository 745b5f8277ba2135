"""E1: what effort buys. Thoughts against accuracy at each effort, before rewards and after;
thoughts that are cut; votes.

Knows rows of answers and statistics; trains and samples nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from ossia.harmony import Effort
from recipes.experiments.results import (
    Budget,
    Criterion,
    Estimate,
    Panel,
    Published,
    Result,
    Series,
    above,
    at_least,
    below,
    in_every_seed,
    line,
)
from recipes.reasoning.measure import Row

VOTES = (1, 2, 4, 8)
HELD = "rewards, low effort held short"
BEYOND = (
    "The seeds' curve ends with their longest thoughts and is continued flat. An effort that "
    "thinks for longer than that after rewards is not compared at equal thoughts, and a lift that "
    "comes from it says no more than that thinking for longer was worth it."
)
EFFORTS = tuple(effort.value for effort in Effort)
Forced = Mapping[str, Mapping[str, float]]  # model -> budget -> accuracy


@dataclass(frozen=True)
class Point:
    """A problem at one effort: means over its samples."""

    thoughts: float
    right: float


Item = Mapping[str, Point]  # a problem, by effort
Pair = tuple[Item, Item]  # the same problem before rewards and after


def items(rows: Sequence[Row]) -> list[Item]:
    """Of every problem, in order."""
    found: dict[int, dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(row.problem, {}).setdefault(row.effort, []).append(row)
    return [
        {
            effort: Point(fmean(r.thoughts for r in of), fmean(r.right for r in of))
            for effort, of in found[problem].items()
        }
        for problem in sorted(found)
    ]


def mean(effort: str, field: str) -> Callable[[Sequence[Item]], float]:
    return lambda chosen: fmean(getattr(item[effort], field) for item in chosen)


def ratio(chosen: Sequence[Item]) -> float:
    """Thoughts at high effort by those at low."""
    return mean("high", "thoughts")(chosen) / mean("low", "thoughts")(chosen)


def gain(chosen: Sequence[Item]) -> float:
    """Accuracy at high effort less that at low."""
    return mean("high", "right")(chosen) - mean("low", "right")(chosen)


def growth(pairs: Sequence[Pair]) -> float:
    """Tokens by which low effort thinks for longer than before."""
    return fmean(after["low"].thoughts - before["low"].thoughts for before, after in pairs)


def lift(pairs: Sequence[Pair]) -> float:
    """Accuracy after, less that of the seeds' curve at as many thoughts; mean over efforts."""
    before = [pair[0] for pair in pairs]
    after = [pair[1] for pair in pairs]
    curve = sorted((mean(e, "thoughts")(before), mean(e, "right")(before)) for e in EFFORTS)
    return fmean(mean(e, "right")(after) - at(curve, mean(e, "thoughts")(after)) for e in EFFORTS)


def at(curve: Sequence[tuple[float, float]], x: float) -> float:
    """Between its points, in log x, of 1 or more; beyond its ends what it ends with."""
    if x <= curve[0][0]:
        return curve[0][1]
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x <= x1:
            share = math.log(x / max(1.0, x0)) / math.log(x1 / max(1.0, x0))
            return y0 + share * (y1 - y0)
    return curve[-1][1]


def majority(rows: Sequence[Row], votes: int) -> list[float]:
    """Of each problem: how often the commonest of `votes` answers is right. Samples in their order,
    so many at a time; of answers that are as common, the first.
    """
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row.problem, []).append(row)
    shares = []
    for problem in sorted(found):
        of = found[problem]
        parts = [of[n : n + votes] for n in range(0, len(of) - votes + 1, votes)]
        shares.append(fmean(_voted(part) for part in parts))
    return shares


def _voted(part: Sequence[Row]) -> bool:
    answer, _ = Counter(row.answer for row in part).most_common(1)[0]
    return next(row.right for row in part if row.answer == answer)


def result(
    seeds: Sequence[Row],
    after: Sequence[Sequence[Row]],
    held: Sequence[Sequence[Row]],
    forced: Forced,
    model: str,
    budget: Budget,
    notes: Sequence[str],
) -> Result:
    """`after`: of each seed of rewards; `held`: of those that hold low effort short. `forced`:
    accuracy at high effort by model and budget.
    """
    before = items(seeds)
    numbers = {"seeds": _numbers([before])}
    for name, runs in (("rewards", after), (HELD, held)):
        later = [items(rows) for rows in runs]
        pairs = [list(zip(before, one, strict=True)) for one in later]
        numbers[name] = _numbers(later)
        numbers[name]["above the seeds at equal thoughts"] = in_every_seed(pairs, lift)
        numbers[name]["thoughts that low effort gained"] = in_every_seed(pairs, growth)
    return Result(
        experiment="E1",
        title="Effort",
        sentence=_sentence(numbers),
        model=model,
        seeds=len(after),
        budget=budget,
        numbers=numbers,
        criteria=_criteria(numbers),
        published=(_published(numbers["rewards"]),),
        panels=_panels(numbers, seeds, after, forced),
        notes=(*notes, BEYOND),
    )


def _criteria(numbers: Mapping[str, Mapping[str, Estimate]]) -> tuple[Criterion, ...]:
    found = numbers["rewards"]
    short = numbers[HELD]
    return (
        at_least(
            "after the seeds, thoughts at high effort by those at low",
            numbers["seeds"]["ratio"],
            3.0,
        ),
        at_least(
            "after the seeds, accuracy at high effort less that at low",
            numbers["seeds"]["gain"],
            0.25,
        ),
        at_least("after rewards, thoughts at high effort by those at low", found["ratio"], 3.0),
        at_least("after rewards, accuracy at high effort less that at low", found["gain"], 0.25),
        above(
            "rewards lift accuracy above the seeds' curve, which ends flat at its longest thoughts",
            found["above the seeds at equal thoughts"],
            0.0,
        ),
        below(
            "low effort does not think for longer: tokens gained",
            found["thoughts that low effort gained"],
            0.0,
        ),
        at_least(f"{HELD}, thoughts at high effort by those at low", short["ratio"], 3.0),
        at_least(f"{HELD}, accuracy at high effort less that at low", short["gain"], 0.25),
        below(
            f"{HELD}, low effort does not think for longer: tokens gained",
            short["thoughts that low effort gained"],
            0.0,
        ),
    )


def _numbers(per_seed: Sequence[Sequence[Item]]) -> dict[str, Estimate]:
    found = {}
    for effort in EFFORTS:
        found[f"thoughts, {effort}"] = in_every_seed(per_seed, mean(effort, "thoughts"))
        found[f"accuracy, {effort}"] = in_every_seed(per_seed, mean(effort, "right"))
    found["ratio"] = in_every_seed(per_seed, ratio)
    found["gain"] = in_every_seed(per_seed, gain)
    return found


def _sentence(numbers: Mapping[str, Mapping[str, Estimate]]) -> str:
    said = []
    words_of = {"seeds": "After the seeds", "rewards": "after rewards", HELD: f"after {HELD}"}
    for name, words in words_of.items():
        of = numbers[name]
        points = [
            f"{of[f'accuracy, {e}'].mean:.0%} with {of[f'thoughts, {e}'].mean:.0f}" for e in EFFORTS
        ]
        said.append(f"{words}, {', '.join(points)}")
    return (
        f"Right answers with tokens of thought at low, medium and high effort. {'; '.join(said)}."
    )


def _published(found: Mapping[str, Estimate]) -> Published:
    return Published(
        what="thoughts at high effort by those at low",
        theirs="3 to 5 times for each level",
        source="gpt-oss model card, arXiv 2508.10925, Fig. 3, read off",
        ours=f"{found['ratio'].mean:.1f}",
    )


def _panels(
    numbers: Mapping[str, Mapping[str, Estimate]],
    seeds: Sequence[Row],
    after: Sequence[Sequence[Row]],
    forced: Forced,
) -> tuple[Panel, ...]:
    curves = []
    for name, of in numbers.items():
        x = [round(of[f"thoughts, {e}"].mean) for e in EFFORTS]
        curves.append(line(name, x, [of[f"accuracy, {e}"] for e in EFFORTS]))
    cut = []
    for name, by_budget in forced.items():
        budgets = [int(budget) for budget in by_budget]
        cut.append(Series(name, tuple(budgets), tuple(by_budget.values())))
    return (
        Panel("Effort", "tokens of thought", "right", tuple(curves), log_x=True),
        Panel("Thoughts cut at high effort", "tokens of thought", "right", tuple(cut), log_x=True),
        Panel("Votes at high effort", "answers", "right", _voting(seeds, after), log_x=True),
        Panel("By steps, after rewards", "k", "right", _by_steps(after)),
    )


def _voting(seeds: Sequence[Row], after: Sequence[Sequence[Row]]) -> tuple[Series, ...]:
    found = []
    for name, per_seed in (("seeds", [seeds]), ("rewards", after)):
        high = [[row for row in rows if row.effort == "high"] for rows in per_seed]
        most = max(row.index for row in high[0]) + 1
        votes = [count for count in VOTES if count <= most]
        shares = [in_every_seed([majority(rows, n) for rows in high], fmean) for n in votes]
        found.append(line(name, votes, shares))
    return tuple(found)


def _by_steps(after: Sequence[Sequence[Row]]) -> tuple[Series, ...]:
    ks = sorted({row.k for row in after[0]})
    of = {k: [items([row for row in rows if row.k == k]) for rows in after] for k in ks}
    found = []
    for effort in EFFORTS:
        shares = [in_every_seed(of[k], mean(effort, "right")) for k in ks]
        found.append(line(effort, ks, shares))
    return tuple(found)
