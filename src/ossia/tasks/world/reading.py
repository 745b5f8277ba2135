"""Stories about people and places that exist nowhere else, and many questions on each: the text
alone answers them.

Knows how the facts of the country and of the task "facts" are told and asked, not which are true.
No name of a story is in the given world, so knowing the country does not help. Held out are pairs
of (who or what, value), as in the task "facts": no training text tells one.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from ossia.tasks.problem import Expect, Problem, Split, Turn, split_of
from ossia.tasks.words import below, pick, sentence
from ossia.tasks.world.country import RELATIONS_OF, Fact, bare, new_name
from ossia.tasks.world.facts import NOT_STATED, draw_facts, fact_thoughts, shuffled_text
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
    """A question on a text, what it names, its answer in short and as a sentence, and its source.

    `quote` is the sentence of the text that answers it.
    """

    question: str
    about: str
    short: str
    full: str
    quote: str


@dataclass(frozen=True)
class Story:
    """A text and the facts that it tells: the country's or those of the task "facts"."""

    text: str
    facts: tuple[Fact | GivenFact, ...]
    quotes: tuple[str, ...]  # the sentence of the text that tells each fact


# ---- stories -------------------------------------------------------------------------------------


def draw_story(rng: Random, known: Container[str], split: Split = "train") -> Story:
    """A story of two to seven facts. The last one is of the given split, the others of training."""
    if rng.random() < 0.35:
        return _story_of_the_village(rng, known, split)
    facts = _draw_new_facts(rng, known, split)
    person = _first_person(facts) or pick(rng, NAMES)
    quotes = []
    for fact in facts:
        clause = fact.tell(rng)
        if rng.random() < 0.1:
            report = pick(rng, REPORTS)
            clause = report.format(p=person, fact=clause)
        quotes.append(sentence(clause))
    text = _narrated(rng, quotes, person)
    return Story(text, tuple(facts), tuple(quotes))


def _first_person(facts: list[Fact]) -> str | None:
    for fact in facts:
        if fact.relation.kind == "person":
            return fact.subject
    return None


def _story_of_the_village(rng: Random, known: Container[str], split: Split) -> Story:
    """A story of facts of the task "facts", without a name that the country has."""
    count = 2 + below(rng, 4)
    while True:
        facts = draw_facts(rng, count, split)
        told = [f"{fact.subject} {fact.value}" for fact in facts]
        if not any(_names_known(text, known) for text in told):
            break
    quotes = [fact.told or fact.sentence for fact in facts]
    text = shuffled_text(rng, quotes)
    return Story(text, tuple(facts), tuple(quotes))


def _draw_new_facts(rng: Random, known: Container[str], split: Split) -> list[Fact]:
    """Facts about a few new names.

    Some stories keep to one relation, so that only subjects tell their facts apart.
    """
    while True:
        kinds = _draw_kinds(rng)
        count = 2 + below(rng, 4)
        cast: dict[str, Kind] = {}
        for kind in kinds[:count]:
            subject = _new(rng, kind, known)
            cast[subject] = kind
        alike = len(set(kinds)) == 1
        asked = _draw_asked(rng, cast, alike)
        facts: list[Fact] = []
        for subject, relation in asked[:-1]:
            facts += _new_fact(rng, subject, relation, known, "train")
        subject, relation = asked[-1]
        facts += _new_fact(rng, subject, relation, known, split)
        told = {(fact.relation.name, fact.value) for fact in facts}
        if len(told) != len(asked) or len(told) == 1:
            continue
        values = [value for _, value in told]
        if not any(value in cast for value in values):
            return facts


def _draw_kinds(rng: Random) -> list[Kind]:
    """Five kinds of subjects, in half of the stories all the same."""
    if rng.random() < 0.5:
        only = pick(rng, CAST)
        return [only] * 5
    return [pick(rng, CAST) for _ in range(5)]


def _draw_asked(rng: Random, cast: dict[str, Kind], alike: bool) -> list[Subject]:
    """The story's subjects and the relations that it tells of them."""
    if alike and rng.random() < 0.5:
        kind = next(iter(cast.values()))
        only = pick(rng, RELATIONS_OF[kind])
        return [(subject, only) for subject in cast]
    asked: list[Subject] = []
    for subject, kind in cast.items():
        for relation in RELATIONS_OF[kind]:
            asked.append((subject, relation))
    rng.shuffle(asked)
    count = 2 + below(rng, 5)
    return asked[:count]


def _new_fact(
    rng: Random, subject: str, relation: Relation, known: Container[str], split: Split
) -> list[Fact]:
    """A new fact; none if the few values that were tried are all of the other split."""
    kind = relation.leads_to
    for _ in range(TRIES):
        if kind:
            value = _new(rng, kind, known)
        else:
            value = pick(rng, relation.values)
        if split_of(f"{subject}|{value}") == split:
            return [Fact(relation, subject, value)]
    return []


def _new(rng: Random, kind: Kind, known: Container[str]) -> str:
    """A name that the world does not have; people are called Anna and Ben as often as Sefu."""
    if kind == "person" and rng.random() < 0.5:
        return pick(rng, NAMES)
    while True:
        name = new_name(rng, kind, ())
        if name not in known:
            return name


def _names_known(text: str, known: Container[str]) -> bool:
    """Whether a text that was not made for the country happens to name a person or river of it."""
    for word in text.split():
        name = word.capitalize()
        river = FORMS["river"].format(name)
        if name in known or river in known:
            return True
    return False


def _narrated(rng: Random, quotes: Sequence[str], person: str) -> str:
    """The facts in any order, mostly with something between them that tells no fact."""
    if rng.random() < 0.4:
        return shuffled_text(rng, quotes)
    parts = [*quotes]
    rng.shuffle(parts)
    for _ in range(below(rng, 3)):
        place = 1 + below(rng, len(parts))
        remark = pick(rng, BETWEEN)
        parts.insert(place, remark.format(p=person))
    if rng.random() < 0.5:
        opening = pick(rng, OPENINGS)
        parts.insert(0, opening.format(p=person))
    if rng.random() < 0.2:
        closing = pick(rng, CLOSINGS)
        parts.append(closing.format(p=person))
    return " ".join(parts)


# ---- questions -----------------------------------------------------------------------------------


def ask(rng: Random, fact: Fact | GivenFact, quote: str, backwards: bool) -> Asked:
    """A question for the fact's value, or for its subject where the fact can be asked backwards."""
    if isinstance(fact, GivenFact):
        relation = fact.relation
        subject = relation.article + fact.subject
        full = fact.sentence
        frames = relation.questions
        if backwards and relation.reverse:
            frames = relation.reverse
        else:
            backwards = False
        frame = pick(rng, frames)
        question = sentence(frame.format(e=fact.subject, v=fact.value))
    else:
        subject = fact.subject
        full = sentence(fact.plain)
        if backwards:
            question = fact.ask_back(rng)
        else:
            question = fact.ask(rng)
    if backwards:
        return Asked(question, fact.value, subject, full, quote)
    return Asked(question, subject, fact.value, full, quote)


def ask_absent(rng: Random, story: Story, known: Container[str]) -> Asked:
    """A question in the words of one of the story's facts, about a subject that is not in it."""
    fact = pick(rng, story.facts)
    if isinstance(fact, GivenFact):
        relation = fact.relation
        subject = relation.subject(rng)
        while subject in story.text or _names_known(subject, known):
            subject = relation.subject(rng)
        frame = pick(rng, relation.questions)
        question = sentence(frame.format(e=subject, v=""))
        about = relation.article + subject
    else:
        kind = fact.relation.kind
        about = _new(rng, kind, known)
        while bare(about) in story.text:
            about = _new(rng, kind, known)
        absent = Fact(fact.relation, about, "")
        question = absent.ask(rng)
    return Asked(question, about, NOT_STATED, NOT_STATED, "")


def questions(rng: Random, story: Story, known: Container[str], count: int) -> list[Asked]:
    """Questions on a story. Every fact is asked for before one is asked for again."""
    out: list[Asked] = []
    order: list[tuple[Fact | GivenFact, str]] = []
    while len(out) < count:
        if rng.random() < ABSENT:
            absent = ask_absent(rng, story, known)
            out.append(absent)
            continue
        if not order:
            order = list(zip(story.facts, story.quotes, strict=True))
            rng.shuffle(order)
        fact, quote = order.pop()
        backwards = rng.random() < BACKWARDS
        out.append(ask(rng, fact, quote, backwards))
    return out


def reading_document(rng: Random, known: Container[str]) -> str:
    """A story and four to nine questions on it, answered in short or in sentences."""
    story = draw_story(rng, known)
    frame = pick(rng, WORDS["reading"])
    short = rng.random() < 0.5
    least = max(4, len(story.facts))
    count = least + below(rng, 3)
    lines = []
    for asked in questions(rng, story, known, count):
        answer = asked.full
        if short:
            bare_answer = asked.short.rstrip(".")
            answer = sentence(f"{bare_answer}.")
        line = frame.format(q=asked.question, a=answer)
        lines.append(line)
    answered = "\n".join(lines)
    return f"{story.text}\n\n{answered}"


def reading_question(known: Container[str], rng: Random, split: Split) -> Problem:
    """A story and one question on it. The pair that is asked for is of the split."""
    story = draw_story(rng, known, split)
    told = [bare(fact.value) for fact in story.facts]
    if rng.random() < ABSENT:
        asked = ask_absent(rng, story, known)
        found = ""
        expect = Expect(contains=NOT_STATED, told=told)
    else:
        fact = story.facts[-1]
        quote = story.quotes[-1]
        backwards = rng.random() < BACKWARDS
        asked = ask(rng, fact, quote, backwards)
        found = asked.short
        told += [bare(fact.subject) for fact in story.facts]
        wanted = bare(found)
        expect = Expect(contains=wanted, excludes=(NOT_STATED,), told=told)
    before = pick(rng, FACT_WORDS["before"])
    between = pick(rng, FACT_WORDS["between"])
    if between.endswith(", "):
        between = between.removesuffix(", ").removesuffix(" Now").removesuffix(" So")
        between += " "
    user = before + story.text + between + asked.question
    think = partial(fact_thoughts, asked.about, found, asked.quote)
    turn = Turn(user, asked.full, think)
    return Problem("reading", split, (turn,), expect)
