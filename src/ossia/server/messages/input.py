"""Messages of blocks -> Harmony messages.

Knows what Anthropic's clients send back of earlier answers: thoughts before a call, calls, and
results by the id of their call. Nothing of HTTP.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ossia.harmony import CONSTRAIN, DeveloperContent, Message, Role
from ossia.harmony.messages import FUNCTIONS
from ossia.server.hosted.citing import with_marks
from ossia.server.hosted.told import read_told
from ossia.server.messages.server_tools import placed, sealed_in, shown_by
from ossia.server.messages.types import CountRequest, WireMessage
from ossia.server.sealing import Sealer, SealError, log_unopened
from ossia.server.wire.content import part_text, result_part, text_of
from ossia.server.wire.errors import ApiError, bad
from ossia.server.wire.fields import At

log = logging.getLogger("ossia.server")
# the messages that led to a call, by its id, as far as they are remembered
Thoughts = Callable[[str], Sequence[Message]]
# What servers' own tools did. Results that we made have, sealed, what the model was told, and some
# show it; of others the texts around them say what came of it.
HOSTED = (
    "server_tool_use",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
    "mcp_tool_use",
    "mcp_tool_result",
)
# blocks of an assistant
THOUGHTS = frozenset({"thinking", "redacted_thinking"})
MISPLACED = ("tool_use", "thinking", "redacted_thinking")


@dataclass
class Earlier:
    """`pages`: that the browser showed, by cursor: URL and title."""

    messages: list[Message] = field(default_factory=list)
    pages: dict[int, tuple[str, str]] = field(default_factory=dict)


def read_messages(body: CountRequest, sealer: Sealer, remembered: Thoughts) -> Earlier:
    """Raises `ApiError` naming the block that is wrong."""
    reader = _Reader(sealer, remembered)
    earlier = Earlier(pages=reader.pages)
    for n, message in enumerate(body.messages):
        earlier.messages += reader.read(message, At(message.content, f"messages[{n}].content"))
    log_unopened(reader.unopened)
    if reader.elsewhere:
        log.info("%d blocks of tools that another server ran are left out", reader.elsewhere)
    if body.messages[-1].role == "assistant":
        why = "the last message is the assistant's: this model cannot continue an answer"
        raise bad(why, "messages")
    return earlier


class _Reader:
    def __init__(self, sealer: Sealer, remembered: Thoughts) -> None:
        self.sealer = sealer
        self.remembered = remembered
        self.calls: dict[str, str] = {}  # id -> the tool's name
        self.uses: dict[str, Any] = {}  # id -> the block of a use of a server's tool
        self.open_calls: dict[str, None] = {}  # ids of those without a result yet
        self.unopened: list[SealError] = []
        self.elsewhere = 0  # blocks that are left out
        self.pages: dict[int, tuple[str, str]] = {}

    def read(self, message: WireMessage, content: At) -> Iterator[Message]:
        match message.role:
            case "system":
                yield Message(Role.DEVELOPER, DeveloperContent(text_of(content, "\n\n")))
            case "user":
                yield from self._user(_blocks(content))
            case "assistant":
                yield from self._assistant(_blocks(content))

    def _user(self, blocks: list[At]) -> Iterator[Message]:
        """Results as they come; text blocks next to each other are one message."""
        texts: list[str] = []
        for block in blocks:
            if block["type"].value in MISPLACED:
                raise _misplaced(block, "a user's")
            if block["type"].value != "tool_result":
                texts.append(part_text(block))
                continue
            if texts:
                yield Message(Role.USER, "\n\n".join(texts))
                texts = []
            yield self._result(block)
        if texts:
            yield Message(Role.USER, "\n\n".join(texts))

    def _result(self, block: At) -> Message:
        id = block["tool_use_id"].text("")
        if not id and len(self.open_calls) == 1:
            id = next(iter(self.open_calls))  # it can be no other's
        self.open_calls.pop(id, None)
        if id not in self.calls:
            raise block["tool_use_id"].wrong(f"is {id!r:.80}: no tool_use before it has this id")
        content = block["content"]
        text = text_of(content, "\n", result_part) if content.value else ""
        if block["is_error"].value is True:
            text = f"error: {text}"
        author = f"{FUNCTIONS}.{self.calls[id]}"
        return Message(Role.TOOL, text, author, "commentary", "assistant")

    def _assistant(self, blocks: list[At]) -> Iterator[Message]:
        """Text before a call, or before the answer, was said as a preamble."""
        kinds = [block["type"].value for block in blocks]
        answer = _place_of_answer(kinds)
        kept = self._kept(blocks, kinds)
        yield from kept
        for n, block in enumerate(blocks):
            match kinds[n]:
                case "thinking" | "redacted_thinking":
                    if text := self._thought(block):
                        yield Message(Role.ASSISTANT, text, channel="analysis")
                case "tool_use":
                    yield self._call(block)
                case "tool_result":
                    raise _misplaced(block, "an assistant's")
                case "server_tool_use":
                    self.uses[block["id"].text("")] = block.value  # its result says the rest
                case kind if kind in HOSTED:
                    found = self._hosted(block)
                    yield from () if kept else found
                case _:
                    channel = "final" if n == answer else "commentary"
                    said = part_text(block)
                    marked = with_marks(said, placed(block["citations"].value))
                    if marked:
                        yield Message(Role.ASSISTANT, marked, channel=channel)

    def _kept(self, blocks: list[At], kinds: list[str]) -> list[Message]:
        """What is remembered of the message up to its first call, but for its texts: for clients
        that are not shown thoughts. Empty if they are.
        """
        if "tool_use" not in kinds or not THOUGHTS.isdisjoint(kinds):
            return []
        first = blocks[kinds.index("tool_use")]
        remembered = self.remembered(first["id"].text())
        return [each for each in remembered if not _is_preamble(each)]

    def _hosted(self, block: At) -> Sequence[Message]:
        content = block["content"].value
        sealed = sealed_in(content)
        if sealed:
            try:
                found = read_told(self.sealer.open(sealed))
            except SealError as error:
                self.unopened.append(error)
                return ()
            self.pages |= found.pages
            return found.messages
        shown = shown_by(self.uses.get(block["tool_use_id"].text("")), content)
        if not shown:
            self.elsewhere += 1
        return shown

    def _thought(self, block: At) -> str:
        """Empty for a seal that cannot be opened: it is another model's, or another server's."""
        is_redacted = block["type"].value == "redacted_thinking"
        text = "" if is_redacted else block["thinking"].text()
        if not text:
            sealed = block["data" if is_redacted else "signature"].text()
            try:
                text = self.sealer.open(sealed)
            except SealError as error:
                self.unopened.append(error)
        return text

    def _call(self, block: At) -> Message:
        id = block["id"].text()
        name = block["name"].text()
        given = {}
        if "input" in block:
            given = block["input"].object().value
        self.calls[id] = name
        self.open_calls[id] = None
        text = json.dumps(given, ensure_ascii=False)
        recipient = f"{FUNCTIONS}.{name}"
        return Message(Role.ASSISTANT, text, None, "commentary", recipient, CONSTRAIN + "json")


def _is_preamble(message: Message) -> bool:
    is_said = message.role is Role.ASSISTANT and message.recipient is None
    return is_said and message.channel == "commentary"


def _place_of_answer(kinds: list[str]) -> int | None:
    """Of the last text block; None if there is none, or a call, or if a tool was used after it."""
    if "tool_use" in kinds:
        return None
    for n in reversed(range(len(kinds))):
        if kinds[n] == "text":
            return n
        if kinds[n] in HOSTED:
            return None
    return None


def _blocks(content: At) -> list[At]:
    """Raises `ApiError` for what is not a block."""
    if isinstance(content.value, str):
        only = {"type": "text", "text": content.value}
        return [At(only, content.path)]
    blocks = list(content.items("a string or a list of blocks"))
    for block in blocks:
        block.object("a block, an object with a type")["type"].text()
    return blocks


def _misplaced(block: At, whose: str) -> ApiError:
    return block.wrong(f"is of type {block['type'].value!r}: it cannot stand in {whose} message")
