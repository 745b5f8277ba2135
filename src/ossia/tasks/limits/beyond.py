"""Requests beyond a very small model, answered by saying so or with a tool, and answers in a format
that a JSON schema gives.

Knows arithmetic, the calculator, small talk; the reply to what is out of scope is `scope`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

from ossia.errors import ConfigError
from ossia.harmony import Effort
from ossia.harmony.messages import ResponseFormat
from ossia.tasks.answers import numbers
from ossia.tasks.limits.small_talk import message, typed
from ossia.tasks.numbers.arithmetic import ask, draw_one_step, turn_for
from ossia.tasks.numbers.calculator import calculator_turn, declare, with_others
from ossia.tasks.numbers.expressions import Op, Sign, in_split, text, value
from ossia.tasks.problem import Call, Expect, Problem, Split, Tool, Turn, fits, split_of
from ossia.tasks.safety.scope import (
    KINDS,
    ONLY,
    REPLIED,
    scope_thoughts,
    scope_turn,
)
from ossia.tasks.words import Words
from ossia.tasks.world.facts import NOT_STATED
from ossia.tasks.world.names import CITIES, COUNTABLE, JOBS, NAMES, made_up_word

WORDS = Words("limits")
TOO_LARGE = "These numbers are too large for me without a calculator."
NO_WORD = "I don't know the word"
DIGITS = (5, 6, 6, 6, 7)
TASK = "limits"
UNKNOWN = 0.25  # share of the questions about two people that the text does not answer
VALUES = "abnmxyuv"
_DRAWN: Mapping[str, Sequence[Any]] = {
    "ab": NAMES,
    "nm": range(2, 60),
    "xy": JOBS,
    "uv": CITIES,
}
_SIGNS: tuple[Sign, ...] = ("+", "+", "-", "*")
Make = Callable[[Random, Split], Problem]


# ---- numbers -------------------------------------------------------------------------------------


def _large(rng: Random, split: Split) -> Op:
    while True:
        sign = rng.choice(_SIGNS)
        left = _number(rng)
        right = _number(rng)
        expr = Op(sign, left, right)
        if in_split(expr, split):
            return expr


def _number(rng: Random) -> int:
    digits = rng.choice(DIGITS)
    smallest = 10 ** (digits - 1)
    return rng.randrange(smallest, 10 * smallest)


def large_sum(rng: Random, split: Split) -> Problem:
    """A sum of large numbers, and nothing to work it out with."""
    expr = _large(rng, split)
    said = text(expr)
    asked = ask(rng, expr)
    think = partial(_too_large, said)
    turn = Turn(asked, TOO_LARGE, think)
    judge = partial(_guesses_nothing, expr)
    expect = Expect(contains="too large for me", judge=judge)
    return _problem(split, "large sum", turn, expect)


def _guesses_nothing(expr: Op, final: str, calls: Sequence[Call]) -> bool:
    """Whether a text has no number but those of the question."""
    asked = {value(expr.left), value(expr.right)}
    return asked.issuperset(numbers(final))


def _too_large(said: str, effort: Effort) -> str:
    match effort:
        case Effort.LOW:
            return "The numbers are too large."
        case Effort.MEDIUM:
            return f"This is {said}. The numbers are too large for me."
        case Effort.HIGH:
            return f"The user asks for {said}. The numbers are too large and no tool is offered."


def large_sum_with_tool(rng: Random, split: Split) -> Problem:
    """The same with a calculator on offer."""
    expr = _large(rng, split)
    declared = declare(rng, two_steps=False)
    asked = ask(rng, expr)
    spaced = rng.random() < 0.5
    turn, expect, run = calculator_turn(expr, asked, declared, spaced=spaced)
    own = Tool(declared.function, run)
    tools = with_others(rng, own)
    return _problem(split, "large sum, calculator", turn, expect, tools)


# ---- words ---------------------------------------------------------------------------------------


def unknown_word(rng: Random, split: Split) -> Problem:
    word = made_up_word(rng)
    while split_of(f"unknown {word}") != split:
        word = made_up_word(rng)
    asked = rng.choice(WORDS.table("words")["ask"])
    final = f"{NO_WORD} {word}."
    turn = Turn(asked.format(w=word), final, partial(_no_word, word))
    expect = Expect(contains=f"{NO_WORD} {word}")
    return _problem(split, "unknown word", turn, expect)


def _no_word(word: str, effort: Effort) -> str:
    match effort:
        case Effort.LOW:
            return "I do not know it."
        case Effort.MEDIUM:
            return f"I do not know {word}."
        case Effort.HIGH:
            return f"The user asks what {word} means. I do not know {word}, so I say so."


def out_of_depth(rng: Random, split: Split) -> Problem:
    """Small talk, nonsense, another language."""
    outside = KINDS[0]
    kind, said = message(rng, split)
    think = partial(scope_thoughts, outside.thought, True)
    turn = Turn(said, ONLY, think)
    expect = Expect(contains=outside.mark)
    return _problem(split, kind, turn, expect)


def replied(rng: Random, split: Split) -> Problem:
    """Greetings and the like among all the messages that have one reply: they have their own."""
    turn, expect = scope_turn(rng, split, REPLIED)
    user = typed(rng, turn.user)
    said = replace(turn, user=user)
    return _problem(split, "greeting", said, expect)


# ---- two people ----------------------------------------------------------------------------------


def two_people(rng: Random, split: Split) -> Problem:
    """A text about two people and a question about one of them, which it answers or not."""
    phrases = WORDS.phrases("people")
    while True:
        kind = rng.choice(("number", "number", "job", "city"))
        fill = _people(rng)
        told = _told(rng, kind, fill)
        if split_of(told) == split:
            break
    name = str(fill["a"])
    questions = f"{kind}_asked"
    final = phrases[f"{kind}_answer"].format(**fill)
    quote = final
    if rng.random() < UNKNOWN:
        questions = "unknown_asked"
        final = NOT_STATED
        quote = ""
    asked = rng.choice(WORDS.table("people")[questions])
    values = [str(fill[key]) for key in VALUES]
    expect = Expect(contains=final.rstrip("."), told=values)
    user = f"{told} {asked.format(**fill)}"
    turn = Turn(user, final, partial(_about, name, quote))
    return _problem(split, "two people", turn, expect)


def _told(rng: Random, kind: str, fill: Mapping[str, str | int]) -> str:
    """Of the one who is asked about, and of the other, in any order."""
    template = WORDS.phrases("people")["number" if kind == "number" else "place"]
    first = template.format(**fill)
    swapped = {**fill, "a": fill["b"], "n": fill["m"], "x": fill["y"], "u": fill["v"]}
    second = template.format(**swapped)
    both = [first, second]
    rng.shuffle(both)
    return " ".join(both)


def _people(rng: Random) -> dict[str, str | int]:
    """`a` is asked about, `b` is the other one; numbers n and m, jobs x and y, cities u and v."""
    found: dict[str, str | int] = {"thing": rng.choice(COUNTABLE)}
    for keys, choices in _DRAWN.items():
        drawn = rng.sample(choices, 2)
        found.update(zip(keys, drawn, strict=True))
    return found


def _about(name: str, quote: str, effort: Effort) -> str:
    if not quote:
        return "That is not said." if effort is Effort.LOW else f"That is not said of {name}."
    match effort:
        case Effort.LOW:
            return f"It is about {name}."
        case Effort.MEDIUM:
            return f"The question is about {name}: {quote}"
        case Effort.HIGH:
            return f"The text is about two people. The question is about {name}. It says: {quote}"


# ---- formats -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shape:
    """A JSON schema, and the one value of it that is right."""

    schema: Mapping[str, Any]
    wanted: Mapping[str, Any]

    def is_met(self, final: str, calls: Sequence[Call]) -> bool:
        try:
            found = json.loads(final)
        except (ValueError, RecursionError):
            return False
        return found == self.wanted and fits(final, self.schema)


def in_a_format(rng: Random, split: Split) -> Problem:
    """A small sum whose answer is to be JSON of a schema: the number alone, or with the question's
    numbers, or behind a word.
    """
    words = WORDS.table("formats")
    expr = draw_one_step(rng, split)
    asked = ask(rng, expr) + rng.choice(words["ask"])
    shape = _draw_shape(rng, expr)
    think = turn_for(expr, asked).think
    final = json.dumps(shape.wanted)
    name = rng.choice(words["names"])
    return Problem(
        task="response formats",
        split=split,
        turns=(Turn(asked, final, think),),
        expect=Expect(judge=shape.is_met, longest=200),
        about={"kind": "format"},
        formats=(ResponseFormat(name, shape.schema),),
    )


def _draw_shape(rng: Random, expr: Op) -> _Shape:
    keys = WORDS.table("formats")["keys"]
    number, other = rng.sample(keys, 2)
    properties: dict[str, Any] = {number: {"type": "integer"}}
    wanted: dict[str, Any] = {number: value(expr)}
    luck = rng.random()
    if luck < 0.3:
        properties[other] = {"type": "string"}
        wanted[other] = text(expr)
    elif luck < 0.5:
        properties["unit"] = {"enum": ["none"]}
        wanted["unit"] = "none"
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return _Shape(schema, wanted)


# ---- the task ------------------------------------------------------------------------------------


def _problem(
    split: Split, kind: str, turn: Turn, expect: Expect, tools: tuple[Tool, ...] = ()
) -> Problem:
    about = {"kind": kind}
    return Problem(
        task=TASK,
        split=split,
        turns=(turn,),
        expect=expect,
        tools=tools,
        about=about,
    )


MAKERS: Mapping[str, tuple[int, Make]] = {  # with shares in percent
    "large sum": (20, large_sum),
    "large sum, calculator": (15, large_sum_with_tool),
    "unknown word": (10, unknown_word),
    "out of depth": (27, out_of_depth),
    "greeting": (8, replied),
    "two people": (20, two_people),
}


def beyond_question(rng: Random, split: Split, kind: str | None = None) -> Problem:
    """Any kind, or the one given. Raises ConfigError for one that does not exist."""
    if kind is not None and kind not in MAKERS:
        raise ConfigError(f"there is no kind {kind!r}: use one of {', '.join(MAKERS)}")
    if kind is None:
        names = tuple(MAKERS)
        shares = [share for share, _ in MAKERS.values()]
        kind = rng.choices(names, shares)[0]
    _, make = MAKERS[kind]
    return make(rng, split)
