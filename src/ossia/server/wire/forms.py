"""Files in requests and answers: forms that bring one, and bytes that are to be saved.

Knows HTTP; nothing of whose files they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message
from typing import IO, Any
from urllib.parse import quote

from ossia.server.wire.errors import bad

CHUNK = 1 << 18
FIELDS = 8  # of a form
# whatever a browser is told that these bytes are, it must not run them as a page of ours
SAVED = {
    "Content-Type": "application/octet-stream",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}
BYTES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {"application/octet-stream": {}}}
}


def kind_of(content_type: str) -> str:
    told = Message()
    told["Content-Type"] = content_type
    return told.get_content_type()


def check_form(content_type: str) -> None:
    """Raises `ApiError`. A form may say how its names are written, in any codec that Python has."""
    told = Message()
    told["Content-Type"] = content_type
    if kind_of(content_type) != "multipart/form-data":
        raise bad("send the file itself: multipart/form-data with a part named file", "file")
    charset = str(told.get_param("charset", "utf-8")).lower()
    if charset not in ("utf-8", "utf8"):
        raise bad("a form of this charset is not read: UTF-8 is", "file")


def saved_as(name: str) -> dict[str, str]:
    """Headers of bytes that a browser saves, and never shows."""
    written = quote(name, safe="")
    return SAVED | {"Content-Disposition": f"attachment; filename*=UTF-8''{written}"}


def pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(CHUNK):
            yield piece
