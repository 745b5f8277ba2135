"""Reasoning: the embedded model learns to think for as long as it is told to, and rewards make it
better at it. No downloads.

    ossia train recipes/reason.py --out runs/reason                   the standard profile
    ossia train recipes/reason.py --out runs/smoke profile=smoke      every stage, nothing learned
    ossia chat runs/reason/model --effort high

What happens, in order: nano is fine-tuned on seeds, gold conversations about following a number
through many steps, whose grain is mostly that of the effort; held-out problems say whether there is
something left to learn (the gate); reinforcement learning, with one or more seeds; as many tokens
are sampled from the seeds' weights, and those answers that would have been rewarded are learned
from, as the control; all of them answer the same held-out problems; E1 and E7 are written down. A
run that is killed goes on where it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # a recipe is run by its path; its parts are a package beside it

from ossia.checkpoint import export, open_checkpoint
from ossia.config import ModelConfig
from ossia.files import write_json
from ossia.harmony import Effort
from ossia.model import Transformer
from ossia.tasks.effort import Price, Prices
from ossia.tokenizer import Tokenizer
from ossia.train.log import read_log
from ossia.train.loop import train
from ossia.train.pipeline import Phase, training, watchers_of
from ossia.train.recipes import rl
from ossia.train.recipes.sft import base_folder, tokenizer_of
from ossia.train.rl.asks import Problems, own
from ossia.train.rl.sampler import Sampler
from ossia.train.rl.settings import HYPER, Evaluating, Objective, Sampling
from ossia.train.rl.settings import Sampler as SamplerName
from ossia.train.run import Run
from ossia.train.settings import Balance, Hyperparameters
from ossia.train.weights.export import load_weights
from ossia.turn import stop_ids
from recipes.experiments import results
from recipes.experiments.common import budget_of
from recipes.nano import keep_memory
from recipes.reasoning import effort, forcing, measure, rejection, rewards, seeds
from recipes.reasoning.gate import gate, table
from recipes.reasoning.page import write_page

Profile = Literal["smoke", "standard", "full"]


@dataclass(frozen=True)
class Sizes:
    """What a profile spends."""

    seeds: int  # steps of fine-tuning on gold conversations
    tokens: int  # of each of them
    steps: int  # of rewards
    groups: int  # problems of a step
    samples: int  # answers to each
    max_tokens: int
    runs: int  # of rewards, and of the control, with random numbers of their own
    gate: tuple[int, ...]  # lengths of the tracks that the gate looks at
    measured: tuple[int, ...]  # and of those that everything is measured on
    each: int  # problems of each length
    answers: int  # to each, at each effort
    forced: int  # problems of each length whose thoughts are cut
    budgets: tuple[int, ...]  # tokens of thought that they are cut at


STANDARD = Sizes(
    seeds=900,
    tokens=4096,
    steps=30,
    groups=24,
    samples=8,
    max_tokens=400,
    runs=2,
    gate=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12),
    measured=(4, 6, 8, 10, 12),
    each=16,
    answers=8,
    forced=4,
    budgets=(4, 8, 16, 32, 64, 128),
)
PROFILES: dict[Profile, Sizes] = {
    "smoke": Sizes(
        seeds=40,
        tokens=2048,
        steps=2,
        groups=4,
        samples=4,
        max_tokens=48,
        runs=1,
        gate=(1, 2),
        measured=(1, 2),
        each=2,
        answers=2,
        forced=1,
        budgets=(4, 8),
    ),
    "standard": STANDARD,
    "full": replace(STANDARD, steps=120, runs=3, each=40, answers=16),
}


@dataclass(frozen=True)
class Config:
    profile: Profile = "standard"
    model: str = "nano"  # to start from
    kind: str = "number"  # of the tracks: one of tasks/long/state.py
    # steps of the tracks: one range an arm of the curriculum; the gate is for all of them
    ranges: tuple[str, ...] = ("1..4", "5..8", "9..12")
    longest: int = 12  # steps of the seeds' tracks, 1 to so many
    rewards: Hyperparameters = replace(HYPER, peak_lr=2e-4)  # noqa: RUF009 - frozen
    # the shortest way through a track is to say the answer: four tokens of thought
    prices: Prices = Prices(low=Price(16, 24, 0.6))  # noqa: RUF009 - frozen
    # of the seeds: full updates, as in recipes/nano.py
    hyper: Hyperparameters = Hyperparameters(  # noqa: RUF009 - frozen
        peak_lr=5e-3,
        warmup=20,
        decay=0.6,
        floor=0.1,
        weight_decay=0.0,
        balance=Balance("none", router_z=0.0),
    )
    control: float = 5e-4  # rate of learning from kept answers
    # what they are sampled with: it needs no log-probabilities that agree with the trainer
    sampler: SamplerName = "int8"
    epochs: float = 1.0  # of them
    seed: int = 1
    docs: Path | None = None  # where the page goes; None: docs/recipe, and for smoke --out

    @property
    def sizes(self) -> Sizes:
        return PROFILES[self.profile]


def phases(config: Config, out: Path) -> list[Phase]:
    """What is done, in order; every phase reads what the ones before have left in `out`."""
    keep_memory()
    make = Recipe(config, out)
    numbers = range(1, config.sizes.runs + 1)
    docs = config.docs or (out / "report" if config.profile == "smoke" else Path("docs") / "recipe")
    made = [
        training(make.seeding, "learn gold answers whose grain is mostly the effort's"),
        Phase("start", "export what was learned, as the model to start from", make.export_start),
        Phase("gate", "see whether there is something left to learn", make.look),
    ]
    for n in numbers:
        learn = partial(rl.learn, make.rewarded(n), out / f"rewards-{n}")
        made.append(Phase(f"rewards-{n}", "learn from rewards", learn, config=make.shape))
    for n in numbers:
        does = "sample as many tokens from the seeds, and learn from the right answers"
        made.append(Phase(f"control-{n}", does, partial(make.imitate, n), config=make.shape))
    return [
        *made,
        Phase("measured", "answer the same held-out problems with all of them", make.answer),
        Phase("effort", "E1: what effort buys", make.write_effort),
        Phase("rewards", "E7: rewards against rejection sampling", make.write_rewards),
        Phase("model", "export the model of the first run with rewards", make.export_model),
        Phase("report", f"write {docs}/reasoning.md with plots", partial(make.report, docs)),
    ]


@dataclass(frozen=True)
class Recipe:
    """The runs and the work between them."""

    config: Config
    out: Path

    @property
    def sizes(self) -> Sizes:
        return self.config.sizes

    @property
    def base(self) -> Path:
        return base_folder(self.config.model)

    @property
    def shape(self) -> ModelConfig:
        return open_checkpoint(self.base).config

    @property
    def tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.base)

    @property
    def start(self) -> Path:
        return self.out / "start" / "checkpoint"

    @property
    def runs(self) -> range:
        return range(1, self.sizes.runs + 1)

    # ---- training --------------------------------------------------------------------------------

    @property
    def seeding(self) -> Run:
        config = self.config
        hyper = replace(config.hyper, tokens_per_step=self.sizes.tokens, seed=config.seed)
        hyper = replace(hyper, warmup=min(hyper.warmup, self.sizes.seeds // 4))
        gold = partial(seeds.examples, self.tokenizer, config.kind, config.longest, config.seed)
        return Run(
            "seeds",
            self.shape,
            gold,
            self.sizes.seeds,
            hyper,
            self.out / "seeds",
            start_from=self.base,
        )

    def export_start(self) -> None:
        """With the experts as they are: rewards, the control and the measurements begin here."""
        self._export(self.out / "seeds", self.start)

    def export_model(self) -> None:
        place = self.out / "model" / "checkpoint"
        self._export(self.out / "rewards-1" / "train", place)
        print(f"try it: ossia chat {place} --effort high")

    def _export(self, trained: Path, place: Path) -> None:
        model = load_weights(self.shape, trained).eval()
        export(model, place, "hf-bf16", overwrite=True, companions=self.base)

    def rewarded(self, number: int) -> rl.Config:
        """The run with rewards of this number."""
        config = self.config
        return rl.Config(
            task=tuple(self._tasks()),
            model=str(self.start),
            steps=self.sizes.steps,
            sampling=self.sampling,
            objective=Objective(mask_cut=False),  # as the page's numbers were made
            evaluating=Evaluating(every=0),
            hyper=replace(config.rewards, seed=number),
        )

    @property
    def sampling(self) -> Sampling:
        sizes = self.sizes
        return Sampling(
            groups=sizes.groups,
            samples=sizes.samples,
            max_tokens=sizes.max_tokens,
            prices=self.config.prices,
        )

    def _tasks(self) -> list[str]:
        return [f"state[k={steps},kind={self.config.kind}]" for steps in self.config.ranges]

    def imitate(self, number: int) -> None:
        """Rejection sampling from the weights that the rewards began with, on the same kind of
        problems, at the same prices.
        """
        folder = self.out / f"control-{number}"
        if not (folder / rejection.COUNTS).exists():
            log = read_log(self.out / f"rewards-{number}" / "train")
            problems = Problems(
                tuple(own(task) for task in self._tasks()), self.sampling.efforts, number
            )
            tokens = round(sum(line["sampled"] for line in log))
            model = self._weights(self.start)
            sampling = replace(self.sampling, sampler=self.config.sampler)
            rejection.sample(model, self.tokenizer, problems, sampling, tokens, folder)
        run = self.control(number)
        train(run, watchers=watchers_of(run))

    def control(self, number: int) -> Run:
        folder = self.out / f"control-{number}"
        hyper = replace(
            self.config.rewards,
            peak_lr=self.config.control,
            decay=0.5,
            tokens_per_step=4096,
            longest=1024,
            seed=number,
        )
        tokens = rejection.kept_tokens(folder)
        return Run(
            f"control {number}",
            self.shape,
            partial(rejection.examples, folder, number),
            max(1, round(tokens * self.config.epochs / hyper.tokens_per_step)),
            hyper,
            folder / "train",
            start_from=self.start,
        )

    def _weights(self, folder: Path) -> Transformer:
        return load_weights(self.shape, folder).eval()

    # ---- measuring -------------------------------------------------------------------------------

    def look(self) -> None:
        """The gate, printed, and in `gate/gate.md`. It is shut where it is shut: the run goes on,
        and says so.
        """
        sizes = self.sizes
        rows = self._answers(self.start, sizes.gate, max(2, sizes.each // 2))
        measure.write(rows, self.out / "gate" / "rows.jsonl")
        chosen = [rows, *([row for row in rows if row.k == k] for k in sizes.gate)]
        gates = []
        for of in chosen:
            ks = sorted({row.k for row in of})
            name = f"{self.config.kind}, k = {ks[0]}" + (f" to {ks[-1]}" if len(ks) > 1 else "")
            gates.append(gate(name, of, self.config.kind))
        text = table(gates)
        print(text)
        (self.out / "gate" / "gate.md").write_text(f"{text}\n", encoding="utf-8")

    def answer(self) -> None:
        """Rows of every model, and accuracies under budgets of thought."""
        folder = self.out / "measured"
        for name, weights in self._models().items():
            if not (folder / f"{name}.jsonl").exists():
                rows = self._answers(weights, self.sizes.measured, self.sizes.each)
                measure.write(rows, folder / f"{name}.jsonl")
        names = {"seeds": "seeds", "rewards": "rewards-1"}
        cut = {shown: self._forced(self._models()[name]) for shown, name in names.items()}
        write_json(folder / "forced.json", cut)

    def _models(self) -> dict[str, Path]:
        found = {"seeds": self.start}
        for kind in ("rewards", "control"):
            for n in self.runs:
                found[f"{kind}-{n}"] = self.out / f"{kind}-{n}" / "train"
        return found

    def _answers(self, weights: Path, ks: Sequence[int], each: int) -> list[measure.Row]:
        problems = measure.held_out(self.config.kind, ks, each)
        settings = replace(self.sampling, at_once=192)
        model = self._weights(weights)
        return list(measure.measure(model, self.tokenizer, problems, self.sizes.answers, settings))

    def _forced(self, weights: Path) -> dict[str, float]:
        """Accuracy at high effort by tokens of thought, then an answer."""
        problems = measure.held_out(self.config.kind, self.sizes.measured, self.sizes.forced)
        asks = [ask for ask in measure.asks_of(problems) if ask.effort is Effort.HIGH]
        model = self._weights(weights)
        sampler = Sampler(model, self.tokenizer, stop_ids(self.tokenizer), self.sampling)
        try:
            groups = sampler.draw(asks, self.sizes.answers, version=0)
        finally:
            sampler.close()
        found = {}
        for budget in self.sizes.budgets:
            right = forcing.forced(model, self.tokenizer, asks, groups, budget)
            found[str(budget)] = sum(right) / len(right)
        return found

    # ---- what was found --------------------------------------------------------------------------

    def _rows(self, name: str) -> list[measure.Row]:
        return measure.read(self.out / "measured" / f"{name}.jsonl")

    def _logs(self) -> list[list[dict[str, float]]]:
        return [read_log(self.out / f"rewards-{n}" / "train") for n in self.runs]

    def write_effort(self) -> None:
        after = [self._rows(f"rewards-{n}") for n in self.runs]
        forced = json.loads((self.out / "measured" / "forced.json").read_text(encoding="utf-8"))
        found = effort.result(
            self._rows("seeds"), after, forced, self._words(), self._spent(), self._notes()
        )
        results.write(found, self.out / "effort")
        print(found.sentence)

    def write_rewards(self) -> None:
        after = [self._rows(f"rewards-{n}") for n in self.runs]
        control = [self._rows(f"control-{n}") for n in self.runs]
        notes = [*self._notes(), *self._control_notes()]
        found = rewards.result(
            self._rows("seeds"),
            after,
            control,
            self._logs(),
            self.config.prices,
            self._words(),
            self._spent(),
            notes,
        )
        results.write(found, self.out / "rewards")
        print(found.sentence)

    def _spent(self) -> results.Budget:
        runs = [rl.run_of(self.rewarded(n), self.out / f"rewards-{n}") for n in self.runs]
        return budget_of([self.seeding, *runs, *(self.control(n) for n in self.runs)])

    def _words(self) -> str:
        return f"{self.config.model}, after {self.sizes.seeds} steps on seeds"

    def _notes(self) -> list[str]:
        sizes = self.sizes
        problems = len(sizes.measured) * sizes.each
        return [
            f"The task: a {self.config.kind} is followed through k steps; held-out tracks of "
            f"k = {', '.join(map(str, sizes.measured))}, {problems} problems, {sizes.answers} "
            "answers to each at each effort, at temperature 1.",
            f"Seeds: {seeds.TIED:.0%} of the gold answers are worked out as their effort says "
            "(low: the answer alone; medium: every third state; high: every step and a check), "
            "the others as another effort would. What rewards can teach is which to choose, and "
            "to make fewer mistakes.",
            f"Rewards: {sizes.steps} steps of {sizes.groups} problems with {sizes.samples} answers "
            f"at a rate of {self.config.rewards.peak_lr:g}; right answers cost what thoughts cost "
            "at the effort (`tasks/effort.py`); sampled exactly: no log-probability differs from "
            "the trainer's by a bit.",
            f"The seeds were trained once; {sizes.runs} runs began with them, with problems and "
            "answers of their own. An interval is the widest that covers each run's own bootstrap "
            "over problems.",
            "Prices at low effort were 32 and 48 tokens in a first run of 22 steps, in which low "
            "effort came to think for 75 tokens where it had thought for 27; they became 16 and 24 "
            "after it. The criteria stayed; those of E1 that judge the seeds were added when they "
            "had been measured.",
        ]

    def _control_notes(self) -> list[str]:
        found = []
        for n in self.runs:
            path = self.out / f"control-{n}" / rejection.COUNTS
            counts = json.loads(path.read_text(encoding="utf-8"))
            found.append(
                f"Control {n}: {counts['sampled']:,} tokens sampled, {counts['answers']:,} "
                f"answers (with {self.config.sampler} weights), {counts['kept']:,} rewarded ones "
                f"kept ({counts['different']:,} different), learned at a rate of "
                f"{self.config.control:g}."
            )
        return found

    def report(self, docs: Path) -> None:
        command = f"ossia train recipes/reason.py profile={self.config.profile}"
        write_page(self.out, docs, ["effort", "rewards"], command, asdict(self.sizes))
