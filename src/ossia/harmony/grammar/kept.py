"""Compiled formats, kept for those who ask again: agents declare the same tools with every request.

Knows what a compiled grammar takes (compiling.py); nothing of schemas and messages. Bounded in
bytes, not in number, and failures are kept as well: what could not be compiled is not tried again.
Who has much to compile may do it in parts (`Parts`), and let others have their turn in between.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ossia.errors import GrammarError, GrammarSizeError
from ossia.harmony.grammar.compiling import (
    GivenUp,
    lexer_fuel,
    matcher_bytes,
    matcher_of,
    with_deep_stack,
)
from ossia.harmony.grammar.keywords import Relaxed

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# Bytes: some hundreds of ordinary tools. The more of them come and go, the more of the heap is left
# in pieces that the system cannot have back.
CACHED = 64 << 20
RESTING = 2 << 20  # bytes that stay while nothing is asked
FAILURE_BYTES = 2 << 10
# All that start from a matcher share its lexer, which grows with the texts that pass. It has a
# limit, too: without a fresh one now and then a tool that is called often could be called no more.
FUEL_OF_A_LEXER = 500_000
PART = 64 << 10  # characters that are compiled in one go while somebody waits
FORMAT = 4 << 10  # as which every format counts besides its own


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
        self.when_started: Callable[[], None] | None = None
        self.when_ended: Callable[[], None] | None = None
        self._grammar = grammar
        self._ll = ll
        self._first = matcher_of(grammar, ll)
        self._fresh_fuel = self._measured()
        self._fuel = self._fresh_fuel
        self._noted = sum(len(note.keyword) + len(note.reason) for note in relaxed)

    def start(self) -> LLMatcher:
        """A matcher for one text."""
        if self._fuel > self._fresh_fuel + FUEL_OF_A_LEXER:
            self._first = with_deep_stack(lambda: matcher_of(self._grammar, self._ll))
            self._fuel = self._fresh_fuel
        if self.when_started is not None:
            self.when_started()
        return self._first.deep_copy()

    def ended(self, matcher: LLMatcher) -> None:
        """`matcher`, which `start` gave, is not needed any more."""
        self._fuel = max(self._fuel, lexer_fuel(matcher))
        if self.when_ended is not None:
            self.when_ended()

    def measure(self) -> None:
        """Finds out what `bytes` is now: a text may have been broken off, without a word."""
        self._fuel = max(self._fuel, self._measured())

    def _measured(self) -> int:
        copy = self._first.deep_copy()
        copy.compute_bitmask()
        return lexer_fuel(copy)

    @property
    def bytes(self) -> int:
        """As of the last text that ended, or of `measure`."""
        return matcher_bytes(self._grammar, self._fuel) + self._noted


@dataclass(frozen=True)
class _Failure:
    """Data, as the exception itself would keep alive all that it has passed through."""

    kind: type[GrammarError]
    text: str
    field: str | None
    code: str | None

    @classmethod
    def of(cls, error: GrammarError) -> _Failure:
        kind = GrammarSizeError if isinstance(error, GrammarSizeError) else GrammarError
        return cls(kind, str(error), error.field, error.code)

    @property
    def error(self) -> GrammarError:
        return self.kind(self.text, self.field, self.code)

    @property
    def bytes(self) -> int:
        return FAILURE_BYTES + len(self.text)


@dataclass
class Parts:
    """The formats of one request, compiled in parts. `is_wanted`: whether somebody else waits.
    What was there once is not asked for again, so that every part comes further than the last.
    """

    is_wanted: Callable[[], bool]
    found: dict[Hashable, CompiledFormat | _Failure] = field(default_factory=dict)
    done: int = 0  # characters in this part

    @contextmanager
    def one(self) -> Iterator[None]:
        """What is compiled inside, in this context, raises `GivenUp` before the next format when
        the part is over.
        """
        self.done = 0
        token = _parts.set(self)
        try:
            yield
        finally:
            _parts.reset(token)

    def begin(self, characters: int) -> None:
        if self.done >= PART and self.is_wanted():
            raise GivenUp
        self.done += FORMAT + characters


_parts: ContextVar[Parts | None] = ContextVar("parts", default=None)


class FormatCache:
    """The least recently used go first."""

    def __init__(self, limit: int = CACHED) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, CompiledFormat | _Failure] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}  # of what is kept, when it was last weighed
        self._total = 0  # of the sizes
        self._started: set[Hashable] = set()  # since they were last measured

    def get(
        self, key: Hashable, make: Callable[[], CompiledFormat], characters: int = 0
    ) -> CompiledFormat:
        """What `make()` made of so many characters, now or before. Raises a GrammarError that says
        what its first one said.
        """
        parts = _parts.get()
        found = None if parts is None else parts.found.get(key)
        if found is None:
            found = self._get(key)
        if found is None:
            if parts is not None:
                parts.begin(characters)
            found = self._add(key, make)
        if parts is not None:
            parts.found[key] = found
        if isinstance(found, _Failure):
            raise found.error
        return found

    def _get(self, key: Hashable) -> CompiledFormat | _Failure | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _add(self, key: Hashable, make: Callable[[], CompiledFormat]) -> CompiledFormat | _Failure:
        found = self._made(key, make)
        with self._lock:
            self._kept[key] = found
        self._weigh(key)
        self._measure_started()
        return found

    def _made(self, key: Hashable, make: Callable[[], CompiledFormat]) -> CompiledFormat | _Failure:
        try:
            made = with_deep_stack(make)
        except GrammarError as error:
            return _Failure.of(error)
        made.when_started = lambda: self._note_start(key)
        made.when_ended = lambda: self._weigh(key)
        return made

    def _note_start(self, key: Hashable) -> None:
        with self._lock:
            if key in self._kept:
                self._started.add(key)

    def _measure_started(self) -> None:
        """Measuring takes a while, so it is done outside of the lock, for those in use alone."""
        with self._lock:
            started = {key: self._kept.get(key) for key in self._started}
            self._started -= started.keys()
        for key, format in started.items():
            if isinstance(format, CompiledFormat):
                format.measure()
                self._weigh(key)

    def shrink(self, limit: int) -> None:
        """To so many bytes, for now."""
        with self._lock:
            self._drop_oldest(limit, 0)

    def _weigh(self, key: Hashable) -> None:
        """Counts what one takes now, and makes room for it."""
        with self._lock:
            if key not in self._kept:
                return
            size = self._kept[key].bytes
            self._total += size - self._sizes.get(key, 0)
            self._sizes[key] = size
            self._drop_oldest(self._limit, 1)

    def _drop_oldest(self, limit: int, fewest: int) -> None:
        while len(self._kept) > fewest and self._total > limit:
            oldest, _ = self._kept.popitem(last=False)
            self._total -= self._sizes.pop(oldest, 0)
            self._started.discard(oldest)

    @property
    def bytes(self) -> int:
        """An estimate that errs on the large side."""
        self._measure_started()
        return self._total
