"""What only a judge can tell: whether an answer meets a criterion, or means the same as another.

HealthBench (arXiv 2505.08775): a question has rubrics with points, of which some are negative; its
score is the sum of the points of the rubrics that are met, over the sum of the positive ones. Knows
no models: a `Judge` is given. Without a verdict there is no score: the answer counts as failed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ossia.errors import DataError
from ossia.evals.answers import Mark, right_or_wrong
from ossia.evals.files import Row
from ossia.evals.questions import Answered, Question
from ossia.harmony import DeveloperContent, Message, Role

SAME = (
    "The answer comes to the same result as the reference answer: the same number within the "
    "precision that is asked for, the same name, or the same statement. The reference answer is: "
)
NO_VERDICT = "the judge gave no verdict"


class Judge(Protocol):
    """Any thread may ask. `missing`: verdicts that did not come, by cause."""

    @property
    def missing(self) -> Mapping[str, int]: ...

    def met(
        self,
        criterion: str,
        asked: str,
        answer: str,
    ) -> bool | None:
        """Whether an answer meets a criterion; None without a verdict."""


@dataclass(frozen=True)
class Rubric:
    criterion: str
    points: float


def question(row: Row, judge: Judge) -> Question:
    """Raises `DataError`."""
    turns = messages_of(row)
    rubrics = _rubrics(row)
    pairs = [[str(turn.role), str(turn.content)] for turn in turns]
    asked = json.dumps(pairs, ensure_ascii=False)
    worths = [[rubric.criterion, rubric.points] for rubric in rubrics]
    gold = json.dumps(worths)

    def grade(answered: Answered) -> Mark:
        if not answered.final.strip():
            return Mark("unparsed", why="no answer was found")
        return points(judge, rubrics, asked, answered.final)

    return Question(row.text("prompt_id"), "", turns, gold, grade)


def points(
    judge: Judge,
    rubrics: Sequence[Rubric],
    asked: str,
    answer: str,
) -> Mark:
    """May be below 0: it is the mean over questions that is cut."""
    most = sum(rubric.points for rubric in rubrics if rubric.points > 0)
    found = 0.0
    for rubric in rubrics:
        met = judge.met(rubric.criterion, asked, answer)
        if met is None:
            return Mark("failed", why=NO_VERDICT)
        found += rubric.points * met
    score = found / most
    return Mark("right" if score >= 1.0 else "wrong", "", score)


def same_answer(
    judge: Judge,
    asked: str,
    gold: str,
    answer: str,
) -> Mark:
    met = judge.met(SAME + json.dumps(gold, ensure_ascii=False), asked, answer)
    if met is None:
        return Mark("failed", why=NO_VERDICT)
    return right_or_wrong(met)


def messages_of(row: Row) -> tuple[Message, ...]:
    """Of a row's prompt: a text, or a chat. Raises `DataError`."""
    value = _decoded(row, "prompt")
    if isinstance(value, str):
        return (Message(Role.USER, value),)
    if not isinstance(value, list) or not value:
        raise DataError(f"{row.where}: 'prompt' must be a list of messages", "prompt")
    return tuple(_message(row, one) for one in value)


def _message(row: Row, one: Any) -> Message:
    role = one.get("role") if isinstance(one, Mapping) else None
    text = one.get("content") if isinstance(one, Mapping) else None
    if role not in ("user", "assistant", "system") or not isinstance(text, str):
        raise DataError(
            f"{row.where}: a message of 'prompt' must have a role (user, assistant or system) and "
            "a content, which is text",
            "prompt",
        )
    if role == "assistant":
        return Message(Role.ASSISTANT, text, channel="final")
    if role == "system":
        return Message(Role.DEVELOPER, DeveloperContent(text))
    return Message(Role.USER, text)


def _rubrics(row: Row) -> list[Rubric]:
    value = _decoded(row, "rubrics")
    rubrics = []
    for one in value if isinstance(value, list) else []:
        criterion = one.get("criterion") if isinstance(one, Mapping) else None
        worth = _points(one.get("points")) if isinstance(one, Mapping) else None
        if not isinstance(criterion, str) or worth is None:
            raise DataError(
                f"{row.where}: a rubric needs a 'criterion', which is text, and 'points', a number",
                "rubrics",
            )
        rubrics.append(Rubric(criterion, worth))
    if not any(rubric.points > 0 for rubric in rubrics):
        raise DataError(f"{row.where}: no rubric has positive points", "rubrics")
    return rubrics


def _points(value: Any) -> float | None:
    """Of a number, or its text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _decoded(row: Row, name: str) -> Any:
    """In a CSV file, lists are JSON text."""
    value = row.need(name)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{row.where}: {name!r} is not JSON: {error}", name) from error
    return value
