"""E13: what a student learns from a teacher's answers, and on its own answers from the teacher's
probabilities.

Knows rows of answers, the logs of the steps and statistics; trains and samples nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from recipes.experiments.results import (
    Budget,
    Estimate,
    Panel,
    Result,
    Series,
    above,
    in_every_seed,
    points,
)
from recipes.reasoning import effort as by_effort
from recipes.reasoning.measure import Row
from recipes.reasoning.rewards import EFFORTS, first, items, more, paired, some

WAYS = {"copied": "the teacher's answers", "sampled": "sampled tokens", "full": "full vocabulary"}
ORDER = ("copied", "sampled", "full")  # as expected before the experiment, from below
Models = Mapping[str, Sequence[Sequence[Row]]]  # model -> rows of each of its runs
Logs = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]


def result(
    models: Models, logs: Logs, answers: int, model: str, budget: Budget, notes: Sequence[str]
) -> Result:
    """Of "student", "teacher" and the three ways, with so many answers to a problem and effort."""
    many = f"pass@{answers}"
    numbers = {_shown(name): _numbers(per_seed, many) for name, per_seed in models.items()}
    criteria = []
    for way in ORDER:
        found = _difference(models, way, "student", many)
        numbers[f"{WAYS[way]} less the student"] = found
        criteria.append(above(f"{WAYS[way]}: pass@1 above the student", found["pass@1"], 0.0))
    for lower, higher in pairwise(ORDER):
        found = _difference(models, higher, lower, many)
        numbers[f"{WAYS[higher]} less {WAYS[lower]}"] = found
        claim = f"{WAYS[higher]} above {WAYS[lower]} in pass@1, with as many sampled tokens"
        criteria.append(above(claim, found["pass@1"], 0.0))
    return Result(
        experiment="E13",
        title="Distillation",
        sentence=_sentence(numbers, many),
        model=model,
        seeds=len(models["full"]),
        budget=budget,
        numbers=numbers,
        criteria=tuple(criteria),
        published=(),
        panels=_panels(numbers, many, logs),
        notes=tuple(notes),
    )


def _shown(name: str) -> str:
    return WAYS.get(name, name)


def _numbers(per_seed: Sequence[Sequence[Row]], many: str) -> dict[str, Estimate]:
    every = [items(rows) for rows in per_seed]
    thinking = [by_effort.items(rows) for rows in per_seed]
    found = {"pass@1": in_every_seed(every, first), many: in_every_seed(every, some)}
    for effort in EFFORTS:
        of = [items(rows, effort) for rows in per_seed]
        found[f"pass@1, {effort}"] = in_every_seed(of, first)
        thoughts = by_effort.mean(effort, "thoughts")
        found[f"thoughts, {effort}"] = in_every_seed(thinking, thoughts)
    return found


def _difference(models: Models, ours: str, theirs: str, many: str) -> dict[str, Estimate]:
    pairs = paired(models[ours], models[theirs])
    return {
        "pass@1": in_every_seed(pairs, more(first)),
        many: in_every_seed(pairs, more(some)),
    }


def _sentence(numbers: Mapping[str, Mapping[str, Estimate]], many: str) -> str:
    names = ("student", *WAYS.values(), "teacher")
    said = ", ".join(f"{numbers[name]['pass@1'].mean:.0%} {name}" for name in names)
    some_said = ", ".join(f"{numbers[name][many].mean:.0%} {name}" for name in names)
    return f"pass@1 over the three efforts: {said}. {many}: {some_said}."


def _panels(
    numbers: Mapping[str, Mapping[str, Estimate]], many: str, logs: Logs
) -> tuple[Panel, ...]:
    names = ("student", *WAYS.values(), "teacher")
    curves = []
    for way, per_seed in logs.items():
        steps = min(map(len, per_seed))
        y = [fmean(log[n]["correct"] for log in per_seed) for n in range(steps)]
        curves.append(Series(WAYS[way], tuple(range(1, steps + 1)), tuple(y)))
    return (
        points("pass@1", "right", {name: numbers[name]["pass@1"] for name in names}),
        points(many, "right", {name: numbers[name][many] for name in names}),
        Panel("On its own answers", "step", "right answers sampled", tuple(curves)),
    )
