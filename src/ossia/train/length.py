"""Context extension: the configs of a staged schedule, and two measures of what a model makes of a
long text.

A model is pre-trained at `initial_context_length` L0; to read L tokens its rotary angles are scaled
by s = L / L0 under one of the methods of model/rope.py, without or with some steps of training at
that length. What schedule gpt-oss had is not public. YaRN's own trained 400 steps at s = 16 and 200
more at s = 32 (arXiv 2309.00071, sec. 4.1); DeepSeek-V3's 1000 steps at 32k and 1000 at 128k (arXiv
2412.19437, sec. 4.3).

Knows models and token ids; of texts only that a tokenizer and a maker of needles are handed in.

T tokens, R rows that are scored, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from ossia.batch import Batch
from ossia.config import ModelConfig
from ossia.errors import ConfigError
from ossia.model import Transformer

Document = Sequence[int]
Score = Callable[[Tensor, Tensor], Tensor]
Method = Literal["none", "pi", "ntk", "ntk_by_parts", "yarn", "dynamic"]
TOKENS_AT_ONCE = 8192  # of one forward pass, unless a single document has more
LOGITS_AT_ONCE = 1 << 22  # 16 MiB of float32


class Needle(Protocol):
    """What is needed of a needle: a text, a question about it and the answer as one document, and
    that answer.
    """

    @property
    def document(self) -> str: ...
    @property
    def answer(self) -> str: ...


# (rng, how many tokens a text has, tokens of the document) -> a needle: tasks/long/needles.py, with
# its kind and split
MakeNeedle = Callable[[Random, Callable[[str], int], int], Needle]


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Stage:
    """`steps` steps of training on documents of up to `length` tokens, with `config`."""

    length: int
    steps: int
    config: ModelConfig


def scaled(config: ModelConfig, length: int, method: Method) -> ModelConfig:
    """`config` with its rotary angles scaled for `length` tokens, whatever scaling it had before.

    "dynamic" is NTK with s = max(1, length / L0), to be chosen anew for every length that is
    evaluated. Raises `ConfigError` for another method.
    """
    if method not in get_args(Method):
        raise ConfigError(f"method must be one of {', '.join(get_args(Method))}; found {method!r}")
    s = 1.0
    if method != "none":
        s = max(1.0, length / config.initial_context_length)
    return replace(
        config,
        rope_scaling="ntk" if method == "dynamic" else method,
        rope_scaling_factor=s,
        max_context_length=length,
    )


def stages(
    config: ModelConfig, schedule: Sequence[tuple[int, int]], method: Method
) -> tuple[Stage, ...]:
    """A stage for each (length, steps), to be trained one after the other, each from the weights of
    the one before.

    Raises `ConfigError` unless the lengths grow from over L0 on and every stage has steps; and for
    "dynamic", which is another model at every length and is there for evaluation only.
    """
    if method == "dynamic":
        raise ConfigError(
            "dynamic scaling is chosen per evaluated length and cannot be trained; "
            "train with yarn or ntk"
        )
    lengths = [config.initial_context_length]
    made = []
    for length, steps in schedule:
        if steps < 1:
            raise ConfigError(f"every stage of an extension needs a step at least, found {steps}")
        lengths.append(length)
        made.append(Stage(length, steps, scaled(config, length, method)))
    if not schedule or any(a >= b for a, b in pairwise(lengths)):
        raise ConfigError(
            f"the lengths of an extension must grow from initial_context_length on, found {lengths}"
        )
    return tuple(made)


@contextmanager
def using(model: Transformer, config: ModelConfig) -> Iterator[Transformer]:
    """The same weights read under another scaling of the angles, until the body ends."""
    own = model.config
    model.config = config
    try:
        yield model
    finally:
        model.config = own


def token_losses(
    model: Transformer, documents: Sequence[Document], *, dynamic: bool = False
) -> list[Tensor]:
    """float32 [n - 1] for each document of n ids: the loss of predicting id p + 1 at position p.

    `dynamic` scales the angles by NTK for the length of each document; otherwise the model's config
    says how. Memory is that of TOKENS_AT_ONCE tokens' hidden states (or of the longest document's)
    and LOGITS_AT_ONCE logits.
    """

    def loss(logits_RV: Tensor, target_R: Tensor) -> Tensor:
        wanted_R = logits_RV.gather(1, target_R.unsqueeze(1)).squeeze(1)
        return logits_RV.logsumexp(-1) - wanted_R

    return _scored(model, documents, [0] * len(documents), loss, dynamic)


def needle_accuracy(
    model: Transformer,
    tokenizer: Encoder,
    needle: MakeNeedle,
    lengths: Sequence[int],
    *,
    count: int = 20,
    seed: int = 0,
    dynamic: bool = False,
) -> dict[int, float]:
    """At each total length, the share of `count` needles whose answer the model would give
    greedily, word for word.

    `needle` makes a document that ends with the answer to a question about what is hidden in it;
    the same seed makes the same needles. The answer is given to the model as it is, and counts if
    every token of it is the likeliest one: the same as if it had been generated. `dynamic` as in
    `token_losses`.
    """

    def count_tokens(text: str) -> int:
        return len(tokenizer.encode(text))

    def likeliest(logits_RV: Tensor, target_R: Tensor) -> Tensor:
        return logits_RV.argmax(-1) == target_R

    accuracy = {}
    for length in lengths:
        documents: list[Document] = []
        firsts: list[int] = []
        for n in range(count):
            made = needle(Random(f"{seed} {length} {n}"), count_tokens, length)
            ids, first = _up_to_answer(tokenizer, made)
            documents.append(ids)
            firsts.append(first - 1)
        hits = _scored(model, documents, firsts, likeliest, dynamic)
        accuracy[length] = sum(bool(hit.all()) for hit in hits) / count
    return accuracy


def _up_to_answer(tokenizer: Encoder, needle: Needle) -> tuple[list[int], int]:
    """The document up to the end of the answer, and the index of the first id that belongs to the
    answer: ids as they would be in a training text, where the first may hold more than the answer.
    """
    begin = needle.document.rindex(needle.answer)
    end = begin + len(needle.answer)
    prompt = tokenizer.encode(needle.document[:begin])
    ids = tokenizer.encode(needle.document[:end])
    first = 0
    while first < min(len(prompt), len(ids)) and prompt[first] == ids[first]:
        first += 1
    assert 0 < first < len(ids), (prompt[-3:], ids[-3:])
    return ids, first


@torch.no_grad()
def _scored(
    model: Transformer,
    documents: Sequence[Document],
    firsts: Sequence[int],
    score: Score,
    dynamic: bool,
) -> list[Tensor]:
    """score(logits [R, V] float32, targets [R]) of each document's positions from `firsts` on but
    the last, on the CPU.

    In eval mode, whatever mode the model is in.
    """
    was_training = model.training
    model.eval()
    out = []
    try:
        for pack in _packs([len(d) - 1 for d in documents], alike=dynamic):
            config = model.config
            if dynamic:
                config = scaled(config, max(len(documents[n]) for n in pack), "dynamic")
            with using(model, config):
                some = [documents[n] for n in pack]
                out += _scored_together(model, some, [firsts[n] for n in pack], score)
    finally:
        model.train(was_training)
    return out


def _packs(lengths: Sequence[int], alike: bool) -> Iterator[list[int]]:
    """Runs of documents for one forward pass, by index; with `alike` those of a run have the same
    length.
    """
    run: list[int] = []
    tokens = 0
    for n, length in enumerate(lengths):
        full = tokens + length > TOKENS_AT_ONCE
        other = alike and run and lengths[run[0]] != length
        if run and (full or other):
            yield run
            run = []
            tokens = 0
        run.append(n)
        tokens += max(0, length)
    if run:
        yield run


def _scored_together(
    model: Transformer,
    documents: Sequence[Document],
    firsts: Sequence[int],
    score: Score,
) -> list[Tensor]:
    inputs: list[int] = []
    targets: list[int] = []
    rows: list[int] = []
    lengths: list[int] = []
    counts: list[int] = []  # of targets
    for document, first in zip(documents, firsts, strict=True):
        begin = len(inputs)
        inputs += document[:-1]
        rows += range(begin + first, len(inputs))
        targets += document[first + 1 :]
        lengths.append(len(inputs) - begin)
        counts.append(len(document[first + 1 :]))
    if not rows:
        return [torch.zeros(0) for _ in counts]
    device = model.device
    row_R = torch.tensor(rows, device=device)
    target_R = torch.tensor(targets, device=device)
    batch = Batch.packed([length for length in lengths if length], device, row_R)
    hidden_RD = model.hidden(torch.tensor(inputs, device=device), batch)
    step = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
    scores = []
    for first in range(0, len(targets), step):
        chunk = slice(first, first + step)
        logits = model.unembed(hidden_RD[chunk]).float()
        scores.append(score(logits, target_R[chunk]).cpu())
    return list(torch.cat(scores).split(counts))
