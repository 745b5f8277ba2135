"""The lookup tool: what is known of whom, how that is asked for, and what the tool answers.

Knows a mapping (entity, relation) -> value and which questions are held out. It comes from the
fictional country, whose own splits hold, or is drawn afresh with made-up names, so that no answer
can be known without looking it up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from random import Random

from ossia.errors import ConfigError, ToolError
from ossia.harmony import FunctionTool
from ossia.tasks.problem import Split, split_of
from ossia.tasks.words import Words, pick
from ossia.tasks.world.country import Fact, Hop, World, sentence, world
from ossia.tasks.world.names import CITIES, COLORS, FOODS, JOBS, made_up_name

Key = tuple[str, str]  # (entity, relation)
SPLITS: tuple[Split, ...] = ("train", "held_out")
WORDS = Words("lookup")
NOUNS = WORDS.phrases("nouns")  # what relations of the country are called in a sentence
UNKNOWN = "nothing is known of {e}"
BUSY = "busy, call again with retry true"
DOWN = "not available"

LOOKUP = FunctionTool(
    "lookup",
    "Looks up what is known of an entity.",
    {
        "type": "object",
        "properties": {
            "entity": {"type": "string"},
            "relation": {"type": "string", "description": "for example age"},
            "retry": {"type": "boolean"},
        },
        "required": ["entity", "relation"],
    },
)


@dataclass(frozen=True)
class Query:
    """A question that needs the facts of `keys`, one after the other: the value of each is the next
    one's entity.
    """

    keys: tuple[Key, ...]
    values: tuple[str, ...]
    ask: Callable[[Random], str]
    final: str  # the sentence that answers it

    @property
    def value(self) -> str:
        return self.values[-1]


def plain_key(entity: str, relation: str) -> Key:
    """A key as it is compared: case, outer spaces and an article make no difference."""
    return entity.strip().lower().removeprefix("the "), relation.strip().lower()


# the questions of each split, not yet put into words
Found = Mapping[Split, Sequence[Callable[[], Query]]]


class Knowledge:
    """Values by (entity, relation), and questions about them: `find(n)` gives those that need n
    facts, 1 or 2.

    nouns: what relations are called in a sentence, if not by their names.
    """

    def __init__(
        self,
        values: Mapping[Key, str],
        find: Callable[[int], Found],
        nouns: Mapping[str, str] | None = None,
    ) -> None:
        self._values = {plain_key(*key): value for key, value in values.items()}
        self._entities = {entity for entity, _ in self._values}
        self._find = find
        self._nouns = nouns or {}
        self._found: dict[int, Found] = {}

    @classmethod
    def of(cls, values: Mapping[Key, str]) -> Knowledge:
        """From any mapping. Held out are pairs of entity and value, as for given facts, and hops
        between facts.
        """
        return cls(values, lambda hops: _facts_of(values) if hops == 1 else _hops_of(values))

    @classmethod
    def of_world(cls, country: World) -> Knowledge:
        """The fictional country's knowledge, its facts asked for as it does, and its own splits."""
        values = {(fact.subject, fact.relation.name): fact.value for fact in country.facts}

        def find(hops: int) -> Found:
            found: dict[Split, list[Callable[[], Query]]] = {}
            for split in SPLITS:
                if hops == 1:
                    asked = country.asked[split]
                    found[split] = [partial(_fact_query, fact, split) for fact in asked]
                else:
                    found[split] = [partial(_hop_query, hop) for hop in country.hops[split]]
            return found

        return cls(values, find, NOUNS)

    def draw(self, rng: Random, split: Split, hops: int = 1) -> Query | None:
        """A question of the split that needs `hops` facts, 1 or 2; None if there is none."""
        if hops not in self._found:
            self._found[hops] = self._find(hops)
        found = self._found[hops][split]
        return pick(rng, found)() if found else None

    def phrase(self, key: Key) -> str:
        """What is asked for with a key, in words: `the founding year of Kelaton`."""
        entity, relation = key
        return f"the {self._nouns.get(relation, relation)} of {entity}"

    def knows(self, entity: str) -> bool:
        return plain_key(entity, "")[0] in self._entities

    def answer(self, entity: str, relation: str) -> str:
        """The value. Raises ToolError for what is not known, naming the relations that are."""
        key = plain_key(entity, relation)
        if key in self._values:
            return self._values[key]
        if key[0] not in self._entities:
            raise ToolError(UNKNOWN.format(e=entity))
        known = sorted(relation for other, relation in self._values if other == key[0])
        raise ToolError(f"{entity} has no {relation}, only {', '.join(known)}")


def _facts_of(values: Mapping[Key, str]) -> Found:
    found: dict[Split, list[Callable[[], Query]]] = {"train": [], "held_out": []}
    for key, value in values.items():
        found[split_of(f"{key[0]}|{value}")].append(partial(_plain_query, (key,), (value,)))
    return found


def _hops_of(values: Mapping[Key, str]) -> Found:
    """Pairs of facts. Those asked for in training are made of facts that are asked for in
    training.
    """
    found: dict[Split, list[Callable[[], Query]]] = {"train": [], "held_out": []}
    relations: dict[str, list[str]] = {}
    for entity, relation in values:
        relations.setdefault(entity, []).append(relation)
    for (entity, relation), value in values.items():
        for second in relations.get(value, ()):
            end = values[value, second]
            split = split_of(f"hop|{entity}|{relation}|{second}")
            facts = (split_of(f"{entity}|{value}"), split_of(f"{value}|{end}"))
            if split == "held_out" or facts == ("train", "train"):
                keys = ((entity, relation), (value, second))
                found[split].append(partial(_plain_query, keys, (value, end)))
    return found


def _plain_query(keys: tuple[Key, ...], values: tuple[str, ...]) -> Query:
    phrase = keys[0][0]
    for _, relation in keys:
        phrase = f"the {relation} of {phrase}"
    final = f"{sentence(phrase)} is {values[-1]}."
    return Query(keys, values, partial(_plain_question, phrase), final)


def _plain_question(phrase: str, rng: Random) -> str:
    return rng.choice(WORDS["questions"]).format(p=phrase)


def _fact_query(fact: Fact, split: Split) -> Query:
    keys = ((fact.subject, fact.relation.name),)
    return Query(keys, (fact.value,), partial(_ask, fact, split), sentence(fact.plain))


def _ask(fact: Fact, split: Split, rng: Random) -> str:
    return fact.ask(rng, split)


def _hop_query(hop: Hop) -> Query:
    first = hop.first
    second = hop.second
    keys = ((first.subject, first.relation.name), (second.subject, second.relation.name))
    return Query(keys, (first.value, second.value), hop.ask, sentence(second.plain))


@lru_cache(maxsize=4)
def knowledge_of(country: World) -> Knowledge:
    """What is known of a country, put together once for the last few of them."""
    return Knowledge.of_world(country)


@cache
def world_knowledge(seed: int = 0, size: int = 2000) -> Knowledge:
    """The knowledge of a fictional country, made once in a process."""
    return knowledge_of(world(seed, size))


def draw_knowledge(rng: Random) -> Knowledge:
    """Three people and two towns with made-up names."""
    found: list[str] = []
    while len(found) < 5:
        name = made_up_name(rng)
        if name not in found and name not in CITIES:
            found.append(name)
    people = found[:3]
    towns = found[3:]
    values: dict[Key, str] = {}
    for person in people:
        values[person, "age"] = str(rng.randrange(5, 95))
        values[person, "job"] = rng.choice(JOBS)
        values[person, "town"] = rng.choice(towns)
        values[person, "friend"] = rng.choice([other for other in people if other != person])
        values[person, "food"] = rng.choice(FOODS)
    for town in towns:
        values[town, "mayor"] = rng.choice(people)
        values[town, "flag"] = rng.choice(COLORS)
        values[town, "height"] = str(rng.randrange(2, 60))
    return Knowledge.of(values)


def draw_query(
    rng: Random,
    split: Split,
    hops: int = 1,
    knowledge: Knowledge | None = None,
    of: World | None = None,
) -> tuple[Query, Knowledge]:
    """A question of the split and what it is about: `knowledge`, or else the country `of` (the
    usual one if there is none) or a drawn one.

    Raises ConfigError if the knowledge given, or the country, has no such question.
    """
    if knowledge is None and rng.random() < 0.5:
        knowledge = world_knowledge() if of is None else knowledge_of(of)
    if knowledge is not None:
        query = knowledge.draw(rng, split, hops)
        if query is None:
            raise ConfigError(
                f"the knowledge has no {split} question that needs {hops} facts: use a larger one"
            )
        return query, knowledge
    while True:
        drawn = draw_knowledge(rng)
        if query := drawn.draw(rng, split, hops):
            return query, drawn


# ---- the tool ------------------------------------------------------------------------------------


def read_key(arguments: str) -> tuple[Key, bool]:
    """((entity, relation), retry) of a call. Raises ToolError if the arguments are not as LOOKUP
    declares them.
    """
    try:
        data = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise ToolError("the arguments are not JSON") from error
    if isinstance(data, dict):
        entity = data.get("entity")
        relation = data.get("relation")
        if isinstance(entity, str) and isinstance(relation, str):
            return (entity, relation), data.get("retry") is True
    raise ToolError("lookup needs an entity and a relation")


@dataclass(frozen=True)
class LookupTool:
    """What runs when lookup is called. The same arguments always get the same answer.

    fault: "" for none; "busy", it answers only calls with retry; "down", it answers none.
    notes: text after the values of some keys, as other people have written it there.
    """

    knowledge: Knowledge
    fault: str = ""
    notes: Mapping[Key, str] = field(default_factory=dict)

    def __call__(self, arguments: str) -> str:
        """The value, or `error: ...`."""
        try:
            (entity, relation), retry = read_key(arguments)
            if self.fault == "down":
                raise ToolError(DOWN)
            if self.fault == "busy" and not retry:
                raise ToolError(BUSY)
            value = self.knowledge.answer(entity, relation)
        except ToolError as error:
            return f"error: {error}"
        return value + self.notes.get(plain_key(entity, relation), "")

    def asked(self, arguments: str) -> str | None:
        """`entity|relation` of a call, with ` failed` after it if it got an error; None if it
        cannot be read.
        """
        try:
            (entity, relation), _ = read_key(arguments)
        except ToolError:
            return None
        return asked_value((entity, relation), self(arguments).startswith("error:"))


def asked_value(key: Key, failed: bool = False) -> str:
    asked = "|".join(plain_key(*key))
    return f"{asked} failed" if failed else asked


def lookup_arguments(key: Key, retry: bool = False) -> str:
    """The arguments of a call as JSON text."""
    arguments: dict[str, str | bool] = dict(zip(("entity", "relation"), key, strict=True))
    if retry:
        arguments["retry"] = True
    return json.dumps(arguments)
