"""Calls: whether a message is one, which declared tool it means, and what its JSON arguments say.

Knows names and JSON; nothing of tokens, and it runs no tool. Nothing here raises because of what a
model wrote: the answer is a result, or a text for the model.

**Arguments.** Text that is JSON means what it says: of a key that stands twice the last value
counts, NaN and Infinity are no JSON, and a number beyond a float's range or of more digits than
Python reads is a diagnosis too. Escaped lone surrogates are JSON, and stay. Text that is not JSON
may be mended, in these ways only:

| repair | what is mended |
|---|---|
| code-fence | three backticks (and a language) around the whole text |
| extra-bracket | a closing bracket that closes nothing |
| missing-bracket | a bracket not closed, at the end or before the bracket around it; see below |
| trailing-comma | a comma before a closing bracket |
| raw-control | a newline, tab or other control character that stands unescaped in a string |

No bracket is added to text that breaks off in a string, a number or a literal, or behind a comma or
colon: the `{"amount": 10` of a call may have been meant to be 1000.

A mended value counts only if it validates against the tool's schema (JSON Schema 2020-12, `format`
ignored, references only within the schema). A schema that is itself wrong validates nothing, so
with it, as without any, nothing is mended. Nor with a schema that has a `pattern` or
`patternProperties` anywhere: regular expressions can take for ever, on short texts too.
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

Mend = Literal["code-fence", "extra-bracket", "missing-bracket", "trailing-comma", "raw-control"]

NOBODY = (None, "all", "user", "assistant")  # recipients that are no tool
_PREFIX = f"{FUNCTIONS}."
_NAME = re.compile(r"\w(?:[\w.-]*\w)?")
_GLUED = re.compile(
    r"(?<=\w)(?:json|code|analysis|commentary|final)$"
)  # header words without a blank in front
_SHOWN = 100  # characters of what the model wrote, in what it is told
# JSON in pieces: strings, brackets, commas, a quote that opens an endless string, and all between
# them.
_PIECE = re.compile(r'"(?:[^"\\]++|\\.)*+"|[][{},"]|[^][{},"]++', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_LANGUAGE = re.compile(r"^\w*")
_CLOSERS = {"{": "}", "[": "]"}


def is_call(message: Message) -> bool:
    """Whether an assistant's message addresses a tool: its recipient decides, whatever the channel."""
    return message.role is Role.ASSISTANT and message.recipient not in NOBODY


@dataclass(frozen=True)
class UnknownTool:
    """A recipient that is no declared tool; `text` tells the model so, and what there is."""

    recipient: str
    text: str


def resolve_recipient(recipient: str | None, tool_names: Iterable[str]) -> str | UnknownTool:
    """The declared tool that a recipient means, by the name under which it is declared.

    `tool_names` are functions (`f` or `functions.f`) and built-in tools (`python`,
    `browser.search`). The recipient itself comes first, then without or with `functions.`, then
    what is left of it without leaked control words, blanks and punctuation
    (`f<|channel|>commentary`), then without a header word glued to it (`functions.shelljson`). So
    where names collide, an exact match wins. Raises nothing.
    """
    names = list(dict.fromkeys(tool_names))
    for candidate in _meanings(recipient or ""):
        if candidate in names:
            return candidate
    shown = (
        f"there is no tool {_shortened(recipient)!r}" if recipient else "the message names no tool"
    )
    text = f"{shown}; available: {', '.join(names) or 'none'}"
    similar = _similar(recipient or "", names)
    return UnknownTool(recipient or "", f"{text}; did you mean {similar!r}?" if similar else text)


def _meanings(recipient: str) -> Iterator[str]:
    cleaned = _cleaned(recipient)
    for name in (recipient, cleaned, _GLUED.sub("", cleaned)):
        if name:
            bare = name
            while bare.startswith(_PREFIX):
                bare = bare.removeprefix(_PREFIX)
            yield from (name, name.removeprefix(_PREFIX), bare, _PREFIX + bare)


def _cleaned(recipient: str) -> str:
    """The name in it, without what leaked into the recipient."""
    while recipient.startswith("to="):
        recipient = recipient.removeprefix("to=")
    found = _NAME.search(recipient.split("<|", 1)[0])
    return found[0] if found else ""


def _similar(recipient: str, names: list[str]) -> str | None:
    """A declared name worth suggesting: with the same last part, or spelt much alike."""
    wanted = _cleaned(recipient)[:_SHOWN].removeprefix(_PREFIX)
    last = wanted.rpartition(".")[2]
    same = [name for name in names if last and last == name.rpartition(".")[2]]
    close = difflib.get_close_matches(wanted, [name.removeprefix(_PREFIX) for name in names], 1)
    return next(
        (name for name in same or names if same or name.removeprefix(_PREFIX) in close), None
    )


def _shortened(text: str | None) -> str:
    return (text or "")[:_SHOWN]


@dataclass(frozen=True)
class Arguments:
    """What a call's arguments say.

    `value`: the JSON value, None if the text is not JSON; then `diagnosis` says where and why, and
    `text` is as the model wrote it. If it was mended, `repairs` say how and `text` is the JSON of
    the mended value.
    """

    value: Any
    text: str
    diagnosis: str | None = None
    repairs: tuple[Mend, ...] = ()

    @property
    def repaired(self) -> bool:
        return bool(self.repairs)


def read_arguments(text: str, schema: Mapping[str, Any] | bool | None = None) -> Arguments:
    """The arguments of a call to a tool with these parameters (None: it declares none). Raises
    nothing.

    No text at all means `{}`, unless the schema requires a property. Whether JSON fits the schema
    is the tool's to say; the schema serves to judge repairs. So give none for a call that may have
    been cut, closed by neither CALL nor END: then nothing is mended.
    """
    if not text.strip():
        required = schema.get("required") if isinstance(schema, Mapping) else None
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
    if problem is not None or schema is None or not _validates(value, schema):
        return Arguments(None, text, diagnosis)
    # Lone surrogates stay escaped: as characters they could not be encoded.
    written = _SURROGATE.sub(
        lambda one: f"\\u{ord(one[0]):x}", json.dumps(value, ensure_ascii=False)
    )
    return Arguments(value, written, None, tuple(repairs))


def _parsed(text: str, *, raw_control: bool = False) -> tuple[Any, str | None]:
    """The value, or what is wrong with the text."""
    try:
        return json.loads(
            text, strict=not raw_control, parse_constant=_refuse, parse_float=_finite
        ), None
    except json.JSONDecodeError as error:
        found = repr(text[error.pos : error.pos + 20]) if error.pos < len(text) else "the end"
        return None, f"line {error.lineno}, column {error.colno}: {error.msg}, found {found}"
    except RecursionError:
        return None, "nested too deeply"
    except ValueError as error:  # of a number
        return None, str(error)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"the number {_shortened(number)} is out of range")
    return value


def _mended(text: str) -> tuple[str | None, list[Mend]]:
    """The text without a fence, its brackets and commas put right, and how; None if brackets are
    missing and it does not end behind a bracket or a string: more may be missing.
    """
    repairs: list[Mend] = []
    text = text.strip()
    if len(text) > 6 and text.startswith("```") and text.endswith("```"):
        text = _LANGUAGE.sub("", text[3:-3])
        repairs.append("code-fence")
    out: list[str] = []
    due: list[str] = []  # closing brackets, the next one last
    counts = dict.fromkeys(
        _CLOSERS.values(), 0
    )  # of those due; looking through them would take square time
    comma: int | None = None  # where the comma stands, if that is the last piece but for blanks
    for piece in _PIECE.findall(text):
        if piece == '"':
            return None, []
        if piece in counts:
            if not counts[piece]:
                repairs.append("extra-bracket")
                continue
            if comma is not None:
                out[comma] = ""
                repairs.append("trailing-comma")
            while (closer := due.pop()) != piece:
                out.append(closer)
                counts[closer] -= 1
                repairs.append("missing-bracket")
            counts[piece] -= 1
        elif piece in _CLOSERS:
            due.append(_CLOSERS[piece])
            counts[_CLOSERS[piece]] += 1
        if piece.strip():
            comma = len(out) if piece == "," else None
        out.append(piece)
    whole = "".join(out)
    if due and not whole.rstrip().endswith(('"', *_CLOSERS, *_CLOSERS.values())):
        return None, []
    repairs += ["missing-bracket"] * bool(due)
    return whole + "".join(reversed(due)), list(dict.fromkeys(repairs))


def _validates(value: Any, schema: Mapping[str, Any] | bool) -> bool:
    import jsonschema  # type: ignore[import-untyped, unused-ignore]  # slow to import, and rarely needed
    import referencing

    validator = jsonschema.Draft202012Validator
    try:
        plain = schema if isinstance(schema, bool) else dict(schema)
        validator.check_schema(plain)
        if _has_regex(plain):
            return False
        # With a registry of our own no reference is fetched from the network.
        return bool(validator(plain, registry=referencing.Registry()).is_valid(value))
    except (
        Exception
    ):  # a schema can be wrong in every way: types, references, patterns, endless recursion
        return False


def _has_regex(schema: Any) -> bool:
    """Whether the keywords that hold regular expressions occur. A property may be called `pattern`:
    its value is a schema then, not a string.
    """
    if isinstance(schema, list | tuple):
        return any(map(_has_regex, schema))
    if not isinstance(schema, Mapping):
        return False
    if isinstance(schema.get("pattern"), str) or "patternProperties" in schema:
        return True
    return any(map(_has_regex, schema.values()))
