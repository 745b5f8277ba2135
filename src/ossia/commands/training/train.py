"""`ossia train`: run a recipe, see what it would cost, or plan a layout. Its options, and what it
prints.

Results go to stdout, progress to stderr. Torch is loaded by what is done, not by this module. The
plan for many GPUs is `commands/training/plan.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ossia.commands.display import in_columns
from ossia.commands.options import Command, argument, option
from ossia.commands.training import plan
from ossia.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from ossia.train.pipeline import Outcome, Phase
    from ossia.train.plan.estimate import Estimate, PhaseCost
    from ossia.train.recipes.named import Recipe
    from ossia.train.run import Run, Watcher

EPILOG = """\
recipes:
  A recipe is a built-in name or a Python file; `ossia train --list` shows what there is, and
  `ossia train RECIPE --keys` what can be set. key=value replaces one value, inside groups too:
  hyper.peak_lr=1e-3 hyper.balance.mode=bias data=chats.jsonl

a run:
  Its phases have a folder each in --out. What is done is not done again; what was killed goes on
  where it was, if --resume says that this is meant. --fresh deletes what earlier runs left there.
  Settings that differ from those of what is there are an error that names them. A phase's log.jsonl
  has one line a step.

examples:
  ossia train --list
  ossia train sft --keys
  ossia train sft data=chats.jsonl --dry-run              what it would do, cost and need
  ossia train sft data=chats.jsonl model=gpt-oss-20b --out runs/mine
  ossia train rl reward=mine.py --out runs/mine           rewards on a task of your own
  ossia train rl --keys
  ossia train recipes/nano.py --out runs/nano --resume
  ossia train --plan gpt-oss-120b --gpus 64               where every byte would lie
  ossia train --plan gpt-oss-20b --nodes 2 --ep 8 --fsdp 2 --checkpoint-layers
  torchrun --nproc-per-node 8 -m ossia train recipe.py parallel.fsdp=8

docs/training.md has all of it at length.
"""


@dataclass(frozen=True)
class RunOptions:
    """Of a recipe's run."""

    TITLE: ClassVar[str] = "a run"
    ABOUT: ClassVar[str | None] = None

    out: str | None = option(None, "folder of the run", "DIR", shown="runs/RECIPE")
    dry_run: bool = option(False, "check, and print what it would do and cost; do nothing")
    resume: bool = option(False, "go on with the unfinished run in --out", one_of="again")
    fresh: bool = option(False, "delete the run in --out, and begin again", one_of="again")
    tensorboard: bool = option(False, "also write event files for TensorBoard")
    quiet: bool = option(False, "no progress on stderr")
    json: bool = option(False, "print results as one JSON object; also of --plan, --keys")


@dataclass(frozen=True)
class Options:
    """What `ossia train` takes."""

    recipe: str | None = argument("a built-in recipe, or a Python file", "RECIPE", None)
    overrides: tuple[str, ...] = argument("values that replace the recipe's own", "key=value", ())
    list: bool = option(False, "the recipes there are")
    keys: bool = option(False, "what can be set in RECIPE: names, types, values, comments")
    run: RunOptions = RunOptions()
    plan: plan.Options = plan.Options()


def run(options: Options) -> None:
    """Raises `ConfigError` or `TrainingError` for what cannot be done."""
    if options.plan.plan is not None:
        _check_plan(options)
        plan.run(options.plan, as_json=options.run.json)
        return
    if given := options.plan.given():
        raise ConfigError(
            f"{_flag(given[0])} is for --plan MODEL; a run takes such things from its recipe's keys"
        )
    if options.list:
        _list(options.run.json)
        return
    if options.recipe is None:
        raise ConfigError(
            "nothing to train: give a recipe (`ossia train --list` shows them) or --plan MODEL"
        )
    if "=" in options.recipe:
        raise ConfigError(f"the recipe comes first: ossia train RECIPE {options.recipe}")
    _train(options, options.recipe)


def _check_plan(options: Options) -> None:
    """Raises `ConfigError` for options of a run."""
    if options.recipe is not None:
        raise ConfigError(
            f"--plan is for a model, {options.recipe!r} would be a recipe: give one of them"
        )
    of_a_run = {"list": options.list, "keys": options.keys} | asdict(options.run)
    del of_a_run["quiet"], of_a_run["json"]
    if given := [name for name, value in of_a_run.items() if value]:
        raise ConfigError(f"{_flag(given[0])} is for a recipe, and --plan runs none: leave it out")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _train(options: Options, name: str) -> None:
    from ossia.train import overrides
    from ossia.train.recipes import named as recipes

    recipe = recipes.load(name)
    config = overrides.apply(recipe.config, options.overrides)
    if options.keys:
        _keys(recipe, config, options.run.json)
        return
    out = Path(options.run.out) if options.run.out else Path("runs", recipe.name)
    phases = recipe.phases(config, out)
    settings = overrides.flat(config)
    if options.run.dry_run:
        _dry_run(phases, out, settings, options.run)
    else:
        _run(phases, out, settings, options)


# ---- a run ---------------------------------------------------------------------------------------


def _run(phases: Sequence[Phase], out: Path, settings: dict[str, Any], options: Options) -> None:
    from ossia.train.pipeline import PIPELINE, run_pipeline
    from ossia.train.plan.estimate import check_disk

    how = options.run
    leads = os.environ.get("RANK", "0") == "0"
    if leads and not how.fresh:
        check_disk(phases, out)
    screen = _Screen(phases, quiet=how.quiet or not leads, tensorboard=how.tensorboard and leads)
    try:
        with contextlib.closing(screen):
            done = run_pipeline(
                phases,
                out,
                settings=settings,
                resume=how.resume,
                fresh=how.fresh,
                watch=screen.watchers,
                tell=screen.tell,
            )
    except KeyboardInterrupt:
        if leads:
            words = [str(options.recipe), *options.overrides, "--out", str(out), "--resume"]
            print(f"\nstopped; to go on: ossia train {shlex.join(words)}", file=sys.stderr)
        raise
    if leads and how.json:
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
        number = [other.name for other in self.phases].index(phase.name) + 1
        how = {"skipped": " (done before)", "resumes": " (goes on)"}.get(what, "")
        line = f"[{number}/{len(self.phases)}] {phase.name}: {phase.does}{how}"
        print(line, file=sys.stderr, flush=True)

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
        """Operations a token takes, and how many a second this process could do; 0 where that is
        not known.
        """
        if run.parallel is not None:
            return 0.0, 0.0
        import torch

        from ossia.train.weights.device import device_of

        if device_of(run).type != "cpu":
            return 0.0, 0.0
        from ossia.train.plan.cost import flops_per_token, peak_flops

        context = run.hyper.longest
        if self.phase is not None and self.phase.context:
            context = self.phase.context
        peak = peak_flops(getattr(torch, run.hyper.precision), run.hyper.shards)
        return flops_per_token(run.config, context), peak

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
    in_all = clock_time(sum(outcome.seconds for outcome in done))
    yield f"  {'in all':<{width}}  {in_all:>10}   {out}"


# ---- a dry run -----------------------------------------------------------------------------------


def _dry_run(
    phases: Sequence[Phase], out: Path, settings: dict[str, Any], options: RunOptions
) -> None:
    """Reads what phases would read, prints the plan, then raises what would stop the run."""
    from ossia.train.pipeline import check_needs, check_settings
    from ossia.train.plan.estimate import estimate

    found = estimate(phases, out)
    seen: dict[str, str] = {}
    try:
        check_needs(phases)
        for phase, cost in zip(phases, found.phases, strict=True):
            if phase.look is not None and cost.state != "done":
                seen[phase.name] = str(phase.look())
    finally:
        if options.json:
            print(json.dumps(found.as_json() | {"found": seen}, indent=2))
        else:
            print("\n".join(_estimate_lines(found, out)))
            print("".join(f"\n{name}: {text}\n" for name, text in seen.items()), end="")
    for phase in phases if not options.fresh else ():
        check_settings(phase, out, settings)
    if problems := found.problems():
        raise TrainingError("; ".join(problems))


def _estimate_lines(found: Estimate, out: Path) -> Iterator[str]:
    heads = ("phase", "state", "tokens", "parameters", "FLOPs", "memory", "time", "disk")
    yield from in_columns([heads, *map(_phase_row, found.phases)], indent=0, right=6)
    yield ""
    yield from in_columns([(phase.name, phase.does) for phase in found.phases], indent=0)
    yield ""
    yield from _total_lines(found, out)
    yield "parameters are all / active for one token; nothing was run"


def _phase_row(phase: PhaseCost) -> tuple[str, ...]:
    """What is not known is "-"."""
    from ossia.figures import human_bytes, human_count
    from ossia.train.progress import clock_time

    tokens = f"{phase.tokens:,}" if phase.tokens else "-"
    size = flops = seconds = "-"
    if phase.parameters is not None:
        size = f"{human_count(phase.parameters)} / {human_count(phase.active or 0)}"
    if phase.flops is not None:
        flops = f"{phase.flops:.1e}"
    if phase.seconds is not None:
        seconds = "~" + clock_time(phase.seconds)
    memory = human_bytes(phase.total_memory) if phase.memory else "-"
    disk = human_bytes(phase.disk) if phase.disk else "-"
    return phase.name, phase.state, tokens, size, flops, memory, seconds, disk


def _total_lines(found: Estimate, out: Path) -> Iterator[str]:
    """What the whole run needs of memory, time and disk."""
    from ossia.figures import human_bytes
    from ossia.train.plan.estimate import MFU
    from ossia.train.progress import clock_time

    largest = max(found.phases, key=lambda phase: phase.total_memory)
    if largest.memory:
        yield f"memory  {_memory_text(found, largest)}"
        speed = f"{found.peak / 1e9:.0f} GFLOP/s, measured now on {found.threads} threads"
        share = f"at {MFU:.0%} (assumed) of {speed}"
        spread = any(phase.processes > 1 for phase in found.left)
        but = "; phases on several processes are not in it" if spread else ""
        yield f"time    ~{clock_time(found.seconds)} for what is left, {share}{but}"
    free = human_bytes(found.free_disk)
    yield f"disk    {human_bytes(found.disk)} for what is left; {free} are free for {out}"


def _memory_text(found: Estimate, phase: PhaseCost) -> str:
    from ossia.figures import human_bytes

    items = [f"{name} {human_bytes(size)}" for name, size in (phase.memory or {}).items() if size]
    whose = f"of {human_bytes(found.memory)}"
    if phase.processes > 1:
        whose = f"in each of {phase.processes} processes"
    return f"{human_bytes(phase.total_memory)} {whose} in {phase.name}: {', '.join(items)}"


# ---- what there is -------------------------------------------------------------------------------


def _list(as_json: bool) -> None:
    from ossia.train.recipes import named as recipes

    found = recipes.listed()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print("\n".join(in_columns(list(found.items()))))
    print(
        "\nossia train RECIPE --keys shows what can be set. "
        "Any Python file with Config and phases is a recipe."
    )


def _keys(recipe: Recipe, config: Any, as_json: bool) -> None:
    from ossia.train import overrides

    found = overrides.keys(config)
    if as_json:
        print(json.dumps([asdict(key) for key in found], indent=2))
        return
    print(f"{recipe.name}: {recipe.does}\n")
    given = [f"{key.name}={key.value}" for key in found]
    width = min(44, max(map(len, given)))
    for key, words in zip(found, given, strict=True):
        comment = f"; {key.comment}" if key.comment else ""
        print(f"  {words:<{width}}  {key.type}{comment}")


COMMAND = Command(Options, run, EPILOG)
