"""`ossia convert`: a checkpoint in another layout, or random weights in the shape of one."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ossia.commands.options import Command, Positive, argument, option
from ossia.errors import RequestError

if TYPE_CHECKING:
    from ossia.checkpoint.writer import Progress
    from ossia.mxfp4 import RoundingError

EPILOG = """\
layouts:
  hf         as on Hugging Face: experts in MXFP4 (4.25 bits a weight), everything else in bfloat16
  original   OpenAI's own names, experts in MXFP4
  hf-bf16    as on Hugging Face, all in bfloat16: three times as large; for tools without MXFP4
  gguf       one file for llama.cpp: experts in MXFP4, other matrices in --dense, tokenizer inside

examples:
  ossia convert gpt-oss-20b gpt-oss-20b-bf16 --to hf-bf16
  ossia convert my-trained-model my-model --to hf --rule best
  ossia convert gpt-oss-20b --to gguf --dense q8_0 20b.gguf
  ossia convert --random gpt-oss-120b big --layers 4   random weights: to measure speed, no download

rules for the scale of a block of 32 weights, where experts are quantized:
  rceil      the smallest power of two that clips nothing; exact for weights that MXFP4 can hold
  floor      the OCP rule: values above 6 scales are clipped
  even       floor, after rounding the block's largest value: clips less
  best       of floor's and the next larger, the one with the smaller squared error, block by block

MXFP4 blocks go between hf, original and gguf without loss; SRC may be a GGUF file too, of one in
parts any part. Experts in other formats are rounded to MXFP4, and what that cost is printed;
hf-bf16 keeps them. DST appears only when it is complete; the disk's free space is checked before
anything is written. Tokenizer files go along.
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `ossia convert` takes."""

    src: str | None = argument("what to read: a folder, nano, or a hub model", "SRC", None)
    dst: str = argument("the folder to write; with --to gguf, the file", "DST")
    to: Literal["hf", "original", "hf-bf16", "gguf"] = option("hf", "layout")
    dense: Literal["bf16", "q8_0"] | None = option(
        None, "of --to gguf: embeddings and attention in 16 bits, or in 8.5", shown="bf16"
    )
    rule: Literal["floor", "rceil", "even", "best"] = option("rceil", "of quantization, see below")
    overwrite: bool = option(False, "replace DST, once the new one is complete")
    random: str | None = option(
        None,
        "instead of SRC: random weights in the shape of gpt-oss-20b, gpt-oss-120b or nano",
        "PRESET",
    )
    seed: int = option(0, "of --random", "N")
    layers: Positive | None = option(None, "of --random: not as many as the preset", "N")


def run(options: Options) -> None:
    """Raises `RequestError` for options that do not go together."""
    if (options.src is None) == (options.random is None):
        raise RequestError("convert needs either SRC, a checkpoint to read, or --random PRESET")
    if options.to == "gguf" and options.random is not None:
        raise RequestError("--random writes safetensors; convert what it wrote to gguf afterwards")
    if options.dense and options.to != "gguf":
        raise RequestError("--dense is for --to gguf only")
    from ossia.commands.display import progress

    with progress(f"writing {options.dst}", "bytes") as tell:
        cost = _write(options, tell)
    _print_sizes(options)
    if cost is not None:
        print(f"note: {cost}", file=sys.stderr)
    if options.to == "gguf":
        _print_note(options.dst)


def _write(options: Options, tell: Progress) -> RoundingError | None:
    """What rounding experts to MXFP4 cost, where they were not in it."""
    from ossia import checkpoint, hub

    replaced: dict[str, Any] = {"overwrite": options.overwrite}
    if options.src is None:
        config = _random_config(options)
        to: Any = options.to
        checkpoint.write_random(config, options.dst, options.seed, to, tell, **replaced)
        return None
    source = hub.find(options.src)
    if options.to == "gguf":
        dense = options.dense or "bf16"
        return checkpoint.write_gguf(source, options.dst, dense, tell, options.rule, **replaced)
    return checkpoint.convert(source, options.dst, options.to, tell, options.rule, **replaced)


def _random_config(options: Options) -> Any:
    from ossia.config import ModelConfig

    assert options.random is not None
    config = ModelConfig.preset(options.random)
    if options.layers is None:
        return config
    return replace(config, num_hidden_layers=options.layers, layer_types=())


def _print_sizes(options: Options) -> None:
    from ossia.figures import human_bytes

    written = Path(options.dst)
    files = sorted(written.iterdir()) if written.is_dir() else [written]
    sizes = {path.name: path.stat().st_size for path in files}
    for name, size in sizes.items():
        print(f"{human_bytes(size):>12}  {name}")
    total = human_bytes(sum(sizes.values()))
    print(f"{total:>12}  in {options.dst}, layout {options.to}")


def _print_note(dst: str) -> None:
    from ossia import checkpoint

    if note := checkpoint.computed_otherwise(checkpoint.open_checkpoint(dst).config):
        print(f"note: {note}", file=sys.stderr)


COMMAND = Command(Options, run, EPILOG)
