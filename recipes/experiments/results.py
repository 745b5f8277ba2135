"""What an experiment found: estimates with 95% intervals, criteria with a verdict, published
numbers, plots' data.

Knows numbers and JSON; no model, no torch. A criterion is judged by the whole interval, never by
the mean alone: "pass" if all of it lies on the right side of the bound, "fail" if all of it lies on
the wrong side, "null" if the bound is inside it, which says that these seeds or questions cannot
tell.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from typing import Any, Literal, TypeVar

from ossia.figures import Share
from ossia.files import replace_file

RESULTS = "results.json"
RESAMPLES = 2000
# Student's t, 97.5%, by degrees of freedom from 1 on (any table of the distribution)
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

Verdict = Literal["pass", "fail", "null"]
Over = Literal["seeds", "items", "one item", "nothing"]
NONE = {"nothing": "one seed, no interval", "one item": "one problem, no interval"}
Item = TypeVar("Item")


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval: of Student's t over seeds, or of a bootstrap or a count over
    `items` (documents, questions). Over "nothing" and over "one item" the interval is everything:
    one alone says nothing of others.
    """

    mean: float
    low: float
    high: float
    over: Over
    values: tuple[float, ...]  # one a seed

    def __str__(self) -> str:
        return self.shown("{:.3g}".format)

    def shown(self, number: Callable[[float], str]) -> str:
        """As text, with numbers written as `number` does."""
        return f"{number(self.mean)} ({interval(self.over, self.low, self.high, number)})"


def interval(
    over: str, low: float | None, high: float | None, number: Callable[[float], str]
) -> str:
    """As text; None is what is not finite, as results are written down."""
    if over in NONE:
        return NONE[over]
    if low is None or high is None or not math.isfinite(high - low):
        return "unbounded"
    return f"{number(low)} to {number(high)}"


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean of one value a seed, with Student's t."""
    values = tuple(map(float, values))
    if len(values) == 1:
        return Estimate(values[0], -math.inf, math.inf, "nothing", values)
    degrees = len(values) - 1
    t = T_975[min(degrees, len(T_975)) - 1]  # beyond the table: its last, a little too wide
    half = t * stdev(values) / math.sqrt(len(values))
    return Estimate(fmean(values), fmean(values) - half, fmean(values) + half, "seeds", values)


def over_items(
    per_seed: Sequence[Sequence[Item]], statistic: Callable[[Sequence[Item]], float]
) -> Estimate:
    """`statistic` of every seed's items: over the seeds if there are several, else a percentile
    bootstrap over the items of the only one (Efron 1979). A draw whose statistic is NaN may be any
    value: it widens both ends.
    """
    values = tuple(statistic(items) for items in per_seed)
    if len(values) > 1 or len(per_seed[0]) == 1:  # one item of one seed: nothing varies
        return over_seeds(values)
    rng, items = Random(0), list(per_seed[0])
    drawn = [statistic(rng.choices(items, k=len(items))) for _ in range(RESAMPLES)]
    low = sorted(-math.inf if math.isnan(x) else x for x in drawn)[round(0.025 * (RESAMPLES - 1))]
    high = sorted(math.inf if math.isnan(x) else x for x in drawn)[round(0.975 * (RESAMPLES - 1))]
    return Estimate(values[0], low, high, "items", values)


def in_every_seed(
    per_seed: Sequence[Sequence[Item]], statistic: Callable[[Sequence[Item]], float]
) -> Estimate:
    """`statistic` of every seed's items, with the widest interval that covers each seed's own
    bootstrap over its items: what lies on one side of a bound does so in every seed. A seed with
    one item has no such interval.
    """
    each = [over_items([items], statistic) for items in per_seed]
    over: Over = "one item" if min(map(len, per_seed)) == 1 else "items"
    return Estimate(
        fmean(one.mean for one in each),
        min(one.low for one in each),
        max(one.high for one in each),
        over,
        tuple(one.mean for one in each),
    )


def mean_of(per_seed: Sequence[Sequence[float]]) -> Estimate:
    return over_items(per_seed, fmean)


def share_of(per_seed: Sequence[Share]) -> Estimate:
    """A share that was counted: over the seeds, or Wilson's interval of the only one."""
    if len(per_seed) > 1:
        return over_seeds([share.value for share in per_seed])
    low, high = per_seed[0].wilson()
    return Estimate(per_seed[0].value, low, high, "items", (per_seed[0].value,))


def difference(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Estimate:
    """Mean of ours - theirs, item by item and seed by seed."""
    pairs = [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(ours, theirs, strict=True)]
    return mean_of(pairs)


# ---- criteria ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Criterion:
    """A claim that was written down before the experiment, the rule that decides it, and what came
    out.
    """

    claim: str
    rule: str
    found: str
    verdict: Verdict


def above(claim: str, what: Estimate, bound: float, unit: str = "") -> Criterion:
    """Whether the whole interval is above the bound."""
    verdict = _verdict(what.low > bound, what.high < bound)
    return Criterion(claim, f"more than {bound:g}{unit}", str(what), verdict)


def at_least(claim: str, what: Estimate, bound: float) -> Criterion:
    verdict = _verdict(what.low >= bound, what.high < bound)
    return Criterion(claim, f"{bound:g} or more", str(what), verdict)


def below(claim: str, what: Estimate, bound: float, unit: str = "") -> Criterion:
    """Whether the whole interval is below the bound."""
    verdict = _verdict(what.high < bound, what.low > bound)
    return Criterion(claim, f"less than {bound:g}{unit}", str(what), verdict)


def _verdict(right: bool, wrong: bool) -> Verdict:
    if right:
        return "pass"
    return "fail" if wrong else "null"


# ---- what is written down ------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """A number of a paper and ours beside it. The models differ by orders of magnitude: compare
    directions.
    """

    what: str
    theirs: str
    source: str
    ours: str


@dataclass(frozen=True)
class Series:
    """y over x. `low` and `high` may be empty; x are numbers, or names for a panel of points."""

    name: str
    x: tuple[Any, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Panel:
    """One small plot. `marks` are horizontal lines: bounds of criteria, chance."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    kind: Literal["lines", "points"] = "lines"
    log_x: bool = False
    log_y: bool = False
    marks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Budget:
    runs: int
    tokens: int  # that were trained on
    training_seconds: float  # of their steps, added up; several may have run side by side


@dataclass(frozen=True)
class Result:
    experiment: str  # E2, ...
    title: str
    sentence: str
    model: str  # in words
    seeds: int
    budget: Budget
    numbers: dict[str, dict[str, Estimate]]  # by variant and measure
    criteria: tuple[Criterion, ...]
    published: tuple[Published, ...]
    panels: tuple[Panel, ...]
    notes: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()  # Markdown


def write(result: Result, folder: Path) -> None:
    """`results.json` in the folder. What is not finite becomes null."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(asdict(result)), indent=1, allow_nan=False)
    replace_file(folder / RESULTS, text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def points(title: str, y: str, numbers: dict[str, Estimate], marks: Sequence[float] = ()) -> Panel:
    """A panel with one point and interval a variant."""
    names, found = tuple(numbers), list(numbers.values())
    series = Series(
        y,
        names,
        tuple(e.mean for e in found),
        tuple(e.low for e in found),
        tuple(e.high for e in found),
    )
    return Panel(title, "", y, (series,), "points", marks=tuple(marks))


def line(name: str, x: Sequence[Any], found: Sequence[Estimate]) -> Series:
    return Series(
        name,
        tuple(x),
        tuple(e.mean for e in found),
        tuple(e.low for e in found),
        tuple(e.high for e in found),
    )
