"""Which tool a recipient means, and what a call's arguments say, when models write them well or
badly.
"""

from __future__ import annotations

import json
import random
import re
import socket
from typing import Any

import pytest
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import seconds, steps

from ossia.harmony import (
    Arguments,
    Message,
    UnknownTool,
    calls,
    is_call,
    read_arguments,
    resolve_recipient,
)

DECLARED = (
    "get_weather",
    "math.add",
    "shell",
    "python",
    "functions.python",
    "browser.search",
    "browser.open",
)
SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "string"},
        "b": {"type": "array", "items": {"type": "integer"}},
        "c": {"type": "object"},
    },
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("recipient", "tool"),
    [
        ("functions.get_weather", "get_weather"),
        ("get_weather", "get_weather"),
        ("get_weather<|channel|>commentary", "get_weather"),
        ("functions.get_weather<|channel|>commentary?", "get_weather"),
        ("functions.get_weather<|constrain|>json", "get_weather"),
        ("functions.get_weather json", "get_weather"),
        ("functions.get_weather\u3000", "get_weather"),
        (" functions.get_weather\n", "get_weather"),
        ("functions.get_weather,", "get_weather"),
        ('"get_weather"', "get_weather"),
        ("\u200bget_weather\ufeff", "get_weather"),
        ("get_weather()", "get_weather"),
        ('get_weather({"city": "Paris"})', "get_weather"),
        ("to=functions.get_weather", "get_weather"),
        ("functions.functions.get_weather", "get_weather"),
        ("functions.shelljson", "shell"),
        ("shellcommentary", "shell"),
        ("math.add", "math.add"),
        ("functions.math.add", "math.add"),
        ("browser.search", "browser.search"),
        ("browser.search<|channel|>analysis", "browser.search"),
        ("python", "python"),
        ("python<|channel|>analysis", "python"),
        ("functions.python", "functions.python"),
        ("functions.python.", "functions.python"),
    ],
)
def test_recipients(recipient: str, tool: str) -> None:
    assert resolve_recipient(recipient, DECLARED) == tool


def test_full_names_are_found_too() -> None:
    assert resolve_recipient("f", ["functions.f"]) == "functions.f"
    assert resolve_recipient("functions.f", ["f", "functions.f"]) == "functions.f"
    assert resolve_recipient("f", ["functions.f", "f"]) == "f"
    assert resolve_recipient("functions.python", ["python"]) == "python"
    assert resolve_recipient("we ird", ["we ird"]) == "we ird"
    assert resolve_recipient("shelljson", ["shell", "shelljson"]) == "shelljson"


@pytest.mark.parametrize(
    ("recipient", "said"),
    [
        (
            "functions.subtract",
            "there is no tool 'functions.subtract'; available: get_weather, math.add",
        ),
        ("getweather", "did you mean 'get_weather'?"),
        ("functions.get_wether", "did you mean 'get_weather'?"),
        ("search", "did you mean 'browser.search'?"),
        ("container.shell", "did you mean 'shell'?"),
        ("Python", "did you mean 'python'?"),
        (None, "names no tool"),
        ("", "names no tool"),
        ("functions", "there is no tool 'functions'"),
        ("functions.", "there is no tool 'functions.'"),
        ("<|channel|>commentary", "there is no tool"),
        ("json", "there is no tool 'json'"),
        ("x" * 10**6, "there is no tool 'xxx"),
        ("\ud800", "there is no tool"),
    ],
)
def test_no_such_tool_is_told_to_the_model(recipient: str | None, said: str) -> None:
    found = resolve_recipient(recipient, DECLARED)
    assert isinstance(found, UnknownTool)
    assert found.recipient == (recipient or "") and said in found.text and len(found.text) < 400
    assert resolve_recipient("f", []) == UnknownTool("f", "there is no tool 'f'; available: none")


@given(recipient=st.text(max_size=20), names=st.lists(st.text(max_size=8), max_size=4))
@settings(max_examples=examples(200), deadline=None)
def test_any_recipient_has_an_answer(recipient: str, names: list[str]) -> None:
    found = resolve_recipient(recipient, names)
    assert found in names if isinstance(found, str) else isinstance(found, UnknownTool)
    if recipient and recipient in names:
        assert found == recipient


def test_what_a_call_is() -> None:
    for recipient in (None, "all", "user", "assistant"):
        assert not is_call(Message("assistant", "x", channel="commentary", recipient=recipient))
    for channel in (None, "analysis", "commentary", "final"):
        assert is_call(Message("assistant", "x", channel=channel, recipient="python"))
    assert not is_call(Message("tool", "x", name="functions.f", recipient="python"))


# -- arguments
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": "x"}', {"a": "x"}),
        (' {"a": "\\n"} \n', {"a": "\n"}),
        ('{"b": 1}', {"b": 1}),  # whether it fits the schema is the tool's to say
        ("[1, 2]", [1, 2]),
        ("null", None),
        ('"x"', "x"),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ('{"a": 1e308, "b": -0.0, "c": 123456789012345678901234567890}', None),
        ('{"a": "\\ud800"}', {"a": "\ud800"}),
        ('{"a": "\ud800"}', {"a": "\ud800"}),
    ],
)
def test_json_means_what_it_says(text: str, value: Any) -> None:
    for schema in (None, SCHEMA):
        found = read_arguments(text, schema)
        assert found == Arguments(json.loads(text), text) and not found.repaired
        assert value is None or found.value == value


def test_no_text_means_no_arguments() -> None:
    optional = {"type": "object", "properties": {"a": {"type": "string"}}}
    for schema in (None, {}, optional, {**optional, "required": []}):
        for text in ("", " \n"):
            assert read_arguments(text, schema) == Arguments({}, text)
    assert read_arguments("", SCHEMA) == Arguments(None, "", "no arguments, but required are ['a']")


@pytest.mark.parametrize(
    ("text", "diagnosis"),
    [
        ('{"a": ', "line 1, column 7: Expecting value, found the end"),
        ('{"a": "x",\n "b" 1}', "line 2, column 6: Expecting ':' delimiter, found '1}'"),
        ('{"a": "x', "line 1, column 7: Unterminated string"),
        ("ls -R", "line 1, column 1: Expecting value, found 'ls -R'"),
        ("{'a': 'x'}", "line 1, column 2: Expecting property name"),
        ('{"a": NaN}', "NaN is not a JSON value"),
        ('{"a": -Infinity}', "-Infinity is not a JSON value"),
        ('{"a": 1e999}', "the number 1e999 is out of range"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ('{"a": "x"} {"a": "y"}', "Extra data"),
        ('{"a": "x"}}, "b": [1]}', "Extra data"),
        ('{"a": "x", "b": [1,', "Expecting value"),
        ('{"a": "x", "b":', "Expecting value"),
        ('{"b": [1]', "Expecting ',' delimiter"),  # could be mended, but would not validate
        ('{"a": "x", "d": 1}}', "Extra data"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": "\\', "Unterminated string"),
        ("\ufeff{}", "line 1, column 1"),
        ("```", "Expecting value"),
        ("}", "Expecting value"),
    ],
)
def test_what_is_not_json_comes_back_with_a_diagnosis(text: str, diagnosis: str) -> None:
    for schema in (None, SCHEMA):
        found = read_arguments(text, schema)
        assert (found.value, found.text, found.repaired) == (None, text, False)
        assert (
            found.diagnosis is not None
            and diagnosis in found.diagnosis
            and len(found.diagnosis) < 200
        )


@pytest.mark.parametrize(
    ("text", "value", "repairs"),
    [
        ('{"a": "*** Begin"}]', {"a": "*** Begin"}, ["extra-bracket"]),
        ('{"a": "x"}}', {"a": "x"}, ["extra-bracket"]),
        ('{"a": "x"} ]}\n', {"a": "x"}, ["extra-bracket"]),
        ('{"a": "x"', {"a": "x"}, ["missing-bracket"]),
        ('{"a": "x", "b": [1, 2]', {"a": "x", "b": [1, 2]}, ["missing-bracket"]),
        ('{"a": "x", "b": [', {"a": "x", "b": []}, ["missing-bracket"]),
        ('{"a": "x", "b": [1, 2}', {"a": "x", "b": [1, 2]}, ["missing-bracket"]),
        (
            '{"a": "x", "c": {"d": [1}, "b": []}',
            {"a": "x", "c": {"d": [1]}, "b": []},
            ["missing-bracket"],
        ),
        ('{"a": "x", "b": [1, 2]]}', {"a": "x", "b": [1, 2]}, ["extra-bracket"]),
        ('{"a": "x",}', {"a": "x"}, ["trailing-comma"]),
        ('{"a": "x", "b": [1, 2, ] , }', {"a": "x", "b": [1, 2]}, ["trailing-comma"]),
        ('{"a": "line\nline\ttab"}', {"a": "line\nline\ttab"}, ["raw-control"]),
        ('{"a": "}]\n"]', {"a": "}]\n"}, ["extra-bracket", "missing-bracket", "raw-control"]),
        ('```json\n{"a": "x"}\n```', {"a": "x"}, ["code-fence"]),
        ('```{"a": "x"}```', {"a": "x"}, ["code-fence"]),
        (' ```\n{"a": "x",}\n``` ', {"a": "x"}, ["code-fence", "trailing-comma"]),
        ('{"a": "\\"},]"}}', {"a": '"},]'}, ["extra-bracket"]),
        ('{"a": "\ud800"}]', {"a": "\ud800"}, ["extra-bracket"]),
    ],
)
def test_what_is_mended(text: str, value: Any, repairs: list[str]) -> None:
    found = read_arguments(text, SCHEMA)
    assert (found.value, found.diagnosis, list(found.repairs)) == (value, None, repairs)
    assert found.repaired and json.loads(found.text) == value and found.text.encode()
    assert read_arguments(text).value is None, "never without a schema that it validates against"
    assert read_arguments(text, {**SCHEMA, "required": ["z"]}).text == text


@pytest.mark.parametrize(
    "end", ["10", "-1e5", "true", "null", "10 \n", "10]", "[1, 2", "[[1], 2", '{"d": false']
)
def test_what_breaks_off_in_a_number_or_literal_is_not_mended(end: str) -> None:
    """It may have been meant to go on: 10 of 1000."""
    for text in (f'{{"a": {end}', f'```\n{{"a": {end}\n```'):
        found = read_arguments(text, {})
        assert (found.value, found.text, found.repaired) == (None, text, False)


def test_schemas_may_be_boolean() -> None:
    for schema in (True, False):
        assert read_arguments("", schema) == Arguments({}, "")
        assert read_arguments('{"a": 1}', schema) == Arguments({"a": 1}, '{"a": 1}')
    assert read_arguments('{"a": "x"', True).value == {"a": "x"}
    assert read_arguments('{"a": "x"', False).value is None


SLOW_REGEX = "^(a+)+$"


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"pattern": SLOW_REGEX}}},
        {"additionalProperties": False, "patternProperties": {SLOW_REGEX: {}}},
        {"allOf": [{"propertyNames": {"type": "string", "pattern": SLOW_REGEX}}]},
    ],
)
def test_regular_expressions_are_not_tried(schema: Any) -> None:
    """They could take for ever, on texts of any length; so nothing is mended."""
    name = "a" * 200 + "b"
    text = f'{{"a": "{name}", "{name}": 1}}}}'
    assert read_arguments(text, schema).value is None
    assert read_arguments(text[:-1], schema).value is not None


def test_a_property_may_be_called_pattern() -> None:
    schema = {"type": "object", "properties": {"pattern": {"type": "string"}}}
    assert read_arguments('{"pattern": "a+"}}', schema).value == {"pattern": "a+"}


def test_every_way_of_mending_is_documented() -> None:
    rows = re.findall(r"^\| ([a-z-]+) \|", calls.__doc__ or "", re.MULTILINE)
    assert rows == ["repair", *calls.Mend.__args__]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"properties": 5},
        {"$ref": "#/$defs/none"},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "#"},
        {"properties": {"a": {"pattern": "("}}},
        {"properties": {"a": {"multipleOf": 0}}},
        {"required": 5},
        {1: 2},
        {"type": {}},
        {"enum": "x"},
        json.loads('{"not":' * 900 + "{}" + "}" * 900),
    ],
)
def test_a_schema_that_is_wrong_mends_nothing(schema: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And raises nothing, reads no network, and changes nothing for arguments that are JSON."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("looked a name up"))
    assert read_arguments('{"a": "x"}}', schema).value in (
        None,
        {"a": "x"} if "$ref" not in schema else None,
    )
    assert read_arguments('{"a": "x"}', schema).value == {"a": "x"}
    read_arguments("", schema)


def test_a_schema_that_is_long_mends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is a schema at all would take seconds to find out."""
    known = {f"property {n}": {"type": "integer"} for n in range(10)}
    assert read_arguments('{"a": 1,}', {"properties": known}).value == {"a": 1}
    known = {f"property {n}": {"type": "integer"} for n in range(1000)}
    check = "jsonschema.Draft202012Validator.check_schema"
    monkeypatch.setattr(check, lambda schema: pytest.fail("it was checked"))
    assert read_arguments('{"a": 1,}', {"properties": known}).value is None


def test_references_within_the_schema_work() -> None:
    tree = {
        "type": "object",
        "properties": {"next": {"$ref": "#/$defs/t"}},
        "additionalProperties": False,
    }
    schema = {"$defs": {"t": tree}, "$ref": "#/$defs/t"}
    assert read_arguments('{"next": {"next": {}}', schema).value == {"next": {"next": {}}}
    assert read_arguments('{"next": {"other": {}}', schema).value is None


def test_any_damage_is_survived() -> None:
    """JSON with a few characters changed: an object, or the same text with a diagnosis; and no
    other value than what validates.
    """
    rng = random.Random(0)
    whole = json.dumps(
        {"a": "x y", "b": [1, 2, 3], "c": {"d": [{}, None, "é\n"], "e": 1.5}}, ensure_ascii=False
    )
    mended = 0
    for _ in range(examples(1_500)):
        text = list(whole)
        for _ in range(rng.randrange(1, 3)):
            at = rng.randrange(len(text))
            text[at : at + rng.randrange(2)] = rng.choice(
                ["", "", "}", "]", "{", ",", '"', "\n", "\\", "\ud800"]
            )
        damaged = "".join(text)
        found = read_arguments(damaged, SCHEMA)
        assert (found.diagnosis is None) or (found.value is None and found.text == damaged)
        mended += found.repaired
    assert mended > examples(1_500) / 50


ENDLESS = ("[", "]", "{", '"', "[}", '["', '",', "\\", ",", "```", "a ", '{"a":', "\n", "[1,]")


@pytest.mark.parametrize("unit", ENDLESS)
def test_steps_grow_linearly(unit: str) -> None:
    few, many = (steps(lambda n=n: read_arguments(unit * n, SCHEMA)) for n in (200, 1600))
    assert many < 1.2 * 8 * few


@pytest.mark.slow
@pytest.mark.parametrize("unit", ENDLESS)
def test_time_grows_linearly(unit: str) -> None:
    """The same for what happens within one step: copies, searches. Processor time."""
    few, many = (seconds(lambda n=n: read_arguments(unit * n, SCHEMA)) for n in (1000, 8000))
    assert many < 3 * 8 * few + 0.02
