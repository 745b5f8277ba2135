"""Stories about people and places that exist nowhere else, and many questions on each: the text
alone answers them.

Knows how the country's facts and those of the task "facts" are told and asked; nothing of which are
true. No name of a story is in the world that is handed in, so knowing the country is of no use.
What is held out is the pair (who or what, value), as in the task "facts": no training text tells
it.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from functools import partial
from random import Random

from ossia.tasks.problem import Expect, Problem, Split, Turn, split_of
from ossia.tasks.words import below, pick
from ossia.tasks.world.country import RELATIONS_OF, Fact, bare, new_name, sentence
from ossia.tasks.world.facts import NOT_STATED, draw_facts, fact_thoughts
from ossia.tasks.world.facts import Fact as GivenFact
from ossia.tasks.world.names import NAMES
from ossia.tasks.world.relations import WORDS as FACT_WORDS
from ossia.tasks.world.texts import (
    BETWEEN,
    CLOSINGS,
    FORMS,
    OPENINGS,
    REPORTS,
    WORDS,
    Kind,
    Relation,
)

CAST: tuple[Kind, ...] = ("person",) * 7 + ("town", "river", "company", "animal")
Subject = tuple[str, Relation]
TRIES = 40  # draws of a value for a new fact
ABSENT = 0.12  # share of questions that the text does not answer
BACKWARDS = 0.4  # share of questions that give the value and ask for the subject


@dataclass(frozen=True)
class Asked:
    """A question on a text: what it names, the answer in short and as a sentence, and where the
    text says it.
    """

    question: str
    about: str
    short: str
    full: str
    quote: str


@dataclass(frozen=True)
class Story:
    """A text and what it was made from: facts of the country's relations, or of the task
    "facts".
    """

    text: str
    facts: tuple[Fact | GivenFact, ...]
    quotes: tuple[str, ...]  # the sentence of the text that tells each fact


# ---- stories -------------------------------------------------------------------------------------


def draw_story(rng: Random, known: Container[str], split: Split = "train") -> Story:
    """A story of two to seven facts, the last of them of the given split, the others of
    training's.
    """
    if rng.random() < 0.35:
        return _story_of_the_village(rng, known, split)
    facts = _draw_new_facts(rng, known, split)
    people = [fact.subject for fact in facts if fact.relation.kind == "person"]
    person = people[0] if people else pick(rng, NAMES)
    quotes = tuple(_told(rng, fact, person) for fact in facts)
    return Story(_narrated(rng, quotes, person), tuple(facts), quotes)


def _story_of_the_village(rng: Random, known: Container[str], split: Split) -> Story:
    """Facts of the task "facts", none of which names what the country has."""
    facts = draw_facts(rng, 2 + below(rng, 4), split)
    while any(_names_known(f"{fact.subject} {fact.value}", known) for fact in facts):
        facts = draw_facts(rng, len(facts), split)
    quotes = tuple(fact.told or fact.sentence for fact in facts)
    return Story(_shuffled(rng, quotes), tuple(facts), quotes)


def _draw_new_facts(rng: Random, known: Container[str], split: Split) -> list[Fact]:
    """Facts about a few new names. Some stories keep to one relation, so that only subjects tell
    their facts apart.
    """
    while True:
        kinds = _draw_kinds(rng)
        count = 2 + below(rng, 4)
        cast = {_new(rng, kind, known): kind for kind in kinds[:count]}
        if len(set(kinds)) == 1 and rng.random() < 0.5:
            only = pick(rng, RELATIONS_OF[kinds[0]])
            asked = [(subject, only) for subject in cast]
        else:
            asked = _draw_asked(rng, cast)
        facts: list[Fact] = []
        for n, (subject, relation) in enumerate(asked, 1):
            its = split if n == len(asked) else "train"
            fact = _new_fact(rng, subject, relation, known, its)
            if fact is not None:
                facts.append(fact)
        told = {(fact.relation.name, fact.value) for fact in facts}
        names_another = any(value in cast for _, value in told)
        if len(told) == len(asked) > 1 and not names_another:
            return facts


def _draw_kinds(rng: Random) -> list[Kind]:
    """Five kinds of subjects, in half of the stories all the same."""
    if rng.random() < 0.5:
        return [pick(rng, CAST)] * 5
    return [pick(rng, CAST) for _ in range(5)]


def _draw_asked(rng: Random, cast: dict[str, Kind]) -> list[Subject]:
    """What a story tells: of which new names, and what of them."""
    asked: list[Subject] = []
    for subject, kind in cast.items():
        asked += [(subject, relation) for relation in RELATIONS_OF[kind]]
    rng.shuffle(asked)
    return asked[: 2 + below(rng, 5)]


def _new_fact(
    rng: Random, subject: str, relation: Relation, known: Container[str], split: Split
) -> Fact | None:
    """None if the few values that were tried are all of the other split."""
    kind = relation.leads_to
    for _ in range(TRIES):
        value = _new(rng, kind, known) if kind else pick(rng, relation.values)
        if split_of(f"{subject}|{value}") == split:
            return Fact(relation, subject, value)
    return None


def _new(rng: Random, kind: Kind, known: Container[str]) -> str:
    """A name that the world does not have; people are called Anna and Ben as often as Sefu."""
    if kind == "person" and rng.random() < 0.5:
        return pick(rng, NAMES)
    while True:
        name = new_name(rng, kind, ())
        if name not in known:
            return name


def _names_known(text: str, known: Container[str]) -> bool:
    """Whether a text that was not made for the country happens to name a person or a river of
    it.
    """
    words = [word.capitalize() for word in text.split()]
    return any(word in known or FORMS["river"].format(word) in known for word in words)


def _told(rng: Random, fact: Fact, person: str) -> str:
    clause = fact.tell(rng)
    if rng.random() < 0.1:
        clause = pick(rng, REPORTS).format(p=person, fact=clause)
    return sentence(clause)


def _shuffled(rng: Random, quotes: tuple[str, ...]) -> str:
    parts = [*quotes]
    rng.shuffle(parts)
    return ("\n" if rng.random() < 0.1 else " ").join(parts)


def _narrated(rng: Random, quotes: tuple[str, ...], person: str) -> str:
    """The facts in any order, mostly with something in between that says nothing."""
    if rng.random() < 0.4:
        return _shuffled(rng, quotes)
    parts = [*quotes]
    rng.shuffle(parts)
    for _ in range(below(rng, 3)):
        place = 1 + int(rng.random() * len(parts))
        parts.insert(place, pick(rng, BETWEEN).format(p=person))
    if rng.random() < 0.5:
        parts.insert(0, pick(rng, OPENINGS).format(p=person))
    if rng.random() < 0.2:
        parts.append(pick(rng, CLOSINGS).format(p=person))
    return " ".join(parts)


# ---- questions -----------------------------------------------------------------------------------


def ask(rng: Random, fact: Fact | GivenFact, quote: str, backwards: bool) -> Asked:
    """A question for the fact's value, or for its subject where the fact can be asked backwards."""
    if isinstance(fact, GivenFact):
        subject = fact.relation.article + fact.subject
        full = fact.sentence
        backwards = backwards and bool(fact.relation.reverse)
        frames = fact.relation.reverse if backwards else fact.relation.questions
        question = sentence(pick(rng, frames).format(e=fact.subject, v=fact.value))
    else:
        subject = fact.subject
        full = sentence(fact.plain)
        question = fact.ask_back(rng) if backwards else fact.ask(rng)
    if backwards:
        return Asked(question, fact.value, subject, full, quote)
    return Asked(question, subject, fact.value, full, quote)


def ask_absent(rng: Random, story: Story, known: Container[str]) -> Asked:
    """A question in the words of one of the story's facts about a subject that the story does not
    have.
    """
    fact = pick(rng, story.facts)
    if isinstance(fact, GivenFact):
        relation = fact.relation
        subject = relation.subject(rng)
        while subject in story.text or _names_known(subject, known):
            subject = relation.subject(rng)
        question = sentence(pick(rng, relation.questions).format(e=subject, v=""))
        about = relation.article + subject
    else:
        about = _new(rng, fact.relation.kind, known)
        while bare(about) in story.text:
            about = _new(rng, fact.relation.kind, known)
        question = Fact(fact.relation, about, "").ask(rng)
    return Asked(question, about, NOT_STATED, NOT_STATED, "")


def questions(rng: Random, story: Story, known: Container[str], count: int) -> list[Asked]:
    """Questions on a story, every fact being asked for before one is asked for again."""
    out: list[Asked] = []
    order: list[tuple[Fact | GivenFact, str]] = []
    while len(out) < count:
        if rng.random() < ABSENT:
            out.append(ask_absent(rng, story, known))
            continue
        if not order:
            order = list(zip(story.facts, story.quotes, strict=True))
            rng.shuffle(order)
        fact, quote = order.pop()
        out.append(ask(rng, fact, quote, rng.random() < BACKWARDS))
    return out


def reading_document(rng: Random, known: Container[str]) -> str:
    """A story and four to nine questions on it, answered in short or in sentences."""
    story = draw_story(rng, known)
    frame = pick(rng, WORDS["reading"])
    short = rng.random() < 0.5
    count = max(4, len(story.facts)) + below(rng, 3)
    lines = []
    for asked in questions(rng, story, known, count):
        answer = sentence(f"{asked.short.rstrip('.')}.") if short else asked.full
        lines.append(frame.format(q=asked.question, a=answer))
    return f"{story.text}\n\n" + "\n".join(lines)


def reading_question(known: Container[str], rng: Random, split: Split) -> Problem:
    """A story and one question on it. The pair that is asked for is of the split."""
    story = draw_story(rng, known, split)
    if rng.random() < ABSENT:
        asked = ask_absent(rng, story, known)
        found = ""
        expect = Expect(contains=NOT_STATED)
    else:
        asked = ask(rng, story.facts[-1], story.quotes[-1], rng.random() < BACKWARDS)
        found = asked.short
        expect = Expect(contains=bare(asked.short), excludes=(NOT_STATED,))
    before = pick(rng, FACT_WORDS["before"])
    user = before + story.text + pick(rng, FACT_WORDS["between"])
    if user.endswith(", "):
        user = user[:-2].removesuffix(" Now").removesuffix(" So") + " "
    think = partial(fact_thoughts, asked.about, found, asked.quote)
    turn = Turn(user + asked.question, asked.full, think)
    return Problem("reading", split, (turn,), expect)
