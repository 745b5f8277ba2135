"""What a task is: a `Problem` with its conversation, its gold solution at every effort, and `grade`.

Knows the messages of the chat format. Knows no tokens, no model and no particular task. Grading looks at
the final text and at the tool calls; it is not given the analysis, so no reward or score can depend on
it.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from ossia.harmony import (
    CONSTRAIN,
    DeveloperContent,
    Effort,
    FunctionTool,
    Message,
    Role,
    SystemContent,
)
from ossia.harmony.messages import FUNCTIONS

Split = Literal["train", "held_out"]
HELD_OUT_SHARE = 10  # one in ten
_NUMBER = re.compile(r"(?<![\w)])-?\d[\d,]*(?:\.\d+)?")
_SPACES = re.compile(r"\s+")
_MARKS = re.compile(r"'s(?=\s|$)|[.,;:!?]+(?=\s|$)")


@dataclass(frozen=True)
class Call:
    """One tool call as it was made: the function's bare name, the arguments' text, what the tool answered."""

    name: str
    arguments: str
    result: str


@dataclass(frozen=True)
class Tool:
    """A function that is offered, and what runs when it is called with the arguments' text."""

    function: FunctionTool
    run: Callable[[str], str]


@dataclass(frozen=True)
class Turn:
    """One user message and the gold answer to it.

    `think(effort)` is the analysis before the first action. A turn with a `call` makes that call, reads its
    result, may think again (`review(effort)`, "" for nothing) and then gives `final`.
    """

    user: str
    final: str
    think: Callable[[Effort], str]
    call: Call | None = None
    review: Callable[[Effort], str] | None = None

    def reply(self, effort: Effort) -> tuple[Message, ...]:
        """The assistant's and the tool's messages that follow `user`."""
        out = [analysis(self.think(effort))]
        if self.call is not None:
            out += _call_messages(self.call)
            if self.review is not None and (text := self.review(effort)):
                out.append(analysis(text))
        out.append(Message(Role.ASSISTANT, self.final, channel="final"))
        return tuple(out)


@dataclass(frozen=True)
class Expect:
    """What a right answer to the last turn must show. Every field that is set must hold.

    number: the last integer of the final text.
    contains, excludes: words that the final text must and must not hold; case and spacing are ignored.
    calls: whether the offered calculator must be used; otherwise no tool may be.
    value: what the call's arguments must evaluate to.
    evaluate: (function's name, arguments' text) -> that value, None if it cannot be read.
    """

    number: int | None = None
    contains: str | None = None
    excludes: tuple[str, ...] = ()
    calls: bool = False
    value: int | None = None
    evaluate: Callable[[str, str], int | None] | None = None


@dataclass(frozen=True)
class Problem:
    """A conversation whose last turn is to be answered, and what the answer must be.

    The prompt at effort e is `prompt(e)`, the gold messages after it `solution(e)`, the gold final text
    `answer`.
    """

    task: str
    split: Split
    turns: tuple[Turn, ...]
    expect: Expect
    tools: tuple[Tool, ...] = ()
    instructions: str | None = None

    @property
    def answer(self) -> str:
        return self.turns[-1].final

    @property
    def gold_calls(self) -> tuple[Call, ...]:
        call = self.turns[-1].call
        return () if call is None else (call,)

    def prompt(self, effort: Effort = Effort.MEDIUM, system: SystemContent | None = None) -> tuple[Message, ...]:
        """All messages up to and including the last user message. Earlier turns carry their analysis."""
        out = [] if system is None else [Message(Role.SYSTEM, system)]
        if self.tools or self.instructions:
            functions = tuple(tool.function for tool in self.tools)
            out.append(Message(Role.DEVELOPER, DeveloperContent(self.instructions, functions)))
        for turn in self.turns[:-1]:
            out.append(Message(Role.USER, turn.user))
            out.extend(turn.reply(effort))
        out.append(Message(Role.USER, self.turns[-1].user))
        return tuple(out)

    def solution(self, effort: Effort) -> tuple[Message, ...]:
        return self.turns[-1].reply(effort)


def analysis(text: str) -> Message:
    return Message(Role.ASSISTANT, text, channel="analysis")


def _call_messages(call: Call) -> list[Message]:
    full = f"{FUNCTIONS}.{call.name}"
    return [
        Message(Role.ASSISTANT, call.arguments, None, "commentary", full, f"{CONSTRAIN}json"),
        Message(Role.TOOL, call.result, full, "commentary", "assistant"),
    ]


# ---- grading -------------------------------------------------------------------------------------


def grade(problem: Problem, final_text: str, calls: Sequence[Call]) -> float:
    """1.0 if the final text and the calls of the last turn are right, else 0.0."""
    expect = problem.expect
    good_calls = call_is_right(problem, calls) if expect.calls else not calls
    return 1.0 if good_calls and _final_is_right(expect, final_text) else 0.0


def call_is_right(problem: Problem, calls: Sequence[Call]) -> bool:
    """Whether the last call is valid JSON for its schema and asks for the value that the problem is about."""
    expect = problem.expect
    if not calls or not call_is_valid(problem, calls[-1]) or expect.evaluate is None:
        return False
    return expect.evaluate(calls[-1].name, calls[-1].arguments) == expect.value


def call_is_valid(problem: Problem, call: Call) -> bool:
    """Whether the call names an offered function and its arguments are JSON that matches the schema."""
    for tool in problem.tools:
        if tool.function.name == call.name:
            try:
                arguments = json.loads(call.arguments)
            except ValueError:
                return False
            return matches_schema(arguments, tool.function.parameters or {"type": "object"})
    return False


def matches_schema(value: Any, schema: Mapping[str, Any]) -> bool:
    """The small part of JSON schema that our tools use: type, enum, properties, required."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "object": dict, "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list,
    }  # fmt: skip
    kind = schema.get("type")
    if kind is not None and (not isinstance(value, kinds[kind]) or (kind != "boolean" and isinstance(value, bool))):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if kind != "object":
        return True
    properties = schema.get("properties", {})
    if not set(schema.get("required", ())) <= value.keys() <= properties.keys():
        return False
    return all(matches_schema(value[key], properties[key]) for key in value)


def last_integer(text: str) -> int | None:
    """The last number of a text if it is whole: `9 - 5 = 4.` -> 4, `85.0` -> 85, `-22` -> -22."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    number = float(found[-1].replace(",", ""))
    return int(number) if number.is_integer() else None


def _final_is_right(expect: Expect, final_text: str) -> bool:
    if expect.number is not None and last_integer(final_text) != expect.number:
        return False
    plain = plain_words(final_text)
    if expect.contains is not None and plain_words(expect.contains) not in plain:
        return False
    return not any(plain_words(word) in plain for word in expect.excludes)


def plain_words(text: str) -> str:
    """Lower case, one space between words and around the whole, no sentence marks: for comparing answers."""
    return f" {_SPACES.sub(' ', _MARKS.sub('', text)).strip().lower()} "


# ---- splits and seeds ----------------------------------------------------------------------------


def split_of(content: str) -> Split:
    """The split that a piece of essential content belongs to, for ever: the same in every process and
    version.
    """
    return "held_out" if zlib.crc32(content.encode()) % HELD_OUT_SHARE == 0 else "train"


def example_random(seed: int, split: str, index: int) -> Random:
    """The generator of example `index`: examples are pure functions of (seed, split, index)."""
    return Random(f"{seed}:{split}:{index}")
