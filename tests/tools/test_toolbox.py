"""A request's tools: what is declared, what a recipient means, what calls are held to."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ossia
from ossia.errors import GrammarError, ToolChoiceError
from ossia.harmony import (
    Conversation,
    FunctionTool,
    LarkFormat,
    Message,
    RegexFormat,
    Role,
    ToolNamespace,
    render_for_completion,
)
from ossia.harmony.grammar.keywords import Relaxed
from ossia.tokenizer import Tokenizer
from ossia.tools import SessionKey, Toolbox, ToolChoice, ToolResult, toolbox
from ossia.tools.kinds import BROWSER, PYTHON, ToolKind
from ossia.tools.toolbox import DeclaredCustom

PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
UNENFORCEABLE = {
    "type": "object",
    "properties": {"a": {"type": "string", "not": {"pattern": "(?=x)"}}},
}
F, G = FunctionTool("f", "Does f.", PLACE), FunctionTool("g")


class Python:
    kind: ToolKind = PYTHON
    namespace = ToolNamespace("python", "Runs code.", ())

    def session(self, key: SessionKey) -> Python:
        return self

    def action(self, function: str, text: str) -> None:
        return None

    def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
        raise AssertionError("not called here")

    def close(self) -> None:
        return None


class Browser(Python):
    kind = BROWSER
    namespace = ToolNamespace(
        "browser", "Reads pages.", (FunctionTool("search"), FunctionTool("open"))
    )


EVERYTHING = Toolbox(
    functions=(F, G),
    custom=(
        DeclaredCustom("patch", "Edits files.", LarkFormat('start: "x"+')),
        DeclaredCustom("free"),
    ),
    namespaces=(ToolNamespace("team", None, (G,)),),
    builtin=(Python(), Browser()),
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(Path(ossia.__file__).parent / "assets" / "nano")


def starts(tokenizer: Tokenizer, tools: Toolbox, *texts: str, form: Any = None) -> list[bool]:
    """Of each text, whether the grammar lets it be said."""
    grammar, found = tools.grammar(tokenizer, form, None), []
    for text in texts:
        sampled, fits = grammar.start(), True
        for token in tokenizer.encode_with_specials(text):
            if sampled.is_done or not (int(sampled.mask()[token // 32]) >> (token % 32)) & 1:
                fits = False
                break
            sampled.advance(token)
        found.append(fits)
    return found


def call(name: str, body: str, mark: str = " <|constrain|>json") -> str:
    return f"<|channel|>commentary to={name}{mark}<|message|>{body}<|call|>"


CALL_F, CALL_G = call("functions.f", '{"place":"Rome"}'), call("functions.g", "{}")
FINAL = "<|channel|>final<|message|>Hi<|return|>"


def test_a_recipient_means_a_tool() -> None:
    found = {
        name: (callee.kind, callee.namespace, callee.name)
        for name, callee in EVERYTHING.by_recipient.items()
    }
    assert found == {
        "functions.f": ("function", None, "f"),
        "functions.g": ("function", None, "g"),
        "functions.patch": ("custom", None, "patch"),
        "functions.free": ("custom", None, "free"),
        "team.g": ("function", "team", "g"),
        "python": ("builtin", "python", ""),
        "browser.search": ("builtin", "browser", "search"),
        "browser.open": ("builtin", "browser", "open"),
    }


def test_what_the_model_is_told(tokenizer: Tokenizer) -> None:
    developer = EVERYTHING.developer("Be brief.")
    assert developer is not None
    text = tokenizer.decode(
        render_for_completion(Conversation((Message(Role.DEVELOPER, developer),)), tokenizer)
    )
    for wanted in (
        "Be brief.",
        "Does f.",
        "place: string",
        "Edits files.",
        'start: "x"+',
        "namespace team",
    ):
        assert wanted in text
    assert Toolbox().developer(None) is None and Toolbox().developer("Be brief.") is not None
    assert [space.name for space in EVERYTHING.system_namespaces] == ["python", "browser"]
    assert EVERYTHING and not Toolbox()


def test_calls_are_held_to_their_schemas(tokenizer: Tokenizer) -> None:
    tools = Toolbox(functions=(F,), custom=(DeclaredCustom("digits", "", RegexFormat("[0-9]{3}")),))
    wrong = call("functions.f", '{"street":"x"}')
    assert starts(tokenizer, tools, CALL_F, wrong, CALL_G, FINAL) == [True, False, False, True]
    patched = [call("functions.digits", body, " code") for body in ("123", "12a")]
    assert starts(tokenizer, tools, *patched) == [True, False]


def test_choices(tokenizer: Tokenizer) -> None:
    def held(mode: str, names: tuple[str, ...] | None = None) -> list[bool]:
        tools = Toolbox(functions=(F, G), choice=ToolChoice(mode, names))  # type: ignore[arg-type]
        return starts(tokenizer, tools, CALL_F, CALL_G, FINAL)

    assert held("auto") == [True, True, True]
    assert held("none") == [False, False, True]
    assert held("required") == [True, True, False]
    assert held("required", ("g",)) == [False, True, False]
    assert held("required", ("functions.f",)) == [True, False, False]
    assert held("auto", ("f",)) == [True, False, True]
    assert held("auto", ()) == [False, False, True]


def test_a_choice_in_a_namespace_and_of_the_servers_tools(tokenizer: Tokenizer) -> None:
    in_team = call("team.g", "{}")
    chosen = Toolbox(
        EVERYTHING.functions,
        namespaces=EVERYTHING.namespaces,
        choice=ToolChoice("required", ("team.g",)),
    )
    assert starts(tokenizer, chosen, in_team, CALL_G) == [True, False]
    kept = Toolbox(
        (F,), builtin=(Python(), Browser()), choice=ToolChoice("auto", ("browser.search",))
    )
    assert [tool.namespace.name for tool in kept.chosen().builtin] == ["browser"]
    search, other = (
        f"<|channel|>analysis to=browser.{name} code<|message|>{{}}<|call|>"
        for name in ("search", "open")
    )
    assert starts(tokenizer, kept, CALL_F, search, other) == [False, True, False]
    assert kept.resolve("browser.open") != kept.chosen().resolve("browser.open")
    whole = replace(kept, choice=ToolChoice("auto", ("python", "browser.search", "browser.open")))
    assert starts(tokenizer, whole, CALL_F, search, other) == [False, True, True]
    assert [tool.namespace.name for tool in whole.chosen().builtin] == ["python", "browser"]


def test_a_namespace_without_functions_can_be_chosen(tokenizer: Tokenizer) -> None:
    python = ToolNamespace("python", "Runs code.", ())
    chosen = Toolbox((F,), namespaces=(python,), choice=ToolChoice("required", ("python",)))
    code = "<|channel|>analysis to=python code<|message|>1+1<|call|>"
    assert starts(tokenizer, chosen, code, CALL_F) == [True, False]


@pytest.mark.parametrize(
    "choice", [ToolChoice("required", ("nope",)), ToolChoice("auto", ("f", "nope"))]
)
def test_a_choice_of_no_tool_is_refused(tokenizer: Tokenizer, choice: ToolChoice) -> None:
    with pytest.raises(ToolChoiceError, match="nope") as refused:
        Toolbox(functions=(F,), choice=choice).grammar(tokenizer, None, None)
    assert (refused.value.field, refused.value.code) == ("tool_choice", None)


def test_a_required_call_without_tools_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ToolChoiceError) as refused:
        Toolbox(choice=ToolChoice("required")).grammar(tokenizer, None, None)
    assert refused.value.field == "tool_choice"


def test_what_cannot_be_enforced_is_let_go_unless_it_is_strict(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    bad = FunctionTool("bad", None, UNENFORCEABLE)
    with pytest.raises(GrammarError):
        from ossia.harmony import harmony_grammar

        harmony_grammar(tokenizer, tools=[bad])
    with caplog.at_level(logging.WARNING, "ossia.tools"):
        tools = Toolbox(functions=(F, bad))
        assert starts(tokenizer, tools, call("functions.bad", '{"z": 1}')) == [True]
        tools.grammar(tokenizer, None, None)
    assert caplog.text.count("relaxed: 1 keywords of a schema") == 1, "said once"
    assert "bad" not in caplog.text, "and nothing of the schema"
    wrong = call("functions.f", '{"street":"x"}')
    assert starts(tokenizer, tools, CALL_F, wrong) == [True, False], "the others still are"
    with pytest.raises(GrammarError) as refused:
        Toolbox(functions=(F, bad), strict=frozenset({"bad"})).grammar(tokenizer, None, None)
    assert (refused.value.field, refused.value.code) == ("tools", "invalid_schema")


def test_what_was_logged_is_remembered_by_its_digest(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolbox, "_logged", OrderedDict())
    monkeypatch.setattr(toolbox, "MOST_LOGGED", 2)
    long = "x" * 10_001
    for text in (long, long, "b", "c", long):
        toolbox._log_once([Relaxed(text, "#", "is odd")])
    assert len(caplog.records) == 4 and long not in caplog.text
    assert [len(digest) for digest in toolbox._logged] == [16, 16]


def test_a_response_format_binds_the_answer_beside_tools(tokenizer: Tokenizer) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE}}
    header = "<|channel|>final<|message|>"
    texts = (CALL_F, FINAL, header + '{"place":"Rome"}<|return|>', header + "Hi<|return|>")
    assert starts(tokenizer, Toolbox(functions=(F,)), *texts, form=form) == [
        True,
        False,
        True,
        False,
    ]


def test_a_budget_of_no_reasoning(tokenizer: Tokenizer) -> None:
    grammar = Toolbox().grammar(tokenizer, None, 0)
    sampled = grammar.start()
    for token in tokenizer.encode_with_specials("<|channel|>"):
        sampled.advance(token)
    (analysis,) = tokenizer.encode("analysis")[:1]
    assert not (int(sampled.mask()[analysis // 32]) >> (analysis % 32)) & 1


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        (ToolChoice(), ToolChoice()),
        (ToolChoice("required"), ToolChoice()),
        (ToolChoice("auto", ("f", "python")), ToolChoice("auto", ("functions.f",))),
        (ToolChoice("required", ("python",), always=True), ToolChoice("none")),
    ],
)
def test_what_is_left_when_our_own_tools_are_used_up(choice: ToolChoice, left: ToolChoice) -> None:
    box = Toolbox((F,), builtin=(Python(), Browser()), choice=choice).without_ours()
    assert box.choice == left and not box.builtin and box.chosen() is not None
