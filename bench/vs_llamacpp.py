"""ossia, llama.cpp and a fork of it on the same weights, on this machine, in turns: speed, memory,
first token.

    python bench/vs_llamacpp.py MODEL [--cache DIR] [--fork DIR] [--classes int8,bf16]
                                [--phases LIST] [--rounds 3] [--variant NAME=SRC] [--sides LIST]
                                [--limit 300] [--patience 120] [--json FILE]
    python bench/vs_llamacpp.py --build [--cache DIR]      builds llama.cpp, says where its probe is

MODEL is a folder as `ossia convert --random gpt-oss-20b DIR` makes it, or a published one.
llama.cpp is built from the sdist of llama-cpp-python, which holds its source (pip, a C++ compiler
and cmake; about four minutes), and MODEL is exported to GGUF, once for each class; both stay in the
cache. --fork is a folder with a fork's llama-bench and llama-batched-bench; it reads the same
files. --variant adds ossia from another source tree. What each side is told stands in peers.py,
with the three classes of precision.

Every round each side has one turn, a process of its own that is warm when it is measured; the order
moves on from round to round. Before a turn the machine is waited for, until others use less than a
tenth of a processor or for --patience seconds, and its ceilings are measured by loops that no side
shares. A turn during which others used more is marked with *. A phase that would take a side longer
than --limit seconds, by a short trial, is left out.

Printed are the medians, the first side's ratio to each other one with the smallest and largest
ratio within a round (above 1 it is better), and the share of the bound that the ceilings set
(commands/bench.py says which; others read bytes so nearly the same that it serves for them too).

First tokens are timed from the start of a process whose files are in the page cache to the first
output: `ossia generate --ids`, llama_probe.cpp, and for a fork a whole llama-bench. Peak memory is
the largest resident size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers import DECODED, DENSE, OURS, Fork, LlamaCpp, Ossia, Side, Turn, build
from watched import QUIET, run, wait_until_quiet

from ossia.commands import machine

PHASES = ("prefill_512", "prefill_2048", "decode_0", "decode_4096", "batch_8", "batch_16")


@dataclass
class Found:
    """Of one class, by the names of the sides, in the order they were given in."""

    phases: tuple[str, ...]
    turns: dict[str, list[Turn]]
    firsts: dict[str, dict[str, float]] = field(default_factory=dict)

    def speeds(self, side: str, phase: str) -> list[float]:
        return [turn.speeds[phase] for turn in self.turns[side] if phase in turn.speeds]

    def bound(self, phase: str) -> float | None:
        all_turns = [turn for turns in self.turns.values() for turn in turns]
        bounds = [turn.bounds[phase] for turn in all_turns if phase in turn.bounds]
        return statistics.median(bounds) if bounds else None


def main() -> None:
    args = arguments().parse_args()
    needs_llama = args.build or "llama" in args.sides or args.fork
    llama = build(args.cache) if needs_llama else None
    if llama is not None:
        print(f"OSSIA_LLAMA_PROBE={llama.probe}")
    if args.build:
        return
    if args.model is None:
        sys.exit("give the folder of a model")
    sides = chosen_sides(args, llama)
    print(
        f"{time.strftime('%Y-%m-%d %H:%M')}  {machine.cpu_name()}: {' '.join(machine.cpu_flags())}"
    )
    record: dict[str, Any] = {"machine": machine.cpu_name(), "threads": args.threads, "classes": {}}
    for precision in args.classes.split(","):
        found = compare(sides, precision, args)
        record["classes"][precision] = asdict(found)
        if args.json:
            args.json.write_text(json.dumps(record, indent=1))
        print(table(found), flush=True)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, help="a folder with a checkpoint")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "ossia" / "llama.cpp"
    )
    parser.add_argument(
        "--fork", type=Path, help="a folder with a fork's llama-bench and llama-batched-bench"
    )
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME=SRC", help="another ossia"
    )
    parser.add_argument(
        "--sides", default="ossia,llama", help="in this order (default: ossia,llama)"
    )
    parser.add_argument("--classes", default="int8,bf16")
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=machine.processors())
    parser.add_argument("--load-mode", help="llama.cpp's, instead of trying: none or mmap")
    parser.add_argument(
        "--limit", type=float, default=300, help="seconds that a phase of one side may take"
    )
    parser.add_argument(
        "--patience", type=float, default=120, help="seconds to wait for an idle machine, a turn"
    )
    parser.add_argument("--json", type=Path, help="everything measured")
    parser.add_argument("--build", action="store_true", help="build llama.cpp and stop")
    return parser


def chosen_sides(args: argparse.Namespace, llama: Any) -> list[Side]:
    sides: list[Side] = []
    for name in args.sides.split(","):
        if name == "ossia":
            sides.append(Ossia(args.model, args.threads))
        elif name == "llama":
            sides.append(LlamaCpp(llama, args.model, args.threads, args.load_mode))
        else:
            sys.exit(f"there is no side {name!r}: ossia and llama; --fork and --variant add others")
    if args.fork:
        sides.append(Fork(args.fork.resolve(), llama, args.model, args.threads))
    for variant in args.variant:
        name, _, src = variant.partition("=")
        sides.append(Ossia(args.model, args.threads, f"ossia:{name}", str(Path(src).resolve())))
    return sides


def compare(sides: Sequence[Side], precision: str, args: argparse.Namespace) -> Found:
    """Numbers are printed as they come."""
    dense = DENSE[precision].upper()
    print(
        f"\n{precision}: ossia {' '.join(OURS[precision])}; others {dense} dense, {args.threads} "
        "threads"
    )
    found = Found(tuple(args.phases.split(",")), {side.name: [] for side in sides})
    wanted: dict[str, list[str]] = {}
    for side in sides:
        wait_until_quiet(args.patience)
        trial = side.prepare(precision)
        wanted[side.name], too_long = fitting(found.phases, trial, args.limit)
        found.firsts[side.name] = side.first(precision)
        shown = ", ".join(f"{name} {speed:.2f}" for name, speed in trial.items())
        print(
            f"    {side.name}: {shown}; first token {found.firsts[side.name]['first_token_s']:.1f} "
            "s",
            flush=True,
        )
        for phase, seconds in too_long.items():
            print(f"        without {phase}, which would take {seconds:.0f} s")
    for number in range(args.rounds):
        for side in rotated(sides, number):
            used = wait_until_quiet(args.patience)
            ceilings = measured_ceilings(args.threads)
            turn = side.turn(precision, wanted[side.name])
            turn.ceilings = ceilings
            found.turns[side.name].append(turn)
            mark = " *" if max(turn.others, used) > QUIET else ""
            shown = ", ".join(f"{phase} {speed:.2f}" for phase, speed in turn.speeds.items())
            print(f"    round {number + 1}, {side.name}{mark}: {shown or 'nothing'}")
            before = ", ".join(f"{name} {value:.1f}" for name, value in ceilings.items())
            print(f"        others used {turn.others:.2f} processors; before: {before}", flush=True)
    return found


def rotated(sides: Sequence[Side], number: int) -> list[Side]:
    first = number % len(sides)
    return [*sides[first:], *sides[:first]]


def fitting(
    phases: Sequence[str], trial: dict[str, float], limit: float
) -> tuple[list[str], dict[str, float]]:
    """Phases that take no longer than `limit` seconds, judged by a short trial; and how long the
    others would take.
    """
    wanted, too_long = [], {}
    for phase in phases:
        kind, _, number = phase.partition("_")
        reading = {"prefill": int(number), "decode": int(number), "batch": 16 * int(number)}[kind]
        decoding = {
            "prefill": 0.0,
            "decode": DECODED,
            "batch": DECODED * max(1.0, int(number) / 4),
        }[kind]
        repetitions = 2 if kind == "prefill" else 1
        seconds = repetitions * reading / trial["prefill"] + decoding / trial["decode"]
        if seconds <= limit:
            wanted.append(phase)
        else:
            too_long[phase] = seconds
    return wanted, too_long


def measured_ceilings(threads: int) -> dict[str, float]:
    """In a process of its own."""
    code = "import json; from ossia.kernels import cpu; print(json.dumps(cpu.ceilings(threads=%d)))"
    found: dict[str, float] = json.loads(run([sys.executable, "-c", code % threads]).out)
    return found


# ---- the table ----

NAME, SPEED, RATIO = 16, 28, 26  # characters of a column


def table(found: Found) -> str:
    """Phases in tokens/s with the share of the bound, then what was measured once."""
    names = list(found.turns)
    lines = ["", f"{'tokens/s':<{NAME}}" + "".join(f"{name:>{SPEED}}" for name in names)]
    lines[-1] += "".join(f"{names[0] + ' / ' + name:>{RATIO}}" for name in names[1:])
    for phase in found.phases:
        line = f"{phase:<{NAME}}" + "".join(
            f"{spread(found, name, phase):>{SPEED}}" for name in names
        )
        mine = found.speeds(names[0], phase)
        for name in names[1:]:
            line += f"{ratio(mine, found.speeds(name, phase)):>{RATIO}}"
        lines.append(line)
    peaks = {
        name: max((turn.peak_bytes for turn in found.turns[name]), default=0) / 1e9
        for name in names
    }
    lines.append(less_is_better("peak, GB", peaks))
    for key, label in (("first_token_s", "first token, s"), ("load_s", "to load, s")):
        lines.append(
            less_is_better(
                label, {name: found.firsts.get(name, {}).get(key, 0.0) for name in names}
            )
        )
    return "\n".join(lines)


def less_is_better(label: str, values: dict[str, float]) -> str:
    """A line of what was measured once; 0 stands for what was not."""
    line = f"{label:<{NAME}}"
    for value in values.values():
        line += f"{value:>{SPEED}.2f}" if value else f"{'-':>{SPEED}}"
    mine, *others = values.values()
    for value in others:
        line += f"{value / mine:>{RATIO - 1}.2f}x" if value and mine else f"{'-':>{RATIO}}"
    return line


def spread(found: Found, side: str, phase: str) -> str:
    """ "17.90 (17.2 - 18.1) 88%": median, range, and the share of the bound."""
    values, bound = found.speeds(side, phase), found.bound(phase)
    if not values:
        return "-"
    share = f" {statistics.median(values) / bound:4.0%}" if bound else ""
    return f"{statistics.median(values):.2f} ({min(values):.1f} - {max(values):.1f}){share}"


def ratio(mine: Sequence[float], others: Sequence[float]) -> str:
    """ "1.23x (1.19 - 1.30)": of the medians, and of the rounds."""
    if not mine or not others:
        return "-"
    rounds = [a / b for a, b in zip(mine, others, strict=False)]
    middle = statistics.median(mine) / statistics.median(others)
    return f"{middle:.2f}x ({min(rounds):.2f} - {max(rounds):.2f})"


if __name__ == "__main__":
    main()
