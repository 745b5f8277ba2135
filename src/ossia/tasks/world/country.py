"""The fictional country: a consistent knowledge base of people, towns, rivers, companies, animals,
six facts on each.

Knows `texts` and how facts are told, asked for and held out; nothing of messages, problems or
documents. A world is a pure function of (seed, size).

What is held out, for ever and in every world of any seed:
- templates: the last ones of every list of `Relation` (the model meets the fact, but never so
  worded);
- questions: facts with `asked_split(...) == "held_out"` are told, but no training text asks for
  them;
- hops: pairs of facts with `hop_split(...) == "held_out"` are never asked for in one question, nor
  gone over by a story. Both facts of any hop are asked for in training, so that only the step from
  one to the other is new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from random import Random
from typing import TypeVar

from ossia.errors import ConfigError
from ossia.tasks.problem import Split, split_of
from ossia.tasks.words import pick as pick
from ossia.tasks.world import names
from ossia.tasks.world.texts import (
    ASKED_HELD_OUT,
    BACK_HELD_OUT,
    BETWEEN,
    CLOSINGS,
    ENDINGS,
    FORMS,
    KINDS,
    LISTS,
    OPENINGS,
    RELATIONS,
    REPORTS,
    SYLLABLES,
    TOLD_HELD_OUT,
    Kind,
    Relation,
)

SHARES: Mapping[Kind, float] = {
    "person": 0.5,
    "town": 0.15,
    "river": 0.1,
    "company": 0.125,
    "animal": 0.125,
}
SMALLEST = 40  # entities: four of each kind are needed for four choices
LARGEST = 8000  # names run out
RELATIONS_OF: Mapping[Kind, tuple[Relation, ...]] = {
    kind: tuple(relation for relation in RELATIONS if relation.kind == kind) for kind in KINDS
}
RELATION: Mapping[tuple[Kind, str], Relation] = {(r.kind, r.name): r for r in RELATIONS}
_Item = TypeVar("_Item")


def sentence(clause: str) -> str:
    return clause[0].upper() + clause[1:]


def bare(text: str) -> str:
    """An entity or value without its article: what an answer must hold."""
    return text.removeprefix("the ")


@dataclass(frozen=True)
class Fact:
    """That `relation` of `subject` is `value`, all as they stand in a text (`the Selo river`)."""

    relation: Relation
    subject: str
    value: str

    def tell(self, rng: Random, split: Split = "train") -> str:
        """A statement without its capital letter; of the held-out templates for `held_out`."""
        template = templates(self.relation.told, TOLD_HELD_OUT, split, rng)
        return template.format(e=self.subject, v=self.value)

    def ask(self, rng: Random, split: Split = "train") -> str:
        """A question for the value."""
        template = templates(self.relation.asked, ASKED_HELD_OUT, split, rng)
        return sentence(template.format(e=self.subject))

    def ask_back(self, rng: Random, split: Split = "train") -> str:
        """A question for the subject."""
        template = templates(self.relation.back, BACK_HELD_OUT, split, rng)
        return sentence(template.format(v=self.value))

    @property
    def plain(self) -> str:
        """The statement in its first wording."""
        return self.relation.told[0].format(e=self.subject, v=self.value)


def templates(texts: Sequence[_Item], held_out: int, split: Split, rng: Random) -> _Item:
    """One of the templates of a split: the last `held_out` of a list are the held-out ones."""
    kept = len(texts) - held_out
    return pick(rng, texts[:kept] if split == "train" else texts[kept:])


def asked_split(subject: str, relation: Relation) -> Split:
    return split_of(f"ask|{subject}|{relation.name}")


def hop_split(first: Fact, second: Fact) -> Split:
    return split_of(f"hop|{first.subject}|{first.relation.name}|{second.relation.name}")


@dataclass(frozen=True)
class Hop:
    """Two facts, the value of the first being the subject of the second."""

    first: Fact
    second: Fact

    def ask(self, rng: Random) -> str:
        """A question for the second's value that does not name what lies between."""
        through = self.first.relation.phrase.format(e=self.first.subject)
        return sentence(self.second.relation.asked[rng.random() < 0.5].format(e=through))


OTHER_NAMES = (
    names.NAMES,
    names.CITIES,
    names.THINGS,
    names.COLORS,
    names.CONTAINERS,
    names.ROOMS,
    names.FOODS,
    names.JOBS,
    names.ANIMALS,
    names.DAYS,
    names.COUNTABLE,
)


# ---- names ---------------------------------------------------------------------------------------


@cache
def reserved_words() -> frozenset[str]:
    """Words that are no names, in lower case: those of the templates, of the values and of the
    other tasks.
    """
    texts: list[str] = []
    for relation in RELATIONS:
        texts += (*relation.told, *relation.asked, *relation.back, *relation.values)
        texts.append(relation.phrase)
    stories = (OPENINGS, BETWEEN, REPORTS, CLOSINGS)
    for words in (*LISTS.values(), *stories, *OTHER_NAMES):
        texts += words
    letters = [c if c.isalpha() else " " for c in " ".join(texts).lower()]
    return frozenset("".join(letters).split())


def new_name(rng: Random, kind: Kind, taken: Collection[str]) -> str:
    """A made-up entity of a kind, as it stands in a text, that is not in `taken`."""
    while True:
        first = pick(rng, SYLLABLES)
        second = pick(rng, SYLLABLES)
        word = first + second
        if first == second or word in reserved_words():
            continue
        word += pick(rng, ENDINGS[kind])
        name = FORMS[kind].format(word if kind == "animal" else word.capitalize())
        if name not in taken:
            return name


# ---- the knowledge base --------------------------------------------------------------------------


class World:
    """Everything that is true in the country. `entities[kind]` and `facts` are tuples in a fixed
    order.

    Consistent: a mayor lives in the town, an owner works for the company, best friends are each
    other's, a river begins near a town that lies on it, and companies are younger than towns.
    Raises ConfigError for a size out of bounds.
    """

    def __init__(self, seed: int = 0, size: int = 2000) -> None:
        if not SMALLEST <= size <= LARGEST:
            raise ConfigError(
                f"a world has {SMALLEST} to {LARGEST} entities, not {size}: choose another size"
            )
        self.seed = seed
        self.size = size
        rng = Random(f"world:{seed}:{size}")
        self.entities = _entities(rng, size)
        self.facts = tuple(_facts(rng, self.entities))
        self._facts: dict[str, dict[str, Fact]] = {}
        self._shared: Counter[tuple[Kind, str, str]] = Counter()
        for fact in self.facts:
            self._facts.setdefault(fact.subject, {})[fact.relation.name] = fact
            self._shared[_said(fact)] += 1

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(name for kind in KINDS for name in self.entities[kind])

    def about(self, entity: str) -> Mapping[str, Fact]:
        """The six facts on an entity, by the relation's name. KeyError for what is not in the
        world.
        """
        return self._facts[entity]

    def __contains__(self, entity: object) -> bool:
        return entity in self._facts

    def value(self, entity: str, relation: str) -> str:
        return self._facts[entity][relation].value

    def is_only(self, fact: Fact) -> bool:
        """Whether no other subject has the fact's value, so that it can be asked for backwards."""
        return self._shared[_said(fact)] == 1

    @cached_property
    def asked(self) -> Mapping[Split, tuple[Fact, ...]]:
        """The facts of each split of questions."""
        return _by_split((asked_split(fact.subject, fact.relation), fact) for fact in self.facts)

    @cached_property
    def hops(self) -> Mapping[Split, tuple[Hop, ...]]:
        """Pairs of facts to be asked for in one question; never with the first's subject as its
        answer.
        """
        train = set(self.asked["train"])
        found = []
        for first in self.asked["train"]:
            if first.relation.leads_to:
                for second in self._facts[first.value].values():
                    if second.value != first.subject and second in train:
                        found.append((hop_split(first, second), Hop(first, second)))
        return _by_split(found)

    def wrong_values(self, rng: Random, fact: Fact, count: int = 3) -> list[str]:
        """Different values that the relation can have, none of them the fact's."""
        pool = _pool(fact.relation, self.entities)
        found: list[str] = []
        while len(found) < count:
            value = pick(rng, pool)
            if value != fact.value and value not in found and value != fact.subject:
                found.append(value)
        return found


def _said(fact: Fact) -> tuple[Kind, str, str]:
    """What a fact says, whatever its subject."""
    return fact.relation.kind, fact.relation.name, fact.value


def _by_split(items: Iterable[tuple[Split, _Item]]) -> Mapping[Split, tuple[_Item, ...]]:
    out: dict[Split, list[_Item]] = {"train": [], "held_out": []}
    for split, item in items:
        out[split].append(item)
    return {split: tuple(found) for split, found in out.items()}


def _entities(rng: Random, size: int) -> Mapping[Kind, tuple[str, ...]]:
    counts = {kind: int(size * SHARES[kind]) for kind in KINDS}
    counts["person"] -= counts["person"] % 2  # best friends come in pairs
    counts["animal"] += size - sum(counts.values())
    out: dict[Kind, tuple[str, ...]] = {}
    for kind in KINDS:
        found: dict[str, None] = {}
        while len(found) < counts[kind]:
            found[new_name(rng, kind, found)] = None
        out[kind] = tuple(found)
    return out


def _pool(relation: Relation, entities: Mapping[Kind, tuple[str, ...]]) -> tuple[str, ...]:
    """What a relation's value may be."""
    return entities[relation.leads_to] if relation.leads_to else relation.values


def _facts(rng: Random, entities: Mapping[Kind, tuple[str, ...]]) -> Iterator[Fact]:
    """Values drawn at random, then what the world's rules ask for."""
    values: dict[tuple[Kind, str, str], str] = {}  # by kind, relation and subject
    for kind in KINDS:
        for subject in entities[kind]:
            for relation in RELATIONS_OF[kind]:
                values[kind, relation.name, subject] = pick(rng, _pool(relation, entities))
    people = list(entities["person"])
    rng.shuffle(people)
    for n, person in enumerate(people):
        values["person", "friend", person] = people[n ^ 1]
    for town, person in zip(entities["town"], people, strict=False):
        values["town", "mayor", town] = person
        values["person", "home", person] = town
    for company, person in zip(entities["company"], reversed(people), strict=False):
        values["company", "owner", company] = person
        values["person", "company", person] = company
    rivers = entities["river"]
    for river, town in zip(rivers, rng.sample(entities["town"], len(rivers)), strict=True):
        values["river", "source", river] = town
        values["town", "river", town] = river
    for (kind, name, subject), value in values.items():
        yield Fact(RELATION[kind, name], subject, value)


@cache
def world(seed: int = 0, size: int = 2000) -> World:
    """The world of a seed and size, made once in a process (0.1 s for 2,000 entities)."""
    return World(seed, size)
