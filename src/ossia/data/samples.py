"""Answers to train on by numbers of their own, such as an advantage, laid out in one batch.

The answers to one prompt come together, and what their prompt is is computed once: the prompt is a
sequence of its own, and each answer goes on from it. The last id of an answer is only ever a
target, and the first is one of the prompt's last row.

    tokens     p0 p1 p2 | a0 a1 | b0       prompt p, answers a0 a1 a2 and b0 b1
    lengths    3          2       1
    starts     0          3       3
    gather     0 1 2      0 1 2 3 4   0 1 2 5
    rows       2 2 3 4 5
    targets    a0 b0 a1 a2 b1
    sequence   0  1  0  0  1               the stream that says whose a target is

Knows ids and numbers; does not know text, models or what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ossia.data.packing import Experts, Ids, Numbers, PackedBatch
from ossia.errors import DataError

SEQUENCE = "sequence"
NO_ROWS = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Answer:
    """Ids that follow a prompt. `learned`: which of them are targets; None: all. `streams`: by
    name, a number for each id; those that are no targets are not read. `experts` [n, L, k]: where
    the token before each id went; -1 where that is not known.
    """

    ids: Sequence[int]
    streams: Mapping[str, Sequence[float] | Numbers] = field(default_factory=dict)
    learned: Sequence[bool] | None = None
    experts: Experts | None = None


@dataclass(frozen=True, eq=False)
class Group:
    """Answers to the same prompt. `experts` [P, L, k]: where the prompt's tokens went, if that is
    known.
    """

    prompt: Sequence[int]
    answers: Sequence[Answer]
    experts: Experts | None = None


def packed_groups(
    groups: Sequence[Group],
    share: bool = True,
) -> PackedBatch:
    """One batch of all answers; `sequence` numbers them in their order, through all groups.

    `share`: the keys and values of a prompt are computed once for all answers to it; otherwise the
    prompt is repeated before each. Raises `DataError` for an empty prompt or answer, or for streams
    that are not the same everywhere or not as long as the ids.
    """
    layout = _Layout()
    for group in groups:
        _check(group)
        if share and len(group.answers) > 1:
            layout.add_shared(group)
        else:
            for answer in group.answers:
                layout.add_alone(group, answer)
    if not layout.answers:
        raise DataError("a batch needs one answer at least")
    return layout.batch()


def _check(group: Group) -> None:
    length = len(group.prompt)
    if not length:
        raise DataError("a prompt must have at least one token")
    if group.experts is not None and len(group.experts) != length:
        raise DataError(
            f"'experts' of a prompt of {length} tokens has {len(group.experts)} values; it needs "
            "one for each token"
        )
    for answer in group.answers:
        count = len(answer.ids)
        if not count:
            raise DataError("an answer must have at least one token")
        columns: dict[str, Sized] = dict(answer.streams)
        if answer.learned is not None:
            columns["learned"] = answer.learned
        if answer.experts is not None:
            columns["experts"] = answer.experts
        for name, column in columns.items():
            found = len(column)
            if found != count:
                raise DataError(
                    f"{name!r} of an answer of {count} tokens has {found} values; it needs one "
                    "for each token"
                )


class _Layout:
    """A batch in the making."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.lengths: list[int] = []
        self.starts: list[int] = []
        self.gather: list[Ids] = []
        self.rows: list[Ids] = []
        self.answers: list[Answer] = []
        self.experts: list[tuple[Ids, Experts]] = []

    def add_shared(self, group: Group) -> None:
        prompt = self._add(group.prompt, NO_ROWS)
        self._note(prompt, group.experts)
        last = prompt[-1:]
        for answer in group.answers:
            own = answer.ids[:-1]
            rows = NO_ROWS
            if len(own):
                rows = self._add(own, prompt)
            seen = np.concatenate([last, rows])
            self._add_targets(seen, answer)

    def add_alone(self, group: Group, answer: Answer) -> None:
        ids = [*group.prompt, *answer.ids[:-1]]
        rows = self._add(ids, NO_ROWS)
        length = len(group.prompt)
        self._note(rows[:length], group.experts)
        self._add_targets(rows[length - 1 :], answer)

    def _add(self, ids: Sequence[int], before: Ids) -> Ids:
        """A sequence that goes on from the rows `before`; its own rows."""
        first = len(self.tokens)
        count = len(ids)
        rows = np.arange(first, first + count)
        self.tokens += ids
        self.lengths.append(count)
        self.starts.append(len(before))
        seen = np.concatenate([before, rows])
        self.gather.append(seen)
        return rows

    def _add_targets(self, rows: Ids, answer: Answer) -> None:
        self.rows.append(rows)
        self.answers.append(answer)
        self._note(rows, answer.experts)

    def _note(self, rows: Ids, experts: Experts | None) -> None:
        if experts is not None:
            self.experts.append((rows, experts))

    def batch(self) -> PackedBatch:
        rows = np.concatenate(self.rows)
        learned = [_learned(answer) for answer in self.answers]
        order = np.flatnonzero(np.concatenate(learned))
        by_row = np.argsort(rows[order], kind="stable")
        order = order[by_row]
        targets = []
        for answer in self.answers:
            ids = np.asarray(answer.ids, np.int64)
            targets.append(ids)
        batch = PackedBatch(
            tokens=np.asarray(self.tokens, np.int64),
            lengths=self.lengths,
            rows=rows[order],
            targets=np.concatenate(targets)[order],
            streams=self._streams(order),
            experts=self._experts(),
        )
        if not any(self.starts):
            return batch
        gather = np.concatenate(self.gather)
        return replace(
            batch,
            starts=self.starts,
            gather=gather,
        )

    def _streams(self, order: Ids) -> dict[str, Numbers]:
        streams: dict[str, Numbers] = {}
        columns: list[Numbers] = []
        for number, answer in enumerate(self.answers):
            count = len(answer.ids)
            column = np.full(count, number, np.int32)
            columns.append(column)
        streams[SEQUENCE] = np.concatenate(columns)[order]
        for name in self._names():
            columns = []
            for answer in self.answers:
                values = answer.streams[name]
                column = np.asarray(values, np.float32)
                columns.append(column)
            streams[name] = np.concatenate(columns)[order]
        return streams

    def _names(self) -> list[str]:
        names = self.answers[0].streams.keys()
        for answer in self.answers:
            if answer.streams.keys() != names:
                raise DataError(
                    f"one answer has the streams {sorted(names)}, another has "
                    f"{sorted(answer.streams)}; all need the same ones"
                )
        return sorted(names)

    def _experts(self) -> Experts | None:
        if not self.experts:
            return None
        _, first = self.experts[0]
        _, layers, top_k = first.shape
        tokens = len(self.tokens)
        shape = (tokens, layers, top_k)
        chosen = np.full(shape, -1, np.int16)
        for rows, experts in self.experts:
            chosen[rows] = experts
        return chosen


def _learned(answer: Answer) -> NDArray[np.bool_]:
    if answer.learned is None:
        count = len(answer.ids)
        return np.ones(count, np.bool_)
    return np.asarray(answer.learned, np.bool_)
