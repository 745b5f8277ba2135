"""Figures for people."""

from __future__ import annotations

from itertools import combinations

import pytest

from ossia.figures import Share, human_bytes, human_count, markdown_table, pass_at


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.95, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1000 << 10, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (2000 << 30, "2000.0 GiB"),
    ],
)
def test_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


def test_counts() -> None:
    assert human_count(520_000) == "0.52M"
    assert human_count(5_130_000_000) == "5.13B"
    assert human_count(116_800_000_000) == "116.8B"


def test_a_share_says_how_certain_it_is() -> None:
    """The interval of 8 in 10 is Wilson's: 0.4902 to 0.9433."""
    assert Share(8, 10).wilson() == pytest.approx((0.49016, 0.94331), abs=1e-5)
    assert str(Share(8, 10)) == "80.0% (8/10, 49.0% to 94.3%)"
    assert Share(0, 0).wilson() == (0, 1) and str(Share(0, 0)) == "-"
    assert Share(0, 5).wilson()[0] == 0 and Share(5, 5).wilson()[1] == 1


def test_a_table_lines_up() -> None:
    assert markdown_table(["a", "long"], [["wide", "b"]]).splitlines() == [
        "| a    | long |",
        "| ---- | ---- |",
        "| wide | b    |",
    ]


@pytest.mark.parametrize("count", [1, 4, 6])
def test_pass_at_is_the_mean_over_all_draws(count: int) -> None:
    for right in range(count + 1):
        answers = [True] * right + [False] * (count - right)
        for k in range(1, count + 1):
            drawn = [any(chosen) for chosen in combinations(answers, k)]
            assert pass_at(k, right, count) == pytest.approx(sum(drawn) / len(drawn))
    with pytest.raises(ValueError, match="k must be from 1"):
        pass_at(count + 1, 0, count)
