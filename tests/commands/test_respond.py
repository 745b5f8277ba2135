"""Evaluating a model: cases are answered many at once, and graded in order."""

from __future__ import annotations

import pytest
from tiny_model import write_tiny

import ossia
from ossia.commands import respond
from ossia.harmony import Effort
from ossia.llm import LLM
from ossia.tasks import problems
from ossia.tasks.evals import cases


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return ossia.load(write_tiny(tmp_path_factory.mktemp("models") / "tiny"), dtype="float32")


def test_evaluate_grades_in_order_and_counts_what_was_cut(llm: LLM) -> None:
    seen: list[tuple[int, int]] = []
    asked_for = list(cases(problems("arithmetic", 2), list(Effort)))
    params = llm.params(seed=1, max_tokens=3)
    report, cut = respond.evaluate(llm, asked_for, params, progress=lambda *at: seen.append(at))
    assert [result.case for result in report.results] == asked_for
    assert cut <= 6 and seen == [(n, 6) for n in range(1, 7)]
    assert all(result.tokens <= 3 for result in report.results)
