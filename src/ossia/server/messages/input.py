"""Messages of blocks -> a Harmony conversation.

Knows what Anthropic's clients send back of earlier answers: thoughts before a call, calls, and
results by the id of their call. Nothing of HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import date

from ossia.harmony import CONSTRAIN, Conversation, DeveloperContent, Message, Role, SystemContent
from ossia.harmony.messages import FUNCTIONS
from ossia.server.messages.types import CountRequest, WireMessage
from ossia.server.sealing import Sealer, SealError
from ossia.server.service import Effort
from ossia.server.wire.content import part_text, text_of
from ossia.server.wire.errors import ApiError, bad
from ossia.server.wire.fields import At
from ossia.tools.toolbox import Toolbox

Thoughts = Callable[
    [str], Sequence[Message]
]  # what led to the call of an id, as far as it is remembered
# blocks of an assistant
MISPLACED = ("tool_use", "thinking", "redacted_thinking")


def conversation_of(
    body: CountRequest, tools: Toolbox, effort: Effort, sealer: Sealer, remembered: Thoughts
) -> Conversation:
    """Raises `ApiError` naming the block that cannot be understood."""
    system = SystemContent(
        current_date=date.today().isoformat(),
        effort=effort.level,
        namespaces=tools.system_namespaces,
    )
    messages = [Message(Role.SYSTEM, system)]
    instructions = text_of(At(body.system or "", "system"), "\n\n")
    developer = tools.developer(instructions or None, body.format().declared)
    if developer is not None:
        messages.append(Message(Role.DEVELOPER, developer))
    reader = _Reader(sealer, remembered)
    for n, message in enumerate(body.messages):
        messages += reader.read(message, At(message.content, f"messages[{n}].content"))
    if body.messages[-1].role == "assistant":
        raise bad(
            "the last message is the assistant's: this model cannot continue an answer",
            "messages",
        )
    return Conversation(tuple(messages))


class _Reader:
    def __init__(self, sealer: Sealer, remembered: Thoughts) -> None:
        self.sealer = sealer
        self.remembered = remembered
        self.calls: dict[str, str] = {}  # id -> the tool's name

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
        id = block["tool_use_id"].text()
        if id not in self.calls:
            raise block["tool_use_id"].wrong(f"is {id!r:.80}: no tool_use before it has this id")
        text = text_of(block["content"], "\n") if block["content"].value else ""
        if block["is_error"].value is True:
            text = f"error: {text}"
        return Message(Role.TOOL, text, f"{FUNCTIONS}.{self.calls[id]}", "commentary", "assistant")

    def _assistant(self, blocks: list[At]) -> Iterator[Message]:
        """Text before a call, or before the answer, is a preamble: so it was said."""
        kinds = [block["type"].value for block in blocks]
        has_call = "tool_use" in kinds
        last_text = -1
        for n, kind in enumerate(kinds):
            if kind == "text":
                last_text = n
        has_thought = False  # since the last call
        for n, block in enumerate(blocks):
            match kinds[n]:
                case "thinking" | "redacted_thinking":
                    has_thought = True
                    if text := self._thought(block):
                        yield Message(Role.ASSISTANT, text, channel="analysis")
                case "tool_use":
                    yield from self._call(block, has_thought)
                    has_thought = False
                case "tool_result":
                    raise _misplaced(block, "an assistant's")
                case _:
                    is_answer = not has_call and n == last_text
                    if text := part_text(block):
                        channel = "final" if is_answer else "commentary"
                        yield Message(Role.ASSISTANT, text, channel=channel)

    def _thought(self, block: At) -> str:
        """Nothing for what is sealed and cannot be opened: it is another model's, or another
        server's.
        """
        is_redacted = block["type"].value == "redacted_thinking"
        text = "" if is_redacted else block["thinking"].text()
        if not text:
            sealed = block["data" if is_redacted else "signature"].text()
            with suppress(SealError):
                text = self.sealer.open(sealed)
        return text

    def _call(self, block: At, has_thought: bool) -> Iterator[Message]:
        id = block["id"].text()
        name = block["name"].text()
        given = block["input"].object().value if "input" in block else {}
        if not has_thought:
            for message in self.remembered(id):
                if message.channel == "analysis":
                    yield message
        self.calls[id] = name
        text = json.dumps(given, ensure_ascii=False)
        yield Message(
            Role.ASSISTANT, text, None, "commentary", f"{FUNCTIONS}.{name}", CONSTRAIN + "json"
        )


def _blocks(content: At) -> list[At]:
    """Raises `ApiError` for what is not a block."""
    if isinstance(content.value, str):
        return [At({"type": "text", "text": content.value}, content.path)]
    blocks = list(content.items("a string or a list of blocks"))
    for block in blocks:
        block.object("a block, an object with a type")["type"].text()
    return blocks


def _misplaced(block: At, whose: str) -> ApiError:
    return block.wrong(f"is of type {block['type'].value!r}: it cannot stand in {whose} message")
