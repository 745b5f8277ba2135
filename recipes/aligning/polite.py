"""Politeness out of one's depth: nano goes on learning, with small talk, nonsense, large sums
and answers in a format among its conversations. No downloads.

    ossia train recipes/aligning/polite.py --out runs/polite
    ossia train recipes/aligning/polite.py --out runs/count profile=count model=PATH

What happens, in order: a thousand messages that no training shows are answered as the model is, and
the answers that never end are counted; the model goes on learning, its experts seen through MXFP4;
it is exported in the published layout; the same messages, and held-out problems of every task that
nano knows, are answered before and after. With profile=count only the first of it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # a recipe is run by its path; its parts are a package beside it

from ossia.checkpoint import export, open_checkpoint
from ossia.commands.respond import evaluate
from ossia.files import replace_file
from ossia.harmony import Effort
from ossia.llm import load
from ossia.tasks import TASKS, Problem, problems
from ossia.tasks.evals import cases
from ossia.tasks.limits.beyond import beyond_question, in_a_format
from ossia.train.pipeline import Phase, training
from ossia.train.recipes.sft import base_folder, tokenizer_of
from ossia.train.run import Run
from ossia.train.settings import Balance, Hyperparameters
from ossia.train.weights.export import load_weights
from recipes.aligning import counting, lessons
from recipes.nano import keep_memory

Profile = Literal["smoke", "count", "short", "standard"]
FORMATS = 0.2  # share of the lessons that are about formats
LEARNED = ("limits", "response formats")  # beside the tasks of nano
MOST = 512  # tokens of an answer


@dataclass(frozen=True)
class Sizes:
    """What a profile spends."""

    messages: int
    steps: int
    tokens: int  # of each of them
    samples: int  # held-out problems a task and effort


PROFILES: dict[Profile, Sizes] = {
    "smoke": Sizes(messages=6, steps=3, tokens=2048, samples=2),
    "count": Sizes(messages=1000, steps=0, tokens=0, samples=0),
    "short": Sizes(messages=1000, steps=250, tokens=4096, samples=50),
    "standard": Sizes(messages=1000, steps=500, tokens=4096, samples=100),
}


@dataclass(frozen=True)
class Config:
    profile: Profile = "standard"
    model: str = "nano"  # to go on from
    hyper: Hyperparameters = Hyperparameters(  # noqa: RUF009 - frozen
        peak_lr=2e-3,
        warmup=30,
        decay=0.8,
        floor=0.05,
        weight_decay=0.0,
        balance=Balance("none", router_z=0.0),
    )
    share: float = 0.2  # of the examples; the others are conversations as nano has learned from
    seed: int = 1

    @property
    def sizes(self) -> Sizes:
        return PROFILES[self.profile]


def phases(config: Config, out: Path) -> list[Phase]:
    """What is done, in order; every phase reads what the ones before have left in `out`."""
    keep_memory()
    make = Recipe(config, out)
    count = "count the answers that never end, before"
    first = Phase("before", count, partial(make.count, make.base, "before"))
    if config.profile == "count":
        return [first]
    return [
        first,
        training(make.lessons, "go on learning, with what is beyond it among the conversations"),
        Phase("model", "export the checkpoint, experts in MXFP4", make.export),
        Phase("after", "count them again", partial(make.count, make.checkpoint, "after")),
        Phase("evaluation", "answer held-out problems, before and after", make.measure),
    ]


@dataclass(frozen=True)
class Recipe:
    """The run and the work around it."""

    config: Config
    out: Path

    @property
    def base(self) -> Path:
        return base_folder(self.config.model)

    @property
    def checkpoint(self) -> Path:
        return self.out / "model" / "checkpoint"

    @property
    def lessons(self) -> Run:
        config = self.config
        sizes = config.sizes
        lesson = lessons.Lesson("politeness", drawn, config.share)
        hyper = replace(
            config.hyper,
            tokens_per_step=sizes.tokens,
            warmup=min(config.hyper.warmup, sizes.steps // 4),
            seed=config.seed,
        )
        gold = partial(lessons.examples, lesson, tokenizer_of(self.base), config.seed)
        run = Run(
            "lessons",
            open_checkpoint(self.base).config,
            gold,
            sizes.steps,
            hyper,
            self.out / "lessons",
            start_from=self.base,
        )
        return replace(run, quantize=True)

    def export(self) -> None:
        shape = open_checkpoint(self.base).config
        model = load_weights(shape, self.out / "lessons")
        export(model, self.checkpoint, "hf", overwrite=True, companions=self.base)

    def count(self, model: Path, name: str) -> None:
        said = counting.messages(self.config.sizes.messages, self.config.seed)
        answers = counting.count(load(model), said)
        counting.write(answers, self.out / name)
        print(counting.table(answers))

    def measure(self) -> None:
        """By task and effort, in `report.md`."""
        samples = self.config.sizes.samples
        held_out = [one for task in (*TASKS, *LEARNED) for one in problems(task, samples)]
        asked = list(cases(held_out, tuple(Effort)))
        parts = []
        for name, model in (("before", self.base), ("after", self.checkpoint)):
            llm = load(model)
            report, cut = evaluate(llm, asked, llm.params(max_tokens=MOST))
            end = f"{len(asked)} answers, {cut} cut short at {MOST} tokens"
            parts.append(f"## {name}\n\n{report}\n\n{end}\n")
        text = "\n".join(parts)
        replace_file(self.out / "evaluation" / "report.md", text)
        print(text)


def drawn(rng: Random) -> Problem:
    """A problem to learn from."""
    if rng.random() < FORMATS:
        return in_a_format(rng, "train")
    return beyond_question(rng, "train")
