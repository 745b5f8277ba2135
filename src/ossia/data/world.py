"""Pre-training text about the fictional country: statements, questions, and stories to be read.

Knows the country and its splits; does not know tokens. A document is a pure function of its random
numbers and of the world, and document i of `documents` one of (seed, i). None contains anything
that is held out: templates, asked facts, hops, pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random

from ossia.tasks.choices import draw_choice
from ossia.tasks.problem import example_random
from ossia.tasks.words import below, pick, sentence
from ossia.tasks.world.country import Fact, Hop, World, hop_split, world
from ossia.tasks.world.reading import reading_document
from ossia.tasks.world.texts import BETWEEN, CLOSINGS, OPENINGS, REPORTS, WORDS

Make = Callable[[Random, World], str]


# ---- told ----------------------------------------------------------------------------------------


def portrait(rng: Random, of: World) -> str:
    """Everything about one or two entities."""
    parts = []
    count = 2 if rng.random() < 0.4 else 1
    for _ in range(count):
        entity = pick(rng, of.names)
        facts = list(of.about(entity).values())
        rng.shuffle(facts)
        told = [sentence(fact.tell(rng)) for fact in facts]
        parts.append(" ".join(told))
    return "\n\n".join(parts)


def almanac(rng: Random, of: World) -> str:
    """Facts from all over the country, a line or a sentence each."""
    lines = []
    for _ in range(5 + below(rng, 7)):
        fact = pick(rng, of.facts)
        lines.append(sentence(fact.tell(rng)))
    between = "\n" if rng.random() < 0.5 else " "
    return between.join(lines)


def reworded(rng: Random, of: World) -> str:
    """A few facts, each told in several ways."""
    lines = []
    for _ in range(2 + below(rng, 2)):
        fact = pick(rng, of.facts)
        told = [sentence(fact.tell(rng)) for _ in range(4)]
        different = dict.fromkeys(told)
        lines.append(" ".join(different))
    return "\n".join(lines)


def story(rng: Random, of: World) -> str:
    """A small story that goes from a person to the values of the person's facts."""
    person = pick(rng, of.entities["person"])
    opening = pick(rng, OPENINGS)
    parts = [opening.format(p=person)]
    count = 3 + below(rng, 5)
    for fact in _walk(rng, of, person, count):
        clause = fact.tell(rng)
        if rng.random() < 0.3:
            report = pick(rng, REPORTS)
            clause = report.format(p=person, fact=clause)
        parts.append(sentence(clause))
        if rng.random() < 0.35:
            remark = pick(rng, BETWEEN)
            parts.append(remark.format(p=person))
    if rng.random() < 0.6:
        closing = pick(rng, CLOSINGS)
        parts.append(closing.format(p=person))
    return " ".join(parts)


def _walk(rng: Random, of: World, entity: str, count: int) -> Iterator[Fact]:
    """Facts on an entity, now and then moving on to one of its values, without held-out hops."""
    came: Fact | None = None  # the fact that led here
    last: Fact | None = None
    for _ in range(count):
        if last is not None and last.relation.leads_to and rng.random() < 0.5:
            entity = last.value
            came = last
        here = []
        for fact in of.about(entity).values():
            if fact is last:
                continue
            if came is None or hop_split(came, fact) == "train":
                here.append(fact)
        if not here:
            return
        last = pick(rng, here)
        yield last


# ---- asked ---------------------------------------------------------------------------------------


def questions(rng: Random, of: World) -> str:
    """Questions and answers, in short or in sentences, some backwards."""
    frame = pick(rng, WORDS["questions and answers"])
    short = rng.random() < 0.5
    lines = []
    for _ in range(4 + below(rng, 6)):
        fact = pick(rng, of.asked["train"])
        backwards = of.is_only(fact) and rng.random() < 0.5
        if backwards:
            question = fact.ask_back(rng)
            found = fact.subject
        else:
            question = fact.ask(rng)
            found = fact.value
        answer = f"{found}." if short else fact.plain
        lines.append(frame.format(q=question, a=sentence(answer)))
    return "\n".join(lines)


def choices(rng: Random, of: World) -> str:
    """Questions with four choices, of one hop and sometimes of two."""
    frame = pick(rng, WORDS["choices"])
    parts = []
    for _ in range(2 + below(rng, 3)):
        if rng.random() < 0.2:
            hop = pick(rng, of.hops["train"])
            question = hop.ask(rng)
            fact = hop.second
        else:
            fact = pick(rng, of.asked["train"])
            question = fact.ask(rng)
        wrong = of.wrong_values(rng, fact)
        choice = draw_choice(rng, question, fact.value, wrong)
        parts.append(frame.format(q=choice.prompt, a=choice.answer))
    return "\n\n".join(parts)


def hops(rng: Random, of: World) -> str:
    """Questions over two facts, with both steps written down, or with the answer alone."""
    frame = pick(rng, WORDS["questions and answers"])
    steps = rng.random() < 0.6
    count = 3 + below(rng, 4)
    found = [pick(rng, of.hops["train"]) for _ in range(count)]
    lines = []
    for hop in found:
        question = hop.ask(rng)
        answer = _hop_answer(hop, steps)
        lines.append(frame.format(q=question, a=answer))
    return "\n".join(lines)


def _hop_answer(hop: Hop, steps: bool) -> str:
    answer = f"{hop.second.value}."
    if not steps:
        return sentence(answer)
    first = sentence(hop.first.plain)
    second = sentence(hop.second.plain)
    return f"{first} {second} So: {answer}"


KINDS: Mapping[Make, int] = {  # in percent
    portrait: 18,
    almanac: 8,
    reworded: 6,
    story: 12,
    questions: 14,
    choices: 8,
    hops: 8,
    reading_document: 26,
}


def world_document(rng: Random, of: World | None = None) -> str:
    """One document of any kind about `of`, the usual world if it is not given."""
    makers = list(KINDS)
    shares = list(KINDS.values())
    make = rng.choices(makers, shares)[0]
    return make(rng, of or world())


def documents(seed: int, start: int = 0, of: World | None = None) -> Iterator[tuple[str, int]]:
    """Endless (text, state); `start=state` continues after it. Mostly 50 to 200 tokens long."""
    known = of or world()
    index = start
    while True:
        rng = example_random(seed, "world", index)
        index += 1
        yield world_document(rng, known), index
