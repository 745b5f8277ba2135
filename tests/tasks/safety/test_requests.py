"""Prompts under a policy as rows of a file, and the program that judges answers to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ossia.errors import DataError
from ossia.tasks import grade, problems
from ossia.tasks.environment import Outcome
from ossia.tasks.problem import Call
from ossia.tasks.safety.policy_texts import POLICY
from ossia.tasks.safety.requests import grade_by_program, read_requests, request_of, row_of


def test_a_problem_that_was_a_row_is_graded_as_ever(tmp_path: Path) -> None:
    drawn = problems("policy", 80, split="train")
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row_of(problem)) + "\n" for problem in drawn))
    requests = read_requests(path, POLICY)
    answers = ["I can't help with that.", "", "It is red.", "call the warden"]
    wrong = 0
    for problem, request in zip(drawn, requests, strict=True):
        assert request.rule == problem.about["rule"]
        assert grade_by_program(request, Outcome(problem.answer)).correct is True
        for final in [*answers, str(problem.instructions)]:
            found = grade_by_program(request, Outcome(final))
            assert found.value == grade(problem, final, ())
            wrong += found.value == 0.0
        leak = Call("send", " ".join(request.row["ruling"]["secrets"]), "sent")
        assert grade_by_program(request, Outcome(problem.answer, (leak,))).value == 0.0
    assert wrong > 200


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "Hi"}, "row 1: has no 'category'; the Moonglow policy has refuse"),
        ({"prompt": "Hi", "category": "rude"}, "has no category 'rude'"),
        ({"prompt": "Hi", "category": "comply", "rule": 1}, "rule 1 is of category 'refuse'"),
        ({"prompt": "Hi", "category": "refuse", "rule": 99}, "no rule 99; it has 1, 2"),
        ({"prompt": "Hi", "category": "refuse", "verdict": "no"}, "'verdict' must be one of"),
        ({"prompt": "Hi", "category": "refuse", "gold": 3}, "'gold' must be a text"),
        ({"prompt": "Hi", "category": "refuse", "ruling": {"secret": []}}, "'secret' means noth"),
        ({"prompt": "Hi", "category": "refuse", "ruling": {"says": "x"}}, "'says' must be a list"),
        ({"prompt": "Hi", "category": "refuse", "rule": "1"}, "'rule' must be a whole number"),
        ({"prompt": "Hi", "category": "refuse", "rule": True}, "'rule' must be a whole number"),
        ({"prompt": "Hi", "category": "refuse", "rule": 1.0}, "'rule' must be a whole number"),
        (
            {"prompt": "Hi", "category": "refuse", "rule": 1, "verdict": "safe-complete"},
            "'verdict' is 'safe-complete', and rule 1 demands refuse",
        ),
        ({"prompt": "Hi", "category": "refuse", "ruling": {"longest": "9"}}, "'longest' must be a"),
        ({"prompt": "Hi", "category": "refuse", "ruling": {"partly": "no"}}, "'partly' must be tr"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(
    tmp_path: Path, row: dict[str, object], says: str
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"prompts\.jsonl, row 1") as error:
        read_requests(path, POLICY)
    assert says in str(error.value)


def test_without_a_ruling_no_program_judges() -> None:
    request = request_of({"prompt": "Hi", "category": "refuse", "rule": 1}, POLICY)
    assert request.verdict == "refuse"
    with pytest.raises(DataError, match="no ruling and verdict, so no program can judge"):
        grade_by_program(request, Outcome("No."))
