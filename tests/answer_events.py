"""What the server's tests share: an answer's events checked and folded, whole turns, and turns
damaged at random.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, field, replace

from ossia.harmony import Conversation, FunctionTool, Message, Role
from ossia.tokenizer import Tokenizer
from ossia.turn.events import (
    BuiltinCallItem,
    CallStart,
    Item,
    ItemDelta,
    ItemEnd,
    ItemStart,
    MessageItem,
    Progress,
    ReasoningItem,
    ToolCallItem,
    TurnEnd,
    TurnEvent,
    Usage,
)

WEATHER = FunctionTool(
    "weather", "Of a place.", {"type": "object", "properties": {"place": {"type": "string"}}}
)
ASKED = Conversation((Message(Role.USER, "What now?"),))
THOUGHT = "qwxthoughtqwx"  # occurs in reasoning only
SAID = "The answer is 42."


@dataclass
class Folded:
    """`items` as they ended, and whether they were complete."""

    items: list[Item] = field(default_factory=list)
    complete: list[bool] = field(default_factory=list)
    end: TurnEnd | None = None

    def of(self, kind: type) -> list[Item]:
        return [item for item in self.items if isinstance(item, kind)]

    @property
    def said(self) -> str:
        return "".join(item.text for item in self.of(MessageItem))


def fold(events: Sequence[TurnEvent]) -> Folded:
    """The items of a whole answer; asserts everything that holds of any."""
    folded, open_items = Folded(), dict[int, tuple[Item, list[ItemDelta]]]()
    counted, next_index = Usage(), 0
    for place, event in enumerate(events):
        assert folded.end is None, "nothing follows the end"
        if isinstance(event, ItemStart):
            assert event.index == next_index and event.item.text == ""
            open_items[event.index] = (event.item, [])
            next_index += 1
        elif isinstance(event, ItemDelta):
            assert event.text or event.logprobs
            open_items[event.index][1].append(event)
        elif isinstance(event, CallStart):
            started, deltas = open_items[event.index]
            assert event.item.id == started.id and event.item.text == _text(deltas)
        elif isinstance(event, ItemEnd):
            _check_end(event, *open_items.pop(event.index))
            folded.items.append(event.item)
            folded.complete.append(event.complete)
        elif isinstance(event, Progress):
            assert (
                event.usage.completion >= counted.completion
                and event.usage.prompt >= counted.prompt
            )
            counted = event.usage
        else:
            folded.end = event
            assert place == len(events) - 1
    assert folded.end is not None and not open_items
    _check_answer(folded, folded.end)
    return folded


def _text(deltas: Sequence[ItemDelta]) -> str:
    return "".join(delta.text for delta in deltas)


def _check_end(end: ItemEnd, started: Item, deltas: Sequence[ItemDelta]) -> None:
    item = end.item
    assert item.text == _text(deltas)
    if isinstance(item, MessageItem):
        assert item.logprobs == tuple(one for delta in deltas for one in delta.logprobs)
        assert replace(item, text="", logprobs=()) == started
    elif isinstance(item, BuiltinCallItem):
        assert replace(item, text="", outputs=(), result="", failed=False) == started
    else:
        assert not any(delta.logprobs for delta in deltas)
        assert replace(item, text="") == started


def _check_answer(folded: Folded, end: TurnEnd) -> None:
    calls = [
        item
        for item, whole in zip(folded.items, folded.complete, strict=True)
        if isinstance(item, ToolCallItem) and whole
    ]
    assert end.reason in ("stop", "length", "calls", "tool_rounds")
    assert end.reason != "calls" or calls
    assert end.reason != "stop" or not calls
    assert all(folded.complete) or end.reason == "length"
    assert 0 <= end.usage.reasoning <= end.usage.completion and end.usage.cached <= end.usage.prompt
    assert end.timing is None or end.timing.arrived <= end.timing.ended
    ids = [item.id for item in folded.items] + [
        item.call_id for item in folded.items if isinstance(item, ToolCallItem)
    ]
    assert len(set(ids)) == len(ids)
    own = [
        m
        for m in end.messages
        if m.role is Role.ASSISTANT and m.recipient in (None, "all", "user", "assistant")
    ]
    said = [m for m in own if m.channel == "final"]
    finals = [i for i in folded.items if isinstance(i, MessageItem) and i.phase == "final_answer"]
    assert [m.text for m in said] == [item.text for item in finals]
    thoughts = [m for m in own if m.channel == "analysis"]
    assert [m.text for m in thoughts] == [
        item.text for item in folded.items if isinstance(item, ReasoningItem)
    ]


async def collected(events: AsyncIterable[TurnEvent], limit: float = 10.0) -> list[TurnEvent]:
    async with asyncio.timeout(limit):
        return [event async for event in events]


# ---- turns ----


def good_turn(rng: random.Random) -> str:
    """Reasoning, with THOUGHT all over it, then an answer, a preamble and a call, or a call."""
    thought = " ".join(
        rng.choice([THOUGHT, "so", "we add", "é👍", "{}"]) for _ in range(rng.randrange(2, 6))
    )
    text = f"<|channel|>analysis<|message|>{thought} {THOUGHT}<|end|>"
    if rng.random() < 0.3:
        text += f"<|start|>assistant<|channel|>analysis<|message|>{THOUGHT} again<|end|>"
    kind = rng.random()
    if kind < 0.2:
        text += "<|start|>assistant<|channel|>commentary<|message|>I look it up.<|end|>"
    if kind < 0.5:
        name = rng.choice(["weather", "weather", "weather", "unknown"])
        body = rng.choice(['{"place": "Rome"}', "{}", '{"place": "Rome"', "no JSON"])
        return text + (
            f"<|start|>assistant<|channel|>commentary to=functions.{name} "
            f"<|constrain|>json<|message|>{body}<|call|>"
        )
    return text + f"<|start|>assistant<|channel|>final<|message|>{SAID}<|return|>"


class Damage:
    """Damaged turns. What is put in never says itself that reasoning was for the user: not `final`,
    and not `commentary`, and no `<|return|>` inside of reasoning that has lost its channel.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        names = (
            "<|start|>",
            "<|channel|>",
            "<|message|>",
            "<|constrain|>",
            "<|end|>",
            "<|call|>",
            "<|startoftext|>",
        )
        self.controls = [tokenizer.specials[name] for name in names if name in tokenizer.specials]
        words = (
            "analysis",
            "assistant",
            " to=functions.weather",
            " to=",
            "json",
            "user",
            "zz",
            "{",
            "\n",
            " ",
        )
        self.words = [tokenizer.encode(word) for word in words]

    def piece(self, rng: random.Random) -> list[int]:
        kind = rng.random()
        if kind < 0.5:
            return [rng.choice(self.controls)]
        if kind < 0.8:
            return rng.choice(self.words)
        if kind < 0.9:
            return self.tokenizer.encode("ü")[:1]  # half a character
        return [rng.choice([self.tokenizer.vocab_size + 7, 10**9])]

    def turn(self, rng: random.Random) -> list[int]:
        ids = self.tokenizer.encode_with_specials(good_turn(rng))
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            at, kind = rng.randrange(len(ids)), rng.randrange(5)
            if kind == 0:
                del ids[at]
            elif kind == 1:
                ids[at:at] = self.piece(rng)
            elif kind == 2:
                ids[at : at + 1] = self.piece(rng)
            elif kind == 3:
                ids[at:at] = ids[at : at + rng.randrange(1, 6)] * rng.randrange(1, 4)
            else:
                del ids[at + 1 :]
        return ids or [self.controls[0]]
