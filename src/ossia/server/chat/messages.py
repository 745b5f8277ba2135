"""The messages of a Chat Completions request as Harmony messages, with reasoning that the client
dropped put back.

What chat messages mean is harmony's `messages_from_chat`; here is what stands on the wire around
it: parts that are no text, custom calls, the deprecated functions, and errors that name the place.
Knows nothing of the rest of a request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ossia.errors import HarmonyError
from ossia.harmony import DeveloperContent, Message, Role
from ossia.harmony.chat_messages import REASONING_KEYS, TEXT_PARTS, messages_from_chat
from ossia.server.wire.errors import ApiError, bad

Wire = dict[str, Any]
Thoughts = Callable[[str], tuple[Message, ...]]  # by the id of a call: what led to it
BREAK = "\n\n"  # between two thoughts, or two things said, where a message has one field for them
NO_TEXT = {
    "image_url": "images",
    "input_image": "images",
    "image": "images",
    "input_audio": "audio",
    "audio": "audio",
    "audio_url": "audio",
    "video_url": "video",
    "file": "files",
    "input_file": "files",
}


@dataclass(frozen=True)
class _Request:
    """A call in the history. `before`: what is to be put back in front of it."""

    is_custom: bool
    before: tuple[Message, ...]


def harmony_messages(
    wire: Sequence[Mapping[str, Any]], thoughts: Thoughts
) -> tuple[str | None, tuple[Message, ...]]:
    """The instructions that a conversation begins with, and the messages behind them. Raises
    `ApiError`.
    """
    calls: list[_Request] = []
    plain = [_plain(message, f"messages[{n}]", thoughts, calls) for n, message in enumerate(wire)]
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


def _plain(
    message: Mapping[str, Any], place: str, thoughts: Thoughts, calls: list[_Request]
) -> Wire:
    out = dict(message)
    out["content"] = _content(out, place)
    if out["role"] == "function":
        if not isinstance(out.get("name"), str) or not out["name"]:
            raise bad(f"{place} needs the name of the function", f"{place}.name")
        out |= {"role": "tool", "tool_call_id": None}
    if out["role"] == "tool" and out["content"] is None:
        out["content"] = ""  # a function that returns nothing
    if out["role"] == "assistant":
        _assistant(out, place, thoughts, calls)
    return out


def _content(message: Wire, place: str) -> str | list[Wire] | None:
    """A string, or parts of text. Thoughts among an assistant's parts move to its reasoning."""
    content: str | list[Wire] | None = message.get("content")
    if not isinstance(content, str | list | None):
        raise bad(f"{place}.content must be a string or a list of parts", f"{place}.content")
    if not isinstance(content, list):
        return content
    parts, thought = [], []
    for n, part in enumerate(content):
        where = f"{place}.content[{n}]"
        if not isinstance(part, dict):
            raise bad(f'{where} must be an object such as {{"type": "text", "text": ...}}', where)
        kind = part.get("type")
        if kind in TEXT_PARTS or kind == "refusal":
            parts.append(
                {
                    "type": "text",
                    "text": _string(part, "refusal" if kind == "refusal" else "text", where),
                }
            )
        elif kind in ("thinking", "reasoning") and message["role"] == "assistant":
            thought.append(_string(part, "thinking" if "thinking" in part else "text", where))
        elif isinstance(kind, str) and kind in NO_TEXT:
            what = f"{where} is of type {kind}: this model reads text, no {NO_TEXT[kind]}"
            raise bad(what, where, "unsupported_content")
        else:
            raise bad(f"{where}: parts are of type text, not {kind!r:.80}", where)
    if thought and not any(message.get(key) for key in REASONING_KEYS):
        message["reasoning"] = BREAK.join(thought)
    return parts


def _string(part: Mapping[str, Any], key: str, place: str) -> str:
    value = part.get(key)
    if not isinstance(value, str):
        raise bad(f"{place}.{key} must be a string", f"{place}.{key}")
    return value


def _assistant(message: Wire, place: str, thoughts: Thoughts, calls: list[_Request]) -> None:
    if message.get("audio") is not None:
        raise bad(
            f"{place}.audio: this model has no audio", f"{place}.audio", "unsupported_content"
        )
    listed = message.get("tool_calls") or []
    if message.get("function_call") is not None and not listed:
        listed = [{"type": "function", "function": message["function_call"]}]
    if not isinstance(listed, list):
        raise bad(f"{place}.tool_calls must be a list", f"{place}.tool_calls")
    message["tool_calls"] = [
        _call(call, f"{place}.tool_calls[{n}]") for n, call in enumerate(listed)
    ]
    for n, call in enumerate(message["tool_calls"]):
        known = thoughts(call["id"]) if isinstance(call.get("id"), str) else ()
        before = known if n else _first(message, known)
        calls.append(_Request(call["type"] == "custom", before))


def _call(call: Any, place: str) -> Wire:
    """A call of a function, whatever it was: a custom tool's input is what a function's arguments
    are.
    """
    if not isinstance(call, Mapping):
        raise bad(f"{place} must be an object", place)
    if call.get("type") != "custom":
        return {**call, "type": "function"}
    inner = call.get("custom")
    if not isinstance(inner, Mapping):
        raise bad(
            f'{place} must look like {{"id", "type": "custom", "custom": {{"name", "input"}}}}',
            place,
        )
    function = {"name": inner.get("name"), "arguments": _string(inner, "input", f"{place}.custom")}
    return {"id": call.get("id"), "type": "custom", "function": function}


def _first(message: Wire, known: tuple[Message, ...]) -> tuple[Message, ...]:
    """What to put back in front of a message's first call. What the client has kept is its own to
    say, unless it is just what is known: then the messages as they were, so that the prompt begins
    as the last one did.
    """
    if not known:
        return ()
    thought = BREAK.join(m.text for m in known if m.channel == "analysis" and m.recipient is None)
    said = BREAK.join(
        m.text
        for m in known
        if m.channel == "commentary" and m.role is Role.ASSISTANT and not m.recipient
    )
    kept = next((text for key in REASONING_KEYS if (text := message.get(key))), None)
    content = message["content"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    if (kept or thought) == thought and (content or said) == said:
        message["content"] = None
        for key in REASONING_KEYS:
            message.pop(key, None)
        return known
    if not kept and thought:
        message["reasoning"] = thought
    return ()
