"""The training loop: batches in, optimizer steps, a state that resumes exactly, a log, and weights
in the end.

    train(run)      to the end, or on to it from where an earlier call was cut short

Knows no tasks and no text; the steps are `step.py`'s, or `distributed.py`'s with several processes.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias

from ossia.data.packing import PackedBatch, pack
from ossia.errors import TrainingError
from ossia.model import Transformer
from ossia.train.balance import Balancer
from ossia.train.diagnose import DivergedError
from ossia.train.log import Log
from ossia.train.run import Run, StepReport, Watcher
from ossia.train.state import Saver, copied
from ossia.train.step import ThreadedStep, Worker
from ossia.train.weights.export import fingerprint, restore, save_weights, start


def train(
    run: Run, *, watchers: Sequence[Watcher] = (), stop_after: int | None = None
) -> Transformer:
    """Train to the end, from `run.out`'s state if a run was cut short there; a finished run is only
    read.

    `stop_after`: save after that many steps in all and return, for tests. Returns the model in eval
    mode, at the end on the CPU; then it has the averaged weights, if `run.hyper.ema`. Raises
    `TrainingError` if the state is of another run, if it cannot be written, if the loss or a
    gradient is not finite (the last good state is kept), or if the examples run out.
    """
    run.out.mkdir(parents=True, exist_ok=True)
    identity = run.identity() | {"start_from": fingerprint(run.start_from)}
    worker, store = _prepare(run)
    try:
        state = store.load(identity)
        if state is not None and state.get("finished"):
            return restore(worker.finish(), run.out)
        progress = _Progress(identity)
        if state is not None:
            worker.load_state_dict(state["worker"])
            progress = _Progress(identity, state["step"], state["data"], state["step"])
        until = run.steps if stop_after is None else min(run.steps, stop_after)
        _steps(run, worker, store, progress, watchers, until)
        if progress.step < run.steps:
            return worker.model.eval()
        model = worker.finish()
        if worker.leads:
            save_weights(model, run.out)
        store.write({"identity": identity, "step": run.steps, "finished": True})
        store.wait()
        return model
    finally:
        store.close()
        worker.close()


def _prepare(run: Run) -> tuple[Worker, Saver]:
    if run.parallel is not None:
        from ossia.train.parallel import distributed

        return distributed.prepare(run)
    model = start(run)
    balancer = Balancer(model, run.hyper.balance, run.steps * run.updates)
    return ThreadedStep(model, run, balancer), Saver(run.out)


Batches: TypeAlias = Generator[tuple[PackedBatch, Any], None, None]


@dataclass
class _Progress:
    identity: dict[str, Any]
    step: int = 0  # steps taken
    data: Any = None  # where the examples stand
    saved: int | None = None  # step of the state that was last read or handed to the store

    def state(self, worker: Worker) -> dict[str, Any]:
        state: dict[str, Any] = copied(
            {
                "identity": self.identity,
                "step": self.step,
                "data": self.data,
                "worker": worker.state_dict(),
            }
        )
        return state

    def write(self, store: Saver, state: dict[str, Any]) -> None:
        store.write(state)
        self.saved = state["step"]


def _steps(
    run: Run,
    worker: Worker,
    store: Saver,
    progress: _Progress,
    watchers: Sequence[Watcher],
    until: int,
) -> None:
    """Steps up to `until`, and a state that says so. A state is written once the next loss has
    shown that its weights are good.
    """
    begun = _batches(run, worker, progress.data)
    log = Log(run.out, progress.step) if worker.leads else None
    try:
        with closing(_closable(begun)) as batches:
            _all_steps(run, worker, store, progress, batches, _told(log, watchers), until)
    except DivergedError as error:
        raise TrainingError(f"{error}. {_last_state(store, progress)}") from error
    finally:
        if log is not None:
            log.close()


def _all_steps(
    run: Run,
    worker: Worker,
    store: Saver,
    progress: _Progress,
    batches: Iterator[tuple[PackedBatch, Any]],
    tell: Watcher,
    until: int,
) -> None:
    pending: dict[str, Any] | None = None
    while progress.step < until:
        began = time.perf_counter()
        try:
            batch, data = _next(batches, run, progress.step)
        except TrainingError:  # an alarm, or no examples are left: the weights are good
            _write_pending(store, progress, pending)
            raise
        report = _step(run, worker, progress, batch, began)
        progress.data = data
        if pending is not None:
            progress.write(store, pending)
            pending = None
        store.check()
        tell(report)
        if progress.step % run.save_every == 0 or progress.step == until:
            pending = progress.state(worker)
    _write_pending(store, progress, pending)


def _write_pending(store: Saver, progress: _Progress, pending: dict[str, Any] | None) -> None:
    if pending is not None:
        progress.write(store, pending)
        store.wait()


def _told(log: Log | None, watchers: Sequence[Watcher]) -> Watcher:
    """Writes a step's report, and tells the watchers, in the process that leads."""

    def tell(report: StepReport) -> None:
        if log is not None:
            log.write(_line(report))
            for watch in watchers:
                watch(report)

    return tell


def _batches(run: Run, worker: Worker, state: Any) -> Iterator[tuple[PackedBatch, Any]]:
    if run.batches is not None:
        return run.batches(worker, state)
    assert run.examples is not None
    return pack(run.examples(state), run.hyper.tokens_per_step, run.hyper.longest, state)


def _closable(batches: Iterator[tuple[PackedBatch, Any]]) -> Batches:
    """What samples from the weights holds an engine until it is closed."""
    yield from batches


def _step(
    run: Run, worker: Worker, progress: _Progress, batch: PackedBatch, began: float
) -> StepReport:
    lr = run.lr(progress.step)
    loss, metrics = worker.step(batch, lr)
    for _ in range(1, run.updates):
        _, later = worker.step(batch, lr)
        metrics |= {f"last_{name}": value for name, value in later.items()}
    progress.step += 1
    seconds = time.perf_counter() - began
    return StepReport(
        progress.step,
        run.steps,
        loss,
        lr,
        len(batch.tokens),
        seconds,
        {**batch.report, **metrics},
        worker.balancer.load,
    )


def _next(
    batches: Iterator[tuple[PackedBatch, Any]], run: Run, step: int
) -> tuple[PackedBatch, Any]:
    try:
        return next(batches)
    except StopIteration:
        raise TrainingError(
            f"{run.name}: the examples ran out after {step} of {run.steps} steps: take fewer steps,"
            " or repeat them"
        ) from None


def _line(report: StepReport) -> dict[str, Any]:
    return {
        "step": report.step,
        "loss": report.loss,
        "lr": report.lr,
        "tokens": report.tokens,
        "tokens_per_s": round(report.tokens / report.seconds),
        "seconds": round(report.seconds, 4),
        **report.metrics,
    }


def _last_state(store: Saver, progress: _Progress) -> str:
    """Where the last good state is, for an error."""
    store.wait()
    if progress.saved is None:
        return f"No state had been saved in {store.path.parent} yet"
    return f"The last good state is {store.path} (step {progress.saved})"
