"""llguidance's compiler of JSON schemas, and its failures as errors of ours.

Knows llguidance's calls; what a schema means to us is enforceable.py's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ossia.errors import GrammarError


def compiled(schema: Any) -> tuple[str, str]:
    """The grammar, and what llguidance has against it ("" if nothing). RecursionError for what is
    nested too deeply.
    """
    from llguidance import LLMatcher

    # Where JSON allows blanks between its tokens, a model may write some, but not without end.
    blanks = r"[ \t]{1,8}|\n[ \t]{0,40}"
    try:
        grammar = LLMatcher.grammar_from_json_schema(
            json.dumps(schema), overrides={"whitespace_pattern": blanks}
        )
    except ValueError as error:
        if "recursion limit" in str(
            error
        ):  # its JSON reader's: 128 objects and lists in each other
            raise RecursionError(str(error)) from None
        raise
    try:
        with panics_as_errors():
            return grammar, LLMatcher.validate_grammar(grammar)
    except GrammarError as error:  # the compiler may fail over odd but legal schemas
        return grammar, str(error)


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """llguidance's panics, which pyo3 raises outside of Exception, as GrammarError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise GrammarError(f"llguidance failed over it ({error})") from None
