"""The messages of a Chat Completions request as Harmony messages, with reasoning that the client
dropped put back.

What chat messages mean is harmony's `messages_from_chat`; here is what stands on the wire around
it: parts, custom calls, the deprecated functions, and errors that name the place.
Knows nothing of the rest of a request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ossia.errors import HarmonyError
from ossia.harmony import DeveloperContent, Message, Role
from ossia.harmony.chat_messages import REASONING_KEYS, messages_from_chat
from ossia.server.wire.content import UNSUPPORTED, part_text
from ossia.server.wire.errors import ApiError
from ossia.server.wire.fields import At

Wire = dict[str, Any]
Thoughts = Callable[[str], tuple[Message, ...]]  # by the id of a call: what led to it
BREAK = "\n\n"  # between two thoughts, or two things said, where a message has one field for them
THOUGHT_PARTS = ("thinking", "reasoning")


@dataclass(frozen=True)
class _Request:
    """A call in the history. `before`: what is to be put back in front of it."""

    is_custom: bool
    before: tuple[Message, ...]


def harmony_messages(
    wire: Sequence[Mapping[str, Any]], thoughts: Thoughts
) -> tuple[str | None, tuple[Message, ...]]:
    """The instructions that a conversation begins with, and the messages after them. Raises
    `ApiError`.
    """
    calls: list[_Request] = []
    plain = [_plain(message, thoughts, calls) for message in At(wire, "messages").items()]
    try:
        messages = messages_from_chat(plain, system=None)
    except HarmonyError as error:
        raise ApiError.of(error) from error
    instructions = None
    if plain[0]["role"] in ("system", "developer"):  # these have become one developer message
        content = messages[0].content
        assert isinstance(content, DeveloperContent)
        instructions, messages = content.instructions, messages[1:]
    return instructions, tuple(_with_calls(messages, calls))


def _with_calls(messages: Sequence[Message], calls: Sequence[_Request]) -> Iterator[Message]:
    """The messages, calls as they were made: the n-th call is the n-th of `calls`."""
    requests = iter(calls)
    for message in messages:
        if message.role is Role.ASSISTANT and message.recipient is not None:
            request = next(requests)
            yield from request.before
            yield replace(message, content_type="code") if request.is_custom else message
        else:
            yield message


# One message at a time, in the shape that `messages_from_chat` knows


def _plain(message: At, thoughts: Thoughts, calls: list[_Request]) -> Wire:
    out = dict(message.value)
    out["content"] = _content(message, out)
    if out["role"] == "function":
        message["name"].word()
        out |= {"role": "tool", "tool_call_id": None}
    if out["role"] == "tool" and out["content"] is None:
        out["content"] = ""  # a function that returns nothing
    if out["role"] == "assistant":
        _assistant(message, out, thoughts, calls)
    return out


def _content(message: At, out: Wire) -> str | list[Wire] | None:
    """A string, or parts of text. Thoughts among an assistant's parts move to its reasoning."""
    content = message["content"]
    if isinstance(content.value, str | None):
        return content.value
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content.items("a string or a list of parts"):
        kind = part.object('an object such as {"type": "text", "text": ...}')["type"].value
        if kind in THOUGHT_PARTS and out["role"] == "assistant":
            key = "thinking" if "thinking" in part else "text"
            thoughts.append(part[key].text())
        else:
            texts.append(part_text(part))
    if thoughts and not any(out.get(key) for key in REASONING_KEYS):
        out["reasoning"] = BREAK.join(thoughts)
    return [{"type": "text", "text": text} for text in texts]


def _assistant(message: At, out: Wire, thoughts: Thoughts, calls: list[_Request]) -> None:
    if "audio" in message:
        raise message["audio"].wrong("cannot be heard: this model reads text only", UNSUPPORTED)
    listed = message["tool_calls"]
    if not listed.value:
        legacy = message["function_call"].value
        calls_made = []
        if legacy is not None:
            calls_made.append({"type": "function", "function": legacy})
        listed = At(calls_made, listed.path)
    out["tool_calls"] = [_call(call) for call in listed.items()]
    for n, call in enumerate(out["tool_calls"]):
        known: tuple[Message, ...] = ()
        if isinstance(call.get("id"), str):
            known = thoughts(call["id"])
        if n == 0:
            known = _first(out, known)
        calls.append(_Request(call["type"] == "custom", known))


def _call(call: At) -> Wire:
    """A call of a function, whatever it was: a custom tool's input is what a function's arguments
    are.
    """
    if call.object()["type"].value != "custom":
        return {**call.value, "type": "function"}
    inner = call["custom"].object('an object such as {"name": ..., "input": ...}')
    function = {"name": inner["name"].value, "arguments": inner["input"].text()}
    return {"id": call["id"].value, "type": "custom", "function": function}


def _first(message: Wire, known: tuple[Message, ...]) -> tuple[Message, ...]:
    """Messages to insert before a message's first call.

    Clients often drop the reasoning that led to a call. If what this client sent equals what we
    remember, use our own messages unchanged, so that the prompt matches the last one and the prefix
    cache hits. If it sent something else, keep that.
    """
    if not known:
        return ()
    own = [each for each in known if each.role is Role.ASSISTANT and each.recipient is None]
    thought = BREAK.join(each.text for each in own if each.channel == "analysis")
    said = BREAK.join(each.text for each in own if each.channel == "commentary")
    kept = None
    for key in REASONING_KEYS:
        kept = kept or message.get(key)
    content = message["content"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    is_same_thought = kept in (None, "", thought)
    is_same_text = content in (None, "", said)
    if is_same_thought and is_same_text:
        message["content"] = None
        for key in REASONING_KEYS:
            message.pop(key, None)
        return known
    if not kept and thought:
        message["reasoning"] = thought
    return ()
