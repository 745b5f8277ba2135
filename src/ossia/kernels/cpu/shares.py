"""The share of this machine's speed that each compiled kernel reaches: the first part of `ossia
bench`.

The shapes are those of gpt-oss-20b. The bound of a call is the longer of two times: its bytes over
the measured read bandwidth, its operations over the peak of the instruction set in use. Weights and
caches are many times in memory and used in turn, so that each call finds its own outside of the
caches, as it does within a model. One thread is timed by the processor time that it used, which
other programs hardly change; more threads by the clock. Knows kernels and ceilings; does not know
models or files.

T rows (tokens), N rows and K columns of a weight.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from ctypes import byref
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ossia.batch import Pages, PageTable
from ossia.config import PAGE
from ossia.kernels.cpu import library as c
from ossia.kernels.cpu.leaves import KINDS, Dense, Experts, KvLayer, Step
from ossia.kernels.cpu.memory import HUGE_PAGE, huge

ROWS = (1, 8, 64, 512)
HIDDEN = 2880
HEADS = 64
KV_HEADS = 8
HEAD_DIM = 64
CONTEXT = 4096
Q_ROWS = HEADS * HEAD_DIM
GATE_UP_ROWS = 2 * HIDDEN
FAR = 512 << 20  # bytes that calls go through before they come back to the first
SECONDS = 0.25  # of one measurement, if a call is short
TOO_LONG = 4.0  # for one call
LOW = 0.4  # a share below is worth a warning

Call = Callable[[int, int], object]  # T, and which of the copies
Weight = TypeVar("Weight", Dense, Experts)


@dataclass(frozen=True)
class Kernel:
    """`operations(T)` of one call, in what `ceiling` counts; `read_bytes` of it from memory,
    whatever T.
    """

    name: str
    ceiling: str  # a key of ceilings()
    read_bytes: int
    operations: Callable[[int], float]
    make: Callable[[], Call]

    def bound(self, rows: int, ceiling: dict[str, float]) -> tuple[float, str]:
        """Seconds that a call takes at least, and what limits it: "memory" or "arithmetic"."""
        memory = self.read_bytes / (ceiling["read_gb_s"] * 1e9)
        arithmetic = self.operations(rows) / (ceiling[self.ceiling] * 1e9)
        return (memory, "memory") if memory > arithmetic else (arithmetic, "arithmetic")


@dataclass(frozen=True)
class Measured:
    """`seconds`: the median of the calls; None if a call would have taken too long: `expected`
    seconds.
    """

    kernel: str
    rows: int
    seconds: float | None
    expected: float = 0.0


@dataclass(frozen=True)
class Share:
    """A kernel against its bound, which is `limit`: "memory" or "arithmetic"."""

    measured: Measured
    bound_seconds: float
    limit: str

    @property
    def share(self) -> float | None:
        return None if self.measured.seconds is None else self.bound_seconds / self.measured.seconds

    @property
    def fraction(self) -> float:
        """The share; of a call that would have taken too long, the one that is expected."""
        return self.bound_seconds / (self.measured.seconds or self.measured.expected)

    @property
    def low(self) -> bool:
        return self.fraction < LOW


def as_dict(one: Share) -> dict[str, Any]:
    """One flat object for JSON: the fields of both, and the share."""
    return asdict(one.measured) | {
        "bound_seconds": one.bound_seconds,
        "limit": one.limit,
        "share": one.share,
    }


def from_dict(fields: dict[str, Any]) -> Share:
    """As `as_dict` made it."""
    measured = Measured(
        **{field.name: fields[field.name] for field in dataclasses.fields(Measured)}
    )
    return Share(measured, fields["bound_seconds"], fields["limit"])


def kernels() -> list[Kernel]:
    """A linear layer of an expert, the largest one of attention, and attention over a full
    context.
    """
    small = 17 * GATE_UP_ROWS * HIDDEN // 32
    large = Q_ROWS * HIDDEN
    keys_values = 2 * 2 * CONTEXT * KV_HEADS * HEAD_DIM

    def mxfp4(rows: int) -> float:
        return 2.0 * rows * GATE_UP_ROWS * HIDDEN

    def dense(rows: int) -> float:
        return 2.0 * rows * Q_ROWS * HIDDEN

    return [
        Kernel("MXFP4 exact", "bf16_gflop_s", small, mxfp4, lambda: _mxfp4("bf16")),
        Kernel("MXFP4 int8", "int8_small_gop_s", small, mxfp4, lambda: _mxfp4("int8")),
        Kernel("dense bf16", "bf16_gflop_s", 2 * large, dense, lambda: _dense("bf16")),
        Kernel("dense int8", "int8_gop_s", 33 * large // 32, dense, lambda: _dense("int8")),
        Kernel("attention", "bf16_gflop_s", keys_values, _attention_operations, _attention),
    ]


def measure(
    chosen: Sequence[Kernel], threads: int, rows: Sequence[int] = ROWS
) -> Iterator[Measured]:
    """Every kernel at every number of rows, smaller ones first, on `threads` threads."""
    before = c.threads()
    c.set_threads(threads)
    try:
        for kernel in chosen:
            yield from _measure_one(kernel, threads, sorted(rows))
    finally:
        c.set_threads(before)


def _measure_one(kernel: Kernel, threads: int, rows: Sequence[int]) -> Iterator[Measured]:
    """Its memory is let go at the end."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    call = kernel.make()
    per_row = 0.0
    for count in rows:
        expected = per_row * count
        if expected > TOO_LONG:
            yield Measured(kernel.name, count, None, expected)
        else:
            seconds = _median_seconds(call, count, clock)
            per_row = seconds / count
            yield Measured(kernel.name, count, seconds)


def shares(
    chosen: Sequence[Kernel], found: Sequence[Measured], ceiling: dict[str, float]
) -> list[Share]:
    """Of what `measure` found, against ceilings that were measured in the same run."""
    named = {kernel.name: kernel for kernel in chosen}
    result = []
    for one in found:
        seconds, limit = named[one.kernel].bound(one.rows, ceiling)
        result.append(Share(one, seconds, limit))
    return result


def as_text(found: Sequence[Share]) -> str:
    """A table: kernels down, rows across; a cell is the share of the bound, and a call's time."""
    columns = sorted({one.measured.rows for one in found})
    lines = [f"{'rows':<14}" + "".join(f"{count:>20}" for count in columns)]
    for name in dict.fromkeys(one.measured.kernel for one in found):
        cells = {one.measured.rows: cell(one) for one in found if one.measured.kernel == name}
        lines.append(f"{name:<14}" + "".join(f"{cells.get(count, ''):>20}" for count in columns))
    return "\n".join(lines)


def cell(one: Share) -> str:
    """ "87% m  0.31 ms": the share, m where memory is the bound and a where arithmetic is, and what
    a call took.
    """
    measured = one.measured
    if one.share is None or measured.seconds is None:
        return f"(about {measured.expected:.0f} s)"
    return f"{one.share:.0%} {one.limit[0]} {measured.seconds * 1e3:8.2f} ms"


def warnings(found: Sequence[Share], isa: str) -> list[str]:
    """A sentence for every kernel that stays below LOW of its bound."""
    said = []
    for one in found:
        if one.low:
            rows = one.measured.rows
            counted = "1 row" if rows == 1 else f"{rows} rows"
            said.append(
                f"{one.measured.kernel}, {counted}: {one.fraction:.1%} of the bound that "
                f"{one.limit} sets with {isa}, where at least {LOW:.0%} are expected"
            )
    return said


def _median_seconds(call: Call, rows: int, clock: Callable[[], float]) -> float:
    def timed(copy: int) -> float:
        began = clock()
        call(rows, copy)
        return clock() - began

    first = timed(0)  # warms up
    if first > 2 * SECONDS:
        return first
    calls = min(max(5, int(SECONDS / max(first, 1e-6))), 1000)
    return statistics.median(timed(n + 1) for n in range(calls))


# ---- the calls ----


def _mxfp4(activations: str) -> Call:
    draw = torch.Generator().manual_seed(0)
    blocks = torch.randint(
        0, 256, (1, GATE_UP_ROWS, HIDDEN // 32, 16), dtype=torch.uint8, generator=draw
    )
    scales = torch.randint(
        115, 122, (1, GATE_UP_ROWS, HIDDEN // 32), dtype=torch.uint8, generator=draw
    )
    bias = torch.zeros(1, GATE_UP_ROWS)
    copies = _packed(lambda: Experts(blocks, scales, bias, True))
    x_TK = _normal(max(ROWS), HIDDEN)
    out_TN = torch.empty(max(ROWS), GATE_UP_ROWS)
    run = c.loaded().ossia_expert_linear

    def call(rows: int, copy: int) -> None:
        weight = byref(copies[copy % len(copies)].c)
        run(weight, 0, KINDS[activations], x_TK.data_ptr(), rows, out_TN.data_ptr())

    return call


def _dense(kind: str) -> Call:
    weight_NK = _normal(Q_ROWS, HIDDEN)
    copies = _packed(lambda: Dense(weight_NK, None, kind))
    x_TK = _normal(max(ROWS), HIDDEN)
    out_TN = torch.empty(max(ROWS), Q_ROWS)
    run = c.loaded().ossia_dense

    def call(rows: int, copy: int) -> None:
        weight = byref(copies[copy % len(copies)].c)
        run(weight, x_TK.data_ptr(), rows, out_TN.data_ptr(), Q_ROWS, 0)

    return call


def _attention() -> Call:
    pages = CONTEXT // PAGE
    table = PageTable(np.arange(pages, dtype=np.int32)[None], np.zeros(1, dtype=np.int32))
    copies = [KvLayer(pages, KV_HEADS, HEAD_DIM)]
    copies[0].memory.view(torch.bfloat16).copy_(_normal(copies[0].memory.numel() // 2))
    for _ in range(FAR // copies[0].memory.numel() - 1):
        copies.append(KvLayer(pages, KV_HEADS, HEAD_DIM))
        copies[-1].memory.copy_(copies[0].memory)
    steps = {}
    for rows in ROWS:
        angles = torch.zeros(rows, HEAD_DIM // 2)  # used by the half, not here
        steps[rows] = Step([rows], [CONTEXT - rows], Pages([], {None: table}), (angles, angles))
    q_THh = _normal(max(ROWS), HEADS, HEAD_DIM)
    out_THh = torch.empty_like(q_THh)
    run = c.loaded().ossia_attention

    def call(rows: int, copy: int) -> None:
        cache = copies[copy % len(copies)].ref
        shape = (HEAD_DIM**-0.5, HEADS, 0, 0)
        run(cache, steps[rows].ref, q_THh.data_ptr(), None, *shape, out_THh.data_ptr())

    return call


def _attention_operations(rows: int) -> float:
    """Scores and weighted sums of `rows` tokens, the last of which sees CONTEXT positions."""
    return 4.0 * HEADS * HEAD_DIM * sum(range(CONTEXT - rows + 1, CONTEXT + 1))


def _packed(make: Callable[[], Weight]) -> list[Weight]:
    """A weight, packed, as often as fills FAR bytes."""
    first = make()
    size = first.packed_bytes
    step = -(-size // HUGE_PAGE) * HUGE_PAGE
    made = [first] + [make() for _ in range(FAR // step - 1)]
    room = huge(len(made) * step)
    first.pack(0, room[:size])
    for n, one in enumerate(made):
        mine = room[n * step : n * step + size]
        if n > 0:
            mine.copy_(room[:size])
        one.use(mine)
    return made


def _normal(*shape: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=draw).bfloat16()
