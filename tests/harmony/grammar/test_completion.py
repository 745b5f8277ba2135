"""The grammar of whole completions: headers, order, tool choice, budget; and random samples of
everything at once.

Samples are judged by the official package's strict parser, ours, and `jsonschema`; see
grammar_cases.py.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grammar_cases import (
    BUILT_IN,
    CUSTOM,
    ENDS,
    LARK,
    SPECIALS,
    Case,
    Parse,
    Sampler,
    cases,
    check,
    obj,
    samples,
    strict_parse,
)

import ossia
from ossia.errors import GrammarError
from ossia.harmony import FunctionTool, Message, ResponseFormat, ToolNamespace, render_message
from ossia.harmony.grammar.bodies import JsonFormat, LarkFormat, RegexFormat, body_format
from ossia.harmony.grammar.completion import CustomTool, harmony_grammar
from ossia.harmony.grammar.constraint import HarmonyConstraint, HarmonyGrammar
from ossia.tokenizer import Tokenizer, train_tokenizer

NANO = Path(ossia.__file__).parent / "assets/nano/tokenizer.json"
F, G = FunctionTool("f", "", obj("a", a={"type": "integer"})), FunctionTool("g")
THOUGHT = "<|channel|>analysis<|message|>{}<|end|>"
PREAMBLE = "<|channel|>commentary<|message|>{}<|end|>"
CALL_F = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
FINAL = "<|channel|>final<|message|>{}<|return|>"
AGAIN = "<|start|>assistant"


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    return Tokenizer.from_file(NANO)


def allowed(constraint: HarmonyConstraint) -> set[int]:
    return set(
        np.flatnonzero(np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")).tolist()
    )


def walk(grammar: HarmonyGrammar, text: str, tokenizer: Tokenizer) -> HarmonyConstraint:
    """A constraint behind `text`, whose special names are tokens. Raises GrammarError where it is
    not allowed.
    """
    constraint = grammar.start()
    for token in tokenizer.encode_with_specials(text):
        constraint.advance(token)
    return constraint


def refuses(grammar: HarmonyGrammar, text: str, tokenizer: Tokenizer) -> bool:
    try:
        walk(grammar, text, tokenizer)
    except GrammarError:
        return True
    return False


# ---- random completions ----

COUNTS = [1, pytest.param(100, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_random_completions_with_nano(case: Case, count: int, nano: Tokenizer) -> None:
    for ids in samples(case, nano, count, seed=len(case.name)):
        check(case, ids, nano, strict_parse(nano))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_random_completions_with_o200k(
    case: Case, count: int, tokenizer: Tokenizer, peer: Any
) -> None:
    def official(ids: list[int]) -> list[Message]:
        found = peer.parse(ids, "assistant")
        assert not isinstance(found, str), found
        return found

    parsers: tuple[Parse, ...] = (strict_parse(tokenizer), official)
    for ids in samples(case, tokenizer, count, seed=len(case.name)):
        check(case, ids, tokenizer, *parsers)


def test_the_cases_cover_all_that_can_be_asked_for() -> None:
    options = [case.options for case in cases()]
    assert len(options) == 50
    for key, count in (
        ("tool_choice", 4),
        ("response_format", 8),
        ("reasoning_budget", 5),
        ("parallel_calls", 2),
    ):
        assert len({json.dumps(o[key]) for o in options}) >= count
    assert {"custom", "namespaces"} <= {key for o in options for key in o}


# ---- headers and order ----


def test_headers_are_sampled_as_they_are_rendered(nano: Tokenizer) -> None:
    grammar = harmony_grammar(nano, tools=[F, G], custom=CUSTOM, namespaces=BUILT_IN)
    messages = [
        Message("assistant", "so", channel="analysis"),
        Message("assistant", "now", channel="commentary"),
        Message("assistant", '{"a":1}', None, "commentary", "functions.f", "<|constrain|>json"),
        Message("assistant", "{}", None, "commentary", "functions.g", "<|constrain|>json"),
        Message("assistant", "text", None, "commentary", "functions.free", "code"),
        Message("assistant", "print()", None, "analysis", "python", "code"),
        Message("assistant", '{"query":"x"}', None, "analysis", "browser.search", "code"),
        Message("assistant", '{"id":1}', None, "analysis", "browser.open", "code"),
    ]
    author = 1 + len(nano.encode("assistant"))
    for message in messages:
        constraint = grammar.start()
        for token in render_message(message, nano)[author:]:
            constraint.advance(token)
        assert constraint.is_done == (message.recipient is not None)


@pytest.mark.parametrize(
    "text",
    [
        " to=functions.f<|channel|>commentary <|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.f<|message|>",
        "<|channel|>commentary to=functions.f json<|message|>",
        "<|channel|>commentary to=f <|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.h",
        "<|channel|>analysis to=functions.f",
        "<|channel|>final <|constrain|>json<|message|>",
        "<|channel|>thoughts",
        "<|message|>hello",
        "hello",
        "<|start|>",
        "<|end|>",
        "<|return|>",
        "<|channel|><|message|>",
    ],
)
def test_no_other_header_is(text: str, nano: Tokenizer) -> None:
    assert refuses(harmony_grammar(nano, tools=[F]), text, nano)


def test_the_order_of_messages(nano: Tokenizer) -> None:
    grammar = harmony_grammar(nano, tools=[F])
    end = nano.special("<|end|>")
    for text in (FINAL.format("yes"), CALL_F.format('{"a":1}')):
        whole = (
            THOUGHT.format("hm")
            + AGAIN
            + PREAMBLE.format("I will look")
            + AGAIN
            + THOUGHT.format("")
            + AGAIN
            + text
        )
        constraint = walk(grammar, whole, nano)
        assert constraint.is_done and not allowed(constraint)
        with pytest.raises(GrammarError, match="may not come next"):
            constraint.advance(end)
    assert refuses(grammar, FINAL.format("x").replace("return", "end"), nano)
    assert refuses(grammar, CALL_F.format('{"a":1}').replace("<|call|>", "<|end|>"), nano)
    assert refuses(grammar, THOUGHT.format("x") + "<|start|>user", nano)
    assert refuses(grammar, CALL_F.format('{"a":"1"}'), nano)
    assert refuses(grammar, CALL_F.format(""), nano)


def test_free_text_is_all_text_and_nothing_else(nano: Tokenizer) -> None:
    text = set(nano.vocabulary.values())
    grammar = harmony_grammar(nano, custom=[CustomTool("c")])
    for head, end in (
        ("<|channel|>analysis<|message|>", "<|end|>"),
        ("<|channel|>commentary<|message|>some text", "<|end|>"),
        ("<|channel|>final<|message|>some text", "<|return|>"),
        ("<|channel|>commentary to=functions.c code<|message|>", "<|call|>"),
    ):
        assert allowed(walk(grammar, head, nano)) == text | {nano.special(end)}


def test_reserved_and_unknown_ids_never(tokenizer: Tokenizer) -> None:
    grammar = harmony_grammar(tokenizer, tools=[F], response_format="json_object")
    used = {tokenizer.special(name) for name in (*ENDS, *SPECIALS)}
    for case in (
        THOUGHT.format("x"),
        "<|channel|>final<|message|>",
        '<|channel|>final<|message|>{"a',
        CALL_F.format("{")[:-8],
    ):
        mask = walk(grammar, case, tokenizer).mask()
        assert mask.dtype == np.uint32 and mask.shape == (6285,)
        ids = set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())
        assert ids and max(ids) < 201_088 and {id for id in ids if id >= 199_998} <= used
    with pytest.raises(GrammarError):
        grammar.start().advance(10**9)
    with pytest.raises(GrammarError):
        grammar.start().advance(-1)


def test_ids_without_a_token_never() -> None:
    dense = train_tokenizer(["hello world"] * 3, 300)
    sparse = Tokenizer(
        {token: 3 * id for token, id in dense.vocabulary.items()},
        {name: 3 * id + 1 for name, id in dense.specials.items()},
        dense.pattern,
    )
    grammar = harmony_grammar(sparse, tools=[F], response_format="json_object")
    known = {*sparse.vocabulary.values(), *sparse.specials.values()}
    for text in (FINAL.format('{"hello":[1]}'), CALL_F.format('{"a":12}')):
        constraint = grammar.start()
        for token in sparse.encode_with_specials(text):
            assert allowed(constraint) <= known
            constraint.advance(token)
        assert constraint.is_done


# ---- tool choice ----


def test_none_calls_nothing_and_says_nothing_on_commentary(nano: Tokenizer) -> None:
    for grammar in (harmony_grammar(nano, tools=[F], tool_choice="none"), harmony_grammar(nano)):
        assert refuses(grammar, "<|channel|>commentary", nano)
        assert walk(grammar, FINAL.format("x"), nano).is_done


def test_required_ends_with_a_call(nano: Tokenizer) -> None:
    grammar = harmony_grammar(nano, tools=[F, G], tool_choice="required")
    assert refuses(grammar, "<|channel|>final", nano)
    assert refuses(grammar, THOUGHT.format("x") + AGAIN + "<|channel|>final", nano)
    assert walk(grammar, PREAMBLE.format("x") + AGAIN + CALL_F.format('{"a":1}'), nano).is_done


@pytest.mark.parametrize(
    "choice",
    [
        "f",
        "functions.f",
        {"type": "function", "function": {"name": "f"}},
        {"type": "function", "name": "f"},
    ],
)
def test_a_named_tool_is_the_only_one(choice: Any, nano: Tokenizer) -> None:
    grammar = harmony_grammar(
        nano, tools=[F, G, FunctionTool("ff")], namespaces=BUILT_IN, tool_choice=choice
    )
    assert walk(grammar, CALL_F.format('{"a":1}'), nano).is_done
    for other in (
        "<|channel|>commentary to=functions.g",
        "<|channel|>analysis to",
        "<|channel|>final",
    ):
        assert refuses(grammar, other, nano)
    assert refuses(grammar, "<|channel|>commentary to=functions.ff <|constrain|>", nano)


def test_built_in_and_custom_tools_can_be_named(nano: Tokenizer) -> None:
    make = {"custom": CUSTOM, "namespaces": BUILT_IN}
    python = harmony_grammar(nano, tool_choice="python", **make)
    assert walk(python, "<|channel|>analysis to=python code<|message|>1+1<|call|>", nano).is_done
    search = harmony_grammar(nano, tool_choice="browser.search", **make)
    assert walk(
        search, '<|channel|>analysis to=browser.search code<|message|>{"query":"x"}<|call|>', nano
    ).is_done
    assert refuses(search, '<|channel|>analysis to=browser.search code<|message|>{"topn', nano)
    patch = harmony_grammar(nano, tool_choice={"type": "custom", "custom": {"name": "sum"}}, **make)
    assert walk(
        patch, "<|channel|>commentary to=functions.sum code<|message|>add 1 + 22<|call|>", nano
    ).is_done
    assert refuses(
        patch, "<|channel|>commentary to=functions.sum code<|message|>add 1 +<|call|>", nano
    )


def test_a_namespace_of_ones_own_is_called_on_commentary(nano: Tokenizer) -> None:
    grammar = harmony_grammar(
        nano, namespaces=[ToolNamespace("db", None, (G,)), ToolNamespace("shell", "runs it")]
    )
    assert walk(
        grammar, "<|channel|>commentary to=db.g <|constrain|>json<|message|>{}<|call|>", nano
    ).is_done
    assert walk(grammar, "<|channel|>commentary to=shell code<|message|>ls<|call|>", nano).is_done


def test_parallel_calls(nano: Tokenizer) -> None:
    grammar = harmony_grammar(nano, tools=[F, G], parallel_calls=True)
    first, last = CALL_F.format('{"a":1}').replace("<|call|>", "<|end|>"), CALL_F.format('{"a":2}')
    assert walk(grammar, last, nano).is_done
    assert walk(
        grammar, first + AGAIN + THOUGHT.format("x") + AGAIN + first + AGAIN + last, nano
    ).is_done
    behind = walk(grammar, first, nano)
    assert not behind.is_done and allowed(behind) == {nano.special("<|start|>")}
    assert refuses(grammar, first + AGAIN + "<|channel|>final", nano)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tool_choice": "required"}, "there are no tools"),
        (
            {"tools": [F], "tool_choice": "g"},
            "'g' is not auto, none, required or one of functions.f",
        ),
        ({"tools": [F], "tool_choice": {"type": "function"}}, "is not auto"),
        ({"tools": [F, F]}, "two tools have the name 'functions.f'"),
        ({"tools": [F], "custom": [CustomTool("f")]}, "two tools"),
        ({"tools": [FunctionTool("a b")]}, "cannot stand in a header"),
        ({"tools": [FunctionTool("a<|call|>")]}, "cannot stand"),
        ({"tools": [FunctionTool("")]}, "cannot stand"),
        ({"tools": [FunctionTool("\ud800")]}, "cannot stand"),
        ({"reasoning_budget": -1}, "number of tokens from 0"),
        ({"reasoning_budget": 1.5}, "number of tokens"),
        ({"response_format": {"type": "xml"}}, "unknown format"),
        ({"response_format": {"type": "json_schema"}}, "unknown format"),
        ({"response_format": JsonFormat({"not": {}})}, "response format: #/not cannot be enforced"),
        ({"response_format": JsonFormat(False)}, "response format: # cannot be enforced"),
        ({"custom": [CustomTool("c", LarkFormat("start: b"))]}, "custom tool 'c': .*b"),
        ({"custom": [CustomTool("c", LarkFormat('x: "a"'))]}, "custom tool 'c': .*start"),
        ({"custom": [CustomTool("c", LarkFormat("start: <|call|>"))]}, "names the token <|call|>"),
        ({"custom": [CustomTool("c", LarkFormat("start: <[0-9]>"))]}, "names the token <.0-9.>"),
        (
            {"custom": [CustomTool("c", LarkFormat("start: a\na[max_tokens=3]: /.*/"))]},
            "max_tokens=",
        ),
        ({"custom": [CustomTool("c", LarkFormat('start: "\ud800"'))]}, "surrogates"),
        ({"tools": [FunctionTool("f", "", [1])]}, "tool 'f': parameters: must be a JSON schema"),
        ({"response_format": 5}, "a format is an object with a type"),
        ({"response_format": JsonFormat({"minLength": float("inf")})}, "should be a whole number"),
        ({"response_format": JsonFormat({"properties": {"\ud800": {}}})}, "surrogates"),
        (
            {"custom": [CustomTool("c", LarkFormat('start: /(\n)"/ <|start|> "/ "'))]},
            "names the token <|start|>",
        ),
        ({"tools": [FunctionTool("a(b", "", None)]}, "cannot stand in a header"),
        ({"custom": [CustomTool("c", RegexFormat("("))]}, "is not a regular expression"),
        ({"custom": [CustomTool("c", RegexFormat(r"[^\s\S]"))]}, "custom tool 'c'"),
    ],
)
def test_what_contradicts_itself_is_refused(
    options: dict[str, Any], said: str, nano: Tokenizer
) -> None:
    with pytest.raises(GrammarError, match=said.replace("|", r"\|")):
        harmony_grammar(nano, **options)


def test_names_that_begin_alike_are_told_apart(nano: Tokenizer) -> None:
    tools = [
        FunctionTool(name, "", obj("n", n={"const": name}))
        for name in ("get", "get_a", "get_ab", "get.a", "geté")
    ]
    grammar = harmony_grammar(nano, tools=tools)
    for tool in tools:
        text = CALL_F.replace("functions.f", f"functions.{tool.name}").format(
            json.dumps({"n": tool.name}, ensure_ascii=False)
        )
        assert walk(grammar, text, nano).is_done


# ---- budget ----


@pytest.mark.parametrize("budget", [1, 2, 5, 17])
def test_the_budget_is_exact_and_for_all_analysis_together(budget: int, nano: Tokenizer) -> None:
    grammar = harmony_grammar(nano, tools=[F], reasoning_budget=budget)
    end, word = nano.special("<|end|>"), nano.encode("a")[0]
    head = nano.encode_with_specials("<|channel|>analysis<|message|>")
    constraint = grammar.start()
    for spent in range(budget):  # a message for each token, and one preamble, which is free
        for token in [*head, word, end, *nano.encode_with_specials(AGAIN)]:
            if token == end:
                assert (allowed(constraint) == {end}) == (spent == budget - 1)
            constraint.advance(token)
    for token in nano.encode_with_specials(
        PREAMBLE.format("one two three four") + AGAIN + "<|channel|>"
    ):
        constraint.advance(token)
    assert nano.encode("analysis")[0] not in allowed(constraint)
    assert {nano.encode("final")[0], nano.encode("commentary")[0]} <= allowed(constraint)


def test_a_budget_of_zero_is_no_analysis(nano: Tokenizer) -> None:
    grammar = harmony_grammar(nano, tools=[F], reasoning_budget=0, tool_choice="required")
    assert refuses(grammar, "<|channel|>analysis", nano)
    assert walk(grammar, CALL_F.format('{"a":1}'), nano).is_done
    assert walk(harmony_grammar(nano, reasoning_budget=0), FINAL.format(""), nano).is_done


def test_calls_of_built_in_tools_are_no_reasoning(nano: Tokenizer) -> None:
    grammar = harmony_grammar(nano, namespaces=BUILT_IN, reasoning_budget=0)
    assert walk(
        grammar, "<|channel|>analysis to=python code<|message|>print(1, 2, 3)<|call|>", nano
    ).is_done
    assert refuses(grammar, "<|channel|>analysis<|message|>", nano)


# ---- calls that have to come ----

MUST = dict(tools=[F, G], tool_choice="required")


def test_before_a_call_that_has_to_come_are_one_thought_and_one_preamble(nano: Tokenizer) -> None:
    thought, preamble = THOUGHT.format("so"), PREAMBLE.format("now")
    call = CALL_F.format('{"a":1}')
    grammar = harmony_grammar(nano, **MUST)
    for before in ([], [thought], [preamble], [thought, preamble], [preamble, thought]):
        assert walk(grammar, AGAIN.join([*before, call]), nano).is_done
    for twice in ([thought, thought], [thought, preamble, thought], [preamble, thought, preamble]):
        assert refuses(grammar, AGAIN.join(twice), nano)
    free = harmony_grammar(nano, tools=[F, G])
    assert walk(free, AGAIN.join([thought, thought, preamble, preamble, call]), nano).is_done


def test_a_call_that_another_has_to_follow_is_bound_as_well(nano: Tokenizer) -> None:
    grammar = harmony_grammar(nano, tools=[F, G], parallel_calls=True)
    thought, call = THOUGHT.format("so"), CALL_F.format('{"a":1}')
    more = call.replace("<|call|>", "<|end|>")
    for text in ([thought, thought, more, thought, more, thought, call], [more, call]):
        assert walk(grammar, AGAIN.join(text), nano).is_done
    assert refuses(grammar, AGAIN.join([more, thought, thought]), nano)


@pytest.mark.parametrize("tokens", [1, 64, 65, 100, 400])
def test_what_comes_before_a_call_gets_its_share_of_the_tokens(
    tokens: int, nano: Tokenizer
) -> None:
    share = max(0, tokens - max(64, tokens // 2))
    a = nano.encode("a")[0]
    for kind in (THOUGHT, PREAMBLE):
        head = nano.encode_with_specials(kind.split("{}")[0])
        constraint = harmony_grammar(nano, **MUST).start()
        constraint.within(tokens)
        if share == 0:
            assert walk_on(constraint, AGAIN + "<|channel|>commentary to", nano, skip=AGAIN)
            continue
        for token in [*head, *[a] * (share - len(head))]:
            constraint.advance(token)
        assert allowed(constraint) == {nano.special("<|end|>")}
        text = "<|end|>" + AGAIN + CALL_F.format('{"a":1}')
        assert walk_on(constraint, text, nano) and constraint.is_done


def test_a_free_choice_has_no_share(nano: Tokenizer) -> None:
    constraint = harmony_grammar(nano, tools=[F]).start()
    constraint.within(10)
    assert walk_on(constraint, THOUGHT.format("a long thought about nothing much"), nano)


def walk_on(constraint: HarmonyConstraint, text: str, tokenizer: Tokenizer, skip: str = "") -> bool:
    """Whether `text`, without its beginning `skip`, is allowed next; `commentary` with no recipient
    is not.
    """
    for token in tokenizer.encode_with_specials(text.removeprefix(skip)):
        if token not in allowed(constraint):
            return False
        constraint.advance(token)
    return True


# ---- bodies ----


@pytest.mark.parametrize(
    ("wanted", "good", "bad"),
    [
        (None, "any <text>", None),
        ("text", "any", None),
        ("json_object", '{"a":[]}', "[]"),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}},
            "[1]",
            "{}",
        ),
        (
            {"type": "json_schema", "name": "n", "schema": {"type": "null"}, "strict": True},
            "null",
            "1",
        ),
        (ResponseFormat("n", {"type": "boolean"}), "true", "0"),
        ({"type": "regex", "pattern": r"\d{2}"}, "12", "1"),
        (RegexFormat("^yes|no$"), "no", "nono"),
        ({"type": "grammar", "syntax": "lark", "definition": LARK}, "del x", "del"),
        ({"type": "grammar", "grammar": {"syntax": "regex", "definition": "a+"}}, "aaa", "b"),
    ],
)
def test_response_formats(wanted: Any, good: str, bad: str | None, nano: Tokenizer) -> None:
    grammar = harmony_grammar(nano, response_format=wanted)
    assert walk(grammar, THOUGHT.format("free {") + AGAIN + FINAL.format(good), nano).is_done
    assert bad is None or refuses(grammar, FINAL.format(bad), nano)


def test_custom_tools_from_openai_objects() -> None:
    grammar = {"type": "grammar", "syntax": "regex", "definition": "a"}
    assert CustomTool.from_dict({"type": "custom", "name": "c"}) == CustomTool("c")
    assert CustomTool.from_dict({"type": "custom", "name": "c", "format": grammar}) == CustomTool(
        "c", RegexFormat("a")
    )
    nested = {"type": "custom", "custom": {"name": "c", "format": {"type": "text"}}}
    assert CustomTool.from_dict(nested) == CustomTool("c")
    for wrong in ({}, {"name": "c", "format": {"type": "json_object"}}):
        with pytest.raises(GrammarError, match="a custom tool needs"):
            CustomTool.from_dict(wrong)
    assert body_format(RegexFormat("a")) == RegexFormat("a")


def test_a_lark_literal_may_hold_what_looks_like_a_token(nano: Tokenizer) -> None:
    lark = 'start: "<|call|>" /<[0-9]>/ // <|end|>\n# stop=1\n'
    grammar = harmony_grammar(nano, custom=[CustomTool("c", LarkFormat(lark))])
    constraint = walk(grammar, "<|channel|>commentary to=functions.c code<|message|>", nano)
    for token in nano.encode("<|call|><7>"):
        constraint.advance(token)
    assert allowed(constraint) == {nano.special("<|call|>")}


def test_tools_may_be_openai_objects(nano: Tokenizer) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    grammar = harmony_grammar(nano, tools=[tool], tool_choice="f")
    walk(
        grammar, "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>", nano
    )


def test_a_negation_lets_no_special_token_in(nano: Tokenizer) -> None:
    grammar = harmony_grammar(nano, custom=[CustomTool("c", LarkFormat('start: X\nX: ~"no"'))])
    constraint = walk(grammar, "<|channel|>commentary to=functions.c code<|message|>", nano)
    assert allowed(constraint) <= {*nano.vocabulary.values(), nano.special("<|call|>")}


def test_numbers_stay_finite(nano: Tokenizer) -> None:
    grammar = harmony_grammar(nano, response_format="json_object")
    head = "<|channel|>final<|message|>"
    assert not refuses(
        grammar,
        head + '{"a":1e99,"b":-1E-12,"e999":"1e999 \\"e999","c":[true,123456,1e5]}<|return|>',
        nano,
    )
    for number in ("1e999", "1E+100", "1e-0001"):
        assert refuses(grammar, f'{head}{{"a":"\\\\","b":{number}', nano)


# ---- use ----


def test_a_grammar_is_started_again_and_again_and_walked_in_threads(nano: Tokenizer) -> None:
    case = cases()[18]
    grammar = case.grammar(nano)

    def run(seed: int) -> list[int]:
        return Sampler(nano, random.Random(seed)).completion(grammar)

    alone = [run(seed) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(24))) == alone


def test_masks_handed_out_do_not_change(nano: Tokenizer) -> None:
    constraint = harmony_grammar(nano, tools=[F]).start()
    seen = []
    for token in nano.encode_with_specials(
        THOUGHT.format("a b c") + AGAIN + CALL_F.format('{"a":12}')
    ):
        seen.append((constraint.mask(), constraint.mask().copy()))
        constraint.advance(token)
    assert all(np.array_equal(kept, copy) and not kept.flags.writeable for kept, copy in seen)


def test_importing_harmony_loads_neither_numpy_nor_llguidance() -> None:
    program = (
        "import sys, ossia.harmony; sys.exit(bool({'numpy', 'llguidance', 'jsonschema'} & "
        "{*sys.modules}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(Path(ossia.__file__).parent.parent)}
    )
    assert run.returncode == 0
