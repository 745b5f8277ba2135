"""The report: all results as one Markdown page with plots, and as one JSON file.

Knows the folders that the recipe's phases left; trains nothing, and says nothing that is not in
them.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ossia import __version__
from ossia.errors import TrainingError
from ossia.figures import markdown_table
from ossia.train.pipeline import DONE, PIPELINE
from recipes.experiments.plots import draw
from recipes.experiments.results import RESULTS, interval

RULE = (
    "A criterion was written down before the experiment, or its notes say what was changed after a "
    "first run. It is "
    "judged by the whole 95% interval: **pass** if all of it is on the right side of the bound, "
    "**fail** if all of it "
    "is on the wrong side, **null** if the bound is inside: these seeds or questions cannot tell. "
    "Intervals are "
    "Student's t over seeds; with one seed, a bootstrap over documents or questions, or Wilson's "
    "of a count: they then "
    "say nothing of other seeds."
)
NOT_OURS = (
    "These are small models on generated text. Published numbers stand beside ours for the "
    "direction of an effect, not "
    "for its size. What of gpt-oss's training is not public (its data, balancing, extension "
    "schedule, scale rule and "
    "details of quantized training) is our choice here, and no claim about OpenAI's."
)
Found = Mapping[str, Any]


def write_page(out: Path, docs: Path, names: Sequence[str], command: str) -> None:
    """`README.md`, an SVG an experiment and `results.json` in `docs`, from `out/NAME/results.json`
    of every name.
    """
    found = {name: _read(out / name / RESULTS) for name in names}
    docs.mkdir(parents=True, exist_ok=True)
    for name, result in found.items():
        draw(result["panels"], docs / f"{name}.svg")
    about = {"command": command, "ossia": __version__, "machine": machine(), "phases": phases(out)}
    (docs / RESULTS).write_text(
        json.dumps({"about": about, "experiments": found}, indent=1) + "\n", encoding="utf-8"
    )
    (docs / "README.md").write_text(page(about, found, *_texts(out)), encoding="utf-8")


def page(about: Found, found: Mapping[str, Found], filter_report: str, card: str) -> str:
    parts = [
        "# The recipe, and what each part of it is for",
        f"Made by `{about['command']}` on {about['machine']}, ossia {about['ossia']}. This page, "
        "its plots and "
        f"[{RESULTS}]({RESULTS}) are written by that command.",
        "What rewards add to nano: [reasoning.md](reasoning.md).",
        NOT_OURS,
        "## Criteria",
        RULE,
        criteria_table(found),
        *(experiment(name, result) for name, result in found.items()),
        "## The filter",
        "Of documents that it was not fitted on:",
        filter_report,
        "## nano's card",
        "Held-out problems answered by the exported checkpoint, by effort: share right, count, "
        "Wilson's 95% interval.",
        card,
        "## Time",
        times(about["phases"]),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def criteria_table(found: Mapping[str, Found]) -> str:
    rows = [
        [result["experiment"], c["claim"], c["rule"], c["found"], f"**{c['verdict']}**"]
        for result in found.values()
        for c in result["criteria"]
    ]
    return markdown_table(["", "claim", "passes if", "found (95%)", "verdict"], rows)


def experiment(name: str, result: Found) -> str:
    budget, seeds = result["budget"], result["seeds"]
    spent = (
        f"Model: {result['model']}. {seeds} seed{'s' if seeds > 1 else ''}, {budget['runs']} runs "
        "of its own, "
        f"{budget['tokens'] / 1e6:.2f}M tokens, {budget['training_seconds']:.0f} s of training "
        "steps."
    )
    parts = [
        f"## {result['experiment']}: {result['title']}",
        result["sentence"],
        f"![{result['title']}]({name}.svg)",
    ]
    if result["published"]:
        rows = [[p["what"], p["theirs"], p["source"], p["ours"]] for p in result["published"]]
        parts.append(markdown_table(["", "published", "source", "ours"], rows))
    else:
        parts.append("No published number to stand beside these.")
    parts += result["tables"]
    parts += [
        "\n".join(f"- {note}" for note in [*result["notes"], spent]),
        _details(result["numbers"]),
    ]
    return "\n\n".join(parts)


def _details(numbers: Mapping[str, Mapping[str, Found]]) -> str:
    """Every number with its interval and every seed, folded away."""
    rows = [
        [name, measure, _number(e["mean"]), _interval(e), ", ".join(map(_number, e["values"]))]
        for name, of in numbers.items()
        for measure, e in of.items()
    ]
    table = markdown_table(["", "measure", "mean", "95% interval", "seed by seed"], rows)
    return f"<details><summary>All numbers</summary>\n\n{table}\n\n</details>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _interval(e: Found) -> str:
    return interval(e["over"], e["low"], e["high"], _number)


def times(of: Sequence[Found]) -> str:
    rows = [
        [p["name"], p["does"], f"{p['tokens'] / 1e6:.2f}M", f"{p['seconds']:.0f} s"] for p in of
    ]
    total = sum(p["seconds"] for p in of)
    rows.append(["all", "", f"{sum(p['tokens'] for p in of) / 1e6:.2f}M", f"{total / 60:.1f} min"])
    return markdown_table(["phase", "what it does", "tokens", "time"], rows)


# ---- what the run left ---------------------------------------------------------------------------


def phases(out: Path) -> list[dict[str, Any]]:
    """Those that are done, with their seconds."""
    noted = _read(out / PIPELINE)["phases"]
    return [
        {key: phase[key] for key in ("name", "does", "tokens")}
        | {"seconds": _read(out / phase["name"] / DONE)["seconds"]}
        for phase in noted
        if (out / phase["name"] / DONE).exists()
    ]


def machine() -> str:
    """The processor's name and how many threads this process may use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [
            line.partition(":")[2].strip()
            for line in info.read_text().splitlines()
            if "model name" in line
        ]
        name = lines[0] if lines else name
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {threads} threads"


def _texts(out: Path) -> tuple[str, str]:
    paths = (out / "filter" / "report.md", out / "evaluation" / "report.md")
    if missing := [path for path in paths if not path.exists()]:
        raise TrainingError(f"{missing[0]} is not there: run the recipe's phases before the report")
    filter_report, card = (path.read_text(encoding="utf-8") for path in paths)
    return filter_report, card


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be read ({error.strerror}): run the phase that writes it first"
        ) from error
