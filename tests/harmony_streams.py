"""What the parser's tests share: streams at random, and simple statements of what a parser owes a
stream.

The statements are made without the parser's help: they look at the tokens and at what was reported.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

from ossia.harmony import (
    CallReady,
    Conversation,
    Event,
    Message,
    MessageEnd,
    MessageStart,
    RepairKind,
    StreamParser,
    Style,
    TextDelta,
    TurnClosed,
    render_conversation,
)
from ossia.tokenizer import Tokenizer

STRUCTURE = (
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|constrain|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
)
TURN_ENDS = ("<|call|>", "<|return|>", "<|endoftext|>")
# What ends a body. The other specials in it are left out of the text.
BODY_ENDS = ("<|start|>", "<|channel|>", "<|end|>", *TURN_ENDS)
ROLES = (None, "assistant", "user", "tool", "system")
STYLES: tuple[Style, ...] = ("faithful", "compat")
HEADER_WORDS = (
    *(
        "assistant",
        "user",
        "tool",
        "system",
        "developer",
        "assistantassistant",
        " assistant",
        "Assistant",
        "user:ann",
    ),
    *("Tool", "tool:", "tool.", "analysisWe", "commentary1"),
    *(
        "analysis",
        "commentary",
        "final",
        "analysis?",
        "finalx",
        "comment",
        "––commentary",
        "notes",
        "assistantfinal",
    ),
    *(
        " to=functions.f",
        " to=",
        "to=python",
        " to=assistant",
        " to=all",
        "functions.f",
        "browser.search",
        "to=to=f",
    ),
    *(" json", "json", " code", "text", "commentaryto=f", "finaljson", " to=f{}", " to=f json"),
)
BLANKS = (
    " ",
    "\n",
    "\t",
    "\u3000",
    "\u2003",
    "\xa0",
    "\x85",
    "\x1f",
    "\u200b",
    "\ufeff",
    "\r\n",
    "  ",
)
UNKNOWN = b"\xff"  # what an unknown id stands for in a body: one U+FFFD
TEXTS = (
    '{"a": 1}',
    "{}",
    "We need to",
    ".",
    "?!",
    "\n\n",
    "<|end|>",
    "<|channel|>final<|message|>",
    "é",
    "👍",
    "42",
)


def parsed(ids: Sequence[int], tokenizer: Tokenizer, role: Any) -> tuple[StreamParser, list[Event]]:
    """The parser after the whole stream, and its events, with what must hold of any stream
    asserted.
    """
    parser = StreamParser(tokenizer, role)
    by_token = [parser.feed(token) for token in ids] + [parser.finish()]
    check_events(by_token, parser.messages)
    check_turn_ends(ids, by_token, tokenizer)
    assert all(0 <= repair.position <= len(ids) for repair in parser.repairs)
    assert all(type(repair.kind) is RepairKind for repair in parser.repairs)
    for style in STYLES:
        render_conversation(Conversation(parser.messages), tokenizer, style=style)  # raises nothing
    assert bodies(ids, tokenizer) == _in_order(
        bodies(ids, tokenizer), [m.text for m in parser.messages]
    )
    return parser, [event for events in by_token for event in events]


def check_events(by_token: Sequence[Sequence[Event]], messages: Sequence[Message]) -> None:
    """The events tell the same story as the messages: deltas add up, calls are told where they
    end.
    """
    told: list[Message] = []
    start: MessageStart | None = None
    text, call_due = "", None
    for number, events in enumerate(by_token):
        for event in events:
            assert (call_due is not None) == isinstance(event, CallReady), (
                "a call is told right behind its end"
            )
            if isinstance(event, CallReady):
                assert event.message == call_due
                call_due = None
            elif isinstance(event, MessageStart):
                assert start is None
                start, text = event, ""
            elif isinstance(event, TextDelta):
                assert start is not None and event.text
                assert (event.channel, event.recipient) == (start.channel, start.recipient)
                text += event.text
            elif isinstance(event, MessageEnd):
                assert start is not None
                fields = (start.name, start.channel, start.recipient, start.content_type)
                assert event.message == Message(start.role, text, *fields)
                told.append(event.message)
                at_end = number == len(by_token) - 1
                addressed = event.message.recipient not in (None, "all", "user", "assistant")
                is_call = addressed and start.role == "assistant" and not at_end
                start, call_due = None, event.message if is_call else None
        assert call_due is None
    assert start is None and told == list(messages)


def check_turn_ends(
    ids: Sequence[int], by_token: Sequence[Sequence[Event]], tokenizer: Tokenizer
) -> None:
    """The first stop token closes the turn, and so does any that closes a message; a second in a
    row does not.
    """
    names: dict[int | None, str] = {tokenizer.specials[name]: name for name in TURN_ENDS}
    before: int | None = None
    closed_once = False
    for token, events in zip([*ids, None], by_token, strict=True):
        closed = [event.by for event in events if isinstance(event, TurnClosed)]
        ends_message = any(
            isinstance(event, MessageEnd) and event.closed_by in TURN_ENDS for event in events
        )
        if token not in names or before in names:
            assert not closed
        elif ends_message or not closed_once:
            assert closed == [names[token]] and isinstance(events[-1], TurnClosed)
        closed_once = closed_once or bool(closed)
        before = token


def bodies(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """Every text that stands between a MESSAGE and the next token that ends a body."""
    specials = {token: name for name, token in tokenizer.specials.items()}
    found: list[bytearray] = []
    inside = False
    for token in ids:
        name = specials.get(token)
        if name == "<|message|>" and not inside:
            inside = True
            found.append(bytearray())
        elif name in BODY_ENDS:
            inside = False
        elif name is None and inside:
            found[-1] += (
                tokenizer.token_bytes(token) if 0 <= token < tokenizer.vocab_size else UNKNOWN
            )
    return [text for data in found if (text := data.decode("utf-8", "replace"))]


def _in_order(wanted: list[str], found: list[str]) -> list[str]:
    """Those of `wanted` that are in `found`, in that order."""
    rest = iter(found)
    return [text for text in wanted if text in rest]


class Streams:
    """Random streams over one vocabulary. Every draw comes from `rng`, so a stream is named by its
    seed.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.structure = [tokenizer.special(name) for name in STRUCTURE]
        self.reserved = [
            token for name, token in tokenizer.specials.items() if name not in STRUCTURE
        ][:9]
        self.words = [tokenizer.encode(word) for word in HEADER_WORDS]
        self.blanks = [tokenizer.encode(blank) for blank in BLANKS]
        self.texts = [tokenizer.encode(text) for text in TEXTS]
        self.bytes = [tokenizer.vocabulary[bytes([byte])] for byte in range(128, 256)]
        self.broken = [token for data, token in tokenizer.vocabulary.items() if _is_broken(data)]

    @staticmethod
    @cache
    def of(tokenizer: Tokenizer) -> Streams:
        return Streams(tokenizer)

    def piece(self, rng: random.Random) -> list[int]:
        kind = rng.random()
        if kind < 0.4:
            return [rng.choice(self.structure)]
        if kind < 0.62:
            return rng.choice(self.words)
        if kind < 0.7:
            return rng.choice(self.blanks)
        if kind < 0.85:
            return rng.choice(self.texts)
        if kind < 0.9:
            return [rng.choice(rng.choice([self.broken, self.bytes]))]
        if kind < 0.93:
            return [rng.choice(self.reserved)]
        if kind < 0.97:
            return [rng.randrange(self.tokenizer.vocab_size)]
        return [rng.choice([self.tokenizer.vocab_size, self.tokenizer.vocab_size + 7, 10**9])]

    def noise(self, rng: random.Random) -> list[int]:
        return [token for _ in range(rng.randrange(24)) for token in self.piece(rng)]

    def turn(self, rng: random.Random, role: str | None) -> list[int]:
        """Some well-formed messages; the first without its START and role if the role is given."""
        start, channel, message, constrain, *stops = self.structure
        ids: list[int] = []
        for number in range(rng.randrange(1, 4)):
            if number or role is None:
                ids += [
                    start,
                    *self.encode(
                        rng.choice(["assistant", "assistant", "user", "functions.f", "tool"])
                    ),
                ]
            to = self.encode(" to=functions.f") if rng.random() < 0.4 else []
            if rng.random() < 0.9:
                named = [channel, *self.encode(rng.choice(["analysis", "commentary", "final"]))]
                ids += [*to, *named] if rng.random() < 0.3 else [*named, *to]
            if to and rng.random() < 0.5:
                ids += [*self.encode(" "), constrain, *self.encode("json")]
            ids.append(message)
            for _ in range(rng.randrange(4)):
                ids += rng.choice(self.texts)
            ids.append(rng.choice(stops))
        return ids

    def mutated(self, rng: random.Random, role: str | None) -> list[int]:
        """A turn with a few tokens left out, doubled, moved or put in."""
        ids = self.turn(rng, role)
        for _ in range(rng.randrange(1, 4)):
            at, kind = rng.randrange(len(ids) + 1), rng.randrange(5)
            if kind == 0:
                del ids[at : at + 1]
            elif kind == 1:
                ids[at:at] = ids[at : at + 1]
            elif kind == 2 and at < len(ids):
                ids.insert(rng.randrange(len(ids)), ids.pop(at))
            elif kind == 3:
                ids[at:at] = self.piece(rng)
            else:
                ids[at : at + 1] = self.piece(rng)
        return ids[: rng.randrange(len(ids) + 1)] if rng.random() < 0.1 else ids

    def any(self, rng: random.Random) -> tuple[list[int], str | None]:
        """A stream of some kind, and the role to give to its parser."""
        role = rng.choice(ROLES)
        kind = rng.random()
        if kind < 0.4:
            return self.noise(rng), role
        return self.turn(rng, role) if kind < 0.5 else self.mutated(rng, role), role

    def encode(self, text: str) -> list[int]:
        return _encoded(self.tokenizer, text)


@cache
def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text)


def _is_broken(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return False
