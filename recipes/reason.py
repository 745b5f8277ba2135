"""Reasoning: the embedded model learns to think for as long as it is told to, and rewards make it
better at it. No downloads.

    ossia train recipes/reason.py --out runs/reason                   the standard profile
    ossia train recipes/reason.py --out runs/smoke profile=smoke      every stage, nothing learned
    ossia chat runs/reason/model/checkpoint --effort high

What happens, in order: nano is fine-tuned on seeds, gold conversations about following a number
through many steps, whose grain is mostly that of the effort; held-out problems say whether there is
something left to learn (the gate); reinforcement learning, with one or more seeds; as many tokens
are sampled from the seeds' weights, and those answers that would have been rewarded are learned
from, as the control; all of them answer the same held-out problems; E1 and E7 are written down.
Then E12, tools under other names; E13, three ways to learn from a teacher; E11, engines that are
not the trainer. A run that is killed goes on where it was.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # a recipe is run by its path; its parts are a package beside it

from ossia.train.pipeline import Phase
from recipes.nano import keep_memory
from recipes.reasoning.distilling import Distilling
from recipes.reasoning.engines import Engines
from recipes.reasoning.page import write_page
from recipes.reasoning.settings import Config
from recipes.reasoning.thinking import Thinking
from recipes.reasoning.tools import Tools

EXPERIMENTS = ("effort", "rewards", "engines", "tools", "distilling")


def phases(config: Config, out: Path) -> list[Phase]:
    """What is done, in order; every phase reads what the ones before have left in `out`."""
    keep_memory()
    docs = config.docs or (out / "report" if config.profile == "smoke" else Path("docs") / "recipe")
    report = partial(_report, config, out, docs)
    return [
        *Thinking(config, out).phases(),
        *Tools(config, out).phases(),
        *Distilling(config, out).phases(),
        *Engines(config, out).phases(),
        Phase("report", f"write {docs}/reasoning.md with plots", report),
    ]


def _report(config: Config, out: Path, docs: Path) -> None:
    command = f"ossia train recipes/reason.py profile={config.profile}"
    write_page(out, docs, EXPERIMENTS, command, asdict(config.sizes))
