"""A run in TensorBoard: a watcher that writes its event files. The log (`log.py`) does not depend
on it.

Needs the extra `train`. Knows reports of steps, no tensors.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ossia.errors import TrainingError
from ossia.train.run import StepReport

MISSING = (
    "TensorBoard is not installed: pip install 'ossia[train]'; "
    "log.jsonl has the same numbers without it"
)


class TensorBoard:
    """Writes every number of a step to `folder`: loss, lr, tokens per second and the metrics; and
    for each layer the share of its busiest expert. Show them with `tensorboard --logdir`.

    A resumed run begins with a mark that makes TensorBoard forget the steps that are taken again.
    Raises `TrainingError` if TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import tensorboard.compat.proto.event_pb2 as events  # type: ignore[import-untyped]
            import tensorboard.compat.proto.summary_pb2 as summaries  # type: ignore[import-untyped]
            from tensorboard.summary.writer import event_file_writer  # type: ignore[import-untyped]
        except ImportError as error:
            raise TrainingError(MISSING) from error
        self._event = events.Event
        self._session = events.SessionLog
        self._summary = summaries.Summary
        EventFileWriter = event_file_writer.EventFileWriter
        self._writer: Any = EventFileWriter(str(folder))
        self._begun = False

    def __call__(self, report: StepReport) -> None:
        if not self._begun:
            begins = self._session(status=self._session.START)
            self._add(report.step, session_log=begins)
            self._begun = True
        values = [
            self._summary.Value(tag=tag, simple_value=value)
            for tag, value in _numbers(report).items()
        ]
        self._add(report.step, summary=self._summary(value=values))
        if report.step == report.steps:
            self._writer.flush()

    def _add(self, step: int, **what: Any) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, **what))

    def close(self) -> None:
        self._writer.close()


def _numbers(report: StepReport) -> dict[str, float]:
    numbers = {
        "loss": report.loss,
        "lr": report.lr,
        "tokens_per_s": report.tokens / report.seconds,
    }
    for name, value in report.metrics.items():
        numbers[f"metrics/{name}"] = value
    for n, row in enumerate(report.load):
        if row:
            numbers[f"busiest_expert/layer_{n}"] = max(row)
    return numbers
