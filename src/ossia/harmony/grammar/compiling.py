"""llguidance's compiler: its stack, its limits, its failures as our errors, and what a compiled
grammar takes.

Knows llguidance's calls; schema.py knows the meaning of schemas, bounds.py how large they may be.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ossia.errors import GrammarError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

T = TypeVar("T")
# Bytes. The compiler takes up to 9 KB of it for a level of a schema, and bounds.py lets 20,000
# levels through at the very most. Only what is touched becomes memory, until the thread ends.
STACK = 256 << 20
_starting = threading.Lock()


class GivenUp(Exception):
    """Nobody waits for the grammar any more."""


_is_given_up: ContextVar[Callable[[], bool]] = ContextVar("is_given_up", default=lambda: False)


@contextmanager
def giving_up(when: Callable[[], bool]) -> Iterator[None]:
    """What is compiled inside, in this context, raises `GivenUp` before the next call of the
    compiler once `when()` is true.
    """
    token = _is_given_up.set(when)
    try:
        yield
    finally:
        _is_given_up.reset(token)


def check_wanted() -> None:
    """Raises GivenUp."""
    if _is_given_up.get()():
        raise GivenUp


def with_deep_stack(work: Callable[[], T]) -> T:
    """The result of `work()`, or what it raises, from a thread of its own with a stack of STACK
    bytes: a caller's may be small, and the compiler's recursion ends the process where it is over.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=copy_context().run, args=(run,), name="grammar", daemon=True)
    with _starting:
        before = threading.stack_size(STACK)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@dataclass(frozen=True)
class Complaint:
    """llguidance's objection to a schema.

    `kind`: "empty" if no value validates, "overlap" if options of `oneOf` may overlap. llguidance
    gives only texts, so its English is read here and nowhere else.
    """

    text: str
    kind: Literal["empty", "overlap", "other"]

    @classmethod
    def of(cls, text: str) -> Complaint:
        if text.startswith("Unsatisfiable"):
            return cls(text, "empty")
        return cls(text, "overlap" if text.startswith("oneOf") else "other")

    def __str__(self) -> str:
        return self.text


def compiled(schema: Any) -> tuple[str, Complaint | None]:
    """The grammar, and llguidance's objection to it, if any. Raises RecursionError for a schema
    that is nested too deeply.
    """
    from llguidance import LLMatcher

    check_wanted()
    # Where JSON allows blanks between its tokens, a model may write some, but not endlessly many.
    blanks = r"[ \t]{1,8}|\n[ \t]{0,40}"
    try:
        grammar = LLMatcher.grammar_from_json_schema(
            json.dumps(schema), overrides={"whitespace_pattern": blanks}
        )
    except ValueError as error:
        # Its JSON reader accepts 128 levels of objects and lists.
        if "recursion limit" in str(error):
            raise RecursionError(str(error)) from None
        raise
    try:
        with panics_as_errors():
            text = LLMatcher.validate_grammar(grammar, limits=limits())
    except GrammarError as error:  # the compiler may fail over odd but legal schemas
        text = str(error)
    return grammar, Complaint.of(text) if text else None


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """llguidance's panics, which pyo3 raises outside of Exception, as GrammarError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise GrammarError(f"llguidance failed over it ({error})") from None


def limits() -> LLParserLimits:
    """Of the compiler and of a step. Giving up in the middle of a text costs more than a slow step;
    ordinary steps never come near. A unit of fuel is up to FUEL_BYTES of memory and some 50 ns.
    """
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=2_000_000,
        step_lexer_fuel=2_000_000,
        max_lexer_states=100_000,
        max_items_in_row=20_000,
        step_max_items=500_000,
    )


def matcher_of(grammar: str, ll: LLTokenizer) -> LLMatcher:
    """Of what llguidance's `grammar_from_...` made. Raises GrammarError."""
    from llguidance import LLMatcher

    check_wanted()
    with panics_as_errors():
        matcher = LLMatcher(ll, _without_forcing(grammar), log_level=0, limits=limits())
    if matcher.is_error():
        raise GrammarError(reason(matcher.get_error()))
    return matcher


def _without_forcing(grammar: str) -> str:
    """llguidance works out all the text that must follow, and its tokens, before every mask: a
    million steps for `x{1000000}`, where the next token is all that a mask needs.
    """
    data = json.loads(grammar)
    (only,) = data["grammars"]
    option = '\n%llguidance {"no_forcing": true}\n'  # the last one counts
    if only.get("lark_grammar") is not None:
        only["lark_grammar"] += option
    else:
        start = {"name": "start", "lark_grammar": f"{option}start: @{only['name']}"}
        data["grammars"].insert(0, start)
    return json.dumps(data)


def reason(error: str) -> str:
    """Without the state that llguidance appends for its own developers."""
    return re.split("<(?:state|backtrace)>", error, maxsplit=1)[0].rstrip()[:600]


# ---- memory ----
# Measured with 200 grammars of each of ten kinds: 20 KB for the smallest, and at most 45 bytes a
# character of a large one. The lexer grows as it is used, by 20 bytes a unit of fuel at most.

MATCHER_BYTES = 100 << 10
CHARACTER_BYTES = 64
FUEL_BYTES = 20


def matcher_bytes(grammar: str, fuel: int) -> int:
    """What a matcher and its copies, which share a lexer, take; the lexer has burnt `fuel`."""
    return MATCHER_BYTES + CHARACTER_BYTES * len(grammar) + FUEL_BYTES * fuel


_FUEL = re.compile(r'"lexer_cost": (\d++)')


def lexer_fuel(matcher: LLMatcher) -> int:
    """The fuel that the lexer had burnt at the last mask of `matcher`. llguidance tells it only in
    the state that comes with an error.
    """
    copy = matcher.deep_copy()
    copy.consume_tokens([2**32 - 1])
    found = _FUEL.search(copy.get_error())
    return int(found[1]) if found else 0
