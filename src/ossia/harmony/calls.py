"""Calls: whether a message is one, which declared tool it means, and the value of its JSON
arguments.

Knows names and JSON; does not know tokens and runs no tool. Nothing here raises because of what a
model wrote: the answer is a result, or a text for the model.

**Arguments.** Text that is JSON is taken literally: the last value of a repeated key counts. NaN
and Infinity are not JSON, and a number that is out of a float's range or has more digits than
Python reads gives a diagnosis too. Escaped lone surrogates are JSON, and stay. Text that is not
JSON may be mended, in these ways only:

| repair | the mistake that is mended |
|---|---|
| code-fence | three backticks (and a language) around the whole text |
| extra-bracket | a closing bracket that closes nothing |
| missing-bracket | a bracket not closed, at the end or before the bracket around it; see below |
| trailing-comma | a comma before a closing bracket |
| raw-control | a newline, tab or other control character that stands unescaped in a string |

No bracket is added to text that breaks off in a string, a number or a literal, or after a comma or
colon: the `{"amount": 10` of a call may have been meant to be 1000.

A mended value counts only if it validates against the tool's schema (JSON Schema 2020-12, `format`
ignored, references only within the schema). A schema that is itself wrong validates nothing, so
with it, as without any, nothing is mended. The same holds for a schema that has a `pattern` or
`patternProperties` anywhere: regular expressions can take for ever, even on short texts.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from ossia.harmony.messages import FUNCTIONS, Message, Role
from ossia.harmony.validation import Schema, Undecided

Mend = Literal["code-fence", "extra-bracket", "missing-bracket", "trailing-comma", "raw-control"]

NOT_A_CALL = (None, "all", "user", "assistant")  # recipients that are not tools
_PREFIX = f"{FUNCTIONS}."
_NAME = re.compile(r"\w(?:[\w.-]*\w)?")
# Header words without a blank before them.
_GLUED = re.compile(r"(?<=\w)(?:json|code|analysis|commentary|final)$")
_SHOWN = 100  # characters of the model's text that a message to it repeats
# JSON in pieces: strings, one without an end, brackets, commas, and everything between them.
_PIECE = re.compile(r'"(?:[^"\\]++|\\.)*+"|(?P<endless>".*+)|[][{},]|[^][{},"]++', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_LANGUAGE = re.compile(r"^\w*")
_CLOSERS = {"{": "}", "[": "]"}


def is_call(message: Message) -> bool:
    """Whether an assistant's message addresses a tool. The recipient decides, not the channel."""
    return message.role is Role.ASSISTANT and message.recipient not in NOT_A_CALL


@dataclass(frozen=True)
class UnknownTool:
    """A recipient that is not a declared tool; `text` tells the model so, and which tools exist."""

    recipient: str
    text: str


def resolve_recipient(recipient: str | None, tool_names: Iterable[str]) -> str | UnknownTool:
    """The declared tool that a recipient means, by the name under which it is declared.

    `tool_names` are functions (`f` or `functions.f`) and built-in tools (`python`,
    `browser.search`). Tried in this order: the recipient as written; without or with `functions.`;
    without leaked control words, blanks and punctuation (`f<|channel|>commentary`); without a
    header word glued to it (`functions.shelljson`). So an exact match wins. Raises nothing.
    """
    names = list(dict.fromkeys(tool_names))
    for candidate in _meanings(recipient or ""):
        if candidate in names:
            return candidate
    recipient = recipient or ""
    text = "the message names no tool"
    if recipient:
        text = f"there is no tool {_shortened(recipient)!r}"
    text += f"; available: {', '.join(names) or 'none'}"
    similar = _similar(recipient, names)
    if similar:
        text += f"; did you mean {similar!r}?"
    return UnknownTool(recipient, text)


def _meanings(recipient: str) -> Iterator[str]:
    cleaned = _cleaned(recipient)
    for name in (recipient, cleaned, _GLUED.sub("", cleaned)):
        if name:
            bare = name
            while bare.startswith(_PREFIX):
                bare = bare.removeprefix(_PREFIX)
            yield from (name, name.removeprefix(_PREFIX), bare, _PREFIX + bare)


def _cleaned(recipient: str) -> str:
    """The name in the recipient, without the control words that leaked into it."""
    while recipient.startswith("to="):
        recipient = recipient.removeprefix("to=")
    found = _NAME.search(recipient.split("<|", 1)[0])
    return found[0] if found else ""


def _similar(recipient: str, names: list[str]) -> str | None:
    """A declared name worth suggesting: with the same last part, or spelt much alike."""
    wanted = _cleaned(recipient)[:_SHOWN].removeprefix(_PREFIX)
    last = wanted.rpartition(".")[2]
    for name in names:
        if last and last == name.rpartition(".")[2]:
            return name
    bare_names = [name.removeprefix(_PREFIX) for name in names]
    close = difflib.get_close_matches(wanted, bare_names, 1)
    return names[bare_names.index(close[0])] if close else None


def _shortened(text: str) -> str:
    return text[:_SHOWN]


@dataclass(frozen=True)
class Arguments:
    """The arguments of a call.

    `value`: the JSON value, None if the text is not JSON; then `diagnosis` says where and why, and
    `text` is the model's. If the text was mended, `repairs` say how and `text` is the JSON of the
    mended value.
    """

    value: Any
    text: str
    diagnosis: str | None = None
    repairs: tuple[Mend, ...] = ()

    @property
    def repaired(self) -> bool:
        return bool(self.repairs)


def read_arguments(text: str, schema: Schema | Mapping[str, Any] | bool | None = None) -> Arguments:
    """The arguments of a call. `schema`: the tool's parameters, None if it declares none.

    Empty text means `{}`, unless the schema requires a property. The schema serves to judge repairs
    only; whether JSON fits it is for the tool to say. Pass None for a call that may have been cut,
    closed by neither CALL nor END: then nothing is mended. Raises nothing.
    """
    if schema is not None and not isinstance(schema, Schema):
        schema = Schema(schema)
    if not text.strip():
        given = None if schema is None else schema.given
        required = given.get("required") if isinstance(given, dict) else None
        if not required:
            return Arguments({}, text)
        return Arguments(None, text, f"no arguments, but required are {_shortened(str(required))}")
    value, diagnosis = _parsed(text)
    if diagnosis is None:
        return Arguments(value, text)
    mended, repairs = _mended(text) if schema is not None else (None, [])
    if mended is None:
        return Arguments(None, text, diagnosis)
    if _parsed(mended)[1] is not None:
        repairs.append("raw-control")
    value, problem = _parsed(mended, raw_control=True)
    if problem is not None or schema is None or not _fits(value, schema):
        return Arguments(None, text, diagnosis)
    # Lone surrogates stay escaped: as characters they could not be encoded.
    written = _SURROGATE.sub(
        lambda one: f"\\u{ord(one[0]):x}", json.dumps(value, ensure_ascii=False)
    )
    return Arguments(value, written, None, tuple(repairs))


def _parsed(text: str, *, raw_control: bool = False) -> tuple[Any, str | None]:
    """The value, or what is wrong with the text."""
    try:
        value = json.loads(
            text, strict=not raw_control, parse_constant=_refuse, parse_float=_finite
        )
        return value, None
    except json.JSONDecodeError as error:
        found = repr(text[error.pos : error.pos + 20]) if error.pos < len(text) else "the end"
        return None, f"line {error.lineno}, column {error.colno}: {error.msg}, found {found}"
    except RecursionError:
        return None, "nested too deeply"
    except ValueError as error:  # of a number
        return None, str(error)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"the number {_shortened(number)} is out of range")
    return value


def _mended(text: str) -> tuple[str | None, list[Mend]]:
    """The text without a fence, with its brackets and commas put right, and the repairs. None if
    brackets are missing and the text does not end with a bracket or a string: then more may be
    missing.
    """
    text = text.strip()
    is_fenced = len(text) > 6 and text.startswith("```") and text.endswith("```")
    if is_fenced:
        text = _LANGUAGE.sub("", text[3:-3])
    brackets = _Brackets()
    for found in _PIECE.finditer(text):
        if found["endless"]:
            return None, []
        brackets.feed(found[0])
    whole = "".join(brackets.out)
    if brackets.due and not whole.rstrip().endswith(('"', *_CLOSERS, *_CLOSERS.values())):
        return None, []
    fence: list[Mend] = ["code-fence"] if is_fenced else []
    end: list[Mend] = ["missing-bracket"] if brackets.due else []
    repairs = [*fence, *brackets.repairs, *end]
    return whole + "".join(reversed(brackets.due)), list(dict.fromkeys(repairs))


class _Brackets:
    """Puts the brackets and commas of JSON right, piece by piece."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.due: list[str] = []  # closing brackets, the next one last
        self.repairs: list[Mend] = []
        # How many of each bracket are due: searching `due` would take quadratic time.
        self._counts = dict.fromkeys(_CLOSERS.values(), 0)
        # The index of the last comma, if only blanks came after it.
        self._comma: int | None = None

    def feed(self, piece: str) -> None:
        if piece in self._counts:
            if not self._counts[piece]:
                self.repairs.append("extra-bracket")
                return
            self._close(piece)
        elif piece in _CLOSERS:
            self.due.append(_CLOSERS[piece])
            self._counts[_CLOSERS[piece]] += 1
        if piece.strip():
            self._comma = len(self.out) if piece == "," else None
        self.out.append(piece)

    def _close(self, bracket: str) -> None:
        """Before a closing bracket: drops a comma, and closes the brackets that are open inside."""
        if self._comma is not None:
            self.out[self._comma] = ""
            self.repairs.append("trailing-comma")
        while (closer := self.due.pop()) != bracket:
            self.out.append(closer)
            self._counts[closer] -= 1
            self.repairs.append("missing-bracket")
        self._counts[bracket] -= 1


def _fits(value: Any, schema: Schema) -> bool:
    """Whether it is certain. A schema that is itself wrong, or long, fits nothing."""
    try:
        return schema.is_sound and schema.problems(value, certain=True) is None
    except Undecided:
        return False
