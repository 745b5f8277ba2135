"""Reasoning that a client keeps for us without being able to read it: authenticated encryption of
short texts.

Stateless: whoever has the secret can open what was sealed with it, on any machine and after any
restart, for the caller whom it was given to. Knows bytes and keys; nothing of items or HTTP.

A sealed text is base64url of: one byte of version, 12 of nonce, the compressed text under
AES-256-GCM with its tag. The version and the owner are authenticated too, so that a text of one
version cannot pass for another's, and what one caller was given opens for no other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import secrets
import zlib
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from tempfile import mkstemp

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ossia.errors import RequestError

VERSION = b"\x01"
NONCE = 12  # bytes
FEWEST = 16  # bytes of a secret in a file
LONGEST = 16 << 20  # bytes of an opened text: a small blob must not unpack to something huge


log = logging.getLogger("ossia.server")


class SealError(Exception):
    """The text was not sealed with this secret, or was changed since."""


class Sealer:
    """`secret`: bytes of any length that are hard to guess; None: random ones, good as long as this
    object lives. `of` gives the sealer of a caller; this one is that of who has no name.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._owner = b""
        if secret is None:
            secret = os.urandom(32)
        self._cipher = AESGCM(hashlib.sha256(b"ossia reasoning\x00" + secret).digest())
        self._signing = hashlib.sha256(b"ossia signatures\x00" + secret).digest()

    def of(self, owner: str) -> Sealer:
        """For the caller of that name: a key may be changed, its name stays."""
        made = copy(self)
        made._owner = owner.encode("utf-8", "surrogatepass")
        return made

    def seal(self, text: str) -> str:
        nonce = os.urandom(NONCE)
        data = zlib.compress(text.encode("utf-8", "surrogatepass"))
        return base64.urlsafe_b64encode(
            VERSION + nonce + self._cipher.encrypt(nonce, data, VERSION + self._owner)
        ).decode()

    def signature(self, *parts: str) -> str:
        """In hex. Only who has the secret can make it, and only for this owner."""
        signed = hmac.new(self._signing, digestmod=hashlib.sha256)
        for part in (self._owner, *(each.encode("utf-8", "surrogatepass") for each in parts)):
            signed.update(len(part).to_bytes(8))  # where a part ends is signed, too
            signed.update(part)
        return signed.hexdigest()

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
            data = self._cipher.decrypt(nonce, rest, version + self._owner)
        except (InvalidTag, ValueError) as error:  # ValueError: too short to be anything
            raise SealError(
                "it was made with another secret or for another key, or changed since"
            ) from error
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


# The secret's file


def _make_secret(path: Path) -> None:
    """A whole one, or none; nothing, if another server was faster. Raises `OSError`."""
    descriptor, name = mkstemp(prefix=f".{path.name}-", dir=path.parent)  # for its owner only
    try:
        with open(descriptor, "wb") as file:
            file.write(secrets.token_hex(32).encode() + b"\n")
        with suppress(FileExistsError):
            os.link(name, path)  # a rename would replace the other's
    finally:
        os.unlink(name)


def read_secret(path: Path) -> bytes:
    """Of a file, which is made with a new secret if it is not there. Raises `RequestError`."""
    try:
        if not path.exists():
            _make_secret(path)
        secret = path.read_bytes().strip()
    except OSError as error:
        raise RequestError(f"--secret-file {path}: {error.strerror}") from error
    if len(secret) < FEWEST:
        raise RequestError(f"--secret-file {path}: a secret has at least {FEWEST} bytes")
    return secret
