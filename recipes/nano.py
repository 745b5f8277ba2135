"""nano: the embedded checkpoint, made from nothing on two cores in about half an hour. No downloads.

    python recipes/nano.py            make it: vocabulary, pre-training, fine-tuning, MXFP4, evaluation, export
    python recipes/nano.py --smoke    the same in two minutes, to see that everything works (the model is useless)

What happens, in order: a byte-level vocabulary of 2,048 tokens is learned from generated text; the model reads
generated documents (equations, worked solutions, stories); then conversations in the Harmony format, of which it learns
the last turn; for the last part the experts are trained as the MXFP4 values they will be stored as; the result is
exported in the published layout and measured on held-out problems. A run that is killed goes on where it was.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other on a shared machine

from rich.progress import Progress

from ossia.checkpoint import export
from ossia.config import ModelConfig, account
from ossia.data import conversations, documents, drill
from ossia.data.packing import Example
from ossia.evals import cases
from ossia.harmony import Effort, Message, render_for_training, render_message
from ossia.llm import load
from ossia.model import Transformer
from ossia.respond import evaluate
from ossia.tasks import TASKS, problems
from ossia.tokenizer import HARMONY_WORDS, Tokenizer, train_tokenizer
from ossia.train.loop import Hyperparameters, Run, Stage, train

VOCABULARY_SAMPLE = 12_000  # documents and conversations each


@dataclass(frozen=True)
class Recipe:
    pretrain_steps: int = 1500
    sft_steps: int = 1200
    qat_steps: int = 600
    polish_steps: int = 300  # the same again at a quarter of the rate, mostly whole conversations
    hyper: Hyperparameters = Hyperparameters(tokens_per_step=4096, peak_lr=8e-3)  # noqa: RUF009 - frozen
    seed: int = 1


SMOKE = Recipe(pretrain_steps=20, sft_steps=20, qat_steps=10, polish_steps=5)


def make_tokenizer(path: Path, recipe: Recipe) -> Tokenizer:
    """The vocabulary, learned from documents and from every text that conversations are rendered from."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        vocab_size = ModelConfig.preset("nano").vocab_size
        with Progress() as bar:
            texts = bar.track(vocabulary_texts(recipe), total=None, description="texts for the vocabulary")
            train_tokenizer(texts, vocab_size, words=HARMONY_WORDS).save(path)
    return Tokenizer.from_file(path)


def vocabulary_texts(recipe: Recipe) -> Iterator[str]:
    for text, _ in islice(documents(recipe.seed), VOCABULARY_SAMPLE):
        yield text
    for conversation, _ in islice(conversations(recipe.seed), VOCABULARY_SAMPLE):
        for message in conversation.messages:
            yield message_text(message, conversation.has_function_tools)


def message_text(message: Message, function_tools: bool) -> str:
    """The words of a message as they will be encoded, header and all."""
    byte_level = _bytes_tokenizer()
    ids = render_message(message, byte_level, function_tools=function_tools)
    return byte_level.decode([i for i in ids if not byte_level.is_special(i)])


_BYTES: list[Tokenizer] = []


def _bytes_tokenizer() -> Tokenizer:
    if not _BYTES:
        _BYTES.append(train_tokenizer([], 256 + 9))
    return _BYTES[0]


def document_examples(tokenizer: Tokenizer, seed: int, start: int) -> Iterator[tuple[Example, int]]:
    """Documents, all of them learned; among them repetitions, many at first."""
    begin, end = tokenizer.special("<|startoftext|>"), tokenizer.special("<|endoftext|>")
    for text, state in documents(seed, start=start):
        rng = Random(f"{seed}:repetition:{state}")
        if rng.random() < (0.3 if state < 12_000 else 0.08):
            yield repetition(tokenizer, rng, begin, end), state
        else:
            ids = [begin, *tokenizer.encode(text), end]
            yield Example(ids, [False] + [True] * (len(ids) - 1)), state


def repetition(tokenizer: Tokenizer, rng: Random, begin: int, end: int) -> Example:
    """Random tokens twice, the second time to be learned: the shortest way to attention that can copy
    (Olsson et al., In-context Learning and Induction Heads, arXiv 2209.11895)."""
    digits = [tokenizer.encode(str(n))[0] for n in range(10)]
    ordinary = len(tokenizer.vocabulary)
    drawn = [rng.choice(digits) if rng.random() < 0.3 else rng.randrange(ordinary) for _ in range(rng.randrange(4, 45))]
    ids = [begin, *drawn, begin, *drawn, end]
    return Example(ids, [False] * (len(drawn) + 2) + [True] * (len(drawn) + 1))


def conversation_examples(tokenizer: Tokenizer, seed: int, start: int, drills: float) -> Iterator[tuple[Example, int]]:
    """Conversations, of which the last turn is learned; a share of them drills, which are learned whole."""
    for conversation, state in conversations(seed, start=start):
        if Random(f"{seed}:drill:{state}").random() < drills:
            rendered = render_for_training(drill(seed, "train", state), tokenizer, drop_analysis=False)
        else:
            rendered = render_for_training(conversation, tokenizer, last_turn_only=True)
        yield Example(rendered.ids, rendered.mask), state


def make_run(recipe: Recipe, tokenizer: Tokenizer, out: Path) -> Run:
    seed = recipe.seed
    stages = (
        Stage("pretrain", lambda start: document_examples(tokenizer, seed, start), recipe.pretrain_steps),
        Stage("sft", lambda start: conversation_examples(tokenizer, seed, start, 0.6), recipe.sft_steps),
        Stage(
            "qat", lambda start: conversation_examples(tokenizer, seed + 1, start, 0.4), recipe.qat_steps, quantize=True
        ),
        Stage(
            "polish",
            lambda start: conversation_examples(tokenizer, seed + 2, start, 0.2),
            recipe.polish_steps,
            quantize=True,
            restart=recipe.hyper.peak_lr / 4,
        ),
    )
    config = replace(ModelConfig.preset("nano"), vocab_size=tokenizer.vocab_size)
    return Run(config, stages, replace(recipe.hyper, seed=seed), out)


def keep_memory() -> None:
    """Let glibc reuse big blocks instead of returning them to the kernel after every step: about 10% faster."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8
        libc.mallopt(m_arena_max, 1)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def write_model(model: Transformer, tokenizer: Tokenizer, out: Path) -> None:
    """The released checkpoint in `out/model`: Hugging Face layout, experts in MXFP4, greedy sampling recommended."""
    extras = out / "extras"
    extras.mkdir(exist_ok=True)
    tokenizer.save(extras / "tokenizer.json")
    stops = [tokenizer.special(name) for name in ("<|return|>", "<|call|>", "<|endoftext|>")]
    generation = {"do_sample": False, "eos_token_id": stops, "bos_token_id": tokenizer.special("<|startoftext|>")}
    (extras / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    export(model, out / "model", "hf", overwrite=True, companions=extras)
    print(f"wrote {out / 'model'}: copy it to src/ossia/assets/nano to embed it")


def measure(folder: Path, samples: int) -> None:
    """Held-out accuracy of the exported checkpoint per task and effort, printed and kept beside it."""
    llm = load(folder, dtype="float32")
    held_out = [problem for task in TASKS for problem in problems(task, samples, split="held_out")]
    asked = list(cases(held_out, tuple(Effort)))
    with Progress() as bar:
        task = bar.add_task("held-out problems", total=len(asked))
        report, cut = evaluate(
            llm, asked, llm.params(max_tokens=512), progress=lambda done, _: bar.update(task, completed=done)
        )
    text = f"{report}\n\n{len(asked)} answers, {cut} cut short at 512 tokens\n"
    (folder.parent / "report.md").write_text(text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/nano"), help="folder of the run (default: runs/nano)")
    parser.add_argument("--smoke", action="store_true", help="a run of two minutes, to see that everything works")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run in the same folder")
    parser.add_argument("--samples", type=int, default=100, help="held-out problems a task and effort (default: 100)")
    args = parser.parse_args()
    if args.fresh:
        shutil.rmtree(args.out, ignore_errors=True)
    recipe = SMOKE if args.smoke else Recipe()
    keep_memory()
    tokenizer = make_tokenizer(args.out / "tokenizer.json", recipe)
    began = time.monotonic()
    model = train(make_run(recipe, tokenizer, args.out))
    print(f"trained {account(model.config).total:,} parameters in {(time.monotonic() - began) / 60:.1f} minutes")
    write_model(model, tokenizer, args.out)
    measure(args.out / "model", 3 if args.smoke else args.samples)


if __name__ == "__main__":
    main()
