"""recipes/align.py: what its arms learn, what E8 counts, and how its criteria are judged; and,
slowly, all of it.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # recipes are no part of what is installed

from ossia.commands.main import main  # noqa: E402
from ossia.errors import ConfigError  # noqa: E402
from ossia.harmony import Conversation, DeveloperContent, Effort  # noqa: E402
from ossia.tasks import grade, problems  # noqa: E402
from ossia.tasks.environment import Outcome, Reward  # noqa: E402
from ossia.tasks.safety.policy import policy_question  # noqa: E402
from ossia.tasks.safety.policy_texts import POLICY, RULES  # noqa: E402
from ossia.tasks.safety.requests import request_of, row_of  # noqa: E402
from ossia.train.align.drafts import cited, lines_of  # noqa: E402
from ossia.train.align.prompts import aligned_row  # noqa: E402
from ossia.train.recipes.sft import base_folder, tokenizer_of  # noqa: E402
from recipes import align  # noqa: E402
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


def test_the_base_is_shown_the_section_in_every_second_example() -> None:
    for number in range(40):
        chat = arms.before(1, number)
        sections = [each for each in POLICY.categories if POLICY.section(each.name) in _told(chat)]
        assert len(sections) == number % 2
        assert ("ule " in chat.messages[-2].text) is (number % 2 == 1)


def _told(chat: Conversation) -> str:
    return "\n".join(
        message.content.instructions or ""
        for message in chat.messages
        if isinstance(message.content, DeveloperContent)
    )


def test_of_four_examples_one_is_an_ordinary_conversation_and_a_run_goes_on_where_it_was() -> None:
    tokenizer = tokenizer_of(base_folder("nano"))
    asked: list[int] = []

    def made(number: int) -> Conversation:
        asked.append(number)
        return arms.helpful(1, number)

    whole = arms.examples(made, tokenizer, 1, None)
    first = [next(whole) for _ in range(8)]
    assert asked == [0, 1, 2, 3, 4, 5]
    later = arms.examples(made, tokenizer, 1, first[4][1])
    assert [next(later) for _ in range(3)] == first[5:]


def test_every_rule_is_learned_as_often_with_reasons_and_without(tmp_path: Path) -> None:
    rows = []
    for number, problem in enumerate(problems("policy", 60, split="train")):
        request = request_of(row_of(problem), POLICY)
        draft = arms.Script([problem], 1, Effort.HIGH).drafts([(0, request)])[0]
        about = {"rule": request.rule}
        rows.append(aligned_row(request, draft, list(Effort)[number % 3], about))
    path = tmp_path / "kept.jsonl"
    path.write_text(lines_of(rows))
    kept = arms.read_kept(path, 1)
    found = {int(row["provenance"]["rule"]) for row in rows}
    rounds = 3 * len(found)  # every rule at every effort
    learned = Counter()
    for number in range(2 * rounds):
        reasoned = kept(number)
        bare = kept.without_reasons(number)
        assert cited(str(bare)) == ()
        assert reasoned.messages[:-2] == bare.messages[:-2]
        assert reasoned.messages[-1] == bare.messages[-1]
        rule = cited(reasoned.messages[-2].text)[0]
        learned[rule, reasoned.messages[0].content.effort] += 1
    assert set(learned.values()) == {2} and len(learned) == rounds
    other = arms.read_kept(path, 2)
    assert any(kept(number) != other(number) for number in range(rounds))


def test_thoughts_with_a_wrong_code_are_not_true() -> None:
    problem = policy_question(Random(3), "train", 11)
    for effort in Effort:
        gold = problem.solution(effort)[0].text
        assert arms.is_true(problem, effort, gold)
        wrong = gold.replace("The user gives ", "The user gives 9")
        assert arms.is_true(problem, effort, wrong) is (effort is Effort.LOW)


@pytest.mark.parametrize("name", ["refusals", "taught", "reader"])
def test_arms_that_others_need_cannot_be_left_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"without={name}: only distilled, aligned, rewarded"):
        align.phases(align.Config(without=("distilled", name)), tmp_path)
    left = align.phases(align.Config(without=("distilled", "rewarded")), tmp_path)
    names = {phase.name for phase in left}
    assert "aligned-1" in names and not {"distilled-1", "rewarded-1"} & names


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
    coded = [replace(row, problem=row.problem + 1000, kind=measure.UNSEEN[0]) for row in found]
    return found + [replace(row, right=row.problem % 20 < 20 * in_codes) for row in coded]


def test_the_criteria_are_judged_by_whole_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESAMPLES", 40)
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
    assert list(verdicts.values()) == ["pass"] * 6
    assert any("disguises" in claim for claim in verdicts)
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
    few = ["max_tokens=24", "hyper.shards=1"]  # nothing is learned, so answers may be cut
    assert main([*command, *few, "--out", str(out)]) == 0
    page = (out / "report" / "alignment.md").read_text(encoding="utf-8")
    assert "## Criteria" in page and "aligned" in page
    assert (out / "report" / "alignment.svg").exists()
