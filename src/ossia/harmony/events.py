"""The results of reading Harmony: the events of a stream, and the repairs that were made.

Plain frozen data; does not know tokens or how they are read. Repairs are for logs and metrics. They
are made by header.py (headers), parse.py (streams) and the callers of calls.py (arguments):

| kind | what was wrong | `seen` |
|---|---|---|
| missing-start | a message began without `<|start|>` | the token or text in its place |
| missing-role | `<|start|>` was not followed by an author | the word that was |
| repeated-role | the role is written twice, or was given and is written again | the word |
| odd-role | a role in other letters or with punctuation: `Assistant`, `assistant.` | the word |
| missing-message | a header ended without `<|message|>`; the text after it is the body | the body |
| missing-end | a body ended by `<|start|>` or `<|channel|>` | nothing |
| empty-message | a header with `<|message|>`, then the next header: left out | its fields |
| dropped-header | a header that nothing followed: left out | its text |
| cut-header | an unfinished header is no call; on final it is the answer | the field |
| dropped-text | mere punctuation where a header or nothing belongs: left out | the text |
| text-after-return | text after the turn's end, up to the next special: left out | the text |
| stray-stop | a stop token between messages | the token |
| stray-token | a control token where it means nothing | the token |
| reserved-token | a special that the format does not use | the token |
| unknown-token | an id outside the vocabulary, now U+FFFD | the id |
| invalid-utf8 | bytes that are not UTF-8, now U+FFFD | the bytes in hex |
| channel-name | an odd channel (`commentary?`), or an unknown one before a known one | the word |
| empty-channel | `<|channel|>` without a name | nothing |
| bare-channel | a channel's name without `<|channel|>` | the word |
| repeated-channel | a second channel: the first counts | the word |
| repeated-recipient | a second `to=`: the first counts | the word |
| empty-recipient | `to=` without a name | nothing |
| spaced-recipient | a blank after `to=` | the name |
| repeated-content-type | a second content type: the first counts | the word |
| empty-content-type | `<|constrain|>` without a word | nothing |
| glued-words | header words without a blank between them | the words |
| junk | a header word that means nothing | the word |
| arguments | a call's JSON arguments, see calls.py | the arguments as they were |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from ossia.harmony.messages import Message, Role

ClosedBy = Literal["<|return|>", "<|call|>", "<|endoftext|>"]


@dataclass(frozen=True)
class MessageStart:
    """The header of a message; as an event: the message has begun."""

    role: Role
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None


@dataclass(frozen=True)
class TextDelta:
    """Text of the message last started. The deltas of a message add up to its content."""

    text: str
    channel: str | None = None
    recipient: str | None = None


@dataclass(frozen=True)
class MessageEnd:
    """The complete message and the name of the token that closed it; None if the next message or
    the end of the stream did.
    """

    message: Message
    closed_by: str | None


@dataclass(frozen=True)
class CallReady:
    """The message that just ended addresses a tool: `calls.is_call`. Not reported if the stream's
    end cut the message.
    """

    message: Message


@dataclass(frozen=True)
class TurnClosed:
    """A stop token ended the turn: text after it would belong to another sample."""

    by: ClosedBy


Event = MessageStart | TextDelta | MessageEnd | CallReady | TurnClosed


class RepairKind(StrEnum):
    """The kinds of repair; the table above says what they mean."""

    MISSING_START = "missing-start"
    MISSING_ROLE = "missing-role"
    REPEATED_ROLE = "repeated-role"
    ODD_ROLE = "odd-role"
    MISSING_MESSAGE = "missing-message"
    MISSING_END = "missing-end"
    EMPTY_MESSAGE = "empty-message"
    DROPPED_HEADER = "dropped-header"
    CUT_HEADER = "cut-header"
    DROPPED_TEXT = "dropped-text"
    TEXT_AFTER_RETURN = "text-after-return"
    STRAY_STOP = "stray-stop"
    STRAY_TOKEN = "stray-token"
    RESERVED_TOKEN = "reserved-token"
    UNKNOWN_TOKEN = "unknown-token"
    INVALID_UTF8 = "invalid-utf8"
    CHANNEL_NAME = "channel-name"
    EMPTY_CHANNEL = "empty-channel"
    BARE_CHANNEL = "bare-channel"
    REPEATED_CHANNEL = "repeated-channel"
    REPEATED_RECIPIENT = "repeated-recipient"
    EMPTY_RECIPIENT = "empty-recipient"
    SPACED_RECIPIENT = "spaced-recipient"
    REPEATED_CONTENT_TYPE = "repeated-content-type"
    EMPTY_CONTENT_TYPE = "empty-content-type"
    GLUED_WORDS = "glued-words"
    JUNK = "junk"
    ARGUMENTS = "arguments"


@dataclass(frozen=True)
class Repair:
    """One repair: its kind, and the text that was wrong.

    `position`: the index of the token at which it was made; at the end of the stream, the number of
    tokens.
    """

    position: int
    kind: RepairKind
    seen: str
