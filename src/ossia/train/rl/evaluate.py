"""What a run's weights can do, on held-out problems, on the way: at the temperature of training,
several answers to each. Nothing of it has an effect on the run.

    evaluations/000120.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ossia.figures import pass_at
from ossia.files import write_json
from ossia.tasks.environment import CUT
from ossia.train.rl.asks import Problems
from ossia.train.rl.sampler import Drawer
from ossia.train.rl.settings import Evaluating
from ossia.turn.rollout import Sample

FOLDER = "evaluations"


def evaluate(
    sampler: Drawer,
    problems: Problems,
    settings: Evaluating,
    out: Path,
    step: int,
    version: int,
) -> dict[str, Any]:
    """By arm: `pass@1`, `pass@k` of `settings.samples`, mean thoughts and answers. Written to
    `out` by the process that leads, and returned.
    """
    asks = problems.held_out(settings.problems)
    groups = sampler.draw(asks, settings.samples, version)
    by_arm: dict[str, list[Sequence[Sample]]] = {}
    for ask, group in zip(asks, groups, strict=True):
        by_arm.setdefault(ask.arm, []).append(group)
    found = {arm: _row(chosen, settings.samples) for arm, chosen in by_arm.items()}
    result = {"step": step, "version": version, "arms": found}
    if sampler.leads:
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
        write_json(out / FOLDER / f"{step:06d}.json", result, sole_writer=True)
    return result


def _row(groups: Sequence[Sequence[Sample]], k: int) -> Mapping[str, float]:
    """What could not be graded is not counted."""
    firsts = []
    anys = []
    for group in groups:
        known = [sample.reward.correct for sample in group]
        graded = [value for value in known if value is not None]
        if graded:
            firsts.append(pass_at(1, sum(graded), len(graded)))
            anys.append(pass_at(min(k, len(graded)), sum(graded), len(graded)))
    every = [sample for group in groups for sample in group]
    return {
        "problems": float(len(firsts)),
        "pass@1": fmean(firsts) if firsts else 0.0,
        f"pass@{k}": fmean(anys) if anys else 0.0,
        "analysis": fmean(sample.counts.analysis for sample in every),
        "sampled": fmean(sample.counts.sampled for sample in every),
        "cut": fmean(sample.reason in CUT for sample in every),
    }
