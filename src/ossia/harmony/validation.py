"""Whether a value fits a JSON schema, as people write them: after sampling, for what a grammar
could not enforce, and for calls that were mended.

Knows JSON schema (2020-12, with older spellings in their sense, as grammar/schema.py) and the
`jsonschema` package; nothing of grammars. Schemas come from strangers, so the work is bounded, and
what is wrong in a schema says nothing: keywords of the wrong form are passed over, references lead
nowhere outside, and all of it runs against a clock. `format` describes only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any

MOST_STEPS = 100_000  # keywords that are looked at, and what their lists and objects hold
MOST_SECONDS = 0.3  # of this thread's processor: a busy machine changes no answer
MOST_PROBLEMS = 3  # that are told
LONGEST = 200  # characters of one problem
SHORT = 32 << 10  # characters of a schema that is looked through as a whole: 6 us each

Check = Callable[[Any, Any, Any, Any], Any]


class Undecided(Exception):
    """Finding out takes too long, or the schema as a whole says nothing that can be checked."""


@dataclass
class _Budget:
    schema: Schema
    steps: int
    end: float  # on `thread_time`
    passed_over: bool = False

    def take_step(self, cost: int = 1) -> float:
        """The seconds that are left."""
        self.steps -= cost
        left = self.end - time.thread_time()
        if self.steps < 0 or left <= 0:
            raise Undecided("the check takes too long")
        return left

    def found(self, pattern: str, text: str) -> bool:
        # It has a clock, and reads ECMAScript's \p{..}.
        import regex  # type: ignore[import-untyped]

        try:
            return regex.search(pattern, text, timeout=self.take_step()) is not None
        except TimeoutError as error:
            raise Undecided("a pattern takes too long") from error


_budget: ContextVar[_Budget] = ContextVar("_budget")


class Schema:
    """A schema, and what is found out about it as a whole: once, however many are checked."""

    def __init__(self, given: Mapping[str, Any] | bool) -> None:
        self.given = given if isinstance(given, bool) else dict(given)

    def problems(self, value: Any, *, certain: bool = False) -> str | None:
        """What is wrong with a value, for the model to read; None if it fits. Raises `Undecided`;
        `certain`: also if something in the schema was passed over.
        """
        import referencing

        make = _validator()
        budget = _Budget(self, MOST_STEPS, time.thread_time() + MOST_SECONDS)
        token = _budget.set(budget)
        try:
            # With a registry of our own no reference is fetched from the network.
            validator = make(self.given, registry=referencing.Registry())
            found = islice(validator.iter_errors(value), MOST_PROBLEMS)
            told = [f"{error.json_path}: {error.message:.{LONGEST}}" for error in found]
        except RecursionError as error:
            raise Undecided("nested too deeply") from error
        finally:
            _budget.reset(token)
        if certain and budget.passed_over:
            raise Undecided("a keyword cannot be checked")
        return "; ".join(told) or None

    @cached_property
    def has_key_patterns(self) -> bool:
        return "'patternProperties'" in self._text

    @property
    def is_short(self) -> bool:
        return len(self._text) <= SHORT

    @cached_property
    def is_sound(self) -> bool:
        """Whether it is a schema by the letter, short, and without regular expressions."""
        # slow to import, and rarely needed
        import jsonschema  # type: ignore[import-untyped, unused-ignore]

        if not self.is_short:
            return False
        try:
            jsonschema.Draft202012Validator.check_schema(self.given)
            return not _has_regex(self.given)
        except Exception:  # a schema can be wrong in every way
            return False

    @cached_property
    def _text(self) -> str:
        try:
            return repr(self.given)
        except RecursionError as error:
            raise Undecided("nested too deeply") from error


def problems(value: Any, schema: Mapping[str, Any] | bool) -> str | None:
    """`Schema.problems`, of a schema that is used once."""
    return Schema(schema).problems(value)


def _has_regex(schema: Any) -> bool:
    """Whether a keyword with regular expressions occurs. A property may be called `pattern`; then
    its value is a schema, not a string.
    """
    if isinstance(schema, list | tuple):
        return any(map(_has_regex, schema))
    if not isinstance(schema, Mapping):
        return False
    if isinstance(schema.get("pattern"), str) or "patternProperties" in schema:
        return True
    return any(map(_has_regex, schema.values()))


@lru_cache(maxsize=1)
def _validator() -> Any:
    # slow to import, and rarely needed
    import jsonschema  # type: ignore[import-untyped, unused-ignore]

    old = jsonschema.Draft7Validator.VALIDATORS
    known = {**old, **jsonschema.Draft202012Validator.VALIDATORS}
    known |= {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
        "items": _items(known["items"], old["items"]),
        "exclusiveMinimum": _exclusive(known["exclusiveMinimum"], "minimum"),
        "exclusiveMaximum": _exclusive(known["exclusiveMaximum"], "maximum"),
    }
    for name in ("unevaluatedProperties", "unevaluatedItems", "$dynamicRef"):
        known[name] = _without_patterns(known[name])
    for name in ("$ref", "$dynamicRef"):
        known[name] = _by_pointer(known[name])
    checks = {}
    for name, check in known.items():
        checks[name] = _guarded(name, check)
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, validators=checks)


def _guarded(keyword: str, check: Check) -> Check:
    def checked(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
        held = len(wanted) if isinstance(wanted, list | dict) else 0
        _budget.get().take_step(1 + held)
        if wanted is None and keyword != "const":
            return
        if value is None and schema.get("nullable") is True:
            return
        try:
            yield from check(validator, wanted, value, schema) or ()
        except (Undecided, RecursionError):
            raise
        except Exception:  # a keyword can have every wrong form
            _budget.get().passed_over = True

    return checked


def _wrong(message: str) -> Iterator[Any]:
    from jsonschema import ValidationError

    yield ValidationError(message)


def _without_patterns(check: Check) -> Check:
    """These match the patterns of keys without a clock."""

    def checked(validator: Any, wanted: Any, value: Any, schema: Any) -> Any:
        if _budget.get().schema.has_key_patterns:
            raise NotImplementedError
        return check(validator, wanted, value, schema)

    return checked


def _by_pointer(check: Check) -> Check:
    """For any other reference the whole schema is searched, each time: only of short ones."""

    def checked(validator: Any, wanted: Any, value: Any, schema: Any) -> Any:
        is_pointer = isinstance(wanted, str) and wanted[:2] in ("#", "#/")
        if not is_pointer and not _budget.get().schema.is_short:
            raise NotImplementedError
        return check(validator, wanted, value, schema)

    return checked


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(value, str):
        return
    if not _budget.get().found(pattern, value):
        yield from _wrong(f"{value!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, value: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(value, dict):
        return
    for pattern, inner in patterns.items():
        for key, item in value.items():
            if _budget.get().found(pattern, key):
                yield from validator.descend(item, inner, path=key, schema_path=pattern)


def _additional_properties(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(value, dict):
        return
    patterns = schema.get("patternProperties") or ()
    declared = schema.get("properties") or ()
    for key, item in value.items():
        if key in declared:
            continue
        if any(_budget.get().found(pattern, key) for pattern in patterns):
            continue
        if wanted is False:
            yield from _wrong(f"the key {key!r} is not allowed")
        else:
            yield from validator.descend(item, wanted, path=key)


def _unique_items(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
    if wanted is not True or not isinstance(value, list):
        return
    texts = set()
    for item in value:
        texts.add(json.dumps(_whole(item), sort_keys=True))
    if len(texts) < len(value):
        yield from _wrong("there are equal items in it")


def _whole(value: Any) -> Any:
    """The value, with 1.0 as 1, which it equals in JSON schema."""
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _items(of_today: Check, of_old: Check) -> Check:
    def items(validator: Any, wanted: Any, value: Any, schema: Any) -> Any:
        check = of_old if isinstance(wanted, list) else of_today
        return check(validator, wanted, value, schema)

    return items


def _exclusive(of_today: Check, bound: str) -> Check:
    def exclusive(validator: Any, wanted: Any, value: Any, schema: Any) -> Any:
        if not isinstance(wanted, bool):
            return of_today(validator, wanted, value, schema)
        if wanted:
            return of_today(validator, schema[bound], value, schema)
        return ()

    return exclusive
