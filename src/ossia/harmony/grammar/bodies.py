"""The formats of message bodies, as matchers: JSON of a schema, a regex, a Lark grammar, free text.

Knows llguidance, which turns a grammar and the tokens so far into a mask of the tokens that may
follow, and the form in which it takes a tokenizer. Does not know headers, channels, budgets or the
order of messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from ossia.errors import GrammarError
from ossia.harmony.grammar import bounds
from ossia.harmony.grammar.compiling import check_wanted, panics_as_errors, reason
from ossia.harmony.grammar.kept import RESTING, CompiledFormat, FormatCache
from ossia.harmony.grammar.keywords import Relaxed, plain
from ossia.harmony.grammar.patterns import translate_whole
from ossia.harmony.grammar.schema import json_grammar
from ossia.harmony.messages import ResponseFormat
from ossia.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLMatcher, LLTokenizer
    from numpy.typing import NDArray

    Mask = NDArray[np.uint32]


@dataclass(frozen=True)
class JsonFormat:
    """JSON whose value validates under a JSON schema (2020-12). `is_strict`: a keyword that cannot
    be enforced is an error; else it is relaxed.
    """

    schema: Mapping[str, Any] | bool
    is_strict: bool = True


@dataclass(frozen=True)
class RegexFormat:
    """Text that a regular expression matches as a whole, in the syntax that Python and ECMAScript
    share.
    """

    pattern: str


@dataclass(frozen=True)
class LarkFormat:
    """Text of a context-free grammar in llguidance's dialect of Lark, with a rule `start`."""

    grammar: str


BodyFormat = JsonFormat | RegexFormat | LarkFormat
JSON_OBJECT = JsonFormat({"type": "object"})


def body_format(
    data: BodyFormat | ResponseFormat | Mapping[str, Any] | str | None,
) -> BodyFormat | None:
    """The format that `data` asks for; None is free text.

    `data` is a word, "text" or "json_object"; or the form that OpenAI's clients send: an object of
    `type` text, json_object, json_schema (the schema inside or under that name), regex (with a
    `pattern`) or grammar (with `syntax` and `definition`); or the ResponseFormat of a developer
    message. Raises GrammarError for anything else.
    """
    if data is None or isinstance(data, JsonFormat | RegexFormat | LarkFormat):
        return data
    if isinstance(data, ResponseFormat):
        return JsonFormat(data.schema)
    data = {"type": data} if isinstance(data, str) else data
    if not isinstance(data, Mapping):
        raise GrammarError(f"a format is an object with a type, found {data!r:.120}")
    kind = data.get("type")
    inner = data.get(str(kind))
    inner = inner if isinstance(inner, Mapping) else data
    match kind, inner:
        case "text", _:
            return None
        case "json_object", _:
            return JSON_OBJECT
        case "json_schema", {"schema": Mapping() | bool() as schema}:
            return JsonFormat(schema)
        case "regex", {"pattern": str(pattern)}:
            return RegexFormat(pattern)
        case "grammar", {"syntax": "regex", "definition": str(pattern)}:
            return RegexFormat(pattern)
        case "grammar", {"syntax": "lark", "definition": str(grammar)}:
            return LarkFormat(grammar)
    raise GrammarError(
        f"unknown format {data!r:.120}: use type text, json_object, json_schema (with a schema), "
        "regex (with a pattern) or grammar (with syntax lark or regex and a definition)"
    )


EXPONENT_DIGITS = 2  # of a number in JSON: one with more may be beyond the range of a double


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A tokenizer as the matchers see it. A mask has a bit for each id, in words of 32, the lowest
    id in the lowest bit.

    `short_exponents[n]`, for use inside an exponent, are all tokens except those that begin with
    more than n digits; [-1], for use outside, are all. Tokens that contain an exponent of too many
    digits are in none of them.
    """

    ll: LLTokenizer
    bytes_of: Sequence[bytes]
    short_exponents: Sequence[Mask]
    text: Mask  # all ordinary tokens
    end: int  # the special that, in a matcher's mask, says that the text may end here

    def mask(self, ids: Iterable[int], *, text: bool = False) -> Mask:
        """A mask of `ids`, and if wanted of all text."""
        mask = self.text.copy() if text else self.text ^ self.text
        _add(mask, ids)
        return mask


def _short_exponents(bytes_of: Sequence[bytes], none: Mask) -> tuple[Mask, ...]:
    begins = re.compile(rb"[+-]?([0-9]+)")
    whole = re.compile(rb"[eE][+-]?[0-9]{%d}" % (EXPONENT_DIGITS + 1))
    masks = [~none for _ in range(EXPONENT_DIGITS + 2)]
    for id, token in enumerate(bytes_of):
        found = begins.match(token)
        digits = len(found[1]) if found else 0
        for n, mask in enumerate(masks):
            if whole.search(token) or (n <= EXPONENT_DIGITS and digits > n):
                mask[id >> 5] &= 0xFFFFFFFF ^ (1 << (id & 31))
    return tuple(masks)


def _add(mask: Mask, ids: Iterable[int]) -> None:
    for token in ids:
        mask[token >> 5] |= 1 << (token & 31)


def has(mask: Mask, token: int) -> bool:
    """Whether the mask allows the token."""
    return 0 <= token < 32 * len(mask) and bool(int(mask[token >> 5]) >> (token & 31) & 1)


@lru_cache(maxsize=8)
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Takes the better part of a second for 200,000 tokens; the result is cached."""
    import numpy as np
    from llguidance import LLTokenizer

    end = tokenizer.special("<|return|>")
    tokens = _Tokens(tokenizer, end)
    ll = LLTokenizer(tokens)  # type: ignore[arg-type]  # what it reads of a wrapper is there
    allowed = np.zeros(-(-tokenizer.vocab_size // 32) * 32, np.uint8)
    allowed[list(tokenizer.vocabulary.values())] = 1
    text = np.packbits(allowed, bitorder="little").view("<u4").astype(np.uint32)
    text.flags.writeable = False
    return Vocabulary(ll, tokens.tokens, _short_exponents(tokens.tokens, text ^ text), text, end)


class _Tokens:
    """A tokenizer in the form that LLTokenizer reads. Ids without a token are empty, and so never
    allowed.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self.eos_token_id = end
        self.special_token_ids = sorted(tokenizer.specials.values())
        self.tokens = [b""] * tokenizer.vocab_size
        for token, id in tokenizer.vocabulary.items():
            self.tokens[id] = token
        for name, id in tokenizer.specials.items():
            self.tokens[id] = name.encode()
        self._encode = tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


_CACHE = FormatCache()
_NAME = "\0"  # stands for the format's name where an error is kept for others who have the format


def compile_body(body: BodyFormat, tokens: Vocabulary, what: str) -> CompiledFormat:
    """The format, to be started for each use. `what` names it in errors. Kept: who asks again is
    given the same. What of a schema that need not hold is relaxed says `relaxed_in`.

    Raises GrammarError for a format that cannot be enforced or that no text has, GrammarSizeError
    for one that is over a bound.
    """
    text = _text(body, what)
    data = text.encode("utf-8", "surrogatepass")
    is_strict = not isinstance(body, JsonFormat) or body.is_strict
    key = (tokens, type(body), is_strict, blake2b(data, digest_size=16).digest())
    try:
        return _CACHE.get(key, lambda: _compiled(body, text, tokens), len(text))
    except GrammarError as error:
        raise type(error)(str(error).replace(_NAME, what), error.field, error.code) from None


def forget_formats() -> None:
    """All but the latest: nothing has been asked for a while."""
    _CACHE.shrink(RESTING)


def relaxed_in(format: CompiledFormat, what: str) -> tuple[Relaxed, ...]:
    """The keywords that are not enforced, of a schema that is called `what`."""
    return tuple(replace(note, schema=what) for note in format.relaxed)


def _text(body: BodyFormat, what: str) -> str:
    """What there is to compile; equal for formats that are. Raises GrammarError."""
    try:
        match body:
            case JsonFormat(schema):
                return json.dumps(plain(schema))
            case RegexFormat(pattern=text) | LarkFormat(grammar=text):
                return text
    except RecursionError:
        raise GrammarError(f"{what}: the schema is nested too deeply") from None
    except (TypeError, ValueError) as error:  # a lone surrogate, a number of thousands of digits
        raise GrammarError(f"{what}: the schema is not JSON: {error}") from None


def next_mask(matcher: LLMatcher, tokens: Vocabulary, ends: Iterable[int]) -> Mask:
    """The text tokens that may come next, and `ends` if the text may end. Raises GrammarError if
    there are none.
    """
    mask = tokens.text.copy()
    with panics_as_errors():
        # outside of the interpreter's lock
        matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
    if matcher.is_error():
        raise GrammarError(f"the grammar cannot continue: {reason(matcher.get_error())}")
    may_end = has(mask, tokens.end)
    mask &= tokens.text  # a negation in a grammar would let special tokens in
    if may_end:
        _add(mask, ends)
    if not mask.any():
        raise GrammarError("no token of this vocabulary continues the text as the format requires")
    return mask


def _compiled(body: BodyFormat, text: str, tokens: Vocabulary) -> CompiledFormat:
    relaxed: list[Relaxed] = []
    grammar = _grammar(body, text, relaxed)
    try:
        made = CompiledFormat(grammar, tokens.ll, len(text), tuple(relaxed))
    except GrammarError as error:
        raise GrammarError(f"{_NAME}: {error}") from None
    try:
        next_mask(made.start(), tokens, [tokens.end])
    except GrammarError as error:
        raise GrammarError(f"{_NAME}: no text has this format ({error})") from None
    return made


def _grammar(body: BodyFormat, text: str, relaxed: list[Relaxed]) -> str:
    """For llguidance. Here all that it is given is held to the bounds, before anything costly. What
    is not enforced of a schema is added to `relaxed`.
    """
    from llguidance import LLMatcher

    match body:
        case JsonFormat():
            schema = plain(body.schema)
            bounds.check_schema(schema, text, _NAME)
            check_wanted()
            return json_grammar(schema, _NAME, None if body.is_strict else relaxed)
        case RegexFormat():
            bounds.check_pattern(text, _NAME)
            check_wanted()
            with _named():
                return LLMatcher.grammar_from_regex(translate_whole(text))
        case LarkFormat():
            bounds.check_lark(text, _NAME)
            check_wanted()
            with _named():
                text.encode()
                _check_lark(text)
            # not `grammar_from_lark`, whose result is read as JSON if it looks like it
            return json.dumps({"grammars": [{"name": "lark", "lark_grammar": text}]})


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except (GrammarError, UnicodeEncodeError) as error:
        raise GrammarError(f"{_NAME}: {error}") from None


_LARK_SPECIAL = re.compile(r"<[^<>\s]*>?")
_LARK_ATTRIBUTE = re.compile(r"\b(max_tokens|temperature|stop)\s*=")


def _check_lark(grammar: str) -> None:
    """Refuses grammars with control tokens, and attributes that say more than which texts belong to
    the grammar.
    """
    bare = bounds.LARK_LITERAL.sub(" ", grammar)
    if found := _LARK_SPECIAL.search(bare):
        raise GrammarError(
            f"the grammar names the token {found.group()}; a body is text without special tokens"
        )
    if found := _LARK_ATTRIBUTE.search(bare):
        raise GrammarError(
            f"the grammar uses {found.group(1)}=, which a grammar of texts cannot have"
        )
