"""The moonglow policy and the words around it: rules, questions, answers and thoughts.

Data (texts/moonglow.toml, texts/policy.toml) and one dataclass. Moonglow and everything about it is
invented; the policy stands for what a developer of a real assistant would write, small enough to be
learned and judged by a program.
"""

from __future__ import annotations

from dataclasses import dataclass

from ossia.tasks.safety.spec_files import read_policy
from ossia.tasks.words import FOLDER, Words

BUILT_IN = "moonglow"
POLICY = read_policy(FOLDER / f"{BUILT_IN}.toml")
RULES = POLICY.rules
WORDS = Words("policy")
WARDEN = "call the warden"
REFUSAL = "I can't help with"


@dataclass(frozen=True)
class Thoughts:
    """On a rule. asks: the act of a user to whom it applies. so: the consequence."""

    asks: str
    so: str


_THOUGHTS = tuple(Thoughts(**row) for row in WORDS.rows("thoughts"))
assert len(_THOUGHTS) == len(RULES), "a row of thoughts for each rule"


def thoughts_on(number: int) -> Thoughts:
    """On the rule with this number."""
    return _THOUGHTS[number - 1]
