"""Problems about the fictional country: what a model has to know, and what it has to read.

Knows `World` and its splits. What the held-out split of a task asks that training never does: a
fact (`world`, `world choice`), a wording (`world wording`), a step from one fact to another (`world
hops`, `world hops choice`), a pair that a text tells (`reading`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from ossia.harmony import Effort
from ossia.tasks.choices import choice_problem, draw_choice
from ossia.tasks.problem import Expect, Problem, Split, Turn
from ossia.tasks.words import pick
from ossia.tasks.world.country import Fact, Hop, World, bare, sentence, world


def fact_thoughts(fact: Fact, effort: Effort) -> str:
    if effort is Effort.LOW:
        return f"{bare(fact.subject)} -> {bare(fact.value)}"
    known = sentence(fact.plain)
    if effort is Effort.MEDIUM:
        return known
    return f"The question is about {fact.subject}. {known}"


def hop_thoughts(hop: Hop, effort: Effort) -> str:
    """At low effort the answer alone, so that both steps must be made at once."""
    if effort is Effort.LOW:
        return bare(hop.second.value)
    known = f"{sentence(hop.first.plain)} {sentence(hop.second.plain)}"
    if effort is Effort.MEDIUM:
        return known
    return f"{known} So the answer is: {hop.second.value}."


def open_question(of: World, rng: Random, split: Split) -> Problem:
    fact = pick(rng, of.asked[split])
    return _fact_problem("world", split, fact, fact.ask(rng))


def wording_question(of: World, rng: Random, split: Split) -> Problem:
    """Facts that training asks for, in its own words or in held-out ones."""
    fact = pick(rng, of.asked["train"])
    return _fact_problem("world wording", split, fact, fact.ask(rng, split))


def _fact_problem(task: str, split: Split, fact: Fact, question: str) -> Problem:
    answer = sentence(fact.plain)
    turn = Turn(question, answer, partial(fact_thoughts, fact))
    expect = Expect(contains=bare(fact.value))
    return Problem(task, split, (turn,), expect)


def choice_question(of: World, rng: Random, split: Split) -> Problem:
    fact = pick(rng, of.asked[split])
    question = fact.ask(rng)
    wrong = of.wrong_values(rng, fact)
    choice = draw_choice(rng, question, fact.value, wrong)
    reason = sentence(fact.plain)
    return choice_problem("world choice", split, choice, reason)


def hop_question(of: World, rng: Random, split: Split) -> Problem:
    hop = pick(rng, of.hops[split])
    value = hop.second.value
    answer = sentence(f"{value}.")
    turn = Turn(hop.ask(rng), answer, partial(hop_thoughts, hop))
    expect = Expect(contains=bare(value))
    return Problem("world hops", split, (turn,), expect)


def hop_choice_question(of: World, rng: Random, split: Split) -> Problem:
    hop = pick(rng, of.hops[split])
    question = hop.ask(rng)
    wrong = of.wrong_values(rng, hop.second)
    choice = draw_choice(rng, question, hop.second.value, wrong)
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
