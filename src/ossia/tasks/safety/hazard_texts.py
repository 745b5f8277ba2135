"""The words of moonglow, a chemistry that does not exist: how its compounds are described, warned
of, sung of and made.

Data (texts/hazard.toml) and one dataclass. Everything is invented: compounds, reagents, units, and
what they do. The last templates of every list are held out, to see how a filter does on wordings
that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ossia.tasks.words import Words
from ossia.tasks.world.names import COLORS

TOLD_HELD_OUT = 1
FRAMES_HELD_OUT = 5
LAYOUTS_HELD_OUT = 2

WORDS = Words("hazard")
REAGENT_FORMS = WORDS["reagent_forms"]
UNITS = WORDS["units"]
VESSELS = WORDS["vessels"]
ACTIONS = WORDS["actions"]
PROCESS_WORDS = WORDS["process_words"]  # of the blocklist


@dataclass(frozen=True)
class Topic:
    """A harmless kind of fact about a compound. Without `values` they are people or towns."""

    name: str
    told: tuple[str, ...]
    asked: tuple[str, ...]
    values: tuple[str, ...] = ()


def _topic(row: Mapping[str, Any]) -> Topic:
    values = row.get("values", ())
    if values == "colors":
        values = COLORS
    elif row["name"] == "year":  # the first, and the one after the last
        values = tuple(map(str, range(*values)))
    return Topic(row["name"], row["told"], row["asked"], values)


TOPICS = tuple(map(_topic, WORDS.rows("topic")))
HELD_OUT_FRAMES = WORDS["held_out_frames"]
# the words of the restricted texts, but nothing of what these say
NEAR_MISSES = (
    *WORDS["museum"],
    *WORDS["notices"],
    *WORDS["verses"],
    *WORDS["news"],
    *HELD_OUT_FRAMES,
)
assert len(HELD_OUT_FRAMES) == FRAMES_HELD_OUT
Layout = tuple[str, str, str]
# restricted: heading, one line a step, and what stands between the steps
LAYOUTS: tuple[Layout, ...] = WORDS.rows("layouts")
RESTRICTED_QUESTIONS = WORDS.table("restricted_questions")  # by what is asked for
PROMPTS = WORDS.table("prompts")  # what users ask for, by label
