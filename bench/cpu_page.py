"""One page on this machine in docs/bench/: what it can do, how much of that the kernels do, how
fast models are.

    python bench/cpu_page.py [--model DIR] [--cache DIR] [--fork DIR] [--rounds 2]
                             [--out docs/bench]

`make bench-cpu ARGS='...'` is the same. Without arguments: the kernels of every instruction set
that the CPU offers, on one thread; nano; two random layers in the shape of gpt-oss-20b, made in a
temporary folder (3 GB). With --model that model too, and beside llama.cpp and a fork as
vs_llamacpp.py measures them where --cache or --fork says where they are. A page is named after the
processor, so that pages of different machines stand side by side; a second run on the same kind of
machine replaces its page.

Everything is asked of `ossia bench` and of the package's own ceilings. Knows no kernels.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peers import OURS
from watched import QUIET, run, wait_until_quiet

import ossia
from ossia.commands import machine
from ossia.kernels.cpu.build import compiler
from ossia.kernels.cpu.shares import LOW

ROOT = Path(__file__).resolve().parents[1]
OSSIA = (sys.executable, "-m", "ossia")
COLUMNS = {"fp32_gflop_s": "float32", "bf16_gflop_s": "bfloat16 pairs", "int8_gop_s": "int8"}
COLUMNS |= {"int8_small_gop_s": "int8, sums in 16 bits"}


@dataclass(frozen=True)
class Machine:
    """What the page says of it, as (name, value)."""

    facts: tuple[tuple[str, str], ...]
    slug: str


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, help="a folder with a checkpoint, measured too")
    parser.add_argument("--cache", type=Path, help="of vs_llamacpp.py: MODEL beside llama.cpp")
    parser.add_argument("--fork", type=Path, help="of vs_llamacpp.py: beside a fork as well")
    parser.add_argument("--rounds", type=int, default=2, help="of vs_llamacpp.py (default: 2)")
    parser.add_argument(
        "--patience", type=float, default=60, help="seconds to wait for an idle machine, a part"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "bench", help="the folder of the page"
    )
    args = parser.parse_args()
    here = this_machine()
    parts = [heading(here), *kernels(args), *models(args)]
    if args.model and (args.cache or args.fork):
        parts.append(beside(args))
    args.out.mkdir(parents=True, exist_ok=True)
    page = args.out / f"{here.slug}.md"
    page.write_text("\n\n".join(parts) + "\n")
    print(page)


# ---- the machine ----


def this_machine() -> Machine:
    name, family = machine.cpu_name(), machine.cpu_family()
    commit = said(["git", "-C", ROOT, "describe", "--always", "--dirty"]) or "unknown"
    cxx = compiler()
    built_by = said([cxx, "--version"]).partition("\n")[0] if cxx else ""
    facts = (
        ("processor", f"{name} ({family})" if family else name),
        ("instruction sets", " ".join(machine.cpu_flags())),
        ("processors", str(machine.processors())),
        ("memory", f"{machine.memory_bytes() / 2**30:.0f} GiB"),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("compiler", built_by or "none"),
        ("ossia", f"{ossia.__version__}, {commit}"),
    )
    return Machine(facts, slug(name, family))


def slug(name: str, family: str) -> str:
    """A file's name: "AMD EPYC", "family 25 model 17 stepping 1" ->
    "amd-epyc-family-25-model-17".
    """
    without_stepping = re.sub(r"stepping \d+", "", family)
    return re.sub(r"[^a-z0-9]+", "-", f"{name} {without_stepping}".lower()).strip("-")


def said(command: Sequence[object]) -> str:
    try:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def heading(here: Machine) -> str:
    facts = "\n".join(f"| {name} | {value} |" for name, value in here.facts)
    today = time.strftime("%Y-%m-%d")
    told = (
        "Written by `make bench-cpu` and overwritten by its next run on such a machine: "
        "nothing "
        "here is by hand."
    )
    return f"# {here.facts[0][1]}\n\nMeasured {today}. {told}\n\n| | |\n|---|---|\n{facts}"


# ---- ceilings and kernels ----


def bench(arguments: Sequence[object], isa: str | None = None) -> dict[str, Any]:
    """The JSON of `ossia bench`."""
    env = {} if isa is None else {"OSSIA_ISA": isa}
    found: dict[str, Any] = json.loads(run([*OSSIA, "bench", "--json", *arguments], env).out)
    return found


def kernels(args: argparse.Namespace) -> list[str]:
    offered = python("cpu.offered(cpu.loaded())")
    isas = python("cpu.ceiling_isas()")
    used = wait_until_quiet(args.patience)
    peaks = {isa: python(f"cpu.peaks({isa!r}, 1)") for isa in isas}
    threads = machine.processors()
    counts = sorted({1, threads})
    reads = {count: python(f"cpu.read_bandwidth({count})") for count in counts}
    parts = [ceilings_table(peaks, reads, used)]
    for isa in offered:
        print(f"kernels, {isa}", file=sys.stderr)
        parts.append(kernel_table(isa, bench(["--phases", "kernels_1t"], isa)))
    return parts


def python(expression: str) -> Any:
    """Its value in a process of its own, where `cpu` is the package of the compiled kernels."""
    code = f"import json; from ossia.kernels import cpu; print(json.dumps({expression}))"
    return json.loads(run([sys.executable, "-c", code]).out)


def ceilings_table(peaks: dict[str, dict[str, float]], reads: dict[int, float], used: float) -> str:
    """Of one thread, by instruction set; and the read bandwidth by threads. `used`: processors, by
    others.
    """
    bandwidth = ", ".join(
        f"{rate:.1f} GB/s with {count} thread{'s' * (count > 1)}" for count, rate in reads.items()
    )
    lines = [
        f"## Ceilings\n\nMemory is read at {bandwidth}{disturbed(used)}. Peaks of one thread on "
        "data in registers, "
        "10^9 operations/s:"
    ]
    lines += ["", f"| | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for isa, found in peaks.items():
        cells = " | ".join(f"{found[key]:.0f}" for key in COLUMNS)
        lines.append(f"| {isa} | {cells} |")
    return "\n".join(lines)


def disturbed(used: float) -> str:
    """What is said of numbers beside which others used so many processors."""
    return ", **others were busy: lower bounds**" if used > QUIET else ""


def kernel_table(isa: str, found: dict[str, Any]) -> str:
    """Kernels down, rows across: the share of the bound and a call's time."""
    shares = found["kernels_1t"]
    rows = sorted({one["rows"] for one in shares})
    lines = [
        f"## Kernels, {isa}\n",
        f"Share of the bound that memory (m) or arithmetic (a) sets, bold below {LOW:.0%}, and a "
        "call's time. One",
        f"thread, by processor time; others used {found['others']:.2f} processors. Rows of the "
        "input:",
    ]
    lines += ["", f"| | {' | '.join(map(str, rows))} |", "|---" * (len(rows) + 1) + "|"]
    for kernel in dict.fromkeys(one["kernel"] for one in shares):
        cells = {one["rows"]: kernel_cell(one) for one in shares if one["kernel"] == kernel}
        lines.append(f"| {kernel} | {' | '.join(cells.get(count, '') for count in rows)} |")
    return "\n".join(lines)


def kernel_cell(one: dict[str, Any]) -> str:
    """ "87% m, 0.31 ms"; a share below 40% is bold."""
    if one["seconds"] is None:
        return f"**about {one['expected']:.0f} s**"
    share = f"{one['share']:.0%} {one['limit'][0]}"
    return (f"**{share}**" if one["share"] < LOW else share) + f", {one['seconds'] * 1e3:.2f} ms"


# ---- models ----


def models(args: argparse.Namespace) -> list[str]:
    parts = [model_part("nano, the embedded model", "nano", args)]
    with TemporaryDirectory(prefix="ossia-bench-") as folder:
        two = Path(folder, "two-layers")
        run([*OSSIA, "convert", "--random", "gpt-oss-20b", two, "--layers", "2"])
        parts.append(
            model_part("Two layers in the shape of gpt-oss-20b, random weights", two, args)
        )
    if args.model:
        parts.append(model_part(args.model.resolve().name, args.model, args))
    return parts


def model_part(title: str, model: object, args: argparse.Namespace) -> str:
    lines = [f"## {title}"]
    phases = "prefill_512,prefill_2048,decode_0,decode_4096,batch_8,batch_16"
    if model == "nano":  # its context is short
        phases = "prefill_512,decode_0,batch_8,batch_16"
    for precision, options in OURS.items():
        print(f"{title}, {precision}", file=sys.stderr)
        used = wait_until_quiet(args.patience)
        found = bench([model, "--phases", phases, *options])
        lines.append(speed_table(precision, found, used))
    return "\n\n".join(lines)


def speed_table(precision: str, found: dict[str, Any], used: float) -> str:
    """Of one class: medians in tokens per second, their range, and the share of the bound."""
    mark = disturbed(max(used, found["others"]))
    options = " ".join(OURS[precision])
    lines = [
        f"`{options}`, {found['isa']}, {found['resident_bytes'] / 1e9:.2f} GB resident{mark}; "
        "tokens/s:"
    ]
    lines += ["", "| | median | range | share of the bound |", "|---|---|---|---|"]
    for phase, bound in found["bounds"].items():
        speeds = found[phase]
        middle = statistics.median(speeds)
        span = f"{min(speeds):.2f} to {max(speeds):.2f}"
        lines.append(f"| {phase} | {middle:.2f} | {span} | {middle / bound:.0%} |")
    return "\n".join(lines)


def beside(args: argparse.Namespace) -> str:
    """What vs_llamacpp.py prints, as it is."""
    command: list[object] = [
        sys.executable,
        ROOT / "bench" / "vs_llamacpp.py",
        args.model,
        "--rounds",
        args.rounds,
    ]
    command += ["--patience", args.patience]
    command += ["--cache", args.cache] if args.cache else []
    command += ["--fork", args.fork] if args.fork else []
    text = run(command).out.strip()
    return f"## {args.model.resolve().name} beside others\n\n```\n{text}\n```"


if __name__ == "__main__":
    main()
