"""What a client may ask of /v1/messages: the wire type, and its wishes that are not messages.

Knows field names; nothing of blocks, of engines or of answers.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ossia.harmony import FunctionTool, ResponseFormat
from ossia.server.service import Effort, Service
from ossia.server.stops import check_stops
from ossia.server.tools import Choice, Tools
from ossia.server.wire.errors import ApiError, bad

NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")  # of a tool
REFUSED = ("mcp_servers", "container")  # what would change the answer, and is not done
CHOICES: dict[str, Literal["auto", "none", "required"]] = {
    "auto": "auto",
    "any": "required",
    "tool": "required",
    "none": "none",
}


class Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class WireMessage(Part):
    """`content`: text, or blocks of type text, thinking, redacted_thinking, tool_use and
    tool_result.
    """

    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class WireTool(Part):
    type: str | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoice(Part):
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
    effort: str | None = None
    format: dict[str, Any] | None = None


class CountRequest(Part):
    """The body of a request that has its tokens counted. Fields that say nothing to a text model
    are ignored.
    """

    model: str | None = None
    messages: list[WireMessage] = Field(min_length=1)
    system: str | list[dict[str, Any]] | None = None
    tools: list[WireTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None

    @property
    def shows_thinking(self) -> bool:
        return self.thinking is not None and self.thinking.type != "disabled"

    @property
    def omits_thinking(self) -> bool:
        """Whether thoughts are blocks without text, which come back with their seal."""
        return self.thinking is not None and self.thinking.display == "omitted"

    def check(self) -> None:
        """Raises `ApiError`."""
        for field in REFUSED:
            if (self.model_extra or {}).get(field) not in (None, []):
                raise bad(f"{field} is not supported by this server; leave it out", field)

    def effort(self, service: Service) -> Effort:
        """Raises `ApiError`."""
        try:
            effort = service.effort(
                None if self.output_config is None else self.output_config.effort
            )
        except ApiError as error:
            raise bad(error.message, "output_config.effort") from error
        if self.thinking is None or self.thinking.type == "adaptive":
            return effort
        if self.thinking.type == "disabled":
            return Effort(
                effort.level if self.output_config and self.output_config.effort else "low", 0
            )
        budget = self.thinking.budget_tokens
        if budget is None or budget < 1:
            raise bad(
                "thinking of type enabled needs budget_tokens of at least 1",
                "thinking.budget_tokens",
            )
        return Effort(effort.level, budget)

    def format(self) -> ResponseFormat | None:
        """Raises `ApiError`."""
        given = None if self.output_config is None else self.output_config.format
        if given is None:
            return None
        if given.get("type") != "json_schema" or not isinstance(given.get("schema"), dict):
            raise bad(
                "output_config.format must be of type json_schema and have a schema",
                "output_config.format",
            )
        return ResponseFormat("answer", given["schema"])

    def declared(self) -> Tools:
        """Raises `ApiError`."""
        functions: list[FunctionTool] = []
        strict: set[str] = set()
        for n, tool in enumerate(self.tools or ()):
            where = f"tools[{n}]"
            if tool.type not in (None, "custom"):
                raise bad(
                    f"{where}: this server has no tool of type {tool.type!r}; give it a schema",
                    f"{where}.type",
                )
            if not NAME.fullmatch(tool.name):
                raise bad(
                    f"{where}.name must be 1 to 128 letters, digits, '_', '-' or '.'",
                    f"{where}.name",
                )
            if tool.input_schema is None:
                raise bad(f"{where}: a tool needs an input_schema", f"{where}.input_schema")
            if any(tool.name == other.name for other in functions):
                raise bad(
                    f"{where}: there is another tool of the name {tool.name!r}", f"{where}.name"
                )
            functions.append(FunctionTool(tool.name, tool.description or "", tool.input_schema))
            strict |= {tool.name} if tool.strict else set()
        return Tools(
            tuple(functions),
            strict=frozenset(strict),
            choice=self._choice(),
            parallel=self._parallel,
        )

    @property
    def _parallel(self) -> bool:
        """Only if it is asked for: the model calls one tool at a time."""
        return self.tool_choice is not None and self.tool_choice.disable_parallel_tool_use is False

    def _choice(self) -> Choice:
        choice = self.tool_choice
        if choice is None:
            return Choice()
        mode = CHOICES[choice.type]
        if mode == "required" and not self.tools:
            raise bad("tool_choice asks for a call, but there are no tools", "tool_choice")
        if choice.type != "tool":
            return Choice(mode)
        if choice.name is None:
            raise bad("tool_choice of type tool needs the name of one", "tool_choice.name")
        return Choice(mode, (choice.name,))


class MessagesRequest(CountRequest):
    """The body of a request that wants an answer."""

    max_tokens: int = Field(ge=1)
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None

    def check(self) -> None:
        super().check()
        if any(not stop for stop in self.stop_sequences or ()):
            raise bad("a stop sequence must not be empty", "stop_sequences")
        check_stops(self.stop_sequences or (), "stop_sequences")
