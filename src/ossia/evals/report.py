"""What a run came to, for people: a table by effort, groups, what was not read, two runs compared.

Knows records and statistics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import mean
from typing import Any

from ossia.evals.answers import KINDS, Mark
from ossia.evals.results import Header, Record
from ossia.evals.stats import Difference, Score, difference, majority, pass_at_k, score
from ossia.figures import markdown_table
from ossia.harmony import Effort

SHOWN = 160  # characters of an answer
NOT_READ = ("unparsed", "cut", "failed")


def marks_of(records: Sequence[Record], effort: str | None = None) -> dict[str, list[Mark]]:
    """Of every question its marks."""
    found: dict[str, list[Mark]] = {}
    for record in records:
        if effort is None or record.effort == effort:
            found.setdefault(record.question, []).append(record.mark)
    return found


def efforts_of(records: Sequence[Record]) -> list[str]:
    there = {record.effort for record in records}
    return [str(effort) for effort in Effort if str(effort) in there]


def scores(records: Sequence[Record]) -> dict[str, Score]:
    """By effort."""
    return {effort: score(marks_of(records, effort)) for effort in efforts_of(records)}


def table(records: Sequence[Record]) -> str:
    """A row for each effort: the score with its interval, and its bounds where these differ."""
    count = _repeats(records)
    head = ["effort", "score (95%) [bounds]", *KINDS, "tokens", *_repeat_head(count)]
    rows = []
    for effort, found in scores(records).items():
        own = [record for record in records if record.effort == effort]
        counts = [str(found.counts[kind]) for kind in KINDS]
        length = mean_tokens(own)
        tokens = "-" if length is None else f"{length:.0f}"
        rows.append([effort, str(found), *counts, tokens, *_repeat_cells(own, count)])
    return markdown_table(head, rows)


def _repeats(records: Sequence[Record]) -> int:
    return max(Counter((record.question, record.effort) for record in records).values(), default=0)


def mean_tokens(records: Sequence[Record]) -> float | None:
    """Of the answers that there are: one that failed has no length."""
    lengths = [record.tokens for record in records if record.kind != "failed"]
    return mean(lengths) if lengths else None


def _repeat_head(count: int) -> list[str]:
    return [f"pass@{count}", f"maj@{count}"] if count > 1 else []


def _repeat_cells(records: Sequence[Record], count: int) -> list[str]:
    """At an effort with fewer repeats these numbers would be others."""
    if count < 2:
        return []
    if _repeats(records) < count:
        return ["-", "-"]
    marks = marks_of(records)
    return [_percent(pass_at_k(marks, count)), _percent(majority(marks))]


def groups_table(records: Sequence[Record]) -> str:
    """By subject; "" where all questions are of one."""
    groups = sorted({record.group for record in records})
    efforts = efforts_of(records)
    if len(groups) < 2:
        return ""
    rows = []
    for group in groups:
        own = [record for record in records if record.group == group]
        found = scores(own)
        cells = [str(found[effort]) if effort in found else "-" for effort in efforts]
        rows.append([group or "-", *cells])
    return markdown_table(["group", *efforts], rows)


def not_read(records: Sequence[Record]) -> str:
    """Why answers have no grade, and how often."""
    found = Counter(
        (record.kind, record.why) for record in records if record.kind in NOT_READ and record.why
    )
    lines = [f"{count} {kind}: {why}" for (kind, why), count in found.most_common()]
    return "\n".join(lines)


def failures(records: Sequence[Record], count: int) -> str:
    """The first answers that are not right, to be read."""
    lines: list[str] = []
    for record in records:
        if record.kind == "right" or len(lines) >= count:
            continue
        final = record.final if len(record.final) <= SHOWN else f"...{record.final[-SHOWN:]}"
        found = record.answer or record.why
        where = f"{record.question} {record.effort} {record.repeat}"
        lines.append(f"{where}: {record.kind}, {found!r} in {final!r}")
    return "\n".join(lines)


def differences(first: Sequence[Record], second: Sequence[Record]) -> dict[str, Difference]:
    """By effort, of the second minus the first, over questions that are the same in both."""
    same = {(record.question, record.digest) for record in first}
    shared = [record for record in second if (record.question, record.digest) in same]
    found = {}
    for effort in efforts_of(first):
        one = difference(marks_of(first, effort), marks_of(shared, effort))
        if one is not None:
            found[effort] = one
    return found


def compared(
    names: tuple[str, str],
    first: Sequence[Record],
    second: Sequence[Record],
) -> str:
    """Two runs as lines. Says so where they share no question at the same effort."""
    found = differences(first, second)
    if not found:
        return "the two files share no question at the same effort"
    lines = [f"{names[1]} minus {names[0]}:"]
    for effort, one in found.items():
        verdict = "" if one.is_clear else "; 0 is inside"
        lines.append(f"  {effort}: {one}{verdict}")
    return "\n".join(lines)


def as_json(header: Header, records: Sequence[Record]) -> dict[str, Any]:
    rows = []
    for effort, found in scores(records).items():
        own = [record for record in records if record.effort == effort]
        marks = marks_of(own)
        count = _repeats(own)
        row = {
            "effort": effort,
            "score": found.known,
            "interval_95": found.interval,
            "bounds": found.bounds,
            "counts": dict(found.counts),
            "questions": found.questions,
            "repeats": count,
            "mean_tokens": mean_tokens(own),
            "pass_at_k": {str(k): pass_at_k(marks, k) for k in range(1, count + 1)},
            "majority": majority(marks),
        }
        rows.append(row)
    return {
        "suite": header.suite,
        "model": header.model,
        "settings": dict(header.settings),
        "left_out": dict(header.left_out),
        "efforts": rows,
    }


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
