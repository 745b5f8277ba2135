"""Reading a message header tolerantly: its markers and words in, the header's fields and left-over
text out.

Knows the header grammar and the ways in which models get it wrong; does not know tokens or streams.
Raises nothing. Here is also which words of a header read back as they are written, and how another
one is quoted: as a JSON string with its blanks and brackets escaped.

A header is a list of segments `(marker, text)`: a special token's name (CHANNEL or CONSTRAIN, None
for the first segment and only for it) and the text after it. A header is *finished* if a MESSAGE
token followed. If none did, the model forgot it: then only unmistakable header words count as
header, and the text after them is the body, because body text must never be lost, nor text become
structure.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Literal

from ossia.harmony.events import MessageStart, RepairKind
from ossia.harmony.messages import CHANNEL, CONSTRAIN, DEFAULT_CHANNELS, Role

Segment = tuple[str | None, str]
Noted = tuple[RepairKind, str]  # a repair's kind, and the text that was wrong

CHANNELS = DEFAULT_CHANNELS
TYPES = ("json", "code", "text")  # content types that models write without CONSTRAIN
TO = "to="
LONGEST_KEPT = 256  # characters of a word whose written form is kept

_WORD = re.compile(r"\S+")
_ROLES = re.compile(rf"(?P<role>{'|'.join(Role)})(?:(?P=role))*")
_PIECE = "|".join((*CHANNELS, *TYPES))
_HEADER_WORD = re.compile(rf"(?:{_PIECE})*(?:{TO}.*)?", re.DOTALL)
_PIECES = re.compile(rf"{TO}.*|{_PIECE}", re.DOTALL)
_LETTERS = re.compile(r"[^\W_]+")
_MIME = re.compile(r"[a-zA-Z][\w.+-]*/[\w.+-]+")  # a content type that is written bare
_UNREADABLE = re.compile(r"[\s<{\[(\x7f-\x9f]")  # inside a quoted word
_CORE = re.compile(r"\w(?:.*\w)?", re.DOTALL)  # without the punctuation around it
_NAME_END = re.compile(r"[{\[(]")  # in a recipient: where arguments begin
# At the head of body text: a channel, perhaps repeated or with stray punctuation, not the start of
# a word.
_CHANNEL_HEAD = re.compile(
    r"\s*(analysis|commentary|final)(?:[^\w\s]*(?:analysis|commentary|final))*(?!\w)"
)
# The same glued to the text, as in `analysisWe`. Not of `final`: that text would be shown as the
# answer.
_GLUED_HEAD = re.compile(
    r"\s*(analysis|commentary)(?:[^\w\s]*(?:analysis|commentary))*(?=([^\W_]))"
)
_TYPE_HEAD = re.compile(rf"\s*({'|'.join(TYPES)})(?!\w)")
_TO_HEAD = re.compile(rf"\s*{TO}([^\s{{\[(]*)")


@dataclass(frozen=True)
class HeaderReading:
    """The fields of a header, the text after it (unfinished headers only), and the repairs."""

    start: MessageStart
    body: str
    repairs: tuple[Noted, ...]


def read_finished(segments: Sequence[Segment], role: Role | None, *, named: bool) -> HeaderReading:
    """A header closed by MESSAGE. `role`: the one already known; `named`: a START token opened the
    header, so its first word must be the author. Words without a meaning here are left out.
    """
    fields = _Fields(role)
    for n, (marker, text) in enumerate(segments):
        if marker == CHANNEL:
            words = fields.take_channel(text.split())
        elif marker == CONSTRAIN:
            words = fields.take_constrained(text.split())
        else:
            if text[-1:] == " " and segments[n + 1 :]:
                text = _before(segments[n + 1], text)
            words = fields.take_author(text, named)
        fields.take_words(words)
    return fields.reading("")


def _before(following: Segment, text: str) -> str:
    """The text without the blank that is written before CONSTRAIN: it is no part of a name."""
    return text[:-1] if following[0] == CONSTRAIN else text


def read_unfinished(
    segments: Sequence[Segment], role: Role | None, *, named: bool
) -> HeaderReading:
    """A header that ended without MESSAGE. After the unmistakable header words, all text is `body`,
    verbatim except for leading blanks; a body of mere punctuation is dropped.
    """
    fields = _Fields(role)
    cursor = 0
    index = 0
    for index, (marker, text) in enumerate(segments):
        is_header = True
        if marker is None:
            marker_follows = index + 1 < len(segments)
            cursor = fields.skip_author(text, named, marker_follows)
        else:
            cursor, is_header = fields.skip_marked(marker, text)
        cursor = fields.skip_recipients(text, cursor)
        if not is_header or text[cursor:].strip():
            break
    for marker, _ in segments[index + 1 :]:
        fields.note(RepairKind.STRAY_TOKEN, str(marker))
    body = segments[index][1][cursor:]
    body += "".join(text for _, text in segments[index + 1 :])
    if cursor or index:
        body = body.lstrip()
    if body and is_only_punctuation(body):
        fields.note(RepairKind.DROPPED_TEXT, body)
        body = ""
    return fields.reading(body)


Field = Literal["name", "author", "channel", "recipient", "content_type", "constrained"]


def written(field: Field, text: str) -> str:
    """A word of a header: `text`, in quotes unless it reads back without. `name` follows a role and
    a colon, `author` is a tool's, `constrained` a content type after CONSTRAIN.
    """
    # clients choose the words: some thousands are kept, and none that takes much memory
    return _kept(field, text) if len(text) <= LONGEST_KEPT else _quoted(field, text)


def _quoted(field: Field, text: str) -> str:
    is_quoted = _unquoted(text) != text
    if not text or (not is_quoted and _is_plain(field, text)):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNREADABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


_kept = lru_cache(maxsize=4096)(_quoted)


def _is_plain(field: Field, text: str) -> bool:
    if field == "name":
        return _split_name(text) == (text, "")
    if text.split() != [text] or text[0] == '"':
        return False
    match field:
        case "author":
            roles = _ROLES.match(text)
            rest = text[roles.end() :] if roles else text
            word = text.strip(":").lower()
            if word in list(Role) or rest[:1] == ":":
                return False
            return text[0].isalnum() and not _is_header_word(rest)
        case "recipient":
            return _NAME_END.search(text) is None
        case "channel" | "constrained":
            if text.startswith(TO):
                return False
            if _PIECES.findall(text) not in ([], [text]):
                return False
            meant = None if field == "constrained" else _known_channel(text)
            return meant in (None, text)
    return _is_type(text)


def _split_name(text: str) -> tuple[str, str]:
    """The name after a role and a colon, blanks in it included, and the words that follow it."""
    name, to, rest = text.partition(f" {TO}")
    if to:
        return name, TO + rest
    before, blank, last = text.rpartition(" ")
    if blank and _is_type(last):
        return before, last
    return text, ""


def _is_type(word: str) -> bool:
    """Whether a bare word is a content type wherever it stands."""
    if word in TYPES or _MIME.fullmatch(word):
        return True
    return _unquoted(word) != word


def _unquoted(word: str) -> str:
    """The text of a quoted word; any other word as it is."""
    if len(word) < 2 or not word[0] == word[-1] == '"':
        return word
    try:
        return str(json.loads(word))
    except ValueError:
        return word


def is_only_punctuation(text: str) -> bool:
    """Whether the text is not worth keeping: only blanks, control characters and punctuation
    without brackets (`{}` may be a call's arguments).
    """
    kinds = {unicodedata.category(char) for char in text}
    brackets = {"Ps", "Pe"}
    return not kinds & brackets and all(kind[0] in "PZC" for kind in kinds)


def is_speech(text: str, *, in_header: bool = False) -> bool:
    """Whether text before a header's first marker is speech: it has a word that is not a header
    word, and no recipient before that. `in_header`: a header is expected, so words after a header
    word belong to it, be it as junk.
    """
    for number, word in enumerate(text.split()):
        if _is_header_word(word) or (number == 0 and _is_named_author(word)):
            if in_header or TO in word:
                return False
        elif not is_only_punctuation(word):
            return True
    return False


def is_cut_header_word(text: str) -> bool:
    """Whether text at the end of a stream is the beginning of a header word."""
    words = (*Role, *CHANNELS, *TYPES, TO)
    return any(word.startswith(text.strip()) for word in words)


def _is_header_word(word: str) -> bool:
    roles = _ROLES.match(word)
    return _HEADER_WORD.fullmatch(word, roles.end() if roles else 0) is not None


def _is_named_author(word: str) -> bool:
    """Whether it is a role with a name: `user:ann`."""
    roles = _ROLES.match(word)
    return roles is not None and word[roles.end() :].startswith(":")


def _known_channel(word: str) -> str | None:
    """The channel meant by a word after CHANNEL: `commentary?`, `finalx` and `comment` are
    recognised.
    """
    letters = _LETTERS.search(word)
    core = ""
    if letters:
        core = letters[0].lower()
    for name in CHANNELS:
        if core.startswith(name) or (len(core) >= 4 and name.startswith(core)):
            return name
    return None


def _channel_head(text: str) -> re.Match[str] | None:
    """The channel at the head of body text. A letter glued to it must not continue the word, as in
    `analysis` + `es`: only small letters do.
    """
    head = _CHANNEL_HEAD.match(text)
    if head:
        return head
    glued = _GLUED_HEAD.match(text)
    return glued if glued and not glued[2].islower() else None


@dataclass
class _Fields:
    """The fields of a header, as far as it is read. The first of each wins, except that a known
    channel wins over an unknown one.
    """

    role: Role | None
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    repairs: list[Noted] = field(default_factory=list)

    def note(self, kind: RepairKind, seen: str) -> None:
        self.repairs.append((kind, seen))

    def reading(self, body: str) -> HeaderReading:
        role = self.role or Role.ASSISTANT
        name = self.name or None
        if role is Role.TOOL and name is None:
            name = str(Role.TOOL)  # without a name it could not be rendered
        start = MessageStart(role, name, self.channel, self.recipient, self.content_type)
        return HeaderReading(start, body, tuple(self.repairs))

    # -- finished headers: word by word
    # --------------------------------------------------------------------

    def take_author(self, text: str, named: bool) -> list[str]:
        """Reads the author from the first word, or from more if a name has blanks in it, and
        returns the words that are left. Without a START there need not be one; only a role is
        recognised then, and only the one known, if one is known.
        """
        words = text.split()
        first = words[0] if words else ""
        roles = _ROLES.match(first)
        if roles and self.role in (None, roles["role"]):
            rest = first[roles.end() :]
            if rest[:1] == ":":
                after = text.partition(":")[2]
                name, left = _split_name(after)
                self._take_role(f"{roles[0]}:{name}", roles)
                return left.split()
            if _is_header_word(rest):
                rest = self._take_role(first, roles)
                return [rest, *words[1:]] if rest else words[1:]
        if not named:
            return words
        if not words or _is_header_word(first):
            self.note(RepairKind.MISSING_ROLE, first)
            return words
        if first[0] == '"' and _unquoted(first) != first:
            self.role = Role.TOOL
            self.name = _unquoted(first)
            return words[1:]
        core = _CORE.search(first)
        bare = core[0].lower() if core else ""
        if bare in list(Role):
            self.note(RepairKind.ODD_ROLE, first)
            self.role = Role(bare)
        else:
            self.role = Role.TOOL
            self.name = first
        return words[1:]

    def _take_role(self, word: str, roles: re.Match[str]) -> str:
        """Reads a role, repeated or not, and the name after it. Returns the rest of the word."""
        if self.role is not None or roles.end() > len(roles["role"]):
            self.note(RepairKind.REPEATED_ROLE, word)
        self.role = Role(roles["role"])
        rest = word[roles.end() :]
        if not rest.startswith(":"):
            return rest
        self.name = _unquoted(rest[1:]) or None
        if self.name is None:
            self.note(RepairKind.ODD_ROLE, word)
        return ""

    def take_channel(self, words: list[str]) -> list[str]:
        """Reads the name after a CHANNEL and returns the words that are left."""
        words = self._unglued(words)
        if not words or words[0].startswith(TO):
            self.note(RepairKind.EMPTY_CHANNEL, "")
            return words
        word = words[0]
        known = _known_channel(word)
        if word[0] == '"':
            word = _unquoted(word)
            known = None
        if self.channel is None or (known and self.channel not in CHANNELS):
            if self.channel is not None or known not in (None, word):
                self.note(RepairKind.CHANNEL_NAME, self.channel or word)
            self.channel = known or word
        else:
            self.note(RepairKind.REPEATED_CHANNEL, word)
        return words[1:]

    def take_constrained(self, words: list[str]) -> list[str]:
        """Reads the content type after a CONSTRAIN and returns the words that are left."""
        words = self._unglued(words)
        if not words or words[0].startswith(TO):
            self.note(RepairKind.EMPTY_CONTENT_TYPE, "")
            return words
        self.take_type(CONSTRAIN + _unquoted(words[0]))
        return words[1:]

    def take_type(self, value: str) -> None:
        if self.content_type is None:
            self.content_type = value
        else:
            self.note(RepairKind.REPEATED_CONTENT_TYPE, value)

    def take_words(self, words: list[str]) -> None:
        """Reads words that are neither first nor directly after a marker."""
        name_due = False  # whether the word before was `to=` alone
        for raw in words:
            for word in self._unglued([raw]):
                if name_due and self.recipient is None and not _is_header_word(word):
                    self.note(RepairKind.SPACED_RECIPIENT, word)
                    self.take_recipient(word)
                else:
                    self._take_word(word)
                name_due = word == TO

    def _take_word(self, word: str) -> None:
        if word.startswith(TO):
            self.take_recipient(word.removeprefix(TO))
        elif word in TYPES:
            self.take_type(word)
        elif _is_type(word):
            self.take_type(_unquoted(word))
        elif word in CHANNELS and self.channel not in CHANNELS:
            if self.channel is not None:
                self.note(RepairKind.CHANNEL_NAME, self.channel)
            self.channel = word
            self.note(RepairKind.BARE_CHANNEL, word)
        else:
            self.note(RepairKind.JUNK, word)

    def take_recipient(self, name: str) -> None:
        """The first recipient counts; an empty one does not."""
        end = _NAME_END.search(name)
        if end:
            self.note(RepairKind.JUNK, name[end.start() :])
            name = name[: end.start()]
        if name[:1] == '"':
            name = _unquoted(name)
        if not name:
            self.note(RepairKind.EMPTY_RECIPIENT, "")
        elif self.recipient is None:
            self.recipient = name
        else:
            self.note(RepairKind.REPEATED_RECIPIENT, TO + name)

    def _unglued(self, words: list[str]) -> list[str]:
        """The words, the first one split into the header words that it consists of: `finaljson`,
        `commentaryto=f`.
        """
        if not words or not _HEADER_WORD.fullmatch(words[0]):
            return words
        pieces = _PIECES.findall(words[0])
        if len(pieces) > 1:
            self.note(RepairKind.GLUED_WORDS, words[0])
        return pieces + words[1:]

    # -- unfinished headers: position by position
    # ----------------------------------------------------------

    def skip_author(self, text: str, named: bool, marker_follows: bool) -> int:
        """The position after the author. A first word that may be speech counts only if the header
        continues after it.
        """
        words = list(islice(_WORD.finditer(text), 2))
        if not words:
            return 0
        word = words[0].group()
        end = words[0].end()
        header_follows = marker_follows
        if len(words) > 1:
            header_follows = words[1].group().startswith(TO)
        roles = _ROLES.match(word)
        rest = word[roles.end() :] if roles else ""
        if roles and (named or header_follows) and (not rest or rest[0] == ":"):
            self.role = Role(roles["role"])
            self.name = rest[1:] or None
            return end
        if named and header_follows and not _is_header_word(word):
            self.role = Role.TOOL
            self.name = word
            return end
        return 0

    def skip_marked(self, marker: str, text: str) -> tuple[int, bool]:
        """The position after the word that a marker announces; False if there is other text."""
        head = _channel_head(text) if marker == CHANNEL else _TYPE_HEAD.match(text)
        if head is None:
            return 0, not text.strip()
        if marker == CONSTRAIN:
            self.take_type(CONSTRAIN + head[1])
        elif self.channel is None:
            self.channel = head[1]
        else:
            self.note(RepairKind.REPEATED_CHANNEL, head[1])
        return head.end(), True

    def skip_recipients(self, text: str, cursor: int) -> int:
        """The position after recipients, each perhaps with a bare content type next to it."""
        while (to := _TO_HEAD.match(text, cursor)) is not None:
            self.take_recipient(to[1])
            bare = _TYPE_HEAD.match(text, to.end())
            if bare is not None:
                self.take_type(bare[1])
            cursor = to.end() if bare is None else bare.end()
        return cursor
