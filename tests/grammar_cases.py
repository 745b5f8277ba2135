"""Fifty tool sets with all that a grammar can be asked for, random samples under their masks, and
what must hold.

Shared by the grammar's tests. Nothing here looks inside, but for `counted`: samples are drawn from
the masks, and judged by the strict parser and the `jsonschema` package.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import jsonschema
import numpy as np
import pytest

from ossia.harmony import FunctionTool, Message, StreamParser, builtin_tools
from ossia.harmony.grammar import compiling, kept
from ossia.harmony.grammar.bodies import LarkFormat, RegexFormat
from ossia.harmony.grammar.completion import CustomTool, harmony_grammar
from ossia.harmony.grammar.constraint import HarmonyGrammar
from ossia.tokenizer import Tokenizer

Schema = dict[str, Any]


def obj(required: str = "", extra: Any = False, /, **properties: Any) -> Schema:
    """An object schema; by default closed, and only the named properties required."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": extra,
    }


TEXT, INT, NUMBER, FLAG = ({"type": name} for name in ("string", "integer", "number", "boolean"))
TREE = {
    "$defs": {
        "node": obj(
            "name", name=TEXT, children={"type": "array", "items": {"$ref": "#/$defs/node"}}
        )
    },
    "$ref": "#/$defs/node",
}
SCHEMAS: dict[str, Schema | None] = {
    "none": None,
    "empty": {},
    "open": {"type": "object", "properties": {"a": INT, "b": TEXT}},
    "weather": obj("city", city=TEXT, unit={"enum": ["celsius", "fahrenheit"]}),
    "lengths": obj(
        "a b", a={"type": "string", "minLength": 2, "maxLength": 4}, b={**TEXT, "maxLength": 3}
    ),
    "pattern": obj(
        "id", id={**TEXT, "pattern": r"^[A-Z]{2}-\d{3,4}$"}, tag={**TEXT, "pattern": r"\W"}
    ),
    "dates": obj("day", day={**TEXT, "format": "date"}, at={**TEXT, "format": "date-time"}),
    "net": obj(
        "host",
        host={**TEXT, "format": "hostname"},
        ip={**TEXT, "format": "ipv4"},
        id={"format": "uuid"},
    ),
    "contact": obj("mail", mail={**TEXT, "format": "email"}, page={**TEXT, "format": "uri"}),
    "bounds": obj(
        "n x",
        n={**INT, "minimum": -5, "maximum": 120},
        x={**NUMBER, "exclusiveMinimum": 0, "maximum": 0.5},
    ),
    "steps": obj("n", n={**INT, "multipleOf": 5}, x={**NUMBER, "multipleOf": 0.25, "minimum": -2}),
    "number": obj("x", x=NUMBER, y={**NUMBER, "minimum": 0}, safe={**INT, "maximum": 2**53 - 1}),
    "flags": obj("a", a=FLAG, b={"type": ["boolean", "null"]}, c={"const": "fixed"}),
    "nullable": obj("a b", a={"type": ["string", "null"]}, b={"anyOf": [INT, {"type": "null"}]}),
    "array": obj("xs", xs={"type": "array", "items": INT, "minItems": 1, "maxItems": 4}),
    "tuple": obj(
        "p", p={"type": "array", "prefixItems": [INT, TEXT], "items": False, "minItems": 2}
    ),
    "nested": obj("o", o=obj("p", p=obj("q", q={"type": "array", "items": obj("z", z=FLAG)}))),
    "union": obj("v", v={"anyOf": [TEXT, INT, {"type": "array", "items": TEXT}, obj("k", k=INT)]}),
    "choice": obj(
        "v",
        v={"oneOf": [obj("t a", t={"const": "A"}, a=INT), obj("t b", t={"const": "B"}, b=TEXT)]},
    ),
    "merged": {
        "allOf": [{"properties": {"a": INT}, "required": ["a"]}, {"properties": {"b": TEXT}}]
    },
    "enums": obj(
        "e", e={"enum": ["x", 1, None, True, 2.5, [1, {"k": "v"}], {"o": [None]}, "é\n\x1b"]}
    ),
    "map": {"type": "object", "additionalProperties": INT, "maxProperties": 3},
    "declared": obj("a", TEXT, a=INT, b={"type": "array"}),
    "patterns": {
        "type": "object",
        "patternProperties": {"^x-": INT, "^y-": TEXT},
        "additionalProperties": False,
    },
    "least": {"type": "object", "minProperties": 1, "additionalProperties": FLAG},
    "tree": TREE,
    "ref": {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/p q", "minimum": 3}},
        "$defs": {"p q": INT},
    },
    "names": obj(
        'é x"y', **{"é": INT, 'x"y': TEXT, "": FLAG, "日 本": {"const": "👍"}, "a/b~c": NUMBER}
    ),
    "undeclared": {"type": "object", "required": ["a"], "additionalProperties": INT},
    "described": obj(
        "a", a={**TEXT, "title": "t", "default": "d", "x-hint": [1]}, b={"deprecated": True, **INT}
    ),
    "zod": {"type": "object", "propertyNames": TEXT, "additionalProperties": {"type": "object"}},
    "long": obj(
        "s", s={**TEXT, "maxLength": 2000}, xs={"type": "array", "items": NUMBER, "maxItems": 500}
    ),
    "many": obj("p0 p7", **{f"p{n}": [TEXT, INT, FLAG][n % 3] for n in range(20)}),
    "anything": obj("v", v={}, w=True),
}
LARK = r"""
start: "add" SP sum | "del" SP NAME
sum: INT (SP "+" SP INT)*
SP: " "
NAME: /[a-z_]+/
%import common.INT
"""
LARK_MATCHES = re.compile(r"add \d+( \+ \d+)*|del [a-z_]+", re.ASCII)
PATCH = r"\*\*\* (Add|Delete) File: [\w./-]{1,40}\n(\+.*\n){0,3}"
CUSTOM = (
    CustomTool("free"),
    CustomTool("patch", RegexFormat(PATCH)),
    CustomTool("sum", LarkFormat(LARK)),
)
BUILT_IN = (builtin_tools("python"), builtin_tools("browser"))
RESPONSES: tuple[dict[str, Any] | None, ...] = (
    None,
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "r", "schema": SCHEMAS["choice"]}},
    {"type": "text"},
    {
        "type": "json_schema",
        "schema": {"type": "array", "items": TREE["$defs"]["node"], "maxItems": 2} | TREE,
    },
    {"type": "regex", "pattern": r"^(yes|no), \d{1,3}%$"},
    {"type": "grammar", "syntax": "lark", "definition": LARK},
    {"type": "json_schema", "schema": {"anyOf": [SCHEMAS["dates"], {"type": "null"}]}},
)
RESPONSES[4]["schema"].pop("$ref")  # an array of trees
BUDGETS = (None, 0, 1, 7, 40)


@dataclass(frozen=True)
class Case:
    """One way to ask for a grammar."""

    name: str
    tools: tuple[FunctionTool, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def grammar(self, tokenizer: Tokenizer) -> HarmonyGrammar:
        return harmony_grammar(tokenizer, tools=self.tools, **self.options)


def cases() -> list[Case]:
    """Every schema with changing neighbours, and every choice, response format and budget."""
    found = []
    names = list(SCHEMAS)
    responses, budgets = cycle(RESPONSES), cycle(BUDGETS)
    for n in range(50):
        chosen = [names[n % len(names)], *names[n % 5 : n % 5 + n % 4]]
        tools = tuple(FunctionTool(name, "", SCHEMAS[name]) for name in dict.fromkeys(chosen))
        options = {
            "tool_choice": ("auto", "required", chosen[0], "auto", "none")[n % 5],
            "response_format": next(responses),
            "reasoning_budget": next(budgets) if n % 3 else None,
            "parallel_calls": n % 2 == 0,
        }
        if n % 4 == 1:
            options["custom"] = CUSTOM
        if n % 4 == 2:
            options["namespaces"] = BUILT_IN
        if n % 10 == 9:
            tools, options = (), {**options, "tool_choice": "auto"}
        found.append(Case(f"{n}-{chosen[0]}", tools, options))
    return found


# ---- sampling ----

ENDS = ("<|return|>", "<|call|>", "<|end|>")
SPECIALS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>")
CLOSERS = (b"\n", b'"', b"}", b"]", b"0", b":", b",")


class NoEnd(Exception):
    """A completion that got too long."""


@dataclass
class Sampler:
    """Uniform draws from the allowed tokens; after `soft` tokens mostly such as bring a text to its
    end.
    """

    tokenizer: Tokenizer
    rng: random.Random
    soft: int = 40
    hard: int = 4000

    def __post_init__(self) -> None:
        ids = [self.tokenizer.special(name) for name in ENDS]
        self._closers = ids + [self.tokenizer.vocabulary[token] for token in CLOSERS]

    def completion(self, grammar: HarmonyGrammar) -> list[int]:
        constraint, ids = grammar.start(), []
        while not constraint.is_done:
            if len(ids) >= self.hard:
                raise NoEnd(repr(self.tokenizer.decode(ids)[-200:]))
            ids.append(self._draw(constraint.mask(), len(ids) >= self.soft))
            constraint.advance(ids[-1])
        assert not constraint.mask().any()
        return ids

    def _draw(self, mask: np.ndarray, closing: bool) -> int:
        if closing and self.rng.random() < 0.8:
            for token in self._closers:
                if int(mask[token >> 5]) >> (token & 31) & 1:
                    return token
        for _ in range(50):
            token = self.rng.randrange(32 * len(mask))
            if int(mask[token >> 5]) >> (token & 31) & 1:
                return token
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        assert len(allowed), "nothing may come next"
        return int(self.rng.choice(allowed))


# ---- what must hold ----

Parse = Callable[[list[int]], list[Message]]


def strict_parse(tokenizer: Tokenizer) -> Parse:
    def parse(ids: list[int]) -> list[Message]:
        parser = StreamParser(tokenizer, strict=True)
        parser.feed(ids)
        parser.finish()
        return list(parser.messages)

    return parse


def check(case: Case, ids: list[int], tokenizer: Tokenizer, *parsers: Parse) -> None:
    """The completion is well-formed Harmony, and keeps to everything the case asks for."""
    names = {id: name for name, id in tokenizer.specials.items()}
    assert {names[id] for id in ids if id in names} <= {*ENDS, *SPECIALS}
    assert sum(names.get(id) in ("<|call|>", "<|return|>") for id in ids) == 1
    assert names[ids[-1]] in ("<|call|>", "<|return|>")
    for parse in parsers:
        messages = parse(ids)
        check_order(case, messages, names[ids[-1]])
        for message in messages:
            check_body(case, message)
    check_budget(case, ids, tokenizer)


def check_order(case: Case, messages: list[Message], last: str) -> None:
    choice, options = case.options.get("tool_choice", "auto"), case.options
    calls = [m for m in messages if m.recipient is not None]
    assert all(
        m.role == "assistant" and m.channel in ("analysis", "commentary", "final") for m in messages
    )
    if last == "<|return|>":
        assert not calls and choice in ("auto", "none")
        assert [m.channel == "final" for m in messages] == [False] * (len(messages) - 1) + [True]
    else:
        assert choice != "none" and calls and messages[-1] is calls[-1]
        assert all(m.channel != "final" for m in messages)
        assert len(calls) == 1 or options.get("parallel_calls")
    if choice not in ("auto", "none", "required"):
        assert {m.recipient for m in calls} == {f"functions.{choice}"}
    if (
        not case.tools and not options.get("custom") and not options.get("namespaces")
    ) or choice == "none":
        assert all(m.channel != "commentary" for m in messages)


def check_body(case: Case, message: Message) -> None:
    text, recipient = str(message.content), message.recipient
    if message.channel == "final":
        check_response(case.options.get("response_format"), text)
    elif recipient is not None:
        space, _, name = recipient.rpartition(".")
        if name == "python":
            assert (message.channel, message.content_type) == ("analysis", "code")
        elif space == "browser":
            (tool,) = (tool for tool in BUILT_IN[1].tools if tool.name == name)
            assert (message.channel, message.content_type) == ("analysis", "code")
            check_json(tool.parameters, text)
        elif custom := next(
            (tool for tool in case.options.get("custom", ()) if tool.name == name), None
        ):
            assert (space, message.channel, message.content_type) == (
                "functions",
                "commentary",
                "code",
            )
            check_text(custom.format, text)
        else:
            (function,) = (tool for tool in case.tools if tool.name == name)
            assert (space, message.channel, message.content_type) == (
                "functions",
                "commentary",
                "<|constrain|>json",
            )
            schema = function.parameters
            value = check_json(obj() if schema is None else schema, text)
            assert isinstance(value, dict)
    else:
        assert message.content_type is None


def check_response(wanted: dict[str, Any] | None, text: str) -> None:
    match wanted:
        case {"type": "json_object"}:
            assert isinstance(json.loads(text), dict)
        case {"type": "json_schema"}:
            check_json(wanted.get("json_schema", wanted)["schema"], text)
        case {"type": "regex", "pattern": pattern}:
            assert re.fullmatch(pattern, text)
        case {"type": "grammar"}:
            assert LARK_MATCHES.fullmatch(text)


def check_json(schema: Any, text: str) -> Any:
    value = json.loads(text)
    assert "Infinity" not in json.dumps(value)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(value)
    return value


def check_text(wanted: RegexFormat | LarkFormat | None, text: str) -> None:
    if isinstance(wanted, RegexFormat):
        assert re.fullmatch(wanted.pattern, text), text
    elif wanted is not None:
        assert LARK_MATCHES.fullmatch(text), text


def check_budget(case: Case, ids: list[int], tokenizer: Tokenizer) -> None:
    """Counted token by token: text on analysis that addresses nobody."""
    budget = case.options.get("reasoning_budget")
    spent = sum(1 for _ in thoughts(ids, tokenizer))
    assert budget is None or spent <= budget
    if budget == 0:
        parser = StreamParser(tokenizer, strict=True)
        parser.feed(ids)
        assert all(m.recipient is not None for m in parser.messages if m.channel == "analysis")


def thoughts(ids: list[int], tokenizer: Tokenizer) -> Iterator[int]:
    parser = StreamParser(tokenizer)
    special = set(tokenizer.specials.values())
    for token in ids:
        current = parser.current
        if (
            current is not None
            and current.channel == "analysis"
            and current.recipient is None
            and token not in special
        ):
            yield token
        parser.feed(token)


def samples(case: Case, tokenizer: Tokenizer, count: int, seed: int) -> Iterator[list[int]]:
    grammar, rng = case.grammar(tokenizer), random.Random(seed)
    draw = Sampler(tokenizer, rng)
    return islice((draw.completion(grammar) for _ in iter(int, 1)), count)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The grammars that are compiled from now on."""
    made: list[str] = []
    compile_it = compiling.matcher_of

    def matcher_of(grammar: str, ll: Any) -> Any:
        made.append(grammar)
        return compile_it(grammar, ll)

    monkeypatch.setattr(kept, "matcher_of", matcher_of)
    return made
