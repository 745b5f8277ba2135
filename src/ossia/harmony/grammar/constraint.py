"""Walking along a sampled completion: after each token, which tokens may come next.

Knows the grammar that grammar.py has put together: headers as trees of tokens, bodies as matchers
or free text, and a budget. Knows nothing of tools or of what the headers say. Starts no threads:
whoever samples may call `mask` in one, while the model runs.

Headers and free text cost nothing: their masks are a few bits, or constant. A body with a format
asks its matcher, some microseconds a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ossia.errors import GrammarError
from ossia.harmony.grammar.bodies import EXPONENT_DIGITS, Vocabulary, has, next_mask

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from ossia.harmony.grammar.bodies import Mask


@dataclass(frozen=True, eq=False)
class Body:
    """The text of a message and the tokens that may close it. Without a matcher it is any text."""

    ends: tuple[int, ...]
    open: Mask  # any text, or the end
    closed: Mask  # the end only
    matcher: LLMatcher | None = None
    is_thought: bool = False  # counts towards the reasoning budget
    is_call: bool = False
    is_json: bool = False


@dataclass(eq=False)
class Place:
    """A place in a header: what may come next, or that the body begins here."""

    next: dict[int, Place] = field(default_factory=dict)
    body: Body | None = None

    def add(self, ids: Iterable[int], body: Body) -> None:
        """A header, from here on."""
        place = self
        for token in ids:
            place = place.next.setdefault(token, Place())
        place.body = body


@dataclass(frozen=True, eq=False)
class HarmonyGrammar:
    """What `harmony_grammar` makes: immutable, to be started for every sample; safe to share
    between threads.

    `headers` are the messages that may begin, by whether analysis is still allowed and whether a
    call has been made; a completion begins in them. `again` stands before the header of every
    message but the first. `last` are the tokens that end the completion.
    """

    tokens: Vocabulary
    headers: Mapping[tuple[bool, bool], Place]
    again: tuple[int, ...]
    last: frozenset[int]
    reasoning_budget: int | None

    def start(self) -> HarmonyConstraint:
        """A walk that begins behind `<|start|>assistant`, at the end of a completion prompt."""
        return HarmonyConstraint(self)

    def begin(self, thinking: bool, called: bool, *, first: bool) -> Place:
        """Where the next message begins."""
        place = self.headers[thinking, called]
        for token in () if first else reversed(self.again):
            place = Place({token: place})
        return place


class HarmonyConstraint:
    """One completion on its way: `mask` says what may come, `advance` what came. For one thread at
    a time.
    """

    def __init__(self, grammar: HarmonyGrammar) -> None:
        self._grammar = grammar
        self._left = grammar.reasoning_budget
        self._called = self._done = False
        self._mask: Mask | None = None
        self._body: Body | None = None
        self._matcher: LLMatcher | None = None
        self._numbers: _Numbers | None = None
        self._place = self._next_message(first=True)

    @property
    def is_done(self) -> bool:
        """Whether a token that ends the completion has been accepted; nothing may follow."""
        return self._done

    def mask(self) -> Mask:
        """The tokens that may come next: uint32 words [ceil(vocab_size / 32)], the lowest id in the
        lowest bit. All zero after the end. Not to be written to. Raises GrammarError if a grammar
        turns out too complex.
        """
        if self._mask is None:
            self._mask = self._compute()
            self._mask.flags.writeable = False
        return self._mask

    def advance(self, token: int) -> None:
        """`token` has been sampled. Raises GrammarError if the mask does not allow it."""
        if not has(self.mask(), token):
            raise GrammarError(f"token {token} is not among those that may come next")
        self._mask = None
        body = self._body
        if body is None:
            self._place = self._place.next[token]
            if self._place.body is not None:
                self._open(self._place.body)
        elif token in body.ends:
            self._close(token)
        elif self._matcher is not None:
            self._matcher.consume_token(token)  # should it fail, the next mask does
            if self._numbers is not None:
                self._numbers.feed(self._grammar.tokens.bytes_of[token])
        elif body.is_thought and self._left is not None:
            self._left -= 1

    def _open(self, body: Body) -> None:
        self._body = body
        self._matcher = None if body.matcher is None else body.matcher.deep_copy()
        self._numbers = _Numbers() if body.is_json else None

    def _close(self, token: int) -> None:
        assert self._body is not None
        self._called = self._called or self._body.is_call
        self._body = self._matcher = None
        self._done = token in self._grammar.last
        self._place = self._next_message(first=False)

    def _next_message(self, *, first: bool) -> Place:
        return self._grammar.begin(self._left != 0, self._called, first=first)

    def _compute(self) -> Mask:
        tokens, body = self._grammar.tokens, self._body
        if self._done:
            return tokens.mask(())
        if body is None:
            return tokens.mask(self._place.next)
        if self._matcher is not None:
            mask = next_mask(self._matcher, tokens, body.ends)
            if self._numbers is not None and (digits := self._numbers.digits_left) is not None:
                mask &= tokens.short_exponents[digits]
            return mask
        return body.closed if body.is_thought and self._left == 0 else body.open


class _Numbers:
    """Follows JSON text to the exponents of its numbers. The compiler sets those no limit, but
    1e999 is infinite for most readers, and so no JSON any more.
    """

    def __init__(self) -> None:
        self._in_string = self._escaped = False
        self._exponent: int | None = None  # digits of the exponent that the text is in

    @property
    def digits_left(self) -> int | None:
        """An index for `Vocabulary.short_exponents`; None in a string, where digits are no
        number's.
        """
        if self._in_string:
            return None
        return -1 if self._exponent is None else EXPONENT_DIGITS - self._exponent

    def feed(self, data: bytes) -> None:
        for byte in data:
            if self._in_string:
                if self._escaped or byte == _BACKSLASH:
                    self._escaped = not self._escaped
                elif byte == _QUOTE:
                    self._in_string = False
            elif byte == _QUOTE:
                self._in_string, self._exponent = True, None
            elif byte in b"eE":
                self._exponent = 0
            elif self._exponent is not None and byte in b"0123456789":
                self._exponent += 1
            elif byte not in b"+-":
                self._exponent = None


_QUOTE, _BACKSLASH = b'"\\'
