"""Walking along a sampled completion: after each token, which tokens may come next.

Knows the grammar that completion.py puts together: headers as trees of tokens, bodies as matchers
or free text, and budgets. Does not know tools or the meaning of headers. Starts no threads: the
sampling side may call `mask` in one while the model runs.

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
    from ossia.harmony.grammar.kept import CompiledFormat
    from ossia.harmony.grammar.keywords import Relaxed


# of a completion that has to call: enough for a header and a few arguments
CALL_TOKENS = 64


@dataclass(frozen=True, eq=False)
class Body:
    """The text of a message and the tokens that may close it. Without a format, any text."""

    ends: tuple[int, ...]
    open: Mask  # any text, or the end
    closed: Mask  # the end only
    format: CompiledFormat | None = None
    is_thought: bool = False  # counts against the reasoning budget
    is_call: bool = False
    is_json: bool = False

    @property
    def is_preamble(self) -> bool:
        """Whether it is text before a call, if a call has to come."""
        return not (self.is_thought or self.is_call)


@dataclass(eq=False)
class Place:
    """A place in a header: what may come next, or that the body begins here."""

    next: dict[int, Place] = field(default_factory=dict)
    body: Body | None = None

    def add(self, ids: Iterable[int], body: Body) -> None:
        """Adds a header that begins here, and the body after it."""
        place = self
        for token in ids:
            place = place.next.setdefault(token, Place())
        place.body = body


@dataclass(frozen=True, eq=False)
class HarmonyGrammar:
    """The grammar of a completion, made by `harmony_grammar` and started once for every sample.
    Immutable, and safe to share between threads.

    `headers` are the messages that may begin, by whether analysis is still allowed, whether a
    preamble is, and whether a call has been made; a completion begins in them. `again` comes before
    the header of every message but the first. `last` are the tokens that end the completion.
    `must_call`: nothing but a call may be the last message. `relaxed`: what sampling is not held
    to, by the recipient whose schema it is of; None: of the response format.
    """

    tokens: Vocabulary
    headers: Mapping[tuple[bool, bool, bool], Place]
    again: tuple[int, ...]
    last: frozenset[int]
    reasoning_budget: int | None
    must_call: bool = False
    relaxed: Mapping[str | None, tuple[Relaxed, ...]] = field(default_factory=dict)

    def start(self) -> HarmonyConstraint:
        """A walk that begins after `<|start|>assistant`, at the end of a completion prompt."""
        return HarmonyConstraint(self)

    def begin(self, thinking: bool, preamble: bool, called: bool, *, first: bool) -> Place:
        """Where the next message begins."""
        place = self.headers[thinking, preamble, called]
        if first:
            return place
        for token in reversed(self.again):
            place = Place({token: place})
        return place


class HarmonyConstraint:
    """One completion while it is sampled: `mask` says which tokens may come, `advance` takes the
    one that came. For one thread at a time.

    Before a call that has to come there are one analysis message and one preamble at most, and
    together they may take the share of the tokens that `within` sets aside.
    """

    def __init__(self, grammar: HarmonyGrammar) -> None:
        self._grammar = grammar
        self._left = grammar.reasoning_budget
        self._before_call: int | None = None  # tokens that may still come before it; None: any
        self._thought = False  # whether there has been analysis since the last call
        self._preamble = False  # and a preamble
        self._called = False
        self._done = False
        self._mask: Mask | None = None
        self._body: Body | None = None
        self._matcher: LLMatcher | None = None
        self._numbers: _Numbers | None = None
        self._place = self._next_message(first=True)

    @property
    def is_done(self) -> bool:
        """Whether a token that ends the completion has been accepted; nothing may follow."""
        return self._done

    def within(self, tokens: int) -> None:
        """The completion has this many tokens at most. A call that has to come gets at least half
        of them, and `CALL_TOKENS` before anything else gets some.
        """
        self._before_call = max(0, tokens - max(CALL_TOKENS, tokens // 2))
        self._mask = None
        if self._body is None:
            self._place = self._next_message(first=True)

    def mask(self) -> Mask:
        """The tokens that may come next: uint32 words [ceil(vocab_size / 32)], the lowest id in the
        lowest bit. All zero after the end. Read-only. Raises GrammarError if a grammar turns out to
        be too complex.
        """
        if self._mask is None:
            self._mask = self._compute()
            self._mask.flags.writeable = False
        return self._mask

    def advance(self, token: int) -> None:
        """Takes the token that was sampled. Raises GrammarError if the mask does not allow it."""
        if not has(self.mask(), token):
            raise GrammarError(f"token {token} may not come next")
        self._mask = None
        body = self._body
        if self._before_call and not (body is not None and body.is_call):
            self._before_call -= 1
        if body is None:
            self._place = self._place.next[token]
            if self._place.body is not None:
                self._open(self._place.body)
        elif token in body.ends:
            self._close(token)
        elif self._matcher is not None:
            self._matcher.consume_token(token)  # if that fails, so will the next mask
            if self._numbers is not None:
                self._numbers.feed(self._grammar.tokens.bytes_of[token])
        elif body.is_thought and self._left is not None:
            self._left -= 1

    def _open(self, body: Body) -> None:
        self._body = body
        self._matcher = None if body.format is None else body.format.start()
        self._numbers = _Numbers() if body.is_json else None

    def _close(self, token: int) -> None:
        body = self._body
        assert body is not None
        self._called |= body.is_call
        self._thought = not body.is_call and (self._thought or body.is_thought)
        self._preamble = not body.is_call and (self._preamble or body.is_preamble)
        if body.format is not None and self._matcher is not None:
            body.format.ended(self._matcher)
        self._body = None
        self._matcher = None
        self._done = token in self._grammar.last
        self._place = self._next_message(first=False)

    def _next_message(self, *, first: bool) -> Place:
        thinking = self._left != 0
        preamble = True
        if self._call_is_due:
            has_room = self._before_call != 0
            thinking = thinking and has_room and not self._thought
            preamble = has_room and not self._preamble
        return self._grammar.begin(thinking, preamble, self._called, first=first)

    @property
    def _call_is_due(self) -> bool:
        """Whether only a call can end this: the choice says so, or one has been made, which ended
        so that another follows.
        """
        return self._grammar.must_call or self._called

    def _must_close(self, body: Body) -> bool:
        if body.is_thought and self._left == 0:
            return True
        return self._before_call == 0 and self._call_is_due and not body.is_call

    def _compute(self) -> Mask:
        tokens = self._grammar.tokens
        body = self._body
        if self._done:
            return tokens.mask(())
        if body is None:
            return tokens.mask(self._place.next)
        if self._matcher is None:
            return body.closed if self._must_close(body) else body.open
        mask = next_mask(self._matcher, tokens, body.ends)
        digits = self._numbers.digits_left if self._numbers is not None else None
        if digits is not None:
            mask &= tokens.short_exponents[digits]
        return mask


class _Numbers:
    """Follows JSON text to the exponents of its numbers. The compiler does not limit them, but most
    readers take 1e999 for infinity, which is not JSON.
    """

    def __init__(self) -> None:
        self._in_string = False
        self._escaped = False
        self._exponent: int | None = None  # the digits so far, inside an exponent

    @property
    def digits_left(self) -> int | None:
        """An index for `Vocabulary.short_exponents`; None in a string, where digits are text."""
        if self._in_string:
            return None
        if self._exponent is None:
            return -1
        return EXPONENT_DIGITS - self._exponent

    def feed(self, data: bytes) -> None:
        for byte in data:
            if self._in_string:
                if self._escaped or byte == _BACKSLASH:
                    self._escaped = not self._escaped
                elif byte == _QUOTE:
                    self._in_string = False
            elif byte == _QUOTE:
                self._in_string = True
                self._exponent = None
            elif byte in b"eE":
                self._exponent = 0
            elif self._exponent is not None and byte in b"0123456789":
                self._exponent += 1
            elif byte not in b"+-":
                self._exponent = None


_QUOTE, _BACKSLASH = b'"\\'
