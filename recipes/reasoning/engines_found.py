"""E11: tables and cosines of engines that are not the trainer, with intervals over groups.

Knows the numbers of groups, logs and statistics; no models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from ossia.figures import markdown_table
from recipes.experiments.results import (
    Budget,
    Criterion,
    Estimate,
    Panel,
    Published,
    Result,
    Series,
    above,
    interval,
    over_items,
    points,
)
from recipes.reasoning.mismatch import Compared, Products

SMOOTH = 5  # steps that a point of a curve is the mean of
Logs = Mapping[str, Sequence[Mapping[str, Any]]]
Groups = Sequence[int]


def result(
    engines: Mapping[str, Compared],
    cosines: Mapping[str, Products],
    logs: Logs,
    model: str,
    budget: Budget,
    notes: Sequence[str],
) -> Result:
    numbers = {name: _numbers(found) for name, found in engines.items()}
    found = {name: cosine(each) for name, each in cosines.items()}
    for name, estimate in found.items():
        engine, _, arm = name.rpartition(", ")
        numbers[engine][f"cosine, {arm}"] = estimate
    gains = {"TIS": "ignore", "MIS": "ignore", "GSPO": "ignore", "replay": "ignore"}
    for arm, other in gains.items():
        numbers["int8"][f"cosine, {arm} less {other}"] = difference(
            cosines[f"int8, {arm}"], cosines[f"int8, {other}"]
        )
    return Result(
        experiment="E11",
        title="Engines that are not the trainer",
        sentence=_sentence(engines, found),
        model=model,
        seeds=1,
        budget=budget,
        numbers=numbers,
        criteria=_criteria(engines, numbers),
        published=(
            Published(
                "KL of trainer and engine with a mixture of experts; with the engine's replayed",
                "1.5e-3 -> 7.5e-4",
                "routing replay (R3), arXiv 2510.11370",
                f"int8: {numbers['int8']['k3'].mean:.1e} a token",
            ),
        ),
        panels=_panels(numbers, found, logs),
        notes=tuple(notes),
        tables=(
            _table(engines, numbers),
            _cosine_table(found),
            *([_curve_table(logs)] if logs else []),
        ),
    )


def _numbers(found: Compared) -> dict[str, Estimate]:
    groups = range(len(found.tokens))
    numbers = {
        "k3": _over(groups, lambda of: _share(found.k3, found.tokens, of)),
        "right": _over(groups, lambda of: float(found.right[of].mean())),
    }
    if found.known.any():
        numbers["other experts"] = _over(groups, lambda of: _share(found.other, found.known, of))
    return numbers


def _over(groups: range, statistic: Callable[[list[int]], float]) -> Estimate:
    return over_items([list(groups)], lambda of: statistic(list(of)))


def _share(parts: Any, wholes: Any, of: list[int]) -> float:
    whole = float(wholes[of].sum())
    return float(parts[of].sum()) / whole if whole else 0.0


def cosine(found: Products) -> Estimate:
    """Of the sum of all groups' gradients with the reference's; groups are drawn for both."""
    return _over(range(len(found.own)), lambda of: _cosine(found, of))


def difference(ours: Products, theirs: Products) -> Estimate:
    """Of two cosines with the same reference, by the same groups."""
    return _over(range(len(ours.own)), lambda of: _cosine(ours, of) - _cosine(theirs, of))


def _cosine(found: Products, of: list[int]) -> float:
    counts = np.bincount(of, minlength=len(found.own)).astype(np.float64)
    own = float(counts @ found.own @ counts)
    reference = float(counts @ found.reference @ counts)
    scale = math.sqrt(max(0.0, own * reference))
    return float(counts @ found.cross @ counts) / scale if scale else math.nan


def _criteria(
    engines: Mapping[str, Compared], numbers: Mapping[str, Mapping[str, Estimate]]
) -> tuple[Criterion, ...]:
    exact = [name for name in engines if name.startswith(("exact", "other", "lag 0"))]
    largest = max(float(engines[name].largest.max()) for name in exact)
    tokens = sum(int(engines[name].tokens.sum()) for name in exact)
    verdict = Criterion(
        "the exact engine's log-probabilities are the trainer's",
        "no bit differs",
        f"{largest:.3g} at most, of {tokens:,} tokens",
        "pass" if largest == 0 else "fail",
    )
    of = numbers["int8"]
    return (
        verdict,
        *(
            above(
                f"int8: {arm} brings the gradient nearer to the exact one",
                of[f"cosine, {arm} less ignore"],
                0.0,
            )
            for arm in ("TIS", "MIS", "GSPO", "replay")
        ),
    )


def _sentence(engines: Mapping[str, Compared], found: Mapping[str, Estimate]) -> str:
    def k3(name: str) -> str:
        of = engines[name]
        return f"{of.k3.sum() / of.tokens.sum():.1e}"

    names = ("float32", "bf16", "int8", "MXFP4 after training")
    said = ", ".join(f"{k3(name)} {name}" for name in names)
    luck = found["other random numbers, ignore"]
    return (
        f"k3 KL a token between engine and trainer: 0 exact, {said}. Cosine of int8's gradient to "
        f"the exact one {found['int8, ignore']}; of the exact engine's to its own with other "
        f"random numbers {luck}."
    )


def _table(engines: Mapping[str, Compared], numbers: Mapping[str, Mapping[str, Estimate]]) -> str:
    rows = []
    for name, of in engines.items():
        other = numbers[name].get("other experts")
        rows.append(
            [
                name,
                f"{of.tokens.sum():,.0f}",
                f"{of.largest.max():.1e}",
                _small(numbers[name]["k3"]),
                "-" if other is None else other.shown("{:.2%}".format),
            ]
        )
    head = ["engine", "tokens", "largest difference of log p", "k3 KL a token", "other experts"]
    return markdown_table(head, rows)


def _small(found: Estimate) -> str:
    return found.shown("{:.1e}".format)


def _cosine_table(found: Mapping[str, Estimate]) -> str:
    number = "{:.4f}".format
    rows = [
        [name, number(e.mean), interval(e.over, e.low, e.high, number)] for name, e in found.items()
    ]
    return markdown_table(["gradient of", "cosine to the exact one", "95% interval"], rows)


def _curve_table(logs: Logs) -> str:
    rows = []
    for name, log in logs.items():
        ends = (log[:SMOOTH], log[-SMOOTH:])
        means = [[fmean(line[key] for line in of) for of in ends] for key in ("correct", "reward")]
        k3 = [line["mismatch_k3"] for line in log if "mismatch_k3" in line]  # none: no update
        cells = [f"{first:.0%} -> {last:.0%}" for first, last in means[:1]]
        cells += [f"{first:.2f} -> {last:.2f}" for first, last in means[1:]]
        rows.append([name, *cells, f"{fmean(k3):.1e}" if k3 else "-"])
    head = ["short run", f"right, first and last {SMOOTH} steps", "reward", "k3 KL a token"]
    return markdown_table(head, rows)


def _panels(
    numbers: Mapping[str, Mapping[str, Estimate]], found: Mapping[str, Estimate], logs: Logs
) -> tuple[Panel, ...]:
    engines = {name: of["k3"] for name, of in numbers.items() if of["k3"].mean > 0}
    k3 = points("KL a token, engine and trainer", "k3", engines)
    at_engines = {_short(n): e for n, e in found.items() if not n.startswith(("lag", "exact"))}
    at_lags = {_short(n): e for n, e in found.items() if n.startswith("lag")}
    panels = (
        Panel(k3.title, k3.x, k3.y, k3.series, k3.kind, log_y=True),
        points("Cosine to the exact gradient", "cosine", at_engines),
        points("The same, with older weights", "cosine", at_lags),
    )
    if not logs:
        return panels
    return (
        *panels,
        Panel("int8", "step", "right answers sampled", _curves(logs, ("exact", "int8"))),
        Panel("MXFP4", "step", "right answers sampled", _curves(logs, ("exact", "MXFP4"))),
        Panel("Lag", "step", "right answers sampled", _curves(logs, ("exact", "lag"))),
    )


def _short(name: str) -> str:
    """For below an axis."""
    shorter = name.replace("other random numbers", "other draws").replace(" after training", "")
    return shorter.removesuffix(", ignore").removesuffix(", ratio")


def _curves(logs: Logs, names: tuple[str, ...]) -> tuple[Series, ...]:
    found = []
    for name, log in logs.items():
        if name.startswith(names):
            parts = [log[n : n + SMOOTH] for n in range(0, len(log), SMOOTH)]
            x = tuple(part[-1]["step"] for part in parts)
            y = tuple(fmean(line["correct"] for line in part) for part in parts)
            found.append(Series(name, x, y))
    return tuple(found)
