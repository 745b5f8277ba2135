"""E11's measurements: how far an engine's log-probabilities and experts are from the trainer's on
what it sampled, and the gradient that each group of answers gives, corrected or not.

Knows a trainer's model, an engine's samples and tensors; no statistics. G groups of answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ossia.data.packing import PackedBatch
from ossia.kernels.logprobs import logprobs
from ossia.model import Transformer
from ossia.tasks.environment import Ask
from ossia.tokenizer import Tokenizer
from ossia.train.rl.batches import Lesson, packed
from ossia.train.rl.policy import Policy
from ossia.train.rl.sampler import Sampler
from ossia.train.rl.settings import Objective, Sampling
from ossia.train.rl.worth import lessons, valued
from ossia.train.step import hidden, part_loss
from ossia.turn import stop_ids
from ossia.turn.rollout import Sample

Floats = NDArray[np.float64]
Gradients = torch.Tensor


@dataclass(frozen=True)
class Compared:
    """Of every group [G]: sampled `tokens`, the `largest` |log-probability of the trainer less that
    of the engine|, the sum of `k3`, tokens whose experts are known and of these those with `other`
    ones in a layer; and the share of right answers.
    """

    tokens: Floats
    largest: Floats
    k3: Floats
    known: Floats
    other: Floats
    right: Floats


@dataclass(frozen=True)
class Products:
    """Of the groups' gradients g and those of a reference r, all [G, G]: g g', g r', r r'."""

    own: Floats
    cross: Floats
    reference: Floats


@dataclass(frozen=True)
class Arm:
    """What is done about the difference. `old`: what the engine reported is taken for the older
    policy that the loss compares with (GSPO, lag). `replay`: the experts that it chose are used.
    """

    objective: Objective = Objective(mask_cut=False)  # noqa: RUF009 - frozen
    old: bool = False
    replay: bool = False


def save(found: Compared | Products, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {field.name: getattr(found, field.name) for field in fields(found)}
    part = path.with_name(f"{path.stem}.part.npz")
    np.savez(part, **columns)
    part.replace(path)


def read_compared(path: Path) -> Compared:
    with np.load(path) as columns:
        return Compared(**columns)


def read_products(path: Path) -> Products:
    with np.load(path) as columns:
        return Products(**columns)


def drawn(
    engine: Transformer,
    tokenizer: Tokenizer,
    asks: Sequence[Ask],
    settings: Sampling,
) -> Drawn:
    """The answers of an engine on these weights. While what is returned is open, an exact engine
    holds the trainer to its way to multiply: compare before it is closed.
    """
    sampler = Sampler(engine, tokenizer, stop_ids(tokenizer), settings)
    try:
        return Drawn(sampler, sampler.draw(asks, settings.samples, version=0), settings)
    except BaseException:
        sampler.close()
        raise


@dataclass(frozen=True)
class Drawn:
    sampler: Sampler
    groups: list[list[Sample]]
    settings: Sampling

    def close(self) -> None:
        self.sampler.close()

    def compared(self, trainer: Transformer) -> Compared:
        each = [_compared(trainer, group) for group in self.groups]
        return Compared(*(np.array(column, np.float64) for column in zip(*each, strict=True)))

    def gradients(self, trainer: Transformer, arm: Arm) -> torch.Tensor:
        """[G, P]: of each group's share of the step's loss."""
        policy = Policy(replace(arm.objective, normalizer="constant"), self.settings)
        parameters = [p for p in trainer.parameters() if p.requires_grad]
        rows = []
        for group in self.groups:
            batch = self._batch(group, arm)
            prepared = None if batch is None else policy.prepare(batch)
            if prepared is None:  # all its answers are worth the same
                rows.append(torch.zeros(sum(p.numel() for p in parameters)))
                continue
            loss = part_loss(trainer, prepared, None, 0, 1.0, 1.0, policy)
            found = torch.autograd.grad(loss.total, parameters)
            rows.append(torch.cat([g.flatten() for g in found]))
        return torch.stack(rows)

    def _batch(self, group: Sequence[Sample], arm: Arm) -> PackedBatch | None:
        worth = lessons([valued(group, arm.objective, self.settings.charged)])
        batch = packed(worth, replay=arm.replay)
        if batch is None or not arm.old:
            return batch
        return batch.with_streams(old=batch.streams["behaviour"])


def products_of(gradients: torch.Tensor, reference: torch.Tensor) -> Products:
    return Products(
        (gradients @ gradients.T).double().numpy(),
        (gradients @ reference.T).double().numpy(),
        (reference @ reference.T).double().numpy(),
    )


@torch.no_grad()
def _compared(trainer: Transformer, group: Sequence[Sample]) -> tuple[float, ...]:
    every = [Lesson(sample.segments, 0.0) for sample in group if sample.segments]
    batch = packed([every], replay=True)
    assert batch is not None, "a group without a sampled token"
    x_RD, logits = hidden(trainer, replace(batch, experts=None))
    own_R = logprobs(x_RD, trainer.unembedding.weight, torch.tensor(batch.targets)).numpy()
    kept = batch.streams["keep"] > 0
    behaviour = batch.streams["behaviour"].astype(np.float64)
    log = (own_R.astype(np.float64) - behaviour)[kept]
    k3 = np.exp(log) - log - 1
    known, other = _experts(batch, logits)
    right = np.mean([sample.reward.correct is True for sample in group])
    return float(len(log)), float(np.abs(log).max()), float(k3.sum()), known, other, float(right)


def _experts(batch: PackedBatch, logits: Mapping[int, torch.Tensor]) -> tuple[float, float]:
    """Tokens whose experts the engine told, and those of them that the trainer would have sent to
    another one in a layer.
    """
    if batch.experts is None:
        return 0.0, 0.0
    known = np.asarray((batch.experts >= 0).all(axis=(1, 2)))
    other = np.zeros(known.shape, np.bool_)
    for layer, logits_TE in logits.items():
        chosen = batch.experts[:, layer]
        own = logits_TE.topk(chosen.shape[1], dim=-1).indices.numpy()
        differ = np.sort(own, axis=1) != np.sort(chosen, axis=1)
        other |= differ.any(axis=1)
    return float(known.sum()), float((other & known).sum())
