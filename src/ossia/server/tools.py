"""The tools of one request: how they are declared to the model, which of them a message calls, what
its calls must be.

APIs make this of their wire types. Knows Harmony; nothing of HTTP.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ossia.errors import GrammarError
from ossia.harmony import (
    CustomTool,
    DeveloperContent,
    FunctionTool,
    HarmonyGrammar,
    LarkFormat,
    RegexFormat,
    ResponseFormat,
    ToolNamespace,
    harmony_grammar,
)
from ossia.harmony.messages import FUNCTIONS
from ossia.server.builtin import BuiltinTool
from ossia.server.wire.errors import bad
from ossia.tokenizer import Tokenizer

log = logging.getLogger("ossia.server")
TEXT_INPUT = {"type": "string"}  # what a custom tool is declared to take


@dataclass(frozen=True)
class DeclaredCustom:
    """A custom tool: its input is text, free or of a grammar."""

    name: str
    description: str = ""
    format: RegexFormat | LarkFormat | None = None

    def declared(self) -> FunctionTool:
        parts = [self.description]
        if self.format is not None:
            text = (
                self.format.pattern if isinstance(self.format, RegexFormat) else self.format.grammar
            )
            parts.append(f"Its input must follow this grammar:\n{text}")
        return FunctionTool(self.name, "\n\n".join(part for part in parts if part), TEXT_INPUT)


@dataclass(frozen=True)
class Callee:
    """What a recipient means. `parameters`: a function's schema."""

    kind: Literal["function", "custom", "builtin"]
    name: str
    namespace: str | None = None
    parameters: Any = None
    builtin: BuiltinTool | None = None


@dataclass(frozen=True)
class Choice:
    """`mode`: "auto", "none", "required"; with `names` only these (recipients or plain names) may
    be called.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Tools:
    """`strict`: names of functions whose schema must be enforced, or the request is refused; what
    cannot be enforced of others is let go, and their arguments are any JSON object.
    """

    functions: tuple[FunctionTool, ...] = ()
    custom: tuple[DeclaredCustom, ...] = ()
    namespaces: tuple[ToolNamespace, ...] = ()
    builtin: tuple[BuiltinTool, ...] = ()
    strict: frozenset[str] = frozenset()
    choice: Choice = field(default_factory=Choice)
    parallel: bool = False

    def __bool__(self) -> bool:
        return bool(self.functions or self.custom or self.namespaces or self.builtin)

    def developer(
        self, instructions: str | None, formats: Sequence[ResponseFormat] = ()
    ) -> DeveloperContent | None:
        """The developer message's content; None if there is nothing to say."""
        functions = (*self.functions, *(tool.declared() for tool in self.custom))
        if not (instructions or functions or self.namespaces or formats):
            return None
        return DeveloperContent(instructions, functions, self.namespaces, tuple(formats))

    @property
    def system_namespaces(self) -> tuple[ToolNamespace, ...]:
        return tuple(tool.namespace for tool in self.builtin)

    @property
    def by_recipient(self) -> Mapping[str, Callee]:
        """Every tool under the full name that addresses it."""
        return dict(self._callees())

    def _callees(self) -> Iterator[tuple[str, Callee]]:
        for tool in self.functions:
            yield f"{FUNCTIONS}.{tool.name}", Callee("function", tool.name, None, tool.parameters)
        for custom in self.custom:
            yield f"{FUNCTIONS}.{custom.name}", Callee("custom", custom.name)
        for space in self.namespaces:
            for tool in space.tools:
                yield (
                    f"{space.name}.{tool.name}",
                    Callee("function", tool.name, space.name, tool.parameters),
                )
        for builtin in self.builtin:
            name = builtin.namespace.name
            for tool in builtin.namespace.tools:
                yield (
                    f"{name}.{tool.name}",
                    Callee("builtin", tool.name, name, tool.parameters, builtin),
                )
            if not builtin.namespace.tools:
                yield name, Callee("builtin", "", name, None, builtin)

    def grammar(
        self, tokenizer: Tokenizer, response_format: Any, reasoning_budget: int | None
    ) -> HarmonyGrammar:
        """What a sample is held to. Raises `ApiError`, or `GrammarError` for the response format."""
        chosen = self._chosen()
        mode: Any = self.choice.mode
        if mode == "required" and not chosen:
            raise bad("tool_choice asks for a call, but there is no such tool", "tool_choice")
        wishes = {"response_format": response_format, "reasoning_budget": reasoning_budget}
        if not chosen:
            return harmony_grammar(tokenizer, tool_choice="none", **wishes)
        wishes |= {"tool_choice": mode, "parallel_calls": self.parallel}
        try:
            return chosen._grammar(tokenizer, **wishes)
        except GrammarError:
            return chosen._enforceable(tokenizer)._grammar(tokenizer, **wishes)

    def _grammar(self, tokenizer: Tokenizer, **wishes: Any) -> HarmonyGrammar:
        custom = [CustomTool(tool.name, tool.format) for tool in self.custom]
        spaces = (*self.namespaces, *self.system_namespaces)
        return harmony_grammar(
            tokenizer, tools=self.functions, custom=custom, namespaces=spaces, **wishes
        )

    def _chosen(self) -> Tools:
        """The tools that the choice leaves. Raises `ApiError` for a name that is no tool's."""
        if self.choice.names is None:
            return self
        known = self.by_recipient
        wanted = set()
        for name in self.choice.names:
            found = [full for full in (name, f"{FUNCTIONS}.{name}") if full in known]
            if not found:
                raise bad(
                    f"tool_choice names {name!r}, which is none of {', '.join(known) or 'no tools'}",
                    "tool_choice",
                )
            wanted.add(found[0])
        return replace(
            self,
            functions=tuple(t for t in self.functions if f"{FUNCTIONS}.{t.name}" in wanted),
            custom=tuple(t for t in self.custom if f"{FUNCTIONS}.{t.name}" in wanted),
            namespaces=tuple(
                replace(s, tools=tuple(t for t in s.tools if f"{s.name}.{t.name}" in wanted))
                for s in self.namespaces
                if any(f"{s.name}.{t.name}" in wanted for t in s.tools)
            ),
            builtin=tuple(
                b for b in self.builtin if any(n.split(".")[0] == b.namespace.name for n in wanted)
            ),
        )

    def _enforceable(self, tokenizer: Tokenizer) -> Tools:
        """The tools; of a schema that cannot be enforced, and need not be, any object is taken
        instead.
        """

        def checked(tool: FunctionTool, name: str) -> FunctionTool:
            try:
                harmony_grammar(tokenizer, tools=[tool])
            except GrammarError as error:
                if name in self.strict:
                    raise bad(str(error), "tools", "invalid_schema") from error
                log.warning("the schema of tool %r is not enforced: %s", name, error)
                return replace(tool, parameters={"type": "object"})
            return tool

        spaces = [
            replace(
                space,
                tools=tuple(checked(tool, f"{space.name}.{tool.name}") for tool in space.tools),
            )
            for space in self.namespaces
        ]
        functions = tuple(checked(tool, tool.name) for tool in self.functions)
        return replace(self, functions=functions, namespaces=tuple(spaces))
