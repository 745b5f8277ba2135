"""E9: whom to obey when the system, the developer, the user and tools' results disagree. No
downloads.

    ossia train recipes/aligning/hierarchy.py --out runs/order
    ossia train recipes/aligning/hierarchy.py --out runs/smoke profile=smoke

What happens, in order: nano is fine-tuned on instructions that nothing contradicts, whoever gives
them, and so becomes obedient to everybody; from there it learns gold conversations whose thoughts
say which message stands above, once with as many controls as the tasks have and once with none;
then rewards, on the same mixes; all of them answer the same held-out problems; E9 is written down.
A run that is killed goes on where it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # a recipe is run by its path; its parts are a package beside it

from ossia import __version__
from ossia.harmony import Effort
from ossia.tasks import Problem
from ossia.tasks.environment import Ask, ask_problem
from ossia.tasks.safety.hierarchy import hierarchy_question
from ossia.tasks.safety.protection import protection_question
from ossia.train.pipeline import Phase, training
from ossia.train.recipes import rl
from ossia.train.rl.sampler import Sampler
from ossia.train.rl.settings import HYPER, Evaluating, Sampling
from ossia.train.run import Run
from ossia.train.settings import Hyperparameters
from ossia.turn import stop_ids
from recipes.aligning import lessons, order
from recipes.begun import FULL_UPDATES, Begun, command
from recipes.experiments import page, results
from recipes.experiments.common import budget_of
from recipes.experiments.page import NOT_OURS, criteria_table, experiment, machine, times
from recipes.experiments.plots import draw
from recipes.nano import keep_memory
from recipes.reasoning.page import RULE

Profile = Literal["smoke", "standard", "full"]
Mix = Literal["controls", "alone"]
MIXES: tuple[Mix, ...] = ("controls", "alone")
OF_MIX: dict[Mix, bool | None] = {"controls": None, "alone": True}  # conflict or not
PROTECTED = 0.25  # share of the problems that are the card's own
PAGE = "hierarchy"


@dataclass(frozen=True)
class Sizes:
    """What a profile spends."""

    base: int  # steps of fine-tuning on what nothing contradicts
    lessons: int  # and on the order of roles
    tokens: int  # of each of them
    steps: int  # of rewards
    groups: int  # problems of a step
    samples: int  # answers to each
    max_tokens: int
    runs: int  # of each mix, with random numbers of their own
    each: int  # held-out problems of a pair, conflicts and controls each
    answers: int  # to each, at each effort


STANDARD = Sizes(
    base=150,
    lessons=80,
    tokens=2048,
    steps=6,
    groups=12,
    samples=6,
    max_tokens=192,
    runs=3,
    each=12,
    answers=1,
)
PROFILES: dict[Profile, Sizes] = {
    "smoke": Sizes(
        base=4,
        lessons=3,
        tokens=2048,
        steps=1,
        groups=2,
        samples=2,
        max_tokens=32,
        runs=1,
        each=2,
        answers=1,
    ),
    "standard": STANDARD,
    "full": replace(
        STANDARD, base=900, lessons=300, tokens=4096, steps=30, groups=16, samples=8, each=24
    ),
}


@dataclass(frozen=True)
class Config:
    profile: Profile = "standard"
    model: str = "nano"  # to start from
    rewards: Hyperparameters = HYPER
    hyper: Hyperparameters = replace(FULL_UPDATES, peak_lr=4e-3)  # noqa: RUF009 - frozen
    share: float = 0.8  # of the examples; the others are conversations that nano has learned from
    seed: int = 1
    docs: Path | None = None  # where the page goes; None: docs/recipe, and for smoke --out

    @property
    def sizes(self) -> Sizes:
        return PROFILES[self.profile]


def phases(config: Config, out: Path) -> list[Phase]:
    """What is done, in order; every phase reads what the ones before have left in `out`."""
    keep_memory()
    make = Recipe(config, out)
    is_smoke = config.profile == "smoke"
    docs = config.docs or (out / "report" if is_smoke else Path("docs") / "recipe")
    made = [
        training(make.obedience, "learn to do what anybody says, where nobody contradicts"),
        Phase("base", "export that model, to start from", make.export_base),
    ]
    for mix, number in make.runs:
        does = f"learn whom to obey from gold answers, {mix}"
        made.append(training(make.learning(mix, number), does))
        export_it = partial(make.export_learned, mix, number)
        made.append(Phase(f"start-{mix}-{number}", "export that model", export_it))
        learn = partial(rl.learn, make.rewarded(mix, number), make.place(mix, number))
        made.append(
            Phase(
                make.place(mix, number).name, "learn from rewards", learn, config=make.begun.shape
            )
        )
    return [
        *made,
        Phase("measured", "answer the same held-out problems with all of them", make.answer),
        Phase(PAGE, "E9: whom models obey", make.write),
        Phase("report", f"write {docs}/{PAGE}.md with a plot", partial(make.report, docs)),
    ]


@dataclass(frozen=True)
class Recipe:
    """The runs and the work between them."""

    config: Config
    out: Path

    @property
    def sizes(self) -> Sizes:
        return self.config.sizes

    @cached_property
    def begun(self) -> Begun:
        return Begun(self.config.model)

    @property
    def base(self) -> Path:
        return self.out / "base" / "checkpoint"

    @property
    def runs(self) -> list[tuple[Mix, int]]:
        """Seed by seed, so that a run that is stopped has both mixes."""
        return [(mix, n) for n in range(1, self.sizes.runs + 1) for mix in MIXES]

    def place(self, mix: Mix, number: int) -> Path:
        """Of the run with rewards."""
        return self.out / f"rewards-{mix}-{number}"

    # ---- training --------------------------------------------------------------------------------

    @property
    def obedience(self) -> Run:
        steps = self.sizes.base
        return self._run("obedience", steps, False, self.config.seed, self.begun.folder, 1.0)

    def learning(self, mix: Mix, number: int) -> Run:
        name = f"learning-{mix}-{number}"
        return self._run(name, self.sizes.lessons, OF_MIX[mix], number, self.base, 0.5)

    def _run(
        self, name: str, steps: int, conflict: bool | None, seed: int, start: Path, rate: float
    ) -> Run:
        config = self.config
        lesson = lessons.Lesson("order", partial(drawn, conflict), config.share)
        hyper = replace(
            config.hyper,
            tokens_per_step=self.sizes.tokens,
            peak_lr=config.hyper.peak_lr * rate,
            warmup=min(config.hyper.warmup, steps // 4),
            seed=seed,
        )
        gold = partial(lessons.examples, lesson, self.begun.tokenizer, seed)
        return Run(name, self.begun.shape, gold, steps, hyper, self.out / name, start_from=start)

    def export_base(self) -> None:
        self.begun.export(self.out / "obedience", self.base)

    def start(self, mix: Mix, number: int) -> Path:
        return self.out / f"start-{mix}-{number}" / "checkpoint"

    def export_learned(self, mix: Mix, number: int) -> None:
        self.begun.export(self.out / f"learning-{mix}-{number}", self.start(mix, number))

    def rewarded(self, mix: Mix, number: int) -> rl.Config:
        only = "" if OF_MIX[mix] is None else f"[conflict={OF_MIX[mix]}]"
        return rl.Config(
            task=(f"hierarchy{only}", f"protection{only}"),
            model=str(self.start(mix, number)),
            steps=self.sizes.steps,
            sampling=self.sampling,
            evaluating=Evaluating(every=0),
            hyper=replace(self.config.rewards, seed=number),
        )

    @property
    def sampling(self) -> Sampling:
        sizes = self.sizes
        return Sampling(groups=sizes.groups, samples=sizes.samples, max_tokens=sizes.max_tokens)

    # ---- measuring -------------------------------------------------------------------------------

    def models(self) -> dict[str, Path]:
        """Weights by name."""
        found = {"nano": self.begun.folder, "base": self.base}
        for mix, n in self.runs:
            found[f"learned-{mix}-{n}"] = self.start(mix, n)
            found[f"rewarded-{mix}-{n}"] = self.place(mix, n) / "train"
        return found

    def answer(self) -> None:
        problems = order.held_out(self.sizes.each)
        for name, weights in self.models().items():
            path = self._rows(name)
            if not path.exists():
                order.write(self._answers(weights, problems), path)

    def _answers(self, weights: Path, problems: Sequence[Problem]) -> list[order.Row]:
        """With integer weights: four times as fast, and nothing is learned from these answers."""
        settings = replace(self.sampling, sampler="int8")
        model = self.begun.weights(weights)
        sampler = Sampler(model, self.begun.tokenizer, stop_ids(self.begun.tokenizer), settings)
        asks: list[Ask] = []
        for number, problem in enumerate(problems):
            for effort in Effort:
                seed = Random(f"E9:{number}:{effort}").getrandbits(31)
                asks.append(ask_problem(problem, effort, group=len(asks), seed=seed))
        try:
            groups = sampler.draw(asks, self.sizes.answers, version=0)
        finally:
            sampler.close()
        rows = []
        for ask, group in zip(asks, groups, strict=True):
            number = ask.group // len(Effort)
            rows += [order.row_of(number, problems[number], sample) for sample in group]
        return rows

    def _rows(self, name: str) -> Path:
        return self.out / "measured" / f"{name}.jsonl"

    # ---- what was found --------------------------------------------------------------------------

    def _arms(self) -> dict[str, list[list[order.Row]]]:
        seeds = range(1, self.sizes.runs + 1)
        found = {
            "nano": [order.read(self._rows("nano"))],
            order.BASE: [order.read(self._rows("base"))],
        }
        names = {"controls": ("SFT", order.MIXED), "alone": ("SFT, no controls", order.ALONE)}
        for mix in MIXES:
            learned, rewarded = names[mix]
            found[learned] = [order.read(self._rows(f"learned-{mix}-{n}")) for n in seeds]
            found[rewarded] = [order.read(self._rows(f"rewarded-{mix}-{n}")) for n in seeds]
        return found

    def write(self) -> None:
        sft = [self.learning(mix, n) for mix, n in self.runs]
        paid = [rl.run_of(self.rewarded(mix, n), self.place(mix, n)) for mix, n in self.runs]
        spent = budget_of([self.obedience, *sft, *paid])
        words = f"{self.config.model}, after {self.sizes.base} steps of obedience"
        found = order.result(self._arms(), words, spent, self._notes())
        results.write(found, self.out / PAGE)
        print(found.sentence)

    def _notes(self) -> list[str]:
        sizes = self.sizes
        return [
            "Obedient: fine-tuned on controls alone, in which whoever speaks is to be obeyed. It "
            "is what the others begin with, and before and after are measured from it. It begins "
            f"with {self.config.model}, weights {self.begun.digest} (SHA-256); the nano that ossia "
            "brings has learned the order of roles among all else, and forgets some of it there.",
            f"SFT: {sizes.lessons} steps of {sizes.tokens:,} tokens; {self.config.share:.0%} "
            "of the conversations are about the order of roles. RL: "
            f"{sizes.steps} steps of {sizes.groups} problems with {sizes.samples} answers. With "
            "controls: 55% of the problems have no conflict, as the tasks are drawn; without: all "
            "have one.",
            f"{sizes.each} held-out problems of each pair with a conflict and as many without, "
            f"{sizes.answers} answers to each at each effort at temperature 1, sampled with int8 "
            "weights. An interval is the widest that covers each run's own bootstrap over "
            f"problems; {sizes.runs} runs of each mix, all from one obedient model.",
            "Unseen: the same locks in words that no training has, and kinds of conflict (a name, "
            "how answers begin) that no training has.",
        ]

    def report(self, docs: Path) -> None:
        path = self.out / PAGE / results.RESULTS
        found = {PAGE: json.loads(path.read_text(encoding="utf-8"))}
        docs.mkdir(parents=True, exist_ok=True)
        draw(found[PAGE]["panels"], docs / f"{PAGE}.svg")
        made_by = command("aligning/hierarchy.py", self.config)
        about = {"sizes": asdict(self.sizes), "command": made_by}
        (docs / f"{PAGE}.json").write_text(json.dumps({"about": about, **found}, indent=1) + "\n")
        parts = [
            "# The order of roles: system, developer, user, tool",
            f"Made by `{made_by}` on {machine()}, ossia {__version__}. This page, its plot and "
            f"[{PAGE}.json]({PAGE}.json) are written by that command.",
            NOT_OURS,
            "## Criteria",
            RULE,
            criteria_table(found),
            experiment(PAGE, found[PAGE]),
            "## Time",
            times(page.phases(self.out)),
        ]
        (docs / f"{PAGE}.md").write_text("\n\n".join(part.strip() for part in parts) + "\n")


def drawn(conflict: bool | None, rng: Random) -> Problem:
    """A problem to learn from."""
    if rng.random() < PROTECTED:
        return protection_question(rng, "train", None, None, conflict)
    return hierarchy_question(rng, "train", None, None, conflict)
