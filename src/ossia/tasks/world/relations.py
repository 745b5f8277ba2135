"""The kinds of facts of the little world: how each is told, asked for and answered.

Data (texts/facts.toml), and how its subjects and values are drawn. Knows names; does not know
messages or problems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from ossia.tasks.words import Words, pick
from ossia.tasks.world.names import (
    ANIMALS,
    CITIES,
    COLORS,
    CONTAINERS,
    DAYS,
    FOODS,
    JOBS,
    NAMES,
    ROOMS,
    THINGS,
    code,
    made_up_name,
    made_up_word,
)

WORDS = Words("facts")
Draw = Callable[[Random], str]


@dataclass(frozen=True)
class Relation:
    """One kind of fact. `fact` tells it and answers; {e} is its subject and {v} its value."""

    subject: Draw
    value: Draw
    fact: str
    questions: tuple[str, ...]
    reverse: tuple[str, ...] = ()  # questions that give the value and ask for the subject
    told: tuple[str, ...] = ()  # other ways to tell it

    @property
    def article(self) -> str:
        """The article before the subject, if it has one."""
        return "the " if "the {e}" in self.fact else ""


def _one_of(words: tuple[str, ...], made_up: float = 0.08, capital: bool = False) -> Draw:
    def draw(rng: Random) -> str:
        if rng.random() >= made_up:
            return pick(rng, words)
        if capital:
            return made_up_name(rng)
        return made_up_word(rng)

    return draw


def _place(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        return f"in the {rng.choice(COLORS)} {rng.choice(CONTAINERS)}"
    if kind < 0.8:
        return f"in the {rng.choice(ROOMS)}"
    where = rng.choice(("under", "on", "behind", "near", "next to"))
    return f"{where} the {_thing(rng)}"


def _number(low: int, high: int) -> Draw:
    return lambda rng: str(rng.randrange(low, high))


def _words(*lists: tuple[str, ...]) -> Draw:
    def draw(rng: Random) -> str:
        drawn = [rng.choice(words) for words in lists]
        return " ".join(drawn)

    return draw


def _anything(rng: Random) -> str:
    """A word, a name, a code or a coloured thing: anything that can be copied."""
    if rng.random() < 0.2:
        return _name(rng)
    return _object(rng)


def _object(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.1:
        return made_up_word(rng)
    if kind < 0.2:
        return code(rng)
    thing = rng.choice(THINGS)
    if kind > 0.8:
        return f"a {rng.choice(COLORS)} {thing}"
    if thing[0] in "aeiou":
        return f"an {thing}"
    return f"a {thing}"


def _time(rng: Random) -> str:
    hour = rng.randrange(1, 13)
    luck = rng.random()
    if luck < 0.3:
        return f"{hour} o'clock"
    if luck < 0.7:
        return f"{hour}:{rng.randrange(0, 60, 5):02}"
    return f"{hour} pm"


_person = _one_of(NAMES, 0.08, capital=True)
_name = _one_of(NAMES, 0.3, capital=True)
_thing = _one_of(THINGS, 0.08)
DRAWS: Mapping[str, Draw] = {  # by their names in the file
    "person": _person,
    "name": _name,
    "city": _one_of(CITIES, 0.1, capital=True),
    "thing": _thing,
    "single": _one_of(WORDS["single"], 0.05),
    "event": _one_of(WORDS["events"], 0.05),
    "job": _one_of(JOBS, 0.05),
    "food": _one_of(FOODS, 0.15),
    "place": _place,
    "code": code,
    "object": _object,
    "anything": _anything,
    "time": _time,
    "colour": _words(COLORS),
    "coloured animal": _words(COLORS, ANIMALS),
    "coloured thing": _words(COLORS, THINGS),
    "day": _words(DAYS),
    "room": _words(ROOMS),
}


def _relation(row: Mapping[str, Any]) -> Relation:
    value = row["value"]
    return Relation(
        subject=DRAWS[row["subject"]],
        value=DRAWS[value] if isinstance(value, str) else _number(*value),
        fact=row["fact"],
        questions=row["questions"],
        reverse=row.get("reverse", ()),
        told=row.get("told", ()),
    )


def _relations(key: str) -> list[Relation]:
    return [_relation(row) for row in WORDS.rows(key)]


def _with_verb(third: str, plain: str) -> Relation:
    question = f"what does {{e}} {plain}?"
    questions = (question, question, f"tell me what {{e}} {third}.")
    return Relation(_person, _object, f"{{e}} {third} {{v}}.", questions, (f"who {third} {{v}}?",))


def _with_attribute(noun: str) -> Relation:
    questions = (
        f"what is {{e}}'s {noun}?",
        f"what is the {noun} of {{e}}?",
        f"tell me {{e}}'s {noun}.",
    )
    fact = f"{{e}}'s {noun} is {{v}}."
    reverse = (f"whose {noun} is {{v}}?",)
    told = (f"the {noun} of {{e}} is {{v}}.",)
    return Relation(_person, _anything, fact, questions, reverse, told)


RELATIONS = (
    *_relations("common") * 5,
    *_relations("other") * 3,
    *[_with_verb(third, plain) for third, plain in WORDS.phrases("verbs").items()],
    *[_with_attribute(noun) for noun in WORDS["attributes"]],
)
# (the column's heading, its relation)
TABLES = tuple((str(row["what"]), _relation(row)) for row in WORDS.rows("table"))
# (heading, row, separator of rows)
TABLE_STYLES: tuple[tuple[str, str, str], ...] = WORDS.rows("table styles")
