"""The loop of reinforcement learning: ask, sample, grade, compare, learn.

    Learner(...)    the batches of a `train.run.Run`: each is sampled from the weights as they are

A step is a function of the weights and of (seed, step): one that was interrupted is done again to
the same bytes. Knows the order of things; each of them has a file of its own.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from ossia.data.packing import PackedBatch
from ossia.model import Transformer
from ossia.tasks.environment import Ask
from ossia.tokenizer import Tokenizer
from ossia.train.rl import batches, record
from ossia.train.rl.asks import Problems
from ossia.train.rl.curriculum import Curriculum
from ossia.train.rl.distill import logprobs_of
from ossia.train.rl.evaluate import evaluate
from ossia.train.rl.health import Alarms, numbers, stop_if_broken
from ossia.train.rl.sampler import Drawer
from ossia.train.rl.settings import Evaluating, Objective, Sampling
from ossia.train.rl.worth import Valued, is_live, lessons, progress, valued
from ossia.train.step import Worker
from ossia.train.weights.export import WEIGHTS, save_weights
from ossia.turn.rollout import Sample

State = dict[str, Any]
REFERENCES = "references"
_Valued = tuple[list[Ask], list[list[Valued]]]  # the problems of a step, and their samples


@dataclass(frozen=True)
class _Drawn:
    """Samples that wait for their step."""

    step: int
    lessons: Sequence[Sequence[batches.Lesson]]
    report: Mapping[str, float]


@dataclass
class Learner:
    """What a run of so many `steps` samples from its own weights. `stop_tokens` end an answer.
    `drawer`: who samples for a worker; `run`: tells it from runs that ask or grade otherwise.
    `reference`: what `objective.kl` holds the weights to, None without it; `teacher`: of
    `objective.distill`.
    """

    problems: Problems
    tokenizer: Tokenizer
    stop_tokens: Collection[int]
    drawer: Callable[[Worker], Drawer]
    run: str
    out: Path
    objective: Objective
    sampling: Sampling
    evaluating: Evaluating
    steps: int
    reference: Transformer | None = None
    teacher: Transformer | None = None
    curriculum: Curriculum | None = field(init=False)
    alarms: Alarms = field(init=False)

    def __post_init__(self) -> None:
        self.alarms = Alarms()
        self._ahead: deque[_Drawn] = deque()
        self._held = 0  # the step whose weights `reference` has
        self.curriculum = None
        if self.sampling.curriculum:
            self.curriculum = Curriculum(self.problems.arms)

    def batches(self, worker: Worker, state: State | None) -> Iterator[tuple[PackedBatch, State]]:
        """For `Run.batches`: each with the state after it.

        With a lag of n the samples of step s + n are drawn before step s is made. Those that were
        drawn before an interruption are read from their files: their weights are gone.
        """
        step = self._go_on_from(state)
        sampler = self.drawer(worker)
        try:
            while True:
                self._hold_to(worker.model, step)
                self._measure(sampler, step, worker.taken)
                while len(self._ahead) <= min(self.sampling.lag, self.steps - 1 - step):
                    drawn = step + len(self._ahead)
                    self._ahead.append(self._drawn(sampler, drawn, worker.taken))
                batch = self._batch(self._ahead.popleft(), worker.model)
                step += 1
                yield batch, self._state(step)
        finally:
            sampler.close()

    def _go_on_from(self, state: State | None) -> int:
        if state is None:
            return 0
        self.alarms.load_state_dict(state["alarms"])
        for ahead in state["ahead"]:
            found = record.lessons(record.path_of(self.out, ahead["step"]))
            self._ahead.append(_Drawn(ahead["step"], found, ahead["report"]))
        if self.curriculum is not None:
            self.curriculum.load_state_dict(state["curriculum"])
        step: int = state["step"]
        return step

    def _state(self, step: int) -> State:
        success = {} if self.curriculum is None else self.curriculum.state_dict()
        ahead = [{"step": drawn.step, "report": dict(drawn.report)} for drawn in self._ahead]
        return {
            "step": step,
            "alarms": self.alarms.state_dict(),
            "curriculum": success,
            "ahead": ahead,
        }

    def _hold_to(self, model: Transformer, step: int) -> None:
        """Give `reference` the weights of the last step at which it is replaced. They are kept on
        the disk for a run that goes on after it.
        """
        every = self.objective.refresh
        if self.reference is None or not every or step - step % every == self._held:
            return
        self._held = step - step % every
        folder = self.out / REFERENCES / f"{self._held:06d}"
        if self._held == step:
            folder.mkdir(parents=True, exist_ok=True)
            save_weights(model, folder)
        kept = load_file(folder / WEIGHTS)
        self.reference.load_state_dict(kept, strict=False)  # of LoRA, what is trained

    def _measure(self, sampler: Drawer, step: int, version: int) -> None:
        every = self.evaluating.every
        if every and step % every == 0:
            evaluate(sampler, self.problems, self.evaluating, self.out, step, version)

    def _drawn(self, sampler: Drawer, step: int, version: int) -> _Drawn:
        """The samples of a step: graded, checked, and on the disk."""
        by = record.By(self.run, sampler.prepare(version))
        found = self._recorded(sampler, step, by)
        is_new = found is None
        if found is None:
            found = self._sampled(step, lambda asks: self._asked(sampler, asks, version))
        assert found is not None
        asks, groups = found
        compared = sampler.check([[each.sample for each in group] for group in groups])
        report = numbers(asks, groups)
        report |= {"rechecked": float(compared), "version": float(version)}
        if is_new and sampler.leads:
            self._write(step, asks, groups, by)
        stop_if_broken(step, groups)
        for warning in self.alarms.look(step, report):
            if sampler.leads:
                print(f"ossia: {warning}", file=sys.stderr)
        self._follow(asks, groups)
        return _Drawn(step, lessons(groups), report)

    def _write(
        self, step: int, asks: Sequence[Ask], groups: Sequence[Sequence[Valued]], by: record.By
    ) -> None:
        lines = []
        for ask, group in zip(asks, groups, strict=True):
            lines += [record.line_of(step, ask, each, self.tokenizer, by) for each in group]
        record.write(self.out, step, lines)

    def _recorded(self, sampler: Drawer, step: int, by: record.By) -> _Valued | None:
        """The samples of a step that an interrupted call has drawn from the same weights; None if
        there are none. Neither the model nor tools nor rewards are asked again: what was said then
        decides, also that nothing was.
        """
        here = record.samples(record.path_of(self.out, step), by) if sampler.leads else {}
        known = sampler.agreed(here)
        if not known:
            return None

        def look(asks: Sequence[Ask]) -> Sequence[Sequence[Sample]] | None:
            if all(ask.group in known for ask in asks):
                return [known[ask.group] for ask in asks]
            return None

        return self._sampled(step, look)

    def _asked(
        self, sampler: Drawer, asks: Sequence[Ask], version: int
    ) -> Sequence[Sequence[Sample]]:
        return sampler.draw(asks, self.sampling.samples, version)

    def _batch(self, drawn: _Drawn, model: Transformer) -> PackedBatch:
        echo = self.objective.echo > 0
        batch = batches.packed(drawn.lessons, echo=echo, replay=self.sampling.replay)
        if batch is None:
            batch = _nothing(self.stop_tokens)
        if self.sampling.lag or self.objective.updates > 1:
            batch = batch.with_streams(old=self._old(batch, model))
        return self._with_others(batch).with_report(drawn.report)

    def _old(self, batch: PackedBatch, model: Transformer) -> NDArray[np.float32]:
        """[R]: what the trainer finds with the weights that sampled; an exact engine said so."""
        if self.sampling.sampler == "exact":
            return batch.streams["behaviour"]
        return logprobs_of(model, batch, self.sampling.temperature, replay=True)

    def _sampled(
        self, step: int, draw: Callable[[Sequence[Ask]], Sequence[Sequence[Sample]] | None]
    ) -> _Valued | None:
        """The problems of a step and their valued samples. With `refill`, others in place of those
        that teach nothing, which are kept for the record. None if `draw` gives None.
        """
        asks: list[Ask] = []
        groups: list[list[Valued]] = []
        wanted = self.sampling.groups
        for _ in range(1 + self.sampling.refill):
            numbers_of = range(len(asks), len(asks) + wanted)
            new = self.problems.step(step, numbers_of, self.curriculum)
            drawn = draw(new)
            if drawn is None:
                return None
            groups += [valued(group, self.objective, self.sampling.charged) for group in drawn]
            asks += new
            wanted = self.sampling.groups - sum(map(is_live, groups))
            if wanted <= 0:
                break
        return asks, groups

    def _follow(self, asks: Sequence[Ask], groups: Sequence[Sequence[Valued]]) -> None:
        if self.curriculum is None:
            return
        for ask, group in zip(asks, groups, strict=True):
            known = [progress(each.sample, self.sampling.charged) for each in group]
            graded = [value for value in known if value is not None]
            if graded:
                self.curriculum.learn(ask.arm, sum(graded) / len(graded))

    def _with_others(self, batch: PackedBatch) -> PackedBatch:
        """With what other models make of it."""
        temperature = self.sampling.temperature
        if self.reference is not None:
            batch = batch.with_streams(reference=logprobs_of(self.reference, batch, temperature))
        if self.teacher is not None and self.objective.distill == "sampled":
            wanted = logprobs_of(self.teacher, batch, temperature)
            batch = batch.with_streams(advantage=wanted - batch.streams["behaviour"])
        return batch


def _nothing(stop_tokens: Collection[int]) -> PackedBatch:
    """A batch of which nothing is learned."""
    token = min(stop_tokens)
    none = np.zeros(1, np.float32)
    names = ("advantage", "behaviour", "keep", "echo", "sample")
    streams: dict[str, Any] = {name: none for name in names}
    streams["sequence"] = np.zeros(1, np.int32)
    one = np.zeros(1, np.int64)
    return PackedBatch(np.array([token]), [1], one, np.array([token]), streams)
