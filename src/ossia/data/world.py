"""Pre-training text about the fictional country: what is told of it, questions on it, and stories
to be read.

Knows the country and its splits; no tokens. A document is a pure function of its random numbers and
of the world, and document i of `documents` one of (seed, i). Nothing that is held out stands in
any: templates, asked facts, hops, pairs.
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
        facts = list(of.about(pick(rng, of.names)).values())
        rng.shuffle(facts)
        parts.append(" ".join([sentence(fact.tell(rng)) for fact in facts]))
    return "\n\n".join(parts)


def almanac(rng: Random, of: World) -> str:
    """Facts from all over the country, a line or a sentence each."""
    lines = [sentence(pick(rng, of.facts).tell(rng)) for _ in range(5 + below(rng, 7))]
    return ("\n" if rng.random() < 0.5 else " ").join(lines)


def reworded(rng: Random, of: World) -> str:
    """A few facts, each told in several ways."""
    lines = []
    for _ in range(2 + below(rng, 2)):
        fact = pick(rng, of.facts)
        lines.append(" ".join(dict.fromkeys([sentence(fact.tell(rng)) for _ in range(4)])))
    return "\n".join(lines)


def story(rng: Random, of: World) -> str:
    """A small story that goes from a person to what the person's facts lead to."""
    person = pick(rng, of.entities["person"])
    parts = [pick(rng, OPENINGS).format(p=person)]
    for fact in _walk(rng, of, person, 3 + below(rng, 5)):
        clause = fact.tell(rng)
        if rng.random() < 0.3:
            clause = pick(rng, REPORTS).format(p=person, fact=clause)
        parts.append(sentence(clause))
        if rng.random() < 0.35:
            parts.append(pick(rng, BETWEEN).format(p=person))
    if rng.random() < 0.6:
        parts.append(pick(rng, CLOSINGS).format(p=person))
    return " ".join(parts)


def _walk(rng: Random, of: World, entity: str, count: int) -> Iterator[Fact]:
    """Facts on an entity, and now and then on to where one leads; nothing is told there that makes
    a held-out hop.
    """
    came: Fact | None = None  # the fact that led to where the walk is
    last: Fact | None = None
    for _ in range(count):
        if last is not None and last.relation.leads_to and rng.random() < 0.5:
            entity = last.value
            came = last
        here = []
        for fact in of.about(entity).values():
            told_before = fact is last
            if not told_before and (came is None or hop_split(came, fact) == "train"):
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
        choice = draw_choice(rng, question, fact.value, of.wrong_values(rng, fact))
        parts.append(frame.format(q=choice.prompt, a=choice.answer))
    return "\n\n".join(parts)


def hops(rng: Random, of: World) -> str:
    """Questions over two facts, with both steps written down, or with the answer alone."""
    frame = pick(rng, WORDS["questions and answers"])
    steps = rng.random() < 0.6
    found = [pick(rng, of.hops["train"]) for _ in range(3 + below(rng, 4))]
    lines = []
    for hop in found:
        question = hop.ask(rng)
        lines.append(frame.format(q=question, a=_hop_answer(hop, steps)))
    return "\n".join(lines)


def _hop_answer(hop: Hop, steps: bool) -> str:
    answer = f"{hop.second.value}."
    if not steps:
        return sentence(answer)
    return f"{sentence(hop.first.plain)} {sentence(hop.second.plain)} So: {answer}"


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
    make = rng.choices(list(KINDS), list(KINDS.values()))[0]
    return make(rng, of or world())


def documents(seed: int, start: int = 0, of: World | None = None) -> Iterator[tuple[str, int]]:
    """Endless (text, state); `start=state` goes on with the next one. Mostly 50 to 200 tokens
    long.
    """
    known = of or world()
    index = start
    while True:
        yield world_document(example_random(seed, "world", index), known), index + 1
        index += 1
