"""Schemas as servers and agents declare them: what cannot be enforced costs that keyword alone.

The judge is the `jsonschema` package. A value that validates under the whole schema can be sampled;
one that breaks a keyword which was kept cannot.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import regex
from agent_schemas import CASES, Case
from llguidance import LLMatcher

import ossia
from ossia.errors import GrammarError
from ossia.harmony import FunctionTool, validation
from ossia.harmony.grammar.bodies import JsonFormat, compile_body, relaxed_in, vocabulary
from ossia.harmony.grammar.completion import harmony_grammar
from ossia.harmony.grammar.keywords import Relaxed
from ossia.harmony.validation import Undecided, problems
from ossia.tokenizer import Tokenizer
from ossia.turn.targets import Grammars

NANO = Path(ossia.__file__).parent / "assets/nano/tokenizer.json"
CHECKER = jsonschema.FormatChecker(["date", "email", "ipv4", "ipv6", "uuid"])
# The package checks these only with other packages; here, enough to tell the values that are tried.
FORMATS = {
    "uri": r"^[a-z]+:",
    "hostname": r"^\w[\w.-]*$",
    "date-time": r"^\d{4}-\d\d-\d\dT\d\d:",
    "time": r"^\d\d:\d\d:",
    "duration": "^P",
}
for name, form in FORMATS.items():
    CHECKER.checkers = CHECKER.checkers | {
        name: (
            lambda text, form=form: not isinstance(text, str) or bool(regex.search(form, text)),
            (),
        )
    }
REPLACEMENTS = (None, True, 7, -3, 2.5, 10**6, "zzz", "", "a-b", [], {})


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    return Tokenizer.from_file(NANO)


def accepts(matcher: LLMatcher, value: Any, tokenizer: Tokenizer) -> bool:
    ids = tokenizer.encode(json.dumps(value, ensure_ascii=False))
    walk = matcher.deep_copy()
    return walk.try_consume_tokens(ids) == len(ids) and walk.is_accepting()


def judge(schema: Any, checker: Any = CHECKER) -> Any:
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    kind = jsonschema.validators.extend(kind, {"pattern": pattern})
    return kind(schema, format_checker=checker)


def pattern(validator: Any, wanted: str, value: Any, schema: Any) -> Iterator[Any]:
    if isinstance(value, str) and not regex.search(wanted, value):  # ECMAScript's: \p{..} too
        yield jsonschema.ValidationError(f"{value!r} does not match {wanted!r}")


def kept(case: Case) -> Any:
    """The schema without what is relaxed; of `oneOf` it is kept that one option fits."""
    schema = copy.deepcopy(case.judge or case.schema)
    for pointer in case.relaxed:
        *path, last = pointer.split("/")[1:]
        place = schema
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place[part]
        gone = place.pop(last, None)
        if last == "oneOf":
            place["anyOf"] = gone
    return schema


def changed(value: Any) -> Iterator[Any]:
    """The value with one change, at every place in it. Declared keys keep their order, the only one
    that is sampled.
    """
    yield from (other for other in REPLACEMENTS if other != value)
    if isinstance(value, dict):
        for key, item in value.items():
            yield {name: each for name, each in value.items() if name != key}
            yield from (value | {key: other} for other in changed(item))
        yield value | {"undeclared": 1}
        yield value | {"undeclared": {"a": "b"}}
    if isinstance(value, list):
        for n, item in enumerate(value):
            yield value[:n] + value[n + 1 :]
            yield [*value, item]
            yield from ([*value[:n], other, *value[n + 1 :]] for other in changed(item))


def test_there_are_enough_schemas() -> None:
    assert len({case.name for case in CASES}) >= 150
    assert sum(bool(case.relaxed) for case in CASES) >= 38


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_odd_keyword_costs_that_keyword(case: Case, nano: Tokenizer) -> None:
    format = compile_body(JsonFormat(case.schema, False), vocabulary(nano), "it")
    assert {note.keyword for note in relaxed_in(format, "it")} == case.relaxed
    matcher = format.start()
    whole = judge(case.judge or case.schema)
    rest = judge(kept(case))
    for value in case.values:
        whole.validate(value)
        assert accepts(matcher, value, nano), value
        for other in changed(value):
            is_accepted = accepts(matcher, other, nano)
            if whole.is_valid(other):
                assert is_accepted, other
            elif not rest.is_valid(other):
                assert not is_accepted, other


# Held whole by allowing less, rather than more: no keys but the declared ones, no large numbers.
NARROWED = ("sqlite rowid", "patterns of keys, open", "openapi at least one")
TUPLES = ("zod tuple", "zod tuple with a rest")  # of old drafts: strict schemas are of 2020-12


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_strict_is_whole_or_refused_by_name(case: Case, nano: Tokenizer) -> None:
    tool = FunctionTool("f", "", case.schema)
    is_held = (not case.relaxed or case.name in NARROWED) and case.name not in TUPLES
    if is_held:
        assert not harmony_grammar(nano, tools=[tool]).relaxed
        return
    with pytest.raises(GrammarError, match="tool 'f': parameters: #") as caught:
        harmony_grammar(nano, tools=[tool])
    place = str(caught.value).split()[3]
    assert case.name in TUPLES or any(each.startswith(place) for each in case.relaxed)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_finished_call_is_held_to_the_whole_schema(case: Case) -> None:
    whole = judge(case.judge or case.schema, None)
    for value in case.values:
        for other in (value, *changed(value)):
            assert (problems(other, case.schema) is None) == whole.is_valid(other), other


def test_a_check_ends() -> None:
    twice: dict[str, Any] = {"$defs": {"a0": {"type": "string"}}}
    for n in range(40):
        both = [{"$ref": f"#/$defs/a{n}"}] * 2
        twice["$defs"][f"a{n + 1}"] = {"allOf": both}
    with pytest.raises(Undecided):
        problems("x", twice | {"$ref": "#/$defs/a40"})
    with pytest.raises(Undecided):
        problems("a" * 60 + "b", {"pattern": "^(a|aa)+$"})
    with pytest.raises(Undecided):
        problems([], {"$ref": "#"})
    assert problems([{"a": 1}, {"a": 1.0}], {"uniqueItems": True}) is not None


def test_a_keyword_costs_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "MOST_SECONDS", 1e9)
    names = [f"name {n}" for n in range(20_000)]
    schema = {"items": {"enum": names}}
    assert problems(names[:2], schema) is None
    with pytest.raises(Undecided):
        problems(names[:100], schema)


def test_one_clock_runs_over_the_whole_check(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10_000))
    clock = SimpleNamespace(thread_time=lambda: next(ticks) / 1000)
    monkeypatch.setattr(validation, "time", clock)
    assert problems(["x"] * 50, {"items": {"type": "string"}}) is None
    most = 1000 * validation.MOST_SECONDS + 5  # of a millisecond each
    begun = next(ticks)
    with pytest.raises(Undecided):
        problems(["x"] * 500, {"items": {"type": "string"}})
    assert next(ticks) - begun < most
    begun = next(ticks)
    with pytest.raises(Undecided):
        problems({f"key {n}": 0 for n in range(500)}, {"patternProperties": {"x": True}})
    assert next(ticks) - begun < most


def test_a_schema_is_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a whole, however many calls are checked; a long one that names no keys by patterns not at
    all, and never for a reference by another name than its place.
    """
    texts: list[str] = []
    monkeypatch.setattr(validation, "repr", lambda it: texts.append("") or repr(it), raising=False)
    closed = validation.Schema({"properties": {"a": True}, "unevaluatedProperties": False})
    for _ in range(3):
        assert closed.problems({"a": 1}) is None
        assert closed.problems({"b": 1}) is not None
    assert len(texts) == 1
    plain = validation.Schema({"properties": {"a": {"type": "string"}}})
    assert plain.problems({"a": 1}) is not None
    assert len(texts) == 1
    anchored = {"$defs": {"x": {"$anchor": "x", "type": "string"}}, "$ref": "#x"}
    assert problems(1, anchored) is not None
    long = validation.Schema({**anchored, "description": "d" * validation.SHORT})
    assert long.problems(1) is None
    with pytest.raises(Undecided):
        long.problems(1, certain=True)


@pytest.mark.parametrize(
    "odd", [{"required": True}, {"type": 3}, {"pattern": "("}, {"$ref": "#/no"}, {"items": 7}]
)
def test_a_keyword_of_the_wrong_form_says_nothing(odd: Any) -> None:
    assert problems({"a": [1]}, {"properties": {"a": odd}}) is None
    assert "'x' is not one of" in str(problems("x", odd | {"enum": ["y"]}))


def test_arguments_are_an_object_whatever_the_schema_says(nano: Tokenizer) -> None:
    odd = {"type": "string", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    grammar = harmony_grammar(nano, tools=[FunctionTool("f", "", odd)], strict=())
    assert [note.keyword for note in grammar.relaxed["functions.f"]] == ["#/type"]


def test_a_schema_that_cannot_be_relaxed_keeps_its_type(nano: Tokenizer) -> None:
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"type": "array", "items": deep}
    tool = FunctionTool("f", "", {"type": "object", "properties": {"a": deep}})
    grammar = harmony_grammar(nano, tools=[tool], strict=())
    (note,) = grammar.relaxed["functions.f"]
    assert note.keyword == "#" and "too deeply" in note.reason


def test_notes_are_few_and_say_how_many_more(nano: Tokenizer) -> None:
    def notes(last: dict[str, Any]) -> tuple[Relaxed, ...]:
        odd = {f"key {n}": {"type": "string", "format": "odd"} for n in range(100)}
        schema = {"type": "object", "properties": {**odd, "last": last}}
        for _ in range(6):
            schema = {"type": "object", "properties": {"k" * 100: schema}}
        format = JsonFormat(schema, False)
        return relaxed_in(compile_body(format, vocabulary(nano), "it"), "it")

    found = notes({"type": "string"})
    assert [note.is_annotation for note in found] == [True] * 21
    assert str(found[-1]) == "it: # and 80 more keywords cannot be enforced"
    assert max(len(str(note)) for note in found) < 1000
    found = notes({"type": "array", "uniqueItems": True})
    assert [note.is_annotation for note in found] == [True] * 20 + [False]
    assert "81 more" in found[-1].reason


def test_a_property_called_format_is_no_annotation(nano: Tokenizer) -> None:
    properties = {"format": {"not": {}}, "when": {"type": "string", "format": "odd"}}
    for name, is_checked in (("format", True), ("when", False)):
        schema = {"type": "object", "properties": {name: properties[name]}}
        tool = FunctionTool("f", "", schema)
        grammar = harmony_grammar(nano, tools=[tool], strict=())
        assert grammar.relaxed["functions.f"]
        assert bool(Grammars(grammar).checked) is is_checked
    property_alone = {"type": "object", "properties": {"format": 3}}
    grammar = harmony_grammar(nano, tools=[FunctionTool("f", "", property_alone)], strict=())
    assert Grammars(grammar).checked == {"functions.f"}
