"""Harmony messages: the author, the channel, the recipient, and the three kinds of content.

Plain frozen data and its JSON form. Does not know tokens, rendering or chat-completions clients.

The JSON form is that of the official format package, so conversations can be exchanged with it:
`{"role", "name"?, "content", "channel"?, "recipient"?, "content_type"?}` where content is a string
or a list of objects tagged `type: text | system_content | developer_content`. One key is our own,
and the official package ignores it: `response_formats` in a developer_content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


# How messages are written: as the models write them (rules.py), or token for token as the official
# package does (official/rules.py).
Style = Literal["faithful", "compat"]
RoleName = Role | Literal["user", "assistant", "system", "developer", "tool"]
EffortName = Effort | Literal["low", "medium", "high"]


def known_role(role: Any, error: type[HarmonyError] = HarmonyError) -> Role:
    """The role that a word names. Raises `error` for another one."""
    if role not in list(Role):
        raise error(f"unknown role {role!r}: use one of {', '.join(Role)}")
    return Role(role)


@dataclass(frozen=True)
class FunctionTool:
    """A function the model may call. `parameters` is a JSON schema, or None if it takes no
    arguments.

    Parameters that are not an object are shown as a schema that says nothing, as by the official
    package.
    """

    name: str
    description: str = ""
    parameters: Any = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FunctionTool:
        """From `{name, description, parameters}`, bare or inside an OpenAI tool (`type: function`).

        Raises HarmonyError if there is no name or a field has the wrong type.
        """
        data = as_object(data, "a function tool")
        if isinstance(data.get("function"), Mapping):
            data = data["function"]
        name = _string(data, "name")
        if name is None:
            raise HarmonyError(f"a function tool needs a name: {_shown(data)}")
        return cls(name, _string(data, "description") or "", data.get("parameters"))

    def to_dict(self) -> dict[str, Any]:
        parameters = self.parameters
        if isinstance(parameters, Mapping):
            parameters = dict(parameters)
        return {"name": self.name, "description": self.description, "parameters": parameters}


@dataclass(frozen=True)
class ToolNamespace:
    """A named group of tools with a description, such as the built-in `browser` and `python`.

    `key` decides its place among the others, in the JSON form and in the text; None: its name does.
    """

    name: str
    description: str | None = None
    tools: tuple[FunctionTool, ...] = ()
    key: str | None = None

    def __post_init__(self) -> None:
        if self.key == self.name:
            object.__setattr__(self, "key", None)

    @property
    def place(self) -> str:
        return self.name if self.key is None else self.key

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], key: str | None = None) -> ToolNamespace:
        """From `{name, description, tools}` under `key`. Raises HarmonyError for another shape."""
        where = "the tool namespace" if key is None else f"the tool namespace under key {key!r}"
        data = as_object(data, where)
        name = _string(data, "name")
        if name is None:
            raise HarmonyError(f"{where} needs a name: {_shown(data)}")
        tools = as_list(data.get("tools"), f"tools of {where}")
        for index, tool in enumerate(tools):
            as_object(tool, f"tools[{index}] of {where}")
        functions = tuple(map(FunctionTool.from_dict, tools))
        return cls(name, _string(data, "description"), functions, key)

    def to_dict(self) -> dict[str, Any]:
        tools = [tool.to_dict() for tool in self.tools]
        return {"name": self.name, "description": self.description, "tools": tools}


@dataclass(frozen=True)
class SystemContent:
    """The fixed facts of a session. Any field that is None (or empty) leaves its line out of the
    text.
    """

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
                raise HarmonyError(
                    f"unknown reasoning effort {self.effort!r}: use one of low, medium, high"
                )
            object.__setattr__(self, "effort", Effort(self.effort))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SystemContent:
        """From the official JSON form; an absent key means the default, null means none. Raises
        HarmonyError.
        """
        data = as_object(data, "a system_content")
        defaults = cls()
        effort: Any = data.get("reasoning_effort", defaults.effort)
        if isinstance(effort, str):
            effort = effort.lower()
        channels, required = _channels_from_dict(data)
        return cls(
            identity=_string(data, "model_identity", defaults.identity),
            knowledge_cutoff=_string(data, "knowledge_cutoff", defaults.knowledge_cutoff),
            current_date=_string(data, "conversation_start_date"),
            effort=effort,
            channels=channels,
            channel_required=required,
            namespaces=_namespaces_from_dict(data.get("tools")),
        )

    def to_dict(self) -> dict[str, Any]:
        channels = {
            "valid_channels": list(self.channels),
            "channel_required": self.channel_required,
        }
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
        """From `{name, description, schema}`. Raises HarmonyError if a field is missing or has the
        wrong type.
        """
        data = as_object(data, "a response format")
        name = _string(data, "name")
        schema = data.get("schema")
        if name is None or not isinstance(schema, Mapping | bool):
            raise HarmonyError(f"a response format needs a name and a JSON schema: {_shown(data)}")
        return cls(name, schema, _string(data, "description"))

    def to_dict(self) -> dict[str, Any]:
        schema = self.schema if isinstance(self.schema, bool) else dict(self.schema)
        return {"name": self.name, "description": self.description, "schema": schema}


@dataclass(frozen=True)
class DeveloperContent:
    """Instructions and function tools of the application. `namespaces` are groups besides
    `functions`.

    `response_formats` are at the very end of the text, after the tools. The official package does
    not know them: there, callers append the same text to the instructions, which puts it before the
    tools.
    """

    instructions: str | None = None
    tools: tuple[FunctionTool, ...] = ()
    namespaces: tuple[ToolNamespace, ...] = ()
    response_formats: tuple[ResponseFormat, ...] = ()

    @property
    def all_namespaces(self) -> tuple[ToolNamespace, ...]:
        """Every namespace, with the function tools (if any) as the namespace `functions`."""
        if not self.tools:
            return self.namespaces
        return (ToolNamespace(FUNCTIONS, None, self.tools), *self.namespaces)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DeveloperContent:
        """From the official JSON form, with `response_formats`. Raises HarmonyError for another
        shape.
        """
        data = as_object(data, "a developer_content")
        namespaces = _namespaces_from_dict(data.get("tools"))
        plain = [n for n in namespaces if n == ToolNamespace(FUNCTIONS, None, n.tools) and n.tools]
        rest = tuple(n for n in namespaces if n not in plain)
        formats = as_list(data.get("response_formats"), "response_formats")
        return cls(
            _string(data, "instructions"),
            plain[0].tools if plain else (),
            rest,
            tuple(map(ResponseFormat.from_dict, formats)),
        )

    def to_dict(self) -> dict[str, Any]:
        tools = _namespaces_to_dict(self.all_namespaces)
        out: dict[str, Any] = {"type": "developer_content", "instructions": self.instructions}
        out["tools"] = tools
        if self.response_formats:
            out["response_formats"] = [entry.to_dict() for entry in self.response_formats]
        return out


Part = str | SystemContent | DeveloperContent
Content = Part | tuple[Part, ...]


@dataclass(frozen=True)
class Message:
    """One message. `role` may be given as a plain word and is stored as a Role.

    `name` is the author's name (required for tools: the function's full name). `content_type` is
    kept as written in the header; one that begins with `<|constrain|>` names a constrained format.
    `content` is one part or, as the official format allows, a tuple of several; a tuple of one is
    stored as that part. Raises HarmonyError for an unknown role, or a word of the header that is
    not a string.
    """

    role: RoleName
    content: Content
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None

    def __post_init__(self) -> None:
        if type(self.role) is not Role:
            object.__setattr__(self, "role", known_role(self.role))
        for key in ("name", "channel", "recipient", "content_type"):
            value = getattr(self, key)
            if value is not None and not isinstance(value, str):
                raise HarmonyError(
                    f"the {key} of a message must be a string or None, not {_shown(value)}"
                )
        if isinstance(self.content, tuple) and len(self.content) == 1:
            object.__setattr__(self, "content", self.content[0])

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.content if isinstance(self.content, tuple) else (self.content,)

    @property
    def text(self) -> str:
        """The plain text of the content, without system and developer contents."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Message:
        """From the JSON form above. Raises HarmonyError for another shape."""
        if not isinstance(data, Mapping) or "role" not in data or "content" not in data:
            raise HarmonyError(f"a message needs the keys 'role' and 'content': {_shown(data)}")
        return cls(
            data["role"],
            _content_from_json(data["content"]),
            _string(data, "name"),
            _string(data, "channel"),
            _string(data, "recipient"),
            _string(data, "content_type"),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict(m.to_dict()) == m`."""
        content: Any = self.content
        if not isinstance(content, str):
            content = [_part_to_json(part) for part in self.parts]
        out = {
            "role": str(self.role),
            "name": self.name,
            "content": content,
            "channel": self.channel,
            "recipient": self.recipient,
            "content_type": self.content_type,
        }
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
    raise HarmonyError(
        "the type of a content must be text, system_content or developer_content, "
        f"not {_shown(kind)}"
    )


def _part_to_json(part: Part) -> dict[str, Any]:
    return {"type": "text", "text": part} if isinstance(part, str) else part.to_dict()


def _channels_from_dict(data: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
    """The channels that a system_content names, and whether every message must be on one."""
    if "channel_config" not in data:
        return DEFAULT_CHANNELS, True
    config = data["channel_config"]
    config = as_object({} if config is None else config, "channel_config")
    channels = as_list(config.get("valid_channels"), "valid_channels of channel_config")
    required = config.get("channel_required", False)
    are_words = all(isinstance(channel, str) for channel in channels)
    if not are_words or not isinstance(required, bool):
        raise HarmonyError(
            f"channel_config needs valid_channels, strings, and channel_required: {_shown(config)}"
        )
    return tuple(channels), required


def _namespaces_from_dict(raw: Any) -> tuple[ToolNamespace, ...]:
    """The `tools` map of the JSON form, whose keys mostly repeat the names of the namespaces."""
    namespaces = as_object({} if raw is None else raw, "tools of a content")
    return tuple(ToolNamespace.from_dict(value, key) for key, value in namespaces.items())


def _namespaces_to_dict(namespaces: tuple[ToolNamespace, ...]) -> dict[str, Any] | None:
    return {namespace.place: namespace.to_dict() for namespace in namespaces} or None


def as_object(value: Any, what: str) -> Mapping[str, Any]:
    """`value`, if it is a JSON object. Raises HarmonyError saying that `what` must be one."""
    if not isinstance(value, Mapping):
        raise HarmonyError(f"{what} must be an object, not {_shown(value)}")
    return value


def as_list(value: Any, what: str) -> Sequence[Any]:
    """`value`, if it is a list; None counts as an empty one. Raises HarmonyError as `as_object`
    does.
    """
    if value is not None and (not isinstance(value, Sequence) or isinstance(value, str | bytes)):
        raise HarmonyError(f"{what} must be a list, not {_shown(value)}")
    return value or ()


def _string(data: Mapping[str, Any], key: str, default: str | None = None) -> str | None:
    value = data.get(key, default)
    if value is not None and not isinstance(value, str):
        raise HarmonyError(
            f"{key!r} must be a string or null, not {_shown(value)}, in {_shown(data)}"
        )
    return value


def _shown(value: Any) -> str:
    """A value for an error message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
