"""Reasoning that a client keeps for us without being able to read it: authenticated encryption of
short texts.

Stateless: whoever has the secret can open what was sealed with it, on any machine and after any
restart. Knows bytes and keys; nothing of items or HTTP.

A sealed text is base64url of: one byte of version, 12 of nonce, the compressed text under
AES-256-GCM with its tag. The version is authenticated too, so that a text of one version cannot
pass for another's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
import zlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = b"\x01"
NONCE = 12  # bytes
LONGEST = 16 << 20  # bytes of an opened text: a small blob must not unpack to something huge


log = logging.getLogger("ossia.server")


class SealError(Exception):
    """The text was not sealed with this secret, or was changed since."""


class Sealer:
    """`secret`: bytes of any length that are hard to guess; None: random ones, good as long as this
    object lives.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        key = (
            hashlib.sha256(b"ossia reasoning\x00" + secret).digest()
            if secret is not None
            else os.urandom(32)
        )
        self._cipher = AESGCM(key)

    def seal(self, text: str) -> str:
        nonce = os.urandom(NONCE)
        data = zlib.compress(text.encode("utf-8", "surrogatepass"))
        return base64.urlsafe_b64encode(
            VERSION + nonce + self._cipher.encrypt(nonce, data, VERSION)
        ).decode()

    def open(self, sealed: str) -> str:
        """Raises `SealError`."""
        try:
            blob = base64.b64decode(sealed.encode("ascii"), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError) as error:
            raise SealError("it is not base64url") from error
        version = blob[:1]
        nonce = blob[1 : 1 + NONCE]
        rest = blob[1 + NONCE :]
        if version != VERSION:
            raise SealError("it was not made by this version of the server")
        try:
            data = self._cipher.decrypt(nonce, rest, version)
        except (InvalidTag, ValueError) as error:  # ValueError: too short to be anything
            raise SealError("it was made with another secret, or changed since") from error
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(data, LONGEST)
        if unpacker.unconsumed_tail:
            raise SealError("it is too long")
        return text.decode("utf-8", "surrogatepass")


def log_unopened(errors: Sequence[SealError]) -> None:
    """One line for a request whose sealed reasoning is left out."""
    if errors:
        count = len(errors)
        log.warning("sealed reasoning is left out, %d of the request's: %s", count, errors[0])
