"""Reading as the official parser does (oss-harmony 0.0.11): its headers, its errors, its text from
bytes.

Knows the official rules only; the states of a stream are those of the tolerant parser
(harmony/parse.py). In headers and texts special tokens are written as their names, like any other
text.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import deque

from ossia.errors import ParseError
from ossia.harmony.events import MessageStart
from ossia.harmony.messages import CHANNEL, CONSTRAIN, Role

# Unicode's White_Space, to which Python's \s and strip() add the separators 1C-1F.
_BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_CHANNEL_VALUE = re.compile(rf"{re.escape(CHANNEL)}([^<{_BLANKS}]*)")
_OUTER_BLANKS = re.compile(rf"^[{_BLANKS}]+|(?<![{_BLANKS}])[{_BLANKS}]++$")
_ASCII_BLANKS = re.compile(r"[ \t\n\f\r]+")
# Spacing marks that extend a character (Unicode's Other_Grapheme_Extend and viramas), besides all
# of Mn and Me.
_EXTENDING = re.compile(
    "[\u09be\u09d7\u0b3e\u0b57\u0bbe\u0bd7\u0cc0\u0cc2\u0cc7\u0cc8\u0cca\u0ccb\u0cd5\u0cd6\u0d3e"
    "\u0d57\u0dcf\u0ddf\u1715\u1734\u1b35\u1b3b\u1b3d\u1b43\u1b44\u1baa\u1bf2\u1bf3\u302e\u302f"
    "\ua953\ua9c0"
    "\uff9e\uff9f\U000111c0\U00011235\U0001133e\U0001134d\U00011357\U000114b0\U000114bd"
    "\U000115af\U000116b6\U00011930\U0001193d\U00016ff0\U00016ff1\U0001d165\U0001d166"
    "\U0001d16d-\U0001d172]"
)
_REPLACED = "\ufffd"


class OfficialText:
    """The text of one body, released as the official parser releases it.

    A token that is not UTF-8 releases the text up to its first wrong bytes, those as one U+FFFD;
    the rest waits for the next token. An unknown id holds back itself and all that follows, and one
    U+FFFD stands for it. `waiting`: whether anything is held back, so that the next token may
    release more or less than its text.
    """

    def __init__(self) -> None:
        self.waiting = False
        # Texts that end in U+FFFD, one for each of the next tokens.
        self._wrong: deque[str] = deque()
        self._rest: list[str] = []  # the text after them
        self._tail = b""  # the beginning of a character
        self._blocked = False

    def feed(self, data: bytes | None) -> str:
        """The text that a token releases; `data` are its bytes, None if it is an unknown id."""
        self._blocked = self._blocked or data is None
        if data is not None and not self._blocked:
            self._decode(self._tail + data)
        released = self._release()
        self.waiting = bool(self._wrong or self._rest or self._tail or self._blocked)
        return released

    def _release(self) -> str:
        if self._blocked:
            return ""
        return self._wrong.popleft() if self._wrong else self._taken_rest()

    def finish(self) -> str:
        """The rest. (The official parser puts it into the message, but reports it in no delta.)"""
        text = "".join(self._wrong) + self._taken_rest()
        if self._tail:
            text += _REPLACED
        return _REPLACED + text if self._blocked else text  # in this order

    def _decode(self, data: bytes) -> None:
        while True:
            try:
                text, used = codecs.utf_8_decode(data)
            except UnicodeDecodeError as error:
                self._rest.append(data[: error.start].decode() + _REPLACED)
                self._wrong.append(self._taken_rest())
                data = data[error.end :]
            else:
                if text:
                    self._rest.append(text)
                self._tail = data[used:]
                return

    def _taken_rest(self) -> str:
        text = "".join(self._rest)
        self._rest.clear()
        return text


def check_start(token: int, start: int) -> None:
    """Between messages only `start`, the START token, may come. Raises ParseError."""
    if token != start:
        raise ParseError(f"Unexpected token {token} while expecting start token {start}")


def check_end(*, in_header: bool) -> None:
    """At the end of a stream. Raises ParseError inside a header."""
    if in_header:
        raise ParseError("Unexpected EOS while waiting for message header to complete")


def read_header(data: bytes, role: Role | None) -> MessageStart:
    """The header of one message; `role` if it is already known. Raises ParseError."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ParseError("could not decode header") from None
    channels = _CHANNEL_VALUE.findall(text)
    if channels[:1] == [""]:
        raise ParseError("channel marker present but no channel value found in header")
    text = _OUTER_BLANKS.sub("", _CHANNEL_VALUE.sub("", text))
    text = text.replace(CONSTRAIN, f" {CONSTRAIN}")
    words = [word for word in _ASCII_BLANKS.split(text) if word]
    name = None
    if role is None:
        role, name, words = _author(words)
    if words and words[0] == role:
        words.pop(0)
    recipient, content_type = _recipient_and_type(words)
    return MessageStart(role, name, channels[0] if channels else None, recipient, content_type)


def _author(words: list[str]) -> tuple[Role, str | None, list[str]]:
    """The author and the words left. A first word that is not a role is a tool's name, unless it
    is alone.
    """
    if not words:
        raise ParseError("message header did not contain a role")
    first = words[0]
    if first in list(Role):
        name = "tool" if first == Role.TOOL else None
        return Role(first), name, words
    if len(words) > 1 or first.startswith("to="):
        return Role.TOOL, first, words[1:]
    raise ParseError(f"Unknown role: {first}")


def _recipient_and_type(words: list[str]) -> tuple[str | None, str | None]:
    """From the last words. Raises ParseError if others are left."""
    recipient = None
    content_type = None
    if words and words[-1].startswith("to="):
        recipient = words.pop().removeprefix("to=")
    elif len(words) == 1:
        recipient = words.pop()
    elif words:
        content_type = words.pop()
        recipient = words.pop().removeprefix("to=")
    if words:
        rest = "".join(map(_quoted, " ".join(words)))
        raise ParseError(f'unexpected tokens remaining in message header: Some("{rest}")')
    return recipient, content_type


def _quoted(char: str) -> str:
    """A character as the official message quotes it. (It knows a later version of Unicode than
    Python, and leaves the characters unquoted that were added between.)
    """
    plain = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}
    if char in plain:
        return plain[char]
    extends = unicodedata.category(char) in ("Mn", "Me") or _EXTENDING.match(char)
    return char if char.isprintable() and not extends else f"\\u{{{ord(char):x}}}"
