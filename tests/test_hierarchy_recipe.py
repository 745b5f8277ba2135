"""recipes/aligning: its lessons, its statistics against plain counts, the messages that are
counted; and, slowly, both recipes whole.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from random import Random

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # recipes are no part of what is installed

from ossia.commands.main import main  # noqa: E402
from ossia.tasks.limits.small_talk import message  # noqa: E402
from ossia.tasks.problem import example_random  # noqa: E402
from ossia.train.overrides import apply  # noqa: E402
from ossia.train.recipes.sft import base_folder, tokenizer_of  # noqa: E402
from recipes.aligning import counting, lessons, order  # noqa: E402
from recipes.aligning.hierarchy import Config, drawn  # noqa: E402
from recipes.aligning.order import Cell, Row  # noqa: E402
from recipes.begun import command  # noqa: E402
from recipes.experiments.results import Budget  # noqa: E402

TOKENIZER = tokenizer_of(base_folder("nano"))
LESSON = lessons.Lesson("order", partial(drawn, None), 0.6)


def test_the_command_on_a_page_makes_the_same_run() -> None:
    given = ["profile=smoke", "seed=7", "share=0.5", "hyper.shards=1", "rewards.peak_lr=1e-4"]
    config = apply(Config(), given)
    said = command("aligning/hierarchy.py", config)
    assert said.startswith("ossia train recipes/aligning/hierarchy.py profile=smoke ")
    assert apply(Config(), said.split()[3:]) == config


# ---- lessons -------------------------------------------------------------------------------------


def test_lessons_go_on_where_they_were() -> None:
    whole = lessons.examples(LESSON, TOKENIZER, 1, None)
    made = [next(whole) for _ in range(6)]
    later = lessons.examples(LESSON, TOKENIZER, 1, made[2][1])
    assert [next(later) for _ in range(3)] == made[3:]


def test_a_lesson_teaches_the_answer_and_its_thoughts_alone() -> None:
    for number in range(20):
        example, _ = next(lessons.examples(LESSON, TOKENIZER, 1, number))
        pairs = zip(example.ids, example.mask, strict=True)
        taught = TOKENIZER.decode([token for token, learned in pairs if learned])
        assert "<|channel|>final<|message|>" in taught and "Reasoning:" not in taught


@pytest.mark.parametrize(("conflict", "wanted"), [(True, {True}), (False, {False})])
def test_mixes_are_what_they_say(conflict: bool, wanted: set[bool]) -> None:
    some = [drawn(conflict, Random(n)) for n in range(60)]
    assert {bool(problem.about["conflict"]) for problem in some} == wanted
    assert {problem.task for problem in some} == {"hierarchy", "protection"}
    assert {problem.split for problem in some} == {"train"}


# ---- E9 ------------------------------------------------------------------------------------------


def row(problem: int, conflict: bool, right: bool, pair: str = "system>user") -> Row:
    return Row(problem, "hierarchy", pair, "phrase", "", conflict, "low", right, "stop")


def rows(conflicts: int, controls: int, of: int = 40) -> list[Row]:
    """So many right answers to problems with a conflict and without."""
    found = [row(n, True, n < conflicts) for n in range(of)]
    return found + [row(of + n, False, n < controls) for n in range(of)]


def test_held_out_problems_are_matched() -> None:
    problems = order.held_out(2)
    conflicts = [p.about["conflict"] for p in problems]
    assert sum(map(bool, conflicts)) * 2 == len(conflicts)
    assert {problem.split for problem in problems} == {"held_out"}
    again = order.held_out(2)
    assert [p.turns[0].user for p in problems] == [p.turns[0].user for p in again]


def test_shares_and_changes_are_of_problems() -> None:
    base = rows(4, 40)
    after = [rows(36, 40), rows(32, 39)]
    found = order.accuracy(after, Cell(conflict=True))
    assert found.values == (0.9, 0.8) and found.mean == pytest.approx(0.85)
    moved = order.change(after, base, Cell(conflict=True))
    assert moved.values == (pytest.approx(0.8), pytest.approx(0.7))
    left = order.kept(after, base, Cell(conflict=False))
    assert left.values == (1.0, pytest.approx(39 / 40))
    assert not order.items(base, Cell(pair="user>tool"))


def test_verdicts_are_of_whole_intervals() -> None:
    every = [row(200 + n, conflict, True, name) for n, name in enumerate(order.NAMES)
             for conflict in (True, False)]  # fmt: skip
    others = [
        Row(300 + n, "hierarchy unseen", "system>user", "name", one, conflict, e, True, "stop")
        for n, one in enumerate(order.UNSEEN)
        for conflict in (True, False)
        for e in ("low", "medium", "high")
    ]
    others += [
        Row(400 + n, "protection", "system>user", kind, "", conflict, "low", True, "stop")
        for n, kind in enumerate(("extraction", "hijack"))
        for conflict in (True, False)
    ]
    others += [row(500, True, True), Row(501, "hierarchy", "system>user", "phrase", "", True,
               "medium", True, "stop"), Row(502, "hierarchy", "system>user", "phrase", "", True,
               "high", True, "stop")]  # fmt: skip
    rest = every + others
    arms = {
        "nano": [rows(0, 0) + rest],
        order.BASE: [rows(2, 40) + rest],
        "SFT": [rows(30, 40) + rest],
        order.MIXED: [rows(38, 40) + rest],
        "SFT, no controls": [rows(38, 30) + rest],
        order.ALONE: [rows(40, 20) + rest],
    }
    found = order.result(arms, "a model", Budget(1, 1, 1.0), ["note"])
    assert [one.verdict for one in found.criteria] == ["pass", "pass", "pass", "pass"]
    assert "| system>user" in found.tables[0] and "| extraction" in found.tables[1]
    assert any(one.what.startswith("extraction") for one in found.published)


# ---- messages ------------------------------------------------------------------------------------


def test_counted_messages_differ_and_no_training_shows_them() -> None:
    said = counting.messages(300)
    texts = [text for _, text in said]
    assert len(set(texts)) == 300 and {kind for kind, _ in said} == {
        "talk",
        "nonsense",
        "language",
    }
    trained = {message(example_random(1, "t", n), "train")[1] for n in range(3000)}
    assert not trained & set(texts)


def test_endless_answers_are_counted_by_kind() -> None:
    answers = [
        counting.Answer("talk", "x", "low", "Hello! Give me", "stop", 9),
        counting.Answer("talk", "y", "low", "", "length", 512),
        counting.Answer("nonsense", "z", "low", "no", "stop", 4),
    ]
    text = counting.table(answers)
    assert "| talk     | low    | 50.0% (1/2" in text and "33.3% (1/3" in text and "512" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "setting", "made"),
    [
        ("hierarchy", "profile=smoke", "report/hierarchy.md"),
        ("polite", "messages=6", "counted/counted.md"),
    ],
)
def test_every_stage(name: str, setting: str, made: str, tmp_path: Path) -> None:
    recipe = str(ROOT / "recipes" / "aligning" / f"{name}.py")
    assert main(["train", recipe, "--out", str(tmp_path / "run"), setting]) == 0
    assert "|" in (tmp_path / "run" / made).read_text()
