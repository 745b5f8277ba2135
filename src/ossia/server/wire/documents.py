"""Documents in messages: what is text becomes text, and of a PDF its text, before messages are
read.

Knows the parts that hold files in every API; nothing of what messages mean. A PDF is read by a
process of its own (`tools/pdf.py`), two at a time, one of a caller, each with limits of time and
memory; a request has so many seconds for all of its own, and so many characters for documents of
every kind. A text that was read lately is kept: every turn sends it again. Where code runs, files
are also put where it finds them (`Shelf`), and the model reads the beginning of a long one.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import importlib.util
import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from cachetools import LRUCache

from ossia.errors import ContainerError
from ossia.server.access import whose_turn
from ossia.server.places import Places
from ossia.server.wire.content import RESULTS, UNSUPPORTED, text_of
from ossia.server.wire.errors import ApiError
from ossia.server.wire.fields import At
from ossia.tools.confined import PDF, run_confined

SECONDS = 20.0  # for the PDFs of a request, waiting for others not counted
AT_ONCE = 2
KEPT = 16 << 20  # bytes of texts
RESTING = 2 << 20  # bytes of them that stay while nothing is asked
ROOM = 4 << 20  # characters of a request's documents: several times what a context holds
SHOWN = 20_000  # characters of a file that the model reads, if code can open it
BEGINNING = 2000  # that it reads of a longer one
NOT_TEXT = "(it is not text: open it with code)"
GONE = b"(this file has been deleted)"
LEFT_OUT = "[... {} more characters: open the file with code]"
HAS_DATA = "send the file itself, as base64: this server fetches nothing"
NO_CODE = (
    "is for code, and none runs for this request: declare code_execution, which the server must "
    "have been started with (--tools python)"
)
NO_READER = "is a PDF, which needs pypdf to be read: pip install 'ossia[tools]'"


class Shelf(Protocol):
    """Where files of a request come from and go to."""

    def named(self, id: str) -> tuple[str, bytes]:
        """Name and bytes of a file that was sent before. Raises `ContainerError`."""
        ...

    def put(self, file: Sent) -> str | None:
        """The path under which code finds it; None where no code runs."""
        ...


@dataclass(frozen=True)
class Sent:
    """A file of a request. `id`: by which it is named, if it was sent before. `is_gone`: there is
    none any more, and `data` says so.
    """

    name: str
    data: bytes = field(repr=False)
    id: str = ""
    is_gone: bool = False


class Texts:
    """Of PDFs that were read lately, by their digests; those used last. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: LRUCache[bytes, str] = LRUCache(KEPT, getsizeof=sys.getsizeof)

    def get(self, digest: bytes) -> str | None:
        with self._lock:
            return self._kept.get(digest)

    def add(self, digest: bytes, text: str) -> None:
        with self._lock, suppress(ValueError):  # larger than all that is kept
            self._kept[digest] = text

    def shrink(self, most: int) -> None:
        """To so many bytes, for now."""
        with self._lock:
            while self._kept.currsize > most:
                self._kept.popitem()


class Documents:
    """One per application."""

    def __init__(self) -> None:
        self._readers = Places(AT_ONCE)
        self._texts = Texts()

    def rest(self) -> None:
        """Nothing has been asked for a while. Any thread may call it."""
        self._texts.shrink(RESTING)

    def visit(self, shelf: Shelf | None = None) -> Visit:
        """For one request."""
        return Visit(self._readers, self._texts, shelf)


class Visit:
    """One request. `left`: seconds for its PDFs; `room_left`: characters for its documents."""

    def __init__(self, readers: Places, texts: Texts, shelf: Shelf | None = None) -> None:
        self.readers = readers
        self.texts = texts
        self.shelf = shelf
        self.left = SECONDS
        self.room_left = ROOM
        self._are_kept = False

    async def read(
        self, messages: Sequence[Mapping[str, Any]], path: str, *, are_kept: bool = False
    ) -> list[dict[str, Any]]:
        """The messages, or items, with texts for documents. Raises `ApiError` naming the part that
        cannot be read; in a tool's result such a part stays: it is no mistake of the client's.
        `are_kept`: they were read when they came, and a file that they name may be gone since.
        """
        self._are_kept = are_kept
        read = []
        for n, message in enumerate(messages):
            lenient = message.get("role") in RESULTS
            read.append(await self._holder(At(message, f"{path}[{n}]"), lenient=lenient))
        return read

    async def _holder(self, holder: At, *, lenient: bool) -> dict[str, Any]:
        """A message, an item, or a result in a message."""
        out = dict(holder.value)
        for key in ("content", "output"):
            if isinstance(out.get(key), list):
                parts = holder[key].items()
                is_lenient = lenient or key == "output"
                out[key] = [await self._part(part, lenient=is_lenient) for part in parts]
        return out

    async def _part(self, part: At, *, lenient: bool) -> Any:
        if not isinstance(part.value, Mapping):
            return part.value
        match part["type"].value:
            case "tool_result":
                return await self._holder(part, lenient=True)
            case "document" | "input_file" | "file" | "container_upload":
                try:
                    text = await self._document(part, lenient=lenient)
                    return {"type": "text", "text": text}
                except ApiError:
                    if not lenient:
                        raise
        return part.value

    async def _document(self, part: At, *, lenient: bool) -> str:
        """Between tags, so that the model sees where it begins and ends. What a tool gave stays
        with the message.
        """
        path = None
        match part["type"].value:
            case "document":
                name, text = await self._source(part)
                text = "\n\n".join(each for each in (part["context"].text(""), text) if each)
            case "input_file" | "container_upload" as kind:
                file = await self._file(part, part)
                name = file.name
                if not (lenient or file.is_gone) and self.shelf is not None:
                    path = await asyncio.to_thread(self.shelf.put, file)
                if path is None and kind == "container_upload":
                    raise part.wrong(NO_CODE, UNSUPPORTED)
                read = self._text if path is None else self._shown
                text = await read(part, file.data)
            case _:
                inner = part["file"]
                if not isinstance(inner.value, Mapping):
                    raise part.wrong(f"has no file; {HAS_DATA}", UNSUPPORTED)
                file = await self._file(part, inner)
                name = file.name
                text = await self._text(part, file.data)
        if len(text) > self.room_left:
            why = f"is too long: the documents of a request may have {ROOM} characters in all"
            raise part.wrong(why, "documents_too_long")
        self.room_left -= len(text)
        facts = {"name": name, "path": path}
        told = [f" {key}={_quoted(value)}" for key, value in facts.items() if value]
        return f"<document{''.join(told)}>\n{text}\n</document>"

    async def _shown(self, part: At, raw: bytes) -> str:
        """What the model reads of a file that its code can open."""
        try:
            text = await self._text(part, raw)
        except ApiError:
            return NOT_TEXT
        if len(text) <= SHOWN:
            return text
        left_out = LEFT_OUT.format(len(text) - BEGINNING)
        return f"{text[:BEGINNING]}\n{left_out}"

    async def _source(self, part: At) -> tuple[str, str]:
        """Name and text."""
        source = part["source"].object()
        title = part["title"].text("")
        match source["type"].value:
            case "text":
                return title, source["data"].text()
            case "content":
                return title, text_of(source["content"], "\n\n")
            case "base64":
                return title, await self._text(part, _decoded(source["data"]))
            case "file":
                file = await self._file(part, source)
                return title or file.name, await self._text(part, file.data)
        raise part.wrong(f"has no data; {HAS_DATA}", UNSUPPORTED)

    async def _file(self, part: At, file: At) -> Sent:
        data = file["file_data"]
        name = file["filename"].text("")
        if data.value is not None:
            return Sent(name, _decoded(data))
        if file["file_id"].value is None or self.shelf is None:
            raise part.wrong(f"has no file_data; {HAS_DATA}", UNSUPPORTED)
        id = file["file_id"]
        try:
            known, raw = await asyncio.to_thread(self.shelf.named, id.word())
        except ContainerError as error:
            if self._are_kept:
                return Sent(name, GONE, is_gone=True)
            raise id.wrong(f"is wrong: {error}", "file_not_found") from error
        return Sent(name or known, raw, id.word())

    async def _text(self, part: At, raw: bytes) -> str:
        """What it is shows in the bytes."""
        if raw.startswith(b"%PDF-"):
            return await self._pdf(part, raw)
        try:
            decoded = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            decoded = "\0"
        if "\0" in decoded:
            raise part.wrong("is no text in UTF-8, and no PDF: nothing else is read", UNSUPPORTED)
        return decoded

    async def _pdf(self, part: At, raw: bytes) -> str:
        digest = hashlib.sha256(raw).digest()
        known = self.texts.get(digest)
        if known is not None:
            return known
        if importlib.util.find_spec("pypdf") is None:
            raise part.wrong(NO_READER, UNSUPPORTED)
        async with self.readers.place(whose_turn()):
            begun = time.monotonic()
            read, why = await run_confined(PDF, raw, self.left)
            self.left = max(0.0, self.left - (time.monotonic() - begun))
        if why:
            raise part.wrong(f"is a PDF that is not read: {why}", UNSUPPORTED)
        text = read.decode("utf-8", "replace").replace("\f", "\n\n")
        self.texts.add(digest, text)
        return text


def _decoded(data: At) -> bytes:
    """Base64, alone or in a `data:` URL."""
    text = data.text()
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise data.wrong("is not base64") from error


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
