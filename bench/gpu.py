"""The kernels of a GPU against their bounds and their reference, and a whole random model.

    python bench/gpu.py [--quick] [--out gpu.json] [--model gpt-oss-20b]

Needs a CUDA device and triton, eight minutes (one with --quick), and nothing from the network:
weights are random, in the published shapes. Prints a table and writes everything as JSON: device
and versions; ceilings measured here (a copy, a bfloat16 product); every kernel with its time, its
bound and its largest error beside the reference; decoding by rows and depth, with and without
graphs, with and without same bits; prompts; memory; and the fastest tiles, to be put into
kernels/triton/tiles.py. What there was no time for is named.

No device has run this yet.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import gpu_bounds
import numpy as np
import torch
from gpu_bounds import Allowance, Ceilings, median_seconds
from torch import Tensor

from ossia import kernels, mxfp4
from ossia.batch import PageTable
from ossia.config import PAGE, ModelConfig
from ossia.engine.budget import make_tables
from ossia.engine.pages import pages_of
from ossia.engine.request import Request, SamplingParams
from ossia.engine.runner import Runner
from ossia.engine.scheduler import Work
from ossia.kernels import triton
from ossia.kernels.triton import paging, tiles
from ossia.model import Transformer

Row = dict[str, Any]
COPIES = 6  # of a kernel's weights, taken in turns, so that none is found in a cache
LIMIT = 7.0


class Bench:
    """What is measured on one device, and with which clock."""

    def __init__(self, device: torch.device, quick: bool, allowance: Allowance) -> None:
        self.device = device
        self.allowance = allowance
        self.repeat = 5 if quick else 15
        self.rng = torch.Generator(device=device).manual_seed(0)
        self.rows: list[Row] = []
        self.ceilings = Ceilings(1.0, 1.0)

    def seconds(self, call: Callable[[], object]) -> float:
        return median_seconds(call, self.wait, time.perf_counter, self.repeat)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def note(self, what: str, seconds: float, bound: tuple[float, float], **more: Any) -> Row:
        least = self.ceilings.seconds(*bound)
        row = {"what": what, "seconds": seconds, "bound": least, "share": least / seconds, **more}
        self.rows.append(row)
        return row

    def random(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        made = torch.randn(shape, generator=self.rng, device=self.device)
        return made.to(dtype)

    def random_packed(self, experts: int, rows: int, columns: int) -> tuple[Tensor, ...]:
        shape = (experts, rows, columns // 32)
        settings = {"generator": self.rng, "device": self.device, "dtype": torch.uint8}
        blocks = torch.randint(0, 256, (*shape, 16), **settings)
        scales = torch.randint(117, 122, shape, **settings)
        return blocks, scales, self.random(experts, rows)


def ceilings(bench: Bench, size: int = 1 << 30, width: int = 8192) -> Ceilings:
    """Bytes a second of a copy (read and written), operations a second of a product."""
    source = torch.empty(size, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    copied = bench.seconds(lambda: target.copy_(source))
    a = bench.random(width, width)
    multiplied = bench.seconds(lambda: a @ a)
    return Ceilings(2 * size / copied, 2 * width**3 / multiplied)


# ---- kernels ----


def measure_experts(bench: Bench, name: str, config: ModelConfig, rows: int) -> None:
    """Both products of a layer, with the error beside the reference for few rows."""
    hidden = config.hidden_size
    width = config.intermediate_size
    layers = [
        (
            bench.random_packed(config.num_experts, 2 * width, hidden),
            bench.random_packed(config.num_experts, hidden, width),
        )
        for _ in range(COPIES if bench.device.type == "cuda" else 1)
    ]
    x = bench.random(rows, hidden)
    logits = bench.random(rows, config.num_experts, dtype=torch.float32)
    choice = logits.topk(config.experts_per_token).indices
    weight = logits.gather(1, choice).softmax(-1)
    turn = iter(range(1 << 30))

    def call() -> Tensor | None:
        gate_up, down = layers[next(turn) % len(layers)]
        return kernels.packed_experts(x, choice, weight, gate_up, down, LIMIT)

    error = None
    if rows <= 16:
        found = kernels.packed_experts(x, choice, weight, *layers[0], LIMIT)
        assert found is not None
        error = largest_error(found, reference_experts(x, choice, weight, layers[0]))
    bound = gpu_bounds.experts(config, rows)
    bench.note(f"experts {name}", bench.seconds(call), bound, rows=rows, error=error)


def reference_experts(x: Tensor, choice: Tensor, weight: Tensor, layer: Any) -> Tensor:
    def matrix_of(packed: Any) -> Callable[[int, torch.dtype], Tensor]:
        return lambda expert, dtype: mxfp4.decode(packed[0][expert], packed[1][expert], dtype)

    pairs = [(matrix_of(packed), packed[2].float()) for packed in layer]
    return kernels.experts(x.float(), choice, weight, *pairs, LIMIT)


def largest_error(found: Tensor, wanted: Tensor) -> float:
    """Relative to the largest value."""
    difference = (found.float() - wanted.float()).abs().max()
    return float(difference / wanted.float().abs().max())


def measure_attention(
    bench: Bench, name: str, config: ModelConfig, rows: int, depth: int, window: int | None
) -> None:
    """One layer, a token for each of `rows` sequences."""
    pages = pages_of(depth + 1)
    first = 0 if window is None else max(0, depth + 1 - window) // PAGE
    each = pages - first
    numbers = np.arange(rows * each, dtype=np.int32).reshape(rows, each)
    table = PageTable(numbers, np.full(rows, first, np.int32))
    shape = (config.num_key_value_heads, config.head_dim)
    memory = paging.cache_layer(rows * each, *shape, torch.bfloat16, bench.device)
    memory.normal_(generator=bench.rng)
    group = config.num_attention_heads // config.num_key_value_heads
    queries = paging.queries_of_tile(bench.device, 1, group)
    lengths = (1,) * rows
    placed = paging.placement(table, lengths, (depth,) * rows, window, queries, bench.device)
    q = bench.random(rows, config.num_attention_heads, config.head_dim)
    new = bench.random(rows, *shape)
    angles = torch.zeros(rows, config.head_dim // 2, device=bench.device)
    sinks = bench.random(config.num_attention_heads)
    rope = (angles.cos(), angles.sin())
    rest = (rope, memory, placed, sinks, window, config.head_dim**-0.5)
    seconds = bench.seconds(lambda: kernels.attend_pages(q, new, new, *rest))
    keys = depth + 1 if window is None else min(window, depth + 1)
    bound = gpu_bounds.attention(config, rows, keys)
    bench.note(f"attention {name}", seconds, bound, rows=rows, depth=depth, window=window)


def best_tiles(bench: Bench, config: ModelConfig, rows: int) -> list[Row]:
    """The fastest tiles of the experts for so many rows, best first."""
    from ossia.kernels.triton import experts
    from ossia.kernels.triton.routing import routing

    hidden = config.hidden_size
    packed = bench.random_packed(config.num_experts, 2 * config.intermediate_size, hidden)
    x = bench.random(rows, hidden)
    logits = bench.random(rows, config.num_experts, dtype=torch.float32)
    choice = logits.topk(config.experts_per_token).indices
    found = []
    for tile in candidates(rows):
        routed = routing(choice, config.num_experts, tile.rows)
        given = (x, routed, packed, config.experts_per_token, LIMIT, tile)
        seconds = bench.seconds(lambda given=given: experts.experts_up(*given))
        found.append({"rows": rows, "seconds": seconds, "tile": asdict(tile)})
    return sorted(found, key=lambda row: row["seconds"])[:3]


def candidates(rows: int) -> Iterator[tiles.Tile]:
    of_rows = (16, 32) if rows <= 64 else (32, 64, 128)
    for m, n, warps, stages in product(of_rows, (64, 128), (4, 8), (2, 3, 4)):
        yield tiles.Tile(m, n, 64, warps, stages)


# ---- a whole model ----


def random_model(config: ModelConfig, device: torch.device) -> Transformer:
    """Made on the device; nothing is written or read."""
    with torch.device("meta"):
        model = Transformer(config, "packed")
    model = model.to(torch.bfloat16).to_empty(device=device).requires_grad_(False).eval()
    rng = torch.Generator(device=device).manual_seed(0)
    for name, weight in model.named_parameters():
        model.init_weight(name, weight, rng)
    for name, buffer in model.named_buffers():
        low, high = (0, 256) if name.endswith("blocks") else (112, 116)
        buffer.copy_(torch.randint(low, high, buffer.shape, generator=rng, device=device))
    model.compute_dtype = torch.bfloat16
    model.kv_kind = "bf16"
    return model


def runner_at(
    model: Transformer,
    rows: int,
    depth: int,
    chunk: int,
    graphs: bool = False,
    same_bits: bool = False,
) -> tuple[Runner, list[Work]]:
    """`rows` sequences that have `depth` tokens in the cache, and `chunk` new ones each."""
    tokens = rows * (depth + chunk + PAGE)
    tables = make_tables(model.config, tokens, rows, rows * chunk, snapshots=False)
    runner = Runner(model, tables, same_bits=same_bits, graph_rows=rows if graphs else 0)
    for memory in runner.cache.layers:
        memory.zero_()
    works = []
    for n in range(rows):
        ids = [(7 * n + place) % model.config.vocab_size for place in range(depth + chunk)]
        request = Request(n, tuple(ids), SamplingParams(), limit=1)
        request.computed = depth
        tables.grow(n, 0, depth + chunk)
        works.append(Work(request, chunk))
    return runner, works


def measure_model(
    bench: Bench, name: str, model: Transformer, rows: int, depth: int, **options: bool
) -> None:
    runner, works = runner_at(model, rows, depth, 1, **options)
    seconds = bench.seconds(lambda: runner.run(works))
    bound = gpu_bounds.decode(model.config, rows, depth)
    row = bench.note(f"decode {name}", seconds, bound, rows=rows, depth=depth, **options)
    row["tokens_per_second"] = rows / seconds


def measure_prompt(bench: Bench, name: str, model: Transformer, tokens: int) -> None:
    runner, works = runner_at(model, 1, 0, tokens)
    seconds = bench.seconds(lambda: runner.run(works))
    bound = (0.0, gpu_bounds.prefill_operations(model.config, tokens))
    row = bench.note(f"prompt {name}", seconds, bound, rows=tokens)
    row["tokens_per_second"] = tokens / seconds


def same_bits(model: Transformer, rows: int) -> bool:
    """Whether a sequence's logits are the same bits alone and among `rows`."""
    runner, works = runner_at(model, rows, 0, 9, same_bits=True)
    among = runner.run(works)[0].clone()
    runner, works = runner_at(model, 1, 0, 9, same_bits=True)
    return torch.equal(runner.run(works)[0], among)


# ---- all of it ----


def measure(bench: Bench, config: ModelConfig, name: str, quick: bool) -> Row:
    found: Row = {"ceilings": {}, "tiles": [], "same_bits": None}
    bench.ceilings = ceilings(bench)
    found["ceilings"] = asdict(bench.ceilings)
    for rows in (1, 32) if quick else (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
        if bench.allowance.allows(f"experts of {rows} rows"):
            measure_experts(bench, name, config, rows)
    for rows, depth in ((1, 4096), (32, 4096)) if quick else product((1, 8, 32), (4096, 32768)):
        for window in (None, config.sliding_window):
            if bench.allowance.allows(f"attention of {rows} rows at {depth}"):
                measure_attention(bench, name, config, rows, depth, window)
    if not quick and bench.allowance.allows("tiles"):
        for rows in (8, 128, 2048):
            found["tiles"] += best_tiles(bench, config, rows)
    if not bench.allowance.allows("the whole model"):
        return found
    model = random_model(config, bench.device)
    for rows, depth in ((1, 0), (32, 4096)) if quick else product((1, 8, 32, 128), (0, 4096)):
        for graphs in (True, False):
            if bench.allowance.allows(f"decode of {rows} rows at {depth}"):
                measure_model(bench, name, model, rows, depth, graphs=graphs)
    if bench.allowance.allows("same bits"):
        measure_model(bench, name, model, 32, 0, graphs=True, same_bits=True)
        found["same_bits"] = same_bits(model, 64)
    for tokens in (2048,) if quick else (512, 2048, 8192):
        if bench.allowance.allows(f"prompt of {tokens}"):
            measure_prompt(bench, name, model, tokens)
    found["memory"] = torch.cuda.max_memory_allocated(bench.device)
    return found


def about(device: torch.device) -> Row:
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": properties.name,
        "architecture": triton.architecture(device),
        "memory": properties.total_memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def table(rows: list[Row]) -> str:
    """One line a measurement."""
    lines = [f"{'what':28} {'rows':>5} {'depth':>6} {'ms':>9} {'bound':>9} {'share':>6}  error"]
    for row in rows:
        error = row.get("error")
        said = "" if error is None else f"{error:.1e}"
        more = [word for word in ("graphs", "same_bits") if row.get(word)]
        if row.get("window"):
            more.append("window")
        lines.append(
            f"{row['what']:28} {row['rows']:5} {row.get('depth', 0):6} "
            f"{1e3 * row['seconds']:9.3f} {1e3 * row['bound']:9.3f} {row['share']:6.0%}  "
            f"{' '.join([said, *more]).strip()}".rstrip()
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a minute instead of eight")
    parser.add_argument("--model", default="gpt-oss-20b", help="a preset, for its shape")
    parser.add_argument("--layers", type=int, help="so many, instead of all")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device; there is nothing to measure")
    device = torch.device("cuda", torch.cuda.current_device())
    reason = triton.why_not(device)
    if reason is not None:
        raise SystemExit(f"the kernels of a GPU do not serve here: {reason}")
    config = ModelConfig.preset(options.model)
    if options.layers:
        config = replace(config, num_hidden_layers=options.layers, layer_types=())
    allowance = Allowance(50 if options.quick else 450, time.perf_counter)
    bench = Bench(device, options.quick, allowance)
    found = measure(bench, config, options.model, options.quick)
    whole = about(device) | found | {"rows": bench.rows, "left_out": allowance.left_out}
    options.out.write_text(json.dumps(whole, indent=1) + "\n")
    print(table(bench.rows))
    if allowance.left_out:
        print("no time for:", ", ".join(allowance.left_out))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
