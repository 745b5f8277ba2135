"""Reading a header as the official parser does (oss-harmony 0.0.11), with the wording of its errors.

Knows the official rules only. Special tokens stand in the header as their names, like any other text.
"""

from __future__ import annotations

import re

from ossia.errors import ParseError
from ossia.harmony.header import MessageStart
from ossia.harmony.messages import CHANNEL, CONSTRAIN, Role

# Unicode's White_Space, to which Python's \s and strip() add the separators 1C-1F.
_BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_CHANNEL_VALUE = re.compile(rf"{re.escape(CHANNEL)}([^<{_BLANKS}]*)")
_OUTER_BLANKS = re.compile(rf"^[{_BLANKS}]+|[{_BLANKS}]+$")
_ASCII_BLANKS = re.compile(r"[ \t\n\f\r]+")


def read_strict(data: bytes, role: Role | None) -> MessageStart:
    """The header of one message; `role` if it is already known. Raises ParseError."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ParseError("could not decode header") from None
    channels = _CHANNEL_VALUE.findall(text)
    if channels[:1] == [""]:
        raise ParseError("channel marker present but no channel value found in header")
    text = _OUTER_BLANKS.sub("", _CHANNEL_VALUE.sub("", text))
    words = [word for word in _ASCII_BLANKS.split(text.replace(CONSTRAIN, f" {CONSTRAIN}")) if word]
    name = None
    if role is None:
        role, name, words = _author(words)
    if words and words[0] == role:
        words.pop(0)
    recipient, content_type = _recipient_and_type(words)
    return MessageStart(role, name, channels[0] if channels else None, recipient, content_type)


def _author(words: list[str]) -> tuple[Role, str | None, list[str]]:
    """The author and the words left. A first word that is no role is a tool's name, if it is not alone."""
    if not words:
        raise ParseError("message header did not contain a role")
    first = words[0]
    if first in list(Role):
        return Role(first), "tool" if first == Role.TOOL else None, words
    if len(words) > 1 or first.startswith("to="):
        return Role.TOOL, first, words[1:]
    raise ParseError(f"Unknown role: {first}")


def _recipient_and_type(words: list[str]) -> tuple[str | None, str | None]:
    """From the last words. Raises ParseError if others are left."""
    recipient = content_type = None
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
    """A character as the official message quotes it."""
    plain = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}
    return plain.get(char) or (char if char.isprintable() else f"\\u{{{ord(char):x}}}")
