"""Compiled formats, kept for those who ask again: agents declare the same tools with every request.

Knows what a compiled grammar takes (compiling.py); nothing of schemas and messages. Bounded in
bytes, not in number, and failures are kept as well: what could not be compiled is not tried again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from ossia.errors import GrammarError
from ossia.harmony.grammar.compiling import (
    lexer_fuel,
    matcher_bytes,
    matcher_of,
    with_deep_stack,
)
from ossia.harmony.grammar.keywords import Relaxed

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

CACHED = 256 << 20  # bytes
FAILURE_BYTES = 2 << 10
# All that start from a matcher share its lexer, which grows with the texts that pass. It has a
# limit, too: without a fresh one now and then a tool that is called often could be called no more.
FUEL_OF_A_LEXER = 500_000


class CompiledFormat:
    """A format's matcher at its beginning. Threads may share it. `characters`: of its text.
    `relaxed`: what it does not enforce.
    """

    def __init__(
        self,
        grammar: str,
        ll: LLTokenizer,
        characters: int,
        relaxed: tuple[Relaxed, ...] = (),
    ) -> None:
        self.characters = characters
        self.relaxed = relaxed
        self._grammar = grammar
        self._ll = ll
        self._first = matcher_of(grammar, ll)
        self._fresh_fuel = self._measured()
        self._fuel = self._fresh_fuel
        self._was_started = False

    def start(self) -> LLMatcher:
        """A matcher for one text."""
        if self._fuel > self._fresh_fuel + FUEL_OF_A_LEXER:
            self._first = with_deep_stack(lambda: matcher_of(self._grammar, self._ll))
            self._fuel = self._fresh_fuel
        self._was_started = True
        return self._first.deep_copy()

    def ended(self, matcher: LLMatcher) -> None:
        """`matcher`, which `start` gave, is not needed any more."""
        self._fuel = max(self._fuel, lexer_fuel(matcher))

    def _measured(self) -> int:
        copy = self._first.deep_copy()
        copy.compute_bitmask()
        return lexer_fuel(copy)

    @property
    def bytes(self) -> int:
        if self._was_started:  # and its text may have been broken off, without a word
            self._was_started = False
            self._fuel = max(self._fuel, self._measured())
        return matcher_bytes(self._grammar, self._fuel)


class FormatCache:
    """The least recently used go first."""

    def __init__(self, limit: int = CACHED) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, CompiledFormat | GrammarError] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], CompiledFormat]) -> CompiledFormat:
        """What `make()` made, now or before. Raises the GrammarError that it raised."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            found = self._kept.get(key)
        if found is None:
            found = self._made(make)
            with self._lock:
                self._kept[key] = found
                self._shrink()
        if isinstance(found, GrammarError):
            raise found.with_traceback(None)
        return found

    def _made(self, make: Callable[[], CompiledFormat]) -> CompiledFormat | GrammarError:
        try:
            return with_deep_stack(make)
        except GrammarError as error:
            return error.with_traceback(None)

    def _shrink(self) -> None:
        while len(self._kept) > 1 and self.bytes > self._limit:
            self._kept.popitem(last=False)

    @property
    def bytes(self) -> int:
        """An estimate that errs on the large side."""
        return sum(
            FAILURE_BYTES if isinstance(each, GrammarError) else each.bytes
            for each in self._kept.values()
        )
