"""A shuffle that needs no memory: element i of a random permutation of n is computed, not stored.

Knows integers only. A Feistel network permutes the next power of two (Luby and Rackoff, 1988), and
what falls outside n is permuted again until it is inside (cycle walking: Black and Rogaway, Ciphers
with Arbitrary Finite Domains, 2002). The result depends on nothing but (n, key): no library's
random generator is used, whose stream a version may change.
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
    """What stands at `positions` (each in [0, n)) of the permutation of 0 .. n - 1 that `key`
    names.
    """
    assert n < 1 << 62, n
    at = np.asarray(positions, dtype=np.uint64)
    assert not at.size or int(at.max()) < n, (at.max(), n)
    if n <= SMALL:
        hashes = _mixed(np.arange(n, dtype=np.uint64), _round_key(key, 0))
        return np.argsort(hashes, kind="stable")[at.astype(np.int64)]
    bits = (n - 1).bit_length()
    keys = [_round_key(key, r) for r in range(ROUNDS)]
    out = _feistel(at, bits, keys)
    while (outside := np.flatnonzero(out >= n)).size:
        out[outside] = _feistel(out[outside], bits, keys)
    return out.astype(np.int64)


def _feistel(x: UInts, bits: int, keys: list[np.uint64]) -> UInts:
    """A permutation of 0 .. 2**bits - 1: the low half is changed by the high one, then the other
    way round.
    """
    low_bits = np.uint64(bits // 2)
    low_mask, high_mask = (
        np.uint64((1 << (bits // 2)) - 1),
        np.uint64((1 << (bits - bits // 2)) - 1),
    )
    low, high = x & low_mask, x >> low_bits
    for r, key in enumerate(keys):
        if r % 2:
            high = high ^ (_mixed(low, key) & high_mask)
        else:
            low = low ^ (_mixed(high, key) & low_mask)
    return low | (high << low_bits)


def _mixed(x: UInts, key: np.uint64) -> UInts:
    """A 64-bit hash of every element: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014) of
    x + key.
    """
    x = x + key  # arrays wrap around silently
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _round_key(key: str, r: int) -> np.uint64:
    return np.uint64(
        int.from_bytes(blake2b(f"{key}:{r}".encode(), digest_size=8).digest(), "little")
    )
