"""The page about reasoning: the gate and the experiments, with plots, and one JSON file.

Knows the folders that the recipe's phases left; trains nothing, and says nothing that is not in
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ossia import __version__
from ossia.files import write_json
from recipes.experiments.page import NOT_OURS, criteria_table, experiment, machine, phases, times
from recipes.experiments.plots import draw
from recipes.experiments.results import RESULTS
from recipes.reasoning.gate import FULL, MOST_GUESSED, PASS_1, ROOM, TRIES

PAGE = "reasoning.md"
NUMBERS = "reasoning.json"
RULE = (
    "Criteria were written down before the experiments; notes say what was changed after a first "
    "run. Each is judged by the whole 95% interval: "
    "**pass** if all of it is on the right side of the bound, **fail** if all of it is on the "
    "wrong side, **null** if the bound is inside."
)


def write_page(
    out: Path, docs: Path, names: Sequence[str], command: str, sizes: Mapping[str, Any]
) -> None:
    """`reasoning.md`, `reasoning.json` and an SVG an experiment in `docs`, from
    `out/NAME/results.json` of every name.
    """
    found = {name: json.loads((out / name / RESULTS).read_text(encoding="utf-8")) for name in names}
    gate = (out / "gate" / "gate.md").read_text(encoding="utf-8")
    docs.mkdir(parents=True, exist_ok=True)
    for name, result in found.items():
        draw(result["panels"], docs / f"{name}.svg")
    about = {
        "command": command,
        "ossia": __version__,
        "machine": machine(),
        "sizes": sizes,
        "phases": phases(out),
    }
    write_json(docs / NUMBERS, {"about": about, "gate": gate, "experiments": found})
    (docs / PAGE).write_text(page(about, found, gate), encoding="utf-8")


def page(about: Mapping[str, Any], found: Mapping[str, Any], gate: str) -> str:
    low, high = PASS_1
    parts = [
        "# Reasoning: seeds, rewards, and what effort buys",
        f"Made by `{about['command']}` on {about['machine']}, ossia {about['ossia']}. This page, "
        f"its plots and [{NUMBERS}]({NUMBERS}) are written by that command.",
        NOT_OURS,
        "## The gate",
        "Before any rewards, held-out problems are answered by the seeds at three efforts. It is "
        f"open where the commonest answer is right for at most {MOST_GUESSED:.0%}, pass@1 is from "
        f"{low:.0%} to {high:.0%}, pass@{TRIES} is {ROOM:.0%} or more above both pass@1 and "
        f"{TRIES} guesses, and answers in which every step is written are {FULL:.0%} or more above "
        "pass@1. A ! stands behind what does not pass. The first line is what rewards are given "
        "for.",
        gate,
        "## Criteria",
        RULE,
        criteria_table(found),
        *(experiment(name, result) for name, result in found.items()),
        "## Time",
        "Seconds of the clock; work of others on the same cores makes them longer.",
        times(about["phases"]),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"
