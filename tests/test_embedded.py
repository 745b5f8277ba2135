"""recipes/embedded: what nano is fine-tuned on beside its own tasks, and two models compared."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # recipes are no part of what is installed

from ossia.harmony import Effort  # noqa: E402
from ossia.tasks import REGISTRY, TASKS, example_random, problems  # noqa: E402
from ossia.tasks.evals import Report, Result, cases  # noqa: E402
from recipes import nano  # noqa: E402
from recipes.embedded import beyond, comparing  # noqa: E402
from recipes.embedded.settings import PRICES  # noqa: E402


def test_lessons_are_drawn_by_their_shares_and_leave_out_what_is_only_measured() -> None:
    assert sum(beyond.MIXTURE.values()) == 100
    assert not set(beyond.MIXTURE) & {*nano.UNSEEN, *TASKS}
    assert all("rl" not in REGISTRY[task].kinds for task in nano.UNSEEN)
    drawn = [beyond.drawn(example_random(1, "drawn", n)) for n in range(400)]
    assert {problem.split for problem in drawn} == {"train"}
    counts = Counter(problem.task for problem in drawn)
    for task, share in beyond.MIXTURE.items():
        assert abs(counts[task] / 400 - share / 100) < 0.08, task


def test_most_lessons_about_levels_and_the_policy_have_nothing_to_refuse() -> None:
    drawn = [beyond.drawn(example_random(2, "drawn", n)) for n in range(600)]
    levels = [p.about["conflict"] for p in drawn if p.task in ("hierarchy", "protection")]
    policy = [p.about["behaviour"] == "refuse" for p in drawn if p.task == "policy"]
    assert sum(levels) < len(levels) / 2 and sum(policy) < len(policy) / 2


def test_every_second_problem_of_the_rewards_is_one_of_nanos_tasks(tmp_path: Path) -> None:
    recipe = nano.Recipe(nano.Config(profile="smoke"), tmp_path)
    asked = recipe.rewarded_problems().step(0, range(8), None)
    assert [str(ask.arm).split("/")[0] in TASKS for ask in asked] == [True, False] * 4
    assert PRICES.low.reward(1.0, 24) < 0.25 < PRICES.low.reward(1.0, 4)


def report(right: set[int]) -> Report:
    asked = list(cases(problems("scope", 40), tuple(Effort)))
    results = []
    for number, case in enumerate(asked):
        score = float(number in right)
        results.append(Result(case, "", (), 1, score, None))
    return Report(tuple(results))


def test_differences_are_paired_and_clear_ones_stand_out() -> None:
    before = report(set(range(0, 120)))
    same = comparing.compared(before, before)
    assert "| scope | +0.0 (+0.0 to +0.0) | +0.0 (+0.0 to +0.0) | +0.0 (+0.0 to +0.0) |" in same
    fewer = comparing.compared(before, report(set(range(60, 120))))
    assert fewer.count("**-50.0 (") == 3
