"""Messages of blocks -> a Harmony conversation.

Knows what Anthropic's clients send back of earlier answers: thoughts before a call, calls, and
results by the id of their call. Nothing of HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import date
from typing import Any

from ossia.harmony import CONSTRAIN, Conversation, DeveloperContent, Message, Role, SystemContent
from ossia.harmony.messages import FUNCTIONS
from ossia.server.messages.types import CountRequest, WireMessage
from ossia.server.sealing import Sealer, SealError
from ossia.server.service import Effort
from ossia.server.tools import Tools
from ossia.server.wire.errors import bad

Thoughts = Callable[
    [str], Sequence[Message]
]  # what led to the call of an id, as far as it is remembered
WITHOUT_TEXT = ("image", "document", "search_result", "container_upload", "file", "audio", "video")


def conversation_of(
    body: CountRequest, tools: Tools, effort: Effort, sealer: Sealer, remembered: Thoughts
) -> Conversation:
    """Raises `ApiError` naming the block that cannot be understood."""
    facts: Any = {"current_date": date.today().isoformat(), "effort": effort.level}
    messages = [Message(Role.SYSTEM, SystemContent(**facts, namespaces=tools.system_namespaces))]
    wanted = body.format()
    instructions = _text(body.system or "", "system", "\n\n")
    developer = tools.developer(instructions or None, () if wanted is None else (wanted,))
    if developer is not None:
        messages.append(Message(Role.DEVELOPER, developer))
    reader = _Reader(sealer, remembered)
    for n, message in enumerate(body.messages):
        messages += reader.read(message, f"messages[{n}]")
    if body.messages[-1].role == "assistant":
        raise bad(
            "the last message is the assistant's: this model cannot go on from within an answer",
            "messages",
        )
    return Conversation(tuple(messages))


class _Reader:
    def __init__(self, sealer: Sealer, remembered: Thoughts) -> None:
        self.sealer, self.remembered = sealer, remembered
        self.calls: dict[str, str] = {}  # id -> the tool's name

    def read(self, message: WireMessage, where: str) -> Iterator[Message]:
        blocks = _blocks(message.content, f"{where}.content")
        if message.role == "system":
            yield Message(
                Role.DEVELOPER, DeveloperContent(_text(message.content, f"{where}.content", "\n\n"))
            )
        elif message.role == "user":
            yield from self._user(blocks)
        else:
            yield from self._assistant(blocks)

    def _user(self, blocks: list[tuple[str, dict[str, Any]]]) -> Iterator[Message]:
        """Results as they come; text blocks next to each other are one message."""
        texts: list[str] = []
        for where, block in blocks:
            if block["type"] == "text":
                texts.append(_string(block, "text", where))
                continue
            if block["type"] != "tool_result":
                raise _misplaced(block, where, "a user's")
            if texts:
                yield Message(Role.USER, "\n\n".join(texts))
                texts = []
            yield self._result(block, where)
        if texts:
            yield Message(Role.USER, "\n\n".join(texts))

    def _result(self, block: dict[str, Any], where: str) -> Message:
        id = _string(block, "tool_use_id", where)
        if id not in self.calls:
            raise bad(f"{where}: no tool_use before it has the id {id!r}", f"{where}.tool_use_id")
        text = _text(block.get("content") or "", f"{where}.content", "\n")
        if block.get("is_error") is True:
            text = f"error: {text}"
        return Message(Role.TOOL, text, f"{FUNCTIONS}.{self.calls[id]}", "commentary", "assistant")

    def _assistant(self, blocks: list[tuple[str, dict[str, Any]]]) -> Iterator[Message]:
        """Text before a call, or before the answer, is a preamble: so it was said."""
        calls = [n for n, (_, block) in enumerate(blocks) if block["type"] == "tool_use"]
        texts = [n for n, (_, block) in enumerate(blocks) if block["type"] == "text"]
        thought = False  # since the last call
        for n, (where, block) in enumerate(blocks):
            match block["type"]:
                case "thinking" | "redacted_thinking":
                    thought = True
                    if text := self._thought(block, where):
                        yield Message(Role.ASSISTANT, text, channel="analysis")
                case "text":
                    is_answer = not calls and n == texts[-1]
                    if text := _string(block, "text", where):
                        yield Message(
                            Role.ASSISTANT, text, channel="final" if is_answer else "commentary"
                        )
                case "tool_use":
                    yield from self._call(block, where, thought)
                    thought = False
                case _:
                    raise _misplaced(block, where, "an assistant's")

    def _thought(self, block: dict[str, Any], where: str) -> str:
        """Nothing for what is sealed and cannot be opened: it is another model's, or another
        server's.
        """
        redacted = block["type"] == "redacted_thinking"
        text = "" if redacted else _string(block, "thinking", where)
        if not text:
            with suppress(SealError):
                text = self.sealer.open(_string(block, "data" if redacted else "signature", where))
        return text

    def _call(self, block: dict[str, Any], where: str, thought: bool) -> Iterator[Message]:
        id, name, given = (
            _string(block, "id", where),
            _string(block, "name", where),
            block.get("input", {}),
        )
        if not isinstance(given, dict):
            raise bad(f"{where}.input must be an object", f"{where}.input")
        if not thought:
            yield from (message for message in self.remembered(id) if message.channel == "analysis")
        self.calls[id] = name
        text = json.dumps(given, ensure_ascii=False)
        yield Message(
            Role.ASSISTANT, text, None, "commentary", f"{FUNCTIONS}.{name}", CONSTRAIN + "json"
        )


def _blocks(content: str | Iterable[Any], where: str) -> list[tuple[str, dict[str, Any]]]:
    """Each block with its place. Raises `ApiError` for what is none, or shows something."""
    if isinstance(content, str):
        return [(where, {"type": "text", "text": content})]
    blocks = []
    for n, block in enumerate(content):
        place = f"{where}[{n}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str):
            raise bad(f"{place} must be a block, an object with a type", place)
        if kind in WITHOUT_TEXT:
            raise bad(
                f"{place}: this model reads text only, it cannot take a block of type {kind!r}",
                f"{place}.type",
            )
        blocks.append((place, block))
    return blocks


def _text(content: Any, where: str, between: str) -> str:
    """Of content that may have text blocks only."""
    if not isinstance(content, str | list):
        raise bad(f"{where} must be a string or a list of text blocks", where)
    texts = []
    for place, block in _blocks(content, where):
        if block["type"] != "text":
            raise bad(
                f"{place}: only text blocks can stand here, found type {block['type']!r}",
                f"{place}.type",
            )
        texts.append(_string(block, "text", place))
    return between.join(texts)


def _string(block: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(block.get(key), str):
        raise bad(f"{where}.{key} must be a string", f"{where}.{key}")
    return str(block[key])


def _misplaced(block: dict[str, Any], where: str, whose: str) -> Exception:
    return bad(
        f"{where}: a block of type {block['type']!r} cannot stand in {whose} message",
        f"{where}.type",
    )
