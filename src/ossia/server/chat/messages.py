"""The messages of a Chat Completions request as Harmony messages, with reasoning that the client
dropped put back.

What chat messages mean is harmony's `messages_from_chat`; here is what the wire adds to them:
parts, custom calls, the deprecated functions, and errors that name the place.
Knows nothing of the rest of a request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ossia.errors import HarmonyError
from ossia.harmony import DeveloperContent, Message, Role
from ossia.harmony.chat_messages import REASONING_KEYS, messages_from_chat
from ossia.server.hosted.citing import flat_annotations, with_marks
from ossia.server.wire.content import RESULTS, UNSUPPORTED, part_text, result_part
from ossia.server.wire.errors import ApiError
from ossia.server.wire.fields import At

Wire = dict[str, Any]
Thoughts = Callable[[str], tuple[Message, ...]]  # the messages that led to a call, by its id
BREAK = "\n\n"  # between the texts of several messages that share one field
THOUGHT_PARTS = ("thinking", "reasoning")


@dataclass(frozen=True)
class _PastCall:
    """A call in the history. `before`: the messages to insert before it."""

    is_custom: bool
    before: tuple[Message, ...]


def harmony_messages(
    wire: Sequence[Mapping[str, Any]], thoughts: Thoughts
) -> tuple[str | None, tuple[Message, ...]]:
    """The instructions that a conversation begins with, and the messages after them. Raises
    `ApiError`.
    """
    calls: list[_PastCall] = []
    plain = [_plain(message, thoughts, calls) for message in At(wire, "messages").items()]
    try:
        messages = messages_from_chat(plain, system=None)
    except HarmonyError as error:
        raise ApiError.of(error) from error
    instructions = None
    if plain[0]["role"] in ("system", "developer"):  # these have become one developer message
        content = messages[0].content
        assert isinstance(content, DeveloperContent)
        instructions = content.instructions
        messages = messages[1:]
    return instructions, tuple(_with_calls(messages, calls))


def _with_calls(messages: Sequence[Message], calls: Sequence[_PastCall]) -> Iterator[Message]:
    """The messages, calls as they were made: the n-th call is the n-th of `calls`."""
    left = iter(calls)
    for message in messages:
        is_call = message.role is Role.ASSISTANT and message.recipient is not None
        if not is_call:
            yield message
            continue
        call = next(left)
        yield from call.before
        if call.is_custom:
            message = replace(message, content_type="code")
        yield message


# One message at a time, in the shape that `messages_from_chat` knows


def _plain(message: At, thoughts: Thoughts, calls: list[_PastCall]) -> Wire:
    out = dict(message.value)
    out["content"] = _content(message, out)
    match out["role"]:
        case "function":
            message["name"].word()
            out["role"] = "tool"
            out["tool_call_id"] = None
        case "assistant":
            _assistant(message, out, thoughts, calls)
    if out["role"] == "tool" and out["content"] is None:
        out["content"] = ""  # a function that returns nothing
    return out


def _content(message: At, out: Wire) -> str | list[Wire] | None:
    """A string, or parts of text. Thoughts among an assistant's parts move to its reasoning."""
    content = message["content"]
    is_assistant = out["role"] == "assistant"
    if isinstance(content.value, str | None):
        if is_assistant and content.value:
            return with_marks(content.value, flat_annotations(message["annotations"].value))
        return content.value
    texts: list[str] = []
    thoughts: list[str] = []
    read = result_part if out["role"] in RESULTS else part_text
    for part in content.items("a string or a list of parts"):
        kind = part.object('an object such as {"type": "text", "text": ...}')["type"].value
        if is_assistant and kind in THOUGHT_PARTS:
            key = "thinking" if "thinking" in part else "text"
            thoughts.append(part[key].text())
        else:
            texts.append(read(part))
    if thoughts and not _reasoning(out):
        out["reasoning"] = BREAK.join(thoughts)
    return [{"type": "text", "text": text} for text in texts]


def _reasoning(message: Wire) -> Any:
    """What the client sent, under the first name that is not empty."""
    sent = None
    for key in REASONING_KEYS:
        sent = sent or message.get(key)
    return sent


def _assistant(message: At, out: Wire, thoughts: Thoughts, calls: list[_PastCall]) -> None:
    if "audio" in message:
        raise message["audio"].wrong("cannot be heard: this model reads text only", UNSUPPORTED)
    listed = message["tool_calls"]
    if not listed.value:
        legacy = []
        function = message["function_call"].value
        if function is not None:
            legacy.append({"type": "function", "function": function})
        listed = At(legacy, listed.path)
    made = [_call(call) for call in listed.items()]
    out["tool_calls"] = made
    for n, call in enumerate(made):
        known: tuple[Message, ...] = ()
        if isinstance(call.get("id"), str):
            known = thoughts(call["id"])
        if n == 0:
            known = _before_first_call(out, known)
        is_custom = call["type"] == "custom"
        calls.append(_PastCall(is_custom, known))


def _call(call: At) -> Wire:
    """The call as a function's: a custom tool's input becomes the arguments."""
    if call.object()["type"].value != "custom":
        return {**call.value, "type": "function"}
    inner = call["custom"].object('an object such as {"name": ..., "input": ...}')
    function = {
        "name": inner["name"].value,
        "arguments": inner["input"].text(),
    }
    return {"id": call["id"].value, "type": "custom", "function": function}


def _before_first_call(message: Wire, known: tuple[Message, ...]) -> tuple[Message, ...]:
    """Messages to insert before a message's first call.

    Clients often drop the reasoning that led to a call. If what this client sent equals what we
    remember, use our own messages unchanged, so that the prompt matches the last one and the prefix
    cache hits. If it sent something else, keep that.
    """
    if not known:
        return ()
    thought = _said_on("analysis", known)
    preamble = _said_on("commentary", known)
    kept = _reasoning(message)
    content = message["content"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    is_same_thought = kept in (None, "", thought)
    is_same_text = content in (None, "", preamble)
    if is_same_thought and is_same_text:
        message["content"] = None
        for key in REASONING_KEYS:
            message.pop(key, None)
        return known
    if not kept and thought:
        message["reasoning"] = thought
    return ()


def _said_on(channel: str, messages: Sequence[Message]) -> str:
    """What the assistant said there, to no tool."""
    texts: list[str] = []
    for message in messages:
        is_said = message.role is Role.ASSISTANT and message.recipient is None
        if is_said and message.channel == channel:
            texts.append(message.text)
    return BREAK.join(texts)
