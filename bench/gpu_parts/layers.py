"""Every kernel of a layer against its bound and its reference, and the fastest tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu_parts import bounds
from gpu_parts.clock import Bench, Row, largest_error
from ossia import kernels, mxfp4
from ossia.batch import Batch, PageTable
from ossia.config import PAGE, ModelConfig
from ossia.engine.device.sampling import Wish, begin
from ossia.engine.pages import pages_of
from ossia.kernels import triton
from ossia.kernels.attention import attention
from ossia.kernels.triton import paging, tiles

COPIES = 6  # of a kernel's weights, taken in turns, so that none is found in a cache
LIMIT = 7.0
CHECKED = 16  # rows, at most, for which the reference is computed too
CHECKED_KEYS = 1 << 16
BF16 = 2


def measure_layers(bench: Bench, name: str, config: ModelConfig) -> None:
    for rows in bench.sizes.rows:
        if bench.allowance.allows(f"experts of {name}, {rows} rows"):
            measure_experts(bench, name, config, rows)
        if bench.allowance.allows(f"router, norm, products of {name}, {rows} rows"):
            measure_rows(bench, name, config, rows)
    for rows, depth in bench.sizes.attention:
        for window in (None, config.sliding_window):
            if bench.allowance.allows(f"attention of {name}, {rows} rows at {depth}"):
                measure_attention(bench, name, config, rows, depth, window)


def measure_experts(bench: Bench, name: str, config: ModelConfig, rows: int) -> None:
    """Both products of a layer, with the error beside the reference for few rows."""
    call, check = experts_of(bench, config, rows)
    error = check() if rows <= CHECKED else None
    bound = bounds.experts(config, rows)
    bench.note(f"experts {name}", bench.seconds(call), bound, rows=rows, error=error)


def experts_of(
    bench: Bench, config: ModelConfig, rows: int
) -> tuple[Callable[[], object], Callable[[], float]]:
    """What computes a layer's experts, and its error."""
    hidden = config.hidden_size
    width = config.intermediate_size
    layers = [
        (
            bench.random_packed(config.num_experts, 2 * width, hidden),
            bench.random_packed(config.num_experts, hidden, width),
        )
        for _ in range(1 if bench.is_dry else COPIES)
    ]
    x = bench.random(rows, hidden)
    logits = bench.random(rows, config.num_experts, dtype=torch.float32)
    choice = logits.topk(config.experts_per_token).indices
    weight = logits.gather(1, choice).softmax(-1)
    turn = iter(range(1 << 30))

    def call() -> Tensor:
        gate_up, down = layers[next(turn) % len(layers)]
        found = kernels.packed_experts(x, choice, weight, gate_up, down, LIMIT)
        assert found is not None
        return found

    def check() -> float:
        found = kernels.packed_experts(x, choice, weight, *layers[0], LIMIT)
        assert found is not None
        return largest_error(found, reference_experts(x, choice, weight, layers[0]))

    return call, check


def reference_experts(x: Tensor, choice: Tensor, weight: Tensor, layer: Any) -> Tensor:
    def matrix_of(packed: Any) -> Callable[[int, torch.dtype], Tensor]:
        return lambda expert, dtype: mxfp4.decode(packed[0][expert], packed[1][expert], dtype)

    pairs = [(matrix_of(packed), packed[2].float()) for packed in layer]
    return kernels.experts(x.float(), choice, weight, *pairs, LIMIT)


def measure_rows(bench: Bench, name: str, config: ModelConfig, rows: int) -> None:
    """Router, norm, the product of fixed tiles (of q's shape), and a draw."""
    hidden = config.hidden_size
    x = bench.random(rows, hidden)
    router = bench.random(config.num_experts, hidden)
    bias = bench.random(config.num_experts)
    wanted = x.float() @ router.float().T + bias.float()
    found = kernels.route(x, router, bias, config.experts_per_token)
    assert found is not None
    error = largest_error(found[2], wanted)
    seconds = bench.seconds(lambda: kernels.route(x, router, bias, config.experts_per_token))
    moved = float(router.nbytes + x.nbytes)
    operations = 2.0 * rows * router.numel()
    bench.note(f"router {name}", seconds, (moved, operations), rows=rows, error=error)

    scale = bench.random(hidden)
    seconds = bench.seconds(lambda: kernels.rms_norm(x, scale, 1e-5))
    bench.note(f"norm {name}", seconds, (2.0 * x.nbytes, 0.0), rows=rows)

    weight = bench.random(config.q_dim, hidden)
    wanted = x.float() @ weight.float().T
    moved = float(weight.nbytes + x.nbytes + BF16 * rows * config.q_dim)
    bound = (moved, 2.0 * rows * weight.numel())
    for fixed in (False, True):
        with kernels.with_same_bits(fixed):
            error = largest_error(kernels.linear(x, weight), wanted)
            seconds = bench.seconds(lambda: kernels.linear(x, weight))
        bench.note(f"product {name}", seconds, bound, rows=rows, error=error, same_bits=fixed)

    logits = bench.random(rows, config.vocab_size, dtype=torch.float32)
    wishes = [wish(n) for n in range(rows)]
    seconds = bench.seconds(lambda: begin(logits, wishes).read())
    bench.note(f"draw {name}", seconds, (float(logits.nbytes), 0.0), rows=rows)


def wish(row: int) -> Wish:
    """Temperature 1 and nothing else."""
    nothing = np.zeros(0, np.int32)
    edits = (nothing, nothing, nothing, nothing)
    return Wish((row + 0.5) % 1, 1.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, 0, edits, None)


def measure_attention(
    bench: Bench, name: str, config: ModelConfig, rows: int, depth: int, window: int | None
) -> None:
    """One layer, a token for each of `rows` sequences."""
    keys = depth + 1 if window is None else min(window, depth + 1)
    if 4 * rows * keys * config.kv_dim * BF16 > bench.free_memory():
        bench.allowance.left_out.append(f"attention of {rows} rows at {depth}: memory")
        return
    call, check = attention_of(bench, config, rows, depth, window)
    error = check() if rows * depth <= CHECKED_KEYS else None
    row = bench.note(
        f"attention {name}", bench.seconds(call), bounds.attention(config, rows, keys), rows=rows
    )
    row |= {"depth": depth, "window": window, "error": error}


def attention_of(
    bench: Bench, config: ModelConfig, rows: int, depth: int, window: int | None
) -> tuple[Callable[[], Tensor], Callable[[], float]]:
    """What attends, keys and values written before, and its error."""
    first = 0 if window is None else max(0, depth + 1 - window) // PAGE
    each = pages_of(depth + 1) - first
    numbers = np.arange(rows * each, dtype=np.int32).reshape(rows, each)
    table = PageTable(numbers, np.full(rows, first, np.int32))
    shape = (config.num_key_value_heads, config.head_dim)
    dtype = torch.float32 if bench.is_dry else torch.bfloat16
    memory = paging.cache_layer(rows * each, *shape, dtype, bench.device)
    memory.normal_(generator=bench.rng)
    group = config.num_attention_heads // config.num_key_value_heads
    queries = paging.queries_of_tile(bench.device, 1, group)
    lengths = (1,) * rows
    placed = paging.placement(table, lengths, (depth,) * rows, window, queries, bench.device)
    q = bench.random(rows, config.num_attention_heads, config.head_dim, dtype=dtype)
    new = bench.random(rows, *shape, dtype=dtype)
    angles = torch.zeros(rows, config.head_dim // 2, device=bench.device)
    sinks = bench.random(config.num_attention_heads)
    rope = (angles.cos(), angles.sin())
    scale = config.head_dim**-0.5
    rest = (rope, memory, placed, sinks, window, scale)

    def call() -> Tensor:
        return kernels.attend_pages(q, new, new, *rest)

    def check() -> float:
        found = call()
        held = memory.float().view(2, rows, each, *memory.shape[2:]).permute(0, 1, 2, 4, 3, 5)
        held = held.flatten(2, 3)[:, :, : depth + 1 - first * PAGE]
        kept = held.shape[2]
        # A packed batch of the kept keys; of each sequence the last query counts.
        lengths = (kept,) * rows
        spans = Batch.packed(lengths, bench.device).spans(window)
        queries = torch.zeros(rows, kept, *q.shape[1:], device=bench.device)
        queries[:, -1] = q.float()
        keys, values = held.flatten(1, 2)
        wanted = attention(queries.flatten(0, 1), keys, values, spans, sinks.float(), scale)
        return largest_error(found, wanted.unflatten(0, (rows, kept))[:, -1])

    return call, check


# ---- tiles ----


def best_tiles(bench: Bench, config: ModelConfig) -> list[Row]:
    """For so many rows the fastest tiles of each table, best first, as lines for tiles.py."""
    found: list[Row] = []
    for rows in bench.sizes.tiles:
        call, _ = experts_of(bench, config, rows)
        found += _fastest(bench, "EXPERTS", rows, call, _candidates(rows, bench.is_dry))
    for queries in (1, 64):
        found += _fastest_attention(bench, config, queries)
    x = bench.random(bench.sizes.alike, config.hidden_size)
    weight = bench.random(config.q_dim, config.hidden_size)

    def multiply() -> Tensor:
        with kernels.with_same_bits():
            return kernels.linear(x, weight)

    small = _candidates(1, bench.is_dry)
    return found + _fastest(bench, "LINEAR", len(x), multiply, small)


def _fastest_attention(bench: Bench, config: ModelConfig, queries: int) -> list[Row]:
    """Of `queries` new tokens of one sequence; the cut into pieces depends on the tile."""
    depth = 32 if bench.is_dry else 8192
    each = pages_of(depth + queries)
    table = PageTable(np.arange(each, dtype=np.int32)[None], np.zeros(1, np.int32))
    shape = (config.num_key_value_heads, config.head_dim)
    dtype = torch.float32 if bench.is_dry else torch.bfloat16
    memory = paging.cache_layer(each, *shape, dtype, bench.device)
    memory.normal_(generator=bench.rng)
    q = bench.random(queries, config.num_attention_heads, config.head_dim, dtype=dtype)
    group = config.num_attention_heads // config.num_key_value_heads
    scale = config.head_dim**-0.5

    def attend() -> Tensor:
        from ossia.kernels.triton.attention import attend_pages

        taken = paging.queries_of_tile(bench.device, queries, group)
        placed = paging.placement(table, (queries,), (depth,), None, taken, bench.device)
        return attend_pages(q, memory, placed, None, None, scale)

    rows = (16,) if queries == 1 else (64, 128)
    shapes = product(rows, (32, 64, 128), (4, 8), (2, 3))
    choices = [tiles.Tile(m, n, 0, warps, stages) for m, n, warps, stages in shapes]
    return _fastest(bench, "ATTENTION", queries, attend, choices[:1] if bench.is_dry else choices)


def _candidates(rows: int, is_dry: bool) -> list[tiles.Tile]:
    if is_dry:
        return [tiles.Tile(16, 64, 64, 1, 1)]
    of_rows = (16, 32) if rows <= 64 else (64, 128)
    shapes = product(of_rows, (64, 128), (4, 8), (3, 4))
    return [tiles.Tile(m, n, 64, warps, stages) for m, n, warps, stages in shapes]


def _fastest(
    bench: Bench, table: str, rows: int, call: Callable[[], object], choices: list[tiles.Tile]
) -> list[Row]:
    from triton.runtime.errors import OutOfResources

    found: list[Row] = []
    for tile in choices:
        if not bench.allowance.allows(f"tiles {table} of {rows} rows"):
            break
        try:
            with tried(table, bench.device, tile):
                seconds = bench.seconds(call)
        except OutOfResources as error:
            bench.allowance.left_out.append(f"{tile}: {error}")
            continue
        entry = f"Tile({tile.rows}, {tile.columns}, {tile.depth}, {tile.warps}, {tile.stages})"
        found.append(
            {"table": table, "rows": rows, "seconds": seconds, "tile": asdict(tile), "line": entry}
        )
    return sorted(found, key=lambda row: row["seconds"])[:3]


@contextmanager
def tried(table: str, device: torch.device, tile: tiles.Tile) -> Iterator[None]:
    """Within, a table of tiles has this one alone for the device."""
    entries: dict[int, Any] = getattr(tiles, table)
    family = tiles.family(triton.architecture(device))
    before = entries[family]
    entries[family] = tile if table == "LINEAR" else ((tiles.ANY, tile),)
    try:
        yield
    finally:
        entries[family] = before
