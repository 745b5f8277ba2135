"""What is given to the grammar compiler can neither end the process nor fill its memory, nor keep
it busy after nobody waits; and what real servers declare still passes.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import hostile_formats
import pytest
from amounts import examples
from grammar_cases import counted, obj

import ossia
from ossia.errors import GrammarError, GrammarSizeError
from ossia.harmony import FunctionTool
from ossia.harmony.grammar import bodies, bounds, compiling, kept
from ossia.harmony.grammar.bodies import (
    BodyFormat,
    JsonFormat,
    LarkFormat,
    RegexFormat,
    Vocabulary,
    compile_body,
    next_mask,
    vocabulary,
)
from ossia.harmony.grammar.compiling import GivenUp, giving_up
from ossia.harmony.grammar.completion import CustomTool, harmony_grammar
from ossia.harmony.grammar.kept import CompiledFormat, FormatCache
from ossia.tokenizer import Tokenizer

NANO = Path(ossia.__file__).parent / "assets/nano/tokenizer.json"
TEXT = {"type": "string"}


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    return Tokenizer.from_file(NANO)


@pytest.fixture(scope="module")
def tokens(nano: Tokenizer) -> Vocabulary:
    return vocabulary(nano)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> FormatCache:
    """An empty cache."""
    made = FormatCache()
    monkeypatch.setattr(bodies, "_CACHE", made)
    return made


def chain(length: int, step: Any) -> dict[str, Any]:
    defined = {f"d{n}": step({"$ref": f"#/$defs/d{n + 1}"}) for n in range(length)}
    return {"$defs": {**defined, f"d{length}": {"type": "integer"}}, "$ref": "#/$defs/d0"}


def terminals(length: int) -> str:
    chained = "\n".join(f'A{n}: A{n + 1} "x"' for n in range(length))
    return f'start: A0\n{chained}\nA{length}: "y"'


# ---- nothing ends the process ----


def compile_batch(kind: str, first: int, number: int) -> dict[str, Any]:
    """In a process of its own."""
    program = [sys.executable, hostile_formats.__file__, kind, str(first), str(number)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{kind} {lines[-1:]}: {done.returncode} {done.stderr[-2000:]}"
    return dict(json.loads(lines[-1]))


@pytest.mark.parametrize("kind", ["schema", "lark"])
def test_hostile_formats_compile_or_are_refused(kind: str) -> None:
    report = compile_batch(kind, 0, examples(600))
    assert min(report["counts"].values()) > 0 and len(report["counts"]) == 3, report


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "number"), [("schema", 50_000), ("lark", 20_000)])
def test_many_hostile_formats(kind: str, number: int) -> None:
    for first in range(0, examples(number), 500):
        report = compile_batch(kind, first, 500)
        assert report["slowest"][0] < 10 and report["peak_mb"] < 1500, report


def test_a_thread_with_a_small_stack_may_ask(tokens: Vocabulary, fresh: FormatCache) -> None:
    names = {f"p{n}": {"$ref": f"#/$defs/d{n}"} for n in range(900)}
    near = {**chain(900, lambda s: obj("a", a=s)), "type": "object", "properties": names}
    near.pop("$ref")  # every definition is near the root, and the compiler goes along all of them
    made: list[CompiledFormat] = []
    before = threading.stack_size(256 << 10)
    thread = threading.Thread(
        target=lambda: made.append(compile_body(JsonFormat(near), tokens, ""))
    )
    thread.start()
    threading.stack_size(before)
    thread.join()
    assert made


# ---- bounds ----

WIDE = {f"key{n}": TEXT for n in range(bounds.PROPERTIES + 1)}
TOO_LARGE: dict[str, tuple[BodyFormat, str]] = {
    "objects": (JsonFormat(chain(900, lambda s: obj("a", a=s))), "400 are allowed"),
    "items": (JsonFormat(chain(900, lambda s: {"items": s})), "401 levels"),
    "options": (JsonFormat(chain(900, lambda s: {"anyOf": [s, TEXT]})), "401 levels"),
    "definitions": (
        JsonFormat({"anyOf": [{"$ref": f"#/$defs/{n}"} for n in range(1001)], "$defs": {}}),
        "1,001 definitions",
    ),
    "hidden": (
        JsonFormat(
            {"properties": {"$defs": {"definitions": {"enum": list(range(20_001))}}}, "$ref": "#"}
        ),
        "20,001 values",
    ),
    "properties": (JsonFormat(obj(**WIDE)), "2,001 keys in one properties"),
    "required": (JsonFormat({"required": list(WIDE)}), "2,001 keys in one required"),
    "values": (JsonFormat({"enum": list(range(20_001))}), "20,001 values in one enum"),
    "oneOf": (
        JsonFormat({"oneOf": [{"const": n} for n in range(301)]}),
        "301 options in one oneOf",
    ),
    "bytes": (JsonFormat({"description": "x" * (1 << 20)}), "characters"),
    "pattern": (JsonFormat({"items": {"pattern": "a" * 20_000}}), "20,000 characters in a pattern"),
    "key pattern": (JsonFormat({"patternProperties": {"a?" * 3000: {}}}), "3,000 groups"),
    "patterns": (
        JsonFormat({"prefixItems": [{"pattern": "a?" * 1500, "title": str(n)} for n in range(9)]}),
        "in all patterns",
    ),
    "regex": (RegexFormat("a?" * 3000), "3,000 groups"),
    "terminals": (LarkFormat(terminals(4000)), "4,002 rules and terminals"),
    "deep terminals": (LarkFormat(terminals(1000)), "200 are allowed"),
    "deep and ignored": (LarkFormat(terminals(1000) + '\n%ignore A0\nstart2: "x"'), "200 are"),
    "one terminal": (LarkFormat("start: A\nA: " + '"x"? ' * 2500), "2,500 groups"),
    "powers": (
        LarkFormat(
            "start: A0\n" + "".join(f"A{n}: A{n + 1} A{n + 1}\n" for n in range(40)) + 'A40: "x"'
        ),
        "groups",
    ),
    "Lark's bytes": (LarkFormat(f'start: "{"x" * 200_000}"'), "200,009 characters"),
    "a schema in Lark": (
        LarkFormat(f"start: %json {json.dumps(chain(900, lambda s: {'items': s}))}"),
        "401 levels",
    ),
    "schemas in Lark": (LarkFormat("start: " + "%json {} " * 17), "17 schemas"),
}


@pytest.mark.parametrize(("body", "found"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_over_a_bound(body: BodyFormat, found: str, tokens: Vocabulary) -> None:
    with pytest.raises(GrammarSizeError, match=r"^tool 'f': has .* are allowed: ") as refused:
        compile_body(body, tokens, "tool 'f'")
    assert found in str(refused.value)
    assert refused.value.code == "grammar_too_large"


@pytest.mark.parametrize("name", bounds.DEFINED_IN)
def test_a_property_called_like_a_table_of_definitions_is_a_property(name: str) -> None:
    def depth(schema: Any) -> int:
        return max(depth for _, depth in bounds._walk(schema, lambda *_: None))

    deep: Any = {"type": "string"}
    for _ in range(10):
        deep = obj(**{name: deep})
    assert depth(deep) >= 20
    in_value = {"const": {name: {name: {name: {}}}}}
    assert depth(in_value) == 4
    table: Any = {"type": "string"}
    for _ in range(10):
        table = {name: {"a": table}}
    assert depth(table) == 1
    assert depth({"properties": {name: {name: {"a": {"b": {}}}}}}) == 2
    held: Any = {"$ref": f"#/{name}/a", name: {"a": {"items": {"items": {}}}}}
    assert depth(held) == 3
    both = {"$ref": "#/items/properties", "items": {"properties": {name: {"items": {}}}}}
    assert depth(both) == 4, "a reference cannot make a table of it"


def test_over_the_bounds_of_a_request(nano: Tokenizer) -> None:
    many = [FunctionTool(f"f{n}", "", {"type": "object"}) for n in range(1025)]
    with pytest.raises(GrammarSizeError, match="1,025 tools and formats") as refused:
        harmony_grammar(nano, tools=many)
    assert refused.value.field == "tools"
    large = [FunctionTool(f"f{n}", "x", {"title": f"{n}" + "x" * (900 << 10)}) for n in range(5)]
    with pytest.raises(GrammarSizeError, match="characters of schemas"):
        harmony_grammar(nano, tools=large)
    with pytest.raises(GrammarSizeError) as refused:
        harmony_grammar(nano, response_format={"type": "regex", "pattern": "a?" * 3000})
    assert refused.value.field == "response_format"
    with pytest.raises(GrammarSizeError) as refused:
        harmony_grammar(nano, custom=[CustomTool("c", LarkFormat(terminals(4000)))])
    assert (refused.value.field, str(refused.value)[:16]) == ("tools", "custom tool 'c':")


def deep(levels: int) -> dict[str, Any]:
    return obj("a", a=deep(levels - 1)) if levels else TEXT


def graph(number: int) -> dict[str, Any]:
    """Definitions that refer to each other in every way, as of a large API."""

    def kind(n: int) -> dict[str, Any]:
        refs = [{"$ref": f"#/$defs/T{(n * k + k) % number}"} for k in (1, 2, 3)]
        lists = {f"l{k}": {"type": "array", "items": ref} for k, ref in enumerate(refs)}
        return obj("name", name=TEXT, kind={"const": f"T{n}"}, **lists, any={"anyOf": refs})

    return {"$defs": {f"T{n}": kind(n) for n in range(number)}, **obj(root={"$ref": "#/$defs/T0"})}


LEGIT: dict[str, BodyFormat] = {
    "a graph of 400 definitions": JsonFormat(graph(400)),
    "an enum of 8,000": JsonFormat({"enum": [f"country and city {n}" for n in range(8000)]}),
    "an enum of 3,000 objects": JsonFormat({"enum": [{"id": n} for n in range(3000)]}),
    "1,000 properties": JsonFormat(obj(**{f"key{n}": TEXT for n in range(1000)})),
    "500 optional properties": JsonFormat({"properties": {f"key{n}": TEXT for n in range(500)}}),
    "50 levels": JsonFormat(deep(50)),
    "40 references deep": JsonFormat(chain(40, lambda s: obj("a", a=s))),
    "1,000 options": JsonFormat({"anyOf": [obj("t", t={"const": n}) for n in range(1000)]}),
    "any long text": JsonFormat({"pattern": r"^[\s\S]{1,131072}$", "type": "string"}),
    "many items": JsonFormat({"type": "array", "maxItems": 1_000_000, "items": obj(a=TEXT)}),
    "a long constant": JsonFormat({"const": "x" * 100_000}),
    "a Lark grammar of 1,500 rules": LarkFormat(
        "start: " + " | ".join(f"r{n}" for n in range(1500)) + "\n"
        "".join(f'\nr{n}: "word {n}" (" " NAME)?' for n in range(1500)) + "\nNAME: /[a-z]+/"
    ),
}  # fmt: skip


@pytest.mark.parametrize("body", LEGIT.values(), ids=LEGIT)
def test_what_real_servers_declare_is_enforced(body: BodyFormat, tokens: Vocabulary) -> None:
    matcher = compile_body(body, tokens, "it").start()
    for _ in range(20):
        mask = next_mask(matcher, tokens, [tokens.end])
        allowed = [id for id in range(32 * len(mask)) if bodies.has(mask, id)]
        if allowed[-1] == tokens.end:
            break
        matcher.consume_token(allowed[-1])


def test_128_tools(nano: Tokenizer) -> None:
    tools = [FunctionTool(f"tool_{n}", "", obj("a", a=TEXT, b=deep(3))) for n in range(128)]
    assert harmony_grammar(nano, tools=tools).start().mask().any()


# ---- what a step takes ----

REPEATED: list[BodyFormat] = [
    RegexFormat("^x{1000000}$"),
    RegexFormat("(ab){1000000}"),
    RegexFormat("((x{1000}){1000}){1000}"),
    LarkFormat('start: "x"~1000000'),
    LarkFormat('start: A\nA: "x"~1000000'),
    LarkFormat('start: a~1000\na: "x"~1000'),
    LarkFormat(f'start: "{"x" * 100_000}"'),
    JsonFormat({"type": "string", "pattern": "^x{1000000}$"}),
    JsonFormat({"type": "string", "pattern": "^x*$", "minLength": 1_000_000}),
    JsonFormat({"type": "array", "items": {"const": 1}, "minItems": 1_000_000}),
    JsonFormat({"const": "x" * 100_000}),
]


@pytest.mark.parametrize("body", REPEATED, ids=lambda body: repr(body)[:50])
def test_a_long_text_that_is_certain_is_not_worked_out_ahead(
    body: BodyFormat, nano: Tokenizer, tokens: Vocabulary
) -> None:
    """A million bytes would burn ten million units of fuel."""
    matcher = compile_body(body, tokens, "it").start()
    for _ in range(5):
        mask = next_mask(matcher, tokens, [tokens.end])
        matcher.consume_token(next(id for id in range(32 * len(mask)) if bodies.has(mask, id)))
    assert compiling.lexer_fuel(matcher) < 100_000


def test_a_grammar_cannot_switch_it_on_again(tokens: Vocabulary) -> None:
    own = (
        '%llguidance {"no_forcing": false}\nstart: /x{1000000}/\n%llguidance {"no_forcing": false}'
    )
    matcher = compile_body(LarkFormat(own), tokens, "it").start()
    next_mask(matcher, tokens, [tokens.end])
    assert compiling.lexer_fuel(matcher) < 100_000


def test_lark_is_not_read_as_a_list_of_grammars(tokens: Vocabulary) -> None:
    with pytest.raises(GrammarError, match="expecting rule"):
        compile_body(LarkFormat('{"grammars": [{"json_schema": {}}]}'), tokens, "it")


# ---- what is kept ----


def test_who_asks_again_is_given_the_same(
    tokens: Vocabulary, fresh: FormatCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counted(monkeypatch)
    first = compile_body(JsonFormat(obj(a=TEXT)), tokens, "tool 'a'")
    assert compile_body(JsonFormat(obj(a=TEXT)), tokens, "tool 'b'") is first
    assert len(made) == 1
    compile_body(RegexFormat("a"), tokens, "c")
    compile_body(LarkFormat("start: /a/"), tokens, "c")
    assert len(made) == 3


def test_failures_are_kept_and_name_who_asks(tokens: Vocabulary, fresh: FormatCache) -> None:
    wrong = JsonFormat({"not": {}})
    for name in ("tool 'a'", "tool 'b'"):
        with pytest.raises(GrammarError, match=f"^{name}: #/not"):
            compile_body(wrong, tokens, name)
    with giving_up(lambda: True), pytest.raises(GrammarError, match=r"^tool 'c'"):
        compile_body(wrong, tokens, "tool 'c'")
    with pytest.raises(GrammarError) as caught:
        compile_body(wrong, tokens, "")
    told = len(str(caught.value)) + len(bodies._NAME)
    assert fresh.bytes == kept.FAILURE_BYTES + told


def test_a_failure_that_is_kept_keeps_no_request(tokens: Vocabulary, fresh: FormatCache) -> None:
    wrong = JsonFormat({"not": {}})
    asked = weakref.ref(wrong)
    errors = []
    for _ in range(2):
        with pytest.raises(GrammarError) as caught:
            compile_body(wrong, tokens, "it")
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    del wrong, caught, errors
    gc.collect()
    assert asked() is None
    with pytest.raises(GrammarSizeError, match="keys in one required"):
        compile_body(JsonFormat({"required": ["a"] * 3000}), tokens, "it")


def test_the_cache_is_bounded_in_bytes(tokens: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    small = FormatCache(3 << 20)
    monkeypatch.setattr(bodies, "_CACHE", small)
    made = counted(monkeypatch)
    values = [[f"{n} {m}" for m in range(500)] for n in range(20)]
    for each in values:
        compile_body(JsonFormat({"enum": each}), tokens, "it")
        assert small.bytes <= 3 << 20
    before = len(made)
    compile_body(JsonFormat({"enum": values[-1]}), tokens, "it")
    assert len(made) == before
    compile_body(JsonFormat({"enum": values[0]}), tokens, "it")
    assert len(made) == before + 1


def test_while_nothing_is_asked_only_the_latest_are_kept(
    tokens: Vocabulary, fresh: FormatCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counted(monkeypatch)
    for n in range(4):
        compile_body(RegexFormat(f"a{n}"), tokens, "it")
    monkeypatch.setattr(bodies, "RESTING", fresh.bytes // 2)
    bodies.forget_formats()
    assert fresh.bytes <= bodies.RESTING
    for n in (3, 2, 0):
        compile_body(RegexFormat(f"a{n}"), tokens, "it")
    assert len(made) == 5
    monkeypatch.setattr(bodies, "RESTING", 0)
    bodies.forget_formats()
    assert fresh.bytes == 0


GROWING = RegexFormat("(" + "|".join(f".*{chr(97 + n)}.{{{n + 5}}}x" for n in range(12)) + ")*")


def walk(matcher: Any, tokens: Vocabulary, number: int, offset: int) -> None:
    for n in range(number):
        mask = next_mask(matcher, tokens, [tokens.end])
        allowed = [id for id in range(32 * len(mask)) if bodies.has(mask, id) and id != tokens.end]
        matcher.consume_token(allowed[(n * 7919 + offset) % len(allowed)])


def test_what_a_lexer_grows_by_is_counted_and_ends(
    tokens: Vocabulary, fresh: FormatCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory, even if the text is broken off; and the lexer is made anew before it is full."""
    made = counted(monkeypatch)
    format = compile_body(GROWING, tokens, "it")
    small = fresh.bytes
    broken_off = format.start()
    walk(broken_off, tokens, 20, 0)
    grown = fresh.bytes
    assert grown > small + compiling.FUEL_BYTES * 100_000
    for n in range(20):
        matcher = format.start()
        walk(matcher, tokens, 20, n)
        format.ended(matcher)
    assert len(made) > 1
    assert fresh.bytes < 4 * (small + compiling.FUEL_BYTES * kept.FUEL_OF_A_LEXER)


def test_what_grows_makes_room_when_it_ends(
    tokens: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FormatCache()
    monkeypatch.setattr(bodies, "_CACHE", cache)
    made = counted(monkeypatch)
    compile_body(RegexFormat("a"), tokens, "it")
    growing = compile_body(GROWING, tokens, "it")
    cache._limit = cache.bytes
    matcher = growing.start()
    walk(matcher, tokens, 20, 0)
    growing.ended(matcher)
    assert cache.bytes == growing.bytes, "the other one has gone"
    before = len(made)
    assert compile_body(GROWING, tokens, "it") is growing
    compile_body(RegexFormat("a"), tokens, "it")
    assert len(made) == before + 1


def test_only_what_was_started_is_measured_again(
    tokens: Vocabulary, fresh: FormatCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[CompiledFormat] = []

    def measure(format: CompiledFormat) -> None:
        assert not fresh._lock.locked()
        measured.append(format)

    monkeypatch.setattr(CompiledFormat, "measure", measure)
    first = compile_body(RegexFormat("a"), tokens, "it")
    first.start()
    for n in range(10):
        compile_body(RegexFormat(f"b{n}"), tokens, "it")
    assert measured == [first]


# ---- who has gone ----


def test_nothing_is_compiled_for_nobody(
    nano: Tokenizer, fresh: FormatCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counted(monkeypatch)
    tools = [FunctionTool(f"f{n}", "", obj(**{f"k{n}": TEXT})) for n in range(20)]
    with giving_up(lambda: len(made) >= 3), pytest.raises(GivenUp):
        harmony_grammar(nano, tools=tools)
    assert len(made) == 3
    before = len(made)
    harmony_grammar(nano, tools=tools)
    assert len(made) == before + 18, "those that were compiled are kept"
