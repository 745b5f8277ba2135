"""What a client may ask of /v1/messages: the wire type, and what it asks for besides messages.

Knows field names; nothing of blocks, of engines or of answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from ossia.server.messages.server_tools import RECIPIENTS, as_ours, uses_of
from ossia.server.service import Effort, Service
from ossia.server.wire.content import text_of
from ossia.server.wire.errors import NO_THREADS, bad
from ossia.server.wire.fields import ApiRequest, At, EffortWord, ListOf, Part, StringOrObjects
from ossia.server.wire.format import AnswerFormat, answer_format
from ossia.server.wire.sampling import MaxTokens, SamplingFields, StopList
from ossia.server.wire.tools import ToolReader
from ossia.tools import Tool
from ossia.tools.toolbox import Toolbox, ToolChoice

CHOICES: dict[str, Literal["auto", "none", "required"]] = {
    "auto": "auto",
    "any": "required",
    "tool": "required",
    "none": "none",
}


class WireMessage(Part):
    """`content`: text, or blocks of type text, thinking, redacted_thinking, tool_use and
    tool_result.
    """

    role: Literal["user", "assistant", "system"]
    content: StringOrObjects


class MessagesToolChoice(Part):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Part):
    """`enabled` needs a budget. Left out altogether: the model thinks, and its thoughts are not
    shown.
    """

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputConfig(Part):
    effort: EffortWord | None = None
    format: dict[str, Any] | None = None


class CountRequest(ApiRequest):
    """The body of a request to count tokens. Fields without a meaning for text are ignored."""

    messages: Annotated[ListOf[WireMessage], MinLen(1)]
    system: StringOrObjects = None
    tools: ListOf[dict[str, Any]] | None = None
    tool_choice: MessagesToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: dict[str, Any] | None = None  # its place before `output_config` had one
    thread: dict[str, Any] | None = None
    container: str | dict[str, Any] | None = None

    def check_supported(self) -> None:
        super().check_supported()
        if self.thread is not None:
            why = "this server keeps no threads: send the whole conversation, without thread"
            raise bad(why, "thread", NO_THREADS)

    @property
    def instructions(self) -> str | None:
        """Of the field `system`. Raises `ApiError` for a part that is not text."""
        return text_of(At(self.system or "", "system"), "\n\n") or None

    @property
    def shows_thinking(self) -> bool:
        return self.thinking is not None and self.thinking.type != "disabled"

    @property
    def omits_thinking(self) -> bool:
        """Whether thoughts are blocks without text, which come back with their seal."""
        return self.thinking is not None and self.thinking.display == "omitted"

    def effort(self, service: Service) -> Effort:
        """Raises `ApiError`."""
        config = self.output_config or OutputConfig()
        word = config.effort
        effort = service.effort(word, self.instructions)
        if self.thinking is None or self.thinking.type == "adaptive":
            return effort
        if self.thinking.type == "disabled":
            level = "low" if word is None else effort.level
            return Effort(level, 0)
        budget = self.thinking.budget_tokens
        if budget is None or budget < 1:
            why = "thinking of type enabled needs budget_tokens of at least 1"
            raise bad(why, "thinking.budget_tokens")
        return replace(effort, budget=budget)

    def format(self) -> AnswerFormat:
        """Anthropic promises the format, so it is always strict. Raises `ApiError`."""
        config = self.output_config or OutputConfig()
        given = At(config.format, "output_config.format")
        if given.value is None:
            given = At(self.output_format, "output_format")
        if given.value is not None:
            given["type"].one_of("json_schema")
        return answer_format(given, always_strict=True)

    def declared(self, builtin: Mapping[str, Tool]) -> Toolbox:
        """`builtin`: tools that the server runs itself. Raises `ApiError`."""
        reader = ToolReader(builtin)
        reader.read(_functions(self.tools or [], builtin))
        tools = reader.tools(parallel=self._parallel)
        return replace(tools, choice=self._choice(tools))

    @property
    def uses(self) -> dict[str, int]:
        """How often some of the server's tools may be called. Raises `ApiError`."""
        return uses_of(At(self.tools or [], "tools").items())

    @property
    def container_id(self) -> str:
        """That code is to run in; "": a new one. Raises `ApiError`."""
        given = At(self.container, "container")
        if isinstance(given.value, Mapping):
            given = given["id"]
        return "" if given.value is None else given.word()

    @property
    def _parallel(self) -> bool:
        """Only if it is asked for: the model calls one tool at a time."""
        return self.tool_choice is not None and self.tool_choice.disable_parallel_tool_use is False

    def _choice(self, tools: Toolbox) -> ToolChoice:
        choice = self.tool_choice
        if choice is None:
            return ToolChoice()
        mode = CHOICES[choice.type]
        if mode == "required" and not self.tools:
            raise bad("tool_choice asks for a call, but there are no tools", "tool_choice")
        if choice.type != "tool":
            return ToolChoice(mode)
        if choice.name is None:
            raise bad("tool_choice of type tool needs the name of a tool", "tool_choice.name")
        name = choice.name
        is_ours = RECIPIENTS.get(name) in tools.by_recipient
        if is_ours and name not in (function.name for function in tools.functions):
            name = RECIPIENTS[name]
        return ToolChoice(mode, (name,))


def _functions(tools: list[dict[str, Any]], builtin: Mapping[str, Tool]) -> Iterator[At]:
    """What Anthropic calls a custom tool is a function. Its schema cannot be left out."""
    for tool in At(tools, "tools").items():
        if tool["type"].value not in (None, "custom"):
            yield as_ours(tool, builtin)
            continue
        if "input_schema" not in tool:
            raise tool["input_schema"].wrong("is missing")
        yield At({**tool.value, "type": "function"}, tool.path)


class MessagesRequest(CountRequest, SamplingFields):
    """The body of a request that wants an answer."""

    max_tokens: MaxTokens
    stop_sequences: StopList = ()
    stream: bool | None = None
    metadata: dict[str, Any] | None = None

    @property
    def user_id(self) -> str | None:
        """Whom the client says that the request is for."""
        found = (self.metadata or {}).get("user_id")
        return found if isinstance(found, str) else None
