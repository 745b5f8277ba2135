"""The faithful text of JSON schemas: nothing is lost, nothing breaks out of its comment, plain ones
are official.
"""

from __future__ import annotations

import json
import random
import re
from types import MappingProxyType
from typing import Any

import pytest
from amounts import examples, seeds
from harmony_schemas import NastySchemas, PlainSchemas, ProperSchemas
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import seconds, steps

from ossia.errors import RenderError
from ossia.harmony import (
    DeveloperContent,
    FunctionTool,
    ResponseFormat,
    Style,
    schema_to_typescript,
)
from ossia.harmony.content import developer_text
from ossia.harmony.official.rules import rules_for

STRING, NUMBER, NULL = {"type": "string"}, {"type": "number"}, {"type": "null"}
ENUM = {"type": "string", "enum": ["a", "b"]}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (True, "any"),
        (False, "never"),
        (None, "any"),
        ({}, "any"),
        (NULL, "null"),
        ({"type": "integer"}, "number"),
        # alternatives
        ({"anyOf": [STRING, NULL]}, "string | null"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"type": "string", "nullable": True}, "string | null"),
        ({"type": "string", "enum": ["null"], "nullable": True}, '"null" | null'),
        ({"anyOf": [{"type": ["string", "null"]}], "nullable": True}, "string | null"),
        ({"oneOf": [STRING, {"anyOf": [NUMBER, NULL]}, STRING]}, "string | number | null"),
        ({"type": ["integer", "number", "object", "array"]}, "number | object | Array<any>"),
        # together
        ({"allOf": [STRING, {"minLength": 2}, {"pattern": "x"}]},
            'string /* minLength: 2, pattern: "x" */'),
        ({"allOf": [{"anyOf": [STRING, NUMBER]}, ENUM]}, '(string | number) & ("a" | "b")'),
        ({"type": "string", "anyOf": [{"minLength": 9}, {"const": ""}]},
            'string /* minLength: 9 */ | ""'),
        # values
        ({"const": 1.5}, "1.5"),
        ({"const": {"a": [None]}}, '{"a":[null]}'),
        ({"enum": ["a", 1, None, True, "a"]}, '"a" | 1 | null | true'),
        ({"type": "integer", "enum": [1, 2**70]}, "1 | 1180591620717411303424"),
        ({"type": "string", "enum": ['"', "\n", "\u2028"]}, r'"\"" | "\n" | "\u2028"'),
        ({"enum": []}, "never"),
        # arrays
        ({"type": "array", "items": ENUM}, '("a" | "b")[]'),
        ({"type": "array", "items": {"type": ["string", "null"]}}, "(string | null)[]"),
        ({"type": "array", "items": {"allOf": [ENUM, STRING]}}, '(("a" | "b") & string)[]'),
        ({"type": "array"}, "Array<any>"),
        ({"items": STRING}, "string[]"),
        ({"type": "array", "items": {**STRING, "description": "a name", "minLength": 1},
            "minItems": 2},
         "string[] /* items (a name, minLength: 1), minItems: 2 */"),
        ({"type": "array", "prefixItems": [NUMBER, STRING]}, "[number, string, ...any[]]"),
        ({"type": "array", "prefixItems": [NUMBER, STRING], "items": False}, "[number, string]"),
        ({"type": "array", "items": [NUMBER, STRING], "additionalItems": ENUM},
            '[number, string, ...("a" | "b")[]]'),
        ({"prefixItems": [NUMBER, {**STRING, "description": "*/"}], "maxItems": 2},
         r"[number, string /* *\/ */] /* maxItems: 2 */"),
        # references that lead nowhere, and words that mean nothing
        ({"$ref": "other.json#/x"}, 'any /* unresolved $ref: "other.json#/x" */'),
        ({"$ref": "#/$defs/gone"}, 'any /* unresolved $ref: "#/$defs/gone" */'),
        ({"$ref": 3}, "any /* unresolved $ref: 3 */"),
        ({"type": "str"}, 'any /* type: "str" */'),
        ({"type": "string", "not": {"const": "x"}}, 'string /* not: {"const":"x"} */'),
    ],
)  # fmt: skip
def test_types(schema: Any, expected: str) -> None:
    assert schema_to_typescript(schema) == expected


PROPERTIES = {
    "limit": {
        "type": "integer",
        "minimum": 1,
        "maximum": 10,
        "default": 3,
        "description": "How many.\r\nAt most 10.",
    },
    "user-id": {"type": "string", "format": "uuid", "default": "a\nb"},
    "unit": {**ENUM, "default": "a", "examples": ["a", "\n", 1]},
    "maybe": {"anyOf": [{**STRING, "minLength": 3}, NULL], "default": None, "title": "Maybe"},
    "either": {
        "anyOf": [{**STRING, "description": "a name"}, {**NUMBER, "minimum": 0}],
        "description": "Which.",
    },
    "one": {
        "oneOf": [{"const": "a", "description": "first"}, {"const": "b"}],
        "type": "string",
        "nullable": True,
    },
    "map": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
    "free": {"type": "object", "additionalProperties": True, "patternProperties": {"^x-": STRING}},
    "key": {
        "type": "object",
        "properties": {"id": STRING, "name": STRING},
        "anyOf": [{"required": ["id"]}, {"required": ["name"]}],
    },
    "rows": {
        "type": "array",
        "items": {"type": "object", "properties": {}, "required": ["a b"]},
        "uniqueItems": True,
    },
}
LINES = """\
{
// How many.
// At most 10.
limit: number, // default: 3, integer, minimum: 1, maximum: 10
"user-id"?: string, // default: "a\\nb", format: "uuid"
// Examples:
// - "a"
// - "\\n"
// - 1
unit?: "a" | "b", // default: a
// Maybe
//
maybe?: string | null, // default: null, minLength: 3
// Which.
either?:
 | string // a name
 | number // minimum: 0
,
one?:
 | "a" // first
 | "b"
 | null
,
map?: {
    [key: string]: number, // integer, minimum: 0
    },
free?: {
    [key: string]: string, // keys matching "^x-"
    [key: string]: any,
    },
key?: {
    id?: string,
    name?: string,
    } & ({
    id: any,
    } | {
    name: any,
    }),
rows?: {
    "a b": any,
    }[], // uniqueItems: true
}"""


def test_properties() -> None:
    schema = {"type": "object", "properties": PROPERTIES, "required": ["limit"]}
    assert schema_to_typescript(schema) == LINES


NODE = {
    "title": "Node",
    "description": "A tree.",
    "type": "object",
    "properties": {
        "value": STRING,
        "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
    },
    "required": ["value"],
}
TREE = """\
// A tree.
type Node = {
value: string,
children?: Node[],
};"""


def test_definitions_are_declared_once() -> None:
    properties = {"a": {"$ref": "#/$defs/Node"}, "b": {"anyOf": [{"$ref": "#/$defs/Node"}, NULL]}}
    schema = {"type": "object", "properties": properties, "$defs": {"Node": NODE, "Unused": STRING}}
    assert schema_to_typescript(schema) == TREE + "\n\n{\na?: Node,\nb?: Node | null,\n}"


def test_odd_names_of_definitions() -> None:
    ref = {"$ref": "#/definitions/a~1b%20c"}
    schema = {
        "anyOf": [ref, {"$ref": "#/definitions/string"}],
        "definitions": {"a/b c": STRING, "string": NUMBER},
    }
    expected = (
        '// "a/b c"\ntype a_b_c = string;\n\n// "string"\ntype string_2 = number;\n\na_b_c '
        "| string_2"
    )
    assert schema_to_typescript(schema) == expected


def test_a_root_that_contains_itself() -> None:
    schema = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    assert schema_to_typescript(schema) == "type Root = {\nnext?: Root,\n};\n\nRoot"
    circle = {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    }
    assert schema_to_typescript(circle) == "type a = b;\n\ntype b = a;\n\na"


def test_definitions_of_several_tools() -> None:
    """Equal ones are shared, different ones of one name and those named like a tool get names of
    their own.
    """

    def tool(name: str, definition: Any, key: str = "Node") -> FunctionTool:
        parameters = {
            "type": "object",
            "properties": {"n": {"$ref": f"#/$defs/{key}"}},
            "$defs": {key: definition},
        }
        return FunctionTool(name, f"Calls {name}.", parameters)

    tools = (tool("f", NODE), tool("g", NODE), tool("h", NUMBER), tool("i", STRING, "f"))
    text = developer_text(DeveloperContent(tools=tools))
    assert text.count("type Node = {") == text.count("type Node_2 = number;") == 1
    assert '// "f"\ntype f_2 = string;\n\n// Calls i.\ntype i = (_: {\nn?: f_2,\n}) => any;' in text
    for name, used in (("f", "Node"), ("g", "Node"), ("h", "Node_2"), ("i", "f_2")):
        assert f"// Calls {name}.\ntype {name} = (_: {{\nn?: {used},\n}}) => any;\n\n" in text
    assert f"namespace functions {{\n\n{TREE}\n\n// Calls f.\n" in text
    compat = developer_text(DeveloperContent(tools=tools), rules=rules_for("compat"))
    assert "Node" not in compat and compat.count("n?: any,") == 4


def test_descriptions_of_tools_stay_comments() -> None:
    tool = FunctionTool("f", "one\rtwo\u2028three\r\nfour\n")
    assert "// one\n// two\n// three\n// four\ntype f = () => any;" in developer_text(
        DeveloperContent(tools=(tool,))
    )


def test_plain_schemas_read_as_the_official_text() -> None:
    for seed in seeds(1500):
        schema = PlainSchemas(random.Random(seed)).object()
        assert schema_to_typescript(schema) == schema_to_typescript(schema, "compat"), json.dumps(
            schema
        )


def test_nothing_is_lost() -> None:
    """Every value, name, bound, pattern, default, example and description stands in the text."""
    for seed in seeds(800):
        schemas = ProperSchemas(random.Random(seed))
        schema = schemas.whole()
        text = schema_to_typescript(schema).replace("*\\/", "*/")
        for value in schemas.told:
            assert told(value, text), (seed, value, json.dumps(schema))


def told(value: Any, text: str) -> bool:
    written = json.dumps(value, ensure_ascii=False).replace("\u2028", "\\u2028")
    if not isinstance(value, str):
        return written in text
    return written[1:-1] in text or all(line in text for line in value.splitlines())


any_text = st.builds(
    "{}EVIL {}".format,
    st.text(max_size=6),
    st.sampled_from(["", "*/", "\n", "\r", '"', "\u2028", "//"]),
)


@given(texts=st.lists(any_text, min_size=8, max_size=8))
@settings(max_examples=examples(200), deadline=None)
def test_no_text_breaks_out(texts: list[str]) -> None:
    """Without its comments and strings the text holds none of them."""
    a, b, c, d, e, f, g, h = texts
    inner = {
        "description": a,
        "title": b,
        "enum": [c],
        "default": d,
        "examples": [e],
        "pattern": f,
        "format": g,
    }
    shapes: list[Any] = [
        inner,
        {"type": "array", "items": inner},
        {"oneOf": [inner, {"const": h}], "description": b},
    ]
    shapes += [
        {"prefixItems": [inner, {**inner, "type": "string"}]},
        {"anyOf": [inner, inner | {"const": a}]},
    ]
    shapes += [
        {"type": "object", "patternProperties": {a: inner}, "description": c},
        {"allOf": [inner, {"title": a}]},
    ]
    schema = {
        "type": "object",
        "properties": {f"{h}{n}": shape for n, shape in enumerate(shapes)},
        "$defs": {"x": inner},
    }
    schema |= {
        "description": g,
        "required": [a],
        "additionalProperties": {"$ref": "#/$defs/x", "default": a},
    }
    schema["not"] = {"const": f, "$ref": g}
    assert "EVIL" in schema_to_typescript(schema)
    assert "EVIL" not in without_comments(schema_to_typescript(schema))


def without_comments(text: str) -> str:
    line = r"//[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]*"
    return re.sub(rf'"(?:[^"\\\n]|\\.)*"|/\*.*?\*/|{line}', "", text, flags=re.DOTALL)


def test_any_mapping_and_sequence_will_do() -> None:
    schema = MappingProxyType(
        {"type": "object", "properties": MappingProxyType({"a": {"enum": (1, 2)}})}
    )
    assert schema_to_typescript(schema) == "{\na?: 1 | 2,\n}"


def test_any_json_has_a_text() -> None:
    for seed in seeds(1500):
        schemas = NastySchemas(random.Random(seed))
        for schema in (schemas.schema(), schemas.json(), schemas.value()):
            assert isinstance(schema_to_typescript(schema), str)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    nested: Any = {}
    for _ in range(600):
        nested = {"type": "array", "items": nested}
    circular: dict[str, Any] = {}
    circular["properties"] = {"a": circular}
    for schema in (deep, nested, circular, {"a": {1}}, float("inf"), 10**5000):
        with pytest.raises(RenderError, match="JSON schema"):
            schema_to_typescript(schema)


@pytest.mark.parametrize("style", ["faithful", "compat"])
@pytest.mark.parametrize("member", [False, True])
def test_how_deep_a_schema_may_be(style: Style, member: bool) -> None:
    """100 objects and lists in each other, whatever the style, the keywords and the stack of the
    caller.
    """

    def deep(levels: int) -> Any:
        schema: Any = STRING
        for _ in range(levels - 1):
            schema = {"items": schema, "type": "array"}
        return {"prefixItems": [schema]} if member else {"type": "array", "items": schema}

    def write(schema: Any, frames: int) -> str:
        return write(schema, frames - 1) if frames else schema_to_typescript(schema, style)

    most = 98 if member else 99
    for frames in (0, 200):
        assert isinstance(write(deep(most), frames), str)
        with pytest.raises(RenderError, match="more than 100 levels of objects and lists"):
            write(deep(most + 1), frames)
    with pytest.raises(RenderError, match="more than 100 levels"):
        developer_text(DeveloperContent(response_formats=(ResponseFormat("x", deep(most + 1)),)))


def test_unknown_styles_are_refused() -> None:
    with pytest.raises(RenderError, match="unknown style 'faithfull': use 'faithful' or 'compat'"):
        schema_to_typescript(STRING, "faithfull")  # type: ignore[arg-type]


def test_the_title_of_the_whole_schema_is_not_shown() -> None:
    """As officially: it is the tool's name once more. Its description is, and so are titles further
    in.
    """
    schema = {
        "type": "object",
        "title": "Whole",
        "description": "What.",
        "properties": {"a": {"title": "Part"}},
    }
    expected = "// What.\n{\n// Part\n//\na?: any,\n}"
    assert schema_to_typescript(schema) == schema_to_typescript(schema, "compat") == expected


def chain(length: int) -> dict[str, Any]:
    """Each definition refers to the next one twice: written in place they would be 2**length."""
    two = {n: {"$ref": f"#/$defs/{n + 1}"} for n in range(length)}
    definitions: dict[str, Any] = {
        str(n): {"properties": {"a": ref, "b": ref}} for n, ref in two.items()
    }
    return {"$ref": "#/$defs/0", "$defs": definitions | {str(length): STRING}}


def nest(length: int) -> dict[str, Any]:
    schema: dict[str, Any] = STRING
    for n in range(length):
        schema = {["anyOf", "oneOf"][n % 2]: [schema, NULL], "description": f"level {n}"}
    return {"properties": {"a": schema, "b": {"type": "array", "items": schema}}}


def test_sharing_and_nesting_cost_no_time() -> None:
    """A step is a line or a call; by paths instead of by schemas these would be 2**45 and more."""
    assert len(schema_to_typescript(chain(2000))) < 200_000
    assert len(schema_to_typescript(nest(45))) < 100_000
    assert steps(lambda: schema_to_typescript(chain(400))) < 1.2 * 4 * steps(
        lambda: schema_to_typescript(chain(100))
    )
    for style in ("faithful", "compat"):
        few, many = (
            steps(lambda n=n, style=style: schema_to_typescript(properties(n), style))
            for n in (250, 2000)
        )
        assert many < 1.2 * 8 * few


def properties(count: int) -> dict[str, Any]:
    names = [f"p{n}" for n in range(count)]
    return {"properties": dict.fromkeys(names, STRING), "type": "object", "required": names}


@pytest.mark.slow
@pytest.mark.parametrize("style", ["faithful", "compat"])
def test_the_time_of_many_properties_grows_linearly(style: Style) -> None:
    """The same for what happens within one step: copies, searches. Processor time."""
    few, many = (
        seconds(lambda n=n: schema_to_typescript(properties(n), style)) for n in (2500, 20_000)
    )
    assert many < 3 * 8 * few + 0.02


def test_keywords_that_are_null_are_absent() -> None:
    nulls = dict.fromkeys(
        (
            "format",
            "pattern",
            "enum",
            "required",
            "items",
            "$ref",
            "anyOf",
            "description",
            "minimum",
        )
    )
    plain = {"type": "object", "properties": {"a": {"type": "string", "default": None}}}
    odd = {**plain, **nulls, "properties": {"a": {"type": "string", "default": None, **nulls}}}
    assert schema_to_typescript(odd) == schema_to_typescript(plain)
    assert schema_to_typescript({"const": None}) == "null"
