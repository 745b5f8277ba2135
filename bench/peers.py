"""The programs that are measured on the same weights: ossia, llama.cpp, and a fork of llama.cpp if
there is one.

Each side knows how its program is built or found, asked and understood. Knows nothing of rounds,
order and tables.

    int8   ossia --dense int8 --activations int8; the others Q8_0 dense, int8 activations
    mixed  ossia --activations int8, dense weights in bfloat16: what the others do with a BF16 file
    bf16   ossia exact, bfloat16 everywhere; the others as in mixed, they know nothing more exact
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tarfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from watched import Done, first_token, run

HERE = Path(__file__).resolve().parent
VERSION = "0.3.36"  # of llama-cpp-python, whose sdist holds llama.cpp's source
DECODED = 64  # tokens that a decoding phase is measured over
PROMPT = list(range(1000, 1016))  # of the first token
# class: what ossia is told, and which GGUF the others get
OURS = {
    "int8": ("--dense", "int8", "--activations", "int8"),
    "mixed": ("--dense", "bf16", "--activations", "int8"),
    "bf16": ("--dense", "bf16", "--activations", "bf16"),
}
DENSE = {"int8": "q8_0", "mixed": "bf16", "bf16": "bf16"}
SETTINGS = {"copied, repacked": "none", "mapped, repacked": "mmap"}  # llama.cpp's --load-mode
CMAKE = (
    "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_APP=OFF",
)  # fmt: skip
TOOLS = ("llama-bench", "llama-batched-bench", "llama")


@dataclass
class Turn:
    """What one side measured in one round. `others`: processors that other programs used, at
    most.
    """

    speeds: dict[str, float] = field(default_factory=dict)  # tokens/s by phase
    # what the ceilings allow, of ossia's turns
    bounds: dict[str, float] = field(default_factory=dict)
    load_s: float = 0.0
    peak_bytes: int = 0
    others: float = 0.0
    ceilings: dict[str, float] = field(default_factory=dict)  # measured just before

    def add(self, done: Done, speeds: dict[str, float]) -> None:
        self.speeds |= speeds
        self.peak_bytes = max(self.peak_bytes, done.peak_bytes)
        self.others = max(self.others, done.others)


class Side(Protocol):
    """A program in one round after the other."""

    name: str

    def prepare(self, precision: str) -> dict[str, float]:
        """Once a class; tokens/s of a short trial: "prefill" and "decode"."""
        ...

    def turn(self, precision: str, phases: Sequence[str]) -> Turn:
        """A prompt of 64 tokens comes first, so that what is measured finds everything in place."""
        ...

    def first(self, precision: str) -> dict[str, float]:
        """Seconds from the start of a process to a first token, the files in the page cache; what
        is resident then.
        """
        ...


# ---- ossia ----


@dataclass
class Ossia:
    """`src`: another source tree than the installed one, for a before and after."""

    model: Path
    threads: int
    name: str = "ossia"
    src: str | None = None

    @property
    def env(self) -> dict[str, str]:
        return {} if self.src is None else {"PYTHONPATH": self.src}

    def command(self, what: str, precision: str) -> list[object]:
        start = [sys.executable, "-m", "ossia", what, self.model, "--threads", self.threads]
        return [*start, *OURS[precision]]

    def ask(
        self, precision: str, phases: Sequence[str], repetitions: int
    ) -> tuple[Done, dict[str, Any]]:
        """The JSON of `ossia bench`, which waits until all weights are packed."""
        given = {"--phases": ",".join(phases), "--repetitions": repetitions}
        options = ["--json", *(word for option in given.items() for word in option)]
        done = run([*self.command("bench", precision), *options], self.env)
        return done, json.loads(done.out)

    def prepare(self, precision: str) -> dict[str, float]:
        _, found = self.ask(precision, ["prefill_32", "decode_0"], 1)
        return {"prefill": found["prefill_32"][0], "decode": found["decode_0"][0]}

    def turn(self, precision: str, phases: Sequence[str]) -> Turn:
        made = Turn()
        if phases:
            # twice 32 tokens are as many as the others'
            done, found = self.ask(precision, phases, 2)
            made.add(done, {phase: statistics.harmonic_mean(found[phase]) for phase in phases})
            made.bounds = {phase: found["bounds"][phase] for phase in phases}
            made.load_s = found["load_s"]
        return made

    def first(self, precision: str) -> dict[str, float]:
        ids = ",".join(map(str, PROMPT))
        options = ["--ids", ids, "--max-tokens", 1, "--temperature", 0]
        command = [*self.command("generate", precision), *options]
        first_token(command, self.env)  # so that the files are in the page cache
        return first_token(command, self.env)


# ---- llama.cpp ----


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
    """What of it is not in the cache yet. Ends the program if a tool is missing or fails."""
    llama = Llama(cache.resolve())
    cache.mkdir(parents=True, exist_ok=True)
    if not llama.source.exists():
        # Only this one as source: its build requirements, for pip reads its metadata, as wheels.
        only = ["--no-deps", "--no-binary", "llama-cpp-python"]
        pip = [sys.executable, "-m", "pip", "download", *only]
        run([*pip, "-d", cache, f"llama-cpp-python=={VERSION}"])
        with tarfile.open(cache / f"llama_cpp_python-{VERSION}.tar.gz") as archive:
            archive.extractall(cache, filter="data")
    if not all((llama.bin / tool).exists() for tool in TOOLS[:2]):
        run(["cmake", "-S", llama.source, "-B", cache / "build", *CMAKE])
        run(["cmake", "--build", cache / "build", "-j", str(os.cpu_count()), "--target", *TOOLS])
    source = HERE / "llama_probe.cpp"
    if not llama.probe.exists() or llama.probe.stat().st_mtime < source.stat().st_mtime:
        includes = [f"-I{llama.source / folder}" for folder in ("include", "ggml/include")]
        libraries = [
            "-lllama",
            "-lggml",
            "-lggml-base",
            f"-L{llama.bin}",
            f"-Wl,-rpath,{llama.bin}",
        ]
        compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"
        run([compiler, "-O1", "-std=c++17", source, "-o", llama.probe, *includes, *libraries])
    return llama


def exported(llama: Llama, model: Path, precision: str) -> Path:
    """The GGUF of a model, made anew if the model is younger."""
    path = llama.cache / f"{model.resolve().name}-{DENSE[precision]}.gguf"
    youngest = max(file.stat().st_mtime for file in model.iterdir())
    if not path.exists() or path.stat().st_mtime < youngest:
        print(f"writing {path}", file=sys.stderr)
        options = ["--to", "gguf", "--dense", DENSE[precision], "--overwrite"]
        run([sys.executable, "-m", "ossia", "convert", model, path, *options])
    return path


@dataclass
class LlamaCpp:
    """With flash attention, in its faster setting of two: copied into memory and repacked, or
    mapped and repacked (its default), by the product of its speeds in a short trial. `load_mode`
    skips the trial.
    """

    llama: Llama
    model: Path
    threads: int
    load_mode: str | None = None
    name: str = "llama.cpp"
    chosen: dict[str, str] = field(default_factory=dict)

    def bench(self, precision: str, mode: str, *options: object) -> tuple[Done, dict[str, float]]:
        gguf = exported(self.llama, self.model, precision)
        common = ["-m", gguf, "-t", self.threads, "-fa", "on", "-lm", mode, "-r", 1, "--no-warmup"]
        done = run([self.llama.bin / "llama-bench", *common, "-o", "jsonl", *options])
        return done, llama_bench_speeds(done.out)

    def prepare(self, precision: str) -> dict[str, float]:
        trials = {}
        modes = SETTINGS if self.load_mode is None else {self.load_mode: self.load_mode}
        for name, mode in modes.items():
            _, speeds = self.bench(precision, mode, "-p", "64,128", "-n", 16)
            trials[mode] = {"prefill": speeds["prefill_128"], "decode": speeds["decode_0"]}
            print(
                f"    llama.cpp, {name}: prefill 128 {speeds['prefill_128']:.1f}, decode "
                f"{speeds['decode_0']:.2f}"
            )
        self.chosen[precision] = max(
            trials, key=lambda mode: trials[mode]["prefill"] * trials[mode]["decode"]
        )
        return trials[self.chosen[precision]]

    def turn(self, precision: str, phases: Sequence[str]) -> Turn:
        made, mode, by = Turn(), self.chosen[precision], numbers(phases)
        near = DECODED if 0 in by["decode"] else 0
        if by["prefill"] or near:
            prompts = ",".join(map(str, [64, *sorted(by["prefill"])]))
            made.add(*self.bench(precision, mode, "-p", prompts, "-n", near))
        if depths := [depth for depth in by["decode"] if depth]:
            options = ["-p", 0, "-n", DECODED, "-d", ",".join(map(str, depths))]
            made.add(*self.bench(precision, mode, *options))
        if by["batch"]:
            gguf = exported(self.llama, self.model, precision)
            common = [
                "-m",
                gguf,
                "-fa",
                "on",
                "-lm",
                mode,
                "-t",
                self.threads,
                *batch_options(by["batch"]),
            ]
            done = run(
                [self.llama.bin / "llama-batched-bench", *common, "--output-format", "jsonl"]
            )
            made.add(done, llama_batch_speeds(done.out))
        made.speeds = {phase: made.speeds[phase] for phase in phases}
        return made

    def first(self, precision: str) -> dict[str, float]:
        gguf, mode = exported(self.llama, self.model, precision), self.chosen[precision]
        return first_token([self.llama.probe, "first", gguf, mode, 1, self.threads, *PROMPT])


@dataclass
class Fork:
    """A fork of llama.cpp with the options of ik_llama.cpp: `folder` holds its llama-bench and, for
    streams, llama-batched-bench. It reads the same files and repacks them at run time. It has no
    probe: its first token is the time of a llama-bench that reads 16 tokens, from start to end.
    """

    folder: Path
    llama: Llama
    model: Path
    threads: int
    name: str = "fork"

    def bench(self, precision: str, *options: object) -> tuple[Done, dict[str, float]]:
        gguf = exported(self.llama, self.model, precision)
        common = ["-m", gguf, "-t", self.threads, "-fa", 1, "-fmoe", 1, "-rtr", 1, "-mmp", 0]
        done = run([self.folder / "llama-bench", *common, "-r", 1, "-w", 0, "-o", "json", *options])
        return done, fork_bench_speeds(done.out)

    def prepare(self, precision: str) -> dict[str, float]:
        _, speeds = self.bench(precision, "-p", "64,128", "-n", 16)
        return {"prefill": speeds["prefill_128"], "decode": speeds["decode_0"]}

    def turn(self, precision: str, phases: Sequence[str]) -> Turn:
        made, by = Turn(), numbers(phases)
        if by["prefill"] or by["decode"]:
            options: list[object] = ["-p", ",".join(map(str, [64, *sorted(by["prefill"])]))]
            options += ["-n", DECODED if 0 in by["decode"] else 0]
            for depth in by["decode"]:
                # measures the tokens behind the prompt
                options += ["-gp", f"{depth},{DECODED}"] if depth else []
            made.add(*self.bench(precision, *options))
        batched = self.folder / "llama-batched-bench"
        if by["batch"] and batched.exists():
            gguf = exported(self.llama, self.model, precision)
            common = ["-m", gguf, "-t", self.threads, "-fa", "on", "-rtr"]
            # for its log
            done = run([batched, *common, *batch_options(by["batch"])], folder=self.llama.cache)
            made.add(done, fork_batch_speeds(done.out + done.err))
        made.speeds = {phase: made.speeds[phase] for phase in phases if phase in made.speeds}
        return made

    def first(self, precision: str) -> dict[str, float]:
        self.bench(precision, "-p", 16, "-n", 0)
        done, _ = self.bench(precision, "-p", 16, "-n", 0)
        return {"first_token_s": done.seconds}


# ---- what they are asked, and what they say ----


def numbers(phases: Sequence[str]) -> dict[str, list[int]]:
    """`prefill_512` and the like, by kind."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for phase in phases:
        kind, _, number = phase.partition("_")
        found[kind].append(int(number))
    return found


def batch_options(streams: Sequence[int]) -> list[object]:
    """Streams behind 16 tokens each."""
    room = max(streams) * (16 + DECODED)
    return ["-npp", 16, "-ntg", DECODED, "-npl", ",".join(map(str, streams)), "-c", room]


def llama_bench_speeds(text: str) -> dict[str, float]:
    """Tokens/s by "prefill_N" and "decode_DEPTH", from a JSON object a line."""
    found = {}
    for line in text.splitlines():
        test = json.loads(line)
        name = f"prefill_{test['n_prompt']}" if test["n_prompt"] else f"decode_{test['n_depth']}"
        found[name] = float(test["avg_ts"])
    return found


def fork_bench_speeds(text: str) -> dict[str, float]:
    """The same from one JSON list behind whatever is said before; a test with both numbers decodes
    behind a prompt.
    """
    found = {}
    for test in json.loads(text[text.index("[\n") :]):
        name = f"decode_{test['n_prompt']}" if test["n_gen"] else f"prefill_{test['n_prompt']}"
        found[name] = float(test["avg_ts"])
    return found


def llama_batch_speeds(text: str) -> dict[str, float]:
    """Tokens/s of all streams together, by "batch_N"."""
    tests = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return {f"batch_{test['pl']}": float(test["speed_tg"]) for test in tests}


def fork_batch_speeds(text: str) -> dict[str, float]:
    """The same from a table: | PP | TG | B | N_KV | T_PP | S_PP | T_TG | S_TG | T | S |"""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 10 and cells[0].isdigit():
            found[f"batch_{cells[2]}"] = float(cells[7])
    return found
