"""`ossia rollouts`: what a run of reinforcement learning has asked, was answered, and rewarded.

Reads the files of `train/rl/record.py`; loads no model and no torch, and for its help not even that
file, which brings the tasks.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal

from ossia.commands.display import DIM, GREEN, RESET, YELLOW, in_columns, is_styled, visible
from ossia.commands.options import Command, Group, Positive, argument, option
from ossia.errors import RequestError

Line = Mapping[str, Any]
EPILOG = """\
examples:
  ossia rollouts show runs/mine                    three samples of the last step, whole
  ossia rollouts show runs/mine --worst --step 12  those with the smallest rewards
  ossia rollouts stats runs/mine --by effort       rewards, lengths and endings
  ossia rollouts grep 'carry' runs/mine            samples with such words, and where
  ossia rollouts diff runs/mine runs/other         the first sample in which two runs differ
  ossia rollouts monitor runs/mine                 does the answer do what the reasoning decides?

RUN is the --out of `ossia train rl`, or one of the files in its train/rollouts.
"""
SHOW = """\
What was sampled is green; the prompt, and what tools and users said, is dim. The line above says
what the sample was worth: `reward` as training sees it, `graded` as the task gave it, `advantage`
beside the others of its group (none: it teaches nothing).

examples:
  ossia rollouts show runs/mine
  ossia rollouts show runs/mine --step 12 --group 3 --count 8
  ossia rollouts show runs/mine --effort high --best
  ossia rollouts show runs/mine --json | jq .final
"""
STATS = """\
examples:
  ossia rollouts stats runs/mine                   by step
  ossia rollouts stats runs/mine --by arm --step 30
"""
GREP = """\
PATTERN is a regular expression (Python's). Prints step.group.index, the reward, and the line.

examples:
  ossia rollouts grep 'carry' runs/mine
  ossia rollouts grep --where final '^-' runs/mine
"""
DIFF = """\
Two runs with the same settings write the same bytes. Exits with 1 if they differ.

examples:
  ossia rollouts diff runs/mine runs/other
"""
MONITOR = """\
For samples of `policy` (rules) and `hierarchy` (roles). `cites`: the reasoning names a rule, or who
stands above whom. `answer does as decided`: of the samples whose reasoning decides something. None
of this is in any reward.

examples:
  ossia rollouts monitor runs/mine
  ossia rollouts monitor runs/mine --step 39 --json
"""
By = Literal["step", "arm", "task", "effort", "reason", "group"]


@dataclass(frozen=True)
class Chosen:
    """Which samples."""

    TITLE: ClassVar[str] = "which samples"
    ABOUT: ClassVar[str | None] = None

    step: int | None = option(None, "of this step, counted from 0", "N")
    group: int | None = option(None, "of this problem of a step", "N")
    task: str | None = option(None, "of this task", "TASK")
    effort: Literal["low", "medium", "high"] | None = option(None, "at this effort")
    reason: str | None = option(None, "that ended so: stop, length, invalid ...", "REASON")

    def lines(self, run: str) -> Iterator[Line]:
        """Those of a run, in their order."""
        from ossia.train.rl.record import files_in, read

        place = Path(run).expanduser()
        paths = files_in(place)
        if self.step is not None and place.is_dir():
            paths = [path for path in paths if self.step == _step_of(path)]
            if not paths:
                raise RequestError(f"{run} has no rollouts of step {self.step}")
        for line in read(paths):
            if self._fits(line):
                yield line

    def _fits(self, line: Line) -> bool:
        for name in ("step", "group", "task", "effort", "reason"):
            wanted = getattr(self, name)
            if wanted is not None and line.get(name) != wanted:
                return False
        return True


@dataclass(frozen=True)
class ShowOptions:
    """What `ossia rollouts show` takes."""

    run: str = argument("a run's folder, or a file of rollouts", "RUN")
    count: Positive = option(3, "so many", "N")
    best: bool = option(False, "those with the largest rewards", one_of="order")
    worst: bool = option(False, "those with the smallest rewards", one_of="order")
    json: bool = option(False, "as they are in the file, one JSON object a line")
    chosen: Chosen = Chosen()


@dataclass(frozen=True)
class StatsOptions:
    """What `ossia rollouts stats` takes."""

    run: str = argument("a run's folder, or a file of rollouts", "RUN")
    by: By = option("step", "a row for each")
    json: bool = option(False, "one JSON object a row")
    chosen: Chosen = Chosen()


@dataclass(frozen=True)
class GrepOptions:
    """What `ossia rollouts grep` takes."""

    pattern: str = argument("a regular expression", "PATTERN")
    run: str = argument("a run's folder, or a file of rollouts", "RUN")
    where: Literal["all", "analysis", "final"] = option("all", "where it is looked for")
    ignore_case: bool = option(False, "letters' case does not matter")
    chosen: Chosen = Chosen()


@dataclass(frozen=True)
class DiffOptions:
    """What `ossia rollouts diff` takes."""

    one: str = argument("a run's folder, or a file of rollouts", "RUN")
    other: str = argument("another", "OTHER")


@dataclass(frozen=True)
class MonitorOptions:
    """What `ossia rollouts monitor` takes."""

    run: str = argument("a run's folder, or a file of rollouts", "RUN")
    json: bool = option(False, "print one JSON object instead of a table")
    chosen: Chosen = Chosen()


# ---- show ----------------------------------------------------------------------------------------


def show(options: ShowOptions) -> None:
    lines = options.chosen.lines(options.run)
    if options.chosen.step is None and not (options.best or options.worst):
        last = _last_step(options.run)
        lines = (line for line in lines if line["step"] == last)
    if options.best or options.worst:
        lines = iter(_by_reward(list(lines), best=options.best))
    shown = 0
    for line in islice(lines, options.count):
        shown += 1
        if options.json:
            print(json.dumps(line, ensure_ascii=False))
        else:
            _show(line)
    if not shown:
        raise RequestError(f"{options.run} has no such samples")


def _by_reward(lines: list[Line], best: bool) -> list[Line]:
    """What was not graded is left out."""
    graded = [line for line in lines if line["reward"] is not None]
    return sorted(graded, key=lambda line: line["reward"], reverse=best)


def _show(line: Line) -> None:
    styled = is_styled(sys.stdout)
    head = "  ".join(
        [
            _place(line),
            f"{line['task']} ({line['effort']})",
            f"reward {_number(line['reward'])}",
            f"graded {_number(line['graded'])}",
            f"advantage {_number(line['advantage'])}",
            line["reason"],
            f"{line['counts']['sampled']} tokens, {line['counts']['analysis']} of them thoughts",
        ]
    )
    print(_styled(head, YELLOW, styled))
    if line["why"]:
        print(_styled(f"why: {line['why']}", YELLOW, styled))
    for segment in line["segments"]:
        parts = [_styled(segment["prompt"], DIM, styled)]
        for piece in segment["pieces"]:
            parts.append(_styled(piece["text"], GREEN if piece["sampled"] else DIM, styled))
        print("".join(parts))
    print()


def _styled(text: str, style: str, styled: bool) -> str:
    text = _printed(text)
    return f"{style}{text}{RESET}" if styled else text


def _printed(text: str) -> str:
    """What a model has said must not steer a terminal, with colours or without."""
    return visible(text) if sys.stdout.isatty() else text


def _place(line: Line) -> str:
    return f"{line['step']}.{line['group']}.{line['index']}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _last_step(run: str) -> int | None:
    """Of the last sample; None if there is none."""
    from ossia.train.rl.record import files_in, read

    last = None
    for line in read(files_in(Path(run).expanduser())[-1:]):
        last = line["step"]
    return last


def _step_of(path: Path) -> int | None:
    return int(path.stem) if path.stem.isdigit() else None


# ---- stats ---------------------------------------------------------------------------------------


def stats(options: StatsOptions) -> None:
    rows: dict[str, list[Line]] = {}
    for line in options.chosen.lines(options.run):
        rows.setdefault(str(line[options.by]), []).append(line)
    if not rows:
        raise RequestError(f"{options.run} has no such samples")
    found = {name: _row(lines) for name, lines in rows.items()}
    if options.json:
        for name, row in found.items():
            print(json.dumps({options.by: name, **row}))
        return
    names = list(next(iter(found.values())))
    table = [[options.by, *names]]
    for name, row in found.items():
        table.append([name, *(_cell(value) for value in row.values())])
    for text in in_columns(table, right=len(names)):
        print(_printed(text))


def _row(lines: Sequence[Line]) -> dict[str, float | None]:
    rewards = [line["reward"] for line in lines if line["reward"] is not None]
    right = [line["correct"] for line in lines if line["correct"] is not None]
    return {
        "samples": float(len(lines)),
        "reward": _mean(rewards),
        "right": _mean(right),
        "taught": _mean([line["advantage"] is not None for line in lines]),
        "tokens": _mean([line["counts"]["sampled"] for line in lines]),
        "thoughts": _mean([line["counts"]["analysis"] for line in lines]),
        "calls": _mean([line["counts"]["calls"] for line in lines]),
        "stopped": _mean([line["reason"] == "stop" for line in lines]),
        "ungraded": _mean([line["graded"] is None for line in lines]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value == round(value) or value >= 100 else f"{value:.3f}"


# ---- grep ----------------------------------------------------------------------------------------


def grep(options: GrepOptions) -> None:
    from ossia.train.rl.record import sampled_text

    try:
        pattern = re.compile(options.pattern, re.IGNORECASE if options.ignore_case else 0)
    except re.error as error:
        raise RequestError(f"{options.pattern!r} is no regular expression: {error}") from error
    texts: Mapping[str, Callable[[Line], str]] = {
        "all": sampled_text,
        "analysis": lambda line: line["analysis"],
        "final": lambda line: line["final"],
    }
    found = False
    for line in options.chosen.lines(options.run):
        for text in texts[options.where](line).splitlines():
            if pattern.search(text):
                found = True
                print(f"{_place(line)}  {_number(line['reward'])}  {_printed(text)}")
    if not found:
        raise SystemExit(1)


# ---- diff ----------------------------------------------------------------------------------------


def diff(options: DiffOptions) -> None:
    count = 0
    pairs = zip_longest(_all(options.one), _all(options.other))
    for count, (one, other) in enumerate(pairs, 1):
        if one is None or other is None:
            shorter = options.one if one is None else options.other
            print(f"the same in {count - 1} samples; {shorter} has no more")
            raise SystemExit(1)
        if one != other:
            print(f"the same in {count - 1} samples; then {_place(one)} and {_place(other)} differ")
            for name in one:
                if one.get(name) != other.get(name):
                    print(f"  {name}: {_short(one.get(name))}")
                    print(f"  {' ' * len(name)}  {_short(other.get(name))}")
            raise SystemExit(1)
    print(f"the same in all {count} samples")


def _all(run: str) -> Iterator[Line]:
    from ossia.train.rl.record import files_in, read

    return read(files_in(Path(run).expanduser()))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return _printed(text if len(text) <= 300 else text[:300] + " ...")


# ---- monitor -------------------------------------------------------------------------------------


def show_monitor(options: MonitorOptions) -> None:
    from ossia.train.align.monitors import monitor

    found = monitor(options.chosen.lines(options.run))
    if not found.watched:
        raise RequestError(
            f"{options.run} has no graded samples about rules or roles: give the rollouts of a run "
            "on policy, hierarchy or the like"
        )
    if options.json:
        print(json.dumps(found.as_json(), indent=2))
        return
    print(found)
    if found.others:
        print(f"\n{found.others} other samples were left out.")


COMMAND = Group(
    {
        "show": ("Samples, whole.", Command(ShowOptions, show, SHOW)),
        "stats": (
            "Rewards, lengths and endings, in a table.",
            Command(StatsOptions, stats, STATS),
        ),
        "grep": ("Samples in which a pattern is found.", Command(GrepOptions, grep, GREP)),
        "diff": (
            "Where two runs differ for the first time.",
            Command(DiffOptions, diff, DIFF),
        ),
        "monitor": (
            "What the reasoning says against what the answer does.",
            Command(MonitorOptions, show_monitor, MONITOR),
        ),
    },
    EPILOG,
)
