"""What experiments share: sizes by profile, the small model, held-out text, and the training of
many runs.

Knows the recipe that they belong to (recipes/nano.py) and its folders.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from ossia.config import ModelConfig
from ossia.data import corpus
from ossia.data.packing import Example, State
from ossia.data.reading import ShardExamples
from ossia.data.shards import Shards
from ossia.errors import TrainingError
from ossia.model import Transformer
from ossia.train.length import scaled, token_losses
from ossia.train.log import read_log
from ossia.train.loop import train
from ossia.train.pipeline import watchers_of
from ossia.train.run import Run, StepReport
from ossia.train.settings import Hyperparameters
from ossia.train.weights.export import load_weights
from recipes.embedded.texts import as_document
from recipes.experiments.results import Budget
from recipes.nano import Recipe, keep_memory

HELD_OUT = 100_000  # added to the seed of text that nothing is trained on


@dataclass(frozen=True)
class Sizes:
    """What the experiments spend; as it stands here in the standard profile."""

    small_seeds: int = 3  # of the small models, which are trained from nothing
    judged_seeds: int = 5  # of those that a criterion of balance or of sinks judges
    # of what starts from the recipe's own weights; with one, intervals are over questions and
    # documents
    seeds: int = 1
    # small models that are trained at once, each on a thread for every part of a step
    processes: int = 2
    balance: int = 140  # steps of 2,048 tokens, like the next two
    sinks: int = 500
    stride: int = 80
    experts: int = 16  # of the small model
    documents: int = 120  # held-out ones
    full_length: int = 240  # steps of a second stage of extension
    twins: int = 60  # steps
    # steps of 1,024 tokens after which the filtered twin is asked again
    attack: tuple[int, ...] = (0, 25, 50, 100, 200)
    questions: int = 300  # of each kind; some of three times as many
    long_documents: int = 8  # of 4,096 tokens
    needles: int = 20  # a method and length
    many_needles: int = 200  # for the criterion
    continuation: int = 150  # steps
    conversations: int = 200
    answers: int = 300  # of held-out problems, for each model
    texts: int = 600  # held-out documents that rounding is measured on


STANDARD = Sizes()
SMOKE = Sizes(
    small_seeds=2,
    judged_seeds=2,
    balance=3,
    sinks=3,
    stride=3,
    experts=4,
    documents=6,
    full_length=2,
    twins=2,
    attack=(0, 1, 2),
    questions=6,
    long_documents=2,
    needles=2,
    many_needles=3,
    continuation=2,
    conversations=8,
    answers=6,
    texts=8,
)
FULL = Sizes(
    seeds=3,
    balance=400,
    sinks=1_500,
    stride=400,
    documents=300,
    full_length=400,
    twins=300,
    questions=600,
    long_documents=16,
    needles=50,
    continuation=450,
    conversations=500,
    answers=600,
    texts=1_000,
)
PROFILES = {"smoke": SMOKE, "standard": STANDARD, "full": FULL}


@dataclass(frozen=True)
class Lab:
    """An experiment's surroundings: the recipe, whose folders hold vocabulary, text and weights,
    and what to spend.
    """

    recipe: Recipe
    sizes: Sizes

    @property
    def out(self) -> Path:
        return self.recipe.out

    @property
    def small(self) -> ModelConfig:
        """A model that shows effects that need no capable one: micro, with the recipe's
        vocabulary.
        """
        micro = ModelConfig.preset("micro")
        vocabulary = self.recipe.long.vocab_size
        return scaled(
            replace(micro, vocab_size=vocabulary, num_experts=self.sizes.experts),
            micro.initial_context_length,
            "none",
        )

    @property
    def small_in_words(self) -> str:
        c = self.small
        return (
            f"{c.num_hidden_layers} layers, hidden size {c.hidden_size}, {c.num_experts} experts "
            "of which "
            f"{c.experts_per_token} are chosen, vocabulary {c.vocab_size}; trained from nothing"
        )

    def recipe_of(self, seed: int) -> Recipe:
        """The recipe with other random numbers for everything that is drawn, on the same vocabulary
        and text.
        """
        return Recipe(
            replace(self.recipe.config, seed=self.recipe.config.seed + 1_000 * seed),
            self.recipe.out,
        )

    def small_run(
        self,
        out: Path,
        name: str,
        config: ModelConfig,
        steps: int,
        seed: int,
        hyper: Hyperparameters,
    ) -> Run:
        """A run on the recipe's pages, in a folder of its own."""
        hyper = replace(hyper, seed=seed)
        examples = partial(_pages, self.out / "corpus", config.max_context_length, seed)
        return Run(f"{name} {seed}", config, examples, steps, hyper, out / f"{slug(name)}-{seed}")

    @property
    def small_hyper(self) -> Hyperparameters:
        return replace(
            self.recipe.config.hyper,
            tokens_per_step=2048,
            longest=256,
            warmup=10,
            shards=1,
            decay=0.5,
            accumulate=1,
        )

    def held_out_documents(
        self, count: int, longest: int = 256, shortest: int = 1
    ) -> list[list[int]]:
        """Ids of documents of the same generators, with a seed that no training text is drawn with,
        without what the filter should remove; cut after `longest` inputs. A short program may still
        be one that was trained on.
        """
        tokenizer = self.recipe.tokenizer
        drawn = corpus.documents(self.recipe.config.seed + HELD_OUT, self.recipe.country)
        ids = (as_document(tokenizer, made.text) for made, _ in drawn if made.label != "restricted")
        return list(islice((one[: longest + 1] for one in ids if len(one) > shortest), count))


def _pages(folder: Path, longest: int, seed: int, state: State) -> Iterator[tuple[Example, State]]:
    return ShardExamples(Shards(folder), longest, seed)(state)


def slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


# ---- training ------------------------------------------------------------------------------------


def train_all(runs: Sequence[Run], processes: int) -> None:
    """Train every run to its end; with several processes each takes its share of them. Runs that
    are finished stay.
    """
    if processes == 1 or len(runs) == 1:
        for run in runs:
            train(run, watchers=watchers_of(run))
        return
    context = multiprocessing.get_context("spawn")
    lanes = [
        context.Process(
            target=_lane, args=(list(runs[n::processes]), os.getpid()), name=f"lane {n}"
        )
        for n in range(processes)
    ]
    try:
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
    finally:
        for lane in lanes:
            if lane.is_alive():
                lane.terminate()
    if failed := [lane.name for lane in lanes if lane.exitcode]:
        raise TrainingError(
            f"{', '.join(failed)} of {processes} ended with an error, which is printed above"
        )


def _lane(runs: list[Run], parent: int) -> None:
    """In a process of its own. Ends with the parent, so that two never work in one folder."""

    def alone(report: StepReport) -> None:
        if os.getppid() != parent:
            os._exit(1)

    keep_memory()
    torch.set_num_threads(1)
    for run in runs:
        train(run, watchers=[alone])


def budget_of(runs: Sequence[Run]) -> Budget:
    """By the runs' logs."""
    lines = [line for run in runs for line in read_log(run.out)]
    return Budget(
        len(runs),
        sum(line["tokens"] for line in lines),
        round(sum(line["seconds"] for line in lines), 1),
    )


def curves(runs: Sequence[Run], measure: str, points: int = 40) -> list[list[tuple[int, float]]]:
    """(step, mean of `measure` over the steps since the last point) of each run's log."""
    out = []
    for run in runs:
        lines = read_log(run.out)
        every = max(1, math.ceil(len(lines) / points))
        parts = [lines[n : n + every] for n in range(0, len(lines), every)]
        out.append(
            [(part[-1]["step"], sum(one[measure] for one in part) / len(part)) for part in parts]
        )
    return out


def trained(run: Run) -> Transformer:
    """The model of a finished run, in eval mode."""
    return load_weights(run.config, run.out).eval()


def losses(model: Transformer, documents: Sequence[Sequence[int]]) -> list[float]:
    """Mean loss of each document, in nats a token."""
    return [found.double().mean().item() for found in token_losses(model, documents)]
