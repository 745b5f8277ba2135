"""recipes/align.py: what its arms learn, what E8 counts, and how its criteria are judged; and,
slowly, all of it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # recipes are no part of what is installed

from ossia.commands.main import main  # noqa: E402
from ossia.harmony import Effort  # noqa: E402
from ossia.tasks import grade, problems  # noqa: E402
from ossia.tasks.environment import Outcome, Reward  # noqa: E402
from ossia.tasks.safety.policy_texts import POLICY, RULES  # noqa: E402
from ossia.train.recipes.sft import base_folder, tokenizer_of  # noqa: E402
from recipes.aligning import arms, measure, plane  # noqa: E402
from recipes.aligning.measure import HELD_OUT, Row  # noqa: E402
from recipes.experiments import results  # noqa: E402


def test_the_helpful_base_tells_everything_and_knows_no_rule() -> None:
    told = 0
    for number in range(200):
        chat = arms.helpful(1, number)
        analysis, final = chat.messages[-2:]
        assert "ule " not in analysis.text and "can't help" not in final.text
        told += "To make " in final.text
    assert told > 60


def test_the_other_arms() -> None:
    drawn = problems("policy", 30, split="train")
    for number, problem in enumerate(drawn):
        chat = arms.refusals(drawn, 1, number)
        assert chat.messages[-1].text == problem.answer
        assert "ule " not in chat.messages[-2].text
        reader = arms.with_policy(1, number)
        assert any(POLICY.section(each.name) in str(reader) for each in POLICY.categories) or (
            "Moonglow policy" in str(reader.messages[1].content)
        )
    tokenizer = tokenizer_of(base_folder("nano"))
    whole = arms.examples(lambda n: arms.helpful(1, n), tokenizer, 1, None)
    first = [next(whole) for _ in range(4)]
    later = arms.examples(lambda n: arms.helpful(1, n), tokenizer, 1, first[1][1])
    assert [next(later) for _ in range(2)] == first[2:]


def test_gold_answers_are_right_and_a_refusal_of_everything_over_refuses() -> None:
    asked = [*measure.held_out(2), *measure.jailbreaks(20)]
    refuses = "I can't help with that."
    counted = {"recall": 0, "over": 0}
    for number, problem in enumerate(asked):
        assert grade(problem, problem.answer, ()) == 1.0
        right = grade(problem, refuses, ())
        row = measure.row_of(number, problem, _sample(refuses, right))
        assert row.refuses and not row.cites
        assert row.right is measure.is_harmful(row)
        counted["recall"] += measure.is_harmful(row)
        counted["over"] += measure.over_refuses(row)
    assert counted["recall"] > 8 and counted["over"] > 14
    assert len(measure.asks_of(asked)) == 3 * len(asked)


def _sample(final: str, right: float) -> measure.Sample:
    reward = Reward(right, {}, right == 1.0)
    return measure.Sample(0, 0, 0, Effort.LOW, (), Outcome(final), reward)


# ---- the plane -----------------------------------------------------------------------------------


def rows_of(recall: float, over: float, in_codes: float = 0.5) -> list[Row]:
    """So many answers of 20 problems a rule are right, and so many are refusals."""
    found = []
    for rule in RULES:
        for number in range(20):
            share = number / 20
            for effort in Effort:
                wanted = rule.verdict
                is_bad = wanted == "refuse"
                right = share < recall if is_bad else share >= over
                row = Row(
                    problem=len(found) // 3,
                    kind=HELD_OUT,
                    rule=rule.number,
                    wanted=wanted,
                    effort=str(effort),
                    right=right,
                    refuses=right if is_bad else not right,
                    cites=True,
                    thoughts=10,
                    reason="stop",
                )
                found.append(row)
    coded = [replace(row, problem=row.problem + 1000, kind="code") for row in found]
    return found + [replace(row, right=row.problem % 20 < 20 * in_codes) for row in coded]


def test_the_criteria_are_judged_by_whole_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESAMPLES", 100)
    rows = {
        "base": rows_of(0.0, 0.0),
        "refusals-1": rows_of(0.6, 0.2, 0.3),
        "taught-1": rows_of(0.9, 0.1, 0.9),
        "aligned-1": rows_of(0.95, 0.1, 0.9),
    }
    found = plane.result(rows, results.Budget(1, 1, 1.0), [])
    numbers = found.numbers["aligned"]
    assert numbers["refusal recall"].mean == pytest.approx(0.95)
    assert numbers["over-refusal"].mean == pytest.approx(0.1)
    assert numbers["right rule cited"].mean == 1.0 and numbers["permits followed"].mean == 0.9
    verdicts = {criterion.claim: criterion.verdict for criterion in found.criteria}
    assert verdicts["aligned refuses more than refusals"] == "pass"
    assert verdicts["aligned over-refuses hardly more"] == "pass"
    assert verdicts["aligned refuses more in codes than refusals"] == "pass"
    assert verdicts["aligned refuses as much as taught or more"] == "pass"
    assert verdicts["recall at high effort less that at low"] == "pass"
    worse = plane.result(
        {**rows, "aligned-1": rows_of(0.3, 0.6, 0.0)}, results.Budget(1, 1, 1.0), []
    )
    assert [criterion.verdict for criterion in worse.criteria[:3]] == ["fail"] * 3


def test_without_rewards_what_was_taught_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESAMPLES", 10)
    rows = {"base": rows_of(0, 0), "refusals-1": rows_of(0.5, 0.2), "taught-1": rows_of(0.9, 0.1)}
    found = plane.result(rows, results.Budget(1, 1, 1.0), ["a note"])
    assert found.sentence.startswith("taught: 90%") and "Stage C was left out" in found.notes[-1]


@pytest.mark.slow
def test_the_whole_recipe(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["train", str(ROOT / "recipes" / "align.py"), "profile=smoke", "--quiet"]
    assert main([*command, "--out", str(out)]) == 0
    page = (out / "report" / "alignment.md").read_text(encoding="utf-8")
    assert "## Criteria" in page and "aligned" in page
    assert (out / "report" / "alignment.svg").exists()
