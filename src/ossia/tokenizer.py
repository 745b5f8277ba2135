"""Text <-> token ids: one immutable Tokenizer, a byte-level BPE run by tiktoken.

It comes from a checkpoint's tokenizer.json, from the o200k vocabulary inside the oss-harmony package, or
from training on texts. Knows vocabularies, special-token names and files; knows nothing of messages, of
models or of tensors. Nothing here opens a network connection.

Two encoders must agree on every text: `tokenizers`, whose file lists merges, and tiktoken, which has no
merge list: it joins whichever neighbours spell the token of lowest rank. They agree exactly when every
token, spelled out alone by lowest rank first, ends in a merge that the file lists. For then no merge ever
happens outside the list: the bytes of a token about to be made have met no merge across their border, so
they developed as if alone. `_in_merge_order` checks that for each token of each file it reads.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import tiktoken

from ossia.errors import TokenizerError

HARMONY_SPECIALS = (
    *("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>"),
    *("<|start|>", "<|end|>", "<|message|>", "<|call|>"),
)
# Words of the message headers; a vocabulary made for Harmony wants each to be one token.
HARMONY_WORDS = (
    *("assistant", "user", "system", "developer", "tool"),
    *("analysis", "commentary", "final", "functions", "json"),
)

# How o200k cuts text into pieces before BPE (read from the published encoding). fancy-regex (tiktoken) and
# the engine of `tokenizers` 0.23 cut alike: compared on every code point in nine contexts, no difference.
_WORD_TAIL = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K_PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _WORD_TAIL,
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _WORD_TAIL,
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
# For small models: the same, but every digit stands alone, so that place value is learnable.
SINGLE_DIGITS_PATTERN = O200K_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
_TOTAL_PATTERNS = (O200K_PATTERN, SINGLE_DIGITS_PATTERN)  # these match at every position of every text

# sha256 of the o200k_base vocabulary as tiktoken publishes it: lines of `base64 rank`.
_O200K_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
_O200K_SIZE = 199_998
_O200K_IDS = (199_998, 199_999, 200_002, 200_003, 200_005, 200_006, 200_007, 200_008, 200_012)
_O200K_NAMES = dict(zip(_O200K_IDS, HARMONY_SPECIALS, strict=True))
_O200K_SPECIALS = {_O200K_NAMES.get(i, f"<|reserved_{i}|>"): i for i in range(199_998, 201_089)}

# `\s+(?!\S)` keeps one backtracking entry per blank and tiktoken panics at a million of them.
_BLANKS_AT_ONCE = 1 << 18
_LONG_BLANKS = re.compile(rf"(?<!\s)\s{{{_BLANKS_AT_ONCE},}}")  # looking behind keeps the search linear


def _byte_alphabet() -> dict[int, str]:
    """Byte -> the printable character that stands for it in tokenizer.json (the GPT-2 convention)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


_CHAR_OF_BYTE = _byte_alphabet()
# Latin-1 characters outside the alphabet (the space, controls) go to one that latin-1 cannot encode.
_TO_LATIN1 = dict.fromkeys(range(256), "\uffff") | {ord(c): chr(b) for b, c in _CHAR_OF_BYTE.items()}


@dataclass(frozen=True, eq=False, repr=False)
class Tokenizer:
    """An immutable vocabulary with its encoder; safe to share between threads, picklable.

    `vocabulary`: bytes -> id of the ordinary tokens, multi-byte ones in merge order (first merged first);
    all 256 single bytes are there. `specials`: name -> id, no id in common with the ordinary ones.
    `pattern`: the regex whose matches, and what lies between them, are the pieces BPE works on.
    Prefer the constructors `from_file`, `from_pretrained`, `o200k_harmony` and `train_tokenizer`.
    """

    vocabulary: Mapping[bytes, int]
    specials: Mapping[str, int]
    pattern: str

    def __post_init__(self) -> None:
        _check_vocabulary(self.vocabulary, self.specials)
        object.__setattr__(self, "vocabulary", MappingProxyType(dict(self.vocabulary)))
        object.__setattr__(self, "specials", MappingProxyType(dict(self.specials)))
        _ = self._encoding, self._bytes_of  # a bad pattern is reported at load, not at the first request

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read a byte-level BPE tokenizer.json. Raises TokenizerError naming whatever we cannot honour.

        Truncation, padding and the post-processor are not applied: Harmony places its own specials.
        """
        try:
            return cls(*_parse(json.loads(Path(path).read_bytes())))
        except OSError as error:
            raise TokenizerError(f"cannot read {path}: {error.strerror}") from error
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise TokenizerError(f"{path} is not JSON: {error}") from error

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Tokenizer:
        """Read `tokenizer.json` of a checkpoint directory. Raises TokenizerError."""
        return cls.from_file(Path(directory) / "tokenizer.json")

    @staticmethod
    def o200k_harmony() -> Tokenizer:
        """The gpt-oss vocabulary, 201,089 ids, taken offline from the installed oss-harmony package (about a
        second, once per process). Raises TokenizerError if that is missing or has another vocabulary."""
        return _o200k_harmony()

    @cached_property
    def vocab_size(self) -> int:
        """Largest id + 1; the embedding matrix of a model may have more rows."""
        return max(self._bytes_of) + 1

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self.specials.values())

    @cached_property
    def _bytes_of(self) -> dict[int, bytes]:
        named = {id_: name.encode() for name, id_ in self.specials.items()}
        return {id_: token for token, id_ in self.vocabulary.items()} | named

    @cached_property
    def _id_of_rank(self) -> tuple[int, ...] | None:
        """rank -> id, or None where the ids themselves follow the merge order and serve as ranks."""
        merged = [id_ for token, id_ in self.vocabulary.items() if len(token) > 1]
        return None if merged == sorted(merged) else tuple(self.vocabulary.values())

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        ranks = dict(self.vocabulary)
        if self._id_of_rank is not None:
            ranks = {token: rank for rank, token in enumerate(self.vocabulary)}
        pattern = self.pattern
        if pattern not in _TOTAL_PATTERNS:  # tiktoken drops text between matches; the file format keeps it
            pattern = rf"(?:{pattern})|(?:(?!{pattern})[\s\S])+"
        try:
            return tiktoken.Encoding("ossia", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        except ValueError as error:
            raise TokenizerError(f"tiktoken cannot use the pattern {self.pattern!r}: {error}") from error

    @cached_property
    def _special_names(self) -> re.Pattern[str]:
        longest_first = sorted(self.specials, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def encode(self, text: str) -> list[int]:
        """Ordinary tokens of `text`; special names in it are plain text, so text never yields a special.

        Surrogate pairs are joined and lone surrogates, which have no UTF-8, become U+FFFD: a JSON request may
        carry them and should not fail. A run of 2**18 or more blanks is encoded in parts of that length.
        """
        try:
            if len(text) < _BLANKS_AT_ONCE:
                ranks = self._encoding.encode_ordinary(text)
            else:
                parts = _cut_long_blanks(text)
                ranks = [rank for part in parts for rank in self._encoding.encode_ordinary(part)]
        except BaseException as error:
            # The regex engine gave up; pyo3 reports that outside Exception, where it would end a server.
            if type(error).__name__ != "PanicException":
                raise
            raise TokenizerError(f"the pattern {self.pattern!r} cannot split this text: {error}") from error
        return ranks if self._id_of_rank is None else [self._id_of_rank[rank] for rank in ranks]

    def encode_with_specials(self, text: str) -> list[int]:
        """As `encode`, but every special name becomes its id (the longest where several fit). Trusted text
        only: whoever controls it controls the structure of the conversation."""
        if not self.specials:
            return self.encode(text)
        ids: list[int] = []
        for i, part in enumerate(self._special_names.split(text)):
            ids += [self.specials[part]] if i % 2 else self.encode(part)
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; a special's are its name. Raises TokenizerError on an unknown id."""
        return self.decode_bytes((token_id,))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The joined bytes of `ids`, specials as their names. Raises TokenizerError on an unknown id."""
        try:
            return b"".join([self._bytes_of[id_] for id_ in ids])
        except KeyError as error:
            raise TokenizerError(
                f"no token has the id {error.args[0]!r}; the vocabulary ends at {self.vocab_size - 1}"
            ) from error

    def decode(self, ids: Iterable[int]) -> str:
        """As `decode_bytes`, then UTF-8 with U+FFFD for what is not (a token may end inside a character)."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def special(self, name: str) -> int:
        """Id of the special token `name`. Raises TokenizerError naming what is missing."""
        try:
            return self.specials[name]
        except KeyError:
            known = ", ".join(list(self.specials)[:12]) or "none"
            raise TokenizerError(f"no special token {name!r} in this tokenizer; it has: {known}") from None

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special_ids

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json that `tokenizers`, transformers and `from_file` read, replacing `path` in
        one step."""
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(_to_json(self), ensure_ascii=False), encoding="utf-8")
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[dict[bytes, int], dict[str, int], str]]:
        return Tokenizer, (dict(self.vocabulary), dict(self.specials), self.pattern)

    def __repr__(self) -> str:
        return f"Tokenizer({len(self.vocabulary)} ordinary tokens, {len(self.specials)} specials)"


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = SINGLE_DIGITS_PATTERN,
    words: Sequence[str] = (),
    specials: Sequence[str] = HARMONY_SPECIALS,
    min_frequency: int = 2,
) -> Tokenizer:
    """Byte-level BPE learned from `texts` (by the `tokenizers` library), the same for the same texts.

    Ids: byte b is id b, then the merges in the order learned, at the end `specials` in the order given.
    Each of `words` (HARMONY_WORDS, say) is sure to be one token: where the texts did not make it one, the
    last learned merges give way to the merges that do. `vocab_size` counts everything; texts too poor for
    it give a smaller vocabulary. Raises TokenizerError if the size cannot hold bytes, words and specials.
    """
    room = vocab_size - 256 - len(specials)
    if room < 0:
        raise TokenizerError(f"vocab_size {vocab_size} is less than 256 bytes + {len(specials)} specials")
    tokens = [bytes([byte]) for byte in range(256)]
    Tokenizer({token: byte for byte, token in enumerate(tokens)}, {}, pattern)  # a bad pattern fails early
    learned = _learn_merges(texts, 256 + room, pattern, min_frequency)
    for kept in range(len(learned), -1, -1):
        ranks = {token: rank for rank, token in enumerate(tokens + learned[:kept])}
        _add_words(ranks, words)
        if len(ranks) <= 256 + room:
            break
    else:
        raise TokenizerError(
            f"vocab_size {vocab_size} has no room for the given words: use at least "
            f"{len(ranks) + len(specials)}, or fewer words"
        )
    tokenizer = Tokenizer(ranks, {name: len(ranks) + i for i, name in enumerate(specials)}, pattern)
    for word in words:
        if len(tokenizer.encode(word)) != 1:
            raise TokenizerError(f"{word!r} cannot be one token: the pattern cuts it into several pieces")
    return tokenizer


def _learn_merges(texts: Iterable[str], size: int, pattern: str, min_frequency: int) -> list[bytes]:
    """The multi-byte tokens that BPE training makes, in merge order."""
    try:
        import tokenizers  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise TokenizerError("training needs the tokenizers library: pip install tokenizers") from error

    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        initial_alphabet=sorted(_CHAR_OF_BYTE.values()),
        show_progress=False,
    )
    # As in encode(): surrogates would end the training with an obscure error.
    clean = (text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts)
    trained.train_from_iterator(clean, trainer)
    merges = json.loads(trained.to_str())["model"]["merges"]
    return [_token_bytes(left + right) for left, right in merges]


def _add_words(ranks: dict[bytes, int], words: Sequence[str]) -> None:
    """Append to `ranks` the tokens that join each word into one, left to right over its present tokens."""
    for word in map(str.encode, words):
        parts = _merged(word, ranks, down_to=1)
        for end in range(2, len(parts) + 1):
            ranks.setdefault(b"".join(parts[:end]), len(ranks))


def _merged(token: bytes, ranks: Mapping[bytes, int], down_to: int) -> list[bytes]:
    """`token` joined from its bytes by lowest rank (0 <= rank < len(ranks)) first, the leftmost of equals,
    until `down_to` parts are left or no two neighbours are a token."""
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


def _cut_long_blanks(text: str) -> Iterable[str]:
    cuts = [0]
    for run in _LONG_BLANKS.finditer(text):
        cuts += range(run.start() + _BLANKS_AT_ONCE, run.end(), _BLANKS_AT_ONCE)
    return (text[start:end] for start, end in pairwise([*cuts, len(text)]))


def _check_vocabulary(vocabulary: Mapping[bytes, int], specials: Mapping[str, int]) -> None:
    missing = [byte for byte in range(256) if bytes([byte]) not in vocabulary]
    if missing:
        shown = ", ".join(f"0x{byte:02x}" for byte in missing[:8])
        raise TokenizerError(f"{len(missing)} single bytes have no token ({shown}): some texts could not be encoded")
    ids = [*vocabulary.values(), *specials.values()]
    if len(set(ids)) != len(ids):
        repeated = [id_ for id_, count in Counter(ids).items() if count > 1]
        raise TokenizerError(f"several tokens share the ids {sorted(repeated)[:8]}")
    if min(ids) < 0 or max(ids) >= 1 << 31 or b"" in vocabulary or "" in specials:
        raise TokenizerError("a token has no bytes or an id outside 0 .. 2**31 - 1")


# ---- tokenizer.json ----


def _parse(data: object) -> tuple[dict[bytes, int], dict[str, int], str]:
    """The fields of a Tokenizer."""
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
            vocabulary[_token_bytes(text)] = id_
        elif specials[text] != id_:
            raise TokenizerError(f"{text!r} is {specials[text]} in added_tokens but {id_} in model.vocab")
    if _vocabulary_sha256(vocabulary) == _O200K_SHA256:  # known to merge in the order of its ids
        ordered = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    else:
        merges = _parse_merges(model.get("merges"))
        ordered = _in_merge_order(vocabulary, merges, ignore_merges=model.get("ignore_merges") is True)
    return ordered, specials, pattern


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TokenizerError(f"{what} should be a JSON object, found {value!r:.60}")
    return value


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise TokenizerError(f"{what} should be a JSON list, found {value!r:.60}")
    return value


# The one that ByteLevel brings along itself (use_regex), as GPT-2 had it.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _parse_pattern(file: dict[str, object]) -> str:
    """The split regex; anything but [Split(regex, isolated), ByteLevel] is refused by name."""
    if file.get("normalizer") is not None:
        kind = _object(file["normalizer"], "normalizer").get("type")
        raise TokenizerError(f"normalizer {kind!r} found: only files without a normalizer are supported")
    pre = _object(file.get("pre_tokenizer"), "pre_tokenizer")
    steps = _list(pre.get("pretokenizers"), "pretokenizers") if pre.get("type") == "Sequence" else [pre]
    steps = [_object(step, "a pre-tokenizer") for step in steps]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True) and not steps[0].get("add_prefix_space", True):
        return GPT2_PATTERN
    if kinds != ["Split", "ByteLevel"]:
        raise TokenizerError(
            f"pre_tokenizer {kinds} found: supported are Split, then ByteLevel; or ByteLevel without a prefix space"
        )
    split, byte_level = steps
    if byte_level.get("use_regex", True) is not False or byte_level.get("add_prefix_space") is True:
        raise TokenizerError(f"{byte_level} found: use_regex and add_prefix_space must be false")
    if split.get("behavior") != "Isolated" or split.get("invert") is True:
        raise TokenizerError(f"Split {split.get('behavior')!r} found: only 'Isolated', not inverted")
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
    """Name -> id. `normalized` may be set: without a normalizer it has no effect. So may `special`: false,
    which only matters to decoding; every added token is a special here and never comes from plain text."""
    specials: dict[str, int] = {}
    for entry in _list(value or [], "added_tokens"):
        token = _object(entry, "an added token")
        name, id_ = token.get("content"), token.get("id")
        if not isinstance(name, str) or type(id_) is not int:
            raise TokenizerError(f"added token without content or id: {token!r:.120}")
        for option in ("single_word", "lstrip", "rstrip"):
            if token.get(option):
                raise TokenizerError(f"added token {name!r} has {option}=true, which is not supported")
        if specials.setdefault(name, id_) != id_:
            raise TokenizerError(f"added token {name!r} is listed with two ids")
    return specials


def _token_bytes(text: str) -> bytes:
    try:
        return text.translate(_TO_LATIN1).encode("latin-1")
    except UnicodeEncodeError:
        raise TokenizerError(
            f"{text!r} is not in the byte-level alphabet, nor an added token: is this a byte-level BPE?"
        ) from None


def _parse_merges(value: object) -> list[tuple[bytes, bytes]]:
    """Merges written "a b" or [a, b]; of a pair listed twice the last counts, as in `tokenizers`."""
    merges: list[tuple[bytes, bytes]] = []
    for entry in _list(value, "model.merges"):
        pair = entry.split(" ") if isinstance(entry, str) else entry
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise TokenizerError(f"merge {len(merges)} is not a pair of tokens: {entry!r:.60}")
        merges.append((_token_bytes(pair[0]), _token_bytes(pair[1])))
    return list(dict.fromkeys(reversed(merges)))[::-1]


def _in_merge_order(
    vocabulary: dict[bytes, int], merges: list[tuple[bytes, bytes]], *, ignore_merges: bool
) -> dict[bytes, int]:
    """`vocabulary` in the order of `merges`, proved to encode as that list does (see the top of the file).

    A token that no merge reaches is fine with `ignore_merges`, where a piece that is a token is taken whole;
    tiktoken always does so.
    """
    pairs: dict[bytes, set[tuple[bytes, bytes]]] = {}
    previous = b""
    for number, (left, right) in enumerate(merges):
        token = left + right
        if not (left in vocabulary and right in vocabulary and token in vocabulary):
            raise TokenizerError(f"merge {number}, {left!r} + {right!r}, names a token not in model.vocab")
        if token == previous or token not in pairs:  # later pairs of a token have a lower priority
            pairs.setdefault(token, set()).add((left, right))
        previous = token
    unmerged = [token for token in vocabulary if token not in pairs]
    order = sorted(unmerged, key=lambda token: len(token) > 1)  # bytes first, never-merged tokens last
    alone = sum(len(token) == 1 for token in order)
    order[alone:alone] = pairs
    ranks = {token: rank for rank, token in enumerate(order)}
    for token in order[alone:]:
        parts = _merged(token, ranks, down_to=2)
        reached = len(parts) == 2
        if (reached and tuple(parts) not in pairs.get(token, ())) or not (reached or ignore_merges):
            raise TokenizerError(f"not a proper BPE: no merge of {parts} into {token!r}, a token, is listed")
    return {token: vocabulary[token] for token in order}


def _to_json(tokenizer: Tokenizer) -> dict[str, object]:
    ranks = {token: rank for rank, token in enumerate(tokenizer.vocabulary)}
    last = (_merged(token, ranks, down_to=2) for token in ranks if len(token) > 1)
    vocab = {_token_text(token): id_ for token, id_ in tokenizer.vocabulary.items()}
    specials = sorted(tokenizer.specials.items(), key=lambda item: item[1])
    if [id_ for _, id_ in specials] != list(range(len(vocab), len(vocab) + len(specials))):
        vocab |= tokenizer.specials  # `tokenizers` numbers added tokens from len(vocab) unless they are in it
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    regex = {"Regex": tokenizer.pattern}
    split = {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}
    return {
        **{"version": "1.0", "truncation": None, "padding": None, "normalizer": None},
        "added_tokens": [{"id": id_, "content": name, **flags} for name, id_ in specials],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            **{"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False},
            **{"continuing_subword_prefix": None, "end_of_word_suffix": None},
            "ignore_merges": True,  # tiktoken takes a piece that is a token whole
            "vocab": vocab,
            "merges": [" ".join(map(_token_text, pair)) for pair in last if len(pair) == 2],
        },
    }


def _token_text(token: bytes) -> str:
    return token.decode("latin-1").translate(_CHAR_OF_BYTE)


# ---- o200k ----


def _vocabulary_sha256(vocabulary: Mapping[bytes, int]) -> str | None:
    """sha256 of `vocabulary` as a .tiktoken file, if it has the size of o200k; no other is worth the time."""
    if len(vocabulary) != _O200K_SIZE:
        return None
    by_id = sorted(vocabulary.items(), key=lambda item: item[1])
    return hashlib.sha256(b"".join(b"%b %d\n" % (base64.b64encode(t), i) for t, i in by_id)).hexdigest()


@cache
def _o200k_harmony() -> Tokenizer:
    try:
        # The older distribution openai-harmony has the same module, but downloads its vocabulary.
        version = metadata.version("oss-harmony")
        from openai_harmony import openai_harmony as harmony  # type: ignore[import-untyped]
    except ImportError as error:  # PackageNotFoundError is one
        raise TokenizerError("the o200k vocabulary is in oss-harmony: pip install oss-harmony") from error
    try:
        encoding = harmony.load_harmony_encoding("HarmonyGptOss")
        vocabulary = {encoding.decode_bytes([id_]): id_ for id_ in range(_O200K_SIZE)}
    except harmony.HarmonyError as error:  # it follows TIKTOKEN_ENCODINGS_BASE, if that is set
        raise TokenizerError(f"oss-harmony {version} cannot load its vocabulary: {error}") from error
    if _vocabulary_sha256(vocabulary) != _O200K_SHA256:
        raise TokenizerError(f"oss-harmony {version} holds a vocabulary other than o200k: install 0.0.11")
    return Tokenizer(vocabulary, _O200K_SPECIALS, O200K_PATTERN)
