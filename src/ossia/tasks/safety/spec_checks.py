"""From the tables of a policy's file to a `Policy`, or to what is wrong in them, by line, category
and rule, and what to write instead.

Every kind of file comes to the same tables: `{"name": ..., "category": [{"name": ..., "rule":
[...]}]}`. Knows no file and no syntax; how something is written in one is its `Form`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ossia.errors import DataError
from ossia.tasks.safety.specs import VERDICTS, Case, Category, Policy, Rule, Unless, Verdict

WHOLE = ("name", "names", "category")
OF_CATEGORY = ("name", "about", "rule", "case")
OF_RULE = ("number", "verdict", "text", "unless", "examples", "near_misses")
OF_EXCEPTION = ("when", "verdict")
OF_CASE = ("prompt", "good", "bad", "rule")
MOST_NUMBER = 999_999  # that reasoning cites as "rule 999999"

Form = Mapping[str, str]  # how each key is written, where that is not KEY = '...'


class Table(dict[str, Any]):
    """A table, the line on which it begins, and those of its keys that stand on lines of their
    own. Lines are counted from 1.
    """

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}


def policy_of(data: Mapping[str, Any], file: str, form: Form) -> Policy:
    """Raises `DataError`."""
    at = _At(data, file, (), form)
    at.knows(WHOLE)
    categories = []
    names: set[str] = set()
    numbers: set[int] = set()
    for each in at.tables("category"):
        category = _category(each, numbers)
        if category.name in names:
            twice = each.named(f"category {category.name!r}")
            raise twice.wrong(f"two categories are called {category.name}: give each its own name")
        names.add(category.name)
        categories.append(category)
    if not categories:
        raise at.wrong(f"has no category: write {at.how('category')}")
    name = at.line("name")
    return Policy(name, tuple(categories), at.texts("names") or names_of(name))


def names_of(name: str) -> tuple[str, ...]:
    """What an answer may not call a policy that says nothing of it."""
    return (f"{name} policy",)


def _category(at: _At, numbers: set[int]) -> Category:
    """`numbers`: of the rules so far."""
    name = at.line("name")
    at = at.named(f"category {name!r}")
    at.knows(OF_CATEGORY)
    rules = []
    for each in at.tables("rule"):
        rule = _rule(each, name)
        if rule.number in numbers:
            twice = each.named(f"rule {rule.number}")
            raise twice.wrong(f"two rules have the number {rule.number}: give each its own")
        numbers.add(rule.number)
        rules.append(rule)
    if not rules:
        raise at.wrong(f"has no rule: write {at.how('rule')}")
    case = at.table("case")
    made = None if case is None else _case(case, [rule.number for rule in rules])
    return Category(name, tuple(rules), at.text("about", ""), made)


def _rule(at: _At, category: str) -> Rule:
    number = at.number("number")
    at = at.named(f"rule {number}")
    at.knows(OF_RULE)
    examples = at.texts("examples")
    near_misses = at.texts("near_misses")
    for example in examples:
        if example in near_misses:
            raise at.wrong(
                f"{example!r} is both an example and a near miss: leave it in one of them",
                "near_misses",
            )
    unless = tuple(_unless(each) for each in at.tables("unless"))
    verdict = at.verdict()
    return Rule(number, category, verdict, at.text("text"), unless, examples, near_misses)


def _unless(at: _At) -> Unless:
    at.knows(OF_EXCEPTION)
    return Unless(at.text("when"), at.verdict())


def _case(at: _At, numbers: Sequence[int]) -> Case:
    at.knows(OF_CASE)
    rule = at.number("rule") if "rule" in at.data else None
    if rule is not None and rule not in numbers:
        there = ", ".join(map(str, numbers))
        raise at.wrong(f"rule {rule} is not of this category, which has {there}")
    return Case(at.text("prompt"), at.text("good"), at.text("bad"), rule)


@dataclass(frozen=True)
class _At:
    """A table of the file, and where it stands."""

    data: Mapping[str, Any]
    file: str
    names: tuple[str, ...]
    form: Form

    def named(self, what: str) -> _At:
        """The same table, now that its name is known."""
        return _At(self.data, self.file, (*self.names[:-1], what), self.form)

    def inner(self, table: Mapping[str, Any], what: str) -> _At:
        return _At(table, self.file, (*self.names, what), self.form)

    def how(self, key: str) -> str:
        return self.form.get(key, f"{key} = '...'")

    def wrong(self, what: str, key: str = "") -> DataError:
        """`key`: that is wrong."""
        parts = [self.file]
        if isinstance(self.data, Table):
            parts.append(f"line {self.data.lines.get(key, self.data.line)}")
        return DataError(f"{', '.join([*parts, *self.names])}: {what}", key or None)

    def knows(self, keys: tuple[str, ...]) -> None:
        strange = sorted(self.data.keys() - set(keys))
        if strange:
            raise self.wrong(f"{strange[0]!r} means nothing here; there may be {', '.join(keys)}")

    def text(self, key: str, default: str | None = None) -> str:
        found = self.data.get(key, default)
        if found is None:
            raise self.wrong(f"has no {key}: write {self.how(key)}")
        if not isinstance(found, str) or not (found.strip() or found == default):
            raise self.wrong(f"{key} must be a text that says something, found {found!r:.60}", key)
        return _plain(found)

    def line(self, key: str) -> str:
        """A text that answers may quote and errors name."""
        found = self.text(key)
        if not found.isprintable():
            raise self.wrong(f"{key} must be one line of text, found {found!r:.60}", key)
        return found

    def texts(self, key: str) -> tuple[str, ...]:
        found = self.data.get(key, [])
        texts = found if isinstance(found, list) else [None]
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise self.wrong(f"{key} must be a list of texts, found {found!r:.60}", key)
        return tuple(map(_plain, texts))

    def number(self, key: str) -> int:
        found = self.data.get(key)
        if type(found) is not int or not 1 <= found <= MOST_NUMBER:
            raise self.wrong(
                f"{key} must be a whole number from 1 to {MOST_NUMBER:,}, found {found!r:.60}", key
            )
        return found

    def verdict(self) -> Verdict:
        found = self.data.get("verdict")
        for verdict in VERDICTS:
            if found == verdict:
                return verdict
        raise self.wrong(f"verdict must be one of {', '.join(VERDICTS)}, found {found!r:.60}")

    def table(self, key: str) -> _At | None:
        found = self.data.get(key)
        if found is None:
            return None
        if not isinstance(found, dict):
            raise self.wrong(f"{key} must be a table: write {self.how(key)}", key)
        return self.inner(found, key)

    def tables(self, key: str) -> Iterator[_At]:
        found = self.data.get(key, [])
        tables = found if isinstance(found, list) else [None]
        for number, table in enumerate(tables, 1):
            if not isinstance(table, dict):
                raise self.wrong(f"{key} must be a list of tables: write {self.how(key)}", key)
            yield self.inner(table, f"{key} no. {number}")


def _plain(text: str) -> str:
    """With ends of lines as everywhere, so that a policy is the same in every kind of file."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()
