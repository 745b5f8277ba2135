"""The fictional country: a consistent knowledge base of people, towns, rivers, companies, animals,
six facts on each.

Knows `world_texts` and how facts are told, asked for and held out; nothing of messages, problems or
documents. A world is a pure function of (seed, size).

What is held out, for ever and in every world of any seed:
- templates: the last ones of every list of `Relation` (the model meets the fact, but never so worded);
- questions: facts with `asked_split(...) == "held_out"` are told, but no training text asks for them;
- hops: pairs of facts with `hop_split(...) == "held_out"` are never asked for in one question, nor gone over by a
  story. Both facts of any hop are of those that are asked for in training, so that only the step from one to
  the other is new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from random import Random
from typing import TypeVar

from ossia.errors import ConfigError
from ossia.tasks.problem import Split, split_of
from ossia.tasks.world import names
from ossia.tasks.world.texts import (
    ASKED_HELD_OUT,
    BACK_HELD_OUT,
    BETWEEN,
    CLOSINGS,
    ENDINGS,
    FOODS,
    FORMS,
    GOODS,
    JOBS,
    KINDS,
    MONTHS,
    OPENINGS,
    PLACES,
    RELATIONS,
    REPORTS,
    SEAS,
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
SMALLEST, LARGEST = (
    40,
    8000,
)  # entities: four of each kind are needed for four choices; names run out
RELATIONS_OF: Mapping[Kind, tuple[Relation, ...]] = {
    k: tuple(r for r in RELATIONS if r.kind == k) for k in KINDS
}
RELATION: Mapping[tuple[Kind, str], Relation] = {(r.kind, r.name): r for r in RELATIONS}
_Item = TypeVar("_Item")


def pick(rng: Random, items: Sequence[_Item]) -> _Item:
    """`rng.choice`, three times as fast."""
    return items[int(rng.random() * len(items))]


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
        return templates(self.relation.told, TOLD_HELD_OUT, split, rng).format(
            e=self.subject, v=self.value
        )

    def ask(self, rng: Random, split: Split = "train") -> str:
        """A question for the value."""
        return sentence(
            templates(self.relation.asked, ASKED_HELD_OUT, split, rng).format(e=self.subject)
        )

    def ask_back(self, rng: Random, split: Split = "train") -> str:
        """A question for the subject."""
        return sentence(
            templates(self.relation.back, BACK_HELD_OUT, split, rng).format(v=self.value)
        )

    @property
    def plain(self) -> str:
        """The statement in its first wording."""
        return self.relation.told[0].format(e=self.subject, v=self.value)


def templates(texts: Sequence[str], held_out: int, split: Split, rng: Random) -> str:
    """One of the templates of a split: the last `held_out` of a list are the held-out ones."""
    kept = len(texts) - held_out
    return (
        texts[int(rng.random() * kept)]
        if split == "train"
        else texts[kept + int(rng.random() * held_out)]
    )


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


# ---- names ---------------------------------------------------------------------------------------


@cache
def reserved_words() -> frozenset[str]:
    """Words that are no names, in lower case: those of the templates, of the values and of the
    other tasks.
    """
    texts = [t for r in RELATIONS for t in (*r.told, *r.asked, *r.back, *r.values, r.phrase)]
    lists = (JOBS, FOODS, GOODS, PLACES, SEAS, MONTHS, OPENINGS, BETWEEN, REPORTS, CLOSINGS)
    texts += [text for words in lists for text in words]
    others = (
        names.NAMES,
        names.CITIES,
        names.THINGS,
        names.COLORS,
        names.CONTAINERS,
        names.ROOMS,
        names.FOODS,
    )
    texts += [
        text
        for words in (*others, names.JOBS, names.ANIMALS, names.DAYS, names.COUNTABLE)
        for text in words
    ]
    return frozenset("".join([c if c.isalpha() else " " for c in " ".join(texts).lower()]).split())


def new_name(rng: Random, kind: Kind, taken: Collection[str]) -> str:
    """A made-up entity of a kind, as it stands in a text, that is not in `taken`."""
    while True:
        first, second = pick(rng, SYLLABLES), pick(rng, SYLLABLES)
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
        self.seed, self.size = seed, size
        rng = Random(f"world:{seed}:{size}")
        self.entities = _entities(rng, size)
        values = _values(rng, self.entities)
        self.facts = tuple(
            Fact(RELATION[kind, name], e, v) for (kind, name, e), v in values.items()
        )
        self._facts: dict[str, dict[str, Fact]] = {}
        for fact in self.facts:
            self._facts.setdefault(fact.subject, {})[fact.relation.name] = fact
        self._shared = Counter(
            (fact.relation.kind, fact.relation.name, fact.value) for fact in self.facts
        )

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
        return self._shared[fact.relation.kind, fact.relation.name, fact.value] == 1

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
        firsts = [fact for fact in self.asked["train"] if fact.relation.leads_to]
        found = [
            (a, b)
            for a in firsts
            for b in self._facts[a.value].values()
            if b.value != a.subject and b in train
        ]
        return _by_split((hop_split(a, b), Hop(a, b)) for a, b in found)

    def wrong_values(self, rng: Random, fact: Fact, count: int = 3) -> list[str]:
        """Different values that the relation can have, none of them the fact's."""
        pool = (
            self.entities[fact.relation.leads_to]
            if fact.relation.leads_to
            else fact.relation.values
        )
        found: list[str] = []
        while len(found) < count:
            value = pick(rng, pool)
            if value != fact.value and value not in found and value != fact.subject:
                found.append(value)
        return found


def _by_split(items: Iterator[tuple[Split, _Item]]) -> Mapping[Split, tuple[_Item, ...]]:
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


def _values(
    rng: Random, entities: Mapping[Kind, tuple[str, ...]]
) -> dict[tuple[Kind, str, str], str]:
    """(kind, relation, subject) -> value: drawn at random, then what the world's rules ask for."""
    values = {
        (relation.kind, relation.name, e): pick(
            rng, entities[relation.leads_to] if relation.leads_to else relation.values
        )
        for kind in KINDS
        for e in entities[kind]
        for relation in RELATIONS_OF[kind]
    }
    people = list(entities["person"])
    rng.shuffle(people)
    for n, e in enumerate(people):
        values["person", "friend", e] = people[n ^ 1]
    for town, e in zip(entities["town"], people, strict=False):
        values["town", "mayor", town], values["person", "home", e] = e, town
    for company, e in zip(entities["company"], reversed(people), strict=False):
        values["company", "owner", company], values["person", "company", e] = e, company
    for river, town in zip(
        entities["river"], rng.sample(entities["town"], len(entities["river"])), strict=True
    ):
        values["river", "source", river], values["town", "river", town] = town, river
    return values


@cache
def world(seed: int = 0, size: int = 2000) -> World:
    """The world of a seed and size, made once in a process (0.1 s for 2,000 entities)."""
    return World(seed, size)
