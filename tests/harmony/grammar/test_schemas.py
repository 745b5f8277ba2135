"""JSON schemas, patterns and formats under the grammar: what is accepted validates, what cannot be
held is refused.

The judges are the `jsonschema` package with its format checks, and Python's `re`.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from itertools import islice
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from amounts import examples
from grammar_cases import NoEnd, Sampler, obj
from grammar_schemas import Misses, Schemas

import ossia
from ossia.errors import GrammarError
from ossia.harmony import FunctionTool
from ossia.harmony.grammar import proofs
from ossia.harmony.grammar import schema as rewriting
from ossia.harmony.grammar.bodies import (
    JsonFormat,
    RegexFormat,
    Vocabulary,
    compile_body,
    vocabulary,
)
from ossia.harmony.grammar.compiling import GivenUp, compiled, giving_up
from ossia.harmony.grammar.completion import CustomTool, harmony_grammar
from ossia.harmony.grammar.kept import CompiledFormat
from ossia.harmony.grammar.patterns import format_pattern, translate_whole
from ossia.harmony.grammar.proofs import DEFINITIONS, MOST_STEPS, Disjointness, Ending
from ossia.harmony.grammar.schema import json_grammar
from ossia.tokenizer import Tokenizer

NANO = Path(ossia.__file__).parent / "assets/nano/tokenizer.json"
CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    return Tokenizer.from_file(NANO)


@pytest.fixture(scope="module")
def tokens(nano: Tokenizer) -> Vocabulary:
    return vocabulary(nano)


def accepts(format: CompiledFormat, text: str, tokenizer: Tokenizer) -> bool:
    ids, walk = tokenizer.encode(text), format.start()
    return walk.try_consume_tokens(ids) == len(ids) and walk.is_accepting()


def accepted(schema: Any, text: str, tokenizer: Tokenizer) -> bool:
    return accepts(compile_body(JsonFormat(schema), vocabulary(tokenizer), "it"), text, tokenizer)


# ---- refused ----

REFUSED = [
    ({"uniqueItems": True}, "/uniqueItems"),
    ({"contains": {}}, "/contains"),
    ({"minContains": 1}, "/minContains"),
    ({"not": {}}, "/not"),
    ({"if": {}, "then": {}}, "/if"),
    ({"dependentRequired": {"a": ["b"]}}, "/dependentRequired"),
    ({"dependentSchemas": {}}, "/dependentSchemas"),
    ({"dependencies": {}}, "/dependencies"),
    ({"propertyNames": {"pattern": "^a"}}, "/propertyNames"),
    ({"unevaluatedProperties": False}, "/unevaluatedProperties"),
    ({"unevaluatedItems": False}, "/unevaluatedItems"),
    ({"$dynamicRef": "#a"}, "/$dynamicRef"),
    ({"items": [{}]}, "/items"),
    ({"additionalItems": False}, "/additionalItems"),
    ({"type": "text"}, "/type"),
    ({"type": "string", "format": "phone"}, "/format"),
    ({"format": "idn-hostname"}, "/format"),
    ({"pattern": "(?=a)b"}, "/pattern"),
    ({"pattern": "a("}, "/pattern"),
    ({"pattern": 1}, "/pattern"),
    ({"minLength": -1}, "/minLength"),
    ({"minLength": "1"}, "/minLength"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, ""),
    ({"minimum": "1"}, "/minimum"),
    ({"exclusiveMinimum": True}, "/exclusiveMinimum"),
    ({"minimum": 2**53}, "/minimum"),
    ({"type": "integer", "minimum": 5, "maximum": 4}, ""),
    ({"type": "number", "multipleOf": 0.01}, "/multipleOf"),
    ({"multipleOf": 0}, "/multipleOf"),
    ({"enum": []}, "/enum"),
    ({"enum": [2**60]}, "/enum/0"),
    ({"const": {"k": 1e300}}, "/const/k"),
    ({"required": True}, "/required"),
    ({"required": [1]}, "/required"),
    ({"properties": []}, "/properties"),
    ({"properties": {"\n": {}}}, ""),
    ({"minProperties": 2}, "/minProperties"),
    (
        {"patternProperties": {"^a": {}}, "additionalProperties": {"type": "string"}},
        "/additionalProperties",
    ),
    ({"type": "object", "patternProperties": {"^a": {}, "b$": {}}}, ""),
    ({"properties": {"a": {}}, "patternProperties": {"^a$": {}}}, "/patternProperties/^a$"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ""),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, ""),
    ({"anyOf": []}, "/anyOf"),
    ({"$ref": "https://example.com/schema"}, "/$ref"),
    ({"$ref": "#/$defs/none"}, "/$ref"),
    ({"$id": "x"}, "/$id"),
    (3, ""),
]


@pytest.mark.parametrize(("schema", "place"), REFUSED, ids=lambda value: json.dumps(value)[:40])
def test_what_cannot_be_held_is_refused_with_its_place(
    schema: Any, place: str, nano: Tokenizer
) -> None:
    tool = FunctionTool(
        "fetch", "", obj("a/b", **{"a/b": {"type": "array", "items": schema, "minItems": 1}})
    )
    with pytest.raises(GrammarError) as caught:
        harmony_grammar(nano, tools=[tool])
    assert str(caught.value).startswith(
        "tool 'fetch': parameters: #/properties/a~1b/items" + place + " "
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        obj("a", a={"$ref": "#"}),
        {
            "$defs": {"x": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/x"}}},
            "$ref": "#/$defs/x",
        },
        {
            "properties": {"a": {"anyOf": [{"$ref": "#/$defs/y"}, {}]}},
            "$defs": {"y": obj("y", y={"$ref": "#/$defs/y"})},
        },
    ],
)
def test_a_schema_without_end_is_refused(schema: Any, tokens: Vocabulary) -> None:
    with pytest.raises(GrammarError, match="no finite value"):
        compile_body(JsonFormat(schema), tokens, "it")


@pytest.mark.parametrize(
    "schema", [{"a": {1, 2}}, {1: {}}, {"enum": ["\ud800"]}, {"const": float("nan")}]
)
def test_a_schema_that_is_no_json_is_refused(schema: Any, tokens: Vocabulary) -> None:
    with pytest.raises(GrammarError, match=r"^it: "):
        compile_body(JsonFormat(schema), tokens, "it")


def test_depth_is_refused_not_fatal(tokens: Vocabulary) -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(GrammarError, match="too deeply"):
        compile_body(JsonFormat(schema), tokens, "it")


def test_a_failure_inside_the_compiler_is_refused(tokens: Vocabulary) -> None:
    """llguidance 1.9 panics over this one; that is no Exception."""
    bounds = {"minimum": -10, "maximum": -10}
    panics = {"anyOf": [{"type": "number", **bounds}, {"type": "integer", **bounds}]}
    with pytest.raises(GrammarError, match="failed over it"):
        compile_body(JsonFormat(panics), tokens, "it")


def test_arguments_are_an_object(nano: Tokenizer) -> None:
    with pytest.raises(GrammarError, match="tool 'f': parameters: #/type must be 'object'"):
        harmony_grammar(nano, tools=[FunctionTool("f", "", {"type": "array"})])


# ---- accepted exactly ----

EXACT: list[tuple[Any, list[str], list[str]]] = [
    # an undeclared key may not be a declared one in disguise
    ({"properties": {"a": {"type": "integer"}}}, ['{"b":"x"}', '{"a":1}'],
        [r'{"\u0061":"x"}', '{"a":"x"}']),
    (obj("", {"type": "string"}, a={}), ['{"aa":"x"}', '{"":"x"}'], ['{"b":1}', r'{"\u0061":"x"}']),
    ({"patternProperties": {"^x": {"type": "integer"}}}, ['{"x1":1}'],
        [r'{"\u0078":""}', '{"x":""}']),
    # the quote and the backslash stay outside of classes without them
    ({"pattern": '^[^"]$', "type": "string"}, ['"a"', r'"\\"', r'"\n"'], [r'"\""', '""']),
    ({"pattern": r"^[^\\]$", "type": "string"}, ['"a"', r'"\""'], [r'"\\"']),
    (obj("", {"type": "string"}, **{"\\": {"type": "integer"}}), [r'{"\\":1}', r'{"\\\\":"x"}'],
        [r'{"\\":"x"}']),
    # exclusive bounds within one unit
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, ["0.25", "0.5"],
        ["0", "0.0", "-0", "0.51"]),
    ({"type": "number", "exclusiveMinimum": -1.5, "exclusiveMaximum": -1}, ["-1.25"],
        ["-1", "-1.0", "-1.5"]),
    ({"type": "number", "exclusiveMaximum": 1}, ["0.5"], ["1", "0.9999999999999999999"]),
    ({"type": "integer", "exclusiveMinimum": 0.5, "exclusiveMaximum": 3}, ["1", "2"],
        ["0", "3", "1.5"]),
    ({"type": "integer", "maximum": 2**63}, [str(2**53 - 1)], [str(2**63 + 1)]),
    ({"type": "integer", "multipleOf": 5}, ["-10", "0"], ["7", "10.0"]),
    # unions, and objects told apart by a key
    ({"oneOf": [{"const": 1}, {"const": 2}]}, ["1", "2"], ["3"]),
    ({"oneOf": [{"$ref": "#/$defs/a"}, {"type": "null"}], "$defs": {"a": {"type": "string"}}},
        ["null", '""'], ["1"]),
    (
        {
            "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
            "discriminator": {"propertyName": "t"},
            "$defs": {"a": obj("t", t={"const": "a"}), "b": obj("t n", t={"const": "b"},
                n={"type": "integer"})},
        },
        ['{"t":"a"}', '{"t":"b","n":1}'],
        ['{"t":"b"}', '{"t":"c"}'],
    ),
    # counts of keys
    ({"properties": {"a": {}, "b": {}}, "minProperties": 1, "type": "object"},
        ['{"b":1}', '{"a":1,"b":2}'], ["{}"]),
    ({"properties": {"a": {}, "b": {}}, "maxProperties": 1, "type": "object"}, ["{}", '{"b":1}'],
        ['{"a":1,"b":2}']),
    # references, in all spellings and to anywhere
    ({"properties": {"a": {"$ref": "#/properties/b%20c/items"},
        "b c": {"items": {"type": "null"}}}}, ['{"a":null}'],
     ['{"a":1}']),
    ({"additionalProperties": {"type": "integer"},
        "properties": {"x": {"$ref": "#/additionalProperties"}}},
     ['{"x":1,"y":2}'], ['{"x":"1"}', '{"y":"1"}']),
    ({"anyOf": [{"$ref": "#/x-types/0"}], "x-types": [{"type": "null"}]}, ["null"], ["1"]),
    ({"items": {"$ref": "#"}, "type": "array", "maxItems": 1}, ["[]", "[[[]]]"],
        ["[1]", "[[],[]]"]),
    # constants of any kind, and with control characters
    ({"const": "\x1b\n\x7f"}, [r'"\u001b\n\u007f"'], [r'"\n"', r'"\u001b\n"']),
    ({"enum": [{"a": [1, 2.5]}, "é", True]}, ['{"a":[1,2.5]}', '"é"', "true"],
        ['{"a":[1]}', "1", "{}"]),
    ({"type": "string", "enum": ["a", 1]}, ['"a"'], ["1"]),
    # lengths count characters, however they are written
    ({"type": "string", "minLength": 2, "maxLength": 2},
     ['"👍é"', r'"\n\u0001"'], ['"a"', '"abc"']),
    # annotations and what the standard does not know mean nothing
    ({"title": 1, "default": 2, "examples": 3, "nullable": True, "x": {"not": {}}, "type": "null"},
        ["null"], ["1"]),
    ({"type": "integer", "format": "int32"}, ["1"], ['"1"']),
    ({"uniqueItems": False, "propertyNames": {"type": "string"}, "type": "object"}, ["{}"], ["[]"]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), EXACT, ids=lambda value: json.dumps(value)[:40])
def test_texts_in_and_out(schema: Any, good: list[str], bad: list[str], nano: Tokenizer) -> None:
    assert [accepted(schema, text, nano) for text in good] == [True] * len(good)
    assert [accepted(schema, text, nano) for text in bad] == [False] * len(bad)
    for text in good:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


def test_blanks_are_allowed_but_end(nano: Tokenizer) -> None:
    schema = obj("a", a={"type": "array"})
    assert accepted(schema, '{\n    "a" : [ 1, 2 ]\n}', nano)
    assert not accepted(schema, '{"a":[' + " " * 9 + "1]}", nano)
    assert not accepted(schema, '{\n\n"a":[]}', nano)
    assert not accepted(schema, ' {"a":[]}', nano) and not accepted(schema, '{"a":[]} ', nano)


@pytest.mark.parametrize("count", [examples(800), pytest.param(20_000, marks=pytest.mark.slow)])
def test_random_schemas(count: int, nano: Tokenizer, tokens: Vocabulary) -> None:
    """Samples validate, and so does every near miss that is accepted. Most schemas have to be
    enforceable.
    """
    compiled = 0
    for seed in range(count):
        rng = random.Random(seed)
        schema = Schemas(rng).document()
        try:
            grammar = harmony_grammar(nano, response_format=JsonFormat(schema), reasoning_budget=0)
            matcher = compile_body(JsonFormat(schema), tokens, "it")
        except GrammarError:
            continue
        compiled += 1
        validator = jsonschema.Draft202012Validator(schema, format_checker=CHECKER)
        draw = Sampler(nano, rng, soft=25, hard=400)
        values = []
        for _ in range(3):
            try:
                text = nano.decode(draw.completion(grammar)[3:-1])
            except NoEnd:  # blind draws may not hit what a pattern waits for
                continue
            values.append(json.loads(text))
            assert validator.is_valid(values[-1]), f"seed {seed}: {text} under {schema}"
        for _ in range(20 * bool(values)):
            value = rng.choice(values)
            for _ in range(rng.randrange(1, 4)):
                value = Misses(rng).change(value)
            text = Misses(rng).text(value)
            if accepts(matcher, text, nano):
                assert validator.is_valid(json.loads(text)), f"seed {seed}: {text} under {schema}"
    assert compiled > 0.3 * count


# ---- patterns and formats ----


@pytest.mark.parametrize(
    "pattern",
    [r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", ".", r"[^\d]", r"[^\W]", r"[\Sx]", r"[^a\s]"],
)
def test_classes_match_no_character_that_python_does_not(
    pattern: str, nano: Tokenizer, tokens: Vocabulary
) -> None:
    odd = [
        code
        for code in range(0x3000, 0x20000)
        if unicodedata.category(chr(code)) in ("Nd", "Nl", "No", "Zs", "Cf")
    ]
    matcher = compile_body(RegexFormat(pattern), tokens, "it")
    matched = 0
    for char in map(chr, [*range(0x600), *odd[::3], 0x2028, 0x3000, 0xFEFF, 0x1F600]):
        if accepts(matcher, char, nano):
            matched += 1
            assert re.fullmatch(pattern, char), hex(ord(char))
    assert matched


PATTERN_REFUSED = [
    *(r"(?!a)b", r"(?<=a)b", r"(a)\1", r"\bword", r"(?i)a", r"a++", r"a*+", r"\p{L}", r"\Aa",
        r"a{,3}", "[]a]", "a**"),
    *("(", "*", r"^*", r"\x0", "\x00", r"(?>a)", r"(?#a)", "[z-a]", "\ud800"),
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERN_REFUSED)
def test_patterns_that_dialects_read_differently_are_refused(pattern: str, nano: Tokenizer) -> None:
    with pytest.raises(GrammarError, match="custom tool 'c': the pattern"):
        harmony_grammar(nano, custom=[CustomTool("c", RegexFormat(pattern))])


def test_a_whole_pattern_needs_no_anchors_and_bears_outer_ones() -> None:
    assert translate_whole("^a|b$") == translate_whole("a|b") == "a|b"
    for inner in ("a^b", "a$b", "(^a)", "a(b$)"):
        with pytest.raises(GrammarError, match="in its middle"):
            translate_whole(inner)


@pytest.mark.parametrize("pattern", ["a^", r"[^\s\S]"])
def test_a_pattern_without_a_match_is_refused(pattern: str, tokens: Vocabulary) -> None:
    with pytest.raises(GrammarError):
        compile_body(JsonFormat({"type": "string", "pattern": pattern}), tokens, "it")


FORMATS = {
    "date": (
        ["2024-02-29", "0001-01-01"],
        ["2023-02-29", "1900-02-29", "0000-01-01", "2024-04-31"],
    ),
    "time": (["12:30:00Z", "23:59:59.5+02:00"], ["12:30:00", "24:00:00Z", "23:59:60Z"]),
    "date-time": (
        ["2024-01-01T00:00:00Z", "2024-01-01T00:00:00.123-07:00"],
        ["2024-01-01", "2024-13-01T00:00:00Z"],
    ),
    "duration": (["P1DT12H", "PT5M", "P2W", "P3Y6M4DT12H30M5S"], ["P", "PT", "P1H", "1D", "P1YT"]),
    "email": (
        ["a.b+c@example.co.uk", "x" * 22 + "@" + "y" * 60 + ".com"],
        ["a", "@b", "a@", "a b@c"],
    ),
    "hostname": (
        ["example.com", "localhost", "3com.com", "a" * 63 + ".com"],
        ["-a.b", "a..b", "a-", "1.2.3.4", "a_b"],
    ),
    "ipv4": (["127.0.0.1", "255.255.255.255"], ["256.1.1.1", "1.2.3", "01.2.3.4"]),
    "ipv6": (
        ["::1", "fe80::1", "1:2:3:4:5:6:7:8", "2001:db8::8a2e:370:7334"],
        ["1::2::3", ":1", "1:2", "12345::"],
    ),
    "uuid": (["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000"]),
    "uri": (
        [
            "https://example.com/a?x=1#f",
            "mailto:a@b.de",
            "http://localhost:8080",
            "postgres://me:p%40ss@db.example.com:5432/x",
            "file:///etc/hosts",
            "http://127.0.0.1:80/a",
            "https://" + "a" * 60 + ".s3.amazonaws.com/",
            "git+ssh://git@github.com/a/b.git",
        ],
        ["a", "/a", "http://a b", ":x"],
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str, nano: Tokenizer, tokens: Vocabulary) -> None:
    good, bad = FORMATS[name]
    matcher = compile_body(JsonFormat({"type": "string", "format": name}), tokens, "it")
    assert [accepts(matcher, json.dumps(text), nano) for text in (*good, *bad)] == [True] * len(
        good
    ) + [False] * len(bad)
    grammar = harmony_grammar(
        nano, response_format=JsonFormat({"format": name, "type": "string"}), reasoning_budget=0
    )
    draw = Sampler(nano, random.Random(0), soft=12)
    for ids in islice(iter(lambda: draw.completion(grammar), None), 60):
        assert CHECKER.conforms(json.loads(nano.decode(ids[3:-1])), name), nano.decode(ids)


def test_unknown_formats_have_no_pattern() -> None:
    assert format_pattern("phone") is None


def test_the_part_that_is_wrong_is_not_looked_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With thousands of parts, each compiled with all definitions, that took a minute."""
    sizes: list[int] = []

    def noted(schema: Any) -> tuple[str, str]:
        sizes.append(len(json.dumps(schema)))
        return compiled(schema)

    monkeypatch.setattr(rewriting, "compiled", noted)
    large = obj(
        "",
        True,
        **{
            f"p{n}": {"type": "string", "enum": [f"v{n}_{m}" for m in range(20)]}
            for n in range(2000)
        },
    )
    with pytest.raises(GrammarError, match="too large"):
        rewriting.json_grammar(large, "it")
    assert sum(sizes) < 4 * rewriting.SEARCHED


TEXTS = {"type": ["string"]}


def test_disjointness_has_one_budget_for_a_document() -> None:
    deep: Any = {"type": ["string"]}
    for _ in range(7):
        names = [f"k{n}" for n in range(20)]
        deep = {"type": ["object"], "properties": dict.fromkeys(names, deep), "required": names}
    tagged = [
        {"type": ["object"], "properties": {"t": {"const": n}}, "required": ["t"]} for n in "ab"
    ]
    disjoint = Disjointness({})
    assert disjoint(*tagged)
    assert MOST_STEPS - disjoint.steps < 10
    assert not disjoint(deep, {**deep})
    assert -100 < disjoint.steps < 0
    assert not disjoint(*tagged), "what is asked later is not proved"


def test_three_hundred_tagged_options_are_proved_within_the_budget() -> None:
    definitions: dict[str, Any] = {}
    for n in range(300):
        properties = {"a": TEXTS, "b": TEXTS, "kind": {"const": f"kind {n}"}}
        one = {"type": ["object"], "properties": properties, "required": list(properties)}
        definitions[str(n)] = one
    disjoint = Disjointness(definitions)
    first, *others = [{"$ref": f"#/$defs/{n}"} for n in definitions]
    assert all(disjoint(first, other) for other in others)
    pairs = 300 * 299 / 2
    assert (MOST_STEPS - disjoint.steps) / len(others) * pairs < MOST_STEPS


def ends_slowly(schema: Any, ending: set[str]) -> bool:
    """Whether a schema has a finite value, by the letter; the definitions `ending` have one."""
    if isinstance(schema, bool):
        return True
    parts = [ends_slowly(option, ending) for option in schema.get("allOf", ())]
    parts += [schema["$ref"][len(DEFINITIONS) :] in ending] if "$ref" in schema else []
    for key in ("anyOf", "oneOf"):
        if key in schema:
            parts.append(any(ends_slowly(option, ending) for option in schema[key]))
    types = schema.get("type", ["string"])
    values = [schema.get("properties", {}).get(name, True) for name in schema.get("required", ())]
    items = [*schema.get("prefixItems", ()), schema.get("items", True)][: schema.get("minItems", 0)]
    shapes = ["string" in types or "const" in schema]
    shapes.append("object" in types and all(ends_slowly(value, ending) for value in values))
    shapes.append("array" in types and all(ends_slowly(item, ending) for item in items))
    return all(parts) and any(shapes)


def any_schema(rng: random.Random, names: list[str], depth: int = 2) -> Any:
    def inner() -> Any:
        return any_schema(rng, names, depth - 1)

    match rng.randrange(7) if depth else 0:
        case 0 | 1:
            return {"$ref": DEFINITIONS + rng.choice(names)} if rng.random() < 0.8 else True
        case 2 | 3:
            found = {name: inner() for name in "abc"}
            return {"type": ["object"], "properties": found, "required": rng.sample("abcd", 2)}
        case 4:
            shape = {"prefixItems": [inner()], "items": inner(), "minItems": rng.randrange(3)}
            return {"type": rng.choice([["array"], ["array", "object"]]), **shape}
        case 5:
            return {rng.choice(["anyOf", "oneOf"]): [inner(), inner()]}
        case _:
            return {"allOf": [inner(), {"const": 1}]}


def test_which_definitions_end() -> None:
    rng = random.Random(5)
    seen = set()
    for _ in range(300):
        names = [f"d{n}" for n in range(8)]
        definitions = {name: any_schema(rng, names) for name in names}
        expected: set[str] = set()
        found = Ending(definitions)
        for late in ("", rng.choice(names)):  # which has no value at first, and is then any value
            if late:
                found.add(late)
                expected.add(late)
            for _ in names:
                expected |= {n for n in names if ends_slowly(definitions[n], expected)}
            assert {name for name in names if name in found} == expected, definitions
            seen.add(len(expected))
    assert len(seen) == 9


@pytest.mark.parametrize("step", [1, -1])
def test_a_chain_of_definitions_costs_what_it_is_long(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits: list[None] = []
    monkeypatch.setattr(proofs, "check_wanted", lambda: visits.append(None))
    costs = []
    for length in (200, 400):
        visits.clear()
        chain: dict[str, Any] = {}
        for n in range(length):
            following = {"$ref": f"{DEFINITIONS}{(n + step) % length}"}
            chain[str(n)] = {"type": ["object"], "properties": {"a": following}, "required": ["a"]}
        assert "7" not in Ending(chain)
        chain["0"] = {"type": ["string"]}
        assert "7" in Ending(chain)
        costs.append(len(visits))
    assert costs[1] <= 2 * costs[0] + 2


@pytest.mark.parametrize("key", ["oneOf", "properties"])
def test_proofs_end_when_nobody_waits(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [{"const": n} for n in range(50)]
    named = {str(n): {"$ref": f"#/$defs/{n}"} for n in range(50)}
    schema = {"oneOf": many} if key == "oneOf" else {key: named}
    asked: list[bool] = []

    def gone() -> bool:
        asked.append(True)
        return len(asked) >= 5

    monkeypatch.setattr(rewriting, "compiled", lambda schema: pytest.fail("it was compiled"))
    with giving_up(gone), pytest.raises(GivenUp):
        json_grammar({**schema, "$defs": {name: {} for name in named}}, "it")
    assert len(asked) == 5


def test_declared_keys_are_not_compiled_once_for_every_pattern(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []

    def counted(schema: Any) -> Any:
        sizes.append(len(json.dumps(schema)))
        return compiled(schema)

    monkeypatch.setattr(rewriting, "compiled", counted)
    named = {f"name {n}": True for n in range(100)}
    others = {f"^x{n}_": True for n in range(20)} | {"^[0-9]$": True}
    schema = {"properties": named, "patternProperties": others, "additionalProperties": False}
    json_grammar(schema, "it")
    *checks, _ = sizes
    assert sum(size > 500 for size in checks) == 1, "only of the pattern without a longer key"
    with pytest.raises(GrammarError, match="matches no keys but those"):
        json_grammar({**schema, "patternProperties": {"^name 1$": True}}, "it")
