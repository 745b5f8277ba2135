"""Bounds, intervals, pass@k, majorities and differences, against what can be worked out by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from ossia.evals.answers import Mark
from ossia.evals.stats import (
    counts_of,
    difference,
    interval,
    majority,
    pass_at,
    pass_at_k,
    score,
)

RIGHT = Mark("right", "25", 1.0)
WRONG = Mark("wrong", "24")
UNPARSED = Mark("unparsed", why="?")
CUT = Mark("cut", why="?")
FAILED = Mark("failed", why="?")


def test_where_everything_failed_there_is_no_score() -> None:
    found = score({"a": [Mark("failed", why="no verdict")], "b": [Mark("failed", why="x")]})
    assert found.known is None and str(found) == "- [0.0%, 100.0%]"
    wrong = score({"a": [Mark("wrong")]})
    assert wrong.known == 0.0 and str(wrong).startswith("0.0% (")


def test_bounds() -> None:
    found = score({"1": [RIGHT, UNPARSED], "2": [WRONG, CUT], "3": [FAILED, RIGHT]})
    assert found.value == pytest.approx((0.5 + 0 + 1) / 3)
    assert found.bounds == (pytest.approx(2 / 6), pytest.approx(5 / 6))
    assert found.counts == {"right": 2, "wrong": 1, "unparsed": 1, "cut": 1, "failed": 1}
    assert found.questions == 3 and found.answers == 6
    assert str(found).startswith("50.0% (0.0% to 100.0%) [33.3%, 83.3%]")


def test_bounds_of_what_was_all_read() -> None:
    found = score({"1": [RIGHT], "2": [WRONG]})
    assert found.bounds == (0.5, 0.5) and "[" not in str(found)
    everything_failed = score({"1": [FAILED]})
    assert everything_failed.value == 0.0 and everything_failed.bounds == (0.0, 1.0)
    with pytest.raises(ValueError, match="no answers"):
        score({})


def test_points_below_zero_are_cut_in_the_mean_alone() -> None:
    marks = {"1": [Mark("wrong", "", -0.5)], "2": [Mark("wrong", "", 0.9)]}
    assert score(marks).value == pytest.approx(0.2)
    assert score({"1": [Mark("wrong", "", -0.5)]}).value == 0.0


def test_intervals_are_of_questions_and_the_same_every_time() -> None:
    values = [1.0] * 24 + [0.0] * 6
    low, high = interval(values)
    assert interval(values) == (low, high)
    error = np.sqrt(0.8 * 0.2 / 30)
    assert low == pytest.approx(0.8 - 1.96 * error, abs=0.03)
    assert high == pytest.approx(0.8 + 1.96 * error, abs=0.03)
    repeated = score({str(n): [RIGHT if value else WRONG] * 8 for n, value in enumerate(values)})
    assert repeated.interval == (low, high), "repeats of a question are no new questions"
    assert interval([]) == (0.0, 1.0)


def test_equal_means_are_not_certain() -> None:
    """Every draw is the same; 30 of 30 right leave more than a tenth open (Wilson 1927)."""
    assert interval([1.0] * 30) == pytest.approx((0.8865, 1.0), abs=1e-3)
    assert interval([0.0] * 30) == pytest.approx((0.0, 0.1135), abs=1e-3)
    few = difference({"1": [WRONG], "2": [WRONG]}, {"1": [RIGHT], "2": [RIGHT]})
    assert few is not None and few.value == 1.0 and not few.is_clear


def test_no_majority_without_answers() -> None:
    graded = Mark("right", score=1.0)
    assert majority({"1": [graded, graded], "2": [graded]}) is None


def test_pass_at_k_is_the_mean_over_all_draws() -> None:
    assert pass_at(4, 3, 8) == pytest.approx(0.92857, abs=1e-5)
    for count in range(1, 7):
        for right in range(count + 1):
            answers = [True] * right + [False] * (count - right)
            for k in range(1, count + 1):
                drawn = [any(one) for one in combinations(answers, k)]
                assert pass_at(k, right, count) == pytest.approx(sum(drawn) / len(drawn))
    for k in (0, 4):
        with pytest.raises(ValueError, match="from 1 to 3"):
            pass_at(k, 1, 3)


def test_pass_at_k_of_marks() -> None:
    marks = {"1": [RIGHT, WRONG], "2": [WRONG, UNPARSED], "3": [FAILED, RIGHT]}
    assert pass_at_k(marks, 1) == pytest.approx((0.5 + 0 + 1) / 3)
    assert pass_at_k(marks, 2) == 0.5, "the third has one answer"
    assert pass_at_k(marks, 3) is None


def test_majorities() -> None:
    assert majority({"1": [RIGHT, RIGHT, WRONG]}) == 1.0
    assert majority({"1": [RIGHT, WRONG]}) == 0.5
    assert majority({"1": [RIGHT, UNPARSED, UNPARSED, CUT]}) == 1.0
    assert majority({"1": [UNPARSED], "2": [RIGHT], "3": [FAILED]}) == 0.5
    assert majority({"1": [FAILED]}) is None


def test_differences_are_paired() -> None:
    """Two models that agree but for one question in ten differ clearly, though each alone is
    uncertain.
    """
    before = {str(n): [RIGHT if n % 2 else WRONG] for n in range(100)}
    after = {name: [RIGHT] if int(name) % 10 == 0 else marks for name, marks in before.items()}
    found = difference(before, {**after, "other": [WRONG]})
    assert found is not None and found.questions == 100
    assert found.value == pytest.approx(0.1) and found.is_clear
    assert found.interval[1] - found.interval[0] < 0.13
    assert str(found).startswith("+10.0 points (+")
    back = difference(after, before)
    assert back is not None and back.value == pytest.approx(-0.1)
    assert difference(before, {"other": [RIGHT]}) is None
    assert difference({"1": [FAILED]}, {"1": [RIGHT]}) is None


def test_counts() -> None:
    assert counts_of({"1": [RIGHT, CUT]})["cut"] == 1
