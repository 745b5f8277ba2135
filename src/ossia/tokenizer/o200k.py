"""The o200k vocabulary: where its bytes come from, and what proves that they are the right ones.

They are a file of this package, in a form that loads in milliseconds. The official package has them
too, but compressed in its extension module, out of which they come only by building the official
encoding: that alone takes as long as loading ours. Every load compares the sha256. Knows bytes and
ids; does not know special tokens, patterns or tokenizer.json.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ossia.errors import TokenizerError

SIZE = 199_998  # ordinary tokens; their ids are 0 .. SIZE - 1, in merge order

# The packed form, in the file and for the hash: all tokens in the order of their ids, this between
# them. The two bytes stand next to each other in no token, and two tokens around them cannot make
# them appear elsewhere.
_BETWEEN = b"\xff\x00"
_SHA256 = "984d380f9253a9270605707e16fb1ede25302689eee577b9c6feabf3f5d31b9c"
_FILE = Path(__file__).parents[1] / "assets" / "o200k.vocabulary"


def vocabulary() -> dict[bytes, int]:
    """Token -> id, in merge order. Raises TokenizerError if the package's file is missing or
    damaged.
    """
    try:
        packed = _FILE.read_bytes()
    except OSError as error:
        raise TokenizerError(
            f"cannot read {_FILE}: {error.strerror}; install ossia again"
        ) from error
    if not _is_o200k(packed):
        raise TokenizerError(f"{_FILE} is damaged; install ossia again")
    return dict(zip(packed.split(_BETWEEN), range(SIZE), strict=True))


def in_merge_order(vocabulary: dict[bytes, int]) -> dict[bytes, int] | None:
    """`vocabulary` in merge order (the same object, if it is already) if it is o200k, else None."""
    if len(vocabulary) != SIZE:
        return None
    ids = list(range(SIZE))
    if list(vocabulary.values()) != ids:
        vocabulary = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    same = list(vocabulary.values()) == ids and _is_o200k(_BETWEEN.join(vocabulary))
    return vocabulary if same else None


def _is_o200k(packed: bytes) -> bool:
    return hashlib.sha256(packed).hexdigest() == _SHA256
