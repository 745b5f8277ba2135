"""`ossia train`: run a recipe, see what it would cost, or plan a layout. Its options, its help, and
what it prints.

Results go to stdout, what is going on to stderr. Torch is loaded by what is done, not by this
module.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossia.commands import arguments
from ossia.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from ossia.config import ModelConfig
    from ossia.train.pipeline import Outcome, Phase
    from ossia.train.plan.estimate import Estimate
    from ossia.train.recipes.named import Recipe
    from ossia.train.run import Run, Watcher

TEXT = """\
recipes:
  A recipe is a built-in name or a Python file; `ossia train --list` shows what there is, and
  `ossia train RECIPE --keys` what can be set. key=value replaces one value, inside groups too:
  hyper.peak_lr=1e-3 hyper.balance.mode=bias data=chats.jsonl

a run:
  Its phases have a folder each in --out. What is done is not done again; what was killed goes on where it
  was, if --resume says that this is meant. --fresh deletes what earlier runs left there. Settings that differ
  from those of what is there are an error that names them. A phase's log.jsonl has one line a step.

examples:
  ossia train --list
  ossia train sft --keys
  ossia train sft data=chats.jsonl --dry-run              what it would do, cost and need
  ossia train sft data=chats.jsonl model=gpt-oss-20b --out runs/mine
  ossia train recipes/nano.py --out runs/nano --resume
  ossia train --plan gpt-oss-120b --gpus 64               where every byte would lie
  ossia train --plan gpt-oss-20b --nodes 2 --ep 8 --fsdp 2 --checkpoint-layers
  torchrun --nproc-per-node 8 -m ossia train recipe.py parallel.fsdp=8

docs/training.md has all of it at length.
"""
PLAN_ONLY = (
    "gpus", "gpu_memory", "fsdp", "ep", "tp", "replicate", "tokens_per_gpu", "context", "precision", "optimizer",
    "checkpoint_layers", "lora", "nodes", "gpus_per_node", "bandwidth", "peak",
)  # fmt: skip
RUN_ONLY = ("list", "keys", "out", "dry_run", "resume", "fresh", "tensorboard")


def add(p: argparse.ArgumentParser) -> None:
    """The options."""
    p.add_argument(
        "recipe", nargs="?", metavar="RECIPE", help="a built-in recipe, or a Python file"
    )
    p.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values that replace the recipe's own"
    )
    p.add_argument("--list", action="store_true", help="the recipes there are")
    p.add_argument(
        "--keys",
        action="store_true",
        help="what can be set in RECIPE: names, types, values, comments",
    )
    group = p.add_argument_group("a run")
    group.add_argument("--out", metavar="DIR", help="folder of the run (default: runs/RECIPE)")
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="check, and print what it would do and cost; do nothing",
    )
    again = group.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true", help="go on with the unfinished run in --out"
    )
    again.add_argument(
        "--fresh", action="store_true", help="delete the run in --out, and begin again"
    )
    group.add_argument(
        "--tensorboard", action="store_true", help="also write event files for TensorBoard"
    )
    group.add_argument("--quiet", action="store_true", help="no progress on stderr")
    group.add_argument(
        "--json",
        action="store_true",
        help="print results as one JSON object; also of --plan, --keys",
    )
    _plan_options(p)


def _plan_options(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group(
        "a plan for many GPUs", "What is not given is chosen. Needs no GPU and no weights."
    )
    text = "gpt-oss-20b, gpt-oss-120b, nano, or a folder with a config.json: print its layout, or why it cannot be"
    group.add_argument("--plan", metavar="MODEL", help=text)
    group.add_argument(
        "--gpus",
        type=arguments.positive,
        metavar="N",
        help="how many (default: all of --nodes, or 8)",
    )
    group.add_argument(
        "--gpu-memory", type=arguments.byte_count, metavar="SIZE", help="of each (default: 80GiB)"
    )
    for name in ("fsdp", "ep", "tp", "replicate"):
        about = {"fsdp": "GPUs that share every parameter", "ep": "that share the experts", "tp": "that share heads "
                 "and widths", "replicate": "whole copies; replicate x fsdp x ep x tp is --gpus"}[name]  # fmt: skip
        group.add_argument(f"--{name}", type=arguments.positive, metavar="N", help=about)
    text = "of one step (default: 4096, or --context)"
    group.add_argument("--tokens-per-gpu", type=arguments.positive, metavar="N", help=text)
    group.add_argument(
        "--context",
        type=arguments.positive,
        metavar="N",
        help="tokens of a document (default: 4096)",
    )
    text = "of products (default: bfloat16)"
    group.add_argument("--precision", choices=("bfloat16", "float32"), help=text)
    group.add_argument("--optimizer", choices=("adamw", "muon"), help="(default: adamw)")
    text = "keep a layer's input alone, and compute the rest again"
    group.add_argument("--checkpoint-layers", action="store_true", default=None, help=text)
    group.add_argument(
        "--lora", type=arguments.positive, metavar="RANK", help="low-rank changes only; on one GPU"
    )
    group.add_argument(
        "--nodes", type=arguments.positive, metavar="N", help="machines (default: as --gpus needs)"
    )
    group.add_argument("--gpus-per-node", type=arguments.positive, metavar="N", help="(default: 8)")
    text = "GB/s of one GPU, one way, inside a node and between nodes (default: 450/50, an H100's)"
    group.add_argument("--bandwidth", type=_bandwidth, metavar="INTRA/INTER", help=text)
    text = "TFLOP/s of one GPU (default: 989 for bfloat16, 67 for float32, an H100's)"
    group.add_argument("--peak", type=_positive_number, metavar="X", help=text)


def takes(args: argparse.Namespace, rest: Sequence[str]) -> bool:
    """Whether words that argparse did not place are this command's overrides; they are then."""
    if getattr(args, "run", None) is not train or not all(
        re.match(r"[A-Za-z_][\w.]*=", word) for word in rest
    ):
        return False
    args.overrides += rest
    return True


def train(args: argparse.Namespace) -> None:
    """Raises `ConfigError` or `TrainingError` for what cannot be done."""
    if args.plan is not None:
        if args.recipe is not None:
            raise ConfigError(
                f"--plan is for a model, {args.recipe!r} would be a recipe: give one of them"
            )
        if given := [name for name in RUN_ONLY if getattr(args, name)]:
            raise ConfigError(
                f"{_option(given[0])} is for a recipe, and --plan runs none: leave it out"
            )
        _plan(args)
        return
    if given := [name for name in PLAN_ONLY if getattr(args, name) is not None]:
        raise ConfigError(
            f"{_option(given[0])} is for --plan MODEL; a run takes such things from its recipe's keys"
        )
    if args.list:
        _list(args)
        return
    if args.recipe is None:
        raise ConfigError(
            "nothing to train: give a recipe (`ossia train --list` shows them) or --plan MODEL"
        )
    from ossia.train import overrides
    from ossia.train.recipes import named as recipes

    if "=" in args.recipe:
        raise ConfigError(f"the recipe comes first: ossia train RECIPE {args.recipe}")
    recipe = recipes.load(args.recipe)
    config = overrides.apply(recipe.config, args.overrides)
    if args.keys:
        _keys(recipe, config, args.json)
        return
    out = Path(args.out) if args.out else Path("runs", recipe.name)
    phases = recipe.phases(config, out)
    if args.dry_run:
        _dry_run(phases, out, overrides.flat(config), args)
    else:
        _run(phases, out, overrides.flat(config), args)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


# ---- a run ---------------------------------------------------------------------------------------


def _run(
    phases: Sequence[Phase], out: Path, settings: dict[str, Any], args: argparse.Namespace
) -> None:
    from ossia.train.pipeline import PIPELINE, run_pipeline
    from ossia.train.plan.estimate import check_disk

    leads = os.environ.get("RANK", "0") == "0"
    if leads and not args.fresh:
        check_disk(phases, out)
    screen = _Screen(phases, quiet=args.quiet or not leads, tensorboard=args.tensorboard and leads)
    try:
        with contextlib.closing(screen):
            done = run_pipeline(
                phases, out, settings=settings, resume=args.resume, fresh=args.fresh,
                watch=screen.watchers, tell=screen.tell,
            )  # fmt: skip
    except KeyboardInterrupt:
        if leads:
            given = shlex.join([args.recipe, *args.overrides, "--out", str(out), "--resume"])
            print(f"\nstopped; to go on: ossia train {given}", file=sys.stderr)
        raise
    if leads and args.json:
        print((out / PIPELINE).read_text(encoding="utf-8"), end="")
    elif leads:
        print("\n".join(_summary(done, out)))


class _Screen:
    """What is shown while phases run, and the watchers of the one that runs."""

    def __init__(self, phases: Sequence[Phase], quiet: bool, tensorboard: bool) -> None:
        self.phases, self.quiet, self.tensorboard = phases, quiet, tensorboard
        self.open = contextlib.ExitStack()
        self.phase: Phase | None = None

    def tell(self, phase: Phase, what: str) -> None:
        self.close()
        self.phase = phase
        if self.quiet or what == "done":
            return
        at = f"[{[other.name for other in self.phases].index(phase.name) + 1}/{len(self.phases)}]"
        how = {"skipped": " (done before)", "resumes": " (goes on)"}.get(what, "")
        print(f"{at} {phase.name}: {phase.does}{how}", file=sys.stderr, flush=True)

    def watchers(self, run: Run) -> list[Watcher]:
        from ossia.train.progress import Progress

        found: list[Watcher] = []
        if not self.quiet:
            flops, peak = self._speeds(run)
            found.append(self.open.enter_context(Progress(run.name, flops=flops, peak=peak)))
        if self.tensorboard:
            found += self._tensorboard(run)
        return found

    def _speeds(self, run: Run) -> tuple[float, float]:
        """Operations of a token, and those a second that this process could do; 0 if that cannot be
        told.
        """
        if run.parallel is not None:
            return 0.0, 0.0
        import torch

        from ossia.train.plan.cost import flops_per_token, peak_flops

        context = (self.phase.context if self.phase is not None else None) or run.hyper.longest
        return flops_per_token(run.config, context), peak_flops(
            getattr(torch, run.hyper.precision), run.hyper.shards
        )

    def _tensorboard(self, run: Run) -> list[Watcher]:
        from ossia.train.tensorboard import TensorBoard

        try:
            made = TensorBoard(run.out / "tensorboard")
        except TrainingError as error:
            print(f"ossia: {error}", file=sys.stderr)
            self.tensorboard = False
            return []
        self.open.callback(made.close)
        return [made]

    def close(self) -> None:
        self.open.close()


def _summary(done: Sequence[Outcome], out: Path) -> Iterator[str]:
    from ossia.train.progress import clock_time

    width = max(len(outcome.name) for outcome in done)
    for outcome in done:
        before = "   done before" if outcome.skipped else ""
        yield f"  {outcome.name:<{width}}  {clock_time(outcome.seconds):>10}{before}"
    yield f"  {'in all':<{width}}  {clock_time(sum(outcome.seconds for outcome in done)):>10}   {out}"


# ---- a dry run -----------------------------------------------------------------------------------


def _dry_run(
    phases: Sequence[Phase], out: Path, settings: dict[str, Any], args: argparse.Namespace
) -> None:
    """Prints the plan, then raises what would stop the run."""
    from ossia.train.pipeline import check_needs, check_settings
    from ossia.train.plan.estimate import estimate

    found = estimate(phases, out)
    print(
        json.dumps(found.as_json(), indent=2)
        if args.json
        else "\n".join(_estimate_lines(found, out))
    )
    check_needs(phases)
    for phase in phases if not args.fresh else ():
        check_settings(phase, out, settings)
    if problems := found.problems():
        raise TrainingError("; ".join(problems))


def _estimate_lines(found: Estimate, out: Path) -> Iterator[str]:
    from ossia.figures import human_bytes, human_count
    from ossia.train.plan.estimate import MFU
    from ossia.train.progress import clock_time

    width = max(5, *(len(phase.name) for phase in found.phases))
    heads = f"{'tokens':>13}{'parameters':>18}{'FLOPs':>10}{'memory':>11}{'time':>10}{'disk':>11}"
    yield f"{'phase':<{width}}  {'state':<10}{heads}"
    for p in found.phases:
        size = (
            "-"
            if p.parameters is None
            else f"{human_count(p.parameters)} / {human_count(p.active or 0)}"
        )
        flops = "-" if p.flops is None else f"{p.flops:.1e}"
        memory = human_bytes(p.total_memory) if p.memory else "-"
        seconds = "-" if p.seconds is None else "~" + clock_time(p.seconds)
        tokens = f"{p.tokens:,}" if p.tokens else "-"
        disk = human_bytes(p.disk) if p.disk else "-"
        yield f"{p.name:<{width}}  {p.state:<10}{tokens:>13}{size:>18}{flops:>10}{memory:>11}{seconds:>10}{disk:>11}"
    yield ""
    yield from (f"{p.name:<{width}}  {p.does}" for p in found.phases)
    yield ""
    largest = max(found.phases, key=lambda phase: phase.total_memory)
    if largest.memory:
        items = ", ".join(
            f"{name} {human_bytes(size)}" for name, size in largest.memory.items() if size
        )
        whose = (
            f"of {human_bytes(found.memory)}"
            if largest.processes == 1
            else f"in each of {largest.processes} processes"
        )
        yield f"memory  {human_bytes(largest.total_memory)} {whose} in {largest.name}: {items}"
        speed = f"{found.peak / 1e9:.0f} GFLOP/s, measured now on {found.threads} threads"
        spread = any(phase.processes > 1 for phase in found.left)
        but = "; phases on several processes are not in it" if spread else ""
        yield f"time    ~{clock_time(found.seconds)} for what is left, at {MFU:.0%} (assumed) of {speed}{but}"
    yield f"disk    {human_bytes(found.disk)} for what is left; {human_bytes(found.free_disk)} are free for {out}"
    yield "parameters are all / active for one token; nothing was run"


# ---- what there is -------------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> None:
    from ossia.train.recipes import named as recipes

    found = recipes.listed()
    if args.json:
        print(json.dumps(found, indent=2))
        return
    width = max((len(name) for name in found), default=0)
    for name, does in found.items():
        print(f"  {name:<{width}}  {does}")
    print(
        "\nossia train RECIPE --keys shows what can be set. Any Python file with Config and phases is a recipe."
    )


def _keys(recipe: Recipe, config: Any, as_json: bool) -> None:
    from dataclasses import asdict

    from ossia.train import overrides

    found = overrides.keys(config)
    if as_json:
        print(json.dumps([asdict(key) for key in found], indent=2))
        return
    print(f"{recipe.name}: {recipe.does}\n")
    width = max(len(f"{key.name}={key.value}") for key in found)
    for key in found:
        given = f"{key.name}={key.value}"
        print(f"  {given:<{min(width, 44)}}  {key.type}{'; ' + key.comment if key.comment else ''}")


# ---- a plan --------------------------------------------------------------------------------------


def _plan(args: argparse.Namespace) -> None:
    from ossia.train.plan import planner
    from ossia.train.plan import text as plan_text
    from ossia.train.settings import Lora

    per_node = args.gpus_per_node or 8
    gpus = args.gpus or (args.nodes or 1) * per_node
    if args.nodes and gpus > args.nodes * per_node:
        raise ConfigError(
            f"{gpus} GPUs do not fit into {args.nodes} nodes of {per_node}: give --nodes "
            f"{-(-gpus // per_node)}, or another --gpus-per-node"
        )
    context = args.context or min(4096, args.tokens_per_gpu or 4096)
    lora = Lora(rank=args.lora) if args.lora else None
    job = planner.Job(
        _config_of(args.plan), args.tokens_per_gpu or max(4096, context), context,
        args.precision or "bfloat16", args.optimizer == "muon", bool(args.checkpoint_layers), lora,
    )  # fmt: skip
    intra, inter = args.bandwidth or (450e9, 50e9)
    hardware = planner.Hardware(
        gpus, args.gpu_memory or 80 << 30, per_node, intra, inter,
        args.peak * 1e12 if args.peak else None,
    )  # fmt: skip
    given = {name: getattr(args, name) for name in ("replicate", "fsdp", "ep", "tp")}
    found = planner.plan(job, hardware, {name: n for name, n in given.items() if n is not None})
    print(
        json.dumps(plan_text.as_json(found), indent=2)
        if args.json
        else plan_text.as_text(found, args.plan)
    )


def _config_of(name: str) -> ModelConfig:
    """Of a preset, or of a folder's config.json. Raises `ConfigError`."""
    from ossia.config import PRESETS, ModelConfig

    if name in PRESETS:
        return ModelConfig.preset(name)
    path = Path(name).expanduser()
    path = path / "config.json" if path.is_dir() else path
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"--plan {name}: neither a preset ({', '.join(PRESETS)}) nor a folder with a config.json ({error.strerror})"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: no JSON: {error}") from error
    return ModelConfig.from_json(data)


def _bandwidth(text: str) -> tuple[float, float]:
    intra, slash, inter = text.partition("/")
    try:
        return _positive_number(intra) * 1e9, _positive_number(inter if slash else intra) * 1e9
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected GB/s such as 450/50, found {text!r}") from None


def _positive_number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return value
