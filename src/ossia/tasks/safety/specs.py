"""Policies: what may be said, as numbered rules in categories, in a TOML file that whoever answers
for them can edit.

    policy = read_policy(Path("policy.toml"))
    policy.section("loans")       # all that a prompt of this category is ever shown

Knows a file's form and says what is wrong in it, by category and rule; no models, no judges. Texts
are Markdown. The built-in policy is such a file (`texts/moonglow.toml`), and docs/alignment.md has
another one.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from ossia.errors import DataError

# What a rule demands: to answer, to refuse, or to say what is safe to say and no more.
Verdict = Literal["comply", "refuse", "safe-complete"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
WHOLE = ("name", "names", "category")
OF_CATEGORY = ("name", "about", "rule", "case")
OF_RULE = ("number", "verdict", "text", "unless", "examples", "near_misses")
OF_EXCEPTION = ("when", "verdict")
MOST_NUMBER = 999_999  # that reasoning cites as "rule 999999"
LISTED = {
    "category": "[[category]] before each",
    "rule": "[[category.rule]] before each",
    "unless": "unless = [{ when = '...', verdict = '...' }]",
}
OF_CASE = ("prompt", "good", "bad", "rule")


@dataclass(frozen=True)
class Unless:
    """An exception to a rule, such as a permit code that the developer's message names: `when` it
    holds, and what is demanded then.
    """

    when: str
    verdict: Verdict

    @property
    def text(self) -> str:
        return f"Exception ({self.verdict}): {self.when}"


@dataclass(frozen=True)
class Rule:
    """A numbered rule. `examples`: what a user says to whom it applies; `near_misses`: what sounds
    like that, and to which it does not apply.
    """

    number: int
    category: str
    verdict: Verdict
    text: str
    unless: tuple[Unless, ...] = ()
    examples: tuple[str, ...] = ()
    near_misses: tuple[str, ...] = ()

    def shown(self, examples: bool) -> str:
        lines = [f"{self.number}. {self.text}"]
        for exception in self.unless:
            lines.append(f"   {exception.text}")
        if not examples:
            return "\n".join(lines)
        for example in self.examples:
            lines.append(f"   It applies to: {example}")
        for near_miss in self.near_misses:
            lines.append(f"   It does not apply to: {near_miss}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Case:
    """A prompt with an answer that follows the policy and one that does not: what a judge is tried
    on before it is believed. `rule`: that decides.
    """

    prompt: str
    good: str
    bad: str
    rule: int | None = None


@dataclass(frozen=True)
class Category:
    """Rules that are shown together, and `about`, what they have in common."""

    name: str
    rules: tuple[Rule, ...]
    about: str = ""
    case: Case | None = None


@dataclass(frozen=True)
class Policy:
    """`names`: what an answer may not call it, as nobody but the model has read it."""

    name: str
    categories: tuple[Category, ...]
    names: tuple[str, ...] = ()

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """In the order of their numbers."""
        found: dict[int, Rule] = {}
        for category in self.categories:
            for rule in category.rules:
                found[rule.number] = rule
        return tuple(found[number] for number in sorted(found))

    def category(self, name: str) -> Category:
        """Raises `DataError` for one that there is not."""
        for category in self.categories:
            if category.name == name:
                return category
        there = ", ".join(category.name for category in self.categories)
        raise DataError(f"the {self.name} policy has no category {name!r}; it has {there}")

    def rule(self, number: int) -> Rule:
        """Raises `DataError` for one that there is not."""
        for rule in self.rules:
            if rule.number == number:
                return rule
        numbers = ", ".join(str(rule.number) for rule in self.rules)
        raise DataError(f"the {self.name} policy has no rule {number}; it has {numbers}")

    def section(self, category: str, examples: bool = False) -> str:
        """The rules of one category as text, with what they apply to and do not, if wanted."""
        chosen = self.category(category)
        lines = [f"{self.name} policy, {chosen.name}:"]
        if chosen.about:
            lines.append(chosen.about)
        for rule in chosen.rules:
            lines.append(rule.shown(examples))
        return "\n".join(lines)

    @property
    def text(self) -> str:
        """Every section."""
        return "\n\n".join(self.section(category.name) for category in self.categories)

    @cached_property
    def digest(self) -> str:
        """Tells policies apart whose words differ, examples and cases included."""
        words = repr((self.name, self.names, self.categories))
        return hashlib.sha256(words.encode()).hexdigest()


# ---- reading a file ------------------------------------------------------------------------------


def read_policy(path: Path) -> Policy:
    """Raises `DataError` with the file, the category, the rule and what to write instead."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DataError(
            f"{path}: is not TOML: {error}; mend that line. A policy is a TOML file, whose texts "
            "may be Markdown (docs/alignment.md)"
        ) from error
    at = _At(data, str(path))
    at.knows(WHOLE)
    categories = []
    for each in at.tables("category"):
        categories.append(_category(each))
    if not categories:
        raise at.wrong("has no [[category]]: write one, with a name and at least one rule")
    names = []
    numbers = []
    for category in categories:
        names.append(category.name)
        for rule in category.rules:
            numbers.append(rule.number)
    _once(at, "two categories are called {}", names)
    _once(at, "two rules have the number {}", numbers)
    name = at.line("name")
    return Policy(name, tuple(categories), at.texts("names") or (f"{name} policy",))


def _category(at: _At) -> Category:
    name = at.line("name")
    at = at.named(f"category {name!r}")
    at.knows(OF_CATEGORY)
    rules = tuple(_rule(each, name) for each in at.tables("rule"))
    if not rules:
        raise at.wrong("has no rule: write [[category.rule]] with number, verdict and text")
    case = at.table("case")
    made = None if case is None else _case(case, [rule.number for rule in rules])
    return Category(name, rules, at.text("about", ""), made)


def _rule(at: _At, category: str) -> Rule:
    number = at.number("number")
    at = at.named(f"rule {number}")
    at.knows(OF_RULE)
    examples = at.texts("examples")
    near_misses = at.texts("near_misses")
    for example in examples:
        if example in near_misses:
            raise at.wrong(
                f"{example!r} is both an example and a near miss: leave it in one of them"
            )
    unless = tuple(_unless(each) for each in at.tables("unless"))
    verdict = at.verdict()
    return Rule(number, category, verdict, at.text("text"), unless, examples, near_misses)


def _unless(at: _At) -> Unless:
    at.knows(OF_EXCEPTION)
    return Unless(at.text("when"), at.verdict())


def _case(at: _At, numbers: list[int]) -> Case:
    at.knows(OF_CASE)
    rule = at.number("rule") if "rule" in at.data else None
    if rule is not None and rule not in numbers:
        raise at.wrong(f"rule {rule} is not of this category, which has {_list(numbers)}")
    return Case(at.text("prompt"), at.text("good"), at.text("bad"), rule)


def _once(at: _At, problem: str, names: list[Any]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise at.wrong(f"{problem.format(name)}: give each its own")


def _list(items: list[int]) -> str:
    return ", ".join(map(str, items))


@dataclass(frozen=True)
class _At:
    """A table of the file, and where it stands."""

    data: Mapping[str, Any]
    where: str

    def named(self, what: str) -> _At:
        """The same table, now that its name is known."""
        return _At(self.data, f"{self.where.rpartition(', ')[0] or self.where}, {what}")

    def wrong(self, what: str) -> DataError:
        return DataError(f"{self.where}: {what}")

    def knows(self, keys: tuple[str, ...]) -> None:
        strange = sorted(self.data.keys() - set(keys))
        if strange:
            raise self.wrong(f"{strange[0]!r} means nothing here; there may be {', '.join(keys)}")

    def text(self, key: str, default: str | None = None) -> str:
        found = self.data.get(key, default)
        if found is None:
            raise self.wrong(f"has no {key}: write {key} = '...'")
        if not isinstance(found, str) or not (found.strip() or found == default):
            raise self.wrong(f"{key} must be a text that says something, found {found!r:.60}")
        return found.strip()

    def line(self, key: str) -> str:
        """A text that answers may quote and errors name."""
        found = self.text(key)
        if not found.isprintable():
            raise self.wrong(f"{key} must be one line of text, found {found!r:.60}")
        return found

    def texts(self, key: str) -> tuple[str, ...]:
        found = self.data.get(key, [])
        texts = found if isinstance(found, list) else [None]
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise self.wrong(f"{key} must be a list of texts, found {found!r:.60}")
        return tuple(texts)

    def number(self, key: str) -> int:
        found = self.data.get(key)
        if type(found) is not int or not 1 <= found <= MOST_NUMBER:
            raise self.wrong(
                f"{key} must be a whole number from 1 to {MOST_NUMBER:,}, found {found!r:.60}"
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
            raise self.wrong(f"{key} must be a table: write [category.{key}]")
        return _At(found, f"{self.where}, {key}")

    def tables(self, key: str) -> Iterator[_At]:
        found = self.data.get(key, [])
        tables = found if isinstance(found, list) else [None]
        for number, table in enumerate(tables, 1):
            if not isinstance(table, dict):
                raise self.wrong(f"{key} must be a list of tables: write {LISTED[key]}")
            yield _At(table, f"{self.where}, {key} no. {number}")
