"""The live line and TensorBoard: what is said, how often, and that a resumed run replaces its
steps.
"""

from __future__ import annotations

import builtins
import io
import re
from pathlib import Path
from typing import Any

import pytest

from ossia.errors import TrainingError
from ossia.train.progress import Progress, clock_time
from ossia.train.run import StepReport

METRICS = {"max_violation": 0.42, "dead": 3.0, "dropped": 0.0, "gradient_norm": 1.5}


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def report(
    step: int, steps: int = 100, loss: float = 2.0, seconds: float = 0.5, **more: Any
) -> StepReport:
    return StepReport(
        step, steps, loss, 1e-3, 1000, seconds, more.get("metrics", METRICS), more.get("load", ())
    )


def steps_at(progress: Progress, clock: Clock, count: int, every: float, steps: int = 100) -> None:
    for step in range(1, count + 1):
        clock.now += every
        progress(report(step, steps, seconds=every))


def test_plain_lines_now_and_then() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress("pretrain", flops=1e6, peak=1e10, stream=stream, clock=clock) as progress:
        steps_at(progress, clock, 50, 0.5)
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[1] for line in lines] == [
        "1/100 1%",
        "21/100 21%",
        "41/100 41%",
        "50/100 50%",
    ]
    assert "\x1b" not in stream.getvalue()
    # 1000 tokens in 0.5 s are 2,000 tokens/s; x 1e6 FLOPs is a fifth of 1e10. 50 steps of 0.5 s are
    # left.
    for piece in (
        "pretrain",
        "loss 2.000",
        "2.0k tok/s",
        "MFU 20.0%",
        "ETA 0:25",
        "MaxVio 0.42",
        "dead 3",
        "lr 1.0e-03",
    ):
        assert piece in lines[-1].split("  ")
    assert "dropped" not in lines[-1]


def test_the_last_step_is_always_shown_once() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress("sft", stream=stream, clock=clock) as progress:
        steps_at(progress, clock, 100, 0.01)
    lines = stream.getvalue().splitlines()
    assert (
        len(lines) == 2
        and "100/100 100%" in lines[-1]
        and "ETA" not in lines[-1]
        and "MFU" not in lines[-1]
    )


def test_a_terminal_gets_one_line_at_most_five_times_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    stream, clock = Terminal(), Clock()
    with Progress("pretrain", flops=1e6, peak=1e10, stream=stream, clock=clock) as progress:
        steps_at(progress, clock, 100, 0.01, steps=1000)  # one second
    drawn = re.findall(r"pretrain  [\d,]+/1,000", stream.getvalue())
    assert 4 <= len(dict.fromkeys(drawn)) <= 7  # five, the first and the last
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "\n", stream.getvalue())
    assert all(len(line) <= 60 for line in re.split(r"[\r\n]", shown))
    assert "100/1,000" in drawn[-1]


def test_time_between_reports_counts_also_what_saving_takes() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress("x", stream=stream, clock=clock) as progress:
        progress(report(1, 11, seconds=1.0))
        clock.now += 3.0  # of which the step itself took one
        progress(report(2, 11, seconds=1.0))
    assert "500 tok/s" in stream.getvalue().splitlines()[-1] and "ETA 0:18" in stream.getvalue()


def test_loads_are_drawn_as_bars() -> None:
    clock = Clock()
    progress = Progress("x", stream=io.StringIO(), clock=clock)
    progress(report(1, load=((0.25, 0.25, 0.5, 0.0), (0.25, 0.25, 0.5, 0.0))))
    bars = progress.pieces(progress.last)[-1]  # type: ignore[arg-type]
    assert len(bars) == 4 and bars[0] == bars[1] and bars[2] > bars[1] > bars[3] == "▁"


def test_an_exception_leaves_the_terminal_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress("x", stream=stream, clock=Clock()) as progress:
        progress(report(1))
        raise KeyboardInterrupt
    # the cursor is back
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (7.4, "0:07"), (724, "12:04"), (12015, "3:20:15"), (187800, "2d 04:10")],
)
def test_clock_times(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text


# ---- TensorBoard ---------------------------------------------------------------------------------


def test_tensorboard_holds_every_number_and_a_resumed_run_replaces_its_steps(
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard, of the extra `train`, is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from ossia.train.tensorboard import TensorBoard

    for steps, loss in (((1, 2, 3), 2.0), ((2, 3, 4), 1.0)):  # killed after 3, resumed from 1
        board = TensorBoard(tmp_path)
        for step in steps:
            board(report(step, 4, loss, load=((0.75, 0.25),)))
        board.close()
        for path in sorted(
            tmp_path.glob("events*")
        ):  # the names of files made in one second are not in order
            path.rename(
                path.with_name(
                    f"events.out.tfevents.{len(list(tmp_path.iterdir()))}.{path.name[-3:]}"
                )
            )
    accumulated = EventAccumulator(str(tmp_path)).Reload()
    losses = [(event.step, event.value) for event in accumulated.Scalars("loss")]
    assert losses == [(1, 2.0), (2, 1.0), (3, 1.0), (4, 1.0)]
    tags = set(accumulated.Tags()["scalars"])
    assert {
        "lr",
        "tokens_per_s",
        "metrics/max_violation",
        "metrics/gradient_norm",
        "busiest_expert/layer_0",
    } <= tags
    assert accumulated.Scalars("busiest_expert/layer_0")[0].value == 0.75


def test_without_tensorboard_the_hint_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def no_tensorboard(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("tensorboard"):
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_tensorboard)
    from ossia.train.tensorboard import TensorBoard

    with pytest.raises(TrainingError, match=re.escape("pip install 'ossia[train]'")):
        TensorBoard(tmp_path)
