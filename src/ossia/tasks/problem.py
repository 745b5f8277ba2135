"""What a task is: a `Problem` with its conversation, its gold solution at every effort, and
`grade`.

Knows the messages of the chat format. Does not know tokens, models or particular tasks. Grading
looks at the final text and at the tool calls; it is not given the analysis, so no reward or score
can depend on it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random
from typing import Any, Literal

from ossia.harmony import (
    CONSTRAIN,
    DeveloperContent,
    Effort,
    Message,
    Role,
    SystemContent,
)
from ossia.harmony.messages import FUNCTIONS, ResponseFormat
from ossia.tasks.answers import (
    Prompt,
    chosen,
    commits,
    has_one_number,
    last_answer,
    last_integer,
    plain_words,
)
from ossia.tools import PythonFunction
from ossia.tools.protocol import Tool as AnyTool

Split = Literal["train", "held_out"]
HELD_OUT_SHARE = 10  # one in ten


@dataclass(frozen=True)
class Call:
    """One tool call as it was made: the function's bare name, its arguments' text, its result.

    `is_code`: it is of a tool without functions, which reads code and not JSON.
    """

    name: str
    arguments: str
    result: str
    is_code: bool = False


Tool = PythonFunction  # a problem offers functions, with what runs when one is called


@dataclass(frozen=True)
class Step:
    """A call, and the thoughts after its result: `review(effort)`, "" for none."""

    call: Call
    review: Callable[[Effort], str] | None = None


@dataclass(frozen=True)
class Turn:
    """One user message and the gold answer to it.

    `think(effort)` is the analysis before the first action. A turn with a `call` makes that call,
    reads its result, may think again (`review(effort)`, "" for no thoughts), does the same for each
    step of `then`, and gives `final`.
    """

    user: str
    final: str
    think: Callable[[Effort], str]
    call: Call | None = None
    review: Callable[[Effort], str] | None = None
    then: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        assert self.call is not None or not self.then, "the first call of a turn is `call`"

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every call of the turn, in the order in which they are made."""
        if self.call is None:
            return ()
        first = Step(self.call, self.review)
        return (first, *self.then)

    def reply(self, effort: Effort) -> tuple[Message, ...]:
        """The assistant's and the tool's messages that follow `user`."""
        out = [analysis(self.think(effort))]
        for step in self.steps:
            out += _call_messages(step.call)
            thoughts = step.review(effort) if step.review else ""
            if thoughts:
                out.append(analysis(thoughts))
        final = Message(Role.ASSISTANT, self.final, channel="final")
        return (*out, final)

    def as_text(self, effort: Effort) -> str:
        """A turn without calls as plain lines; at low effort without its thoughts."""
        lines = [self.user, self.final]
        if effort is not Effort.LOW:
            lines.insert(1, self.think(effort))
        return "\n".join(lines)


@dataclass(frozen=True)
class Expect:
    """The demands on a right answer to the last turn. Every field that is set must hold.

    number: the last integer of the final text.
    contains, excludes: words that the final text must and must not contain, whatever their case and
        spacing.
    choices: texts of the choices A), B), ...; one of them is `contains`. The final text must name
        that one, by its letter or by its text, and no other.
    equals: the exact answer: the text after the last `:`, `=` or `is`, or the whole text.
    calls: whether the offered tools must be used; otherwise none may be.
    value: the value of the last call's arguments.
    values: or, where several calls are needed, their values in this order. Other calls may be
        between them.
    never: functions that must not be called.
    evaluate: (function's name, arguments' text) -> that value, None if it cannot be read.
    judge: (final text, calls) -> whether they keep to the task's own rules.
    told: the values that the prompt tells or that the question could mean. Of these the final text
        may hold those of the gold answer only.
    longest: characters that the final text may have; None: three times the gold one's and 20.

    Whatever is set, the text must be an answer of its own: see `answers.commits`.
    """

    number: int | None = None
    contains: str | None = None
    excludes: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    calls: bool = False
    value: int | None = None
    evaluate: Callable[[str, str], int | str | None] | None = None
    equals: str | None = None
    values: tuple[int | str, ...] = ()
    never: tuple[str, ...] = ()
    judge: Callable[[str, Sequence[Call]], bool] | None = None
    told: Sequence[str] = ()
    longest: int | None = None


@dataclass(frozen=True)
class Problem:
    """A conversation whose last turn is to be answered, and the demands on the answer.

    The prompt at effort e is `prompt(e)`, the gold messages after it `solution(e)`, the gold final
    text `answer`. `instructions` belong to the developer message, `system` is an instruction of the
    system message. `builtin` tools are declared there, too, `tools` in the developer message, and
    so are `formats`, which the answer has to follow.
    Reports group by `about`, such as the number of steps; no model sees it.
    """

    task: str
    split: Split
    turns: tuple[Turn, ...]
    expect: Expect
    tools: tuple[Tool, ...] = ()
    instructions: str | None = None
    system: str | None = None
    about: Mapping[str, str | int | bool] = field(default_factory=dict, hash=False)
    builtin: tuple[AnyTool, ...] = ()
    formats: tuple[ResponseFormat, ...] = ()

    @property
    def offered(self) -> tuple[AnyTool, ...]:
        """All that may be called."""
        return (*self.tools, *self.builtin)

    @property
    def answer(self) -> str:
        return self.turns[-1].final

    @property
    def compared(self) -> Prompt:
        """What answers are compared with."""
        said = [self.system or "", self.instructions or ""]
        for turn in self.turns:
            said += [turn.user, turn.final]
        lines = [line for text in said[:-1] for line in text.split("\n") if line.strip()]
        expect = self.expect
        asked = self.turns[-1].user
        before = tuple(turn.user for turn in self.turns[:-1])
        return Prompt(self.answer, asked, tuple(lines), expect.told, expect.longest, before)

    @property
    def gold_calls(self) -> tuple[Call, ...]:
        return tuple(step.call for step in self.turns[-1].steps)

    def prompt(
        self, effort: Effort = Effort.MEDIUM, system: SystemContent | None = None
    ) -> tuple[Message, ...]:
        """All messages up to and including the last user message, with analysis in earlier turns.

        A problem with something of its own for the system message has one, whether `system` is
        given or not.
        """
        if self.builtin:
            system = system or SystemContent(effort=effort)
            system = replace(system, namespaces=tuple(tool.namespace for tool in self.builtin))
        if self.system is not None:
            system = system or SystemContent(effort=effort)
            told = self.system if system.identity is None else f"{system.identity}\n{self.system}"
            system = replace(system, identity=told)
        out = [] if system is None else [Message(Role.SYSTEM, system)]
        if self.tools or self.instructions or self.formats:
            functions = tuple(tool.function for tool in self.tools)
            content = DeveloperContent(self.instructions, functions, response_formats=self.formats)
            out.append(Message(Role.DEVELOPER, content))
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
    if call.is_code:  # a part of the thoughts, as gpt-oss was trained to
        return [
            Message(Role.ASSISTANT, call.arguments, None, "analysis", call.name, "code"),
            Message(Role.TOOL, call.result, call.name, "analysis", "assistant"),
        ]
    full = f"{FUNCTIONS}.{call.name}"
    return [
        Message(Role.ASSISTANT, call.arguments, None, "commentary", full, f"{CONSTRAIN}json"),
        Message(Role.TOOL, call.result, full, "commentary", "assistant"),
    ]


# ---- grading -------------------------------------------------------------------------------------


def grade(problem: Problem, final_text: str, calls: Sequence[Call]) -> float:
    """1.0 if the final text and the calls of the last turn are right, else 0.0."""
    expect = problem.expect
    if expect.calls:
        right = call_is_right(problem, calls)
    else:
        right = not calls
    right = right and _final_is_right(problem, final_text)
    if right and expect.judge is not None:
        right = expect.judge(final_text, calls)
    return 1.0 if right else 0.0


def call_is_right(problem: Problem, calls: Sequence[Call]) -> bool:
    """Whether the last call is valid JSON for its schema and asks for the wanted value.

    Where several values are wanted, valid calls must ask for them in their order. A forbidden call
    makes everything wrong.
    """
    expect = problem.expect
    evaluate = expect.evaluate
    if not calls or evaluate is None:
        return False
    if any(call.name in expect.never for call in calls):
        return False
    if not expect.values:
        last = calls[-1]
        if not call_is_valid(problem, last):
            return False
        return evaluate(last.name, last.arguments) == expect.value
    wanted = list(expect.values)
    for call in calls:
        if not wanted:
            break
        if not call_is_valid(problem, call):
            continue
        if evaluate(call.name, call.arguments) == wanted[0]:
            del wanted[0]
    return not wanted


def call_is_valid(problem: Problem, call: Call) -> bool:
    """Whether the call names an offered function and its arguments are JSON for its schema, or a
    tool that reads code.
    """
    if any(tool.namespace.name == call.name for tool in problem.builtin):
        return True
    for tool in problem.tools:
        function = tool.function
        if function.name == call.name:
            schema = function.parameters or {"type": "object"}
            return fits(call.arguments, {"additionalProperties": False, **schema})
    return False


def fits(text: str, schema: Mapping[str, Any]) -> bool:
    """Whether a text is a JSON value of the schema."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return bool(_validator(json.dumps(schema)).is_valid(value))


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    import jsonschema  # type: ignore[import-untyped, unused-ignore]  # slow to import

    return jsonschema.Draft202012Validator(json.loads(schema))


def _final_is_right(problem: Problem, final_text: str) -> bool:
    expect = problem.expect
    prompt = problem.compared
    if not commits(final_text, prompt):
        return False
    if expect.number is not None:
        is_it = last_integer(final_text) == expect.number
        if not (is_it and has_one_number(final_text, expect.number, prompt)):
            return False
    if expect.equals is not None:
        found = last_answer(final_text)
        if plain_words(expect.equals) != plain_words(found):
            return False
    if expect.choices:
        wanted = {n for n, choice in enumerate(expect.choices) if choice == expect.contains}
        return chosen(final_text, expect.choices) == wanted
    plain = plain_words(final_text)
    if expect.contains is not None and plain_words(expect.contains) not in plain:
        return False
    excluded = [plain_words(word) for word in expect.excludes]
    return not any(words in plain for words in excluded)


# ---- splits and seeds ----------------------------------------------------------------------------


def split_of(content: str) -> Split:
    """The split of a piece of content, for ever: the same in every process and version."""
    number = zlib.crc32(content.encode())
    if number % HELD_OUT_SHARE == 0:
        return "held_out"
    return "train"


def example_random(seed: int, split: str, index: int) -> Random:
    """The generator of example `index`: examples are pure functions of (seed, split, index)."""
    return Random(f"{seed}:{split}:{index}")
