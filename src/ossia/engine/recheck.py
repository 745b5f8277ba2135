"""Whether what an exact engine reported is what training computes: the same tokens once more, in
one packed batch, by the same weights.

To be asked while the engine is open, after sampling and before the weights change. Knows token ids
and numbers; no requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from ossia.batch import Batch
from ossia.errors import TrainingError
from ossia.kernels import as_in_training
from ossia.kernels.logprobs import logprobs
from ossia.model import Transformer

CHECKED = 256  # tokens of a step
SHOWN = 5  # differences in an error
CONTEXT = 8  # ids that are shown before one


@dataclass(frozen=True)
class Reported:
    """Ids from the beginning of a prompt on, and what the engine reported of each: None for what it
    did not sample, such as the prompt and the results of tools.
    """

    ids: Sequence[int]
    logprobs: Sequence[float | None]

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.logprobs)
        assert self.logprobs[0] is None, "a first token follows nothing"


@dataclass(frozen=True)
class Difference:
    """Of one token: `sequence` and `place` say which."""

    sequence: int
    place: int
    ids: tuple[int, ...]  # it, and a few before it
    engine: float
    trainer: float

    def __str__(self) -> str:
        return (
            f"token {self.place} of sequence {self.sequence} (ids ... "
            f"{' '.join(map(str, self.ids))}): engine {self.engine!r}, trainer {self.trainer!r}"
        )


def recheck(
    model: Transformer,
    sequences: Sequence[Reported],
    temperature: float = 1.0,
    tokens: int = CHECKED,
) -> int:
    """How many sampled tokens were compared: those of the first sequences that have `tokens`
    together, or of all. Raises `TrainingError` with ids and both numbers, if any differs.
    """
    chosen = _first(sequences, tokens)
    compared, differing = differences(model, chosen, temperature)
    if differing:
        shown = "; ".join(map(str, differing[:SHOWN]))
        raise TrainingError(
            f"{len(differing)} of {compared} sampled tokens have another log-probability in "
            f"training than the engine reported: {shown}. Were the weights changed without "
            "Engine.flush, or the numbers of another engine? exact=False samples without this check"
        )
    return compared


def _first(sequences: Sequence[Reported], tokens: int) -> list[Reported]:
    chosen: list[Reported] = []
    count = 0
    for one in sequences:
        if count >= tokens:
            break
        chosen.append(one)
        count += sum(logprob is not None for logprob in one.logprobs)
    return chosen


@torch.inference_mode()
def differences(
    model: Transformer, sequences: Sequence[Reported], temperature: float = 1.0
) -> tuple[int, list[Difference]]:
    """How many sampled tokens there are, and those whose log-probability is another number in one
    packed forward pass of training. Not the last bit may differ.
    """
    lengths = [len(one.ids) for one in sequences]
    firsts = list(accumulate(lengths, initial=0))
    ids = [id for one in sequences for id in one.ids]
    places: list[tuple[int, int, float]] = []
    for n, one in enumerate(sequences):
        for place, reported in enumerate(one.logprobs):
            if reported is not None:
                places.append((n, place, reported))
    if not places:
        return 0, []
    rows = torch.tensor([firsts[n] + place - 1 for n, place, _ in places])
    targets = torch.tensor([sequences[n].ids[place] for n, place, _ in places])
    with as_in_training():
        batch = Batch.packed(lengths, model.device, output_rows=rows)
        x_RD = model.hidden(torch.tensor(ids), batch)
        found = logprobs(x_RD, model.unembedding.weight, targets, temperature).tolist()
    differing: list[Difference] = []
    for (n, place, reported), computed in zip(places, found, strict=True):
        if reported != computed:
            near = tuple(sequences[n].ids[max(0, place - CONTEXT) : place + 1])
            differing.append(Difference(n, place, near, reported, computed))
    return len(places), differing
