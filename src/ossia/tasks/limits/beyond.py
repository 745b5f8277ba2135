"""Requests beyond a very small model, answered by saying so or with a tool, and answers in a format
that a JSON schema gives.

Knows arithmetic, the calculator, small talk; the reply to what is out of scope is `scope`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from ossia.errors import ConfigError
from ossia.harmony import Effort
from ossia.harmony.messages import ResponseFormat
from ossia.tasks.limits.small_talk import message
from ossia.tasks.numbers.arithmetic import ask, draw_one_step, turn_for
from ossia.tasks.numbers.calculator import calculator_turn, declare, with_others
from ossia.tasks.numbers.expressions import Op, Sign, in_split, text, value
from ossia.tasks.problem import Call, Expect, Problem, Split, Tool, Turn, fits, split_of
from ossia.tasks.safety.scope import KINDS, ONLY, scope_thoughts
from ossia.tasks.words import Words
from ossia.tasks.world.facts import NOT_STATED
from ossia.tasks.world.names import CITIES, COUNTABLE, JOBS, NAMES, made_up_word

WORDS = Words("limits")
TOO_LARGE = "These numbers are too large for me without a calculator."
NO_WORD = "I don't know the word"
DIGITS = (5, 6, 6, 6, 7)
TASK = "limits"
_SIGNS: tuple[Sign, ...] = ("+", "+", "-", "*")
Make = Callable[[Random, Split], Problem]


# ---- numbers -------------------------------------------------------------------------------------


def _large(rng: Random, split: Split) -> Op:
    while True:
        numbers = []
        for _ in range(2):
            smallest = 10 ** (rng.choice(DIGITS) - 1)
            numbers.append(rng.randrange(smallest, 10 * smallest))
        expr = Op(rng.choice(_SIGNS), *numbers)
        if in_split(expr, split):
            return expr


def large_sum(rng: Random, split: Split) -> Problem:
    """A sum of large numbers, and nothing to work it out with."""
    expr = _large(rng, split)
    think = partial(_too_large, text(expr))
    turn = Turn(ask(rng, expr), TOO_LARGE, think)
    return _problem(split, "large sum", turn, Expect(contains="too large for me"))


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
    turn, expect, run = calculator_turn(expr, ask(rng, expr), declared, spaced=rng.random() < 0.5)
    tools = with_others(rng, Tool(declared.function, run))
    return _problem(split, "large sum, calculator", turn, expect, tools)


# ---- words ---------------------------------------------------------------------------------------


def unknown_word(rng: Random, split: Split) -> Problem:
    word = made_up_word(rng)
    while split_of(f"unknown {word}") != split:
        word = made_up_word(rng)
    asked = rng.choice(WORDS.table("words")["ask"]).format(w=word)
    turn = Turn(asked, f"{NO_WORD} {word}.", partial(_no_word, word))
    return _problem(split, "unknown word", turn, Expect(contains=f"{NO_WORD} {word}"))


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
    kind, said = message(rng, split)
    think = partial(scope_thoughts, KINDS[0].thought, True)
    return _problem(split, kind, Turn(said, ONLY, think), Expect(contains=KINDS[0].mark))


# ---- two people ----------------------------------------------------------------------------------


def two_people(rng: Random, split: Split) -> Problem:
    """A text about two people and a question about one of them, which it answers or not."""
    phrases = WORDS.phrases("people")
    while True:
        fill = _people(rng)
        kind = rng.choice(("number", "number", "job", "city"))
        told = phrases["number" if kind == "number" else "job"].format(**fill)
        if split_of(told) == split:
            break
    if rng.random() < 0.5:  # who is asked about comes second
        first, second = told.split(". ") if kind == "number" else _halves(told)
        told = f"{second.rstrip('.')}. {first.rstrip('.')}."
    final = phrases[f"{kind}_answer"].format(**fill)
    asked = rng.choice(WORDS.table("people")[f"{kind}_asked"]).format(**fill)
    quote = final
    if rng.random() < 0.25:
        asked = rng.choice(WORDS.table("people")["unknown_asked"]).format(**fill)
        final = NOT_STATED
        quote = ""
    values = [str(fill[key]) for key in "abnmxyuv"]
    expect = Expect(contains=final.rstrip("."), told=values)
    turn = Turn(f"{told} {asked}", final, partial(_about, str(fill["a"]), quote))
    return _problem(split, "two people", turn, expect)


def _people(rng: Random) -> dict[str, str | int]:
    a, b = rng.sample(NAMES, 2)
    n, m = rng.sample(range(2, 60), 2)
    x, y = rng.sample(JOBS, 2)
    u, v = rng.sample(CITIES, 2)
    thing = rng.choice(COUNTABLE)
    return {"a": a, "b": b, "n": n, "m": m, "x": x, "y": y, "u": u, "v": v, "thing": thing}


def _halves(told: str) -> tuple[str, str]:
    first, _, second = told.partition(". ")
    return first, second


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
    keys = rng.sample(words["keys"], 2)
    properties: dict[str, Any] = {keys[0]: {"type": "integer"}}
    wanted: dict[str, Any] = {keys[0]: value(expr)}
    luck = rng.random()
    if luck < 0.3:
        properties[keys[1]] = {"type": "string"}
        wanted[keys[1]] = text(expr)
    elif luck < 0.5:
        properties["unit"] = {"enum": ["none"]}
        wanted["unit"] = "none"
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    shape = _Shape(schema, wanted)
    plain = turn_for(expr, asked)
    turn = Turn(asked, json.dumps(wanted), plain.think)
    expect = Expect(judge=shape.is_met, longest=200)
    form = ResponseFormat(rng.choice(words["names"]), schema)
    return Problem(
        "response formats", split, (turn,), expect, about={"kind": "format"}, formats=(form,)
    )


# ---- the task ------------------------------------------------------------------------------------


def _problem(
    split: Split, kind: str, turn: Turn, expect: Expect, tools: tuple[Tool, ...] = ()
) -> Problem:
    return Problem(TASK, split, (turn,), expect, tools, about={"kind": kind})


MAKERS: Mapping[str, tuple[int, Make]] = {  # with shares in percent
    "large sum": (20, large_sum),
    "large sum, calculator": (15, large_sum_with_tool),
    "unknown word": (10, unknown_word),
    "out of depth": (35, out_of_depth),
    "two people": (20, two_people),
}


def beyond_question(rng: Random, split: Split, kind: str | None = None) -> Problem:
    """Any kind, or the one given. Raises ConfigError for one that does not exist."""
    if kind is not None and kind not in MAKERS:
        raise ConfigError(f"there is no kind {kind!r}: use one of {', '.join(MAKERS)}")
    shares = [share for share, _ in MAKERS.values()]
    chosen = kind or rng.choices(tuple(MAKERS), shares)[0]
    return MAKERS[chosen][1](rng, split)
