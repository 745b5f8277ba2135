"""A name for a conversation, by which a front in front of several servers finds the one again that
has its beginning in the cache.

Any server answers any request; a front that sends the same name to the same server saves the
computing of what is known there. The name goes out as `X-Session-ID`; a client, or a front, that
sends one along keeps it. It is made of what the request says of its conversation, the most certain
first; what clients have written themselves is hashed. Knows requests by these words only.
"""

from __future__ import annotations

import array
import hashlib
from collections.abc import Sequence

from ossia.server.access import LEASE, Lease
from ossia.tokenizer import Tokenizer

BEGINNING = 1024  # tokens of a prompt, at most
DIGITS = 32


def name_session(
    *,
    conversation: str | None = None,
    first_response: str | None = None,
    cache_key: str | None = None,
    user: str | None = None,
) -> None:
    """To be called when a request has been read. `first_response`: of a chain."""
    lease = LEASE.get()
    if lease is None or lease.session:
        return
    lease.session = conversation or first_response or ""
    written = cache_key or user
    if not lease.session and written:
        kind = "key" if cache_key else "user"
        lease.session = _digest(kind, lease, written.encode("utf-8", "surrogatepass"))


def name_by_prompt(ids: Sequence[int], tokenizer: Tokenizer) -> None:
    """Where the request says nothing; to be called before an answer begins. What comes after the
    first user's message does not count, so that the next turns have the same name.
    """
    lease = LEASE.get()
    if lease is not None and not lease.session:
        beginning = ids[: min(BEGINNING, _first_turn(ids, tokenizer))]
        lease.session = _digest("prompt", lease, array.array("I", beginning).tobytes())


def _first_turn(ids: Sequence[int], tokenizer: Tokenizer) -> int:
    """Tokens up to the end of the first user's message; all, if there is none."""
    start = tokenizer.specials.get("<|start|>")
    end = tokenizer.specials.get("<|end|>")
    user = tokenizer.encode("user")
    is_user = False
    for place, id in enumerate(ids[:BEGINNING]):
        if id == start:
            is_user = list(ids[place + 1 : place + 1 + len(user)]) == user
        elif id == end and is_user:
            return place + 1
    return len(ids)


def _digest(kind: str, lease: Lease, data: bytes) -> str:
    """Other callers' are other names: the cache is divided by caller, too."""
    owner = f"{kind}\0{lease.turn}\0".encode()
    return f"{kind}-{hashlib.sha256(owner + data).hexdigest()[:DIGITS]}"
