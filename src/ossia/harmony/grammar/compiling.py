"""llguidance's compiler of JSON schemas, and its failures as our errors.

Knows llguidance's calls; what a schema means to us is schema.py's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from ossia.errors import GrammarError


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
            text = LLMatcher.validate_grammar(grammar)
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
