"""What a Harmony message is: who speaks, on which channel, to whom, and the three kinds of content.

Plain frozen data and its JSON form. Knows nothing of tokens, of rendering or of chat-completions clients.

The JSON form is the one of the official format package, so conversations can be exchanged with it:
`{"role", "name"?, "content", "channel"?, "recipient"?, "content_type"?}` where content is a string or a
list of objects tagged `type: text | system_content | developer_content`. One key is our own, and the official
package passes over it: `response_formats` in a developer_content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from ossia.errors import HarmonyError

DEFAULT_IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
DEFAULT_CHANNELS = ("analysis", "commentary", "final")
FUNCTIONS = "functions"  # the namespace of the caller's own tools
CHANNEL = "<|channel|>"
CONSTRAIN = "<|constrain|>"  # a content type that begins with this names a constrained format


class Role(StrEnum):
    """Who wrote a message."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    DEVELOPER = "developer"
    TOOL = "tool"


class Effort(StrEnum):
    """How much reasoning the system message asks for."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


# How messages are written: as the models write them, or token for token as the official package does.
Style = Literal["faithful", "compat"]
RoleName = Role | Literal["user", "assistant", "system", "developer", "tool"]
EffortName = Effort | Literal["low", "medium", "high"]


@dataclass(frozen=True)
class FunctionTool:
    """A function the model may call. `parameters` is a JSON schema, or None if it takes no arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FunctionTool:
        """From `{name, description, parameters}`, bare or inside an OpenAI tool (`type: function`).

        Raises HarmonyError if there is no name or a field has the wrong type.
        """
        if isinstance(data.get("function"), Mapping):
            data = data["function"]
        name, parameters = _string(data, "name"), data.get("parameters")
        description = _string(data, "description") or ""
        if name is None:
            raise HarmonyError(f"a function tool needs a name: {_shown(data)}")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise HarmonyError(f"parameters of tool {name!r} must be a JSON schema object: {_shown(parameters)}")
        return cls(name, description, parameters)

    def to_dict(self) -> dict[str, Any]:
        parameters = None if self.parameters is None else dict(self.parameters)
        return {"name": self.name, "description": self.description, "parameters": parameters}


@dataclass(frozen=True)
class ToolNamespace:
    """A named group of tools with a description, as the built-in `browser` and `python` are."""

    name: str
    description: str | None = None
    tools: tuple[FunctionTool, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ToolNamespace:
        tools = tuple(FunctionTool.from_dict(tool) for tool in data.get("tools") or ())
        return cls(_string(data, "name") or "", _string(data, "description"), tools)

    def to_dict(self) -> dict[str, Any]:
        tools = [tool.to_dict() for tool in self.tools]
        return {"name": self.name, "description": self.description, "tools": tools}


@dataclass(frozen=True)
class SystemContent:
    """The fixed facts of a session. Any field that is None (or empty) leaves its line out of the text."""

    identity: str | None = DEFAULT_IDENTITY
    knowledge_cutoff: str | None = "2024-06"
    current_date: str | None = None
    effort: EffortName | None = Effort.MEDIUM
    channels: tuple[str, ...] = DEFAULT_CHANNELS
    channel_required: bool = True
    namespaces: tuple[ToolNamespace, ...] = ()

    def __post_init__(self) -> None:
        if self.effort is not None and type(self.effort) is not Effort:
            if self.effort not in list(Effort):
                raise HarmonyError(f"unknown reasoning effort {self.effort!r}: use one of low, medium, high")
            object.__setattr__(self, "effort", Effort(self.effort))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SystemContent:
        """From the official JSON form; an absent key means the default, null means none."""
        defaults = cls()
        texts = {"model_identity": defaults.identity, "knowledge_cutoff": defaults.knowledge_cutoff}
        texts |= {key: _string(data, key) for key in (*texts, "conversation_start_date") if key in data}
        effort: Any = data.get("reasoning_effort", defaults.effort)
        effort = effort.lower() if isinstance(effort, str) else effort
        required: Mapping[str, Any] = {"valid_channels": DEFAULT_CHANNELS, "channel_required": True}
        channels = data.get("channel_config", required) or {}
        return cls(
            identity=texts["model_identity"],
            knowledge_cutoff=texts["knowledge_cutoff"],
            current_date=texts.get("conversation_start_date"),
            effort=effort,
            channels=tuple(channels.get("valid_channels") or ()),
            channel_required=bool(channels.get("channel_required", False)),
            namespaces=_namespaces_from_dict(data.get("tools")),
        )

    def to_dict(self) -> dict[str, Any]:
        channels = {"valid_channels": list(self.channels), "channel_required": self.channel_required}
        return {
            "type": "system_content",
            "model_identity": self.identity,
            "reasoning_effort": None if self.effort is None else self.effort.capitalize(),
            "conversation_start_date": self.current_date,
            "knowledge_cutoff": self.knowledge_cutoff,
            "channel_config": channels,
            "tools": _namespaces_to_dict(self.namespaces),
        }


@dataclass(frozen=True)
class ResponseFormat:
    """A JSON schema that final answers are asked to follow; the developer text ends with it."""

    name: str
    schema: Mapping[str, Any] | bool
    description: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ResponseFormat:
        """From `{name, description, schema}`. Raises HarmonyError if a field is missing or has the wrong type."""
        name, schema = _string(data, "name"), data.get("schema")
        if name is None or not isinstance(schema, Mapping | bool):
            raise HarmonyError(f"a response format needs a name and a JSON schema: {_shown(data)}")
        return cls(name, schema, _string(data, "description"))

    def to_dict(self) -> dict[str, Any]:
        schema = self.schema if isinstance(self.schema, bool) else dict(self.schema)
        return {"name": self.name, "description": self.description, "schema": schema}


@dataclass(frozen=True)
class DeveloperContent:
    """Instructions and function tools of the application. `namespaces` are groups beside `functions`.

    `response_formats` stand at the very end of the text, behind the tools. The official package does not know
    them: there, callers append the same text to the instructions, which puts it before the tools.
    """

    instructions: str | None = None
    tools: tuple[FunctionTool, ...] = ()
    namespaces: tuple[ToolNamespace, ...] = ()
    response_formats: tuple[ResponseFormat, ...] = ()

    @property
    def all_namespaces(self) -> tuple[ToolNamespace, ...]:
        """Every namespace, with the function tools (if any) as the namespace `functions`."""
        own = (ToolNamespace(FUNCTIONS, None, self.tools),) if self.tools else ()
        return own + self.namespaces

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DeveloperContent:
        namespaces = _namespaces_from_dict(data.get("tools"))
        plain = [n for n in namespaces if n.name == FUNCTIONS and n.description is None and n.tools]
        rest = tuple(n for n in namespaces if n not in plain)
        formats = data.get("response_formats") or ()
        if not isinstance(formats, list | tuple) or not all(isinstance(entry, Mapping) for entry in formats):
            raise HarmonyError(f"response_formats must be a list of objects: {_shown(formats)}")
        formats = tuple(ResponseFormat.from_dict(entry) for entry in formats)
        return cls(_string(data, "instructions"), plain[0].tools if plain else (), rest, formats)

    def to_dict(self) -> dict[str, Any]:
        tools = _namespaces_to_dict(self.all_namespaces)
        out = {"type": "developer_content", "instructions": self.instructions, "tools": tools}
        formats = [entry.to_dict() for entry in self.response_formats]
        return out | ({"response_formats": formats} if formats else {})


Part = str | SystemContent | DeveloperContent
Content = Part | tuple[Part, ...]


@dataclass(frozen=True)
class Message:
    """One message. `role` may be given as a plain word and is stored as a Role.

    `name` is the author's name (required for tools: the function's full name). `content_type` is kept as
    written in the header; one that begins with `<|constrain|>` names a constrained format. `content` is one
    part or, as the official format allows, a tuple of several; a tuple of one is stored as that part.
    Raises HarmonyError for an unknown role.
    """

    role: RoleName
    content: Content
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None

    def __post_init__(self) -> None:
        if type(self.role) is not Role:
            if self.role not in list(Role):
                raise HarmonyError(f"unknown role {self.role!r}: use one of {', '.join(Role)}")
            object.__setattr__(self, "role", Role(self.role))
        if isinstance(self.content, tuple) and len(self.content) == 1:
            object.__setattr__(self, "content", self.content[0])

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.content if isinstance(self.content, tuple) else (self.content,)

    @property
    def text(self) -> str:
        """The plain text of the content; system and developer contents count as none."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Message:
        """From the JSON form above. Raises HarmonyError for another shape."""
        if not isinstance(data, Mapping) or "role" not in data or "content" not in data:
            raise HarmonyError(f"a message needs the keys 'role' and 'content': {_shown(data)}")
        optional = {key: _string(data, key) for key in ("name", "channel", "recipient", "content_type")}
        return cls(data["role"], _content_from_json(data["content"]), **optional)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict(m.to_dict()) == m`."""
        content = self.content if isinstance(self.content, str) else [_part_to_json(part) for part in self.parts]
        out: dict[str, Any] = {"role": str(self.role), "name": self.name, "content": content}
        out |= {"channel": self.channel, "recipient": self.recipient, "content_type": self.content_type}
        return {key: value for key, value in out.items() if value is not None}


def _content_from_json(raw: Any) -> Content:
    if isinstance(raw, str):
        return raw
    if not isinstance(raw, list) or not all(isinstance(part, Mapping) for part in raw):
        raise HarmonyError(f"content must be a string or a list of tagged objects: {_shown(raw)}")
    return tuple(_part_from_json(part) for part in raw)


def _part_from_json(raw: Mapping[str, Any]) -> Part:
    kind = raw.get("type")
    if kind == "text":
        return _string(raw, "text") or ""
    if kind == "system_content":
        return SystemContent.from_dict(raw)
    if kind == "developer_content":
        return DeveloperContent.from_dict(raw)
    raise HarmonyError(f"the type of a content must be text, system_content or developer_content, not {_shown(kind)}")


def _part_to_json(part: Part) -> dict[str, Any]:
    return {"type": "text", "text": part} if isinstance(part, str) else part.to_dict()


def _namespaces_from_dict(raw: Mapping[str, Any] | None) -> tuple[ToolNamespace, ...]:
    """The `tools` map of the JSON form, whose keys repeat the names of the namespaces."""
    for key, value in (raw or {}).items():
        if not isinstance(value, Mapping) or value.get("name") != key:
            raise HarmonyError(f"the tool namespace under key {key!r} must carry that name: {_shown(value)}")
    return tuple(ToolNamespace.from_dict(value) for value in (raw or {}).values())


def _namespaces_to_dict(namespaces: tuple[ToolNamespace, ...]) -> dict[str, Any] | None:
    return {namespace.name: namespace.to_dict() for namespace in namespaces} or None


def _string(data: Mapping[str, Any], key: str) -> str | None:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise HarmonyError(f"{key!r} must be a string or null, not {_shown(value)}, in {_shown(data)}")
    return value


def _shown(value: Any) -> str:
    """A value for an error message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
