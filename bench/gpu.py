"""The kernels of a GPU against their bounds and their reference, a whole random model, and others
beside it.

    python bench/gpu.py [--quick] [--out gpu.json] [--model gpt-oss-20b]

Needs a CUDA device and triton, eight minutes (one with --quick), and nothing from the network:
weights are random, in the published shapes. Prints a table and writes everything as JSON: device,
clocks and versions; ceilings measured here (a copy, a bfloat16 product); every kernel with its
time, its bound and its largest error beside the reference, in both models' shapes; decoding by rows
and depth, with and without graphs, with and without same bits; prompts and first tokens; the engine
with and without beginning steps early; memory; transformers and vLLM where they are installed; and
the fastest tiles, as lines for kernels/triton/tiles.py. What there was no time or memory for is
named. --dry does all of it on a tiny model in Triton's interpreter, on a CPU: its times mean
nothing, but it ends.

No device has run this yet.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from gpu_parts.bounds import Allowance
from gpu_parts.clock import DRY, FULL, QUICK, Bench, Row, measure_ceilings
from gpu_parts.layers import best_tiles, measure_layers
from gpu_parts.models import measure_whole
from gpu_parts.peers import measure_peers

import ossia
from ossia.config import ModelConfig
from ossia.kernels import triton

SECONDS = {"full": 450, "quick": 50, "dry": 1e9}
SHAPES = ("gpt-oss-20b", "gpt-oss-120b")  # of the kernels, in a full run
CLOCKS = "clocks.sm,clocks.mem,clocks.max.sm,power.draw,power.limit,temperature.gpu,driver_version"


def measure(bench: Bench, config: ModelConfig, name: str, others: dict[str, ModelConfig]) -> Row:
    """`others`: shapes of which the kernels are measured, too."""
    bench.ceilings = measure_ceilings(bench)
    found: Row = {"ceilings": asdict(bench.ceilings), "tiles": []}
    measure_layers(bench, name, config)
    if bench.allowance.allows("the whole model"):
        found |= measure_whole(bench, name, config)
    for other, shape in others.items():
        measure_layers(bench, other, shape)
    found["peers"] = measure_peers(bench, name, config)
    if bench.sizes.tiles:
        found["tiles"] = best_tiles(bench, config)
    return found


def about(device: torch.device) -> Row:
    found: Row = {"ossia": ossia.__version__, "torch": torch.__version__}
    if find_spec("triton") is not None:
        import triton as compiler

        found["triton"] = compiler.__version__
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "architecture": triton.architecture(device),
            "memory": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "clocks": clocks(device),
        }
    return found


def clocks(device: torch.device) -> str:
    """As nvidia-smi says them, units included; why not, if it does not."""
    if shutil.which("nvidia-smi") is None:
        return "nvidia-smi is not there"
    number = str(torch.cuda.get_device_properties(device).uuid)
    command = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv", f"--id=GPU-{number}"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return (run.stdout or run.stderr).strip()


def table(rows: list[Row]) -> str:
    """One line a measurement."""
    lines = [f"{'what':28} {'rows':>5} {'depth':>6} {'ms':>9} {'bound':>9} {'share':>6}  error"]
    for row in rows:
        error = row.get("error")
        said = "" if error is None else f"{error:.1e}"
        more = [word for word in ("graphs", "same_bits", "ahead") if row.get(word)]
        if row.get("window"):
            more.append("window")
        lines.append(
            f"{row['what']:28} {row['rows']:5} {row.get('depth', 0):6} "
            f"{1e3 * row['seconds']:9.3f} {1e3 * row['bound']:9.3f} {row['share']:6.0%}  "
            f"{' '.join([said, *more]).strip()}".rstrip()
        )
    return "\n".join(lines)


def told(whole: Row) -> str:
    """What stands below the table."""
    lines = [f"same bits: {whole.get('same_bits')}"]
    lines += [f"{peer}: {what}" for peer, what in whole["peers"].items()]
    for entry in whole["tiles"]:
        said = f"{entry['table']} {entry['rows']} rows: {entry['line']}"
        lines.append(f"{said}  {1e3 * entry['seconds']:.3f} ms")
    if whole["left_out"]:
        lines.append(f"left out: {'; '.join(whole['left_out'])}")
    return "\n".join(lines)


def tiny() -> ModelConfig:
    """With all that the published ones have."""
    return replace(
        ModelConfig.preset("gpt-oss-20b"),
        num_hidden_layers=2,
        layer_types=(),
        hidden_size=64,
        intermediate_size=64,
        num_experts=4,
        experts_per_token=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=128,
        sliding_window=8,
    )


def device_of(is_dry: bool) -> torch.device:
    if is_dry:
        os.environ["OSSIA_KERNELS"] = "interpret"
        device = torch.device("cpu")
    elif not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device; there is nothing to measure")
    else:
        device = torch.device("cuda", torch.cuda.current_device())
    reason = triton.why_not(device)
    if reason is not None:
        raise SystemExit(f"the kernels of a GPU do not serve here: {reason}")
    return device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--quick", action="store_true", help="a minute instead of eight")
    kinds.add_argument("--dry", action="store_true", help="without a device, on a tiny model")
    parser.add_argument("--model", default="gpt-oss-20b", help="a preset, for its shape")
    parser.add_argument("--layers", type=int, help="so many, instead of all")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    device = device_of(options.dry)
    config = tiny() if options.dry else ModelConfig.preset(options.model)
    if options.layers:
        config = replace(config, num_hidden_layers=options.layers, layer_types=())
    others: dict[str, ModelConfig] = {}
    kind = "full"
    sizes = FULL
    if options.quick:
        kind = "quick"
        sizes = QUICK
    elif options.dry:
        kind = "dry"
        sizes = DRY
    else:
        others = {name: ModelConfig.preset(name) for name in SHAPES if name != options.model}
    allowance = Allowance(SECONDS[kind], time.perf_counter)
    repeat = {"full": 15, "quick": 5, "dry": 1}[kind]
    bench = Bench(device, sizes, allowance, repeat)
    whole = {"kind": kind, "model": options.model} | about(device)
    whole |= measure(bench, config, "tiny" if options.dry else options.model, others)
    whole |= {"rows": bench.rows, "left_out": allowance.left_out}
    options.out.write_text(json.dumps(whole, indent=1) + "\n")
    print(table(bench.rows))
    print(told(whole))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
