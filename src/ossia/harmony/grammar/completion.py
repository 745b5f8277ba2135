"""The Harmony grammar of a completion: which tokens may follow `<|start|>assistant`, for given
tools and wishes.

Knows channels, headers, tools and the order of messages. The formats of bodies are bodies.py's, the
walk along a sampled completion is constraint.py's. Imports neither numpy nor llguidance before a
grammar is made.

A completion is any number of analysis messages and, where tools may be called, preambles; then a
call or the final answer. Where a call has to come, it is one of each at most, and a share of the
tokens:

    <|channel|>analysis<|message|>...<|end|>
    <|channel|>commentary<|message|>...<|end|>
    <|channel|>commentary to=functions.f <|constrain|>json<|message|>{...}<|call|>
    <|channel|>commentary to=functions.c code<|message|>...<|call|>          a custom tool
    <|channel|>analysis to=browser.search code<|message|>{...}<|call|>       a built-in tool
    <|channel|>analysis to=python code<|message|>...<|call|>
    <|channel|>final<|message|>...<|return|>

with `<|start|>assistant` before every message but the first. Headers are sampled token by token as
they are rendered, so that a completion put back into the prompt is the same tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from ossia.errors import GrammarError, GrammarSizeError, blaming
from ossia.harmony.content import BUILTIN_TOOLS
from ossia.harmony.grammar import bounds
from ossia.harmony.grammar.bodies import (
    BodyFormat,
    JsonFormat,
    LarkFormat,
    RegexFormat,
    body_format,
    compile_body,
    relaxed_in,
    vocabulary,
)
from ossia.harmony.grammar.constraint import Body, HarmonyGrammar, Place
from ossia.harmony.grammar.kept import CompiledFormat
from ossia.harmony.grammar.keywords import Relaxed
from ossia.harmony.messages import (
    CONSTRAIN,
    FUNCTIONS,
    FunctionTool,
    Message,
    ResponseFormat,
    Role,
    ToolNamespace,
)
from ossia.harmony.render import opened
from ossia.tokenizer import Tokenizer

if TYPE_CHECKING:
    from ossia.harmony.grammar.bodies import Mask

JSON = f"{CONSTRAIN}json"  # the content type of JSON with a schema
CODE = "code"  # the content type of any other text
END = "<|end|>"
CALL = "<|call|>"
RETURN = "<|return|>"


@dataclass(frozen=True)
class CustomTool:
    """A tool whose argument is text: free (None), or of a regex or Lark grammar. Called as
    `functions.<name>`.
    """

    name: str
    format: RegexFormat | LarkFormat | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CustomTool:
        """From an OpenAI tool of `type: custom`, flat or nested. Raises GrammarError."""
        data = data["custom"] if isinstance(data.get("custom"), Mapping) else data
        text = body_format(data.get("format"))
        if not isinstance(data.get("name"), str) or isinstance(text, JsonFormat):
            raise GrammarError(
                f"a custom tool needs a name, and as format text or a grammar: {data!r:.120}"
            )
        return cls(data["name"], text)


def harmony_grammar(
    tokenizer: Tokenizer,
    *,
    tools: Sequence[FunctionTool | Mapping[str, Any]] = (),
    custom: Sequence[CustomTool] = (),
    namespaces: Sequence[ToolNamespace] = (),
    tool_choice: str | Mapping[str, Any] = "auto",
    response_format: BodyFormat | ResponseFormat | Mapping[str, Any] | str | None = None,
    reasoning_budget: int | None = None,
    parallel_calls: bool = False,
    strict: Collection[str] | None = None,
) -> HarmonyGrammar:
    """The grammar of one completion, made once and started for each sample.

    `namespaces`: further groups of tools, such as the built-in ones; one without functions (python)
    is called itself, with free text.
    `tool_choice`: "auto"; "none", no call and no preamble; "required", no final answer; or a tool,
    by its name (`f`, `functions.f`, `browser.search`) or as the object that OpenAI's clients send.
    `response_format`: of the final answer, None for free text (see `body_format`).
    `reasoning_budget`: how many tokens all analysis messages may have together; with 0 there are no
    such messages.
    `parallel_calls`: a call may also end with `<|end|>`. Then another call has to follow; the last
    one ends with `<|call|>`, which always ends the completion.
    `strict`: the tools, by their full names, whose schema must be enforced whole; None: all. What
    cannot be enforced of another's is relaxed.

    Raises GrammarError, its `field` the parameter's name, for schemas and grammars that cannot be
    enforced, naming tool, keyword and place; for names that a header cannot hold; and for choices
    that contradict the tools.
    """
    _check_budget(reasoning_budget)
    with blaming("tools"):
        functions = [_function(tool) for tool in tools]
        callees = list(_callees(functions, custom, namespaces, strict))
        bounds.check_number(len(callees))
        _check_names(callees)
    with blaming("tool_choice"):
        chosen, must_call = _choose(callees, tool_choice)
    make = _Messages(tokenizer)
    call_ends = (CALL, END) if parallel_calls else (CALL,)
    with blaming("tools"):
        calls = [make.call(each, call_ends) for each in chosen]
    answers = []
    if not must_call:
        with blaming("response_format"):
            wanted = body_format(response_format)
            header = _header_of("final")
            answers.append(make.message(header, (RETURN,), wanted, "response format"))
    thoughts = [make.message(_header_of("analysis"), (END,))]
    preambles = [make.message(_header_of("commentary"), (END,))] if calls else []
    headers = {}
    for thinking, preamble, called in product((False, True), repeat=3):
        before = thoughts * thinking + preambles * preamble
        headers[thinking, preamble, called] = _tree(before + calls + answers * (not called))
    again = (tokenizer.special("<|start|>"), *tokenizer.encode(Role.ASSISTANT))
    last = frozenset(map(tokenizer.special, (CALL, RETURN)))
    return HarmonyGrammar(
        make.tokens, headers, again, last, reasoning_budget, must_call, make.relaxed
    )


def _check_budget(budget: int | None) -> None:
    if budget is not None and (type(budget) is not int or budget < 0):
        raise GrammarError(
            f"the reasoning budget is a number of tokens from 0, found {budget!r}",
            "reasoning_budget",
        )


def _function(tool: FunctionTool | Mapping[str, Any]) -> FunctionTool:
    return FunctionTool.from_dict(tool) if isinstance(tool, Mapping) else tool


class _Messages:
    """Makes the messages of a grammar for a tokenizer: each a header and the body after it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokens = vocabulary(tokenizer)
        self._tokenizer = tokenizer
        self._characters = 0  # of the formats
        self._masks: dict[tuple[int, ...], tuple[Mask, Mask]] = {}  # open and closed, by the ends
        # by recipient; None: of the response format
        self.relaxed: dict[str | None, tuple[Relaxed, ...]] = {}

    def call(self, callee: _Callee, ends: Sequence[str]) -> tuple[list[int], Body]:
        """As `message`."""
        made = self.message(callee.header, ends, callee.body, callee.what)
        if not callee.is_object:
            note = Relaxed(callee.what, "#/type", "is not object, which arguments are")
            self.relaxed[callee.name] = (note, *self.relaxed.get(callee.name, ()))
        return made

    def message(
        self,
        header: Message,
        ends: Sequence[str],
        wanted: BodyFormat | None = None,
        what: str = "",
    ) -> tuple[list[int], Body]:
        """The tokens of the header, and the body. `wanted`: its format, called `what` in errors."""
        ids = tuple(map(self._tokenizer.special, ends))
        if ids not in self._masks:
            self._masks[ids] = (self.tokens.mask(ids, text=True), self.tokens.mask(ids))
        any_text, end_only = self._masks[ids]
        format = None
        if wanted is not None:
            format = self._format(wanted, what, header.recipient)
            self._characters += format.characters
            bounds.check_total(self._characters)
        body = Body(
            ids,
            any_text,
            end_only,
            format,
            is_thought=header.channel == "analysis" and header.recipient is None,
            is_call=header.recipient is not None,
            is_json=isinstance(wanted, JsonFormat),
        )
        return opened(header, self._tokenizer), body

    def _format(self, wanted: BodyFormat, what: str, recipient: str | None) -> CompiledFormat:
        """If a schema that need not hold cannot even be relaxed, its type holds."""
        try:
            made = compile_body(wanted, self.tokens, what)
            relaxed = relaxed_in(made, what)
        except GrammarSizeError:
            raise
        except GrammarError as error:
            if not isinstance(wanted, JsonFormat) or wanted.is_strict:
                raise
            reason = str(error).removeprefix(f"{what}: ")
            relaxed = (Relaxed(what, "#", reason),)
            made = compile_body(_type_alone(wanted), self.tokens, what)
        if relaxed:
            self.relaxed[recipient] = tuple(dict.fromkeys(relaxed))
        return made


def _type_alone(format: JsonFormat) -> JsonFormat:
    types = "object"
    if isinstance(format.schema, Mapping):
        types = format.schema.get("type", types)
    return JsonFormat({"type": types})


def _tree(messages: Sequence[tuple[list[int], Body]]) -> Place:
    """The place before the headers of these messages."""
    place = Place()
    for ids, body in messages:
        place.add(ids, body)
    return place


def _header_of(
    channel: str, recipient: str | None = None, content_type: str | None = None
) -> Message:
    return Message(
        Role.ASSISTANT, "", channel=channel, recipient=recipient, content_type=content_type
    )


# ---- what can be called ----


@dataclass(frozen=True)
class _Callee:
    """A tool: the header of its call, the format of the body (None: free text), and what errors
    call it.
    """

    header: Message
    body: BodyFormat | None
    what: str
    is_object: bool = True  # whether the schema allows objects, which arguments are

    @property
    def name(self) -> str:
        return str(self.header.recipient)


def _callees(
    tools: Sequence[FunctionTool],
    custom: Sequence[CustomTool],
    namespaces: Sequence[ToolNamespace],
    strict: Collection[str] | None,
) -> Iterator[_Callee]:
    for namespace in (ToolNamespace(FUNCTIONS, None, tuple(tools)), *namespaces):
        built_in = namespace.name in BUILTIN_TOOLS
        channel, content_type = ("analysis", CODE) if built_in else ("commentary", JSON)
        for tool in namespace.tools:
            name = f"{namespace.name}.{tool.name}"
            what = f"tool {tool.name if namespace.name == FUNCTIONS else name!r}: parameters"
            body = _arguments(tool, what, is_strict=strict is None or name in strict)
            header = _header_of(channel, name, content_type)
            yield _Callee(header, body, what, _may_be_object(tool.parameters))
        if not namespace.tools and namespace.name != FUNCTIONS:
            yield _Callee(
                _header_of(channel, namespace.name, CODE), None, f"tool {namespace.name!r}"
            )
    for each in custom:
        header = _header_of("commentary", f"{FUNCTIONS}.{each.name}", CODE)
        yield _Callee(header, each.format, f"custom tool {each.name!r}")


def _arguments(tool: FunctionTool, what: str, *, is_strict: bool) -> JsonFormat:
    """A call's arguments are an object, whether or not the schema says so."""
    if tool.parameters is None:
        return JsonFormat({"type": "object", "additionalProperties": False})
    if tool.parameters is True:
        return JsonFormat({"type": "object"})
    if not isinstance(tool.parameters, Mapping):
        raise GrammarError(f"{what}: must be a JSON schema, found {tool.parameters!r:.60}")
    if is_strict and not _may_be_object(tool.parameters):
        found = tool.parameters["type"]
        raise GrammarError(f"{what}: #/type must be 'object', found {found!r:.60}")
    schema = {**tool.parameters, "type": "object", "nullable": None}
    return JsonFormat(schema, is_strict)


def _may_be_object(schema: Any) -> bool:
    types = schema.get("type") if isinstance(schema, Mapping) else None
    return types is None or "object" in (types if isinstance(types, list) else [types])


def _check_names(callees: list[_Callee]) -> None:
    """Raises GrammarError for names that are used twice or that a header cannot hold."""
    names = [callee.name for callee in callees]
    for name in names:
        if names.count(name) > 1:
            raise GrammarError(f"two tools have the name {name!r}")
        has_ending = any(char.isspace() or char in "<([{" for char in name)
        if has_ending or not name.isprintable() or name.endswith("."):
            raise GrammarError(
                f"{name!r} cannot stand in a header: "
                "blanks, controls, '<' and brackets are not allowed"
            )


def _choose(callees: list[_Callee], choice: str | Mapping[str, Any]) -> tuple[list[_Callee], bool]:
    """The tools that may be called, and whether one must be. Raises GrammarError."""
    match choice:
        case "auto":
            return callees, False
        case "none":
            return [], False
        case "required":
            if not callees:
                raise GrammarError("tool_choice is 'required', but there are no tools")
            return callees, True
    for name in _chosen_names(choice):
        for callee in callees:
            if callee.name == name:
                return [callee], True
    names = ", ".join(callee.name for callee in callees) or "no tools"
    raise GrammarError(f"tool_choice {choice!r:.120} is not auto, none, required or one of {names}")


def _chosen_names(choice: str | Mapping[str, Any]) -> list[str]:
    """The names that a choice of one tool may mean, the likeliest first."""
    if not isinstance(choice, Mapping):
        return [choice, f"{FUNCTIONS}.{choice}"]
    inner = choice.get(str(choice.get("type")), choice)
    return [f"{FUNCTIONS}.{inner.get('name')}"] if isinstance(inner, Mapping) else []
