"""The processor time of every test: the ten costliest are printed, and a test of more than --limit
seconds that bears no mark `slow` or `long` fails the run.

Processor time, of this process and of the children it has waited for, because the clock of a busy
machine says little of a test. Fixtures that several tests share are counted on their own, under
their names, and may take longer. Knows pytest and, of xdist, only that reports travel with their
attributes.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SHOWN = 10
FIXTURE = " fixture "  # in the name of a shared one, between where and what


def spent() -> float:
    """Processor seconds of this process and of its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Measured:
    def __init__(self, limit: float, file: str | None) -> None:
        self.limit = limit
        self.file = file  # for the seconds of every test
        self.seconds: dict[str, float] = defaultdict(float)  # of tests and of shared fixtures
        self.slow: set[str] = set()
        self.shared = 0.0  # seconds of shared fixtures within the phase that is running
        self.fixtures: dict[str, float] = {}  # of that phase, by name

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)
        name = f"{fixturedef.baseid}{FIXTURE}{fixturedef.argname}"
        ending = 0.0  # when its own end began

        def begin_to_end() -> None:
            nonlocal ending
            ending = spent()

        # finalizers run in reverse, so its own end is between these two
        fixturedef.addfinalizer(lambda: self._note(name, spent() - ending))
        before = spent() - self.shared
        try:
            return (yield)
        finally:
            # without the shared ones that it asked for
            self._note(name, spent() - self.shared - before)
            fixturedef.addfinalizer(begin_to_end)

    def _note(self, fixture: str, seconds: float) -> None:
        self.shared += seconds
        self.fixtures[fixture] = self.fixtures.get(fixture, 0.0) + seconds

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        return (yield from self._phase(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        return (yield from self._phase(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        return (yield from self._phase(item))

    def _phase(self, item: pytest.Item) -> Iterator[None]:
        self.shared = 0.0
        self.fixtures = {}
        before = spent()
        try:
            return (yield)
        finally:
            own = spent() - before - self.shared
            item.stash[SPENT] = {item.nodeid: own, **self.fixtures}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        report = yield
        report.processor_seconds = item.stash.get(SPENT, {})
        item.stash[SPENT] = {}
        marks = (item.get_closest_marker(name) for name in ("slow", "long"))
        report.may_be_slow = any(mark is not None for mark in marks)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, seconds in getattr(report, "processor_seconds", {}).items():
            self.seconds[name] += seconds
        if getattr(report, "may_be_slow", False):
            self.slow.add(report.nodeid)

    def too_slow(self) -> list[str]:
        return [
            name
            for name, seconds in self.seconds.items()
            if seconds > self.limit and name not in self.slow and FIXTURE not in name
        ]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.too_slow() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.file:
            lines = [f"{value:9.3f} {name}\n" for name, value in self.ranked()]
            Path(self.file).write_text("".join(lines))
        total = sum(self.seconds.values())
        terminalreporter.section(f"{total:.0f} processor seconds; the costliest")
        for name, seconds in self.ranked()[:SHOWN]:
            terminalreporter.write_line(f"{seconds:7.2f} s  {name}")
        for name in self.too_slow():
            terminalreporter.write_line(
                f"TOO SLOW: more than {self.limit:g} processor seconds without a mark `slow` or "
                f"`long`: {name}",
                red=True,
            )

    def ranked(self) -> list[tuple[str, float]]:
        return sorted(self.seconds.items(), key=lambda one: -one[1])


SPENT = pytest.StashKey[dict[str, float]]()
