"""Everything else: requests outside of the little world get one polite sentence, greetings and
thanks a short reply.

Knows texts/scope.toml. Requests are held out as they are filled in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from random import Random

from ossia.harmony import Effort
from ossia.tasks.numbers.arithmetic import dress
from ossia.tasks.problem import Expect, Problem, Split, Turn, split_of
from ossia.tasks.words import Words
from ossia.tasks.world.names import NAMES, made_up_word

ONLY = "I can only do small arithmetic, read facts that you give me, and use a calculator."
ABLE = "I can do small arithmetic, read facts that you give me, and use a calculator."
HELLO = "Hello! Give me some arithmetic or a few facts to read."
WELCOME = "You are welcome."
GOODBYE = "Goodbye!"
SELF = "I am nano, a very small language model. " + ABLE

WORDS = Words("scope")


@dataclass(frozen=True)
class Kind:
    """A list of the file with users' messages, how often it is drawn, the reply, and its mark.

    A reply that contains the mark is right.
    """

    share: float
    said: str
    reply: str
    mark: str
    thought: str


KINDS = (
    Kind(
        share=0.68,
        said="out_of_scope",
        reply=ONLY,
        mark="I can only do small arithmetic",
        thought="This is neither arithmetic nor about given facts.",
    ),
    Kind(0.1, "greetings", HELLO, "hello", "This is a greeting."),
    Kind(0.08, "thanks", WELCOME, "welcome", "This is a thank-you."),
    Kind(0.03, "farewells", GOODBYE, "goodbye", "This is a farewell."),
    Kind(0.05, "abilities", ABLE, ABLE, "The user asks what I can do."),
    Kind(0.06, "identity", SELF, "I am nano", "The user asks who I am."),
)
MARKS = tuple(kind.mark for kind in KINDS)
REPLIED = KINDS[1:]  # small talk with a reply of its own


def scope_thoughts(thought: str, out_of_scope: bool, effort: Effort) -> str:
    if not out_of_scope:
        return thought
    match effort:
        case Effort.LOW:
            return "Out of scope."
        case Effort.MEDIUM:
            return thought
        case Effort.HIGH:
            return f"{thought} I should say what I can do."


def scope_turn(rng: Random, split: Split, kinds: tuple[Kind, ...] = KINDS) -> tuple[Turn, Expect]:
    """A turn that is not about arithmetic or facts."""
    shares = [kind.share for kind in kinds]
    while True:
        kind = rng.choices(kinds, shares)[0]
        said = _filled(rng, rng.choice(WORDS[kind.said]))
        if split_of(said) == split:
            break
    if rng.random() < 0.35 and said[-1] in ".?" and said[0].isascii() and len(said) > 4:
        plain = said[:-1]
        if not said.startswith("I "):
            plain = said[0].lower() + plain[1:]
        said = dress(rng, plain, said[-1])
    think = partial(scope_thoughts, kind.thought, kind.said == "out_of_scope")
    return Turn(said, kind.reply, think), Expect(contains=kind.mark, told=MARKS)


def _filled(rng: Random, template: str) -> str:
    if "{n}" in template:
        n = rng.randrange(2, 2100)
        template = template.format(n=n, m=rng.randrange(2, 500), x="{x}")
    while "{x}" in template:
        template = template.replace("{x}", _filler(rng), 1)
    return template


def _filler(rng: Random) -> str:
    luck = rng.random()
    if luck < 0.8:
        return rng.choice(WORDS["fillers"])
    if luck < 0.9:
        return rng.choice(NAMES)
    return made_up_word(rng)


def out_of_scope(rng: Random, split: Split) -> Problem:
    turn, expect = scope_turn(rng, split)
    return Problem("scope", split, (turn,), expect)
