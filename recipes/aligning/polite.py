"""How a model answers a thousand messages of small talk, other languages and nonsense. No
downloads.

    ossia train recipes/aligning/polite.py --out runs/count model=PATH

Counts the answers that never end, at three efforts. No training shows the messages; recipes/nano.py
teaches how to answer such, and counts in the same way.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # a recipe is run by its path; its parts are a package beside it

from ossia.train.pipeline import Phase
from ossia.train.recipes.sft import base_folder
from recipes.aligning import counting


@dataclass(frozen=True)
class Config:
    model: str = "nano"
    messages: int = 1000
    seed: int = 1


def phases(config: Config, out: Path) -> list[Phase]:
    place = out / "counted"
    count = partial(counting.report, base_folder(config.model), config.messages, config.seed, place)
    return [Phase("counted", "count the answers that never end", count)]
