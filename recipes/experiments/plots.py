"""Panels side by side as one SVG. Knows results' panels as JSON objects, and matplotlib.

White background, text as text, no date and no random ids: the same results give the same file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ossia.errors import ConfigError

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#7a6a00",
    "#56b4e9",
    "#444444",
)  # told apart by most eyes
CROWDED = 5  # names of a legend that find room beside the numbers
NEAREST = 1.09  # of one tick to the next
WIDTH, HEIGHT, ACROSS = 4.2, 3.2, 3  # inches of a panel, panels in a row
STYLE: Any = {  # of matplotlib's, which types its keys one by one
    "svg.fonttype": "none",
    "svg.hashsalt": "ossia",
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.titlesize": 10,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def draw(panels: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Raises `ConfigError` if matplotlib is not installed."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plots need matplotlib: pip install 'ossia[train]'") from error
    across = 2 if len(panels) == 4 else min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * across, HEIGHT * down), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(down, across, squeeze=False).flatten()
        for axis, panel in zip(axes, panels, strict=False):
            _panel(axis, panel)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panel(axis: Any, panel: Mapping[str, Any]) -> None:
    for mark in panel["marks"]:
        axis.axhline(mark, color="#999999", linewidth=0.8, linestyle=":")
    (_points if panel["kind"] == "points" else _lines)(axis, panel["series"])
    axis.set_title(panel["title"])
    axis.set_xlabel(panel["x"])
    axis.set_ylabel(panel["y"])
    if panel["log_x"]:
        axis.set_xscale("log", base=2)
        ticks = _apart(sorted({x for one in panel["series"] for x in one["x"]}))
        axis.set_xticks(ticks, [f"{x / 1e6:.2f}M" if x >= 1e5 else f"{x:g}" for x in ticks])
        axis.minorticks_off()
    if panel["log_y"]:
        axis.set_yscale("log")
    if len(panel["series"]) > CROWDED:  # inside, it would cover the numbers
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.1), ncols=2)
    elif len(panel["series"]) > 1:
        axis.legend()


def _apart(ticks: Sequence[float]) -> list[float]:
    """Those that leave room for their numbers on a logarithmic axis."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick > kept[-1] * NEAREST:
            kept.append(tick)
    return kept


def _lines(axis: Any, series: Sequence[Mapping[str, Any]]) -> None:
    for n, one in enumerate(series):
        colour, y = COLOURS[n % len(COLOURS)], _numbers(one["y"])
        low, high = _numbers(one["low"]), _numbers(one["high"])
        axis.plot(
            one["x"],
            y,
            color=colour,
            label=one["name"],
            linewidth=1.4,
            marker="o" if len(y) < 12 else "",
            ms=3,
        )
        if len(y) == 1:
            axis.errorbar(one["x"], y, _arms(y, low, high), color=colour, capsize=3)
        elif low:
            axis.fill_between(one["x"], low, high, color=colour, alpha=0.15, linewidth=0)


def _points(axis: Any, series: Sequence[Mapping[str, Any]]) -> None:
    names = list(series[0]["x"])
    for n, one in enumerate(series):
        places = [i + 0.15 * (n - (len(series) - 1) / 2) for i in range(len(names))]
        y = _numbers(one["y"])
        arms = _arms(y, _numbers(one["low"]), _numbers(one["high"]))
        axis.errorbar(
            places,
            y,
            arms,
            fmt="o",
            color=COLOURS[n % len(COLOURS)],
            capsize=3,
            markersize=4,
            label=one["name"],
        )
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axis.set_xlim(-0.5, len(names) - 0.5)


def _numbers(values: Sequence[float | None]) -> list[float]:
    """JSON has null where there is no number."""
    return [math.nan if value is None else value for value in values]


def _arms(
    y: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> list[list[float]] | None:
    """How far the intervals reach down and up; nowhere if there are none."""
    if not low or all(math.isnan(value) for value in low):
        return None
    return [
        [max(0.0, a - b) for a, b in zip(y, low, strict=True)],
        [max(0.0, b - a) for a, b in zip(y, high, strict=True)],
    ]
