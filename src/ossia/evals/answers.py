"""Whether a final text gives the right answer: a number, a choice, or words.

A mark is one of five kinds. *Wrong* is an answer that was read and is not the right one;
*unparsed*, a text from which nobody can say what its answer is: none, a choice that the question
doesn't have, two that differ, or one that it only wonders about. *cut*: the tokens ran out before
the end. *failed*: there is no answer that could be graded, and it isn't the model's fault. Only the
final text is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ossia.evals.reading.clauses import Said, Why
from ossia.evals.reading.letters import OUTSIDE, read_choice
from ossia.evals.reading.numerals import read_number
from ossia.evals.reading.plain import BOX, BOX_END, marked, without_marks
from ossia.evals.reading.values import Number, equal, parts_of, shown

Kind = Literal["right", "wrong", "unparsed", "cut", "failed"]
KINDS: tuple[Kind, ...] = ("right", "wrong", "unparsed", "cut", "failed")
REASONS: dict[Why, str] = {
    "nothing": "no answer was found",
    "hedged": "the answer is in doubt",
    "several": "it names several answers",
    "broken": "its last box was not closed",
}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_STATED = re.compile(
    r"\b(?:exact |final )?answer\b(?:[*\s\"]*[:=]|[ \t]+is\b:?)[ \t]*", re.IGNORECASE
)
_ENDS = ' \t."`'
_QUOTES = str.maketrans("", "", '"`')
# Between two letters or two digits a blank says something.
_BLANK = re.compile(r" (?=\W)|(?<=\W) |(?<=\d) (?=[^\W\d])|(?<=[^\W\d]) (?=\d)")
_LONE_RAISED = re.compile(r"([_^])\((\w)\)")  # x^{2} and x^2
_INDEX = re.compile(r"(?<=[a-z])_(\d)")  # H_2O and H2O


@dataclass(frozen=True)
class Mark:
    """`answer`: what was read, as a majority counts it, "" if nothing was. `score`: from 0 to 1, or
    below where a suite takes points off. `why`: of what is not right or wrong.
    """

    kind: Kind
    answer: str = ""
    score: float = 0.0
    why: str = ""


def right_or_wrong(is_right: bool, answer: str = "") -> Mark:
    return Mark("right" if is_right else "wrong", answer, 1.0 if is_right else 0.0)


def grade_number(text: str, gold: Number) -> Mark:
    said = read_number(text)
    if said.why or not equal(said.value, gold):
        exact = read_number(text, exact=True)  # 1/3 in "1/3 ≈ 0.333"
        said = said if exact.why else exact
    if said.why:
        return _unparsed(said)
    is_right = equal(said.value, gold)
    # 5% and 0.05 are votes for the same where they are right.
    return right_or_wrong(is_right, shown(gold if is_right else said.value))


def grade_choice(
    text: str,
    gold: str,
    letters: str,
    choices: Sequence[str] = (),
) -> Mark:
    """`gold` is one of `letters`. `choices`: their texts, by which one may be named too."""
    assert gold in letters
    said = read_choice(text, letters, choices)
    if said.why:
        return _unparsed(said)
    if said.value == OUTSIDE:
        return Mark("unparsed", why=f"it names a choice that is none of {letters}")
    return right_or_wrong(said.value == gold, said.value)


def grade_words(text: str, gold: str) -> Mark:
    """An exact answer: the same number, or the same words. Other words may mean the same, which
    only a judge can tell: they are unparsed, with the answer that was read.
    """
    wanted = parts_of(without_marks(marked(gold)).strip())
    if wanted is not None and wanted[1] in ("", "."):
        mark = grade_number(text, wanted[0])
        if mark.kind != "unparsed":
            return mark
    found = read_words(text)
    if found is None:
        return Mark("unparsed", why=REASONS["nothing"])
    if _bare(found) == _bare(marked(gold)):
        return right_or_wrong(True, found)
    parts = parts_of(found)
    if wanted and parts and wanted[1] and wanted[1] == parts[1]:  # a number with the same unit
        return right_or_wrong(equal(parts[0], wanted[0]), found)
    return Mark("unparsed", found, why="it has other words than the right answer; a judge can tell")


def read_words(text: str) -> str | None:
    """What follows the last "Answer:", else the last box, else the text if it is one line."""
    plain = marked(text)
    stated = [found.end() for found in _STATED.finditer(plain)]
    if stated:
        rest = plain[stated[-1] :].lstrip()
        return without_marks(rest.partition("\n")[0]).strip(_ENDS) or None
    begin = plain.rfind(BOX)
    end = plain.find(BOX_END, begin)
    if 0 <= begin < end:
        return without_marks(plain[begin:end]).strip(_ENDS) or None
    lines = plain.strip().splitlines()
    return without_marks(lines[0]).strip(_ENDS) or None if len(lines) == 1 else None


def _bare(text: str) -> str:
    """To compare: without quotes, and without the blanks in which "(0, 1]" and "(0,1]" differ. All
    other signs stay, since [0, 1) is not (0, 1], and n! is not n.
    """
    plain = without_marks(text).replace("\\", " ")
    words = " ".join(plain.lower().split())
    spelled = _BLANK.sub("", words).translate(_QUOTES).strip(_ENDS)
    return _INDEX.sub(r"\1", _LONE_RAISED.sub(r"\1\2", spelled))


def _unparsed(said: Said) -> Mark:
    return Mark("unparsed", why=REASONS[said.why])
