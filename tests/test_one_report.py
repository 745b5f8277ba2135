"""What a worker tells of a test: once if it passed, whatever did not, and all of the time."""

from __future__ import annotations

import pytest
from one_report import worth_telling


def reports(**outcomes: str) -> list[pytest.TestReport]:
    made = []
    for seconds, (when, outcome) in enumerate(outcomes.items(), 1):
        report = pytest.TestReport("a", ("a", 1, "a"), {}, outcome, None, when)  # type: ignore[arg-type]
        report.processor_seconds = {"a": seconds, f"{when}'s fixture": 1.0}
        made.append(report)
    return made


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        ({"setup": "passed", "call": "passed", "teardown": "passed"}, ["call"]),
        ({"setup": "passed", "call": "failed", "teardown": "passed"}, ["call"]),
        ({"setup": "passed", "call": "skipped", "teardown": "failed"}, ["call", "teardown"]),
        ({"setup": "failed", "teardown": "failed"}, ["setup", "teardown"]),
        ({"setup": "skipped", "teardown": "passed"}, ["setup"]),
        ({"setup": "passed", "teardown": "passed"}, ["setup", "teardown"]),  # --setup-only
    ],
)
def test_what_is_told(outcomes: dict[str, str], told: list[str]) -> None:
    found = worth_telling(reports(**outcomes))
    assert [report.when for report in found] == told
    last = found[-1].processor_seconds
    assert last["a"] == sum(range(1, len(outcomes) + 1)) and len(last) == 1 + len(outcomes)
    assert not any(report.processor_seconds for report in found[:-1])
