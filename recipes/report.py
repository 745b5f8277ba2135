"""The whole recipe and its report: nano from nothing, then an experiment for each idea, then
docs/recipe.

    ossia train recipes/report.py --out runs/standard profile=standard
    ossia train recipes/report.py --out runs/smoke profile=smoke    on a micro model; docs in --out
    ossia train recipes/report.py --out runs/full profile=full          three seeds of everything

Phases of nano that recipes/nano.py has finished in the same folder, with the same settings, are
taken as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # a recipe is run by its path; its parts are a package beside it

from ossia.train.overrides import flat
from ossia.train.pipeline import Phase
from ossia.train.run import Run
from recipes import nano
from recipes.experiments import balance, filtering, length, quantization, sinks, stride
from recipes.experiments.common import PROFILES, Lab
from recipes.experiments.page import write_page


@dataclass(frozen=True)
class Config(nano.Config):
    docs: Path | None = (
        None  # where the page goes; None: docs/recipe, and for smoke the phase's own folder
    )


def phases(config: Config, out: Path) -> list[Phase]:
    """nano's phases, one for each experiment, and the report."""
    own = nano.Config(**{field.name: getattr(config, field.name) for field in fields(nano.Config)})
    settings = flat(own)
    made = [
        phase if phase.settings is not None else replace(phase, settings=settings)
        for phase in nano.phases(own, out)
    ]
    lab = Lab(nano.Recipe(own, out), PROFILES[config.profile])
    experiments = _experiments(lab, out)
    made += [replace(phase, settings=settings) for phase in experiments]
    docs = config.docs or (out / "report" if config.profile == "smoke" else Path("docs") / "recipe")
    command = f"ossia train recipes/report.py profile={config.profile}"
    write = partial(write_page, out, docs, [phase.name for phase in experiments], command)
    return [
        *made,
        Phase(
            "report",
            f"write {docs}/README.md with plots",
            write,
            settings=settings | {"docs": str(docs)},
        ),
    ]


def _experiments(lab: Lab, out: Path) -> list[Phase]:
    def phase(
        name: str, does: str, run: Callable[[Lab, Path], object], runs: list[Run], context: int
    ) -> Phase:
        tokens = sum(one.steps * one.hyper.tokens_per_step for one in runs)
        work = partial(run, lab, out / name)
        return Phase(
            name, does, work, tokens, runs[-1].config, hyper=runs[-1].hyper, context=context
        )

    def flat_runs(by_name: dict[str, list[Run]]) -> list[Run]:
        return [one for of in by_name.values() for one in of]

    return [
        phase(
            "balance",
            "E2: train small models under each method of balancing experts",
            balance.run,
            flat_runs(balance.runs(lab, out / "balance")),
            128,
        ),
        phase(
            "sinks",
            "E3: train small models with a learned sink, a fixed one, none",
            sinks.run,
            flat_runs(sinks.runs(lab, out / "sinks")),
            128,
        ),
        phase(
            "stride",
            "E4: train small models with experts in every layer, every second, none",
            stride.run,
            flat_runs(stride.runs(lab, out / "stride")),
            128,
        ),
        phase(
            "filtering",
            "E5: train twins on filtered and unfiltered text, attack the filtered one",
            filtering.run,
            filtering.all_runs(lab, out / "filtering"),
            128,
        ),
        phase(
            "length",
            "E6: read long texts under every scaling of positions, untrained and trained",
            length.run,
            length.all_runs(lab, out / "length"),
            1024,
        ),
        phase(
            "mxfp4",
            "E10: round the experts under every rule, train on with and without rounding in sight",
            quantization.run,
            quantization.all_runs(lab, out / "mxfp4"),
            256,
        ),
    ]
