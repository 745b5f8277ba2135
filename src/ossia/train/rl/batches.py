"""A step's samples as one batch to train on. Knows samples and numbers; no model.

A sample whose history changed on purpose (reasoning dropped as a user went on) has several
segments; each is an answer of its own to its own prompt, and they share the sample's advantage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ossia.data.packing import SAMPLE, PackedBatch
from ossia.data.samples import Answer, Group, packed_groups
from ossia.turn.record import Segment


@dataclass(frozen=True)
class Lesson:
    """What is learned of a sample: its segments, by its advantage."""

    segments: tuple[Segment, ...]
    advantage: float


def packed(
    groups: Sequence[Sequence[Lesson]], *, echo: bool = False, replay: bool = False
) -> PackedBatch | None:
    """The streams are `advantage`, `behaviour` (log-probabilities as they were sampled), `keep` (1
    for a token that is learned by its advantage), `echo` (1 for one that somebody else wrote) and
    `sample` (its number, the same for all its segments). None if there is nothing to learn.

    `echo`: inserted tokens are targets too. `replay`: with the experts that were chosen.
    """
    found = []
    number = 0
    for group in groups:
        by_prompt: dict[tuple[int, ...], list[Answer]] = {}
        for lesson in group:
            for segment in lesson.segments:
                answer = _answer(segment, number, lesson.advantage, echo, replay)
                by_prompt.setdefault(segment.prompt, []).append(answer)
            number += 1
        found += [Group(prompt, answers) for prompt, answers in by_prompt.items()]
    return packed_groups(found) if found else None


def _answer(segment: Segment, number: int, advantage: float, echo: bool, replay: bool) -> Answer:
    start = len(segment.prompt)
    sampled = np.asarray(segment.sampled[start:], np.float32)
    count = len(sampled)
    learned = None
    if not echo:
        learned = sampled.astype(bool).tolist()
    return Answer(
        segment.ids[start:],
        {
            "advantage": np.full(count, advantage, np.float32),
            "behaviour": np.asarray(segment.logprobs[start:], np.float32),
            "keep": sampled,
            "echo": 1 - sampled,
            SAMPLE: np.full(count, number, np.float32),
        },
        learned,
        _experts(segment) if replay else None,
    )


def _experts(segment: Segment) -> NDArray[np.int16] | None:
    """[n, L, k], of the token before each; -1 where that is not known."""
    shape = None
    for piece in segment.pieces:
        if piece.experts:
            shape = np.asarray(piece.experts[0]).shape
    if shape is None:
        return None
    rows = []
    for piece in segment.pieces:
        if piece.experts is not None:
            rows.append(np.asarray(piece.experts, np.int16))
        else:
            rows.append(np.full((len(piece.ids), *shape), -1, np.int16))
    return np.concatenate(rows)
