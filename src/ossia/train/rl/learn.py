"""The loop of reinforcement learning: ask, sample, grade, compare, learn.

    Learner(...)    the batches of a `train.run.Run`: each is sampled from the weights as they are

A step is a function of the weights and of (seed, step): one that was interrupted is done again to
the same bytes. Knows the order of things; each of them has a file of its own.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossia.data.packing import PackedBatch
from ossia.model import Transformer
from ossia.tasks.environment import Ask
from ossia.tokenizer import Tokenizer
from ossia.train.rl import batches, record
from ossia.train.rl.asks import Problems
from ossia.train.rl.curriculum import Curriculum
from ossia.train.rl.distill import logprobs_of
from ossia.train.rl.evaluate import evaluate
from ossia.train.rl.health import Alarms, numbers
from ossia.train.rl.sampler import Sampler
from ossia.train.rl.settings import Evaluating, Objective, Sampling
from ossia.train.rl.worth import Valued, is_live, lessons, progress, valued
from ossia.train.step import Worker

State = dict[str, Any]


@dataclass(frozen=True)
class _Drawn:
    """Samples that wait for their step."""

    step: int
    lessons: Sequence[Sequence[batches.Lesson]]
    report: Mapping[str, float]


@dataclass
class Learner:
    """What a run of so many `steps` samples from its own weights. `stop_tokens` end an answer.
    `reference`: what `objective.kl` holds the weights to, None without it; `teacher`: of
    `objective.distill`.
    """

    problems: Problems
    tokenizer: Tokenizer
    stop_tokens: Collection[int]
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
        self.curriculum = None
        if self.sampling.curriculum:
            self.curriculum = Curriculum(self.problems.arms)

    def batches(self, worker: Worker, state: State | None) -> Iterator[tuple[PackedBatch, State]]:
        """For `Run.batches`: each with the state after it.

        With a lag of n the samples of step s + n are drawn before step s is made. Those that were
        drawn before an interruption are read from their files: their weights are gone.
        """
        step = self._go_on_from(state)
        sampler = Sampler(worker.model, self.tokenizer, self.stop_tokens, self.sampling)
        try:
            while True:
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

    def _measure(self, sampler: Sampler, step: int, version: int) -> None:
        every = self.evaluating.every
        if every and step % every == 0:
            evaluate(sampler, self.problems, self.evaluating, self.out, step, version)

    def _drawn(self, sampler: Sampler, step: int, version: int) -> _Drawn:
        """The samples of a step: graded, checked, and on the disk."""
        asks, groups = self._sampled(sampler, step, version)
        compared = sampler.check([[each.sample for each in group] for group in groups])
        found = numbers(asks, groups)
        found |= {"rechecked": float(compared), "version": float(version)}
        lines = []
        for ask, group in zip(asks, groups, strict=True):
            lines += [record.line_of(step, ask, each, self.tokenizer) for each in group]
        record.write(self.out, step, lines)
        for warning in self.alarms.look(step, found):
            print(f"ossia: {warning}", file=sys.stderr)
        self._follow(asks, groups)
        return _Drawn(step, lessons(groups), found)

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
        return logprobs_of(model, batch, self.sampling.temperature)

    def _sampled(
        self, sampler: Sampler, step: int, version: int
    ) -> tuple[list[Ask], list[list[Valued]]]:
        """The problems of a step and their valued samples. With `refill`, others in place of those
        that teach nothing, which are kept for the record.
        """
        asks: list[Ask] = []
        groups: list[list[Valued]] = []
        wanted = self.sampling.groups
        for _ in range(1 + self.sampling.refill):
            numbers_of = range(len(asks), len(asks) + wanted)
            new = self.problems.step(step, numbers_of, self.curriculum)
            for group in sampler.draw(new, self.sampling.samples, version):
                groups.append(valued(group, self.objective, self.sampling.charged))
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
        own = replace(batch, experts=None)  # others choose experts themselves
        if self.reference is not None:
            batch = batch.with_streams(reference=logprobs_of(self.reference, own, temperature))
        if self.teacher is not None and self.objective.distill == "sampled":
            wanted = logprobs_of(self.teacher, own, temperature)
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
