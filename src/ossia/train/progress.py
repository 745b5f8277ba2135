"""The live line of a run: loss, speed, share of the peak, load of the experts, time left. A watcher
of `train`.

In a terminal one line that is drawn again, five times a second at most; elsewhere plain lines, now
and then. Goes to stderr. Knows reports of steps, no tensors.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ossia.train.run import StepReport

REDRAW = 0.2  # seconds between two drawings
PLAIN_EVERY = 10.0  # seconds between two plain lines
SMOOTHED = 20  # steps whose loss, speed and time are averaged
MOST_EXPERTS = 32  # whose loads are drawn
BARS = "▁▂▃▄▅▆▇█"


class Progress:
    """One line for one run. `flops` of a token and the `peak` of the machine give the share of it
    that is used (MFU); without them it is left out. Use as a context, so that the line is left in
    order whatever happens.
    """

    def __init__(
        self,
        name: str,
        *,
        flops: float = 0.0,
        peak: float = 0.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.flops = flops
        self.peak = peak
        self.clock = clock
        self.console = Console(file=stream or sys.stderr, highlight=False, force_interactive=None)
        self.live: Live | None = None
        if self.console.is_terminal and os.environ.get("TERM") != "dumb":
            self.live = Live(console=self.console, auto_refresh=False, transient=False)
        self.losses: deque[float] = deque(maxlen=SMOOTHED)
        self.spans: deque[tuple[int, float]] = deque(maxlen=SMOOTHED)  # (tokens, seconds) of steps
        self.last_step = -math.inf
        self.last_drawn = -math.inf
        self.last: StepReport | None = None
        self.drawn: StepReport | None = None

    def __enter__(self) -> Progress:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.last is not None and self.drawn is not self.last:
            self._draw(self.last)
        if self.live is not None:
            self.live.stop()

    def __call__(self, report: StepReport) -> None:
        now = self.clock()
        # From one report to the next, so that saving counts; the first has only what the step
        # itself took.
        seconds = report.seconds if self.last is None else now - self.last_step
        self.last_step = now
        self.last = report
        self.losses.append(report.loss)
        self.spans.append((report.tokens, max(seconds, 1e-9)))
        pause = PLAIN_EVERY if self.live is None else REDRAW
        if now - self.last_drawn >= pause or report.step == report.steps:
            self.last_drawn = now
            self._draw(report)

    def _draw(self, report: StepReport) -> None:
        self.drawn = report
        pieces = self.pieces(report)
        if self.live is None:
            print("  ".join(pieces), file=self.console.file, flush=True)
            return
        line = _fitting(pieces, self.console.width)
        self.live.update(Text(line, no_wrap=True, overflow="crop"), refresh=True)

    def pieces(self, report: StepReport) -> list[str]:
        """What the line says, the most important first."""
        tokens = sum(t for t, _ in self.spans)
        seconds = sum(s for _, s in self.spans)
        speed = tokens / seconds
        loss = sum(self.losses) / len(self.losses)
        pieces = [
            self.name,
            f"{report.step:,}/{report.steps:,} {report.step / report.steps:.0%}",
            f"loss {loss:.3f}",
            f"{_short(speed)} tok/s",
        ]
        if self.peak:
            pieces.append(f"MFU {speed * self.flops / self.peak:.1%}")
        if report.step < report.steps:
            left = (report.steps - report.step) * seconds / len(self.spans)
            pieces.append(f"ETA {clock_time(left)}")
        else:
            pieces.append(f"last step {report.seconds:.2f} s")
        metrics = report.metrics
        if "reward" in metrics:
            pieces.insert(2, f"reward {metrics['reward']:.3f}")
            pieces.insert(3, f"right {metrics['correct']:.0%}")
        if "max_violation" in metrics:
            pieces.append(f"MaxVio {metrics['max_violation']:.2f}")
        if "dead" in metrics:
            pieces.append(f"dead {metrics['dead']:.0f}")
        if metrics.get("dropped"):
            pieces.append(f"dropped {metrics['dropped']:.1%}")
        pieces.append(f"lr {report.lr:.1e}")
        return [*pieces, *_loads(report.load)]


def _fitting(pieces: Sequence[str], width: int) -> str:
    """As many as one line holds; the first always."""
    line = pieces[0]
    for piece in pieces[1:]:
        if cell_len(line) + 2 + cell_len(piece) < width:
            line += "  " + piece
    return line


def _loads(load: Sequence[Sequence[float]]) -> list[str]:
    """A bar for each expert, its share over all layers; half the height is the even share."""
    if not load or not 1 < len(load[0]) <= MOST_EXPERTS:
        return []
    bars = ""
    experts = len(load[0])
    for e in range(experts):
        share = sum(row[e] for row in load) / len(load)
        height = round(share * experts * len(BARS) / 2)
        bars += BARS[min(len(BARS) - 1, height)]
    return [bars]


def _short(count: float) -> str:
    """950, 12.4k, 1.25M"""
    if count < 1000:
        return f"{count:.0f}"
    if count < 999_950:
        return f"{count / 1e3:.1f}k"
    return f"{count / 1e6:.2f}M"


def clock_time(duration: float) -> str:
    """0:07, 12:04, 3:20:15, 2d 04:10"""
    whole = max(0, round(duration))
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02}"
    return f"{minutes}:{seconds:02}"
