"""Native attention half: against float64, and the same bits by every path.

`Server` keeps sequences in pages the way an engine does: in random places, freed behind a window
and poisoned with NaN.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ossia.kernels.cpu.library import AttentionHalf, DenseWeight, KvLayer, Step

Array = NDArray[Any]
PAGE = 16
BF16, INT8 = 0, 1
ALIKE = ("avxvnni", "avx512_vnni")  # products of bytes, which no attention has


@pytest.fixture
def lib(isa: ctypes.CDLL) -> ctypes.CDLL:
    return isa


def at(array: Array) -> int:
    assert array.flags.c_contiguous
    return array.ctypes.data


def round_bf16(x: Array) -> Array:
    """float32 -> the nearest bfloat16, ties to even, as float32."""
    return widen(bits_of(x))


def bits_of(x: Array) -> Array:
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)


def widen(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True)
class Shape:
    heads: int = 8
    kv_heads: int = 1
    head_dim: int = 64
    window: int = 0
    sink: float | None = 0.0  # of about this size; None: no sinks
    kind: int = BF16
    part: int = 0

    @property
    def width(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def scale(self) -> float:
        return float(np.float32(self.head_dim**-0.5))

    @property
    def page_bytes(self) -> int:
        return 64 * self.head_dim if self.kind == BF16 else 32 * self.head_dim + 128


@dataclass
class Sequence:
    qkv: Array  # [N, width]
    cos: Array  # [N, head_dim / 2]
    sin: Array
    length: int  # positions served so far
    pages: list[int]
    first_page: int


class Server:
    """Pages of one layer and the sequences in them."""

    def __init__(self, lib: ctypes.CDLL, shape: Shape, seed: int = 0, pages: int = 400) -> None:
        self.lib, self.shape, self.rng = lib, shape, np.random.default_rng(seed)
        size = pages * shape.kv_heads * shape.page_bytes
        self.memory = aligned(size)  # all bytes 0xff, NaN in every format
        self.kv = KvLayer(at(self.memory), shape.kv_heads, shape.head_dim, shape.kind)
        self.free = self.rng.permutation(pages).tolist()
        self.sequences: list[Sequence] = []
        sinks = self.rng.normal(size=shape.heads) + (shape.sink or 0)
        self.sinks = None if shape.sink is None else sinks.astype(np.float32)

    def admit(self, seed: int, length: int) -> int:
        """A sequence's data are a function of its seed alone."""
        rng, shape = np.random.default_rng(seed), self.shape
        qkv = rng.normal(size=(length, shape.width)).astype(np.float32)
        qkv[:, : shape.heads * shape.head_dim] *= 3  # sharper than uniform
        angle = rng.uniform(0, 6, size=(length, shape.head_dim // 2))
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        self.sequences.append(Sequence(qkv, cos, sin, 0, [], 0))
        return len(self.sequences) - 1

    def grow(self, sequence: Sequence, tokens: int) -> None:
        """Pages for the next tokens; those that no window reaches any more are freed, and
        poisoned.
        """
        end = sequence.length + tokens
        while (sequence.first_page + len(sequence.pages)) * PAGE < end:
            sequence.pages.append(self.free.pop())
        oldest = max(0, sequence.length - self.shape.window + 1) // PAGE if self.shape.window else 0
        for n in range(max(0, oldest - sequence.first_page)):
            page = sequence.pages[n]
            if page >= 0:
                self.memory.reshape(-1, self.shape.kv_heads * self.shape.page_bytes)[page] = 0xFF
                self.free.insert(0, page)
                sequence.pages[n] = -1
        while (
            len(sequence.pages) > 2 and sequence.pages[1] < 0
        ):  # leaves one -1 in front, which may not be touched
            del sequence.pages[0]
            sequence.first_page += 1

    def step(self, work: list[tuple[int, int]]) -> list[Array]:
        """[(sequence, tokens)] -> the outputs' bits [tokens, heads, head_dim] of each."""
        shape, parts, starts = self.shape, [self.sequences[s] for s, _ in work], []
        rows = [slice(s.length, s.length + n) for s, (_, n) in zip(parts, work, strict=True)]
        for sequence, (_, tokens) in zip(parts, work, strict=True):
            self.grow(sequence, tokens)
            starts.append(sequence.length)
            sequence.length += tokens
        qkv, cos, sin = (
            np.concatenate([getattr(s, name)[r] for s, r in zip(parts, rows, strict=True)])
            for name in ("qkv", "cos", "sin")
        )
        batch = make_step([n for _, n in work], starts, parts, bool(shape.window), cos, sin)
        q = np.empty((len(qkv), shape.heads, shape.head_dim), np.uint16)
        out = np.empty_like(q)
        self.lib.ossia_rope_kv(
            ctypes.byref(self.kv), batch.pointer, bool(shape.window), shape.heads, at(qkv), at(q)
        )
        sinks = None if self.sinks is None else at(self.sinks)
        self.lib.ossia_attention(
            *(ctypes.byref(self.kv), batch.pointer, at(q), sinks, shape.scale),
            *(shape.heads, shape.window, shape.part, at(out)),
        )
        return np.split(out, np.cumsum([n for _, n in work])[:-1])


def aligned(size: int) -> Array:
    raw = np.full(size + 64, 0xFF, np.uint8)
    return raw[-raw.ctypes.data % 64 :][:size]


@dataclass
class Batch:
    pointer: Any
    keep: list[Array]


def make_step(
    lengths: list[int],
    starts: list[int],
    sequences: list[Sequence],
    windowed: bool,
    cos: Array,
    sin: Array,
) -> Batch:
    begin = np.cumsum([0, *lengths]).astype(np.int32)
    start = np.array(starts, np.int32)
    stride = max(len(s.pages) for s in sequences) + 1
    pages = np.full((len(sequences), stride), -1, np.int32)
    for row, sequence in zip(pages, sequences, strict=True):
        row[: len(sequence.pages)] = sequence.pages
    first = np.array([s.first_page for s in sequences], np.int32)
    wrong = np.full_like(pages, -1)  # the other kind's
    tables = [at(wrong), at(pages)] if windowed else [at(pages), at(wrong)]
    step = Step(int(begin[-1]), len(lengths), at(begin), at(start), (ctypes.c_void_p * 2)(*tables))
    step.stride = (ctypes.c_int32 * 2)(stride, stride)
    step.first_page = (ctypes.c_void_p * 2)(at(first), at(first))
    step.cos, step.sin = at(cos), at(sin)
    return Batch(ctypes.byref(step), [begin, start, pages, first, wrong, cos, sin])


# ---- the reference, in float64 from what the kernels are given


def turned(sequence: Sequence, shape: Shape) -> tuple[Array, Array, Array]:
    """q [N, H, h], k and v [N, K, h] after the rotation and their rounding."""
    x = sequence.qkv.reshape(len(sequence.qkv), -1, shape.head_dim)
    qk, v = x[:, : -shape.kv_heads], x[:, -shape.kv_heads :]
    a, b = np.split(qk, 2, axis=-1)
    cos, sin = sequence.cos[:, None], sequence.sin[:, None]
    qk = np.concatenate((a * cos - b * sin, b * cos + a * sin), -1)
    round_kv = round_bf16 if shape.kind == BF16 else round_int8
    return round_bf16(qk[:, : shape.heads]), round_kv(qk[:, shape.heads :]), round_kv(v)


def round_int8(x: Array) -> Array:
    d = np.abs(x).max(-1, keepdims=True) / np.float32(127)
    return np.asarray(np.rint(x / d) * d)


def check(server: Server, s: int, first: int, got: Array) -> None:
    """p and the output are rounded to bfloat16, each within 2^-8 of itself; scores and sums are
    float32.
    """
    shape, sequence = server.shape, server.sequences[s]
    q, k, v = (x.astype(np.float64) for x in turned(sequence, shape))
    n, group = len(got), shape.heads // shape.kv_heads
    end = first + n
    k, v = (np.repeat(x[:end], group, axis=1) for x in (k, v))
    z = np.einsum("qhd,khd->hqk", q[first:end], k) * shape.scale
    at_q, at_k = np.arange(first, end)[:, None], np.arange(end)
    allowed = (at_k <= at_q) & ((at_k > at_q - shape.window) | (shape.window == 0))
    z = np.where(allowed, z, -np.inf)
    peak = z.max(-1, keepdims=True)
    p = np.exp(z - peak)
    total: Array = p.sum(-1, keepdims=True)
    if server.sinks is not None:
        total = total + np.exp(np.minimum(server.sinks[:, None, None] - peak, 700))
    want, size = (np.einsum("hqk,khd->qhd", p / total, x) for x in (v, np.abs(v)))
    assert (np.abs(widen(got) - want) <= (2.0**-7 + 1e-4) * size + 1e-30).all()


SHAPES = [
    Shape(),
    Shape(heads=4, kv_heads=2, head_dim=16),
    Shape(heads=2, kv_heads=2, head_dim=32, window=7, sink=None),
    Shape(heads=6, kv_heads=2, head_dim=48, window=32, sink=5.0),
    Shape(heads=16, kv_heads=2, head_dim=64, window=128),
    Shape(heads=3, kv_heads=1, head_dim=96, window=1, sink=-30.0),
    Shape(heads=8, kv_heads=1, head_dim=128, sink=None),
    Shape(heads=8, kv_heads=2, head_dim=32, sink=100.0),
    Shape(heads=8, kv_heads=1, head_dim=32, part=128),
    Shape(heads=2, kv_heads=1, head_dim=16, part=64, window=100),
    Shape(heads=66, kv_heads=1, head_dim=16),
    Shape(heads=8, kv_heads=2, head_dim=64, kind=INT8),
    Shape(heads=3, kv_heads=1, head_dim=48, window=40, kind=INT8),
    Shape(heads=8, kv_heads=1, head_dim=32, kind=INT8, part=64, sink=None),
]


def in_a_crowd(server: Server, mine: int, chunks: list[int]) -> Array:
    """Serve `mine` in these chunks among others that come, grow by random amounts and go on."""
    outputs = []
    for chunk in chunks:
        if len(server.sequences) < 5:
            server.admit(int(server.rng.integers(1 << 30)), 400)
        others = [s for s in range(len(server.sequences)) if s != mine]
        work = [
            (s, int(server.rng.choice([1, 1, 5, 30]))) for s in others if server.rng.random() < 0.7
        ]
        work = [(s, n) for s, n in work if server.sequences[s].length + n <= 400]
        place = int(server.rng.integers(len(work) + 1))
        work.insert(place, (mine, chunk))
        outputs.append(server.step(work)[place])
    return np.concatenate(outputs)


def random_chunks(rng: np.random.Generator, total: int) -> list[int]:
    chunks = []
    while total:
        chunks.append(min(total, int(rng.choice([1, 2, 3, 9, 40, 100]))))
        total -= chunks[-1]
    return chunks


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_within_rounding_of_float64_and_the_same_bits_by_every_path(
    lib: ctypes.CDLL, shape: Shape
) -> None:
    length = 230
    whole = Server(lib, shape)
    mine = whole.admit(1, length)
    [want] = whole.step([(mine, length)])
    check(whole, mine, 0, want)
    for seed, chunks in enumerate(([1] * length, random_chunks(np.random.default_rng(3), length))):
        server = Server(lib, shape, seed=seed, pages=800)
        server.sinks = whole.sinks
        for _ in range(seed):
            server.admit(77, 400)
        got = in_a_crowd(server, server.admit(1, length), chunks)
        assert (got == want).all()


def test_several_sequences_at_once(lib: ctypes.CDLL) -> None:
    server = Server(lib, Shape(heads=8, kv_heads=2, head_dim=32, window=32))
    ids = [server.admit(seed, 200) for seed in range(4)]
    for work in ([37, 1, 64, 15], [1, 100, 1, 2], [16, 3, 17, 1]):
        before = [server.sequences[s].length for s in ids]
        for s, first, out in zip(
            ids, before, server.step(list(zip(ids, work, strict=True))), strict=True
        ):
            check(server, s, first, out)


@pytest.mark.parametrize("window", [0, 20])
def test_threads_change_no_bit(lib: ctypes.CDLL, window: int) -> None:
    outputs = []
    for threads in (1, 2, 3):
        lib.ossia_set_threads(threads)
        server = Server(lib, Shape(heads=8, kv_heads=2, head_dim=32, window=window, part=64))
        a, b = server.admit(1, 300), server.admit(2, 300)
        outputs.append([*server.step([(a, 250), (b, 40)]), *server.step([(a, 1), (b, 3)])])
    for other in outputs[1:]:
        assert all((x == y).all() for x, y in zip(outputs[0], other, strict=True))


@pytest.mark.parametrize("kind", [BF16, INT8])
def test_beyond_the_first_part(lib: ctypes.CDLL, kind: int) -> None:
    length, shape = 4096 + 70, Shape(heads=2, kv_heads=1, head_dim=16, kind=kind)
    whole = Server(lib, shape)
    [want] = whole.step([(whole.admit(1, length), length)])
    check(whole, 0, 4090, want[4090:])
    chunked = Server(lib, shape, seed=0)
    chunked.admit(1, length)
    got = [chunked.step([(0, n)])[0] for n in (4000, 96, 1, 1, 40, 1, 27)]
    assert (np.concatenate(got) == want).all()


def test_windows_cost_what_they_see_at_any_depth(lib: ctypes.CDLL) -> None:
    """A window that begins past a part's boundary and one that spans it: pages before it do not
    exist.
    """
    server = Server(lib, Shape(heads=2, kv_heads=1, head_dim=16, window=50))
    mine = server.admit(1, 4300)
    for n in (4090, 4, 1, 1, 1, 1, 60, 1, 1):
        first = server.sequences[mine].length
        [out] = server.step([(mine, n)])
        check(server, mine, first, out[-5:]) if n < 5 else None
        assert np.isfinite(widen(out)).all()


def test_a_page_that_is_shared_and_copied(lib: ctypes.CDLL) -> None:
    shape = Shape(heads=4, kv_heads=2, head_dim=32)
    for kind in (BF16, INT8):
        server = Server(lib, Shape(heads=4, kv_heads=2, head_dim=32, kind=kind))
        a, b = server.admit(1, 60), server.admit(1, 60)
        server.step([(a, 40)])
        one, two = server.sequences[a], server.sequences[b]
        two.pages, two.length = [*one.pages[:2], server.free.pop()], 37  # within the third page
        lib.ossia_copy_page(ctypes.byref(server.kv), one.pages[2], two.pages[2])
        two.qkv[37:] = np.random.default_rng(5).normal(size=two.qkv[37:].shape)
        _, got = server.step([(a, 3), (b, 20)])
        check(server, b, 37, got)
        assert shape.window == 0


def test_keys_and_values_lie_as_stated(lib: ctypes.CDLL) -> None:
    shape = Shape(heads=2, kv_heads=2, head_dim=48)
    server = Server(lib, shape)
    server.step([(server.admit(1, 21), 21)])
    sequence = server.sequences[0]
    _, k, v = turned(sequence, shape)
    keys, values = (server.memory.view(np.uint16).reshape(-1, 2, 2, 768)[:, :, i] for i in range(2))
    keys, values = keys.reshape(-1, 2, 24, 16, 2), values.reshape(-1, 2, 8, 48, 2)
    for position in range(21):
        page, slot = sequence.pages[position // 16], position % 16
        assert (widen(keys[page, :, :, slot]).reshape(2, 48) == k[position]).all()
        assert (widen(values[page, :, slot // 2, :, slot % 2]) == v[position]).all()
    rest = values[sequence.pages[1], :, 3:]
    assert (rest == 0).all()
    assert (values[sequence.pages[1], :, 2, :, 1] == 0).all()


@pytest.mark.parametrize("window", [0, 12])
def test_attention_half(lib: ctypes.CDLL, window: int) -> None:
    heads, kv_heads, h, width, T = 4, 2, 16, 40, 30
    rng = np.random.default_rng(0)
    shape = Shape(heads, kv_heads, h, window)
    server = Server(lib, shape)
    weights = {
        name: (
            round_bf16(rng.normal(size=(rows, cols)) / cols**0.5),
            rng.normal(size=rows).astype(np.float32),
        )
        for name, rows, cols in (
            ("q", 64, width),
            ("k", 32, width),
            ("v", 32, width),
            ("out", width, 64),
        )
    }
    bits = {name: bits_of(w) for name, (w, _) in weights.items()}
    dense = [DenseWeight(at(bits[n]), None, at(b), *w.shape, 0) for n, (w, b) in weights.items()]
    norm = rng.normal(size=width).astype(np.float32)
    assert server.sinks is not None
    half = AttentionHalf(at(norm), *dense, at(server.sinks), 1e-5, shape.scale, heads, window)
    x = rng.normal(size=(T, width)).astype(np.float32)
    t = round_bf16(
        x / np.sqrt((x * x).mean(-1, keepdims=True, dtype=np.float32) + np.float32(1e-5)) * norm
    )
    mine = server.admit(1, T)
    sequence = server.sequences[mine]
    sequence.qkv = np.concatenate([t @ weights[n][0].T + weights[n][1] for n in "qkv"], 1).astype(
        np.float32
    )
    [o] = server.step([(mine, T)])
    want = x + widen(o).reshape(T, -1) @ weights["out"][0].T + weights["out"][1]
    batch = make_step([T], [0], [sequence], bool(window), sequence.cos, sequence.sin)
    got = x.copy()
    lib.ossia_attention_half(ctypes.byref(half), ctypes.byref(server.kv), batch.pointer, at(got))
    assert np.abs(got - want).max() < 0.05  # a last bit of t, q, k, v or o may fall the other way
    assert np.abs(got - want).mean() < 0.002
