"""The words of the fictional country: the facts that its people, towns, rivers, companies and
animals can have, and how each is told and asked for.

Data (texts/country.toml) and one dataclass. Knows neither which facts are true (`country`) nor
messages. Of every list of templates the last ones are held out: `Relation` knows how many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ossia.tasks.words import Words
from ossia.tasks.world.names import COLORS, DAYS

Kind = Literal["person", "town", "river", "company", "animal"]
KINDS: tuple[Kind, ...] = ("person", "town", "river", "company", "animal")
# templates at the end of a list
TOLD_HELD_OUT = 2
ASKED_HELD_OUT = 1
BACK_HELD_OUT = 1

WORDS = Words("country")
CONSONANTS = "bdfghjklmnprstvwz"
VOWELS = "aeiou"
SYLLABLES = tuple(first + second for first in CONSONANTS for second in VOWELS)
# of names, so that they show their kind
ENDINGS: Mapping[str, tuple[str, ...]] = WORDS.table("endings")
FORMS: Mapping[str, str] = WORDS.phrases("forms")  # a name as it stands in a text
OPENINGS = WORDS["openings"]
BETWEEN = WORDS["between"]
REPORTS = WORDS["reports"]
CLOSINGS = WORDS["closings"]
# the values that relations can have, by their names in the file
LISTS = {
    "jobs": WORDS["jobs"],
    "foods": WORDS["foods"],
    "goods": WORDS["goods"],
    "places": WORDS["places"],
    "seas": WORDS["seas"],
    "months": WORDS["months"],
}


@dataclass(frozen=True)
class Relation:
    """A kind of fact. Its values are entities of the kind `leads_to`, or else one of `values`.

    told: statements. asked: questions for the value; the first two also take a phrase for {e}, such
    as `the mayor of Kelaton`. back: questions for the subject. phrase: replaces the value in
    questions of two hops.
    """

    name: str
    kind: Kind
    told: tuple[str, ...]
    asked: tuple[str, ...]
    back: tuple[str, ...]
    values: tuple[str, ...] = ()
    leads_to: Kind | None = None
    phrase: str = ""


def values_of(said: str | tuple[int, int]) -> tuple[str, ...]:
    """The list of that name, or the numbers of a range."""
    if isinstance(said, str):
        lists = {"colors": COLORS, "days": DAYS, **LISTS}
        return lists[said]
    first, end = said
    numbers = range(first, end)
    return tuple(map(str, numbers))


def _relation(row: Mapping[str, Any]) -> Relation:
    values: tuple[str, ...] = ()
    if "values" in row:
        values = values_of(row["values"])
    return Relation(**{**row, "values": values})


RELATIONS: tuple[Relation, ...] = tuple(map(_relation, WORDS.rows("relation")))
