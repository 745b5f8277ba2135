"""Score against tokens: one line a run, one point an effort, beside what the model card reports.

Knows reports, and matplotlib, which need not be installed. The same results give the same file: no
date and no random ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ossia.errors import ConfigError, RequestError
from ossia.evals import card
from ossia.evals.report import mean_tokens, scores
from ossia.evals.results import Record
from ossia.evals.stats import Score
from ossia.files import beside

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a6a00", "#56b4e9")
CARD_COLOURS = ("#555555", "#999999")
CARD_MARKS = ("^", "v")
EFFORTS = ("low", "medium", "high")
SIZE = (6.4, 4.2)  # inches
LABEL: Any = {"textcoords": "offset points", "fontsize": 7, "rotation": 35}
STYLE: Any = {  # of matplotlib's, which types its keys one by one
    "svg.fonttype": "none",
    "svg.hashsalt": "ossia",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


@dataclass(frozen=True)
class Line:
    """A run: at each effort its mean tokens and its score."""

    name: str
    points: Mapping[str, tuple[float, Score]]

    @classmethod
    def of(
        cls, name: str, records: Sequence[Record], shown: Mapping[str, Score] | None = None
    ) -> Line:
        """`shown`: of each effort, where that is not the score."""
        points = {}
        for effort, found in (shown or scores(records)).items():
            if found.known is None:
                continue
            tokens = mean_tokens([record for record in records if record.effort == effort])
            if tokens is not None:
                points[effort] = (max(1.0, tokens), found)
        return cls(name, points)


def draw(title: str, lines: Sequence[Line], path: Path, card_name: str = "") -> None:
    """PNG or SVG, by the name. `card_name`: a row of `card.SCORES`. Raises `ConfigError` without
    matplotlib, `RequestError` for a file of another kind.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise RequestError(f"{path}: a plot is a .png or a .svg file", "plot")
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plots need matplotlib: pip install 'ossia[train]'") from error
    with rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained", dpi=150)
        axis = figure.subplots()
        for number, line in enumerate(lines):
            _draw_line(axis, line, COLOURS[number % len(COLOURS)])
        if card_name:
            _draw_card(axis, card_name, lines)
        _dress(axis, title)
        details: Any = {"Date": None} if kind == "svg" else {"Software": None}
        with beside(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=details)
            temporary.replace(path)


def _draw_line(axis: Any, line: Line, colour: str) -> None:
    order = [effort for effort in EFFORTS if effort in line.points]
    tokens = [line.points[effort][0] for effort in order]
    values = [100 * line.points[effort][1].value for effort in order]
    axis.plot(tokens, values, color=colour, linewidth=1.4)
    below = []
    above = []
    for effort, value in zip(order, values, strict=True):
        place, found = line.points[effort]
        low, high = found.interval
        below.append(max(0.0, value - 100 * low))
        above.append(max(0.0, 100 * high - value))
        least, most = found.bounds
        if least < most:
            axis.vlines(place, 100 * least, 100 * most, color=colour, linewidth=7, alpha=0.2)
        axis.annotate(effort, (place, value), (4, 5), color=colour, **LABEL)
    axis.errorbar(
        tokens,
        values,
        [below, above],
        fmt="o",
        color=colour,
        capsize=3,
        markersize=4,
        label=line.name,
    )


def _draw_card(axis: Any, name: str, lines: Sequence[Line]) -> None:
    """At the card's lengths where it shows them, else at those of the first run."""
    for number, model in enumerate(card.MODELS):
        lengths = card.TOKENS.get(name, {}).get(model)
        own = lines[0].points if lines else {}
        tokens = []
        values = []
        for place, effort in enumerate(EFFORTS):
            at = lengths[place] if lengths else own.get(effort, (None,))[0]
            if at is not None:
                tokens.append(at)
                values.append(card.SCORES[name][model][place])
        where = "" if lengths else ", at our lengths"
        axis.plot(
            tokens,
            values,
            color=CARD_COLOURS[number],
            linestyle=":",
            marker=CARD_MARKS[number],
            markerfacecolor="white",
            markersize=5,
            linewidth=1,
            label=f"model card, {model}{where}",
        )


def _number_tokens(axis: Any) -> None:
    """Whole numbers, a few of them: powers of ten say nothing where all are between 30 and 60."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_xlim()
    is_wide = high > 10 * low
    few = LogLocator(subs=(1.0, 2.0, 5.0)) if is_wide else MaxNLocator(5, integer=True)
    axis.xaxis.set_major_locator(few)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def _dress(axis: Any, title: str) -> None:
    axis.set_title(title)
    axis.set_xscale("log")
    _number_tokens(axis)
    axis.set_xlabel(
        "mean tokens of an answer\nlines: 95%; bands: from all unread wrong to all right"
    )
    axis.set_ylabel("score, %")
    axis.set_ylim(-3, 103)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.legend(loc="best")
