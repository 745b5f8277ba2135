"""tokenizer.json, read and written: the fields of a Tokenizer <-> the JSON of the `tokenizers`
library.

Knows that file format and which of its options we cannot honour; does not know the class Tokenizer,
encoding, messages or models.

Two encoders must agree on every text: `tokenizers`, whose file lists merges, and tiktoken, which
has no merge list: it joins whichever neighbours spell the token of lowest rank. They agree exactly
when every token, spelled out alone by lowest rank first, ends in a merge that the file lists. For
then no merge ever happens outside the list: the bytes of a token about to be made have met no merge
across their border, so they developed as if alone. `_in_merge_order` checks that for each token of
each file it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from ossia.errors import TokenizerError
from ossia.tokenizer import o200k

# The split that ByteLevel brings along itself (use_regex), as GPT-2 had it.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _byte_alphabet() -> dict[int, str]:
    """Byte -> the printable character for it in tokenizer.json, as GPT-2 began it."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)).difference(printable))
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + n) for n, byte in enumerate(others)
    }


CHAR_OF_BYTE = _byte_alphabet()
# Latin-1 characters outside the alphabet (the space, controls) go to one that latin-1 cannot
# encode.
_TO_LATIN1 = dict.fromkeys(range(256), "\uffff") | {ord(c): chr(b) for b, c in CHAR_OF_BYTE.items()}


def parse(data: object) -> tuple[dict[bytes, int], dict[str, int], str]:
    """Vocabulary, specials and pattern, as a Tokenizer wants them, of the JSON value of a
    tokenizer.json.

    Raises TokenizerError naming whatever we cannot honour.
    """
    file = _object(data, "the file")
    model = _object(file.get("model"), "model")
    pattern = _parse_pattern(file)
    _refuse_model_options(model)
    specials = _parse_added_tokens(file.get("added_tokens"))
    vocabulary: dict[bytes, int] = {}
    for text, id_ in _object(model.get("vocab"), "model.vocab").items():
        if type(id_) is not int:
            raise TokenizerError(f"model.vocab gives {text!r} the id {id_!r}")
        if text not in specials:
            vocabulary[token_bytes(text)] = id_
        elif specials[text] != id_:
            raise TokenizerError(
                f"{text!r} is {specials[text]} in added_tokens but {id_} in model.vocab"
            )
    ordered = o200k.in_merge_order(vocabulary)  # known to merge in the order of its ids
    if ordered is None:
        merges = _parse_merges(model.get("merges"))
        ordered = _in_merge_order(
            vocabulary, merges, ignore_merges=model.get("ignore_merges") is True
        )
    return ordered, specials, pattern


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TokenizerError(f"{what} should be a JSON object, found {value!r:.60}")
    return value


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise TokenizerError(f"{what} should be a JSON list, found {value!r:.60}")
    return value


def _parse_pattern(file: dict[str, object]) -> str:
    """The split regex; anything but [Split(regex, isolated), ByteLevel] is refused by name."""
    if file.get("normalizer") is not None:
        kind = _object(file["normalizer"], "normalizer").get("type")
        raise TokenizerError(
            f"normalizer {kind!r} found: only files without a normalizer are supported"
        )
    pre = _object(file.get("pre_tokenizer"), "pre_tokenizer")
    steps = (
        _list(pre.get("pretokenizers"), "pretokenizers") if pre.get("type") == "Sequence" else [pre]
    )
    steps = [_object(step, "a pre-tokenizer") for step in steps]
    kinds = [step.get("type") for step in steps]
    if (
        kinds == ["ByteLevel"]
        and steps[0].get("use_regex", True)
        and not steps[0].get("add_prefix_space", True)
    ):
        return GPT2_PATTERN
    if kinds != ["Split", "ByteLevel"]:
        raise TokenizerError(
            f"pre_tokenizer {kinds} found: supported are Split, then ByteLevel; or ByteLevel "
            "without a prefix space"
        )
    split, byte_level = steps
    if byte_level.get("use_regex", True) is not False or byte_level.get("add_prefix_space") is True:
        raise TokenizerError(f"{byte_level} found: use_regex and add_prefix_space must be false")
    if split.get("behavior") != "Isolated" or split.get("invert") is True:
        raise TokenizerError(
            f"Split {split.get('behavior')!r} found: only 'Isolated', not inverted"
        )
    pattern = _object(split.get("pattern"), "the pattern of Split").get("Regex")
    if not isinstance(pattern, str):
        raise TokenizerError(f"Split on {split['pattern']!r:.60} found: only a Regex is supported")
    return pattern


def _refuse_model_options(model: dict[str, object]) -> None:
    if model.get("type", "BPE") != "BPE":
        raise TokenizerError(f"model type {model['type']!r} found: only BPE is supported")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            raise TokenizerError(f"BPE option {option}={model[option]!r} is not supported")


def _parse_added_tokens(value: object) -> dict[str, int]:
    """Name -> id. `normalized` may be set: without a normalizer it has no effect. So may `special`:
    false, which only matters to decoding; every added token is a special here and never comes from
    plain text.
    """
    specials: dict[str, int] = {}
    for entry in _list(value or [], "added_tokens"):
        token = _object(entry, "an added token")
        name, id_ = token.get("content"), token.get("id")
        if not isinstance(name, str) or type(id_) is not int:
            raise TokenizerError(f"added token without content or id: {token!r:.120}")
        for option in ("single_word", "lstrip", "rstrip"):
            if token.get(option):
                raise TokenizerError(
                    f"added token {name!r} has {option}=true, which is not supported"
                )
        if specials.setdefault(name, id_) != id_:
            raise TokenizerError(f"added token {name!r} is listed with two ids")
    return specials


def token_bytes(text: str) -> bytes:
    """The bytes of a token as tokenizer.json spells it. Raises TokenizerError if it has another
    alphabet.
    """
    try:
        return text.translate(_TO_LATIN1).encode("latin-1")
    except UnicodeEncodeError:
        raise TokenizerError(
            f"{text!r} is not in the byte-level alphabet, nor an added token: is this a byte-level "
            "BPE?"
        ) from None


def _parse_merges(value: object) -> list[tuple[bytes, bytes]]:
    """Merges written "a b" or [a, b]. If one is listed twice, the last counts."""
    merges: list[tuple[bytes, bytes]] = []
    for entry in _list(value, "model.merges"):
        pair = entry.split(" ") if isinstance(entry, str) else entry
        if not (
            isinstance(pair, list)
            and len(pair) == 2
            and all(isinstance(part, str) for part in pair)
        ):
            raise TokenizerError(f"merge {len(merges)} is not a pair of tokens: {entry!r:.60}")
        merges.append((token_bytes(pair[0]), token_bytes(pair[1])))
    return list(dict.fromkeys(reversed(merges)))[::-1]


def _in_merge_order(
    vocabulary: dict[bytes, int], merges: list[tuple[bytes, bytes]], *, ignore_merges: bool
) -> dict[bytes, int]:
    """`vocabulary` in the order of `merges`, proved to encode as that list does (see the top of the
    file).

    A token that no merge reaches is fine with `ignore_merges`, where a piece that is a token is
    taken whole; tiktoken always does so.
    """
    pairs: dict[bytes, set[tuple[bytes, bytes]]] = {}
    previous = b""
    for number, (left, right) in enumerate(merges):
        token = left + right
        if not (left in vocabulary and right in vocabulary and token in vocabulary):
            raise TokenizerError(
                f"merge {number}, {left!r} + {right!r}, names a token not in model.vocab"
            )
        if token == previous or token not in pairs:  # later pairs of a token have a lower priority
            pairs.setdefault(token, set()).add((left, right))
        previous = token
    unmerged = [token for token in vocabulary if token not in pairs]
    # bytes first, tokens without a merge last
    order = sorted(unmerged, key=lambda token: len(token) > 1)
    alone = sum(len(token) == 1 for token in order)
    order[alone:alone] = pairs
    ranks = {token: rank for rank, token in enumerate(order)}
    for token in order[alone:]:
        parts = merged(token, ranks, down_to=2)
        reached = len(parts) == 2
        if (reached and tuple(parts) not in pairs.get(token, ())) or not (reached or ignore_merges):
            raise TokenizerError(
                f"not a proper BPE: no merge of {parts} into {token!r}, a token, is listed"
            )
    return {token: vocabulary[token] for token in order}


def to_json(
    vocabulary: Mapping[bytes, int], specials: Mapping[str, int], pattern: str
) -> dict[str, object]:
    """JSON that `parse` and the `tokenizers` library read as the same tokenizer."""
    ranks = {token: rank for rank, token in enumerate(vocabulary)}
    last = (merged(token, ranks, down_to=2) for token in ranks if len(token) > 1)
    vocab = {_token_text(token): id_ for token, id_ in vocabulary.items()}
    by_id = sorted(specials.items(), key=lambda item: item[1])
    if [id_ for _, id_ in by_id] != list(range(len(vocab), len(vocab) + len(by_id))):
        vocab |= specials  # `tokenizers` numbers added tokens from len(vocab) unless they are in it
    flags = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    regex = {"Regex": pattern}
    split = {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}
    return {
        **{"version": "1.0", "truncation": None, "padding": None, "normalizer": None},
        "added_tokens": [{"id": id_, "content": name, **flags} for name, id_ in by_id],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            **{
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "fuse_unk": False,
                "byte_fallback": False,
            },
            **{"continuing_subword_prefix": None, "end_of_word_suffix": None},
            "ignore_merges": True,  # tiktoken takes a piece that is a token whole
            "vocab": vocab,
            "merges": [" ".join(map(_token_text, pair)) for pair in last if len(pair) == 2],
        },
    }


def _token_text(token: bytes) -> str:
    return token.decode("latin-1").translate(CHAR_OF_BYTE)


def merged(token: bytes, ranks: Mapping[bytes, int], down_to: int) -> list[bytes]:
    """`token` joined from its bytes by lowest rank (0 <= rank < len(ranks)) first, the leftmost of
    equals, until `down_to` parts are left or no two neighbours are a token.
    """
    parts = [token[i : i + 1] for i in range(len(token))]
    never = len(ranks)
    while len(parts) > down_to:
        found = [ranks.get(left + right, never) for left, right in pairwise(parts)]
        lowest = min(found)
        if lowest == never:
            break
        at = found.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
