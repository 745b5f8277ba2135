"""Reading a message header tolerantly: its markers and words in, the header's fields and left-over text out.

Knows the header grammar and the ways in which models get it wrong; nothing of tokens or streams. Raises
nothing.

A header is a list of segments `(marker, text)`: a special token's name (CHANNEL or CONSTRAIN, None for the
first segment) and the text behind it. A header is *finished* if a MESSAGE token followed. If none did, the
model forgot it: then only what is unmistakably header counts as such, and the text behind it is the body,
because body text must never be lost, nor text become structure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from ossia.harmony.messages import CHANNEL, CONSTRAIN, DEFAULT_CHANNELS, Role

Segment = tuple[str | None, str]
Repair = tuple[str, str]  # kind, what was seen

CHANNELS = DEFAULT_CHANNELS
TYPES = ("json", "code", "text")  # content types that models write without CONSTRAIN
TO = "to="

_WORD = re.compile(r"\S+")
_ROLES = re.compile(rf"(?P<role>{'|'.join(Role)})(?:(?P=role))*")
# At the head of body text: a channel, perhaps repeated or with stray punctuation, not the start of a word.
_CHANNEL_HEAD = re.compile(r"\s*(analysis|commentary|final)(?:[^\w\s]*(?:analysis|commentary|final))*(?!\w)")
_TYPE_HEAD = re.compile(rf"\s*({'|'.join(TYPES)})(?!\w)")
_TO_HEAD = re.compile(rf"\s*{TO}([^\s{{]*)")


@dataclass(frozen=True)
class MessageStart:
    """The header of a message; as an event: the message has begun."""

    role: Role
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None


@dataclass(frozen=True)
class HeaderReading:
    """What a header says, the text behind it (unfinished headers only), and what was repaired."""

    start: MessageStart
    body: str
    repairs: tuple[Repair, ...]


def read_finished(segments: Sequence[Segment], role: Role | None, *, named: bool) -> HeaderReading:
    """A header closed by MESSAGE. `role`: the one already known; `named`: a START token opened the header, so
    its first word must be the author. Words that mean nothing here are left out."""
    fields = _Fields(role)
    for marker, text in segments:
        words = text.split()
        if marker == CHANNEL:
            fields.take_channel(words.pop(0) if words else "")
        elif marker == CONSTRAIN:
            fields.take_type(CONSTRAIN + (words.pop(0) if words else ""))
        elif named:
            words = fields.take_author(words)
        elif words and words[0] in ([fields.role] if fields.role else list(Role)):
            fields.role = Role(words.pop(0))
        for word in words:
            fields.take_word(word)
    return fields.reading("")


def read_unfinished(segments: Sequence[Segment], role: Role | None, *, named: bool) -> HeaderReading:
    """A header that ended without MESSAGE. After the unmistakable header words, all text is `body`, verbatim
    but for the blanks in front; a body of mere punctuation is dropped."""
    fields = _Fields(role)
    cursor, index = 0, 0
    for index, (marker, text) in enumerate(segments):
        marker_follows = index + 1 < len(segments)
        if marker is None:
            cursor, whole = fields.skip_author(text, named, marker_follows), True
        else:
            cursor, whole = fields.skip_marked(marker, text)
        cursor = fields.skip_recipient(text, cursor)
        if not whole or text[cursor:].strip():
            break
    body = segments[index][1][cursor:] + "".join(text for _, text in segments[index + 1 :])
    if cursor or index:
        body = body.lstrip()
    if body and is_only_punctuation(body):
        fields.note("dropped-text", body)
        body = ""
    return fields.reading(body)


def is_only_punctuation(text: str) -> bool:
    """Whether nothing in the text is worth keeping: only blanks, control characters and punctuation that is
    not a bracket (`{}` may be a call's arguments)."""
    kinds = {unicodedata.category(char) for char in text}
    return all(kind[0] in "PZC" and kind not in ("Ps", "Pe") for kind in kinds)


def is_speech(text: str) -> bool:
    """Whether text in front of a header's first marker holds other words than header words."""
    return any(not _is_header_word(word) for word in text.split() if not is_only_punctuation(word))


def is_cut_header_word(text: str) -> bool:
    """Whether text at the end of a stream is the beginning of a header word."""
    return any(word.startswith(text.strip()) for word in (*Role, *CHANNELS, *TYPES, TO))


def _is_header_word(word: str) -> bool:
    roles = _ROLES.match(word)
    rest = word[roles.end() :] if roles else word
    return not rest or rest in CHANNELS or rest in TYPES or rest.startswith(TO)


def _known_channel(word: str) -> str | None:
    """The channel meant by a word after CHANNEL: `commentary?`, `finalx` and `comment` are recognised."""
    for name in CHANNELS:
        if word.startswith(name) or (len(word) >= 4 and name.startswith(word)):
            return name
    return None


@dataclass
class _Fields:
    """The fields of a header as far as read. The first of each wins, but a known channel over an unknown."""

    role: Role | None
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    repairs: list[Repair] = field(default_factory=list)

    def note(self, kind: str, seen: str) -> None:
        self.repairs.append((kind, seen))

    def reading(self, body: str) -> HeaderReading:
        role = self.role or Role.ASSISTANT
        start = MessageStart(role, self.name, self.channel, self.recipient, self.content_type)
        return HeaderReading(start, body, tuple(self.repairs))

    # -- finished headers: word by word --------------------------------------------------------------------

    def take_author(self, words: list[str]) -> list[str]:
        """Reads the author from the first word and returns the words that are left."""
        first = words[0] if words else ""
        roles = _ROLES.match(first)
        rest = first[roles.end() :] if roles else first
        if roles and (not rest or rest[0] == ":" or _is_header_word(rest)):
            self.role = Role(roles["role"])
            if roles.end() > len(self.role):
                self.note("repeated-role", first)
            if rest.startswith(":"):
                self.name, rest = rest[1:], ""
            elif self.role is Role.TOOL:
                self.name = first[: roles.end()]
            return [rest, *words[1:]] if rest else words[1:]
        if not words or _is_header_word(first):
            self.note("missing-role", first)
            return words
        self.role, self.name = Role.TOOL, first
        return words[1:]

    def take_channel(self, word: str) -> None:
        name, to, recipient = word.partition(TO)
        known = _known_channel(name)
        if to and known:
            self.note("glued-words", word)
            self.take_word(to + recipient)
            word = name
        if not word:
            self.note("empty-channel", "")
        elif self.channel is None or (known and self.channel not in CHANNELS):
            if self.channel is not None or known not in (None, word):
                self.note("channel-name", self.channel or word)
            self.channel = known or word
        else:
            self.note("repeated-channel", word)

    def take_type(self, value: str) -> None:
        if self.content_type is None:
            self.content_type = value
        else:
            self.note("repeated-content-type", value)

    def take_word(self, word: str) -> None:
        """Any word that stands neither first nor behind a marker."""
        if word.startswith(TO):
            if self.recipient is None:
                self.recipient = word.removeprefix(TO)
            else:
                self.note("repeated-recipient", word)
        elif word in TYPES:
            self.take_type(word)
        elif word in CHANNELS and self.channel is None:
            self.channel = word
            self.note("bare-channel", word)
        else:
            self.note("junk", word)

    # -- unfinished headers: position by position ----------------------------------------------------------

    def skip_author(self, text: str, named: bool, marker_follows: bool) -> int:
        """Behind the author; a first word that may be speech counts only where a header goes on behind it."""
        words = list(islice(_WORD.finditer(text), 2))
        if not words:
            return 0
        word, end = words[0].group(), words[0].end()
        header_follows = words[1].group().startswith(TO) if len(words) > 1 else marker_follows
        roles = _ROLES.match(word)
        rest = word[roles.end() :] if roles else ""
        if roles and (named or header_follows) and (not rest or rest[0] == ":"):
            self.role, self.name = Role(roles["role"]), rest[1:] or None
            return end
        if named and header_follows and not _is_header_word(word):
            self.role, self.name = Role.TOOL, word
            return end
        return 0

    def skip_marked(self, marker: str, text: str) -> tuple[int, bool]:
        """Behind the word a marker announces; False if there is text but not that word."""
        head = (_CHANNEL_HEAD if marker == CHANNEL else _TYPE_HEAD).match(text)
        if head is None:
            return 0, not text.strip()
        if marker == CHANNEL:
            self.channel = self.channel or head[1]
        else:
            self.content_type = self.content_type or CONSTRAIN + head[1]
        return head.end(), True

    def skip_recipient(self, text: str, cursor: int) -> int:
        """Behind a recipient and a bare content type next to it."""
        to = _TO_HEAD.match(text, cursor)
        if to is None:
            return cursor
        self.recipient = to[1] if self.recipient is None else self.recipient
        bare = _TYPE_HEAD.match(text, to.end())
        if bare is None:
            return to.end()
        self.content_type = self.content_type or bare[1]
        return bare.end()
