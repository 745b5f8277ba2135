"""The formats of public suites: which columns a file has, what is asked, and how it is graded.

    questions, left_out = read(SUITES["gpqa"], [Path("gpqa_diamond.csv")], graders)

To add a suite, write a function from a row to a question and add a row to the table. The words of
the prompts are ours. Knows rows and graders; no models, no results.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ossia.errors import DataError
from ossia.evals import health, safety
from ossia.evals.answers import LETTERS, Mark, grade_choice, grade_number, grade_words
from ossia.evals.files import Row, read_rows
from ossia.evals.programs import contests, functions, tested
from ossia.evals.questions import Answered, Question, digest_of, with_own_ids
from ossia.evals.reading.numerals import read_number
from ossia.evals.reading.values import Number
from ossia.harmony import Message, Role
from ossia.tasks.safety.specs import Policy

MOST_CHOICES = len(LETTERS)
NUMBER_PROMPT = (
    "{question}\n\nThe answer is a whole number from 0 to 999. Reason as long as you need, and end "
    "with the answer in \\boxed{{}}."
)
CHOICE_PROMPT = "{question}\n\n{choices}\n\nEnd with a line that says 'Answer: ' and one letter."
OPEN_PROMPT = (
    "{question}\n\nGive your reasons in short, and end with a line that says 'Answer: ' and the "
    "exact answer."
)
_GRADE_SCHOOL = "####"  # GSM8K's answers end with a number behind it
_CHOICES = ("choices", "options")
_LISTED = re.compile(r"^[ \t]*\(?([A-Z])[).:]", re.MULTILINE)


@dataclass(frozen=True)
class Graders:
    """What some suites need to grade: a judge for texts, a place to run code, a policy that rows
    name categories of.
    """

    judge: health.Judge | None = None
    runner: functions.Runner | None = None
    policy: Policy | None = None


class LeftOut(Exception):
    """A question that cannot be asked, and why; it is counted."""


Read = Callable[[Row, Graders], Question]


@dataclass(frozen=True)
class Suite:
    """`repeats`: of every question, where one sample says little. `needs`: of `Graders`."""

    name: str
    description: str
    read: Read
    repeats: int = 1
    needs: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()  # columns of CSV files without a line of names


def read(
    suite: Suite, paths: Sequence[Path], graders: Graders | None = None
) -> tuple[list[Question], dict[str, int]]:
    """The questions of all files in their order, and how many were left out, by reason. Raises
    `DataError`.
    """
    graders = graders or Graders()
    questions = []
    places = []
    left_out: Counter[str] = Counter()
    for path in paths:
        for row in read_rows(path, suite.unnamed):
            try:
                question = suite.read(row, graders)
            except LeftOut as why:
                left_out[str(why)] += 1
                continue
            if len(paths) > 1 and question.id:
                question = replace(question, id=f"{path.stem}/{question.id}")
            questions.append(question)
            places.append(row.where)
    if not questions:
        raise DataError(f"{paths[0]}: no question is left to ask", "file")
    return with_own_ids(questions, places), dict(left_out)


def _user(text: str) -> tuple[Message, ...]:
    return (Message(Role.USER, text),)


# ---- numbers -------------------------------------------------------------------------------------


def _aime(row: Row, graders: Graders) -> Question:
    question = row.text("question", "problem")
    gold = row.text("answer")
    value = read_number(gold)  # some files have \\boxed{70} or 336^\\circ
    if value.why:
        raise DataError(f"{row.where}: the answer {gold!r} is not a number", "answer")
    name = row.get("id", "ID")
    asked = _user(NUMBER_PROMPT.format(question=question.strip()))
    return Question(_name(name), "", asked, gold.strip(), partial(_number, value.value))


def _number(gold: Number, answered: Answered) -> Mark:
    return grade_number(answered.final, gold)


def _name(value: Any) -> str:
    return "" if value is None else str(value).strip()


# ---- choices -------------------------------------------------------------------------------------


def _gpqa(row: Row, graders: Graders) -> Question:
    """The right choice comes first in the file; here each question has an order of its own, which
    the hash of its id decides, or of its words if it has none. Copies that list their choices in an
    order already keep it.
    """
    if row.has(*_CHOICES) or row.has("A"):
        return _mmlu(row, graders)
    question = row.text("Question")
    name = _name(row.get("Record ID", "id")) or digest_of(question)
    wrong = [row.text(f"Incorrect Answer {n}") for n in (1, 2, 3)]
    choices = [text.strip() for text in (row.text("Correct Answer"), *wrong)]
    hashes = [hashlib.sha256(f"{name}:{n}".encode()).digest() for n in range(4)]
    order = sorted(range(4), key=hashes.__getitem__)
    shown = [choices[n] for n in order]
    group = _name(row.get("Subdomain", "High-level domain"))
    return _choice(name, group, question, shown, order.index(0))


def _mmlu(row: Row, graders: Graders) -> Question:
    question = row.text("question")
    if row.has(*_CHOICES):
        choices = _choices_of(row)
    else:
        choices = [row.text(letter).strip() for letter in "ABCD"]
    right = _place_of(row, len(choices))
    name = _name(row.get("question_id", "Record ID"))
    group = _name(row.get("subject", "Subdomain", "category"))
    group = group or _subject_of(row)
    return _choice(
        name,
        group,
        question,
        choices,
        right,
    )


def _subject_of(row: Row) -> str:
    """MMLU's own files have their subject in their name alone: abstract_algebra_test.csv."""
    path, _, _ = row.where.rpartition(",")
    name, _, _ = Path(path).name.partition(".")
    subject, _, split = name.rpartition("_")
    return subject if split in ("test", "val", "dev") else ""


def _choices_of(row: Row) -> list[str]:
    """A list, or the text of one as JSON or Python writes it."""
    value = row.need(*_CHOICES)
    if isinstance(value, str):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(value)
                break
            except (ValueError, SyntaxError, RecursionError):
                continue
    if not isinstance(value, list) or not 2 <= len(value) <= MOST_CHOICES:
        raise DataError(
            f"{row.where}: 'choices' must be a list of 2 to {MOST_CHOICES} texts, such as "
            '["red", "blue"]',
            "choices",
        )
    return [str(choice).strip() for choice in value]


def _place_of(row: Row, count: int) -> int:
    """Which choice is right: a letter, or a number from 0."""
    answer = row.text("answer").strip().strip("().").upper()
    place = LETTERS.find(answer) if len(answer) == 1 else -1
    if answer.isdecimal():
        place = int(answer)
    if not 0 <= place < count:
        last = LETTERS[count - 1]
        raise DataError(
            f"{row.where}: the answer must be a letter from A to {last} or a number from 0 to "
            f"{count - 1}, found {answer!r}",
            "answer",
        )
    return place


def _choice(
    name: str,
    group: str,
    question: str,
    choices: Sequence[str],
    right: int,
) -> Question:
    letters = LETTERS[: len(choices)]
    lines = [f"{letter}) {text}" for letter, text in zip(letters, choices, strict=True)]
    prompt = CHOICE_PROMPT.format(question=question.strip(), choices="\n".join(lines))

    def grade(answered: Answered) -> Mark:
        return grade_choice(answered.final, letters[right], letters, choices)

    return Question(name, group, _user(prompt), letters[right], grade)


def _hle(row: Row, graders: Graders) -> Question:
    """Text only. Its multiple-choice questions hold their choices in the question."""
    if _has_image(row.get("image")):
        raise LeftOut("it has an image")
    question = row.text("question")
    gold = row.text("answer").strip()
    group = _name(row.get("category", "raw_subject"))
    kind = row.text("answer_type")
    asked = _user(OPEN_PROMPT.format(question=question.strip()))
    if kind == "multipleChoice" and len(gold) == 1 and gold.upper() in LETTERS:
        gold = gold.upper()
        last = max([gold, *_LISTED.findall(question)])
        letters = LETTERS[: LETTERS.index(last) + 1]
        return Question(
            row.text("id"),
            group,
            asked,
            gold,
            lambda answered: grade_choice(answered.final, gold, letters),
        )
    grade = partial(_words, question, gold, graders.judge)
    return Question(row.text("id"), group, asked, gold, grade)


def _has_image(value: Any) -> bool:
    """Where there is none, some files have an object whose fields are all empty."""
    if isinstance(value, Mapping):
        return any(map(_has_image, value.values()))
    return bool(value) and bool(_name(value))


def _own(row: Row, graders: Graders) -> Question:
    """Questions and answers of the user: a number, or words."""
    question = row.text("question", "problem", "prompt", "input")
    answer = row.text("answer", "target", "output")
    gold = answer.rpartition(_GRADE_SCHOOL)[2].strip()
    if not gold:
        raise DataError(f"{row.where}: nothing follows #### in 'answer'", "answer")
    asked = _user(OPEN_PROMPT.format(question=question.strip()))
    name = _name(row.get("id", "question_id"))
    group = _name(row.get("category", "subject"))
    grade = partial(
        _words,
        question,
        gold,
        graders.judge,
    )
    return Question(
        name,
        group,
        asked,
        gold,
        grade,
    )


def _words(
    question: str,
    gold: str,
    judge: health.Judge | None,
    answered: Answered,
) -> Mark:
    """By its words, and where these leave it open by the judge, if there is one."""
    mark = grade_words(answered.final, gold)
    if mark.kind != "unparsed" or judge is None:
        return mark
    return health.same_answer(judge, question, gold, answered.final)


# ---- judged, and run -----------------------------------------------------------------------------


def _healthbench(row: Row, graders: Graders) -> Question:
    assert graders.judge is not None
    return health.question(row, graders.judge)


def _program(row: Row, graders: Graders) -> Question:
    assert graders.runner is not None
    if row.has("base_input", "plus_input"):
        return functions.function_question(row, graders.runner)
    return tested.tested_question(row, graders.runner)


def _contest(row: Row, graders: Graders) -> Question:
    assert graders.runner is not None
    return contests.contest_question(row, graders.runner)


def _safety(row: Row, graders: Graders) -> Question:
    assert graders.judge is not None
    return safety.read_question(row, graders.judge, graders.policy)


_ROWS = (
    Suite("aime", "whole numbers from 0 to 999", _aime, repeats=8),
    Suite("gpqa", "four choices, in an order of each question's own", _gpqa, repeats=8),
    Suite(
        "mmlu",
        "choices by subject; MMMLU and its like too",
        _mmlu,
        unnamed=("question", "A", "B", "C", "D", "answer"),
    ),
    Suite("hle", "exact answers and choices, without images", _hle),
    Suite("qa", "questions and answers of your own: numbers or words", _own),
    Suite("healthbench", "points by rubrics, with a judge", _healthbench, needs=("judge",)),
    Suite("humaneval", "functions to complete, run in the sandbox", _program, needs=("runner",)),
    Suite("mbpp", "the same format, other functions", _program, needs=("runner",)),
    Suite("livecodebench", "programs for contests", _contest, needs=("runner",)),
    Suite(
        "safety",
        "refusals, where they are due and where they are not",
        _safety,
        needs=("judge",),
    ),
)
SUITES = {suite.name: suite for suite in _ROWS}

__all__ = ["SUITES", "Graders", "LeftOut", "Suite", "read"]
