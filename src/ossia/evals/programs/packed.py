"""Tests that a file hides: base64 of zlib of a pickle of one text.

A pickle is a program. It is not run: its instructions are read, and any but those that write a text
down is refused.
"""

from __future__ import annotations

import base64
import binascii
import pickletools
import zlib

from ossia.errors import DataError

MOST_TESTS = 1 << 30  # bytes, unpacked

_TEXTS = frozenset(("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"))
_AROUND = frozenset(("PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"))


def unpacked(
    text: str,
    where: str,
    name: str,
) -> str:
    """base64 of zlib of a pickle of one text. Raises `DataError` for anything else."""
    try:
        packed = base64.b64decode(text, validate=True)
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(packed, MOST_TESTS)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise DataError(f"{where}: {name!r} cannot be unpacked: {error}", name) from error
    if not unpacker.eof and not unpacker.unconsumed_tail:
        raise DataError(f"{where}: {name!r} ends before its end", name)
    if unpacker.unconsumed_tail:
        raise DataError(f"{where}: {name!r} is larger than {MOST_TESTS} bytes unpacked", name)
    return pickled_text(data, where, name)


def pickled_text(
    data: bytes,
    where: str,
    name: str,
) -> str:
    """The one text that a pickle holds. A pickle is a program: it is not run, its instructions are
    read, and any but those that write a text down is refused. Raises `DataError`.
    """
    texts: list[str] = []
    try:
        for instruction, argument, _ in pickletools.genops(data):
            if instruction.name in _TEXTS:
                texts.append(str(argument))
            elif instruction.name not in _AROUND:
                raise DataError(
                    f"{where}: the pickle in {name!r} does more than hold a text "
                    f"({instruction.name}): it is not opened",
                    name,
                )
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: the pickle in {name!r} is damaged: {error}", name) from error
    if len(texts) != 1:
        raise DataError(f"{where}: the pickle in {name!r} holds {len(texts)} texts, not one", name)
    return texts[0]
