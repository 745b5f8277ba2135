"""Ollama's messages as a conversation. Knows what its clients send back; nothing of HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ossia.errors import HarmonyError
from ossia.harmony import DeveloperContent, Message
from ossia.harmony.chat_messages import messages_from_chat
from ossia.server.ollama.types import ChatRequest, GenerateRequest, OllamaMessage, refuse_images
from ossia.server.wire.errors import ApiError, bad
from ossia.server.wire.fields import At

# the messages that led to a call, by its id, as far as they are remembered
Thoughts = Callable[[str], Sequence[Message]]


def of_chat(body: ChatRequest, remembered: Thoughts) -> tuple[str | None, tuple[Message, ...]]:
    """The instructions that the conversation begins with, and its messages. Raises `ApiError`."""
    plain = list(_plain(body.messages or [], remembered))
    try:
        messages = messages_from_chat(plain, system=None)
    except HarmonyError as error:
        raise ApiError.of(error) from error
    first = messages[0].content
    if plain[0]["role"] == "system" and isinstance(first, DeveloperContent):
        return first.instructions, messages[1:]
    return None, messages


def of_prompt(body: GenerateRequest) -> tuple[str | None, tuple[Message, ...]]:
    refuse_images(body.images, "images")
    return body.system or None, (Message("user", body.prompt or ""),)


def _plain(messages: Sequence[OllamaMessage], remembered: Thoughts) -> Iterator[dict[str, Any]]:
    """In Chat Completions' form. A result without a name is that of the first call without one."""
    open_calls: list[tuple[str | None, str]] = []  # id and name
    for n, message in enumerate(messages):
        path = f"messages[{n}]"
        refuse_images(message.images, f"{path}.images")
        plain: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        match message.role:
            case "assistant":
                calls = list(_calls(At(message.tool_calls or [], f"{path}.tool_calls")))
                open_calls = [(call.get("id"), call["function"]["name"]) for call in calls]
                plain["tool_calls"] = calls
                plain["thinking"] = message.thinking or _thought(calls, remembered)
            case "tool":
                plain["name"] = _answered(message, open_calls, path)
        yield plain


def _calls(calls: At) -> Iterator[dict[str, Any]]:
    for call in calls.items():
        function = call.object()["function"].object()
        name = function["name"].word()
        arguments = function["arguments"].value or {}
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        inner = {"name": name, "arguments": arguments}
        yield {"id": call["id"].value, "type": "function", "function": inner}


def _thought(calls: Sequence[dict[str, Any]], remembered: Thoughts) -> str:
    """The reasoning that led to the first call, for clients that drop it."""
    if not calls or not isinstance(calls[0]["id"], str):
        return ""
    return "\n\n".join(m.text for m in remembered(calls[0]["id"]) if m.channel == "analysis")


def _answered(message: OllamaMessage, open_calls: list[tuple[str | None, str]], path: str) -> str:
    """The name of the tool whose result this is. Its call is not open any more."""
    for place, (id, name) in enumerate(open_calls):
        is_named = message.tool_name in (None, name)
        if is_named and message.tool_call_id in (None, "", id):
            del open_calls[place]
            return name
    if message.tool_name:
        return message.tool_name
    raise bad(f"{path} is the result of no call: name its tool", f"{path}.tool_name")
