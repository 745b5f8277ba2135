"""A small objective on answers in groups, for tests in one process and in two."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import torch
from torch import Tensor

from ossia.batch import Batch
from ossia.data.packing import PackedBatch
from ossia.data.samples import Answer, Group, packed_groups
from ossia.kernels.logprobs import logprobs
from ossia.model import Transformer
from ossia.train.objective import Normalizer, PartLoss, of_rows, weights

VOCABULARY = 64


def a_batch_of_groups(seed: int, groups: int = 6) -> PackedBatch:
    """Groups of different sizes; every third answer does not count."""
    rng = Random(seed)
    made = []
    count = 0
    for _ in range(groups):
        prompt = [rng.randrange(VOCABULARY) for _ in range(rng.randint(2, 20))]
        answers = []
        for _ in range(rng.randint(1, 4)):
            ids = [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 15))]
            keep = [float(count % 3 != 2)] * len(ids)
            advantage = [rng.uniform(-1, 1)] * len(ids)
            answers.append(Answer(ids, {"keep": keep, "advantage": advantage}))
            count += 1
        made.append(Group(prompt, answers))
    return packed_groups(made)


class Weighted:
    """-advantage log p, by the weights of a normalizer."""

    def __init__(self, normalizer: Normalizer) -> None:
        self.normalizer = normalizer

    def prepare(self, batch: PackedBatch) -> PackedBatch | None:
        streams = batch.streams
        found = weights(streams["keep"], streams["sequence"], self.normalizer, constant=100)
        return None if found is None else batch.with_streams(weight=found)

    def loss(
        self, model: Transformer, x_RD: Tensor, part: PackedBatch, of_targets: float
    ) -> PartLoss:
        targets = torch.tensor(part.targets, device=x_RD.device)
        now_R = logprobs(x_RD, model.unembedding.weight, targets)
        weight_R, advantage_R, keep_R = of_rows(part, x_RD, "weight", "advantage", "keep")
        loss = -(weight_R * advantage_R * now_R).sum()
        largest = float((-now_R.detach()).max()) if len(now_R) else 0.0
        return PartLoss(loss, loss.detach(), {"kept": float(keep_R.sum())}, {"largest": largest})

    def measured(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        return metrics

    def identity(self) -> Mapping[str, Any]:
        return {"normalizer": self.normalizer}

    @staticmethod
    def of_whole_samples(model: Transformer, batch: PackedBatch) -> Tensor:
        """The same of a prepared batch, sample by sample with full logits."""
        total = torch.zeros((), dtype=torch.float64)
        starts = batch.starts or [0] * len(batch.lengths)
        gather = torch.arange(len(batch.tokens)) if batch.gather is None else batch.gather
        ends = torch.tensor(batch.lengths).cumsum(0).tolist()
        kept = 0
        logits_of: dict[int, Tensor] = {}
        for end, length, start in zip(ends, batch.lengths, starts, strict=True):
            own = torch.as_tensor(gather[kept : kept + start + length])
            kept += start + length
            logits = model(torch.as_tensor(batch.tokens)[own], Batch.packed([len(own)]))
            for n in range(length):
                logits_of[end - length + n] = logits[start + n]
        columns = (
            batch.rows,
            batch.targets,
            batch.streams["weight"],
            batch.streams["advantage"],
        )
        for row, target, weight, advantage in zip(*columns, strict=True):
            logprob = logits_of[int(row)].log_softmax(-1)[int(target)]
            total = total - float(weight) * float(advantage) * logprob
        return total
