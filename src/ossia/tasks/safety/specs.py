"""Policies: what may be said, as numbered rules in categories.

    policy = read_policy(Path("policy.md"))       # spec_files.py
    policy.section("loans")       # all that a prompt of this category is ever shown

Texts are Markdown. Knows neither files nor models nor judges.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from ossia.errors import DataError

# What a rule demands: to answer, to refuse, or to say what is safe to say and no more.
Verdict = Literal["comply", "refuse", "safe-complete"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


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
