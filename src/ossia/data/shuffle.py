"""A shuffle that needs no memory: element i of a random permutation of n is computed, not stored.

Knows integers only. A Feistel network permutes the next power of two (Luby and Rackoff, 1988), and
values outside n are permuted again until they are inside (cycle walking: Black and Rogaway, Ciphers
with Arbitrary Finite Domains, 2002). The result depends on (n, key) only: it uses no library's
random generator, whose stream a version may change.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
# up to here the permutation is sorted by hashes: a Feistel network over few bits is a poor shuffle
SMALL = 4096
UInts = NDArray[np.uint64]


def permuted(positions: NDArray[np.integer], n: int, key: str) -> NDArray[np.int64]:
    """The elements at `positions` (each in [0, n)) of the permutation of 0 .. n - 1 named `key`."""
    assert n < 1 << 62, n
    at = np.asarray(positions, dtype=np.uint64)
    assert not at.size or int(at.max()) < n, (at.max(), n)
    if n <= SMALL:
        numbers = np.arange(n, dtype=np.uint64)
        hashes = _mixed(numbers, _round_key(key, 0))
        order = np.argsort(hashes, kind="stable")
        return order[at.astype(np.int64)]
    bits = (n - 1).bit_length()
    keys = [_round_key(key, r) for r in range(ROUNDS)]
    out = _feistel(at, bits, keys)
    while True:
        outside = np.flatnonzero(out >= n)
        if not outside.size:
            return out.astype(np.int64)
        out[outside] = _feistel(out[outside], bits, keys)


def _feistel(x: UInts, bits: int, keys: list[np.uint64]) -> UInts:
    """A permutation of 0 .. 2**bits - 1: each half is changed by the other one, in turns."""
    low_bits = bits // 2
    high_bits = bits - low_bits
    low_mask = np.uint64((1 << low_bits) - 1)
    high_mask = np.uint64((1 << high_bits) - 1)
    shift = np.uint64(low_bits)
    low = x & low_mask
    high = x >> shift
    for r, key in enumerate(keys):
        if r % 2:
            changes = _mixed(low, key)
            high = high ^ (changes & high_mask)
        else:
            changes = _mixed(high, key)
            low = low ^ (changes & low_mask)
    return low | (high << shift)


def _mixed(x: UInts, key: np.uint64) -> UInts:
    """A 64-bit hash of every element.

    It is the finalizer of SplitMix64 (Steele, Lea and Flood, 2014) of x + key.
    """
    x = x + key  # arrays wrap around silently
    x = x ^ (x >> np.uint64(30))
    x = x * np.uint64(0xBF58476D1CE4E5B9)
    x = x ^ (x >> np.uint64(27))
    x = x * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _round_key(key: str, r: int) -> np.uint64:
    name = f"{key}:{r}".encode()
    digest = blake2b(name, digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))
