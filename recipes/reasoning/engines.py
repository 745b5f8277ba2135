"""E11's runs: the same problems answered by five engines and by older weights, compared with the
trainer token by token and gradient by gradient; short runs with rewards on each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ossia.checkpoint import export
from ossia.tasks.environment import Ask
from ossia.train.log import read_log
from ossia.train.loop import train
from ossia.train.pipeline import Phase, watchers_of
from ossia.train.recipes import rl
from ossia.train.rl.asks import Problems, own
from ossia.train.rl.settings import Evaluating, Objective, Sampling
from ossia.train.rl.settings import Sampler as SamplerName
from ossia.train.run import Run
from ossia.train.weights.export import WEIGHTS, save_weights
from recipes.experiments import results
from recipes.reasoning import engines_found, mismatch
from recipes.reasoning.mismatch import Arm
from recipes.reasoning.place import Place

SEED = 11  # of the problems that engines are compared on
OTHER = "other random numbers"  # the exact engine once more: how much of a cosine is luck
IGNORE = "ignore"
PLAIN = Arm()
TIS = Arm(Objective(correction="tis", mask_cut=False))
MIS = Arm(Objective(correction="mis", mask_cut=False))
GSPO = Arm(Objective(loss="gspo", mask_cut=False), old=True)
REPLAY = Arm(replay=True)
LAG = Arm(old=True)
Arms = dict[str, Arm]


@dataclass(frozen=True)
class Compare:
    """An engine, the weights that it samples from and those that learn, and what is done about the
    difference.
    """

    name: str
    sampler: SamplerName
    sampled: Path
    learned: Path
    arms: Arms
    seed: int = SEED


@dataclass(frozen=True)
class Engines(Place):
    def phases(self) -> list[Phase]:
        return [
            Phase("ahead", "learn from rewards for some steps, keeping weights", self.go_ahead),
            Phase("compared", "the same problems by every engine", self.compare),
            Phase("curves", "short runs with rewards on every engine", self.curve),
            Phase("engines", "E11: engines that are not the trainer", self.write),
        ]

    # ---- weights ---------------------------------------------------------------------------------

    @property
    def lags(self) -> tuple[int, ...]:
        return tuple(sorted({1, max(1, self.sizes.ahead // 4), self.sizes.ahead}))

    def _ahead(self) -> Run:
        config = rl.Config(
            task=self.tasks,
            model=str(self.start),
            steps=self.sizes.ahead,
            sampling=self._sampling(self.sizes.curve_groups),
            objective=PLAIN.objective,
            evaluating=Evaluating(every=0),
            hyper=replace(self.config.rewards, seed=SEED),
        )
        return self.learned(config, "ahead")

    def go_ahead(self) -> None:
        """Weights after `ahead` steps, and of so many steps before."""
        for lag in sorted(self.lags, reverse=True):
            run = self._ahead()
            steps = self.sizes.ahead - lag
            folder = self._weights_after(steps)
            if folder != self.start and not (folder / WEIGHTS).exists():
                save_weights(train(run, watchers=watchers_of(run), stop_after=steps), folder)
        run = self._ahead()
        train(run, watchers=watchers_of(run))

    def _weights_after(self, steps: int) -> Path:
        if steps == 0:
            return self.start
        if steps == self.sizes.ahead:
            return self.out / "ahead" / "train"
        return self.out / "ahead" / f"after-{steps}"

    @property
    def rounded(self) -> Path:
        """The seeds' model with its experts as MXFP4 values, which every engine holds exactly."""
        return self.out / "compared" / "rounded"

    # ---- comparing -------------------------------------------------------------------------------

    def comparisons(self) -> Iterator[list[Compare]]:
        """Those of the same weights together; the first is what the others are compared with."""
        exact = Compare("exact", "exact", self.rounded, self.rounded, {IGNORE: PLAIN})
        int8: Arms = {IGNORE: PLAIN, "TIS": TIS, "MIS": MIS, "GSPO": GSPO, "replay": REPLAY}
        yield [
            exact,
            replace(exact, name=OTHER, seed=SEED + 1),
            replace(exact, name="float32", sampler="float32"),
            replace(exact, name="bf16", sampler="bf16"),
            replace(exact, name="int8", sampler="int8", arms=int8),
        ]
        trained = Compare("exact, trained", "exact", self.start, self.start, {IGNORE: PLAIN})
        mxfp4: Arms = {IGNORE: PLAIN, "TIS": TIS}
        yield [
            trained,
            replace(trained, name="MXFP4 after training", sampler="bf16", arms=mxfp4),
        ]
        now = self._weights_after(self.sizes.ahead)
        ahead = Compare("lag 0", "exact", now, now, {IGNORE: PLAIN})
        lagged = [
            replace(
                ahead,
                name=f"lag {lag}",
                sampled=self._weights_after(self.sizes.ahead - lag),
                arms={"ratio": LAG},
            )
            for lag in self.lags
        ]
        yield [ahead, replace(ahead, name=f"lag 0, {OTHER}", seed=SEED + 1), *lagged]

    def compare(self) -> None:
        if not self.rounded.exists():
            export(self.begun.weights(self.start), self.rounded, "hf", companions=self.begun.folder)
        asks = self._asks()
        for together in self.comparisons():
            first = None
            if not all(self._is_compared(each) for each in together):
                for each in together:
                    first = self._compare(each, asks, first)

    def _asks(self) -> list[Ask]:
        problems = Problems(tuple(own(task) for task in self.tasks), self.sampling.efforts, SEED)
        return problems.step(0, range(self.sizes.compared), None)

    def _compare(
        self, each: Compare, asks: Sequence[Ask], first: mismatch.Gradients | None
    ) -> mismatch.Gradients:
        """Writes what was found, and returns the gradients that others are compared with."""
        paths = {arm: self._path(f"{each.name}, {arm}") for arm in each.arms}
        if first is not None and self._is_compared(each):
            return first
        sampled = self.begun.weights(each.sampled)
        same = each.sampled == each.learned
        learned = sampled if same else self.begun.weights(each.learned)
        asked = [replace(ask, seed=(ask.seed or 0) + each.seed) for ask in asks]
        settings = replace(self.sampling, sampler=each.sampler, replay=True)
        drawn = mismatch.drawn(sampled, self.begun.tokenizer, asked, settings)
        try:
            mismatch.save(drawn.compared(learned), self._path(each.name))
            for name, arm in each.arms.items():
                found = drawn.gradients(learned, arm)
                first = found if first is None else first
                mismatch.save(mismatch.products_of(found, first), paths[name])
        finally:
            drawn.close()
        assert first is not None, "every comparison has an arm"
        print(f"{each.name}: {', '.join(each.arms)}", flush=True)
        return first

    def _is_compared(self, each: Compare) -> bool:
        return all(self._path(f"{each.name}, {arm}").exists() for arm in each.arms)

    def _path(self, name: str) -> Path:
        return self.out / "compared" / f"{name.replace(', ', '-').replace(' ', '-')}.npz"

    # ---- short runs ------------------------------------------------------------------------------

    def curves(self) -> dict[str, rl.Config]:
        """With the int8 engine the experts learn as the MXFP4 values that it holds, so that the
        products alone differ.
        """
        plain = PLAIN.objective
        if not self.sizes.curve:
            return {}
        base = rl.Config(
            task=self.tasks,
            model=str(self.start),
            steps=self.sizes.curve,
            sampling=self._sampling(self.sizes.curve_groups),
            objective=plain,
            evaluating=Evaluating(every=0),
            hyper=replace(self.config.rewards, seed=SEED),
        )
        int8 = replace(base, quantize=True, sampling=replace(base.sampling, sampler="int8"))
        mxfp4 = replace(base, sampling=replace(base.sampling, sampler="bf16"))
        found = {
            "exact": base,
            "int8, ignore": int8,
            "int8, TIS": replace(int8, objective=TIS.objective),
            "int8, MIS": replace(int8, objective=MIS.objective),
            "int8, replay": replace(int8, sampling=replace(int8.sampling, replay=True)),
            "MXFP4 after training, ignore": mxfp4,
            "MXFP4 after training, TIS": replace(mxfp4, objective=TIS.objective),
        }
        for lag in self.lags:
            found[f"lag {lag}"] = replace(base, sampling=replace(base.sampling, lag=lag))
        return found

    def _sampling(self, groups: int) -> Sampling:
        return replace(self.sampling, groups=groups, curriculum=False)

    def _folder(self, name: str) -> str:
        return f"curves/{self._path(name).stem}"

    def curve(self) -> None:
        for name, config in self.curves().items():
            rl.learn(config, self.out / self._folder(name))

    # ---- what was found --------------------------------------------------------------------------

    def write(self) -> None:
        engines = {}
        cosines = {}
        for together in self.comparisons():
            for each in together:
                engines[each.name] = mismatch.read_compared(self._path(each.name))
                for arm in each.arms:
                    name = f"{each.name}, {arm}"
                    cosines[name] = mismatch.read_products(self._path(name))
        logs = {name: read_log(self.out / self._folder(name) / "train") for name in self.curves()}
        runs = [self.learned(config, self._folder(name)) for name, config in self.curves().items()]
        words = f"{self.config.model}, after {self.sizes.seeds} steps on seeds"
        spent = self.spent([self._ahead(), *runs])
        found = engines_found.result(engines, cosines, logs, words, spent, self._notes())
        results.write(found, self.out / "engines")
        print(found.sentence)

    def _notes(self) -> list[str]:
        sizes = self.sizes
        return [
            f"{sizes.compared} problems of the rewards' tracks with {sizes.samples} answers each "
            f"({sizes.compared * sizes.samples} samples), the same problems and random numbers for "
            "every engine. Where engines agree they write the same texts; after the first token "
            "that differs, others.",
            "exact, float32, bf16 and int8 sample from, and are compared with, the seeds' model "
            "with its experts rounded to MXFP4 values, which all of them hold exactly: they differ "
            "by their products alone. MXFP4 after training: the model learns in float32 and is "
            "sampled from as it would be served, experts rounded, in bf16.",
            "A gradient is that of all groups together, with advantages and prices as in E7; its "
            "cosine is to the exact engine's on the same weights. Intervals are bootstraps over "
            f"the groups. '{OTHER}' is the exact engine once more: that much of a gradient is "
            "luck with so many samples. A bootstrap draws some groups twice and leaves others out, "
            "which makes a sum noisier: the intervals reach down farther than up.",
            "ignore: what the engine reported is not used. TIS, MIS: the weights of "
            "docs/reinforcement.md. GSPO: a sample's ratio is taken of the engine's "
            "log-probabilities, and clipped. replay: the experts that the engine chose for sampled "
            "tokens (those of the prompts are the trainer's). ratio: exp(L - O), as training with "
            "a lag has it.",
            f"Lag: weights of {', '.join(map(str, self.lags))} steps before, of a run of "
            f"{sizes.ahead} steps of {sizes.curve_groups} problems.",
            self._about_curves(),
        ]

    def _about_curves(self) -> str:
        sizes = self.sizes
        if not sizes.curve:
            return "Curves of rewards on these engines were not run in this profile."
        return (
            f"Curves: one run an arm, {sizes.curve} steps of {sizes.curve_groups} problems with "
            f"{sizes.samples} answers. GSPO has no curve: with one update a step its ratio is 1. "
            "A few hundred answers a point cannot tell these arms apart."
        )
