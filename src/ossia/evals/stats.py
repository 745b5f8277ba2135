"""How certain a score is: bounds, intervals by bootstrap over questions, pass@k, majority vote, and
the paired difference of two models.

The unit is the question: repeats of one question are not independent, so questions are drawn, with
all their repeats. Same marks, same numbers: the draws have a fixed seed. Knows marks, no files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ossia.evals.answers import KINDS, Kind, Mark
from ossia.figures import pass_at, wilson

DRAWS = 10_000
AT_ONCE = 1 << 22  # drawn questions that are held in memory
FEWEST = 5  # questions by which two models can be told apart
SEED = 20_250_805
INSIDE = (2.5, 97.5)  # percent
Interval = tuple[float, float]
Marks = Mapping[str, Sequence[Mark]]  # of every question its repeats


@dataclass(frozen=True)
class Score:
    """Of one suite at one effort. `value`: the mean over questions of the mean over repeats, cut to
    [0, 1]; what failed is left out, what is unparsed or cut counts as wrong. `interval`: 95%.
    `bounds`: if all that was not graded were wrong, and if all of it were right.
    """

    value: float
    interval: Interval
    bounds: Interval
    counts: Mapping[Kind, int]
    questions: int

    @property
    def answers(self) -> int:
        return sum(self.counts.values())

    @property
    def known(self) -> float | None:
        """`value`, None where everything failed: that is no score of 0."""
        return self.value if self.answers > self.counts["failed"] else None

    def __str__(self) -> str:
        low, high = self.interval
        least, most = self.bounds
        text = "-" if self.known is None else f"{self.value:.1%} ({low:.1%} to {high:.1%})"
        return text if least == most else f"{text} [{least:.1%}, {most:.1%}]"


def score(marks: Marks) -> Score:
    """Raises ValueError if there are no marks."""
    means = means_of(marks)
    counts = counts_of(marks)
    every = [mark for repeats in marks.values() for mark in repeats]
    if not every:
        raise ValueError("there are no answers to score")
    return Score(
        _cut(float(np.mean(means))) if len(means) else 0.0,
        interval(means),
        _bounds(marks),
        counts,
        len(marks),
    )


def counts_of(marks: Marks) -> dict[Kind, int]:
    found = Counter(mark.kind for repeats in marks.values() for mark in repeats)
    return {kind: found[kind] for kind in KINDS}


def means_of(marks: Marks) -> list[float]:
    """Of every question with an answer that did not fail."""
    means = []
    for repeats in marks.values():
        valid = [mark.score for mark in repeats if mark.kind != "failed"]
        if valid:
            means.append(sum(valid) / len(valid))
    return means


def _bounds(marks: Marks) -> Interval:
    least = []
    most = []
    for repeats in marks.values():
        if not repeats:
            continue
        known = sum(mark.score for mark in repeats if mark.kind in ("right", "wrong"))
        unknown = sum(mark.kind not in ("right", "wrong") for mark in repeats)
        least.append(known / len(repeats))
        most.append((known + unknown) / len(repeats))
    low = sum(least) / len(least)
    high = sum(most) / len(most)
    return _cut(low), _cut(high)


def interval(values: Sequence[float]) -> Interval:
    """Of the mean, by drawing as many of `values` as there are, with replacement (Efron 1979).
    Where all are equal, Wilson's, since every draw would be the same. (0, 1) if there are none.
    """
    if not len(values):
        return 0.0, 1.0
    if min(values) == max(values):
        return wilson(_cut(values[0]), len(values))
    low, high = np.percentile(_drawn_means(values), INSIDE)
    return _cut(float(low)), _cut(float(high))


def _drawn_means(values: Sequence[float]) -> np.ndarray:
    own = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(SEED)
    rows = max(1, AT_ONCE // len(own))
    means = []
    for begin in range(0, DRAWS, rows):
        count = min(rows, DRAWS - begin)
        drawn = rng.integers(0, len(own), (count, len(own)))
        means.append(own[drawn].mean(axis=1))
    return np.concatenate(means)


def _cut(value: float) -> float:
    return min(1.0, max(0.0, value))


# ---- repeats -------------------------------------------------------------------------------------


def pass_at_k(marks: Marks, k: int) -> float | None:
    """Over the questions that have so many graded answers; None if there is none."""
    values = []
    for repeats in marks.values():
        valid = [mark for mark in repeats if mark.kind != "failed"]
        if len(valid) >= k:
            right = sum(mark.kind == "right" for mark in valid)
            values.append(pass_at(k, right, len(valid)))
    return sum(values) / len(values) if values else None


def majority(marks: Marks) -> float | None:
    """How often the answer that most repeats give is right; of several with as many votes, each is
    taken as often as the others. An answer that was not read has no vote. None where nothing is
    voted on.
    """
    if not any(mark.answer for repeats in marks.values() for mark in repeats):
        return None  # such answers are not read as one of several
    values = [_vote(repeats) for repeats in marks.values() if _is_voted(repeats)]
    return sum(values) / len(values) if values else None


def _is_voted(repeats: Sequence[Mark]) -> bool:
    return any(mark.kind != "failed" for mark in repeats)


def _vote(repeats: Sequence[Mark]) -> float:
    read = [mark for mark in repeats if mark.answer and mark.kind in ("right", "wrong")]
    if not read:
        return 0.0
    votes = Counter(mark.answer for mark in read)
    most = max(votes.values())
    first = [answer for answer, count in votes.items() if count == most]
    right = {mark.answer for mark in read if mark.kind == "right"}
    return sum(answer in right for answer in first) / len(first)


# ---- two models ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Of the second minus the first, over the `questions` that both have answered."""

    value: float
    interval: Interval
    questions: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0; of few questions, bootstrap intervals are too narrow
        to tell.
        """
        low, high = self.interval
        return self.questions >= FEWEST and (low > 0 or high < 0)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{100 * self.value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}, "
            f"{self.questions} questions)"
        )


def difference(first: Marks, second: Marks) -> Difference | None:
    """Paired: of every question the difference of its means; None if they share no question."""
    values = []
    for question in first:
        if question not in second:
            continue
        before = means_of({question: first[question]})
        after = means_of({question: second[question]})
        if before and after:
            values.append(after[0] - before[0])
    if not values:
        return None
    low, high = np.percentile(_drawn_means(values), INSIDE)
    mean = sum(values) / len(values)
    return Difference(mean, (float(low), float(high)), len(values))
