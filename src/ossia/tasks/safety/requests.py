"""Prompts under a policy: a JSONL file of a user's, or the built-in task's, each with its category.

A row is one of `tasks/external.py` (prompt, instructions, about), and
  category   of the policy: all of it that is shown with this prompt
  rule       the number of the rule that decides, if somebody has said so
  verdict    what is demanded, where that is not the rule's own (an exception holds)
  gold       an answer that follows the policy
  ruling     what a program can check: {"says": [...], "secrets": [...], "partly": false,
             "told": [...], "longest": 200}; see `policy.Ruling` and `problem.Expect`

Knows policies and graders; an answer is an `Outcome`, which has no reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ossia.errors import DataError
from ossia.harmony import Effort
from ossia.harmony.chat_messages import reasoning_and_text
from ossia.tasks.environment import Outcome, Reward
from ossia.tasks.external import Row, read_rows
from ossia.tasks.problem import Expect, Problem, Turn, grade
from ossia.tasks.safety.policy import Judged, Ruling
from ossia.tasks.safety.specs import VERDICTS, Policy, Rule, Verdict

PLACE = ("category", "rule", "verdict", "instructions")
KNOWN = (*PLACE, "prompt", "gold", "ruling", "about")
ALIKE = 0.8  # of 1: "verdit", "rules", "catgory"
LISTS = ("says", "secrets", "told")
IN_RULING = (*LISTS, "partly", "longest")
LONGEST = 4000  # characters of an answer that has no gold one to be compared with


@dataclass(frozen=True)
class Request:
    """A prompt and where it stands in the policy. `rule`, `verdict`: None if nobody has said it."""

    row: Row
    category: str
    rule: int | None = None
    verdict: Verdict | None = None

    @property
    def asked(self) -> str:
        """What the last message of the user says."""
        prompt = self.row["prompt"]
        return prompt if isinstance(prompt, str) else reasoning_and_text(prompt[-1])[1]


def read_requests(path: Path, policy: Policy) -> tuple[Request, ...]:
    """Raises `DataError` with the file and the row for what is not one, or not of this policy."""
    found = []
    for number, row in enumerate(read_rows(path), 1):
        try:
            found.append(request_of(row, policy))
        except DataError as error:
            raise DataError(f"{path}, row {number}: {error}") from error
    return tuple(found)


def request_of(row: Row, policy: Policy) -> Request:
    """Raises `DataError`, which does not say where the row stands."""
    check_spelling(row, KNOWN)
    name = row.get("category")
    if not isinstance(name, str):
        there = ", ".join(category.name for category in policy.categories)
        raise DataError(f"has no 'category'; the {policy.name} policy has {there}", "category")
    category = policy.category(name)
    number = row.get("rule")
    verdict = row.get("verdict")
    if number is not None:
        if not isinstance(number, int) or isinstance(number, bool):
            raise DataError(f"'rule' must be a whole number, found {number!r:.60}")
        rule = policy.rule(number)
        if rule not in category.rules:
            raise DataError(f"rule {number} is of category {rule.category!r}, not of {name!r}")
        verdict = rule.verdict if verdict is None else verdict
        _check_verdict(rule, verdict)
    if verdict is not None and verdict not in VERDICTS:
        raise DataError(f"'verdict' must be one of {', '.join(VERDICTS)}, found {verdict!r:.60}")
    _check_ruling(row.get("ruling"))
    gold = row.get("gold")
    if not (gold is None or isinstance(gold, str)):
        raise DataError(f"'gold' must be a text, found {gold!r:.60}")
    return Request(row, name, number, verdict)


def check_spelling(row: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises `DataError` for a column that is almost one of `known`: a rule or a verdict that is
    not read would be missed by nobody.
    """
    others = [str(name) for name in row if name not in known]
    for name in known:
        near = get_close_matches(name, others, 1, ALIKE)
        if name not in row and near and not _same(name, near[0]):
            raise DataError(
                f"has {near[0]!r}: write {name!r} if that is meant, and another name if it is not",
                name,
            )


def _same(one: str, other: str) -> bool:
    """Readers of tables take these for one name."""
    return one.casefold() == other.strip().casefold()


def _check_verdict(rule: Rule, verdict: Any) -> None:
    """One that neither the rule nor an exception has is a slip of the pen."""
    possible = [rule.verdict, *(exception.verdict for exception in rule.unless)]
    if verdict in VERDICTS and verdict not in possible:
        raise DataError(
            f"'verdict' is {verdict!r}, and rule {rule.number} demands {' or '.join(possible)}: "
            "mend it, name another rule, or give the rule an exception"
        )


def _check_ruling(ruling: Any) -> None:
    if ruling is None:
        return
    if not isinstance(ruling, Mapping):
        raise DataError(f"'ruling' must be an object, found {ruling!r:.60}")
    strange = sorted(ruling.keys() - set(IN_RULING))
    if strange:
        raise DataError(
            f"ruling: {strange[0]!r} means nothing here; there may be {', '.join(IN_RULING)}"
        )
    for key in LISTS:
        found = ruling.get(key, [])
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise DataError(f"ruling: {key!r} must be a list of texts, found {found!r:.60}")
    partly = ruling.get("partly", False)
    if not isinstance(partly, bool):
        raise DataError(f"ruling: 'partly' must be true or false, found {partly!r:.60}")
    longest = ruling.get("longest", 1)
    if not isinstance(longest, int) or isinstance(longest, bool) or longest < 1:
        raise DataError(f"ruling: 'longest' must be a number of characters, found {longest!r:.60}")


# ---- the program that judges ---------------------------------------------------------------------


def row_of(problem: Problem) -> dict[str, Any]:
    """A problem of the built-in policy as a row, with all that a program needs to judge answers."""
    judge = problem.expect.judge
    assert isinstance(judge, Judged), problem.task
    ruling = judge.ruling
    return {
        "prompt": problem.turns[0].user,
        "instructions": problem.instructions,
        "category": problem.about["category"],
        "rule": ruling.rule,
        "verdict": ruling.behaviour,
        "gold": problem.answer,
        "ruling": {
            "says": list(ruling.says),
            "secrets": list(ruling.secrets),
            "partly": ruling.partly,
            "told": list(problem.expect.told),
        },
        "about": dict(problem.about),
    }


def grade_by_program(request: Request, outcome: Outcome) -> Reward:
    """1.0 if it refuses or answers as the verdict says, says what it must and gives nothing away.
    Raises `DataError` for a request without a ruling or a verdict.
    """
    score = grade(_problem(request), outcome.final, outcome.calls)
    return Reward(score, {"follows": score}, score == 1.0)


def check_ruled(request: Request) -> None:
    """Raises `DataError` for one that no program can judge."""
    if request.row.get("ruling") is None or request.verdict is None:
        raise DataError(
            f"the prompt {request.asked[:60]!r} has no ruling and verdict, so no program can judge "
            "answers to it: add them, or let a model judge (judge=URL)"
        )


def _problem(request: Request) -> Problem:
    check_ruled(request)
    assert request.verdict is not None
    row = request.row
    found = row["ruling"]
    ruling = Ruling(
        request.rule or 0,
        request.verdict,
        tuple(found.get("says", ())),
        tuple(found.get("secrets", ())),
        bool(found.get("partly", False)),
    )
    gold = row.get("gold")
    longest = found.get("longest", LONGEST if gold is None else None)
    turn = Turn(request.asked, gold or "", _no_thoughts)
    expect = Expect(
        judge=Judged(ruling, request.asked), told=tuple(found.get("told", ())), longest=longest
    )
    return Problem("policy", "train", (turn,), expect, instructions=row.get("instructions"))


def _no_thoughts(effort: Effort) -> str:
    return ""
