"""Text <-> token ids: one immutable Tokenizer, a byte-level BPE run by tiktoken.

It comes from a checkpoint's tokenizer.json, from the o200k vocabulary inside this package, or from
training on texts. Knows vocabularies, special-token names and files; does not know messages, models
or tensors. Never opens a network connection.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import pairwise
from operator import eq
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tiktoken

from ossia.errors import TokenizerError
from ossia.files import replace_file
from ossia.tokenizer import o200k
from ossia.tokenizer.file import CHAR_OF_BYTE, merged, parse, to_json, token_bytes

HARMONY_SPECIALS = (
    *("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>"),
    *("<|start|>", "<|end|>", "<|message|>", "<|call|>"),
)
# Words of the message headers; a vocabulary made for Harmony wants each to be one token.
HARMONY_WORDS = (
    *("assistant", "user", "system", "developer", "tool"),
    *("analysis", "commentary", "final", "functions", "json"),
)

# How o200k cuts text into pieces before BPE (read from the published encoding). fancy-regex
# (tiktoken) and the engine of `tokenizers` 0.23 cut alike: compared on every code point in nine
# contexts, no difference.
_WORD_TAIL = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K_PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        + _WORD_TAIL,
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        + _WORD_TAIL,
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
# For small models: the same, but every digit is a piece, so that place value is learnable.
SINGLE_DIGITS_PATTERN = O200K_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
# these match at every position of every text
_TOTAL_PATTERNS = (O200K_PATTERN, SINGLE_DIGITS_PATTERN)

_O200K_IDS = (199_998, 199_999, 200_002, 200_003, 200_005, 200_006, 200_007, 200_008, 200_012)
_O200K_NAMES = dict(zip(_O200K_IDS, HARMONY_SPECIALS, strict=True))
_O200K_SPECIALS = {_O200K_NAMES.get(i, f"<|reserved_{i}|>"): i for i in range(199_998, 201_089)}

# `\s+(?!\S)` keeps one backtracking entry per blank and tiktoken panics at a million of them.
_BLANKS_AT_ONCE = 1 << 18
# looking behind keeps the search linear
_LONG_BLANKS = re.compile(rf"(?<!\s)\s{{{_BLANKS_AT_ONCE},}}")
_SAMPLES = 64  # so many characters of such a run are seen when every 2**12th of a text is
_SAMPLED_BLANKS = re.compile(rf"\s{{{_SAMPLES}}}")

# tiktoken's errors for an id that is unknown, is not a uint32, or is not a whole number
_NO_ID = (KeyError, OverflowError, TypeError)


@dataclass(frozen=True, eq=False, repr=False)
class Tokenizer:
    """An immutable vocabulary with its encoder; safe to share between threads, picklable.

    `vocabulary`: bytes -> id of the ordinary tokens, multi-byte ones in merge order (first merged
    first); all 256 single bytes are there. `specials`: name -> id, no id in common with the
    ordinary ones. `pattern`: the regex whose matches, and what lies between them, are the pieces
    BPE works on. Prefer the constructors `from_file`, `from_pretrained`, `o200k_harmony` and
    `train_tokenizer`.
    """

    vocabulary: Mapping[bytes, int]
    specials: Mapping[str, int]
    pattern: str
    _encoding: tiktoken.Encoding = field(init=False)

    def __post_init__(self) -> None:
        _check_vocabulary(self.vocabulary, self.specials)
        vocabulary = dict(self.vocabulary)
        object.__setattr__(self, "vocabulary", MappingProxyType(vocabulary))
        object.__setattr__(self, "specials", MappingProxyType(dict(self.specials)))
        ranks = vocabulary  # shared, not copied: loading the largest vocabularies is felt
        if self._id_of_rank is not None:
            ranks = {token: rank for rank, token in enumerate(vocabulary)}
        object.__setattr__(self, "_encoding", _encoding(ranks, self.specials, self.pattern))

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read a byte-level BPE tokenizer.json. Raises TokenizerError naming whatever we cannot
        honour.

        Truncation, padding and the post-processor are not applied: Harmony places its own specials.
        """
        try:
            return cls(*parse(json.loads(Path(path).read_bytes())))
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
        """The gpt-oss vocabulary, 201,089 ids, which is part of this package. Loaded once in a
        process. Raises TokenizerError if its file is damaged.
        """
        return _o200k_harmony()

    @cached_property
    def vocab_size(self) -> int:
        """Largest id + 1; the embedding matrix of a model may have more rows."""
        return max([*self.vocabulary.values(), *self.specials.values()]) + 1

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self.specials.values())

    @cached_property
    def _decoder(self) -> Any:
        """tiktoken's own object, which knows id -> bytes; of a second encoding, where ids are no
        ranks.
        """
        if self._id_of_rank is None:
            return self._encoding._core_bpe
        return _encoding(dict(self.vocabulary), self.specials, self.pattern)._core_bpe

    @cached_property
    def _id_of_rank(self) -> tuple[int, ...] | None:
        """rank -> id, or None where the ids follow the merge order and so are ranks."""
        merged = [id_ for token, id_ in self.vocabulary.items() if len(token) > 1]
        return None if merged == sorted(merged) else tuple(self.vocabulary.values())

    @cached_property
    def _special_names(self) -> re.Pattern[str]:
        longest_first = sorted(self.specials, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def encode(self, text: str) -> list[int]:
        """Ordinary tokens of `text`; special names in it are plain text, so text never yields a
        special.

        Surrogate pairs are joined and lone surrogates, which have no UTF-8, become U+FFFD: a JSON
        request may carry them and should not fail. A run of 2**18 or more blanks is encoded in
        parts of that length.
        """
        try:
            if _may_have_long_blanks(text):
                parts = _cut_long_blanks(text)
                ranks = [rank for part in parts for rank in self._encoding.encode_ordinary(part)]
            else:
                ranks = self._encoding.encode_ordinary(text)
        except BaseException as error:
            # The regex engine gave up; pyo3 reports that outside Exception, where it would end a
            # server.
            if type(error).__name__ != "PanicException":
                raise
            raise TokenizerError(
                f"the pattern {self.pattern!r} cannot split this text: {error}"
            ) from error
        return ranks if self._id_of_rank is None else [self._id_of_rank[rank] for rank in ranks]

    def encode_with_specials(self, text: str) -> list[int]:
        """As `encode`, but every special name becomes its id (the longest where several fit).
        Trusted text only: whoever controls it controls the structure of the conversation.
        """
        if not self.specials:
            return self.encode(text)
        ids: list[int] = []
        for i, part in enumerate(self._special_names.split(text)):
            ids += [self.specials[part]] if i % 2 else self.encode(part)
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; a special's are its name. Raises `TokenizerError` if unknown."""
        try:
            data: bytes = self._decoder.decode_single_token_bytes(token_id)
        except _NO_ID as error:
            raise TokenizerError(
                f"no token has the id {token_id!r}; the vocabulary ends at {self.vocab_size - 1}"
            ) from error
        return data

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The joined bytes of `ids`, specials as their names. Raises TokenizerError on an unknown
        id.
        """
        try:
            data: bytes = self._decoder.decode_bytes(ids)
        except _NO_ID:
            # one by one: that names the wrong id, and takes iterables that are not sequences
            return b"".join(map(self.token_bytes, ids))
        return data

    def decode(self, ids: Iterable[int]) -> str:
        """As `decode_bytes`, then UTF-8 with U+FFFD for what is not (a token may end inside a
        character).
        """
        try:  # not by way of decode_bytes: a call less is felt where tokens come one by one
            data: bytes = self._decoder.decode_bytes(ids)
        except _NO_ID:
            data = self.decode_bytes(ids)
        return data.decode("utf-8", "replace")

    def special(self, name: str) -> int:
        """Id of the special token `name`. Raises TokenizerError if there is none."""
        try:
            return self.specials[name]
        except KeyError:
            known = ", ".join(list(self.specials)[:12]) or "none"
            raise TokenizerError(
                f"no special token {name!r} in this tokenizer; it has: {known}"
            ) from None

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special_ids

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json that `tokenizers`, transformers and `from_file` read, replacing
        `path` in one step.
        """
        data = to_json(self.vocabulary, self.specials, self.pattern)
        replace_file(Path(path), json.dumps(data, ensure_ascii=False))

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
    """Byte-level BPE learned from `texts` (by the `tokenizers` library), the same for the same
    texts.

    Ids: byte b is id b, then the merges in the order learned, at the end `specials` in the order
    given. Each of `words` (HARMONY_WORDS, say) is sure to be one token: where the texts did not
    make it one, the last learned merges give way to the merges that do. `vocab_size` counts
    everything; texts too poor for it give a smaller vocabulary. `texts` is read once, as it goes: a
    progress bar belongs around it. Raises TokenizerError if the size cannot hold bytes, words and
    specials.
    """
    room = vocab_size - 256 - len(specials)
    if room < 0:
        raise TokenizerError(
            f"vocab_size {vocab_size} is less than 256 bytes + {len(specials)} specials"
        )
    tokens = [bytes([byte]) for byte in range(256)]
    bytes_alone = {token: byte for byte, token in enumerate(tokens)}
    Tokenizer(bytes_alone, {}, pattern)  # a bad pattern fails early
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
            raise TokenizerError(
                f"{word!r} cannot be one token: the pattern cuts it into several pieces"
            )
    return tokenizer


def _learn_merges(texts: Iterable[str], size: int, pattern: str, min_frequency: int) -> list[bytes]:
    """The multi-byte tokens that BPE training makes, in merge order."""
    try:
        import tokenizers  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise TokenizerError(
            "training needs the tokenizers library: pip install tokenizers"
        ) from error

    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        initial_alphabet=sorted(CHAR_OF_BYTE.values()),
        show_progress=False,
    )
    # As in encode(): surrogates would end the training with an obscure error.
    clean = (text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts)
    trained.train_from_iterator(clean, trainer)
    merges = json.loads(trained.to_str())["model"]["merges"]
    return [token_bytes(left + right) for left, right in merges]


def _add_words(ranks: dict[bytes, int], words: Sequence[str]) -> None:
    """Append to `ranks` the tokens that join each word into one, left to right over its present
    tokens.
    """
    for word in map(str.encode, words):
        parts = merged(word, ranks, down_to=1)
        for end in range(2, len(parts) + 1):
            ranks.setdefault(b"".join(parts[:end]), len(ranks))


def _encoding(
    ranks: dict[bytes, int], specials: Mapping[str, int], pattern: str
) -> tiktoken.Encoding:
    """`specials` are for decoding only: `encode_ordinary` does not look for them."""
    total = pattern
    if (
        pattern not in _TOTAL_PATTERNS
    ):  # tiktoken drops text between matches; the file format keeps it
        total = rf"(?:{pattern})|(?:(?!{pattern})[\s\S])+"
    try:
        return tiktoken.Encoding(
            "ossia", pat_str=total, mergeable_ranks=ranks, special_tokens=dict(specials)
        )
    except ValueError as error:
        raise TokenizerError(f"tiktoken cannot use the pattern {pattern!r}: {error}") from error


def _may_have_long_blanks(text: str) -> bool:
    """False is certain, and quick: looking for them at every character takes a third of the
    encoding.
    """
    long = len(text) >= _BLANKS_AT_ONCE
    return long and _SAMPLED_BLANKS.search(text[:: _BLANKS_AT_ONCE // _SAMPLES]) is not None


def _cut_long_blanks(text: str) -> Iterable[str]:
    cuts = [0]
    for run in _LONG_BLANKS.finditer(text):
        cuts += range(run.start() + _BLANKS_AT_ONCE, run.end(), _BLANKS_AT_ONCE)
    return (text[start:end] for start, end in pairwise([*cuts, len(text)]))


def _check_vocabulary(vocabulary: Mapping[bytes, int], specials: Mapping[str, int]) -> None:
    missing = [byte for byte in range(256) if bytes([byte]) not in vocabulary]
    if missing:
        shown = ", ".join(f"0x{byte:02x}" for byte in missing[:8])
        raise TokenizerError(
            f"{len(missing)} single bytes have no token ({shown}): some texts could not be encoded"
        )
    ids = sorted([*vocabulary.values(), *specials.values()])
    if any(map(eq, ids, ids[1:])):
        repeated = [id_ for id_, count in Counter(ids).items() if count > 1]
        raise TokenizerError(f"several tokens share the ids {repeated[:8]}")
    if ids[0] < 0 or ids[-1] >= 1 << 31 or b"" in vocabulary or "" in specials:
        raise TokenizerError("a token has no bytes or an id outside 0 .. 2**31 - 1")


@cache
def _o200k_harmony() -> Tokenizer:
    return Tokenizer(o200k.vocabulary(), _O200K_SPECIALS, O200K_PATTERN)
