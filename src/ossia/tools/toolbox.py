"""The tools of one answer, declared once: what the model reads of them, what its calls are held to,
what a recipient means, and who carries out a call.

`llm.chat`, evals and every API make a `Toolbox`; the renderer, the grammar, the turn and the wire
read it. Knows Harmony and the protocol of tools; nothing of requests or of sampled tokens.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from threading import Lock
from typing import Any, Literal

from ossia.errors import ToolChoiceError
from ossia.harmony import (
    Conversation,
    CustomTool,
    DeveloperContent,
    FunctionTool,
    HarmonyGrammar,
    LarkFormat,
    RegexFormat,
    ResponseFormat,
    SystemContent,
    ToolNamespace,
    UnknownTool,
    harmony_grammar,
    resolve_recipient,
)
from ossia.harmony.grammar.keywords import Relaxed
from ossia.harmony.messages import FUNCTIONS
from ossia.harmony.validation import Schema
from ossia.tokenizer import Tokenizer
from ossia.tools.kinds import ToolKind
from ossia.tools.protocol import SessionKey, Tool, ToolSession

log = logging.getLogger("ossia.tools")
MOST_LOGGED = 4096  # of what was relaxed, is not logged a second time
TEXT_INPUT = {"type": "string"}  # the parameters that a custom tool is declared with


@dataclass(frozen=True)
class TextFunction(FunctionTool):
    """A function whose input is text, as the model reads it. One of ours is in its namespace."""

    format: RegexFormat | LarkFormat | None = None


@dataclass(frozen=True)
class DeclaredCustom:
    """A custom tool: its input is text, free or following a grammar."""

    name: str
    description: str = ""
    format: RegexFormat | LarkFormat | None = None

    def declared(self) -> TextFunction:
        parts = [self.description]
        match self.format:
            case RegexFormat(pattern=text) | LarkFormat(grammar=text):
                parts.append(f"Its input must follow this grammar:\n{text}")
        shown = "\n\n".join(part for part in parts if part)
        return TextFunction(self.name, shown, TEXT_INPUT, self.format)


@dataclass(frozen=True)
class Part:
    """Some functions of a tool, or all of one without functions, as a tool of its own."""

    whole: Tool
    functions: tuple[FunctionTool, ...]

    @property
    def kind(self) -> ToolKind:
        return self.whole.kind

    @property
    def namespace(self) -> ToolNamespace:
        return replace(self.whole.namespace, tools=self.functions)

    def session(self, key: SessionKey) -> ToolSession:
        return self.whole.session(key)


@dataclass(frozen=True)
class ToolTarget:
    """What a recipient means. `name` is "" for a namespace without functions, `namespace` None for
    functions and custom tools outside of namespaces. `tool`: None if the caller carries out the
    call. `check`: what is wrong with a call's body.
    """

    kind: Literal["function", "custom", "builtin"]
    name: str
    namespace: str | None = None
    parameters: Any = None
    tool: Tool | None = None
    is_text: bool = False
    check: Callable[[str], str | None] | None = None

    @property
    def recipient(self) -> str:
        space = self.namespace or FUNCTIONS
        return f"{space}.{self.name}" if self.name else space

    @property
    def short_name(self) -> str:
        """As callers name it: without the namespace of all functions."""
        return self.name if self.namespace is None else self.recipient

    @cached_property
    def schema(self) -> Schema | None:
        """What arguments must fit: they are an object, whatever the tool says. None: anything."""
        if isinstance(self.parameters, Mapping):
            return Schema({**self.parameters, "type": "object"})
        return Schema(self.parameters) if isinstance(self.parameters, bool) else None

    @property
    def takes_text(self) -> bool:
        """Whether the body of a call is text, rather than JSON arguments."""
        return self.kind == "custom" or self.is_text or not self.name


@dataclass(frozen=True)
class ToolChoice:
    """`mode`: "auto", "none", "required"; with `names` only these (recipients or plain names) may
    be called.

    "required" binds the first call of an answer; then the choice is "auto". `always`: `names` go on
    binding then.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] | None = None
    always: bool = False

    @property
    def after_call(self) -> ToolChoice:
        if self.mode != "required":
            return self
        return replace(self, mode="auto", names=self.names if self.always else None)


@dataclass(frozen=True)
class Toolbox:
    """`functions`, `custom` and `namespaces` are carried out by the caller, `builtin` by us.

    `strict`: names of functions whose schema must be enforced whole, or the request is refused;
    what cannot be enforced of another schema is relaxed. `parallel`: whether one sample may make
    several calls. `checks`: what is wrong with the body of a call, by the name of the caller's
    tool. `unavailable`: the types of tools that were asked for as well, and that nobody carries
    out.
    """

    functions: tuple[FunctionTool, ...] = ()
    custom: tuple[DeclaredCustom, ...] = ()
    namespaces: tuple[ToolNamespace, ...] = ()
    builtin: tuple[Tool, ...] = ()
    strict: frozenset[str] = frozenset()
    choice: ToolChoice = field(default_factory=ToolChoice)
    parallel: bool = False
    checks: Mapping[str, Callable[[str], str | None]] = field(default_factory=dict)
    unavailable: tuple[str, ...] = ()

    @classmethod
    def of(cls, conversation: Conversation, tools: Sequence[Tool]) -> Toolbox:
        """`tools`, and what else the conversation declares, for the caller to carry out. Of several
        declarations with one name the last counts. Every schema must be enforced.
        """
        ours = cls(builtin=tuple(tools))
        functions: dict[str, FunctionTool] = {}
        spaces: dict[str, ToolNamespace] = {}
        for system in conversation.contents(SystemContent):
            spaces |= {space.name: space for space in system.namespaces}
        for developer in conversation.contents(DeveloperContent):
            functions |= {tool.name: tool for tool in developer.tools}
            spaces |= {space.name: space for space in developer.namespaces}
        others = (f for f in functions.values() if f"{FUNCTIONS}.{f.name}" not in ours.by_recipient)
        names = {tool.namespace.name for tool in tools}
        left = [space for space in spaces.values() if space.name not in names]
        strict = {
            *functions,
            *(f"{space.name}.{tool.name}" for space in left for tool in space.tools),
        }
        return replace(
            ours, functions=tuple(others), namespaces=tuple(left), strict=frozenset(strict)
        )

    def __bool__(self) -> bool:
        return bool(self.functions or self.custom or self.namespaces or self.builtin)

    # What the model reads

    def developer(
        self, instructions: str | None, formats: Sequence[ResponseFormat] = ()
    ) -> DeveloperContent | None:
        """The developer message's content; None if there is nothing to say."""
        functions = (*self.json_functions, *self.text_functions)
        spaces = (*self.namespaces, *self._namespaces(in_system=False))
        if not (instructions or functions or spaces or formats):
            return None
        return DeveloperContent(instructions, functions, spaces, tuple(formats))

    @property
    def system_namespaces(self) -> tuple[ToolNamespace, ...]:
        return self._namespaces(in_system=True)

    @property
    def json_functions(self) -> tuple[FunctionTool, ...]:
        """The functions outside of namespaces that take JSON, the caller's and ours."""
        ours = [each for each in self._our_functions if not isinstance(each, TextFunction)]
        return (*self.functions, *ours)

    @property
    def text_functions(self) -> tuple[TextFunction, ...]:
        """The custom tools, the caller's and ours."""
        ours = [each for each in self._our_functions if isinstance(each, TextFunction)]
        return (*(tool.declared() for tool in self.custom), *ours)

    @property
    def _our_functions(self) -> tuple[FunctionTool, ...]:
        ours = [tool.namespace for tool in self.builtin if tool.namespace.name == FUNCTIONS]
        return tuple(function for space in ours for function in space.tools)

    def _namespaces(self, *, in_system: bool) -> tuple[ToolNamespace, ...]:
        return tuple(
            tool.namespace
            for tool in self.builtin
            if tool.kind.in_system is in_system and tool.namespace.name != FUNCTIONS
        )

    @property
    def declaration(self) -> str:
        """Equal for toolboxes with the same grammar: what may be kept for one serves the other."""
        spaces = [tool.namespace for tool in self.builtin]
        return repr(replace(self, builtin=(), checks={}, unavailable=())) + repr(spaces)

    # What a recipient means

    @cached_property
    def by_recipient(self) -> Mapping[str, ToolTarget]:
        """Every tool under the full name that addresses it."""
        return {target.recipient: target for target in self._targets()}

    def resolve(self, recipient: str | None) -> ToolTarget | UnknownTool:
        found = resolve_recipient(recipient, self.by_recipient)
        return found if isinstance(found, UnknownTool) else self.by_recipient[found]

    def _targets(self) -> Iterator[ToolTarget]:
        for tool in self.functions:
            check = self.checks.get(tool.name)
            yield ToolTarget("function", tool.name, None, tool.parameters, check=check)
        for custom in self.custom:
            yield ToolTarget("custom", custom.name, check=self.checks.get(custom.name))
        for space in self.namespaces:
            for tool in space.tools:
                yield ToolTarget("function", tool.name, space.name, tool.parameters)
            if not space.tools:
                yield ToolTarget("custom", "", space.name)
        for builtin in self.builtin:
            name = builtin.namespace.name
            for tool in builtin.namespace.tools:
                is_text = isinstance(tool, TextFunction)
                yield ToolTarget("builtin", tool.name, name, tool.parameters, builtin, is_text)
            if not builtin.namespace.tools:
                yield ToolTarget("builtin", "", name, None, builtin)

    # What calls are held to

    def grammar(
        self, tokenizer: Tokenizer, response_format: Any, reasoning_budget: int | None
    ) -> HarmonyGrammar:
        """What a sample is held to. The log says once what is relaxed of a schema. Raises
        `GrammarError`; `ToolChoiceError` for a choice of no declared tool.
        """
        chosen = self.chosen()
        mode: Any = self.choice.mode
        if mode == "required" and not chosen:
            raise ToolChoiceError(
                "tool_choice asks for a call, but there is no such tool", "tool_choice"
            )
        wishes = {"response_format": response_format, "reasoning_budget": reasoning_budget}
        if not chosen:
            made = harmony_grammar(tokenizer, tool_choice="none", **wishes)
        else:
            wishes |= {"tool_choice": mode, "parallel_calls": self.parallel}
            made = chosen._grammar(tokenizer, **wishes)
        for notes in made.relaxed.values():
            _log_once(notes)
        return made

    def _grammar(self, tokenizer: Tokenizer, **wishes: Any) -> HarmonyGrammar:
        strict = {
            target.recipient
            for target in self._targets()
            if (target.tool and target.tool.kind.is_strict) or target.short_name in self.strict
        }
        custom = [CustomTool(tool.name, tool.format) for tool in self.text_functions]
        spaces = (
            *self.namespaces,
            *self._namespaces(in_system=False),
            *self._namespaces(in_system=True),
        )
        return harmony_grammar(
            tokenizer,
            tools=self.json_functions,
            custom=custom,
            namespaces=spaces,
            strict=strict,
            **wishes,
        )

    def chosen(self) -> Toolbox:
        """The tools that the choice leaves. Raises `ToolChoiceError` for an unknown name."""
        if self.choice.names is None:
            return self
        wanted = {self._full_name(name) for name in self.choice.names}

        def keep(space: str, tools: Sequence[FunctionTool]) -> tuple[FunctionTool, ...]:
            return tuple(tool for tool in tools if f"{space}.{tool.name}" in wanted)

        spaces = [replace(s, tools=keep(s.name, s.tools)) for s in self.namespaces]
        builtin = [
            Part(tool, keep(tool.namespace.name, tool.namespace.tools)) for tool in self.builtin
        ]
        return replace(
            self,
            functions=keep(FUNCTIONS, self.functions),
            custom=tuple(tool for tool in self.custom if f"{FUNCTIONS}.{tool.name}" in wanted),
            namespaces=tuple(s for s in spaces if s.tools or s.name in wanted),
            builtin=tuple(t for t in builtin if t.functions or t.namespace.name in wanted),
        )

    def without_ours(self) -> Toolbox:
        """What is left after a first call, when our own tools are not run any more."""
        choice = self.choice.after_call
        names = choice.names
        if names is not None:
            targets = [self.by_recipient[self._full_name(name)] for name in names]
            names = tuple(target.recipient for target in targets if target.tool is None)
        mode: Literal["auto", "none"] = "none" if choice.mode == "none" or names == () else "auto"
        left = None if mode == "none" else names
        return replace(self, builtin=(), choice=ToolChoice(mode, left))

    def _full_name(self, name: str) -> str:
        known = self.by_recipient
        for full in (name, f"{FUNCTIONS}.{name}"):
            if full in known:
                return full
        raise ToolChoiceError(
            f"tool_choice names {name!r}, which is none of {', '.join(known) or 'no tools'}",
            "tool_choice",
        )


_logged: OrderedDict[bytes, None] = OrderedDict()  # digests of texts
_logging = Lock()


def _log_once(notes: Sequence[Relaxed]) -> None:
    """That something was relaxed; what, only for debugging: a schema is somebody's text."""
    text = "; ".join(map(str, notes))
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    with _logging:
        is_new = digest not in _logged
        _logged[digest] = None
        if len(_logged) > MOST_LOGGED:
            _logged.popitem(last=False)
    if is_new:
        log.warning("relaxed: %d keywords of a schema; the response says which", len(notes))
        log.debug("relaxed: %s", text)
