"""ossia and llama.cpp on the same weights, on this machine, in turn: speed, memory, time to a first token.

    python bench/vs_llamacpp.py MODEL [--cache DIR] [--classes int8,bf16] [--phases LIST] [--rounds 3]
    python bench/vs_llamacpp.py --build [--cache DIR]       only builds llama.cpp, and says where its probe is

MODEL is a folder as `ossia convert --random gpt-oss-20b DIR` makes it, or a published one. llama.cpp is built from the
sdist of llama-cpp-python, which holds its source (pip, a C++ compiler and cmake; about four minutes), and MODEL is
exported to GGUF, once for each class; both stay in the cache.

Two classes of precision, each side at its own best for it:
    int8   ours --dense int8 --activations int8; theirs Q8_0 dense, int8 activations
    bf16   ours exact, bfloat16 everywhere; theirs BF16 dense, int8 activations of the experts all the same
llama.cpp runs with flash attention, as many threads as ours, and its faster setting of two: copied into memory and
repacked (-lm none), or mapped and repacked (its default), by a short trial for each class.

Every round runs theirs, then ours, each a process of its own; a process that reads a prompt of 64 tokens first is warm.
Printed are the medians, the range, and the ratio of the medians with the smallest and largest ratio within a round.
Of ours, `ossia bench MODEL --json --repetitions 1 --phases ...` is asked, and these keys of its answer are read:

    prefill_512, prefill_2048   lists of tokens/s: reading a prompt of that length
    decode_0, decode_4096       one stream, behind that many tokens
    batch_8, batch_16           tokens/s of all streams together, each behind 16 tokens
    load_s                      until the model stands in memory as it is measured
    resident_bytes              of the process, then
    ceilings                    {"before": {...}, "after": {...}}: read_gb_s, bf16_gflop_s, int8_gop_s of the machine

First tokens are timed from the start of a process whose files are in the page cache to the first output: `ossia
generate --ids`, and llama_probe.cpp, which uses llama.cpp's own library.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

HERE = Path(__file__).resolve().parent
VERSION = "0.3.36"
PHASES = ("prefill_512", "prefill_2048", "decode_0", "decode_4096", "batch_8", "batch_16")
DECODED = 32  # tokens that a decoding phase is measured over, on both sides
PROMPT = list(range(1000, 1016))  # of the first token
# class: what ossia is told, and which GGUF llama.cpp gets
OURS = {"int8": ("--dense", "int8", "--activations", "int8"), "bf16": ("--dense", "bf16", "--activations", "bf16")}
DENSE = {"int8": "q8_0", "bf16": "bf16"}
SETTINGS = {"copied, repacked": "none", "mapped, repacked": "mmap"}  # llama.cpp's --load-mode
CMAKE = (
    "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_APP=OFF",
)  # fmt: skip
TOOLS = ("llama-bench", "llama-batched-bench", "llama")

Speeds = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, help="a folder with a checkpoint")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "ossia" / "llama.cpp")
    parser.add_argument("--classes", default="int8,bf16")
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--sides", default="theirs,ours", help="to measure one side only")
    parser.add_argument("--build", action="store_true", help="build llama.cpp and stop")
    args = parser.parse_args()
    llama = build(args.cache)
    print(f"OSSIA_LLAMA_PROBE={llama.probe}")
    if args.build:
        return
    if args.model is None:
        parser.error("give the folder of a model")
    phases, sides = tuple(args.phases.split(",")), args.sides.split(",")
    for precision in args.classes.split(","):
        compare(llama, args.model, precision, phases, args.rounds, args.threads, sides)


# ---- llama.cpp ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Llama:
    """A build of llama.cpp, and where GGUF files are kept."""

    cache: Path

    @property
    def source(self) -> Path:
        return self.cache / f"llama_cpp_python-{VERSION}" / "vendor" / "llama.cpp"

    @property
    def bin(self) -> Path:
        return self.cache / "build" / "bin"

    @property
    def probe(self) -> Path:
        return self.cache / "llama_probe"


def build(cache: Path) -> Llama:
    """What of it is not in the cache yet. Raises if a tool is missing or fails."""
    llama = Llama(cache.resolve())
    cache.mkdir(parents=True, exist_ok=True)
    if not llama.source.exists():
        wanted = f"llama-cpp-python=={VERSION}"
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
        run([*pip, "-d", cache, wanted])
        with tarfile.open(cache / f"llama_cpp_python-{VERSION}.tar.gz") as archive:
            archive.extractall(cache, filter="data")
    if not all((llama.bin / tool).exists() for tool in TOOLS[:2]):
        run(["cmake", "-S", llama.source, "-B", cache / "build", *CMAKE])
        run(["cmake", "--build", cache / "build", "-j", str(os.cpu_count()), "--target", *TOOLS])
    source = HERE / "llama_probe.cpp"
    if not llama.probe.exists() or llama.probe.stat().st_mtime < source.stat().st_mtime:
        includes = [f"-I{llama.source / folder}" for folder in ("include", "ggml/include")]
        libraries = ["-lllama", "-lggml", "-lggml-base", f"-L{llama.bin}", f"-Wl,-rpath,{llama.bin}"]
        compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"
        run([compiler, "-O1", "-std=c++17", source, "-o", llama.probe, *includes, *libraries])
    return llama


def run(command: Sequence[object]) -> str:
    """Its stdout; where it fails, its stderr and the end."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr[-3000:]}\n{done.stdout[-1000:]}")
    return done.stdout


def exported(llama: Llama, model: Path, precision: str) -> Path:
    """The GGUF of a model, made anew if the model is younger."""
    path = llama.cache / f"{model.resolve().name}-{DENSE[precision]}.gguf"
    youngest = max(file.stat().st_mtime for file in model.iterdir())
    if not path.exists() or path.stat().st_mtime < youngest:
        print(f"writing {path}", file=sys.stderr)
        options = ["--to", "gguf", "--dense", DENSE[precision], "--overwrite"]
        run([sys.executable, "-m", "ossia", "convert", model, path, *options])
    return path


def llama_bench(llama: Llama, gguf: Path, mode: str, threads: int, *options: str) -> dict[str, float]:
    """Tokens/s by "prefill_N" and "decode_DEPTH", each measured once."""
    common = ["-m", gguf, "-t", threads, "-fa", "on", "-lm", mode, "-r", 1, "--no-warmup", "-o", "jsonl"]
    found = {}
    for line in run([llama.bin / "llama-bench", *common, *options]).splitlines():
        test = json.loads(line)
        name = f"prefill_{test['n_prompt']}" if test["n_prompt"] else f"decode_{test['n_depth']}"
        found[name] = float(test["avg_ts"])
    return found


def batched_bench(llama: Llama, gguf: Path, mode: str, threads: int, streams: Sequence[int]) -> dict[str, float]:
    """Tokens/s of all streams together, by "batch_N"."""
    room = max(streams) * (16 + DECODED)
    wanted = ["-npp", 16, "-ntg", DECODED, "-npl", ",".join(map(str, streams)), "-c", room, "-t", threads]
    command = [llama.bin / "llama-batched-bench", "-m", gguf, "-fa", "on", "-lm", mode, *wanted]
    text = run([*command, "--output-format", "jsonl"])
    tests = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return {f"batch_{test['pl']}": float(test["speed_tg"]) for test in tests}


def theirs(llama: Llama, gguf: Path, mode: str, threads: int, phases: Sequence[str]) -> dict[str, float]:
    """One round. A prompt of 64 tokens comes first, so that what is measured finds everything in place."""
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for phase in phases:
        kind, _, number = phase.partition("_")
        numbers[kind].append(int(number))
    found: dict[str, float] = {}
    near = ["-n", str(DECODED)] if 0 in numbers["decode"] else ["-n", "0"]
    prompts = ",".join(map(str, [64, *sorted(numbers["prefill"])]))
    found |= llama_bench(llama, gguf, mode, threads, "-p", prompts, *near)
    if depths := [str(depth) for depth in numbers["decode"] if depth]:
        options = ["-p", "0", "-n", str(DECODED), "-d", ",".join(depths)]
        found |= llama_bench(llama, gguf, mode, threads, *options)
    if numbers["batch"]:
        found |= batched_bench(llama, gguf, mode, threads, numbers["batch"])
    return {phase: found[phase] for phase in phases}


def best_setting(llama: Llama, gguf: Path, threads: int) -> str:
    """The faster one, by the product of reading and decoding speeds in a short trial."""
    scores = {}
    for name, mode in SETTINGS.items():
        speed = llama_bench(llama, gguf, mode, threads, "-p", "64,256", "-n", "24")
        scores[name] = speed["prefill_256"] * speed["decode_0"]
        print(f"    {name}: prefill 256 {speed['prefill_256']:.1f}, decode {speed['decode_0']:.2f}")
    return max(scores, key=lambda name: scores[name])


def first_token(command: Sequence[object]) -> dict[str, float]:
    """Seconds from the start of a process to "loaded" (if it says so) and to the line after; what is resident then."""
    pipe = subprocess.PIPE
    began, found = time.perf_counter(), {}
    words = [str(part) for part in command]
    with (
        TemporaryFile("w+") as errors,
        subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        if line.startswith("loaded"):
            found["load_s"] = time.perf_counter() - began
            line = process.stdout.readline()
        found["first_token_s"] = time.perf_counter() - began
        if not line:
            errors.seek(0)
            sys.exit(f"{' '.join(words)}: said nothing\n{errors.read()[-3000:]}")
        found["resident_bytes"] = resident_bytes(process.pid)
        process.communicate("")
    return found


def resident_bytes(pid: int) -> float:
    """0 where there is no /proc, or where the process has ended already."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def llama_first(llama: Llama, gguf: Path, mode: str, threads: int) -> dict[str, float]:
    return first_token([llama.probe, "first", gguf, mode, 1, threads, *PROMPT])


# ---- ossia ----------------------------------------------------------------------------------------


def ours(model: Path, precision: str, threads: int, phases: Sequence[str]) -> dict[str, Any]:
    """One round: the JSON of `ossia bench`, as the top of this file describes it."""
    options = ["--phases", ",".join(phases), "--repetitions", 1, "--threads", threads, "--load", "copy"]
    command = [sys.executable, "-m", "ossia", "bench", model, "--json", *options, *OURS[precision]]
    found: dict[str, Any] = json.loads(run(command))
    return found


def our_first(model: Path, precision: str, threads: int) -> dict[str, float]:
    ids = ",".join(map(str, PROMPT))
    options = ["--ids", ids, "--max-tokens", 1, "--temperature", 0, "--threads", threads, *OURS[precision]]
    return first_token([sys.executable, "-m", "ossia", "generate", model, *options])


# ---- both -----------------------------------------------------------------------------------------


def compare(
    llama: Llama, model: Path, precision: str, phases: Sequence[str], rounds: int, threads: int, sides: Sequence[str]
) -> None:
    """Measure and print one class. Numbers appear as they come; the table is at the end."""
    print(
        f"\n{precision}: ours {' '.join(OURS[precision])}; theirs {DENSE[precision].upper()} dense, {threads} threads"
    )
    speeds: dict[str, Speeds] = {side: defaultdict(list) for side in ("ours", "theirs")}
    once: dict[str, dict[str, float]] = {side: {} for side in ("ours", "theirs")}
    if "theirs" in sides:
        gguf = exported(llama, model, precision)
        setting = best_setting(llama, gguf, threads)
        print(f"    theirs from here on: {setting}", flush=True)
        once["theirs"] = llama_first(llama, gguf, SETTINGS[setting], threads)
    if "ours" in sides:
        our_first(model, precision, threads)  # so that the files are in the page cache, as theirs are
        once["ours"] = our_first(model, precision, threads)
    for number in range(rounds):
        for side in sides:
            if side == "theirs":
                found: dict[str, Any] = theirs(llama, gguf, SETTINGS[setting], threads, phases)
            else:
                answer = ours(model, precision, threads, phases)
                found = {phase: answer[phase][0] for phase in phases}
                once["ours"] |= {key: answer[key] for key in ("load_s", "resident_bytes")}
                print(f"    ceilings: {json.dumps(answer['ceilings'])}")
            for phase, speed in found.items():
                speeds[side][phase].append(speed)
            shown = ", ".join(f"{phase} {speed:.2f}" for phase, speed in found.items())
            print(f"    round {number + 1}, {side}: {shown}", flush=True)
    print(table(phases, speeds, once))


def table(phases: Sequence[str], speeds: dict[str, Speeds], once: dict[str, dict[str, float]]) -> str:
    """Phases in tokens/s, then what was measured once. The ratio says how many times better ours is."""
    lines = [f"\n{'tokens/s':<16}{'ours: median (range)':^26}{'llama.cpp':^26}{'ours / theirs':^24}"]
    for phase in phases:
        sides = [speeds[side].get(phase, []) for side in ("ours", "theirs")]
        line = f"{phase:<16}" + "".join(f"{spread(side):^26}" for side in sides)
        if all(sides):
            ratios = [a / b for a, b in zip(*sides, strict=True)]
            middle = statistics.median(sides[0]) / statistics.median(sides[1])
            line += f"{middle:.2f}x ({min(ratios):.2f} - {max(ratios):.2f})".center(24)
        lines.append(line)
    units = {"load_s": (1, "s to load"), "first_token_s": (1, "s to 1st token"), "resident_bytes": (1e9, "GB resident")}
    for key, (unit, name) in units.items():
        a, b = (once[side].get(key) for side in ("ours", "theirs"))
        shown = "".join(f"{value / unit:^26.2f}" if value else " " * 26 for value in (a, b))
        lines.append(f"{name:<16}{shown}" + (f"{b / a:.2f}x".center(24) if a and b else ""))
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} - {max(values):.2f})" if values else "-"


if __name__ == "__main__":
    main()
