"""A question of an evaluation, what came of asking it, and its mark.

Knows messages and marks. What a file's columns mean is for `suites`, which answer is right for the
question's own `grade`. Reasoning never gets here: only the final text and the calls are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ossia.errors import DataError
from ossia.evals.answers import Mark, right_or_wrong
from ossia.harmony import Conversation, Effort, Message, Role, SystemContent
from ossia.tasks.environment import CUT
from ossia.tasks.problem import Call, Problem, grade
from ossia.tools.protocol import Tool

DIGEST = 12  # hex digits of what tells texts apart


@dataclass(frozen=True)
class Answered:
    """What came of a trial. `reason`: how the turn ended, in the words of `turn.events`. `tokens`:
    all that were generated; `reasoning`: of these, in the analysis. `error`: why there is no
    answer.
    """

    final: str = ""
    calls: tuple[Call, ...] = ()
    reason: str = "stop"
    tokens: int = 0
    reasoning: int = 0
    prompt: int = 0
    error: str = ""


Grade = Callable[[Answered], Mark]


@dataclass(frozen=True)
class Question:
    """`id`: the same in every run; `group`: such as a subject. `messages`: all but the system
    message. `problem`: set for one of the package's own tasks, which writes its own prompt and is
    graded even where the tokens ran out.
    """

    id: str
    group: str
    messages: tuple[Message, ...]
    gold: str
    grade: Grade
    problem: Problem | None = None

    @property
    def digest(self) -> str:
        """Of what is asked and what is right: a question that has changed is another one."""
        texts = [(str(message.role), str(message.content)) for message in self.messages]
        return digest_of(json.dumps([texts, self.gold]))

    @property
    def offered(self) -> tuple[Tool, ...]:
        return self.problem.offered if self.problem else ()

    def conversation(self, effort: Effort) -> Conversation:
        """Without a date: the same question is the same tokens on every day."""
        system = SystemContent(effort=effort)
        if self.problem is not None:
            return Conversation(self.problem.prompt(effort, system))
        return Conversation((Message(Role.SYSTEM, system), *self.messages))

    def mark(self, answered: Answered) -> Mark:
        if answered.error:
            return Mark("failed", why=answered.error)
        is_cut = answered.reason in CUT
        if is_cut and self.problem is None:
            return Mark("cut", why="it was cut off before it ended")
        mark = self.grade(answered)
        if is_cut and mark.kind == "wrong":
            return Mark("cut", why="it was cut off before it ended")
        return mark


@dataclass(frozen=True)
class Trial:
    """One question asked once. `seed`: of its sampling, the same whenever it is asked."""

    question: Question
    effort: Effort
    repeat: int
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        return self.question.id, str(self.effort), self.repeat


def trials(
    questions: Sequence[Question], efforts: Sequence[Effort], repeats: int, seed: int
) -> Iterator[Trial]:
    """In a fixed order; repeats of a question beside each other, since they share a prompt."""
    for effort in efforts:
        for question in questions:
            for repeat in range(repeats):
                text = f"{seed}:{question.id}:{effort}:{repeat}"
                number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
                yield Trial(question, effort, repeat, number >> 1)


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST]


def with_own_ids(questions: Iterable[Question], places: Sequence[str]) -> list[Question]:
    """Questions that have no id are named after their words; a second one of the same words gets
    a number. Raises `DataError` for an id that a file gives twice. `places`: of each, for errors.
    """
    seen: dict[str, str] = {}
    out = []
    for question, place in zip(questions, places, strict=True):
        name = question.id
        if not name:
            name = _unused(question.digest, seen)
        elif name in seen:
            raise DataError(f"{place}: the id {name!r} is also that of {seen[name]}", "file")
        seen[name] = place
        out.append(replace(question, id=name))
    return out


def _unused(name: str, seen: dict[str, str]) -> str:
    number = 1
    wanted = name
    while wanted in seen:
        number += 1
        wanted = f"{name}#{number}"
    return wanted


def of_problem(problem: Problem, number: int) -> Question:
    """One of the package's own tasks, for the same run as any other question."""

    def grade_all(answered: Answered) -> Mark:
        is_right = grade(problem, answered.final, answered.calls) == 1.0
        return right_or_wrong(is_right, answered.final.strip())

    asked = (Message(Role.USER, problem.turns[-1].user),)
    name = f"{problem.task}:{number}"
    return Question(name, problem.task, asked, problem.answer, grade_all, problem)
