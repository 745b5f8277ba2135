"""Packing: examples laid end to end until a batch is full. Knows ids and masks, no text and no model.

Iterators here take and yield `(item, state)`: the state, handed back as a start, makes the next item the one that would
have come next. An example that does not fit begins the next batch; nothing is cut, nothing is padded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """Token ids, and which of them are to be learned (as targets of the position before)."""

    ids: list[int]
    mask: list[bool]


@dataclass(frozen=True)
class PackedBatch:
    """Examples end to end: T inputs, the lengths they fall into, and the rows that have a target to learn."""

    tokens: list[int]
    lengths: list[int]
    rows: list[int]
    targets: list[int]


def pack(
    examples: Iterator[tuple[Example, int]], tokens: int, longest: int, start: int = 0
) -> Iterator[tuple[PackedBatch, int]]:
    """Batches of at most `tokens` inputs from (example, next index). Examples over `longest` are left out.

    `start` is the index of the first example, for the state of a batch that holds all of them but the next.
    """
    batch = PackedBatch([], [], [], [])
    state = start
    for example, following in examples:
        length = len(example.ids) - 1  # the last id is only ever a target
        if 0 < length <= longest:
            if len(batch.tokens) + length > tokens:
                yield batch, state
                batch = PackedBatch([], [], [], [])
            _append(batch, example)
        state = following


def _append(batch: PackedBatch, example: Example) -> None:
    offset = len(batch.tokens)
    batch.tokens.extend(example.ids[:-1])
    batch.lengths.append(len(example.ids) - 1)
    for n, learned in enumerate(example.mask[1:]):
        if learned:
            batch.rows.append(offset + n)
            batch.targets.append(example.ids[n + 1])


def split(batch: PackedBatch, parts: int) -> list[PackedBatch]:
    """At most `parts` batches of about as many tokens each, cut between examples; those without targets are dropped."""
    out = [PackedBatch([], [], [], []) for _ in range(parts)]
    begin, row = 0, 0
    for length in batch.lengths:
        part = out[min(parts - 1, (begin + length // 2) * parts // len(batch.tokens))]
        shift = len(part.tokens) - begin
        part.tokens.extend(batch.tokens[begin : begin + length])
        part.lengths.append(length)
        begin += length
        while row < len(batch.rows) and batch.rows[row] < begin:
            part.rows.append(batch.rows[row] + shift)
            part.targets.append(batch.targets[row])
            row += 1
    return [part for part in out if part.targets]
