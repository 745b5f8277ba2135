"""Where the parts of the recipe work: its settings, and a folder a phase. Every part reads what the
phases before it have left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from ossia.train.recipes import rl
from ossia.train.rl.settings import Sampling
from ossia.train.run import Run
from ossia.train.settings import Hyperparameters
from recipes.begun import Begun
from recipes.experiments import results
from recipes.experiments.common import budget_of
from recipes.reasoning import measure, rejection, seeds
from recipes.reasoning.settings import Config, Sizes


@dataclass(frozen=True)
class Place:
    config: Config
    out: Path

    @property
    def sizes(self) -> Sizes:
        return self.config.sizes

    @cached_property
    def begun(self) -> Begun:
        return Begun(self.config.model)

    @property
    def runs(self) -> range:
        """Numbers of what is done with random numbers of its own."""
        return range(1, self.sizes.runs + 1)

    @property
    def start(self) -> Path:
        """The model after the seeds: rewards, controls and measurements begin here."""
        return self.out / "start" / "checkpoint"

    @property
    def model(self) -> Path:
        """That of the first run with rewards."""
        return self.out / "model" / "checkpoint"

    @property
    def tasks(self) -> tuple[str, ...]:
        """What rewards are given for: an arm of the curriculum each."""
        ranges = self.config.ranges
        return tuple(f"state[k={steps},kind={self.config.kind}]" for steps in ranges)

    @property
    def sampling(self) -> Sampling:
        sizes = self.sizes
        return Sampling(
            groups=sizes.groups,
            samples=sizes.samples,
            max_tokens=sizes.max_tokens,
            prices=self.config.prices,
        )

    def seeding(self, name: str, steps: int) -> Run:
        """A run on the seeds; so many steps have a schedule of their own."""
        config = self.config
        gold = partial(
            seeds.examples, self.begun.tokenizer, config.kind, config.longest, config.seed
        )
        return Run(
            name,
            self.begun.shape,
            gold,
            steps,
            self.of_seeds(steps),
            self.out / name,
            start_from=self.begun.folder,
        )

    def of_seeds(self, steps: int) -> Hyperparameters:
        hyper = replace(self.config.hyper, tokens_per_step=self.sizes.tokens, seed=self.config.seed)
        return replace(hyper, warmup=min(hyper.warmup, steps // 4))

    def imitating(self, name: str, answers: Path, number: int, start: Path) -> Run:
        """A run on the answers that `rejection.py` kept in a folder, each `epochs` times."""
        hyper = replace(
            self.config.rewards,
            peak_lr=self.config.control,
            decay=0.5,
            tokens_per_step=4096,
            longest=1024,
            seed=number,
        )
        tokens = rejection.kept_tokens(answers)
        return Run(
            name,
            self.begun.shape,
            partial(rejection.examples, answers, number),
            max(1, round(tokens * self.config.epochs / hyper.tokens_per_step)),
            hyper,
            answers / "train",
            start_from=start,
        )

    def answers(
        self, weights: Path, ks: Sequence[int], each: int, answers: int
    ) -> list[measure.Row]:
        """Of a model to held-out tracks."""
        problems = measure.held_out(self.config.kind, ks, each)
        settings = replace(self.sampling, at_once=192)
        model = self.begun.weights(weights)
        return list(measure.measure(model, self.begun.tokenizer, problems, answers, settings))

    def rows(self, name: str) -> list[measure.Row]:
        """Of a model that was measured."""
        return measure.read(self.out / "measured" / f"{name}.jsonl")

    def spent(self, runs: Sequence[Run]) -> results.Budget:
        return budget_of(list(runs))

    def learned(self, config: rl.Config, name: str) -> Run:
        return rl.run_of(config, self.out / name)
