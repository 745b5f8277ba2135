"""Ollama's messages as a conversation. Knows what its clients send back; nothing of HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ossia.errors import HarmonyError
from ossia.harmony import DeveloperContent, Message
from ossia.harmony.chat_messages import messages_from_chat
from ossia.server.ollama.types import ChatRequest, GenerateRequest, OllamaMessage, refuse_images
from ossia.server.wire.errors import ApiError, bad
from ossia.server.wire.fields import At

# the messages that led to a call, by its id, as far as they are remembered
Thoughts = Callable[[str], Sequence[Message]]
Call = dict[str, Any]


def of_chat(body: ChatRequest, remembered: Thoughts) -> tuple[str | None, tuple[Message, ...]]:
    """The instructions that the conversation begins with, and its messages. Raises `ApiError`."""
    plain = _Reader(remembered).read(body.messages or [])
    try:
        messages = messages_from_chat(plain, system=None)
    except HarmonyError as error:
        raise ApiError.of(error) from error
    first = messages[0].content
    if plain[0]["role"] == "system" and isinstance(first, DeveloperContent):
        return first.instructions, messages[1:]
    return None, messages


def of_prompt(body: GenerateRequest) -> tuple[str | None, tuple[Message, ...]]:
    """As `of_chat`."""
    refuse_images(body.images, "images")
    message = Message("user", body.prompt or "")
    return body.system or None, (message,)


class _Reader:
    """Messages in Chat Completions' form. `open`: calls whose results have not come."""

    def __init__(self, remembered: Thoughts) -> None:
        self.remembered = remembered
        self.open: list[Call] = []

    def read(self, messages: Sequence[OllamaMessage]) -> list[dict[str, Any]]:
        """Raises `ApiError`."""
        plain = []
        for n, message in enumerate(messages):
            path = f"messages[{n}]"
            refuse_images(message.images, f"{path}.images")
            fields = {"role": message.role, "content": message.content or ""}
            if message.role == "assistant":
                fields |= self._assistant(message, path)
            elif message.role == "tool":
                fields["name"] = self._answered(message, path)
            plain.append(fields)
        return plain

    def _assistant(self, message: OllamaMessage, path: str) -> dict[str, Any]:
        listed = At(message.tool_calls or [], f"{path}.tool_calls")
        calls = [_call(call) for call in listed.items()]
        self.open = list(calls)
        thought = message.thinking
        if calls and not thought:
            thought = self._thought(calls[0])
        return {"tool_calls": calls, "thinking": thought}

    def _thought(self, call: Call) -> str:
        """The reasoning that led to it, for clients that drop that."""
        if not isinstance(call["id"], str):
            return ""
        texts = []
        for message in self.remembered(call["id"]):
            if message.channel == "analysis" and message.recipient is None:
                texts.append(message.text)
        return "\n\n".join(texts)

    def _answered(self, message: OllamaMessage, path: str) -> str:
        """The name of the tool whose result this is: of the first open call that it can belong
        to.
        """
        for call in self.open:
            name = str(call["function"]["name"])
            is_named = message.tool_name in (None, name)
            if is_named and message.tool_call_id in (None, "", call["id"]):
                self.open.remove(call)
                return name
        if message.tool_name:
            return message.tool_name
        raise bad(f"{path} is the result of no call: name its tool", f"{path}.tool_name")


def _call(call: At) -> Call:
    function = call.object()["function"].object()
    arguments = function["arguments"].value or {}
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    inner = {
        "name": function["name"].word(),
        "arguments": arguments,
    }
    return {
        "id": call["id"].value,
        "type": "function",
        "function": inner,
    }
