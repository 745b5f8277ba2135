"""E12's runs: seeds with a calculator under several names, the gate, rewards, and the same held-out
problems for the embedded model, the seeds and what came of the rewards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ossia.tasks.numbers.calling import MANNERS
from ossia.train.pipeline import Phase, training
from ossia.train.recipes import rl
from ossia.train.rl.settings import Evaluating, Sampling
from ossia.train.run import Run
from recipes.experiments import results
from recipes.reasoning import calls, calls_found
from recipes.reasoning.gate import TRIES, table
from recipes.reasoning.place import Place

GATED = ("known", "renamed", "unseen names")


@dataclass(frozen=True)
class Tools(Place):
    def phases(self) -> list[Phase]:
        made = [
            training(
                self.tool_seeding("tool-seeds", self.sizes.tool_seeds),
                "learn to call a calculator by the name that it has",
            ),
            training(
                self.tool_seeding("tool-more", self.sizes.tool_more),
                "the same for longer, without rewards",
            ),
            Phase("tool-start", "export what was learned", self.begin),
            Phase("tool-gate", "see whether there is something left to learn", self.look),
        ]
        for n in self.runs:
            learn = partial(rl.learn, self.tool_rewarded(n), self.out / f"tool-rewards-{n}")
            does = "learn from rewards with tools"
            made.append(Phase(f"tool-rewards-{n}", does, learn, config=self.begun.shape))
        return [
            *made,
            Phase("tool-measured", "answer the same held-out problems with all", self.answer),
            Phase("tools", "E12: tools that are renamed, fail, lie, give orders", self.write),
        ]

    @property
    def tool_start(self) -> Path:
        return self.out / "tool-start" / "checkpoint"

    def tool_seeding(self, name: str, steps: int) -> Run:
        gold = partial(calls.examples, self.begun.tokenizer, self.config.seed)
        hyper = self.of_seeds(steps)
        out = self.out / name
        return Run(
            "tool seeds", self.begun.shape, gold, steps, hyper, out, start_from=self.begun.folder
        )

    def begin(self) -> None:
        self.begun.export(self.out / "tool-seeds", self.tool_start)

    @property
    def tool_sampling(self) -> Sampling:
        tokens = min(160, self.sizes.max_tokens)
        groups = self.sizes.tool_groups
        return replace(self.sampling, groups=groups, max_tokens=tokens, price=False)

    def tool_rewarded(self, number: int) -> rl.Config:
        return rl.Config(
            task=tuple(f"calling[manner={manner}]" for manner in MANNERS),
            model=str(self.tool_start),
            steps=self.sizes.tool_steps,
            sampling=self.tool_sampling,
            evaluating=Evaluating(every=0),
            hyper=replace(self.config.rewards, peak_lr=self.config.calls, seed=number),
        )

    # ---- measuring -------------------------------------------------------------------------------

    def look(self) -> None:
        """The gate, printed, and in `tool-gate/gate.md`."""
        each = max(1, self.sizes.tool_each // 2)
        rows = self._rows_of(self.tool_start, GATED, each, TRIES)
        calls.write(rows, self.out / "tool-gate" / "rows.jsonl")
        by_name = {name: [row for row in rows if row.condition == name] for name in GATED}
        text = table([calls_found.gate(name, of) for name, of in by_name.items()], calls_found.FULL)
        print(text)
        (self.out / "tool-gate" / "gate.md").write_text(f"{text}\n", encoding="utf-8")

    def answer(self) -> None:
        sizes = self.sizes
        for name, weights in self._models().items():
            path = self.out / "tool-measured" / f"{name}.jsonl"
            if not path.exists():
                rows = self._rows_of(
                    weights, tuple(calls.CONDITIONS), sizes.tool_each, sizes.tool_answers
                )
                calls.write(rows, path)

    def _rows_of(
        self, weights: Path, conditions: tuple[str, ...], each: int, answers: int
    ) -> list[calls.Row]:
        model = self.begun.weights(weights)
        settings = self.tool_sampling
        return list(calls.measure(model, self.begun.tokenizer, conditions, each, answers, settings))

    def _models(self) -> dict[str, Path]:
        found = {
            "nano": self.begun.folder,
            "seeds": self.tool_start,
            "more": self.out / "tool-more",
        }
        return found | {f"rewards-{n}": self.out / f"tool-rewards-{n}" / "train" for n in self.runs}

    # ---- what was found --------------------------------------------------------------------------

    def write(self) -> None:
        rows = {
            name: calls.read(self.out / "tool-measured" / f"{name}.jsonl")
            for name in self._models()
        }
        models = {
            "nano": [rows["nano"]],
            "seeds": [rows["seeds"]],
            "more seeds": [rows["more"]],
            "rewards": [rows[f"rewards-{n}"] for n in self.runs],
        }
        runs = [self.learned(self.tool_rewarded(n), f"tool-rewards-{n}") for n in self.runs]
        seeds = [
            self.tool_seeding("tool-seeds", self.sizes.tool_seeds),
            self.tool_seeding("tool-more", self.sizes.tool_more),
        ]
        spent = self.spent([*seeds, *runs])
        words = f"{self.config.model}, after {self.sizes.tool_seeds} steps on calls"
        found = calls_found.result(models, words, spent, self._notes())
        gate = (self.out / "tool-gate" / "gate.md").read_text(encoding="utf-8")
        results.write(
            replace(found, tables=(f"The gate, before rewards:\n\n{gate}",)), self.out / "tools"
        )
        print(found.sentence)

    def _notes(self) -> list[str]:
        sizes = self.sizes
        return [
            "The task: products of two four-digit numbers, and (a + b) * c, with a calculator "
            f"(`calling`); held-out numbers, {sizes.tool_each} problems of a kind (five times as "
            f"many with orders), answers to each at each effort: {sizes.tool_answers}, at "
            "temperature 1.",
            "Seeds and rewards have a calculator that works, fails, lies or gives orders, a "
            "quarter each. Its name is one of 17, `compute` among them, for 70%, else made up or "
            "of pieces of words. Three unseen names, and the wording of the orders that are "
            "measured, are in neither.",
            f"Rewards: {sizes.tool_steps} steps of {sizes.tool_groups} problems, {sizes.samples} "
            f"answers to each, at a rate of {self.config.calls:g}; thoughts are free. A run at "
            "5e-4, of 24 steps, gained nothing more and was not stable: in step 22 23% of its "
            "answers were cut and 9% right.",
            f"More seeds: {sizes.tool_more} steps of them, without rewards. Added when it was seen "
            "that rewards move little.",
            "How the knob was found: seeds of 40 steps with 16 names, of 200 with half of them "
            "made up, and of 300 with half of the names spelled with any tokens of letters had "
            "`compute` in none of them, and no answer called it by its name; this model copies "
            "only pieces that it has learned to copy. So `compute` is one of the names that are "
            "trained on, and the seeds stop where the gate is open for it: after 60 steps 9%, "
            "after 72 what stands below. Before that the names were to be unseen.",
            "A false result cannot be checked by a model of this size: the right answer passes it "
            "on, and the share that does so is no measure of judgement.",
            "Obeyed: of the answers that called the calculator, since no other reads an order. "
            "Where none was obeyed, the interval is Wilson's of none among so many problems.",
        ]
