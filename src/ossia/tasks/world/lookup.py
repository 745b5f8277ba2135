"""The lookup tool: the knowledge behind it, questions that need it, and its answers.

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
from ossia.tasks.words import Words, pick, sentence
from ossia.tasks.world.country import Fact, Hop, World, world
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
    """A question that needs the facts of `keys`, in this order.

    The value of each is the entity of the next.
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
    plain_entity = entity.strip().lower()
    plain_relation = relation.strip().lower()
    return plain_entity.removeprefix("the "), plain_relation


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
        self._values: dict[Key, str] = {}
        for (entity, relation), value in values.items():
            key = plain_key(entity, relation)
            self._values[key] = value
        self._entities = {entity for entity, _ in self._values}
        self._find = find
        self._nouns = nouns or {}
        self._found: dict[int, Found] = {}

    @classmethod
    def of(cls, values: Mapping[Key, str]) -> Knowledge:
        """From any mapping.

        Held out are pairs of entity and value, as for given facts, and hops between facts.
        """

        def find(hops: int) -> Found:
            if hops == 1:
                return _facts_of(values)
            return _hops_of(values)

        return cls(values, find)

    @classmethod
    def of_world(cls, country: World) -> Knowledge:
        """The fictional country's knowledge, its facts asked for as it does, and its own splits."""
        values = {}
        for fact in country.facts:
            values[fact.subject, fact.relation.name] = fact.value

        def find(hops: int) -> Found:
            found = _nothing_found()
            for split in SPLITS:
                if hops == 1:
                    for fact in country.asked[split]:
                        found[split].append(partial(_fact_query, fact, split))
                else:
                    for hop in country.hops[split]:
                        found[split].append(partial(_hop_query, hop))
            return found

        return cls(values, find, NOUNS)

    def draw(self, rng: Random, split: Split, hops: int = 1) -> Query | None:
        """A question of the split that needs `hops` facts, 1 or 2; None if there is none."""
        if hops not in self._found:
            self._found[hops] = self._find(hops)
        found = self._found[hops][split]
        if not found:
            return None
        query = pick(rng, found)
        return query()

    def phrase(self, key: Key) -> str:
        """A key in words: `the founding year of Kelaton`."""
        entity, relation = key
        noun = self._nouns.get(relation, relation)
        return f"the {noun} of {entity}"

    def knows(self, entity: str) -> bool:
        key = plain_key(entity, "")
        return key[0] in self._entities

    def answer(self, entity: str, relation: str) -> str:
        """The value. Raises ToolError if it is not known, naming the relations that are."""
        key = plain_key(entity, relation)
        if key in self._values:
            return self._values[key]
        if key[0] not in self._entities:
            raise ToolError(UNKNOWN.format(e=entity))
        known = []
        for other, one in self._values:
            if other == key[0]:
                known.append(one)
        listed = ", ".join(sorted(known))
        raise ToolError(f"{entity} has no {relation}, only {listed}")


def _facts_of(values: Mapping[Key, str]) -> Found:
    found = _nothing_found()
    for key, value in values.items():
        split = split_of(f"{key[0]}|{value}")
        query = partial(_plain_query, (key,), (value,))
        found[split].append(query)
    return found


def _nothing_found() -> dict[Split, list[Callable[[], Query]]]:
    return {"train": [], "held_out": []}


def _hops_of(values: Mapping[Key, str]) -> Found:
    """Pairs of facts. In training, both facts are ones that training asks for."""
    found = _nothing_found()
    relations: dict[str, list[str]] = {}
    for entity, relation in values:
        relations.setdefault(entity, []).append(relation)
    for (entity, relation), value in values.items():
        first = split_of(f"{entity}|{value}")
        for next_relation in relations.get(value, ()):
            end = values[value, next_relation]
            second = split_of(f"{value}|{end}")
            split = split_of(f"hop|{entity}|{relation}|{next_relation}")
            if split == "train" and "held_out" in (first, second):
                continue
            keys = ((entity, relation), (value, next_relation))
            query = partial(_plain_query, keys, (value, end))
            found[split].append(query)
    return found


def _plain_query(keys: tuple[Key, ...], values: tuple[str, ...]) -> Query:
    phrase = keys[0][0]
    for _, relation in keys:
        phrase = f"the {relation} of {phrase}"
    ask = partial(_plain_question, phrase)
    final = f"{sentence(phrase)} is {values[-1]}."
    return Query(keys, values, ask, final)


def _plain_question(phrase: str, rng: Random) -> str:
    question = rng.choice(WORDS["questions"])
    return question.format(p=phrase)


def _fact_query(fact: Fact, split: Split) -> Query:
    key = (fact.subject, fact.relation.name)
    ask = partial(_ask, fact, split)
    final = sentence(fact.plain)
    return Query((key,), (fact.value,), ask, final)


def _ask(fact: Fact, split: Split, rng: Random) -> str:
    return fact.ask(rng, split)


def _hop_query(hop: Hop) -> Query:
    keys = []
    values = []
    for fact in (hop.first, hop.second):
        keys.append((fact.subject, fact.relation.name))
        values.append(fact.value)
    final = sentence(hop.second.plain)
    return Query(tuple(keys), tuple(values), hop.ask, final)


@lru_cache(maxsize=4)
def knowledge_of(country: World) -> Knowledge:
    """The knowledge of a country; the last few are kept."""
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
        others = [other for other in people if other != person]
        age = rng.randrange(5, 95)
        values[person, "age"] = str(age)
        values[person, "job"] = rng.choice(JOBS)
        values[person, "town"] = rng.choice(towns)
        values[person, "friend"] = rng.choice(others)
        values[person, "food"] = rng.choice(FOODS)
    for town in towns:
        values[town, "mayor"] = rng.choice(people)
        values[town, "flag"] = rng.choice(COLORS)
        height = rng.randrange(2, 60)
        values[town, "height"] = str(height)
    return Knowledge.of(values)


def draw_query(
    rng: Random,
    split: Split,
    hops: int = 1,
    knowledge: Knowledge | None = None,
    of: World | None = None,
) -> tuple[Query, Knowledge]:
    """A question of the split and the knowledge that it needs.

    That is `knowledge`, or else the country `of` (the usual one if there is none) or a drawn one.
    Raises ConfigError if the knowledge given, or the country, has no such question.
    """
    if knowledge is None and rng.random() < 0.5:
        if of is None:
            knowledge = world_knowledge()
        else:
            knowledge = knowledge_of(of)
    if knowledge is not None:
        query = knowledge.draw(rng, split, hops)
        if query is None:
            raise ConfigError(
                f"the knowledge has no {split} question that needs {hops} facts: use a larger one"
            )
        return query, knowledge
    while True:
        drawn = draw_knowledge(rng)
        query = drawn.draw(rng, split, hops)
        if query is not None:
            return query, drawn


# ---- the tool ------------------------------------------------------------------------------------


def read_key(arguments: str) -> tuple[Key, bool]:
    """((entity, relation), retry) of a call. Raises ToolError if they do not fit LOOKUP."""
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
    """Runs the calls of lookup. The same arguments always get the same answer.

    fault: "" for none; "busy", it answers only calls with retry; "down", it answers none.
    notes: text after the values of some keys, as if other people had written it there.
    """

    knowledge: Knowledge
    fault: str = ""
    notes: Mapping[Key, str] = field(default_factory=dict)

    def __call__(self, arguments: str) -> str:
        """The value, or `error: ...`."""
        try:
            key, retry = read_key(arguments)
            if self.fault == "down":
                raise ToolError(DOWN)
            if self.fault == "busy" and not retry:
                raise ToolError(BUSY)
            value = self.knowledge.answer(*key)
        except ToolError as error:
            return f"error: {error}"
        note = self.notes.get(plain_key(*key), "")
        return value + note

    def asked(self, arguments: str) -> str | None:
        """The call as `asked_value` has it; None if it cannot be read."""
        try:
            key, _ = read_key(arguments)
        except ToolError:
            return None
        failed = self(arguments).startswith("error:")
        return asked_value(key, failed)


def asked_value(key: Key, failed: bool = False) -> str:
    """`entity|relation`, with ` failed` after it if the call got an error."""
    asked = "|".join(plain_key(*key))
    if failed:
        return f"{asked} failed"
    return asked


def lookup_arguments(key: Key, retry: bool = False) -> str:
    """The arguments of a call as JSON text."""
    entity, relation = key
    arguments: dict[str, str | bool] = {"entity": entity, "relation": relation}
    if retry:
        arguments["retry"] = True
    return json.dumps(arguments)
