"""Problems about the fictional country, whose answers a model has to know.

Knows `World` and its splits. The held-out split of a task asks for something that training never
does: a fact (`world`, `world choice`), a wording (`world wording`), a step from one fact to another
(`world hops`, `world hops choice`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from ossia.harmony import Effort
from ossia.tasks.choices import choice_problem, draw_choice
from ossia.tasks.problem import Expect, Problem, Split, Turn
from ossia.tasks.words import pick, sentence
from ossia.tasks.world.country import Fact, Hop, World, bare, world


def fact_thoughts(fact: Fact, effort: Effort) -> str:
    known = sentence(fact.plain)
    match effort:
        case Effort.LOW:
            subject = bare(fact.subject)
            return f"{subject} -> {bare(fact.value)}"
        case Effort.MEDIUM:
            return known
        case Effort.HIGH:
            subject = fact.subject
            about = f"The question is about {subject}."
            return f"{about} {known}"


def hop_thoughts(hop: Hop, effort: Effort) -> str:
    """At low effort the answer alone, so that both steps must be made at once."""
    first = sentence(hop.first.plain)
    second = sentence(hop.second.plain)
    value = hop.second.value
    match effort:
        case Effort.LOW:
            return bare(value)
        case Effort.MEDIUM:
            return f"{first} {second}"
        case Effort.HIGH:
            return f"{first} {second} So the answer is: {value}."


def open_question(of: World, rng: Random, split: Split) -> Problem:
    fact = pick(rng, of.asked[split])
    question = fact.ask(rng)
    return _fact_problem(of, "world", split, fact, question)


def wording_question(of: World, rng: Random, split: Split) -> Problem:
    """Facts that training asks for, in its own words or in held-out ones."""
    fact = pick(rng, of.asked["train"])
    question = fact.ask(rng, split)
    return _fact_problem(of, "world wording", split, fact, question)


def _fact_problem(
    of: World,
    task: str,
    split: Split,
    fact: Fact,
    question: str,
) -> Problem:
    answer = sentence(fact.plain)
    think = partial(fact_thoughts, fact)
    turn = Turn(question, answer, think)
    expect = _one_value(of, fact)
    return Problem(task, split, (turn,), expect)


def _one_value(of: World, fact: Fact) -> Expect:
    """The fact's value, and no other that its relation can have."""
    told = of.values_of(fact.relation)
    wanted = bare(fact.value)
    return Expect(contains=wanted, told=told)


def choice_question(of: World, rng: Random, split: Split) -> Problem:
    fact = pick(rng, of.asked[split])
    question = fact.ask(rng)
    right = fact.value
    wrong = of.wrong_values(rng, fact)
    choice = draw_choice(rng, question, right, wrong)
    reason = sentence(fact.plain)
    return choice_problem("world choice", split, choice, reason)


def hop_question(of: World, rng: Random, split: Split) -> Problem:
    hop = pick(rng, of.hops[split])
    question = hop.ask(rng)
    value = hop.second.value
    answer = sentence(f"{value}.")
    think = partial(hop_thoughts, hop)
    turn = Turn(question, answer, think)
    expect = _one_value(of, hop.second)
    return Problem("world hops", split, (turn,), expect)


def hop_choice_question(of: World, rng: Random, split: Split) -> Problem:
    hop = pick(rng, of.hops[split])
    question = hop.ask(rng)
    right = hop.second.value
    wrong = of.wrong_values(rng, hop.second)
    choice = draw_choice(rng, question, right, wrong)
    reason = hop_thoughts(hop, Effort.MEDIUM)
    return choice_problem("world hops choice", split, choice, reason)


def in_the_usual_world(
    make: Callable[[World, Random, Split], Problem],
) -> Callable[[Random, Split], Problem]:
    """A generator about a world as a task; the usual world is made when it is first asked for."""
    return partial(_of_the_usual_world, make)


def _of_the_usual_world(
    make: Callable[[World, Random, Split], Problem], rng: Random, split: Split
) -> Problem:
    return make(world(), rng, split)
