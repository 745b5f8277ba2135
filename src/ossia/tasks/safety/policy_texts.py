"""The moonglow policy and the words around it: rules, questions, answers and thoughts.

Data (texts/policy.toml) and one dataclass. Moonglow and everything about it is invented; the policy
stands for what a developer of a real assistant would write, small enough to be learned and judged
by a program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ossia.tasks.words import Words

Category = Literal["refuse", "safe-complete", "comply", "permit"]
Behaviour = Literal["refuse", "safe", "comply"]
CATEGORIES: tuple[Category, ...] = ("refuse", "safe-complete", "comply", "permit")


@dataclass(frozen=True)
class Rule:
    """A numbered rule. asks: what a user does to whom it applies. so: what follows. more: what to
    keep in mind.
    """

    number: int
    category: Category
    text: str
    asks: str
    so: str
    more: str
    questions: tuple[str, ...]


WORDS = Words("policy")
RULES: tuple[Rule, ...] = tuple(
    Rule(number, **{"questions": (), **row}) for number, row in enumerate(WORDS.rows("rule"), 1)
)
WARDEN = "call the warden"
REFUSAL = "I can't help with"


def section(category: Category) -> str:
    """The rules of one category as text."""
    rules = [f"{rule.number}. {rule.text}" for rule in RULES if rule.category == category]
    return "\n".join([f"Moonglow policy, {category}:", *rules])


def specification() -> str:
    """The whole policy."""
    return "\n\n".join(map(section, CATEGORIES))
