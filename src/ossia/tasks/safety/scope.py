"""Everything else: requests outside of the little world get one polite sentence, greetings and
thanks a short reply.

Knows `scope_texts`. What is held out is the filled-in request.
"""

from __future__ import annotations

from functools import partial
from random import Random

from ossia.harmony import Effort
from ossia.tasks.numbers.arithmetic import dress
from ossia.tasks.problem import Expect, Problem, Split, Turn, split_of
from ossia.tasks.safety.scope_texts import (
    ABILITIES,
    FAREWELLS,
    FILLERS,
    GREETINGS,
    IDENTITY,
    OUT_OF_SCOPE,
    THANKS,
)
from ossia.tasks.world.names import NAMES, made_up_word

ONLY = "I can only do small arithmetic, read facts that you give me, and use a calculator."
ABLE = "I can do small arithmetic, read facts that you give me, and use a calculator."
HELLO = "Hello! Give me some arithmetic or a few facts to read."
WELCOME = "You are welcome."
GOODBYE = "Goodbye!"
SELF = "I am nano, a very small language model. " + ABLE

# kind: (share, what users say, the reply, what marks it as right, the thought)
KINDS = (
    (
        0.74,
        OUT_OF_SCOPE,
        ONLY,
        "I can only do small arithmetic",
        "This is neither arithmetic nor about given facts.",
    ),
    (0.08, GREETINGS, HELLO, "hello", "This is a greeting."),
    (0.05, THANKS, WELCOME, "welcome", "This is a thank-you."),
    (0.02, FAREWELLS, GOODBYE, "goodbye", "This is a farewell."),
    (0.05, ABILITIES, ABLE, ABLE, "The user asks what I can do."),
    (0.06, IDENTITY, SELF, "I am nano", "The user asks who I am."),
)


def scope_thoughts(thought: str, out: bool, effort: Effort) -> str:
    if not out or effort is Effort.LOW:
        return thought if effort is not Effort.LOW or not out else "Out of scope."
    return thought if effort is Effort.MEDIUM else f"{thought} I should say what I can do."


def scope_turn(rng: Random, split: Split) -> tuple[Turn, Expect]:
    """A turn that is not about arithmetic or facts."""
    shares = [kind[0] for kind in KINDS]
    while True:
        _, texts, reply, mark, thought = rng.choices(KINDS, shares)[0]
        said = _filled(rng, rng.choice(texts))
        if split_of(said) == split:
            break
    out = reply is ONLY
    if rng.random() < 0.35 and said[-1] in ".?" and said[0].isascii() and len(said) > 4:
        said = dress(rng, said[0].lower() + said[1:-1] if said[:2] != "I " else said[:-1], said[-1])
    return Turn(said, reply, partial(scope_thoughts, thought, out)), Expect(contains=mark)


def _filled(rng: Random, template: str) -> str:
    if "{n}" in template:
        template = template.format(n=rng.randrange(2, 2100), m=rng.randrange(2, 500), x="{x}")
    while "{x}" in template:
        luck = rng.random()
        word = (
            rng.choice(FILLERS)
            if luck < 0.8
            else rng.choice(NAMES)
            if luck < 0.9
            else made_up_word(rng)
        )
        template = template.replace("{x}", word, 1)
    return template


def out_of_scope(rng: Random, split: Split) -> Problem:
    turn, expect = scope_turn(rng, split)
    return Problem("scope", split, (turn,), expect)
