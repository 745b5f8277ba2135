"""E1 and E7: seeds, the gate, rewards, rejection sampling as their control, and the same held-out
problems for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ossia.files import write_json
from ossia.harmony import Effort
from ossia.train.log import read_log
from ossia.train.loop import train
from ossia.train.pipeline import Phase, training, watchers_of
from ossia.train.recipes import rl
from ossia.train.rl.asks import Problems, own
from ossia.train.rl.sampler import Sampler
from ossia.train.rl.settings import Evaluating, Objective
from ossia.train.rl.settings import Sampler as SamplerName
from ossia.train.run import Run
from ossia.turn import stop_ids
from recipes.experiments import results
from recipes.reasoning import effort, forcing, measure, rejection, rewards, seeds
from recipes.reasoning.gate import gate, table
from recipes.reasoning.place import Place

SERVED = "experts rounded to MXFP4, as it would be served: not quite the weights of the rewards"
SAMPLED: dict[SamplerName, str] = {
    "exact": "exactly, as for the rewards",
    "float32": "by the engine's own kernels in float32",
    "bf16": f"by the compiled kernels in bf16, {SERVED}",
    "int8": f"by the compiled kernels with 8-bit products, {SERVED}",
}


@dataclass(frozen=True)
class Thinking(Place):
    """The runs and the work between them."""

    def phases(self) -> list[Phase]:
        made = [
            training(
                self.seeding("seeds", self.sizes.seeds),
                "learn gold answers whose grain is mostly the effort's",
            ),
            Phase("start", "export what was learned, as the model to start from", self.begin),
            Phase("gate", "see whether there is something left to learn", self.look),
        ]
        for n in self.runs:
            learn = partial(rl.learn, self.rewarded(n), self.out / f"rewards-{n}")
            made.append(Phase(f"rewards-{n}", "learn from rewards", learn, config=self.begun.shape))
        for n in self.held:
            learn = partial(rl.learn, self.held_short(n), self.out / f"held-{n}")
            does = "learn from rewards that hold low effort short"
            made.append(Phase(f"held-{n}", does, learn, config=self.begun.shape))
        for n in self.runs:
            does = "sample as many tokens from the seeds, and learn from the right answers"
            work = partial(self.imitate, n)
            made.append(Phase(f"control-{n}", does, work, config=self.begun.shape))
        return [
            *made,
            Phase("measured", "answer the same held-out problems with all of them", self.answer),
            Phase("effort", "E1: what effort buys", self.write_effort),
            Phase("rewards", "E7: rewards against rejection sampling", self.write_rewards),
            Phase("model", "export the model of the first run with rewards", self.export_model),
        ]

    # ---- training --------------------------------------------------------------------------------

    def begin(self) -> None:
        """With the experts as they are: rewards, the control and the measurements begin here."""
        self.begun.export(self.out / "seeds", self.start)

    def export_model(self) -> None:
        self.begun.export(self.out / "rewards-1" / "train", self.model)
        print(f"try it: ossia chat {self.model} --effort high")

    def rewarded(self, number: int) -> rl.Config:
        """The run with rewards of this number."""
        config = self.config
        return rl.Config(
            task=self.tasks,
            model=str(self.start),
            steps=self.sizes.steps,
            sampling=self.sampling,
            objective=Objective(mask_cut=False),  # as the page's numbers were made
            evaluating=Evaluating(every=0),
            hyper=replace(config.rewards, seed=number),
        )

    @property
    def held(self) -> range:
        return range(1, self.sizes.held + 1)

    def held_short(self, number: int) -> rl.Config:
        """The same with a price for what thinks for too long, right or wrong."""
        plain = self.rewarded(number)
        return replace(plain, sampling=replace(plain.sampling, prices=self.config.held))

    def imitate(self, number: int) -> None:
        """Rejection sampling from the weights that the rewards began with, on the same kind of
        problems, at the same prices.
        """
        folder = self.out / f"control-{number}"
        if not (folder / rejection.COUNTS).exists():
            log = read_log(self.out / f"rewards-{number}" / "train")
            problems = Problems(
                tuple(own(task) for task in self.tasks), self.sampling.efforts, number
            )
            tokens = round(sum(line["sampled"] for line in log))
            model = self.begun.weights(self.start)
            sampling = replace(self.sampling, sampler=self.config.sampler)
            worth = rejection.rewarded(sampling)
            rejection.sample(model, self.begun.tokenizer, problems, sampling, tokens, folder, worth)
        run = self.control(number)
        train(run, watchers=watchers_of(run))

    def control(self, number: int) -> Run:
        folder = self.out / f"control-{number}"
        return self.imitating(f"control {number}", folder, number, self.start)

    # ---- measuring -------------------------------------------------------------------------------

    def look(self) -> None:
        """The gate, printed, and in `gate/gate.md`. It is shut where it is shut: the run goes on,
        and says so.
        """
        sizes = self.sizes
        rows = self.answers(self.start, sizes.gate, max(2, sizes.each // 2), sizes.answers)
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
        sizes = self.sizes
        folder = self.out / "measured"
        for name, weights in self._models().items():
            if not (folder / f"{name}.jsonl").exists():
                rows = self.answers(weights, sizes.measured, sizes.each, sizes.answers)
                measure.write(rows, folder / f"{name}.jsonl")
        forced = folder / "forced.json"
        if not forced.exists():
            names = {"seeds": "seeds", "rewards": "rewards-1"}
            write_json(
                forced,
                {shown: self._forced(self._models()[name]) for shown, name in names.items()},
            )

    def _models(self) -> dict[str, Path]:
        found = {"seeds": self.start}
        for kind in ("rewards", "control"):
            for n in self.runs:
                found[f"{kind}-{n}"] = self.out / f"{kind}-{n}" / "train"
        return found | {f"held-{n}": self.out / f"held-{n}" / "train" for n in self.held}

    def _forced(self, weights: Path) -> dict[str, float]:
        """Accuracy at high effort by tokens of thought, then an answer."""
        problems = measure.held_out(self.config.kind, self.sizes.measured, self.sizes.forced)
        asks = [ask for ask in measure.asks_of(problems) if ask.effort is Effort.HIGH]
        model = self.begun.weights(weights)
        sampler = Sampler(
            model, self.begun.tokenizer, stop_ids(self.begun.tokenizer), self.sampling
        )
        try:
            groups = sampler.draw(asks, self.sizes.answers, version=0)
        finally:
            sampler.close()
        found = {}
        for budget in self.sizes.budgets:
            right = forcing.forced(model, self.begun.tokenizer, asks, groups, budget)
            found[str(budget)] = sum(right) / len(right)
        return found

    # ---- what was found --------------------------------------------------------------------------

    def _logs(self) -> list[list[dict[str, float]]]:
        return [read_log(self.out / f"rewards-{n}" / "train") for n in self.runs]

    def write_effort(self) -> None:
        after = [self.rows(f"rewards-{n}") for n in self.runs]
        forced = json.loads((self.out / "measured" / "forced.json").read_text(encoding="utf-8"))
        held = [self.rows(f"held-{n}") for n in self.held]
        runs = [self.learned(self.held_short(n), f"held-{n}") for n in self.held]
        found = effort.result(
            self.rows("seeds"),
            after,
            held,
            forced,
            self._words(),
            self._budget(runs),
            [*self._notes(), self._held_note()],
        )
        results.write(found, self.out / "effort")
        print(found.sentence)

    def write_rewards(self) -> None:
        after = [self.rows(f"rewards-{n}") for n in self.runs]
        control = [self.rows(f"control-{n}") for n in self.runs]
        notes = [*self._notes(), *self._control_notes()]
        found = rewards.result(
            self.rows("seeds"),
            after,
            control,
            self._logs(),
            self.config.prices,
            self._words(),
            self._budget([]),
            notes,
        )
        results.write(found, self.out / "rewards")
        print(found.sentence)

    def _budget(self, more: Sequence[Run]) -> results.Budget:
        runs = [self.learned(self.rewarded(n), f"rewards-{n}") for n in self.runs]
        controls = [self.control(n) for n in self.runs]
        return self.spent([self.seeding("seeds", self.sizes.seeds), *runs, *controls, *more])

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

    def _held_note(self) -> str:
        price = self.config.held.low
        return (
            f"Held short: the same rewards, and at low effort more than {price.most} tokens of "
            f"thought cost {price.over:g} in proportion up to twice as many, right or wrong "
            f"({self.sizes.held} run{'s' if self.sizes.held > 1 else ''}). Added after the plain "
            "rewards had been measured: they failed the criteria about low effort."
        )

    def _control_notes(self) -> list[str]:
        found = []
        for n in self.runs:
            path = self.out / f"control-{n}" / rejection.COUNTS
            counts = json.loads(path.read_text(encoding="utf-8"))
            found.append(
                f"Control {n}: {counts['sampled']:,} tokens sampled "
                f"({SAMPLED[self.config.sampler]}), {counts['answers']:,} answers, "
                f"{counts['kept']:,} rewarded ones kept ({counts['different']:,} different), "
                f"learned at a rate of {self.config.control:g}."
            )
        found.append(
            "A control of a first run kept each different answer once and learned them twice, and "
            "was weaker (docs/log.md); so what is rewarded is kept as often as it was answered."
        )
        return found
