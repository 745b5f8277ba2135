"""The fictional country: a consistent knowledge base of people, towns, rivers, companies, animals,
six facts on each.

Knows `texts` and how facts are told, asked for and held out; does not know messages, problems or
documents. A world is a pure function of (seed, size).

Held out, for ever and in every world of any seed, are:
- templates: the last ones of every list of `Relation` (the model meets the fact, but never in these
  words);
- questions: facts with `asked_split(...) == "held_out"` are told, but no training text asks for
  them;
- hops: pairs of facts with `hop_split(...) == "held_out"` are never asked for in one question, nor
  told together by a story. Both facts of any hop are asked for in training, so that only the step
  from one to the other is new.
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
from ossia.tasks.words import pick, sentence
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
Entities = Mapping[Kind, tuple[str, ...]]
_Item = TypeVar("_Item")


def bare(text: str) -> str:
    """An entity or value without its article: the words that an answer must contain."""
    return text.removeprefix("the ")


@dataclass(frozen=True)
class Fact:
    """That `relation` of `subject` is `value`, with their articles (`the Selo river`)."""

    relation: Relation
    subject: str
    value: str

    def tell(self, rng: Random, split: Split = "train") -> str:
        """A statement without its capital letter; for `held_out`, in a held-out template."""
        told = self.relation.told
        template = templates(told, TOLD_HELD_OUT, split, rng)
        return template.format(e=self.subject, v=self.value)

    def ask(self, rng: Random, split: Split = "train") -> str:
        """A question for the value."""
        asked = self.relation.asked
        template = templates(asked, ASKED_HELD_OUT, split, rng)
        return sentence(template.format(e=self.subject))

    def ask_back(self, rng: Random, split: Split = "train") -> str:
        """A question for the subject."""
        back = self.relation.back
        template = templates(back, BACK_HELD_OUT, split, rng)
        return sentence(template.format(v=self.value))

    @property
    def plain(self) -> str:
        """The statement in its first wording."""
        template = self.relation.told[0]
        return template.format(e=self.subject, v=self.value)


def templates(texts: Sequence[_Item], held_out: int, split: Split, rng: Random) -> _Item:
    """One of the templates of a split: the last `held_out` of a list are the held-out ones."""
    kept = len(texts) - held_out
    if split == "train":
        return pick(rng, texts[:kept])
    return pick(rng, texts[kept:])


def asked_split(subject: str, relation: Relation) -> Split:
    return split_of(f"ask|{subject}|{relation.name}")


def hop_split(first: Fact, second: Fact) -> Split:
    return split_of(f"hop|{first.subject}|{first.relation.name}|{second.relation.name}")


@dataclass(frozen=True)
class Hop:
    """Two facts. The value of the first is the subject of the second."""

    first: Fact
    second: Fact

    def ask(self, rng: Random) -> str:
        """A question for the second's value that does not name the entity between them."""
        phrase = self.first.relation.phrase
        through = phrase.format(e=self.first.subject)
        which = rng.random() < 0.5
        template = self.second.relation.asked[which]
        return sentence(template.format(e=through))


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
    """Words that may not become names, in lower case: of the templates, values and other tasks."""
    texts: list[str] = []
    for relation in RELATIONS:
        texts += relation.told
        texts += relation.asked
        texts += relation.back
        texts += relation.values
        texts.append(relation.phrase)
    stories = (OPENINGS, BETWEEN, REPORTS, CLOSINGS)
    for words in (*LISTS.values(), *stories, *OTHER_NAMES):
        texts += words
    joined = " ".join(texts).lower()
    letters = [c if c.isalpha() else " " for c in joined]
    found = "".join(letters).split()
    return frozenset(found)


def new_name(rng: Random, kind: Kind, taken: Collection[str]) -> str:
    """A made-up entity of a kind, with its article, that is not in `taken`."""
    while True:
        first = pick(rng, SYLLABLES)
        second = pick(rng, SYLLABLES)
        word = first + second
        if first == second or word in reserved_words():
            continue
        word += pick(rng, ENDINGS[kind])
        if kind != "animal":
            word = word.capitalize()
        name = FORMS[kind].format(word)
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
            about = self._facts.setdefault(fact.subject, {})
            about[fact.relation.name] = fact
            said = _said(fact)
            self._shared[said] += 1

    @cached_property
    def names(self) -> tuple[str, ...]:
        names: list[str] = []
        for kind in KINDS:
            names += self.entities[kind]
        return tuple(names)

    def about(self, entity: str) -> Mapping[str, Fact]:
        """The six facts on an entity, by the relation's name. KeyError for an unknown one."""
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
        found = []
        for fact in self.facts:
            split = asked_split(fact.subject, fact.relation)
            found.append((split, fact))
        return _by_split(found)

    @cached_property
    def hops(self) -> Mapping[Split, tuple[Hop, ...]]:
        """Pairs of facts for one question, whose answer is never the first one's subject."""
        train = set(self.asked["train"])
        found = []
        for first in self.asked["train"]:
            if not first.relation.leads_to:
                continue
            for second in self._facts[first.value].values():
                if second.value != first.subject and second in train:
                    split = hop_split(first, second)
                    found.append((split, Hop(first, second)))
        return _by_split(found)

    def values_of(self, relation: Relation) -> tuple[str, ...]:
        """All that a relation can have, without articles."""
        pool = _pool(relation, self.entities)
        return _all_bare(pool)

    def wrong_values(self, rng: Random, fact: Fact, count: int = 3) -> list[str]:
        """Different values that the relation can have, none of them the fact's."""
        pool = _pool(fact.relation, self.entities)
        taken = {fact.value, fact.subject}
        found: list[str] = []
        while len(found) < count:
            value = pick(rng, pool)
            if value not in taken:
                found.append(value)
                taken.add(value)
        return found


def _said(fact: Fact) -> tuple[Kind, str, str]:
    """The fact without its subject."""
    return fact.relation.kind, fact.relation.name, fact.value


def _by_split(items: Iterable[tuple[Split, _Item]]) -> Mapping[Split, tuple[_Item, ...]]:
    train: list[_Item] = []
    held_out: list[_Item] = []
    for split, item in items:
        if split == "train":
            train.append(item)
        else:
            held_out.append(item)
    return {"train": tuple(train), "held_out": tuple(held_out)}


def _entities(rng: Random, size: int) -> Entities:
    counts = {}
    for kind in KINDS:
        counts[kind] = int(size * SHARES[kind])
    counts["person"] -= counts["person"] % 2  # best friends come in pairs
    counts["animal"] += size - sum(counts.values())
    out: dict[Kind, tuple[str, ...]] = {}
    for kind in KINDS:
        found: dict[str, None] = {}
        while len(found) < counts[kind]:
            found[new_name(rng, kind, found)] = None
        out[kind] = tuple(found)
    return out


def _pool(relation: Relation, entities: Entities) -> tuple[str, ...]:
    """The values that a relation can have."""
    if relation.leads_to:
        return entities[relation.leads_to]
    return relation.values


@cache
def _all_bare(pool: tuple[str, ...]) -> tuple[str, ...]:
    """Of a pool, each time the same object."""
    return tuple(map(bare, pool))


def _facts(rng: Random, entities: Entities) -> Iterator[Fact]:
    """Values drawn at random, then corrected by the world's rules."""
    values: dict[str, dict[str, str]] = {}  # by subject and relation
    for kind in KINDS:
        for subject in entities[kind]:
            values[subject] = {}
            for relation in RELATIONS_OF[kind]:
                pool = _pool(relation, entities)
                values[subject][relation.name] = pick(rng, pool)
    _make_consistent(rng, entities, values)
    for kind in KINDS:
        for subject in entities[kind]:
            for relation in RELATIONS_OF[kind]:
                value = values[subject][relation.name]
                yield Fact(relation, subject, value)


def _make_consistent(rng: Random, entities: Entities, values: dict[str, dict[str, str]]) -> None:
    """Set the values that the rules of `World` decide."""
    people = list(entities["person"])
    rng.shuffle(people)
    for n, person in enumerate(people):
        values[person]["friend"] = people[n ^ 1]
    for town, person in zip(entities["town"], people, strict=False):
        values[town]["mayor"] = person
        values[person]["home"] = town
    for company, person in zip(entities["company"], reversed(people), strict=False):
        values[company]["owner"] = person
        values[person]["company"] = company
    rivers = entities["river"]
    sources = rng.sample(entities["town"], len(rivers))
    for river, town in zip(rivers, sources, strict=True):
        values[river]["source"] = town
        values[town]["river"] = river


@cache
def world(seed: int = 0, size: int = 2000) -> World:
    """The world of a seed and size, made once in a process (0.1 s for 2,000 entities)."""
    return World(seed, size)
