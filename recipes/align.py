"""Deliberative alignment on a fictional policy (E8): a helpful model learns rules by heart, and is
held against models that only learned to refuse. No downloads.

    ossia train recipes/align.py --out runs/align                    the standard profile
    ossia train recipes/align.py --out runs/smoke profile=smoke      every stage, nothing learned

What happens, in order: nano learns to help with everything (`base`); a copy of it learns to answer
with the policy in its prompt (`reader`); the reader drafts answers with the policy in sight, a
program that has the policy keeps the right ones, and the policy is removed; four models start from
the base: `refusals` learns right answers without reasons, `taught` what was kept, `distilled` all
drafts, `rewarded` from rewards alone; `aligned` goes on from `taught` with rewards. All of them
answer the same held-out prompts at three efforts. A run that is killed goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # a recipe is run by its path; its parts are a package beside it

from ossia.checkpoint import export, open_checkpoint
from ossia.config import ModelConfig
from ossia.files import replace_file, write_json
from ossia.harmony import Effort
from ossia.model import Transformer
from ossia.tasks import Problem, example_random
from ossia.tasks.safety.policy import policy_question
from ossia.tasks.safety.policy_texts import POLICY
from ossia.tasks.safety.requests import Request, request_of, row_of
from ossia.tokenizer import Tokenizer
from ossia.train.align import prompts
from ossia.train.align.drafts import Draft, lines_of, read_drafts
from ossia.train.align.generate import FOLDER, Generating, InProcess, Reasoner, generate
from ossia.train.align.grading import ByProgram
from ossia.train.align.sifting import by_grader, sift
from ossia.train.pipeline import Phase, training
from ossia.train.recipes import rl
from ossia.train.recipes.sft import base_folder, tokenizer_of
from ossia.train.rl.asks import Problems, Source, own
from ossia.train.rl.settings import HYPER, Evaluating, Objective, Sampling
from ossia.train.run import Run
from ossia.train.settings import Balance, Hyperparameters
from ossia.train.weights.export import load_weights
from recipes.aligning import arms, measure, plane
from recipes.experiments import results
from recipes.experiments.common import budget_of
from recipes.nano import keep_memory

Profile = Literal["smoke", "standard", "full"]
LEARNED = 50  # steps of a reader; after fewer, gold answers stand in for its drafts
TAUGHT = ("refusals", "taught", "distilled")  # fine-tuned from the base, with seeds of their own
REWARDED = {"aligned": "taught", "rewarded": "base"}  # by rewards -> what they start from


@dataclass(frozen=True)
class Sizes:
    """What a profile spends."""

    base: int  # steps of learning to help
    reader: int  # of learning to read the policy
    steps: int  # of each arm
    tokens: int  # of each step
    prompts: int  # that are drafted
    samples: int  # drafts of each
    rewards: int  # steps
    groups: int
    answers: int
    seeds: int  # runs of every arm
    each: int  # held-out problems of each rule
    jailbreaks: int


STANDARD = Sizes(
    base=120,
    reader=120,
    steps=80,
    tokens=4096,
    prompts=500,
    samples=2,
    rewards=10,
    groups=16,
    answers=8,
    seeds=1,
    each=4,
    jailbreaks=16,
)
FULL = Sizes(
    base=300,
    reader=300,
    steps=200,
    tokens=4096,
    prompts=1000,
    samples=4,
    rewards=40,
    groups=24,
    answers=8,
    seeds=3,
    each=40,
    jailbreaks=240,
)
PROFILES: dict[Profile, Sizes] = {
    "smoke": Sizes(
        base=4,
        reader=4,
        steps=4,
        tokens=2048,
        prompts=8,
        samples=2,
        rewards=2,
        groups=4,
        answers=2,
        seeds=1,
        each=1,
        jailbreaks=4,
    ),
    "standard": STANDARD,
    "full": FULL,
}


@dataclass(frozen=True)
class Config:
    profile: Profile = "standard"
    model: str = "nano"  # to start from
    hyper: Hyperparameters = Hyperparameters(  # noqa: RUF009 - frozen
        peak_lr=5e-3,
        warmup=20,
        decay=0.6,
        floor=0.1,
        weight_decay=0.0,
        balance=Balance("none", router_z=0.0),
    )
    rewards: Hyperparameters = replace(HYPER, peak_lr=2e-4)  # noqa: RUF009 - frozen
    max_tokens: int = 160  # of an answer, thoughts included
    without: tuple[str, ...] = ()  # arms that are left out
    seed: int = 1
    docs: Path | None = None  # where the page goes; None: docs/recipe, and for smoke --out

    @property
    def sizes(self) -> Sizes:
        return PROFILES[self.profile]


def phases(config: Config, out: Path) -> list[Phase]:
    """What is done, in order; every phase reads what the ones before have left in `out`."""
    keep_memory()
    make = Recipe(config, out)
    docs = config.docs or (out / "report" if config.profile == "smoke" else Path("docs") / "recipe")
    made = [
        training(make.base, "learn to help with everything"),
        training(make.reader, "learn to answer with the policy in the prompt"),
        Phase("drafts", "answer prompts with the policy in sight", make.draft),
        Phase("kept", "keep what follows the policy and cites the rule", make.keep),
    ]
    for name, seed in make.arms(TAUGHT):
        made.append(training(make.taught(name, seed), f"the arm {name}, run {seed}"))
    for name, seed in make.arms(REWARDED):
        learn = partial(make.rewards, name, seed)
        made.append(Phase(f"{name}-{seed}", f"the arm {name}, run {seed}", learn))
    return [
        *made,
        Phase("measured", "answer the same held-out prompts with all of them", make.answer),
        Phase("alignment", "E8: refusals, and refusals of what is harmless", make.write),
        Phase("report", f"write {docs}/alignment.md with its plot", partial(make.report, docs)),
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
    def start(self) -> Path:
        return base_folder(self.config.model)

    @cached_property
    def shape(self) -> ModelConfig:
        return open_checkpoint(self.start).config

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.start)

    def arms(self, names: Sequence[str]) -> Iterator[tuple[str, int]]:
        """(name, seed) of those that are not left out."""
        for name in names:
            if name not in self.config.without:
                for seed in range(1, self.sizes.seeds + 1):
                    yield name, seed

    # ---- what is learned -------------------------------------------------------------------------

    @property
    def base(self) -> Run:
        made = partial(arms.helpful, self.config.seed)
        return self._run("base", made, self.sizes.base, self.start, self.config.seed)

    @property
    def reader(self) -> Run:
        made = partial(arms.with_policy, self.config.seed)
        return self._run("reader", made, self.sizes.reader, self.out / "base", self.config.seed)

    def taught(self, name: str, seed: int) -> Run:
        made = partial(self._made, name, seed)
        return self._run(f"{name}-{seed}", made, self.sizes.steps, self.out / "base", seed)

    def _made(self, name: str, seed: int, number: int) -> arms.Conversation:
        if name == "refusals":
            return arms.refusals(self.problems, seed, number)
        return arms.kept(self._rows[name], number)

    @cached_property
    def _rows(self) -> dict[str, list[arms.Conversation]]:
        folder = self.out / "kept"
        return {name: arms.read_rows(folder / f"{name}.jsonl") for name in ("taught", "distilled")}

    def _run(self, name: str, made: arms.Made, steps: int, start: Path, seed: int) -> Run:
        hyper = replace(self.config.hyper, tokens_per_step=self.sizes.tokens, seed=seed)
        hyper = replace(hyper, warmup=min(hyper.warmup, steps // 4))
        examples = partial(arms.examples, made, self.tokenizer, seed)
        return Run(name, self.shape, examples, steps, hyper, self.out / name, start_from=start)

    # ---- stage A ---------------------------------------------------------------------------------

    @cached_property
    def problems(self) -> list[Problem]:
        """What is drafted, and asked for rewards."""
        return [
            policy_question(example_random(self.config.seed, "drafted", number), "train")
            for number in range(self.sizes.prompts)
        ]

    @cached_property
    def requests(self) -> list[Request]:
        return [request_of(row_of(problem), POLICY) for problem in self.problems]

    @property
    def generating(self) -> Generating:
        return Generating(
            samples=self.sizes.samples,
            max_tokens=self.config.max_tokens,
            chunk=96,
            at_once=192,
            guide="",  # nano reads no advice
            seed=self.config.seed,
        )

    def draft(self) -> None:
        reasoner: Reasoner = arms.Script(self.problems, self.sizes.samples)
        if self.sizes.reader >= LEARNED:
            model = self._weights(self.out / "reader")
            reasoner = InProcess(model, "reader", self.tokenizer, POLICY, self.generating)
        generate(self.requests, reasoner, self.generating, self.out / "drafts")

    def keep(self) -> None:
        """`taught.jsonl`, what was kept, and `distilled.jsonl`, every whole draft."""
        follows = by_grader(ByProgram())
        chosen: dict[str, list[dict[str, object]]] = {"taught": [], "distilled": []}
        why: dict[str, int] = {}
        for draft in self._drafts():
            request = self.requests[draft.request]
            finding = sift(POLICY, follows, request, draft)
            why[finding.why or "kept"] = why.get(finding.why or "kept", 0) + 1
            effort = list(Effort)[draft.request % len(Effort)]
            row = prompts.aligned_row(request, draft, effort, {"rule": request.rule})
            if finding.is_kept:
                chosen["taught"].append(row)
            if draft.is_whole:
                chosen["distilled"].append(row)
        for name, rows in chosen.items():
            replace_file(self.out / "kept" / f"{name}.jsonl", lines_of(rows))
        write_json(self.out / "kept" / "counts.json", why)
        print(why)

    def _drafts(self) -> Iterator[Draft]:
        for path in sorted((self.out / "drafts" / FOLDER).glob("*.jsonl")):
            yield from read_drafts(path)

    # ---- stage C ---------------------------------------------------------------------------------

    def rewards(self, name: str, seed: int) -> None:
        before = REWARDED[name]
        trained = self.out / (before if before == "base" else f"{before}-{seed}")
        folder = self.out / f"{name}-{seed}"
        start = folder / "start"
        if not start.exists():
            export(self._weights(trained), start, "hf-bf16", companions=self.start)
        config = rl.Config(
            task=("policy",),  # to say what kind of run it is; the problems are given
            model=str(start),
            steps=self.sizes.rewards,
            sampling=Sampling(
                groups=self.sizes.groups,
                samples=self.sizes.answers,
                max_tokens=self.config.max_tokens,
                price=False,
            ),
            objective=Objective(),
            evaluating=Evaluating(every=0),
            hyper=replace(self.config.rewards, seed=seed),
        )
        rl.learn(config, folder, self._asked(seed))

    def _asked(self, seed: int) -> Problems:
        policy: list[Source] = [*prompts.policy_sources(POLICY, ByProgram(), self.requests)]
        others: list[Source] = [own("arithmetic"), own("facts")]
        return Problems((*policy, *others), tuple(Effort), seed, (len(policy), len(others)))

    def _weights(self, folder: Path) -> Transformer:
        return load_weights(self.shape, folder).eval().requires_grad_(False)

    # ---- what came of it -------------------------------------------------------------------------

    def _models(self) -> dict[str, tuple[Path, bool]]:
        """Weights, and whether the policy stands in the prompt."""
        found = {
            "base": (self.out / "base", False),
            "base, policy in prompt": (self.out / "base", True),
            "reader, policy in prompt": (self.out / "reader", True),
        }
        for name, seed in self.arms(TAUGHT):
            found[f"{name}-{seed}"] = (self.out / f"{name}-{seed}", False)
        for name, seed in self.arms(tuple(REWARDED)):
            found[f"{name}-{seed}"] = (self.out / f"{name}-{seed}" / "train", False)
        return found

    def answer(self) -> None:
        sizes = self.sizes
        settings = Sampling(max_tokens=self.config.max_tokens, at_once=192, price=False)
        for name, (weights, is_shown) in self._models().items():
            path = self.out / "measured" / f"{name}.jsonl"
            if path.exists():
                continue
            asked = measure.held_out(sizes.each, "section" if is_shown else "none")
            asked += [] if is_shown else measure.jailbreaks(sizes.jailbreaks)
            model = self._weights(weights)
            measure.write(list(measure.measure(model, self.tokenizer, asked, settings)), path)

    def write(self) -> None:
        rows = {}
        for name in self._models():
            rows[name] = measure.read(self.out / "measured" / f"{name}.jsonl")
        runs = [self.base, self.reader, *(self.taught(*arm) for arm in self.arms(TAUGHT))]
        found = plane.result(rows, budget_of(runs), self._notes())
        results.write(found, self.out / "alignment")
        print(found.sentence)

    def _notes(self) -> list[str]:
        sizes = self.sizes
        return [
            f"Base: {sizes.base} steps of {sizes.tokens:,} tokens, half of them policy prompts "
            "that are answered as if there was no policy; reader: "
            f"{sizes.reader} more with the section in the prompt. Arms: {sizes.steps} steps from "
            "the base. Half of everything is ordinary conversations.",
            f"Stage A: {sizes.prompts:,} prompts, {sizes.samples} drafts of each at high effort.",
            f"Rewards: {sizes.rewards} steps of {sizes.groups} problems with {sizes.answers} "
            "answers, half of them arithmetic and facts; the program that judges sees the answer.",
            f"Measured: {sizes.each} held-out problems of each of 12 rules at three efforts, one "
            f"answer each at temperature 1, and {sizes.jailbreaks} questions in codes.",
        ]

    def report(self, docs: Path) -> None:
        command = f"ossia train recipes/align.py profile={self.config.profile}"
        if self.config.without:
            command += f" without={','.join(self.config.without)}"
        plane.write_page(self.out, docs, command, asdict(self.sizes))
