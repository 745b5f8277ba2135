"""nano: the embedded checkpoint, made from nothing on two cores. No downloads.

    ossia train recipes/nano.py --out runs/nano                    the standard profile
    ossia train recipes/nano.py --out runs/nano profile=full       three times as much of everything
    ossia train recipes/nano.py --out runs/smoke profile=smoke     every stage on a micro model

What happens, in order: a byte-level vocabulary is learned from generated text; generated documents
pass a filter that takes out what should not be learned, and become shards; a fresh model learns to
copy and to look up random tokens, then reads the shards, in windows of 256 tokens; its context is
extended to 2,048 with YaRN; it learns conversations in the Harmony format, and with them what to
say out of its depth, a policy on a fictional hazard with the rule in its thoughts, and whom to
obey; from the middle of it on, its experts are trained as the MXFP4 values they will be stored as;
then come rewards at three efforts, by judges that see no thoughts; the result is exported in the
published layout, measured on held-out problems beside the embedded model, and spoken to a thousand
times. A run that is killed goes on where it was.
"""

from __future__ import annotations

import ctypes
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # a recipe is run by its path; its parts are a package beside it

from ossia.checkpoint import Layout, export
from ossia.config import ModelConfig
from ossia.data import conversations, copying, corpus, drill, text
from ossia.data.copying import Curriculum
from ossia.data.filter import HazardFilter
from ossia.data.packing import Example, ExamplesFrom, State
from ossia.data.reading import ShardExamples, mix
from ossia.data.shards import Shards, write_shards
from ossia.files import replace_file
from ossia.harmony import render_for_training
from ossia.tasks import TASKS, example_random
from ossia.tasks.long.needles import needles_document
from ossia.tasks.safety.hazard import moonglow
from ossia.tasks.world.country import World, world
from ossia.tokenizer import HARMONY_WORDS, Tokenizer, train_tokenizer
from ossia.train.length import scaled
from ossia.train.pipeline import Phase, training
from ossia.train.recipes import rl
from ossia.train.recipes.sft import base_folder
from ossia.train.rl.asks import Problems
from ossia.train.rl.settings import Evaluating, Objective, Sampling
from ossia.train.run import Run
from ossia.train.settings import Hyperparameters
from ossia.train.weights.export import load_weights
from recipes.aligning import counting
from recipes.aligning.lessons import Lesson, examples
from recipes.embedded import beyond, comparing
from recipes.embedded.settings import OF_REWARDS, PRICES, PROFILES, SHORTEST, Sizes
from recipes.embedded.settings import Config as Config
from recipes.embedded.texts import as_document, labelled, vocabulary_texts

LESSONS = Lesson("beyond", beyond.drawn, 1.0)
UNSEEN = ("policy jailbreak", "jailbreaks", "hierarchy unseen")  # measured, never trained on


def phases(config: Config, out: Path) -> list[Phase]:
    """What is done, in order; every phase reads what the ones before have left in `out`."""
    keep_memory()
    make = Recipe(config, out)
    return [
        Phase("vocabulary", "learn a byte-level vocabulary from generated text", make.vocabulary),
        Phase(
            "filter", "fit and measure the filter of what should not be learned", make.hazard_filter
        ),
        Phase("corpus", "generate documents, filter them, write them as shards", make.shards),
        training(make.copying, "learn to copy and to look up random tokens", context=64),
        training(make.pretraining, "read the shards, in windows of the short context", context=128),
        training(
            make.extension, "read documents of up to the long context, with YaRN", context=1024
        ),
        training(
            make.fine_tuning,
            "learn conversations in Harmony, what is beyond it, a policy, whom to obey",
            context=256,
        ),
        training(make.quantized, "the same, with the experts seen through MXFP4", context=256),
        Phase("start", "export these weights, to begin with in what follows", make.export_start),
        Phase(
            "rewards",
            "learn from rewards at three efforts; no judge sees thoughts",
            make.learn_from_rewards,
            config=make.long,
        ),
        Phase("model", "export the checkpoint, experts in MXFP4", make.export),
        Phase(
            "evaluation",
            "answer held-out problems at three efforts, beside the embedded model",
            make.measure,
        ),
        Phase("counted", "count the answers to small talk that never end", make.count),
    ]


@dataclass(frozen=True)
class Recipe:
    """The runs and the work between them."""

    config: Config
    out: Path

    @property
    def sizes(self) -> Sizes:
        return PROFILES[self.config.profile]

    @property
    def short(self) -> ModelConfig:
        """The architecture with the context that it is pre-trained at."""
        preset = ModelConfig.preset(self.sizes.model)
        return scaled(preset, preset.initial_context_length, "none")

    @property
    def long(self) -> ModelConfig:
        return ModelConfig.preset(self.sizes.model)

    @cached_property
    def country(self) -> World:
        return world(0, self.config.world_size)

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(self.out / "vocabulary" / "tokenizer.json")

    # ---- text ------------------------------------------------------------------------------------

    def vocabulary(self) -> None:
        texts = vocabulary_texts(self.config.seed, self.sizes.texts, self.country)
        learned = train_tokenizer(texts, self.short.vocab_size, words=HARMONY_WORDS)
        learned.save(self.out / "vocabulary" / "tokenizer.json")

    def hazard_filter(self) -> None:
        seed = self.config.seed
        texts, labels = labelled(seed, "train")
        made = HazardFilter.fit(texts, labels, blocklist=moonglow().blocklist, seed=seed)
        made.save(self.out / "filter")
        report = made.report(*labelled(seed, "held_out"))  # in wordings that it was not fitted on
        (self.out / "filter" / "report.md").write_text(f"{report}\n")
        (self.out / "filter" / "report.json").write_text(
            json.dumps(report.as_json(), indent=2) + "\n"
        )

    def shards(self) -> None:
        """All documents but those that the filter removes. What was removed, by corpus and label,
        is counted.
        """
        removes = HazardFilter.load(self.out / "filter")
        removed: dict[str, int] = {}

        def kept() -> Iterator[list[int]]:
            tokenizer = self.tokenizer
            for document, _ in islice(
                corpus.documents(self.config.seed, self.country), self.sizes.documents
            ):
                if removes.keep(document.text):
                    yield as_document(tokenizer, document.text)
                else:
                    name = f"{document.corpus}, {document.label}"
                    removed[name] = removed.get(name, 0) + 1

        write_shards(kept(), self.out / "corpus", self.tokenizer, overwrite=True)
        (self.out / "corpus" / "removed.json").write_text(json.dumps(removed, indent=2) + "\n")

    # ---- training --------------------------------------------------------------------------------

    @property
    def copying(self) -> Run:
        """Attention that finds things, before there is anything to read."""
        hyper = replace(self.config.hyper, decay=0.3, floor=0.25)
        return self._run(
            "copying",
            self.short,
            self.sizes.copying,
            partial(self._random_tokens, Curriculum()),
            hyper,
        )

    @property
    def pretraining(self) -> Run:
        hyper = replace(self.config.hyper, decay=0.4, floor=0.25)
        return self._run(
            "pretrain", self.short, self.sizes.pretrain, self._pages, hyper, after="copying"
        )

    @property
    def extension(self) -> Run:
        """Long documents; the angles of positions scaled. At a quarter of the rate: nothing is to
        be forgotten.
        """
        hyper = replace(
            self.config.hyper,
            tokens_per_step=8192,
            longest=self.long.max_context_length,
            peak_lr=self._rate(0.25),
        )
        return self._run(
            "extend", self.long, self.sizes.extend, self._long_documents, hyper, after="pretrain"
        )

    @property
    def fine_tuning(self) -> Run:
        hyper = replace(self.config.hyper, peak_lr=self._rate(0.75), decay=0.6, floor=0.2)
        return self._run(
            "sft", self.long, self.sizes.sft, self._first_lessons, hyper, after="extend"
        )

    @property
    def quantized(self) -> Run:
        hyper = replace(self.config.hyper, peak_lr=self._rate(0.5), decay=0.9, floor=0.02)
        run = self._run(
            "quantized", self.long, self.sizes.quantized, self._last_lessons, hyper, after="sft"
        )
        return replace(run, quantize=True)

    @property
    def rewarded(self) -> rl.Config:
        """What is cut counts as wrong: an answer has to end. Every second problem is one of the
        tasks that nano is for.
        """
        sizes = self.sizes
        return rl.Config(
            task=(*TASKS, *beyond.MIXTURE),
            model=str(self.start),
            steps=sizes.rewards,
            sampling=Sampling(
                groups=sizes.groups,
                samples=sizes.answers,
                max_tokens=sizes.longest,
                prices=PRICES,
            ),
            objective=Objective(kl=0.01, mask_cut=False),
            evaluating=Evaluating(every=0),
            quantize=True,
            hyper=replace(OF_REWARDS, seed=self.config.seed),
        )

    def rewarded_problems(self) -> Problems:
        asked = rl.problems_of(self.rewarded)
        return replace(asked, sides=(len(TASKS), len(beyond.MIXTURE)))

    def learn_from_rewards(self) -> None:
        rl.learn(self.rewarded, self.out / "rewards", self.rewarded_problems())

    def _rate(self, share: float) -> float:
        return self.config.hyper.peak_lr * share

    def _run(
        self,
        name: str,
        config: ModelConfig,
        steps: int,
        examples: ExamplesFrom,
        hyper: Hyperparameters | None = None,
        after: str | None = None,
    ) -> Run:
        hyper = replace(hyper or self.config.hyper, seed=self.config.seed)
        config = replace(config, vocab_size=self.long.vocab_size)
        start = None if after is None else self.out / after
        return Run(name, config, examples, steps, hyper, self.out / name, start_from=start)

    # ---- examples --------------------------------------------------------------------------------

    def _random_tokens(
        self, curriculum: Curriculum, state: State
    ) -> Iterator[tuple[Example, State]]:
        tokenizer = self.tokenizer
        stop = tokenizer.encode(".")[-1]
        marks = copying.Marks(
            tokenizer.special("<|startoftext|>"), tokenizer.special("<|endoftext|>"), stop
        )
        ordinary = len(tokenizer.vocabulary)
        return copying.examples(self.config.seed, ordinary, marks, curriculum, state)

    def _pages(self, state: State) -> Iterator[tuple[Example, State]]:
        """The shards; every eighth token one of the random ones, so that looking things up is not
        forgotten.
        """
        pages = ShardExamples(
            Shards(self.out / "corpus"), self.short.max_context_length, self.config.seed
        )
        random = partial(self._random_tokens, copying.GROWN)
        sources: dict[str, ExamplesFrom] = {"pages": pages, "random": random}
        return mix(sources, {"pages": 7, "random": 1})(state)

    def _long_documents(self, state: State) -> Iterator[tuple[Example, State]]:
        """Many needles in documents of every length up to the long context, and some of the usual
        pages.
        """
        pages = ShardExamples(
            Shards(self.out / "corpus"), self.short.max_context_length, self.config.seed + 1
        )
        return mix(
            {"needles": partial(self.needles, SHORTEST), "pages": pages}, {"needles": 4, "pages": 1}
        )(state)

    def needles(self, shortest: int, state: State) -> Iterator[tuple[Example, State]]:
        """Documents of `shortest` tokens up to the long context, every length as likely as twice
        it.
        """
        tokenizer, index = self.tokenizer, state or 0
        longest = self.long.max_context_length - 2
        while True:
            rng = example_random(self.config.seed, "long", index)
            length = round(shortest * (longest / shortest) ** rng.random())
            text = needles_document(
                rng, lambda part: len(tokenizer.encode(part)), length, self.country
            )
            ids = as_document(tokenizer, text)
            index += 1
            yield Example(ids, [False] + [True] * (len(ids) - 1)), index

    def _conversations(
        self, part: int, drills: float, state: State
    ) -> Iterator[tuple[Example, State]]:
        """Conversations, of which the last turn is learned; a share of them drills, which are
        learned whole.
        """
        tokenizer, seed = self.tokenizer, self.config.seed + part
        for conversation, index in conversations(seed, start=state or 0):
            if Random(f"{seed}:drill:{index}").random() < drills:
                rendered = render_for_training(
                    drill(seed, "train", index), tokenizer, drop_analysis=False
                )
            else:
                rendered = render_for_training(conversation, tokenizer, last_turn_only=True)
            yield Example(rendered.ids, rendered.mask), index

    def _beyond(self, part: int, state: State) -> Iterator[tuple[Example, State]]:
        return examples(LESSONS, self.tokenizer, self.config.seed + part, state)

    def _first_lessons(self, state: State) -> Iterator[tuple[Example, State]]:
        sources = {
            "conversations": partial(self._conversations, 0, 0.5),
            "beyond": partial(self._beyond, 0),
        }
        return mix(sources, {"conversations": 2, "beyond": 1})(state)

    def _last_lessons(self, state: State) -> Iterator[tuple[Example, State]]:
        """More of them; some are pages of single steps of arithmetic, where most mistakes
        begin.
        """
        sources: dict[str, ExamplesFrom] = {
            "conversations": partial(self._conversations, 1, 0.2),
            "beyond": partial(self._beyond, 1),
            "steps": self._single_steps,
        }
        return mix(sources, {"conversations": 12, "beyond": 5, "steps": 3})(state)

    def _single_steps(self, state: State) -> Iterator[tuple[Example, State]]:
        tokenizer, index = self.tokenizer, state or 0
        while True:
            ids = as_document(
                tokenizer, text.draw(example_random(self.config.seed, "steps", index), text.STEPS)
            )
            index += 1
            yield Example(ids, [False] + [True] * (len(ids) - 1)), index

    # ---- the result ------------------------------------------------------------------------------

    @property
    def start(self) -> Path:
        return self.out / "start" / "checkpoint"

    def export_start(self) -> None:
        """With the experts as they are trained, not yet as they are stored."""
        self._export("quantized", self.start, "hf-bf16")

    @property
    def checkpoint(self) -> Path:
        return self.out / "model" / "checkpoint"

    def export(self) -> None:
        """The released checkpoint: Hugging Face layout, experts in MXFP4, greedy sampling
        recommended.
        """
        self._export("rewards/train", self.checkpoint, "hf")

    def _export(self, trained: str, place: Path, layout: Layout) -> None:
        tokenizer, extras = self.tokenizer, self.out / "vocabulary" / "extras"
        extras.mkdir(exist_ok=True)
        tokenizer.save(extras / "tokenizer.json")
        stops = [tokenizer.special(name) for name in ("<|return|>", "<|call|>", "<|endoftext|>")]
        generation = {
            "do_sample": False,
            "eos_token_id": stops,
            "bos_token_id": tokenizer.special("<|startoftext|>"),
        }
        replace_file(extras / "generation_config.json", json.dumps(generation, indent=2) + "\n")
        model = load_weights(self.long, self.out / trained)
        export(model, place, layout, overwrite=True, companions=extras)

    def measure(self) -> None:
        """Held-out accuracy of the exported checkpoint per task and effort, in `report.md`; of the
        embedded model on the same problems, and the difference, in `compared.md`.
        """
        tasks = (*TASKS, *beyond.MIXTURE, *UNSEEN)
        place, samples = self.out / "evaluation", self.sizes.samples
        ours, ends = comparing.answered(self.checkpoint, tasks, samples)
        replace_file(place / "report.md", f"{ours}\n\n{ends}\n")
        theirs, their_ends = comparing.answered(base_folder("nano"), tasks, samples)
        parts = [
            "## The embedded model",
            f"{theirs}\n\n{their_ends}",
            "## This one",
            f"{ours}\n\n{ends}",
            "## The difference, in points",
            comparing.compared(theirs, ours),
        ]
        told = "\n\n".join(parts)
        replace_file(place / "compared.md", f"{told}\n")
        print(told)

    def count(self) -> None:
        place = self.out / "counted"
        counting.report(self.checkpoint, self.sizes.messages, self.config.seed, place)


def keep_memory() -> None:
    """Let glibc reuse big blocks instead of returning them to the kernel after every step: about
    10% faster.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8
        libc.mallopt(m_arena_max, 1)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
