"""E13's runs: a student after fewer seeds learns from the model that rewards made, in three ways,
with as many sampled tokens: from the teacher's own answers, and on its own answers from the
teacher's probabilities, of the sampled tokens or of the whole vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ossia.train.log import read_log
from ossia.train.loop import train
from ossia.train.pipeline import Phase, training, watchers_of
from ossia.train.recipes import rl
from ossia.train.rl.asks import Problems, own
from ossia.train.rl.settings import Distill, Evaluating, Objective, Sampling
from ossia.train.run import Run
from recipes.experiments import results
from recipes.reasoning import distilled, measure, rejection
from recipes.reasoning.place import Place

WAYS: tuple[Distill, ...] = ("full", "sampled")  # on the student's own answers


@dataclass(frozen=True)
class Distilling(Place):
    def phases(self) -> list[Phase]:
        made = [
            training(
                self.seeding("student", self.sizes.student), "fewer seeds: a student, for E13"
            ),
            Phase("student-start", "export the student", self.begin),
        ]
        for n in self.runs:
            for way in WAYS:
                name = f"{way}-{n}"
                does = f"learn from the teacher's probabilities, {way}"
                learn = partial(rl.learn, self.taught(way, n), self.out / name)
                made.append(Phase(name, does, learn, config=self.begun.shape))
            does = "sample as many tokens from the teacher, and learn from them"
            made.append(Phase(f"copied-{n}", does, partial(self.copy, n), config=self.begun.shape))
        return [
            *made,
            Phase("distilled", "answer the same held-out problems with all of them", self.answer),
            Phase("distilling", "E13: three ways to learn from a teacher", self.write),
        ]

    @property
    def student(self) -> Path:
        return self.out / "student-start" / "checkpoint"

    def begin(self) -> None:
        self.begun.export(self.out / "student", self.student)

    def taught(self, way: Distill, number: int) -> rl.Config:
        """On the student's own answers. Every way learns at the rate of the copies."""
        return rl.Config(
            task=self.tasks,
            model=str(self.student),
            teacher=str(self.model),
            steps=self.sizes.distilled,
            sampling=self.own_answers,
            objective=Objective(distill=way, mask_cut=False),
            evaluating=Evaluating(every=0),
            hyper=replace(self.config.rewards, peak_lr=self.config.control, seed=number),
        )

    @property
    def own_answers(self) -> Sampling:
        return replace(self.sampling, groups=self.sizes.distilled_groups, curriculum=False)

    def copy(self, number: int) -> None:
        folder = self.out / f"copied-{number}"
        if not (folder / rejection.COUNTS).exists():
            log = read_log(self.out / f"full-{number}" / "train")
            problems = Problems(
                tuple(own(task) for task in self.tasks), self.sampling.efforts, number
            )
            tokens = round(sum(line["sampled"] for line in log))
            teacher = self.begun.weights(self.out / "rewards-1" / "train")
            rejection.sample(
                teacher,
                self.begun.tokenizer,
                problems,
                self.own_answers,
                tokens,
                folder,
                rejection.finished,
            )
        run = self.copied(number)
        train(run, watchers=watchers_of(run))

    def copied(self, number: int) -> Run:
        folder = self.out / f"copied-{number}"
        return self.imitating(f"copied {number}", folder, number, self.student)

    # ---- measuring -------------------------------------------------------------------------------

    def answer(self) -> None:
        sizes = self.sizes
        for name, weights in self._models().items():
            path = self.out / "distilled" / f"{name}.jsonl"
            if not path.exists():
                answers = sizes.distilled_answers
                measure.write(self.answers(weights, sizes.measured, sizes.each, answers), path)

    def _models(self) -> dict[str, Path]:
        found = {"student": self.student}
        for n in self.runs:
            for way in (*WAYS, "copied"):
                found[f"{way}-{n}"] = self.out / f"{way}-{n}" / "train"
        return found

    # ---- what was found --------------------------------------------------------------------------

    def write(self) -> None:
        rows = {
            name: measure.read(self.out / "distilled" / f"{name}.jsonl") for name in self._models()
        }
        few = self.sizes.distilled_answers
        teacher = [row for row in self.rows("rewards-1") if row.index < few]
        models = {
            "student": [rows["student"]],
            "teacher": [teacher],
            **{way: [rows[f"{way}-{n}"] for n in self.runs] for way in ("copied", *reversed(WAYS))},
        }
        logs = {str(way): self._logs(way) for way in WAYS}
        words = f"{self.config.model}, after {self.sizes.student} steps on seeds"
        found = distilled.result(models, logs, few, words, self._budget(), self._notes())
        results.write(found, self.out / "distilling")
        print(found.sentence)

    def _logs(self, way: str) -> list[list[dict[str, float]]]:
        return [read_log(self.out / f"{way}-{n}" / "train") for n in self.runs]

    def _budget(self) -> results.Budget:
        runs: list[Run] = [self.seeding("student", self.sizes.student)]
        for n in self.runs:
            runs += [self.learned(self.taught(way, n), f"{way}-{n}") for way in WAYS]
            runs.append(self.copied(n))
        return self.spent(runs)

    def _notes(self) -> Sequence[str]:
        sizes = self.sizes
        found = [
            f"The student had {sizes.student} steps on seeds, with a schedule of their own; the "
            f"teacher is E7's first model, after {sizes.seeds} steps on seeds and {sizes.steps} "
            "with rewards. Measured on the held-out tracks of E1 and E7.",
            f"On its own answers: {sizes.distilled} steps of {sizes.distilled_groups} problems, "
            f"{sizes.samples} answers to each. Copies: as many sampled tokens, of the teacher, "
            "right or wrong, learned once. Equal tokens are not equal updates: a step of copies "
            f"has 4,096 tokens. All at a rate of {self.config.control:g}, without a search.",
        ]
        for n in self.runs:
            path = self.out / f"copied-{n}" / rejection.COUNTS
            counts = json.loads(path.read_text(encoding="utf-8"))
            steps = {way: sum(line["sampled"] for line in self._logs(way)[n - 1]) for way in WAYS}
            found.append(
                f"Sampled tokens, run {n}: full vocabulary {steps['full']:,.0f}, sampled "
                f"tokens {steps['sampled']:,.0f}, copies {counts['sampled']:,} in "
                f"{self.copied(n).steps} steps."
            )
        return found
