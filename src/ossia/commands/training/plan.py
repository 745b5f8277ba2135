"""`ossia train --plan`: its options, and how a model is laid out over many GPUs.

Needs no GPU and no weights.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ossia.commands.options import Positive, PositiveNumber, Size, option, positive_number
from ossia.errors import ConfigError
from ossia.train.settings import OptimizerName

if TYPE_CHECKING:
    from ossia.config import ModelConfig
    from ossia.train.plan import layout

CONTEXT = 4096  # tokens of a document, and of one step on a GPU
GPUS_PER_NODE = 8
# Bytes of memory. An H200 is an H100 with other memory: as many operations and links (data sheets);
# of its 141 GB CUDA reports 139 GiB.
GPU_MEMORY = {"h100": 80 << 30, "h200": 139 << 30}
BANDWIDTH = (450e9, 50e9)  # bytes a second


def _bandwidth(text: str) -> tuple[float, float]:
    """ "450/50" in GB/s, or one number for both."""
    intra, slash, inter = text.partition("/")
    try:
        return positive_number(intra) * 1e9, positive_number(inter if slash else intra) * 1e9
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected GB/s such as 450/50, found {text!r}") from None


@dataclass(frozen=True)
class Options:
    """What `ossia train --plan` takes."""

    TITLE: ClassVar[str] = "a plan for many GPUs"
    ABOUT: ClassVar[str | None] = "What is not given is chosen. Needs no GPU and no weights."

    plan: str | None = option(
        None,
        "gpt-oss-20b, gpt-oss-120b, nano, or a folder with a config.json: print its layout, or why "
        "it cannot be",
        "MODEL",
    )
    gpus: Positive | None = option(None, "how many", "N", shown="all of --nodes, or 8")
    gpu: Literal["h100", "h200"] | None = option(None, "80 or 139 GiB of memory", shown="h100")
    gpu_memory: Size | None = option(None, "of each", "SIZE", shown="that of --gpu")
    fsdp: Positive | None = option(None, "GPUs that share every parameter", "N")
    ep: Positive | None = option(None, "that share the experts", "N")
    tp: Positive | None = option(None, "that share heads and widths", "N")
    replicate: Positive | None = option(
        None, "whole copies; replicate x fsdp x ep x tp is --gpus", "N"
    )
    tokens_per_gpu: Positive | None = option(None, "of one step", "N", shown="4096, or --context")
    context: Positive | None = option(None, "tokens of a document", "N", shown="4096")
    precision: Literal["bfloat16", "float32"] | None = option(None, "of products", shown="bfloat16")
    optimizer: OptimizerName | None = option(None, "", shown="adamw")
    checkpoint_layers: bool = option(
        False, "keep a layer's input alone, and compute the rest again"
    )
    lora: Positive | None = option(None, "low-rank changes only; on one GPU", "RANK")
    nodes: Positive | None = option(None, "machines", "N", shown="as --gpus needs")
    gpus_per_node: Positive | None = option(None, "", "N", shown="8")
    bandwidth: Annotated[tuple[float, float], _bandwidth] | None = option(
        None,
        "GB/s of one GPU, one way, inside a node and between nodes",
        "INTRA/INTER",
        shown="450/50, an H100's",
    )
    peak: PositiveNumber | None = option(
        None,
        "TFLOP/s of one GPU",
        "X",
        shown="989 for bfloat16, 67 for float32, an H100's",
    )

    def given(self) -> list[str]:
        """The names of those that were given."""
        return [one.name for one in fields(self) if getattr(self, one.name) != one.default]


def run(options: Options, *, as_json: bool) -> None:
    """Raises `ConfigError` for a model or a layout that cannot be."""
    from ossia.train.plan import planner
    from ossia.train.plan import text as plan_text

    assert options.plan is not None
    sizes = {name: getattr(options, name) for name in ("replicate", "fsdp", "ep", "tp")}
    chosen = {name: size for name, size in sizes.items() if size is not None}
    found = planner.plan(_job(options, _config_of(options.plan)), _hardware(options), chosen)
    if as_json:
        print(json.dumps(plan_text.as_json(found), indent=2))
    else:
        print(plan_text.as_text(found, options.plan))


def _hardware(options: Options) -> layout.Hardware:
    from ossia.train.plan import layout

    per_node = options.gpus_per_node or GPUS_PER_NODE
    gpus = options.gpus or (options.nodes or 1) * per_node
    if options.nodes and gpus > options.nodes * per_node:
        raise ConfigError(
            f"{gpus} GPUs do not fit into {options.nodes} nodes of {per_node}: give --nodes "
            f"{-(-gpus // per_node)}, or another --gpus-per-node"
        )
    intra, inter = options.bandwidth or BANDWIDTH
    peak = None if options.peak is None else options.peak * 1e12
    memory = options.gpu_memory or GPU_MEMORY[options.gpu or "h100"]
    return layout.Hardware(gpus, memory, per_node, intra, inter, peak)


def _job(options: Options, config: ModelConfig) -> layout.Job:
    from ossia.train.plan import layout
    from ossia.train.settings import Lora

    context = options.context or min(CONTEXT, options.tokens_per_gpu or CONTEXT)
    tokens = options.tokens_per_gpu or max(CONTEXT, context)
    precision = options.precision or "bfloat16"
    optimizer = options.optimizer or "adamw"
    lora = Lora(rank=options.lora) if options.lora else None
    return layout.Job(
        config, tokens, context, precision, optimizer, options.checkpoint_layers, lora
    )


def _config_of(name: str) -> ModelConfig:
    """Of a preset, or of a folder's config.json. Raises `ConfigError`."""
    from ossia.config import PRESETS, ModelConfig

    if name in PRESETS:
        return ModelConfig.preset(name)
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / "config.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"--plan {name}: neither a preset ({', '.join(PRESETS)}) nor a folder with a "
            f"config.json ({error.strerror})"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    return ModelConfig.from_json(data)
