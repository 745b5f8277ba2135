"""Token ids -> messages, one token at a time.

Knows the special tokens and the states of a stream; how a header is read stands in header.py (tolerant) and
strict.py. Works with any tokenizer that has the Harmony specials. Does no I/O and calls no tool.

The tolerant parser accepts every sequence of tokens. Its promises:
1. it raises nothing because of tokens, and records what it repaired;
2. body text is never lost, and text never becomes structure: only special *tokens* are structure;
3. text is shown as `final` only if the model said so: without a channel it stays None;
4. no call is invented: a recipient must be written as `to=`, and a header cut by the end gives no call.
Between messages stops are ignored; a channel, content type or body implies `<|start|>assistant`; loose text
becomes a message without a channel, except after RETURN, where it is dropped. In a body START and CHANNEL end
the message, other specials are dropped. A header that ends without MESSAGE has its text as the body. Unknown
ids and bytes that are not UTF-8 become U+FFFD. Every token costs amortised constant time.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from ossia.errors import HarmonyError, ParseError, TokenizerError
from ossia.harmony.header import (
    HeaderReading,
    MessageStart,
    is_cut_header_word,
    is_speech,
    read_finished,
    read_unfinished,
)
from ossia.harmony.messages import CHANNEL, CONSTRAIN, Message, Role, RoleName
from ossia.harmony.strict import read_strict
from ossia.tokenizer import Tokenizer

START, MESSAGE = "<|start|>", "<|message|>"
END, CALL, RETURN, END_OF_TEXT = "<|end|>", "<|call|>", "<|return|>", "<|endoftext|>"
NO_UTF8 = b"\xff"  # never part of UTF-8: becomes U+FFFD by itself, whatever stands around it


@dataclass(frozen=True)
class TextDelta:
    """Text of the message last started. The deltas of a message add up to its content."""

    text: str
    channel: str | None = None
    recipient: str | None = None


@dataclass(frozen=True)
class MessageEnd:
    """The complete message and the name of the token that closed it, None if the next one or the end did."""

    message: Message
    closed_by: str | None


@dataclass(frozen=True)
class Repair:
    """What the tolerant parser put right: the index of the token at which it did, the kind, the text seen."""

    position: int
    kind: str
    seen: str


Event = MessageStart | TextDelta | MessageEnd


class _State(Enum):
    BETWEEN = auto()
    HEADER = auto()
    BODY = auto()


class StreamParser:
    """`feed` every sampled id, then `finish`. Both return the events that became certain.

    `role`: the role of a completion whose prompt ended with START and that role; None if the stream itself
    begins with START. `strict`: read as the official parser does, and raise ParseError with its wording
    where it does; after an error the parser waits for the next START. Raises HarmonyError for an unknown role
    and TokenizerError if a special is missing.
    """

    def __init__(self, tokenizer: Tokenizer, role: RoleName | None = Role.ASSISTANT, *, strict: bool = False) -> None:
        for name in (START, CHANNEL, CONSTRAIN, MESSAGE, END, CALL, RETURN):
            tokenizer.special(name)  # raises if it is missing
        if role is not None and role not in list(Role):
            raise HarmonyError(f"unknown role {role!r}: use one of {', '.join(Role)}")
        self._names = {token: name for name, token in tokenizer.specials.items()}
        self._start_token = tokenizer.special(START)
        self._token_bytes = tokenizer.token_bytes
        self._strict = strict
        self._position = -1
        self._repairs: list[Repair] = []
        self._messages: list[Message] = []
        self._returned = False  # whether the turn has ended with RETURN
        self._state = _State.BETWEEN
        self._role: Role | None = None  # of the header being read, if known before it is
        self._named = False  # whether a START opened it
        self._segments: list[tuple[str | None, bytearray]] = []
        self._header = MessageStart(Role.ASSISTANT)
        self._begun = False  # whether MessageStart has been reported
        self._parts: list[str] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        if role is not None:
            self._open_header(Role(role), named=False)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages that are complete."""
        return tuple(self._messages)

    @property
    def repairs(self) -> list[Repair]:
        return list(self._repairs)

    @property
    def current(self) -> MessageStart | None:
        """The header of the message whose body is being read; None between messages and inside a header."""
        return self._header if self._state is _State.BODY else None

    def feed(self, token: int) -> list[Event]:
        """The events of one token. Raises ParseError only if strict."""
        self._position += 1
        name = self._names.get(token)
        if self._strict:
            return self._feed_strict(token, name)
        if name is None:
            return self._feed_text(token)
        if name == START:
            out = self._close(None)
            self._open_header(None, named=True)
            return out
        if name in (CHANNEL, CONSTRAIN):
            return self._feed_marker(name)
        if name == MESSAGE:
            return self._feed_message()
        if name in (END, CALL, RETURN, END_OF_TEXT):
            return self._feed_stop(name)
        self._note("reserved-token", name)
        return []

    def finish(self) -> list[Event]:
        """The events of the end of the stream. Raises ParseError if strict and inside a header."""
        self._position += 1
        if self._strict and self._state is _State.HEADER:
            self._state = _State.BETWEEN
            raise ParseError("Unexpected EOS while waiting for message header to complete")
        return self._close(None, at_end=True)

    # -- tokens of the tolerant reading ----------------------------------------------------------------------

    def _feed_text(self, token: int) -> list[Event]:
        data = self._bytes(token)
        if self._state is _State.BODY:
            return self._delta(data)
        if self._state is _State.BETWEEN:
            if self._returned:
                self._note("text-after-return", data.decode("utf-8", "replace"))
                return []
            self._open_header(None, named=False)
        self._segments[-1][1].extend(data)
        return []

    def _feed_marker(self, name: str) -> list[Event]:
        out: list[Event] = []
        if self._state is _State.BODY:
            if name == CONSTRAIN:
                self._note("stray-token", name)
                return []
            out = self._close(None)
        loose = self._state is _State.HEADER and not self._named and len(self._segments) == 1
        if loose and name == CHANNEL and is_speech(self._texts()[0][1]):
            out += self._close(None)  # speech without a header, then a header without START: two messages
        if self._state is _State.BETWEEN:
            self._note("missing-start", name)
            self._open_header(None, named=False)
        self._segments.append((name, bytearray()))
        return out

    def _feed_message(self) -> list[Event]:
        if self._state is _State.BODY:
            self._note("stray-token", MESSAGE)
            return []
        if self._state is _State.BETWEEN:
            self._note("missing-start", MESSAGE)
            self._open_header(None, named=False)
        self._expect_body(self._noted(read_finished(self._texts(), self._role, named=self._named)))
        self._state = _State.BODY
        return []

    def _feed_stop(self, name: str) -> list[Event]:
        if self._state is _State.BETWEEN:
            self._note("stray-stop", name)
        out = self._close(name)
        self._returned = self._returned or name in (RETURN, END_OF_TEXT)
        return out

    # -- the official reading --------------------------------------------------------------------------------

    def _feed_strict(self, token: int, name: str | None) -> list[Event]:
        if self._state is _State.BETWEEN:
            if name != START:
                expected = f"while expecting start token {self._start_token}"
                raise ParseError(f"Unexpected token {token} {expected}")
            self._open_header(None, named=True)
        elif self._state is _State.HEADER and name != MESSAGE:
            self._segments[-1][1].extend(self._bytes(token))
        elif self._state is _State.HEADER:
            self._state = _State.BETWEEN  # where an error leaves us
            self._expect_body(read_strict(bytes(self._segments[0][1]), self._role))
            self._state = _State.BODY
        elif name in (END, CALL, RETURN):
            return self._close(name)
        else:
            return self._delta(self._bytes(token))
        return []

    # -- messages --------------------------------------------------------------------------------------------

    def _open_header(self, role: Role | None, *, named: bool) -> None:
        self._state = _State.HEADER
        self._role, self._named, self._returned = role, named, False
        self._segments = [(None, bytearray())]

    def _expect_body(self, header: MessageStart) -> None:
        self._header, self._begun, self._parts = header, False, []

    def _delta(self, data: bytes, *, final: bool = False) -> list[Event]:
        text = self._decoder.decode(data, final)
        if not text:
            return []
        self._parts.append(text)
        return [*self._begin(), TextDelta(text, self._header.channel, self._header.recipient)]

    def _begin(self) -> list[Event]:
        """MessageStart, if it has not been reported yet: a body may still turn out to be no message."""
        begun, self._begun = self._begun, True
        return [] if begun else [self._header]

    def _close(self, closed_by: str | None, *, at_end: bool = False) -> list[Event]:
        """Ends whatever is open: by a stop token, by the next START or CHANNEL (None), or at the end."""
        state, self._state = self._state, _State.BETWEEN
        if state is _State.BETWEEN:
            return []
        out: list[Event] = []
        if state is _State.HEADER:
            body = self._settle_header(closed_by, at_end)
            if body is None:
                return []
            out += self._delta(body.encode())
        out += self._delta(b"", final=True)
        content, head = "".join(self._parts), self._header
        if closed_by is None and not at_end:
            if not content:
                fields = (head.role, head.name, head.channel, head.recipient, head.content_type)
                self._note("empty-message", " ".join(value for value in fields if value))
                return []
            self._note("missing-end", "")
        message = Message(head.role, content, head.name, head.channel, head.recipient, head.content_type)
        self._messages.append(message)
        return [*out, *self._begin(), MessageEnd(message, closed_by)]

    def _settle_header(self, closed_by: str | None, at_end: bool) -> str | None:
        """Makes the header of a message without MESSAGE the current one; its body, or None for no message."""
        reading = read_unfinished(self._texts(), self._role, named=self._named)
        start, body = self._noted(reading), reading.body
        if at_end and is_cut_header_word(body):
            body = ""
        is_call = start.recipient is not None and closed_by is not None
        if not body and not is_call:
            self._note("dropped-header", "".join(text for _, text in self._texts()))
            return None
        if closed_by is None:  # cut: not a call, and at the end not an answer either
            channel = None if at_end and start.channel == "final" else start.channel
            start = MessageStart(start.role, start.name, channel, None, start.content_type)
        self._note("missing-message", body)
        self._expect_body(start)
        return body

    def _texts(self) -> list[tuple[str | None, str]]:
        return [(marker, data.decode("utf-8", "replace")) for marker, data in self._segments]

    def _noted(self, reading: HeaderReading) -> MessageStart:
        for kind, seen in reading.repairs:
            self._note(kind, seen)
        return reading.start

    def _note(self, kind: str, seen: str) -> None:
        self._repairs.append(Repair(self._position, kind, seen))

    def _bytes(self, token: int) -> bytes:
        try:
            return self._token_bytes(token)
        except TokenizerError:
            self._note("unknown-token", str(token))
            return NO_UTF8


def parse_completion(
    tokens: Iterable[int],
    tokenizer: Tokenizer,
    role: RoleName | None = Role.ASSISTANT,
    *,
    strict: bool = False,
) -> tuple[Message, ...]:
    """The messages of a whole stream; see StreamParser."""
    parser = StreamParser(tokenizer, role, strict=strict)
    for token in tokens:
        parser.feed(token)
    parser.finish()
    return parser.messages


def resolve_recipient(recipient: str | None, tool_names: Iterable[str]) -> str | None:
    """The declared tool a recipient means, or None: then the model should be told that there is no such tool.

    Accepts `functions.f` and `f`, with control words or blanks leaked behind them (`f<|channel|>commentary`).
    A name of a built-in tool (`python`, `browser.search`) resolves if it is among `tool_names`.
    """
    if recipient is None:
        return None
    names = set(tool_names)
    words = recipient.split("<|", 1)[0].split()
    full = words[0] if words else ""
    for name in (full, full.removeprefix("functions."), f"functions.{full}"):
        if name in names:
            return name
    return None
