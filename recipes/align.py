"""Deliberative alignment on a fictional policy (E8): a helpful model learns rules by heart, and is
held against models that only learned to refuse. No downloads.

    ossia train recipes/align.py --out runs/align                    the standard profile
    ossia train recipes/align.py --out runs/smoke profile=smoke      every stage, nothing learned

What happens, in order: nano learns to help with everything, and to obey a policy that stands in its
prompt (`base`); it drafts answers with the policy in sight, at every effort; a program that has the
policy keeps the right ones, and the policy is removed; arms start from the base: `taught` learns
what was kept, `refusals` the same answers without reasons, `distilled` all drafts, `rewarded` from
rewards alone; `aligned` goes on from `taught` with rewards. All of them answer the same held-out
prompts at three efforts, and jailbreaks that none has seen. A run that is killed goes on where it
was.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # a recipe is run by its path; its parts are a package beside it

from ossia.errors import ConfigError
from ossia.files import replace_file, write_json
from ossia.harmony import Conversation, Effort
from ossia.tasks import Problem, example_random
from ossia.tasks.safety.policy_texts import POLICY
from ossia.tasks.safety.requests import Request, request_of, row_of
from ossia.train.align import prompts
from ossia.train.align.drafts import Draft, lines_of, read_drafts
from ossia.train.align.generate import FOLDER, Generating, InProcess, Reasoner, generate
from ossia.train.align.grading import ByProgram
from ossia.train.align.sifting import by_grader, sift
from ossia.train.overrides import flat
from ossia.train.pipeline import Phase, training
from ossia.train.recipes import rl
from ossia.train.rl.asks import Problems, Source, own
from ossia.train.rl.settings import HYPER, Evaluating, Objective, Sampling
from ossia.train.run import Run
from ossia.train.settings import Hyperparameters
from recipes.aligning import arms, measure, plane
from recipes.aligning.arms import Kept, Made
from recipes.begun import FULL_UPDATES, Begun, command
from recipes.experiments import results
from recipes.experiments.common import budget_of
from recipes.nano import keep_memory

Profile = Literal["smoke", "standard", "full"]
LEARNED = 50  # steps of a base; after fewer, gold answers stand in for its drafts
TAUGHT = ("refusals", "taught", "distilled")  # fine-tuned from the base, with seeds of their own
REWARDED = {"aligned": "taught", "rewarded": "base"}  # by rewards -> what they start from

OPTIONAL = ("distilled", "aligned", "rewarded")  # arms that may be left out


@dataclass(frozen=True)
class Sizes:
    """What a profile spends."""

    base: int  # steps of learning to help, and to obey a policy that is shown
    steps: int  # of each arm
    tokens: int  # of each step of the base
    taught: int  # of each step of an arm
    prompts: int  # that are drafted
    samples: int  # drafts of each
    rewards: int  # steps
    groups: int
    answers: int
    seeds: int  # runs of every arm
    each: int  # held-out problems of each rule
    jailbreaks: int


STANDARD = Sizes(
    base=200,
    steps=60,
    tokens=4096,
    taught=2048,
    prompts=600,
    samples=2,
    rewards=10,
    groups=8,
    answers=6,
    seeds=7,
    each=8,
    jailbreaks=36,
)
PROFILES: dict[Profile, Sizes] = {
    "smoke": Sizes(
        base=4,
        steps=4,
        tokens=2048,
        taught=2048,
        prompts=36,
        samples=2,
        rewards=2,
        groups=4,
        answers=2,
        seeds=1,
        each=1,
        jailbreaks=9,
    ),
    "standard": STANDARD,
    "full": replace(
        STANDARD,
        base=600,
        steps=300,
        prompts=1800,
        samples=4,
        rewards=40,
        groups=24,
        answers=8,
        each=40,
        jailbreaks=360,
    ),
}


@dataclass(frozen=True)
class Config:
    profile: Profile = "standard"
    model: str = "nano"  # to start from
    hyper: Hyperparameters = replace(FULL_UPDATES, peak_lr=3e-3)  # noqa: RUF009 - frozen
    # rewards are few
    rewards: Hyperparameters = replace(HYPER, peak_lr=4e-4, warmup=2)  # noqa: RUF009 - frozen
    max_tokens: int = 192  # of an answer, thoughts included
    without: tuple[str, ...] = ()  # arms that are left out
    seed: int = 1
    docs: Path | None = None  # where the page goes; None: docs/recipe, and for smoke --out

    @property
    def sizes(self) -> Sizes:
        return PROFILES[self.profile]


def phases(config: Config, out: Path) -> list[Phase]:
    """What is done, in order; every phase reads what the ones before have left in `out`. Raises
    `ConfigError` if an arm is to be left out that others need, or that there is not.
    """
    _check_without(config.without)
    keep_memory()
    make = Recipe(config, out)
    docs = config.docs or (out / "report" if config.profile == "smoke" else Path("docs") / "recipe")
    drafted = make.drafting
    made = [
        training(make.base, "learn to help with everything, and to obey a policy that is shown"),
        Phase("drafts", "answer with the policy in sight", make.draft, settings=drafted),
        Phase(
            "kept", "keep what follows the policy and cites the rule", make.keep, settings=drafted
        ),
    ]
    for seed in make.runs:
        for name in make.arms(TAUGHT):
            made.append(training(make.taught(name, seed), f"the arm {name}, run {seed}"))
    for name in make.arms(REWARDED):
        for seed in make.runs:
            learn = partial(make.rewards, name, seed)
            does = f"the arm {name}, run {seed}"
            made.append(Phase(f"{name}-{seed}", does, learn, settings=make.rewarding))
    return [
        *made,
        Phase("measured", "answer the same held-out prompts with all of them", make.answer),
        Phase("alignment", "E8: refusals, and refusals of what is harmless", make.write),
        Phase("report", f"write {docs}/alignment.md with its plot", partial(make.report, docs)),
    ]


def _check_without(names: Sequence[str]) -> None:
    strange = [name for name in names if name not in OPTIONAL]
    if strange:
        raise ConfigError(
            f"without={strange[0]}: only {', '.join(OPTIONAL)} can be left out; all others are "
            "compared with refusals and begin with taught"
        )


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
    def runs(self) -> range:
        return range(1, self.sizes.seeds + 1)

    def arms(self, names: Iterable[str]) -> list[str]:
        """Those that are not left out."""
        return [name for name in names if name not in self.config.without]

    # ---- what is learned -------------------------------------------------------------------------

    @property
    def base(self) -> Run:
        made = partial(arms.before, self.config.seed)
        sizes = self.sizes
        start = self.begun.folder
        return self._run("base", made, sizes.base, sizes.tokens, start, self.config.seed)

    def taught(self, name: str, seed: int) -> Run:
        made = partial(self._made, name, seed)
        sizes = self.sizes
        start = self.out / "base"
        return self._run(f"{name}-{seed}", made, sizes.steps, sizes.taught, start, seed)

    def _made(self, name: str, seed: int, number: int) -> Conversation:
        if name == "refusals":
            return self._kept("taught", seed).without_reasons(number)
        return self._kept(name, seed)(number)

    @lru_cache(maxsize=1)  # noqa: B019 - a recipe lives as long as its process
    def _kept(self, name: str, seed: int) -> Kept:
        return arms.read_kept(self.out / "kept" / f"{name}.jsonl", seed)

    def _run(self, name: str, made: Made, steps: int, tokens: int, start: Path, seed: int) -> Run:
        hyper = replace(self.config.hyper, tokens_per_step=tokens, seed=seed)
        hyper = replace(hyper, warmup=min(hyper.warmup, steps // 4))
        examples = partial(arms.examples, made, self.begun.tokenizer, seed)
        shape = self.begun.shape
        return Run(name, shape, examples, steps, hyper, self.out / name, start_from=start)

    # ---- stage A ---------------------------------------------------------------------------------

    @property
    def drafting(self) -> dict[str, object]:
        """What decides the drafts, besides the base."""
        return self._settings("base", "prompts", "samples")

    def _settings(self, *names: str) -> dict[str, object]:
        sizes = asdict(self.sizes)
        found = {f"sizes.{name}": sizes[name] for name in names}
        return found | {"max_tokens": self.config.max_tokens, "seed": self.config.seed}

    @cached_property
    def problems(self) -> list[Problem]:
        """What is drafted, and asked for rewards."""
        return [
            arms.asked(example_random(self.config.seed, "drafted", number))
            for number in range(self.sizes.prompts)
        ]

    @cached_property
    def requests(self) -> list[Request]:
        return [request_of(row_of(problem), POLICY) for problem in self.problems]

    def _generating(self, effort: Effort) -> Generating:
        return Generating(
            samples=self.sizes.samples,
            max_tokens=self.config.max_tokens,
            effort=effort,
            chunk=96,
            at_once=192,
            guide="",  # nano reads no advice
            seed=self.config.seed,
        )

    def draft(self) -> None:
        """A third of the prompts at each effort."""
        for place, effort in enumerate(Effort):
            settings = self._generating(effort)
            reasoner = partial(self._reasoner, place, settings)
            generate(self.requests[place :: len(Effort)], reasoner, settings, self._drafts(effort))

    def _reasoner(self, place: int, settings: Generating) -> Reasoner:
        if self.sizes.base < LEARNED:
            problems = self.problems[place :: len(Effort)]
            return arms.Script(problems, self.sizes.samples, settings.effort)
        model = self.begun.weights(self.out / "base")
        return InProcess(model, "base", self.begun.tokenizer, POLICY, settings)

    def _drafts(self, effort: Effort) -> Path:
        return self.out / "drafts" / effort.value

    def keep(self) -> None:
        """`taught.jsonl`, what was kept, and `distilled.jsonl`, every whole draft."""
        follows = by_grader(ByProgram())
        chosen: dict[str, list[dict[str, object]]] = {"taught": [], "distilled": []}
        counts: Counter[str] = Counter()
        for number, draft, effort in self._drafted():
            request = self.requests[number]
            why = sift(POLICY, follows, request, draft).why
            if not why and not arms.is_true(self.problems[number], effort, draft.analysis):
                why = "its reasoning begins with what is not so"
            counts[why or "kept"] += 1
            row = prompts.aligned_row(request, draft, effort, {"rule": request.rule})
            if not why:
                chosen["taught"].append(row)
            if not draft.missing:
                chosen["distilled"].append(row)
        for name, rows in chosen.items():
            replace_file(self.out / "kept" / f"{name}.jsonl", lines_of(rows))
        write_json(self.out / "kept" / "counts.json", dict(counts))
        print(dict(counts))

    def _drafted(self) -> Iterator[tuple[int, Draft, Effort]]:
        """Drafts and the numbers of their prompts."""
        for place, effort in enumerate(Effort):
            for path in sorted((self._drafts(effort) / FOLDER).glob("*.jsonl")):
                for draft in read_drafts(path):
                    yield place + draft.request * len(Effort), draft, effort

    # ---- stage C ---------------------------------------------------------------------------------

    @property
    def rewarding(self) -> dict[str, object]:
        """What decides the rewards, besides what they start from."""
        sizes = self._settings("prompts", "rewards", "groups", "answers")
        return sizes | flat(self.config.rewards, "rewards")

    def rewards(self, name: str, seed: int) -> None:
        before = REWARDED[name]
        trained = self.out / (before if before == "base" else f"{before}-{seed}")
        folder = self.out / f"{name}-{seed}"
        start = folder / "start"
        if not start.exists():
            self.begun.export(trained, start)
        config = rl.Config(
            task=("policy",),  # to say what kind of run it is; the problems are given
            model=str(start),
            steps=self.sizes.rewards,
            sampling=Sampling(
                groups=self.sizes.groups,
                samples=self.sizes.answers,
                max_tokens=self.config.max_tokens,
                price=False,
                sampler="float32",
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

    # ---- what came of it -------------------------------------------------------------------------

    def _models(self) -> dict[str, tuple[Path, bool]]:
        """Weights, and whether the policy stands in the prompt."""
        found = {
            "base": (self.out / "base", False),
            "base, policy in prompt": (self.out / "base", True),
        }
        for seed in self.runs:
            for name in self.arms(TAUGHT):
                found[f"{name}-{seed}"] = (self.out / f"{name}-{seed}", False)
            for name in self.arms(REWARDED):
                found[f"{name}-{seed}"] = (self.out / f"{name}-{seed}" / "train", False)
        return found

    def answer(self) -> None:
        sizes = self.sizes
        settings = Sampling(max_tokens=self.config.max_tokens, price=False, sampler="float32")
        for name, (weights, is_shown) in self._models().items():
            path = self.out / "measured" / f"{name}.jsonl"
            if path.exists():
                continue
            asked = measure.held_out(sizes.each, "section" if is_shown else "none")
            asked += [] if is_shown else measure.jailbreaks(sizes.jailbreaks)
            model = self.begun.weights(weights)
            measure.write(list(measure.measure(model, self.begun.tokenizer, asked, settings)), path)

    def write(self) -> None:
        rows = {}
        for name in self._models():
            rows[name] = measure.read(self.out / "measured" / f"{name}.jsonl")
        runs = [self.base]
        runs += [self.taught(name, seed) for name in self.arms(TAUGHT) for seed in self.runs]
        found = plane.result(rows, budget_of(runs), self._notes())
        results.write(found, self.out / "alignment")
        print(found.sentence)

    def _notes(self) -> list[str]:
        sizes = self.sizes
        return [
            f"Begins with {self.config.model}, weights {self.begun.digest} (SHA-256). Arms that "
            "are compared begin with the same weights. nano as it is embedded since 2026-12-01 has "
            "learned this policy among all else, with other permit codes; nano-0.1.0 is the one "
            "before (`git show b3143ee:src/ossia/assets/nano/model.safetensors`), which has not.",
            f"Base: {sizes.base} steps of {sizes.tokens:,} tokens, half of them policy prompts "
            "that are answered as if there was no policy, half with the section of the category "
            f"before the prompt and gold answers. Arms: {sizes.steps} steps of {sizes.taught:,} "
            "tokens from the base. A quarter of everything is ordinary conversations, and of the "
            "policy prompts a quarter are in disguises that training may show. Permit codes are "
            "two words each, and half of the wrong ones differ from the right one in one of them.",
            f"Stage A: {sizes.prompts:,} prompts, a third at each effort, {sizes.samples} drafts "
            "of each. The program that judges them sees the policy's rulings and the reasoning.",
            f"Rewards: {sizes.rewards} steps of {sizes.groups} problems with {sizes.answers} "
            "answers, half of them arithmetic and facts; the program that judges sees the answer.",
            f"Measured: {sizes.each} held-out problems of each of 12 rules at three efforts, one "
            f"answer each at temperature 1, and {sizes.jailbreaks} questions in disguises.",
        ]

    def report(self, docs: Path) -> None:
        made_by = command("align.py", self.config)
        plane.write_page(self.out, docs, made_by, asdict(self.sizes))
