"""Token ids -> messages, one token at a time.

Knows the special tokens and the states of a stream. How a header is read is in header.py, how the
official parser reads (`strict`) in official/parse.py. Works with any tokenizer that has the Harmony
specials. Does no I/O and calls no tool.

The tolerant parser accepts every sequence of tokens. Its promises: 1. it raises nothing because of
tokens, and records what it repaired (the kinds: events.py); 2. body text is never lost, and text
never becomes structure: only special *tokens* are structure; 3. text is shown as `final` only if
the model said so: without a channel it stays None; 4. no call is invented: a recipient must be
written as `to=`, and a header cut by the end gives no call. Between messages stops are ignored; a
channel, content type or body implies `<|start|>assistant`; loose text (before these too, unless it
is a header) becomes a message without a channel, except after RETURN, where it is dropped. In a
body START and CHANNEL end the message, other specials are dropped. The text of a header that ends
without MESSAGE is the body. Unknown ids and bytes that are not UTF-8 become U+FFFD. Every token
costs amortised constant time.
"""

from __future__ import annotations

import codecs
import operator
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import Enum, auto

from ossia.errors import TokenizerError
from ossia.harmony.calls import is_call
from ossia.harmony.events import (
    CallReady,
    ClosedBy,
    Event,
    MessageEnd,
    MessageStart,
    Repair,
    RepairKind,
    TextDelta,
    TurnClosed,
)
from ossia.harmony.header import (
    HeaderReading,
    is_cut_header_word,
    is_speech,
    read_finished,
    read_unfinished,
)
from ossia.harmony.messages import CHANNEL, CONSTRAIN, Message, Role, RoleName, known_role
from ossia.harmony.official.parse import OfficialText, check_end, check_start, read_header
from ossia.tokenizer import Tokenizer

START = "<|start|>"
MESSAGE = "<|message|>"
END = "<|end|>"
CALL = "<|call|>"
RETURN = "<|return|>"
END_OF_TEXT = "<|endoftext|>"
TURN_ENDS: dict[str, ClosedBy] = {
    RETURN: "<|return|>",
    CALL: "<|call|>",
    END_OF_TEXT: "<|endoftext|>",
}
NOT_UTF8 = b"\xff"  # never part of UTF-8


class _State(Enum):
    BETWEEN = auto()
    HEADER = auto()
    BODY = auto()


class _TolerantText:
    """The text of one body: each token's. Half a character waits for its other half."""

    def __init__(self, note: Callable[[RepairKind, str], None]) -> None:
        self.waiting = False
        self._tail = b""
        self._note = note

    def feed(self, data: bytes | None) -> str:
        """The text that a token releases; `data` are its bytes, None if it is an unknown id."""
        text = self._decode(self._tail + (data or b""), final=data is None)
        return text if data is not None else text + "\ufffd"

    def finish(self) -> str:
        return self._decode(self._tail, final=True) if self._tail else ""

    def _decode(self, data: bytes, *, final: bool) -> str:
        try:
            text, used = codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError:
            self._note(RepairKind.INVALID_UTF8, data.hex(" "))
            text, used = codecs.utf_8_decode(data, "replace", final)
        self._tail = data[used:]
        self.waiting = bool(self._tail)
        return text


class StreamParser:
    """`feed` every sampled id, then `finish`. Both return the events that became certain.

    `role`: the role of a completion whose prompt ended with START and that role; None if the stream
    itself begins with START. `strict`: read as the official parser does, and raise ParseError where
    it does, in its words; after an error the parser waits for the next START. Raises HarmonyError
    for an unknown role and TokenizerError if a special is missing.
    """

    def __init__(
        self, tokenizer: Tokenizer, role: RoleName | None = Role.ASSISTANT, *, strict: bool = False
    ) -> None:
        for name in (START, CHANNEL, CONSTRAIN, MESSAGE, END, CALL, RETURN):
            tokenizer.special(name)  # raises if it is missing
        known = None if role is None else known_role(role)
        self._names = {token: name for name, token in tokenizer.specials.items()}
        self._start_token = tokenizer.special(START)
        self._token_bytes = tokenizer.token_bytes
        # Of tokens seen in bodies; "" if they are not whole characters.
        self._text_of: dict[int, str] = {}
        self._strict = strict
        self._position = -1
        self._repairs: list[Repair] = []
        self._messages: list[Message] = []
        self._turn_over = False  # whether a stop token has ended the turn
        self._returned = False  # whether that token allows no text after it
        self._dropped = bytearray()  # the text that came nevertheless, so far
        self._state = _State.BETWEEN
        self._role: Role | None = None  # of the header being read, if known in advance
        self._named = False  # whether a START opened the header being read
        self._loose = False  # whether text opened it
        self._segments: list[tuple[str | None, bytearray]] = []
        self._expect_body(MessageStart(Role.ASSISTANT))
        if known is not None:
            self._open_header(known, named=False)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages that are complete."""
        return tuple(self._messages)

    @property
    def repairs(self) -> list[Repair]:
        return list(self._repairs)

    @property
    def position(self) -> int:
        """The index of the token fed last, -1 before the first; after `finish` the number of
        tokens.
        """
        return self._position

    @property
    def current(self) -> MessageStart | None:
        """The header of the message whose body is being read; None between messages and inside a
        header.
        """
        return self._header if self._state is _State.BODY else None

    @property
    def current_role(self) -> Role | None:
        """The role of the message being read, in its header too if it is known there already."""
        return self._header.role if self._state is _State.BODY else self._role

    def feed(self, ids: int | Iterable[int]) -> list[Event]:
        """The events of one token, or of several.

        Raises ParseError only if strict. The events of this call are then lost; the messages that
        were completed before the error are in `messages`.
        """
        if type(ids) is not int:
            return self._feed_all(ids)
        self._position += 1
        if self._in_text and (text := self._text_of.get(ids)):  # the common case, kept short
            self._parts.append(text)
            return [TextDelta(text, self._header.channel, self._header.recipient)]
        name = self._names.get(ids)
        if self._strict:
            return self._feed_officially(ids, name)
        if name is None:
            return self._feed_text(ids)
        self._note_dropped()
        if name == START:
            out = self._close(None)
            self._open_header(None, named=True)
            return out
        if name in (CHANNEL, CONSTRAIN):
            return self._feed_marker(name)
        if name == MESSAGE:
            return self._feed_message()
        if name == END or name in TURN_ENDS:
            return self._feed_stop(name)
        self._note(RepairKind.RESERVED_TOKEN, name)
        return []

    def finish(self) -> list[Event]:
        """The events of the end of the stream. Raises ParseError if strict and inside a header."""
        self._position += 1
        if self._strict:
            check_end(in_header=self._state is _State.HEADER)
        self._note_dropped()
        return self._close(None, at_end=True)

    def _feed_all(self, ids: Iterable[int] | int) -> list[Event]:
        """For any iterable, and for integers of another type (numpy's, torch's)."""
        try:
            several = iter(ids)  # type: ignore[arg-type]
        except TypeError:
            return self.feed(int(operator.index(ids)))  # type: ignore[arg-type]
        out: list[Event] = []
        for token in several:
            out += self.feed(token if type(token) is int else int(operator.index(token)))
        return out

    # -- tokens of the tolerant reading
    # ----------------------------------------------------------------------

    def _feed_text(self, token: int) -> list[Event]:
        if self._state is _State.BODY:
            return self._feed_body(token)
        data = self._bytes(token) or "\ufffd".encode()
        if self._state is _State.BETWEEN:
            if self._returned:
                self._dropped += data
                return []
            self._open_header(None, named=False, loose=True)
        self._segments[-1][1].extend(data)
        return []

    def _feed_marker(self, name: str) -> list[Event]:
        if self._state is _State.BODY and name == CONSTRAIN:
            self._note(RepairKind.STRAY_TOKEN, name)
            return []
        out = self._close(None) if self._state is _State.BODY else self._close_speech(name)
        if self._state is _State.BETWEEN:
            self._note(RepairKind.MISSING_START, name)
            self._open_header(None, named=False)
        self._segments.append((name, bytearray()))
        return out

    def _feed_message(self) -> list[Event]:
        if self._state is _State.BODY:
            self._note(RepairKind.STRAY_TOKEN, MESSAGE)
            return []
        out = self._close_speech(MESSAGE)
        if self._state is _State.BETWEEN:
            self._note(RepairKind.MISSING_START, MESSAGE)
            self._open_header(None, named=False)
        reading = read_finished(self._texts(), self._role, named=self._named)
        self._note_reading(reading)
        self._expect_body(reading.start)
        self._state = _State.BODY
        return out

    def _close_speech(self, name: str) -> list[Event]:
        """Speech without a header, then a header without START: two messages."""
        if self._state is not _State.HEADER or self._named or len(self._segments) > 1:
            return []
        text = self._segments[0][1].decode("utf-8", "replace")
        # After a role that was given, a header is expected. A channel in the middle of a header is
        # rarer than speech before it.
        in_header = not self._loose and name != CHANNEL
        return self._close(None) if is_speech(text, in_header=in_header) else []

    def _feed_stop(self, name: str) -> list[Event]:
        if self._state is _State.BETWEEN:
            self._note(RepairKind.STRAY_STOP, name)
        out = self._close(name)
        self._returned = self._returned or name in (RETURN, END_OF_TEXT)
        return out + self._turn_end(name)

    # -- the official reading
    # --------------------------------------------------------------------------------

    def _feed_officially(self, token: int, name: str | None) -> list[Event]:
        if self._state is _State.BODY:
            if name in (END, CALL, RETURN):
                return self._close(name) + self._turn_end(name)
            return self._feed_body(token)
        if self._state is _State.BETWEEN:
            check_start(token, self._start_token)
            self._open_header(self._role, named=True)  # an error does not forget the given role
        elif name != MESSAGE:
            self._segments[-1][1].extend(self._bytes(token) or NOT_UTF8)
        else:
            self._state = _State.BETWEEN  # where an error leaves us
            self._expect_body(read_header(bytes(self._segments[0][1]), self._role))
            self._state = _State.BODY
        return []

    # -- messages
    # --------------------------------------------------------------------------------------------

    def _open_header(self, role: Role | None, *, named: bool, loose: bool = False) -> None:
        self._state = _State.HEADER
        self._role = role
        self._named = named
        self._loose = loose
        self._returned = False
        self._turn_over = False
        self._segments = [(None, bytearray())]

    def _expect_body(self, header: MessageStart) -> None:
        self._header = header
        self._role = None
        self._body: OfficialText | _TolerantText
        self._body = OfficialText() if self._strict else _TolerantText(self._note)
        self._parts: list[str] = []
        self._begun = False  # whether MessageStart has been reported
        self._in_text = False  # whether it has, and no half of a character is waiting

    def _feed_body(self, token: int) -> list[Event]:
        data = self._bytes(token)
        out = self._delta(self._body.feed(data))
        self._in_text = self._begun and not self._body.waiting
        if data is not None and token not in self._text_of:
            self._text_of[token] = "" if _is_partial(data) else data.decode()
        return out

    def _delta(self, text: str) -> list[Event]:
        if not text:
            return []
        self._parts.append(text)
        return [*self._begin(), TextDelta(text, self._header.channel, self._header.recipient)]

    def _begin(self) -> list[Event]:
        """MessageStart, if it has not been reported yet. It waits for text, because a header
        without any may be dropped.
        """
        if self._begun:
            return []
        self._begun = True
        return [self._header]

    def _close(self, closed_by: str | None, *, at_end: bool = False) -> list[Event]:
        """Ends the message that is open, if any: by a stop token, by the next START or CHANNEL
        (None), or at the end.
        """
        state = self._state
        self._state = _State.BETWEEN
        self._in_text = False
        if state is _State.BETWEEN:
            return []
        out: list[Event] = []
        if state is _State.HEADER:
            body = self._settle_header(closed_by, at_end)
            if body is None:
                return []
            out += self._delta(body)
        out += self._delta(self._body.finish())
        message = self._message()
        if closed_by is None and not at_end:
            if not message.content:
                self._note_empty()
                return []
            self._note(RepairKind.MISSING_END, "")
        self._messages.append(message)
        out += self._begin()
        out.append(MessageEnd(message, closed_by))
        if is_call(message) and not at_end:
            out.append(CallReady(message))
        return out

    def _message(self) -> Message:
        """The message whose body is complete."""
        head = self._header
        return Message(
            head.role,
            "".join(self._parts),
            head.name,
            head.channel,
            head.recipient,
            head.content_type,
        )

    def _note_empty(self) -> None:
        head = self._header
        fields = (head.role, head.name, head.channel, head.recipient, head.content_type)
        self._note(RepairKind.EMPTY_MESSAGE, " ".join(value for value in fields if value))

    def _turn_end(self, name: str | None) -> list[Event]:
        """TurnClosed, if the token ends a turn and none has ended this one."""
        by = TURN_ENDS.get(name or "")
        if by is None or self._turn_over:
            return []
        self._turn_over = True
        return [TurnClosed(by)]

    def _settle_header(self, closed_by: str | None, at_end: bool) -> str | None:
        """Makes a header that ended without MESSAGE the current one. Returns the body, or None if
        there is no message.
        """
        texts = self._texts()
        reading = read_unfinished(texts, self._role, named=self._named)
        start = reading.start
        body = reading.body
        if at_end and is_cut_header_word(body):
            body = ""
        is_empty_call = start.recipient is not None and closed_by is not None
        if not body and not is_empty_call:
            is_empty_stream = at_end and not self._named and texts == [(None, "")]
            if not is_empty_stream:
                self._note(RepairKind.DROPPED_HEADER, "".join(text for _, text in texts))
            return None
        self._note_reading(reading)
        self._note(RepairKind.MISSING_MESSAGE, body)
        if closed_by is None:
            start = self._cut(start, at_end)
        self._expect_body(start)
        return body

    def _cut(self, start: MessageStart, at_end: bool) -> MessageStart:
        """The fields of a header that was cut: not a call. The answer stays one."""
        if at_end and start.channel == "final":
            self._note(RepairKind.CUT_HEADER, start.channel)
        if start.recipient:
            self._note(RepairKind.CUT_HEADER, start.recipient)
        return replace(start, recipient=None)

    def _texts(self) -> list[tuple[str | None, str]]:
        for _, data in self._segments:
            if _is_partial(data):
                self._note(RepairKind.INVALID_UTF8, data.hex(" "))
        return [(marker, data.decode("utf-8", "replace")) for marker, data in self._segments]

    def _note_reading(self, reading: HeaderReading) -> None:
        if self._loose:
            self._note(RepairKind.MISSING_START, self._segments[0][1].decode("utf-8", "replace"))
        for kind, seen in reading.repairs:
            self._note(kind, seen)

    def _note_dropped(self) -> None:
        """One repair for a run of text, which may cut characters between its tokens."""
        if self._dropped:
            self._note(RepairKind.TEXT_AFTER_RETURN, self._dropped.decode("utf-8", "replace"))
            self._dropped.clear()

    def _note(self, kind: RepairKind, seen: str) -> None:
        self._repairs.append(Repair(self._position, kind, seen))

    def _bytes(self, token: int) -> bytes | None:
        """None for an unknown id."""
        try:
            return self._token_bytes(token)
        except TokenizerError:
            self._note(RepairKind.UNKNOWN_TOKEN, str(token))
            return None


def _is_partial(data: bytes | bytearray) -> bool:
    """Whether the bytes are not whole characters."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return False


def parse_completion(
    tokens: Iterable[int],
    tokenizer: Tokenizer,
    role: RoleName | None = Role.ASSISTANT,
    *,
    strict: bool = False,
) -> tuple[Message, ...]:
    """The messages of a whole stream; see StreamParser."""
    parser = StreamParser(tokenizer, role, strict=strict)
    parser.feed(tokens)
    parser.finish()
    return parser.messages
