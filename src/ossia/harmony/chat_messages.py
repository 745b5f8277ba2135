"""OpenAI-style chat messages (plain dicts from a client) -> Harmony messages.

Knows the forms of chat-completions messages that clients send; does not know HTTP, tokens or
rendering.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ossia.errors import HarmonyError
from ossia.harmony.messages import (
    CONSTRAIN,
    FUNCTIONS,
    DeveloperContent,
    FunctionTool,
    Message,
    Role,
    SystemContent,
    as_list,
    as_object,
)

DEFAULT_SYSTEM = SystemContent()
REASONING_KEYS = ("reasoning", "reasoning_content", "thinking")
TEXT_PARTS = ("text", "input_text", "output_text")
THOUGHT_PARTS = (
    "thinking",
    "reasoning",
    "reasoning_text",
    "summary_text",
    "reasoning.text",
    "reasoning.summary",
)
PART_KEYS = ("text", "thinking", "reasoning", "summary")  # where a part has its text
# <think> itself is in the prompt of models that always think
THOUGHT_BEGINS = re.compile(r"^<think(?:ing)?>")
THOUGHT_ENDS = re.compile(r"</think(?:ing)?>")


def messages_from_chat(
    messages: Sequence[Mapping[str, Any]],
    *,
    system: SystemContent | None = DEFAULT_SYSTEM,
    tools: Sequence[FunctionTool | Mapping[str, Any]] | None = (),
) -> tuple[Message, ...]:
    """Each chat message as the Harmony messages it stands for.

    - `system` and `developer`: a chat client's system prompt is Harmony's developer instructions
      (the Harmony system message holds only the session's facts). Those at the beginning are joined
      by a blank line into one developer message, which also carries `tools`; later ones stay.
    - `user`: a user message, with its `name`.
    - `assistant`: `reasoning` (or `reasoning_content`, `thinking`) on channel analysis; then the
      content, on `final`, or on `commentary` if tool calls follow; then each tool call, to
      `functions.<name>`.
    - `tool`: a result from `functions.<name>` to the assistant, the name found by `tool_call_id`
      among the calls before it, or given as `name`; without both it is that of the one call that
      has no result yet.
    Content is a string or a list of text parts. Raises HarmonyError, naming the message or tool
    that cannot be converted.
    """
    messages = as_list(messages, "messages")
    listed = as_list(tools, "tools")
    declared = tuple(_declared(tool, index) for index, tool in enumerate(listed))
    out = []
    if system is not None:
        out.append(Message(Role.SYSTEM, system))
    lead = 0
    for message in messages:
        role = _role(message, lead)
        if role not in (Role.SYSTEM, Role.DEVELOPER):
            break
        lead += 1
    instructions = [_text(message, index) for index, message in enumerate(messages[:lead])]
    if instructions or declared:
        joined = "\n\n".join(instructions) if instructions else None
        out.append(Message(Role.DEVELOPER, DeveloperContent(joined, declared)))
    calls = _Calls()
    for index in range(lead, len(messages)):
        role = _role(messages[index], index)
        out += _CONVERT[role](messages[index], index, calls)
    return tuple(out)


@dataclass
class _Calls:
    """The calls so far: names by id, and those without a result, as id and name."""

    names: dict[str, str] = field(default_factory=dict)
    open: list[tuple[str | None, str]] = field(default_factory=list)

    def add(self, id: str | None, name: str) -> None:
        if id is not None:
            self.names[id] = name
        self.open.append((id, name))

    def answered(self, id: str | None, name: str | None) -> str | None:
        """The name of the call that a result belongs to, as far as it is known."""
        is_nameless = not (id or name)
        if is_nameless and len(self.open) == 1:
            return self.open.pop()[1]
        found = self.names.get(id) if id is not None else None
        for call in self.open:
            call_id, call_name = call
            is_it = call_id == id if found else call_name == name
            if is_it:
                self.open.remove(call)
                break
        return found or name


def _declared(tool: FunctionTool | Mapping[str, Any], index: int) -> FunctionTool:
    if isinstance(tool, FunctionTool):
        return tool
    try:
        declared = FunctionTool.from_dict(tool)
        if declared.parameters is not None:
            as_object(declared.parameters, f"parameters of {declared.name!r}")
    except HarmonyError as error:
        raise HarmonyError(f"tools[{index}]: {error}", f"tools[{index}]") from error
    return declared


def _developer(message: Mapping[str, Any], index: int, calls: _Calls) -> list[Message]:
    return [Message(Role.DEVELOPER, DeveloperContent(_text(message, index)))]


def _user(message: Mapping[str, Any], index: int, calls: _Calls) -> list[Message]:
    name = _optional(message, "name", index)
    return [Message(Role.USER, _text(message, index), name=name)]


def _assistant(message: Mapping[str, Any], index: int, calls: _Calls) -> list[Message]:
    out = []
    # Clients that send two of the names send the same text twice.
    thoughts = [_optional(message, key, index) for key in REASONING_KEYS]
    thought = next(filter(None, thoughts), None)
    if thought:
        out.append(Message(Role.ASSISTANT, thought, channel="analysis"))
    text = "" if message.get("content") is None else _text(message, index)
    text = text or _optional(message, "refusal", index) or ""
    requested = message.get("tool_calls") or []
    if not isinstance(requested, Sequence) or isinstance(requested, str):
        raise _error(index, "tool_calls must be a list")
    channel = "commentary" if requested else "final"
    if text or not (requested or thought):
        out.append(Message(Role.ASSISTANT, text, channel=channel))
    return out + [_call(request, index, calls) for request in requested]


def _call(request: Any, index: int, calls: _Calls) -> Message:
    function = request.get("function") if isinstance(request, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise _error(index, "a tool call must look like {'id', 'function': {'name', 'arguments'}}")
    arguments = _arguments(function.get("arguments"), name, index)
    id = request.get("id")
    if not isinstance(id, str):
        id = None
    calls.add(id, name)
    return Message(
        Role.ASSISTANT,
        arguments,
        channel="commentary",
        recipient=f"{FUNCTIONS}.{name}",
        content_type=f"{CONSTRAIN}json",
    )


def _arguments(arguments: Any, name: str, index: int) -> str:
    """As JSON. That is what the standard requires, but some clients send the object itself."""
    if isinstance(arguments, str):
        return arguments
    if arguments is None:
        return "{}"
    try:
        return json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        what = f"the arguments of the call to {name!r} are not JSON: {error}"
        raise _error(index, what) from error


def _tool(message: Mapping[str, Any], index: int, calls: _Calls) -> list[Message]:
    call_id = _optional(message, "tool_call_id", index)
    name = calls.answered(call_id, _optional(message, "name", index))
    if not name:
        known = ", ".join(map(repr, calls.names)) or "none"
        what = f"no call before it has the tool_call_id {call_id!r}; known are: {known}"
        raise _error(index, what)
    if not name.startswith(f"{FUNCTIONS}."):
        name = f"{FUNCTIONS}.{name}"
    result = Message(
        Role.TOOL,
        _text(message, index),
        name=name,
        channel="commentary",
        recipient="assistant",
    )
    return [result]


_CONVERT: dict[Role, Callable[[Mapping[str, Any], int, _Calls], list[Message]]] = {
    Role.SYSTEM: _developer,
    Role.DEVELOPER: _developer,
    Role.USER: _user,
    Role.ASSISTANT: _assistant,
    Role.TOOL: _tool,
}


def _role(message: Any, index: int) -> Role:
    role = message.get("role") if isinstance(message, Mapping) else None
    if role not in list(Role):
        raise _error(index, f"role must be one of {', '.join(Role)}, not {role!r}")
    return Role(role)


def _text(message: Mapping[str, Any], index: int) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise _error(
            index, f"content must be a string or a list of text parts, not {type(content).__name__}"
        )
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
            raise _error(
                index, f"gpt-oss reads text only: {kind!r} is not a {{'type': 'text', 'text'}} part"
            )
        texts.append(part["text"])
    return "".join(texts)


def _optional(message: Mapping[str, Any], key: str, index: int) -> str | None:
    value = message.get(key)
    if value is not None and not isinstance(value, str):
        raise _error(index, f"{key} must be a string, not {type(value).__name__}")
    return value


def _error(index: int, what: str) -> HarmonyError:
    return HarmonyError(f"messages[{index}]: {what}", f"messages[{index}]")


# ---- what a server answers -----------------------------------------------------------------------


def reasoning_and_text(message: Mapping[str, Any]) -> tuple[str, str]:
    """Of an assistant's message, as servers write it: reasoning under one of `REASONING_KEYS`, in
    `reasoning_details`, among the parts of the content, or as <think> before the text. "" for what
    is not there.
    """
    content = message.get("content")
    text = _joined(content, TEXT_PARTS)
    for key in REASONING_KEYS:
        found = message.get(key)
        if isinstance(found, str) and found:
            return found, text
    parts = message.get("reasoning_details") or content
    if isinstance(parts, list) and (beside := _joined(parts, THOUGHT_PARTS)):
        return beside, text
    if thought := split_thought(text):
        return thought
    bare = text.lstrip()
    begins = THOUGHT_BEGINS.match(bare)
    if begins is None:
        return "", text
    return bare[begins.end() :].strip(), ""  # it was cut off before it closed


def split_thought(text: str) -> tuple[str, str] | None:
    """What stands before </think>, and behind it; None without one."""
    found = THOUGHT_ENDS.search(text)
    if found is None:
        return None
    before = text[: found.start()].strip()
    thought = THOUGHT_BEGINS.sub("", before)
    return thought.strip(), text[found.end() :].lstrip()


def _joined(content: Any, kinds: Sequence[str] = ()) -> str:
    """A text, or those of parts; a part's own may be parts again. `kinds`: no others, if given."""
    if isinstance(content, str):
        return content
    found = []
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, Mapping):
            continue
        if kinds and part.get("type") not in kinds:
            continue
        for key in PART_KEYS:
            found.append(_joined(part.get(key)))
    return "".join(found)
