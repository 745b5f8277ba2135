"""The o200k vocabulary: where its bytes come from, and what proves that they are the right ones.

They come from the installed oss-harmony package, without a network. There is no file in it to read: the
vocabulary lies compressed in its extension module and comes out by building the official encoding, which
takes more than half of such a load. So what came out is kept in the user's cache directory. Every load
compares its sha256: a copy is as good as the package. Knows bytes and ids; knows nothing of special tokens,
of patterns or of tokenizer.json.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from ossia.errors import TokenizerError

SIZE = 199_998  # ordinary tokens; their ids are 0 .. SIZE - 1, in merge order

# The packed form, on disk and for the hash: all tokens in the order of their ids, this between them. The two
# bytes stand next to each other in no token, and two tokens around them cannot make them appear elsewhere.
_BETWEEN = b"\xff\x00"
_SHA256 = "984d380f9253a9270605707e16fb1ede25302689eee577b9c6feabf3f5d31b9c"

_NAMED_AFTER = 199_999  # <|endoftext|>, which oss-harmony decodes to its name: no token contains that


def vocabulary() -> dict[bytes, int]:
    """Token -> id, in merge order. Raises TokenizerError if oss-harmony is needed and missing, or has another
    vocabulary. A cache that cannot be read, is damaged or cannot be written only costs time."""
    packed = _read_cache()
    if packed is None:
        packed = _from_oss_harmony()
        _write_cache(packed)
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


def _from_oss_harmony() -> bytes:
    """The packed vocabulary, by way of one call: 200,000 calls would take as long as building the encoding."""
    from importlib import metadata  # takes long to import

    try:
        # The older distribution openai-harmony has the same module, but downloads its vocabulary.
        version = metadata.version("oss-harmony")
        from openai_harmony import openai_harmony as harmony  # type: ignore[import-untyped]
    except ImportError as error:  # PackageNotFoundError is one
        raise TokenizerError("the o200k vocabulary is in oss-harmony: pip install oss-harmony") from error
    ids = [_NAMED_AFTER] * (2 * SIZE - 1)
    ids[::2] = range(SIZE)
    try:
        encoding = harmony.load_harmony_encoding("HarmonyGptOss")
        decoded, name = encoding.decode_bytes(ids), encoding.decode_bytes([_NAMED_AFTER])
    except harmony.HarmonyError as error:  # it follows TIKTOKEN_ENCODINGS_BASE, if that is set
        raise TokenizerError(f"oss-harmony {version} cannot load its vocabulary: {error}") from error
    packed: bytes = decoded.replace(name, _BETWEEN)
    if not _is_o200k(packed):
        raise TokenizerError(f"oss-harmony {version} holds a vocabulary other than o200k: install 0.0.11")
    return packed


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ossia" / "o200k.vocabulary"


def _read_cache() -> bytes | None:
    with suppress(OSError, RuntimeError):  # RuntimeError: there is no home directory
        packed = _cache_file().read_bytes()
        if _is_o200k(packed):
            return packed
    return None


def _write_cache(packed: bytes) -> None:
    with suppress(OSError, RuntimeError):
        file = _cache_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(packed)
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
