"""The plot is a picture with every run, every effort and the card's numbers in it; the same results
give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ossia.errors import RequestError
from ossia.evals import card
from ossia.evals.answers import Mark
from ossia.evals.costs import costs, duration
from ossia.evals.plot import Line, draw
from ossia.evals.questions import Answered, Question, Trial, trials
from ossia.evals.results import Record
from ossia.harmony import Effort, Message, Role

pytest.importorskip("matplotlib", reason="matplotlib, of the extra `train`, is not installed")


def question(number: int) -> Question:
    asked = (Message(Role.USER, f"{number}?" * 20),)
    return Question(str(number), "", asked, "1", lambda answered: Mark("right", "1", 1.0))


def record(trial: Trial, tokens: int) -> Record:
    answered = Answered("1", tokens=tokens)
    mark = Mark("right", "1", 1.0) if trial.question.id < "3" else Mark("unparsed", why="?")
    return Record.of(trial, answered, mark)


def every(repeats: int = 2) -> list[Trial]:
    return list(trials([question(n) for n in range(6)], list(Effort), repeats, 0))


def records() -> list[Record]:
    tokens = {"low": 30, "medium": 200, "high": 1500}
    return [record(trial, tokens[trial.effort]) for trial in every()]


def test_what_is_in_it(tmp_path: Path) -> None:
    lines = [Line.of("first", records()), Line.of("second", records()[:12])]
    path = tmp_path / "plot.svg"
    draw("Six questions", lines, path, "gpqa")
    text = path.read_text()
    for words in ("Six questions", "first", "second", "low", "high", "model card, gpt-oss-20b"):
        assert f">{words}<" in text
    again = tmp_path / "again.svg"
    draw("Six questions", lines, again, "gpqa")
    assert again.read_text() == text
    png = tmp_path / "plot.png"
    draw("Six questions", lines, png, "mmlu")
    assert png.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RequestError, match=r"a \.png or a \.svg"):
        draw("x", lines, tmp_path / "plot.pdf")


def test_the_points() -> None:
    line = Line.of("first", records())
    tokens, found = line.points["high"]
    assert tokens == 1500 and found.value == 0.5 and found.bounds == (0.5, 1.0)


def test_the_cards_numbers() -> None:
    assert card.SCORES["aime25"]["gpt-oss-20b"] == (37.1, 72.1, 91.7)
    assert card.SCORES["gpqa"]["gpt-oss-120b"] == (67.1, 73.1, 80.1)
    assert card.tokens_of("aime") == (1100, 6000, 20000)
    assert card.tokens_of("gpqa", "gpt-oss-120b") == (1300, 3800, 17000)
    for models in card.SCORES.values():
        assert set(models) == set(card.MODELS)


def test_an_answer_costs_no_more_than_it_may_have() -> None:
    text = costs("aime", "nano", list(trials([question(1)], [Effort.HIGH], 1, 0)), [], 75.0, 60)
    assert "60 (as many as fit)" in text


def test_costs() -> None:
    """30 questions at low effort, of 1,100 tokens each, at 75 a second: seven minutes."""
    asked = list(trials([question(n) for n in range(30)], [Effort.LOW], 1, 0))
    text = costs("aime", "gpt-oss-20b", asked, [], 75.0)
    assert "| 30 " in text and "33,000" in text and text.endswith("in all about 7 min")
    assert "guessed from the model card" in text
    half = [record(trial, 75) for trial in asked[:15]]
    text = costs("aime", "gpt-oss-20b", asked, half, 75.0)
    assert "as answered so far" in text and text.endswith("in all about 15 s")
    assert [duration(s) for s in (40, 420, 8000, 270_000)] == ["40 s", "7 min", "2.2 h", "3.1 days"]
