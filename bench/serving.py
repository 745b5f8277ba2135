"""Serving, measured from the other end of the wire: ossia beside llama-server, and what HTTP costs
a token.

    python bench/serving.py MODEL [--cache DIR] [--precision int8|bf16] [--rounds 3]
                                  [--streams 1,8,32]
    python bench/serving.py --overhead [--streams 1,8,32]

MODEL is a folder as `ossia convert --random gpt-oss-20b DIR --layers 4` makes it, or a published
one; llama-server gets the same weights, as vs_llamacpp.py explains, which also builds it (in the
same cache; the server takes five minutes more). Both compute with the same threads and answer the
same requests to /v1/completions: prompts of random token ids, no two alike, greedy, no end before
`--tokens`. The servers run one after the other, each a process of its own; every round both.
Printed are medians over rounds: seconds to the first event of a stream (median and worst of the
streams), and tokens/s of all streams together, from the first request to the last token.

`--overhead`: a server that says fixed tokens, so that all it does is HTTP, JSON and Harmony, on
every API that streams; seconds per token, less what the scripted engine takes alone: of processor
time, which other work on the machine does not change, and of the clock. The former must be under
100 microseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import selectors
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peers import CMAKE, OURS, Llama, build, exported
from watched import run

BOUND = 100e-6  # seconds of HTTP for a token
OVERHEAD_TOKENS = 1500
WORDS = " the answer is"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, help="a folder with a checkpoint")
    parser.add_argument(
        "--overhead", action="store_true", help="measure what HTTP costs, without a model"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "ossia" / "llama.cpp"
    )
    parser.add_argument("--precision", choices=tuple(OURS), default="int8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    streams = [int(count) for count in args.streams.split(",")]
    if args.overhead:
        sys.exit(overhead(streams))
    if args.model is None:
        parser.error("give the folder of a model, or --overhead")
    compare(args, streams)


# ---- a client that costs little ----


@dataclass
class Stream:
    """One answer as it arrives. Seconds since it was asked for."""

    first: float = 0.0
    last: float = 0.0
    text: bytearray = field(default_factory=bytearray)

    def tokens(self) -> int:
        """As the server counts them."""
        found = re.findall(rb'"(?:completion_tokens|output_tokens)":\s*(\d+)', self.text)
        if not found:
            sys.exit(
                f"a stream without usage: {bytes(self.text[:500])!r} ... "
                f"{bytes(self.text[-500:])!r}"
            )
        return int(found[-1])


def ask(port: int, path: str, bodies: Sequence[dict[str, Any]]) -> list[Stream]:
    """All at once, on connections of their own; until the last one ends."""
    selector, began, found = selectors.DefaultSelector(), time.perf_counter(), []
    for body in bodies:
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
            "application/json\r\nConnection: close\r\n"
        )
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        found.append(Stream())
        selector.register(connection, selectors.EVENT_READ, found[-1])
    while selector.get_map():
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            data, now = key.fileobj.recv(1 << 20), time.perf_counter() - began
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                continue
            key.data.text += data
            key.data.last = now
            if not key.data.first and b"data: " in key.data.text:
                key.data.first = now
    return found


@contextmanager
def served(command: Sequence[object], port: int, seconds: float = 600) -> Iterator[int]:
    """The server's process id, once it says that it is well."""
    with (
        TemporaryDirectory() as folder,
        open(Path(folder) / "log", "w+") as log,
        subprocess.Popen([str(part) for part in command], stdout=log, stderr=log) as process,
    ):
        try:
            deadline = time.monotonic() + seconds
            while not _is_well(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    sys.exit(f"{' '.join(map(str, command))} does not serve\n{log.read()[-3000:]}")
                time.sleep(0.1)
            yield process.pid
        finally:
            process.terminate()
            process.wait()


def _is_well(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return int(response.status) == 200
    except OSError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# ---- beside llama-server ----


def llama_server(llama: Llama) -> Path:
    path = llama.bin / "llama-server"
    if not path.exists():
        folder = llama.cache / "build"
        options = [option for option in CMAKE if "BUILD_SERVER" not in option]
        options += [
            "-DLLAMA_BUILD_SERVER=ON",
            "-DLLAMA_BUILD_UI=OFF",
            "-DLLAMA_USE_PREBUILT_UI=OFF",
        ]
        run(["cmake", "-S", llama.source, "-B", folder, *options])
        run(["cmake", "--build", folder, "-j", str(os.cpu_count()), "--target", "llama-server"])
    return path


def compare(args: argparse.Namespace, streams: Sequence[int]) -> None:
    llama = build(args.cache)
    binary, gguf = llama_server(llama), exported(llama, args.model, args.precision)
    most, length = max(streams), args.prompt + args.tokens + 16
    port, found = free_port(), defaultdict[tuple[str, int], list[dict[str, float]]](list)
    commands = {
        "llama-server": [
            binary, "-m", gguf, "-t", args.threads, "-fa", "on", "-np", most, "-c", most * length,
            "--port", port,
            "--no-webui", "--cache-ram", 0,
        ],
        "ossia": [
            sys.executable, "-m", "ossia", "serve", args.model, "--port", port, "--threads",
            args.threads,
            *OURS[args.precision], "--warm-up",
        ],
    }  # fmt: skip
    for number in range(args.rounds):
        for name, command in commands.items():
            with served(command, port):
                # what the first request finds cold is not what is measured
                measure(port, 1, args, seed=-1)
                for count in streams:
                    found[name, count].append(
                        measure(port, count, args, seed=1000 * number + count)
                    )
                    print(
                        f"round {number + 1}  {_row(name, count, found[name, count][-1:])}",
                        flush=True,
                    )
    print(
        f"\nmedians of {args.rounds} rounds, {args.model.name}, {args.precision}, {args.threads} "
        "threads, ",
        end="",
    )
    print(f"prompts of {args.prompt} tokens, answers of {args.tokens}")
    for count in streams:
        for name in commands:
            print(_row(name, count, found[name, count]))


def measure(port: int, count: int, args: argparse.Namespace, seed: int) -> dict[str, float]:
    rng = random.Random(seed)
    bodies = [
        {
            "model": "m", "prompt": [rng.randrange(1000, 100_000) for _ in range(args.prompt)],
            "stream": True,
            "stream_options": {"include_usage": True}, "max_tokens": args.tokens, "temperature": 0,
            "ignore_eos": True,
        }
        for _ in range(count)
    ]  # fmt: skip
    answers = ask(port, "/v1/completions", bodies)
    tokens = [answer.tokens() for answer in answers]
    if set(tokens) != {args.tokens}:
        sys.exit(f"asked for {args.tokens} tokens, got {sorted(set(tokens))}")
    firsts = [answer.first for answer in answers]
    seconds = max(answer.last for answer in answers)
    return {
        "first": statistics.median(firsts),
        "worst": max(firsts),
        "speed": sum(tokens) / seconds,
    }


def _row(name: str, count: int, rounds: Sequence[dict[str, float]]) -> str:
    first, worst, speed = (
        statistics.median(one[key] for one in rounds) for key in ("first", "worst", "speed")
    )
    return (
        f"{count:3d} streams  {name:12s}  first token {first:7.3f} s (worst {worst:7.3f})  "
        f"{speed:8.1f} tokens/s"
    )


# ---- what HTTP costs ----


def overhead(streams: Sequence[int]) -> str | None:
    """What to complain of, if anything."""
    script = _script()
    alone = {count: _alone(script, count) for count in streams}
    slow = []
    with TemporaryDirectory() as folder:
        path, port = Path(folder) / "script.jsonl", free_port()
        path.write_text(json.dumps({"ids": script}) + "\n")
        command = [sys.executable, "-m", "ossia", "serve", "nano", "--script", path, "--port", port]
        with served(command, port) as pid:
            for api, body in _bodies(len(script)).items():
                ask(port, api, [body])
                for count in streams:
                    spent = [_spent(port, pid, api, body, count) for _ in range(3)]
                    cpu, clock = (min(one) - alone[count] for one in zip(*spent, strict=True))
                    row = (
                        f"{api:22s} {count:3d} streams  {cpu * 1e6:6.1f} us a token, "
                        f"{clock * 1e6:6.1f} by the clock"
                    )
                    print(row, flush=True)
                    slow += [f"{api} with {count} streams"] * (cpu > BOUND)
    return f"over {BOUND * 1e6:.0f} us: {', '.join(slow)}" if slow else None


def _script() -> list[int]:
    import ossia

    tokenizer = ossia.load("nano").tokenizer
    words = tokenizer.encode(WORDS)
    header = tokenizer.encode_with_specials("<|channel|>final<|message|>")
    said = header + words * (OVERHEAD_TOKENS // len(words))
    return [*said, tokenizer.special("<|return|>")]


def _bodies(tokens: int) -> dict[str, dict[str, Any]]:
    messages = [{"role": "user", "content": "hi"}]
    usage = {"stream_options": {"include_usage": True}}
    return {
        "/v1/chat/completions": {
            "messages": messages,
            "stream": True,
            "max_tokens": tokens,
            **usage,
        },
        "/v1/responses": {
            "input": "hi",
            "stream": True,
            "max_output_tokens": tokens,
            "store": False,
        },
        "/v1/completions": {"prompt": "hi", "stream": True, "max_tokens": tokens, **usage},
        "/v1/messages": {"messages": messages, "stream": True, "max_tokens": tokens},
    }


def _spent(port: int, pid: int, api: str, body: dict[str, Any], count: int) -> tuple[float, float]:
    """Seconds a token: of the server's processor time, and of the clock."""
    before = _cpu_seconds(pid)
    answers = ask(port, api, [body] * count)
    tokens = sum(answer.tokens() for answer in answers)
    return (_cpu_seconds(pid) - before) / tokens, max(answer.last for answer in answers) / tokens


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _alone(script: list[int], count: int) -> float:
    """Seconds a token of the scripted engine, without a thread or a server around it."""
    from ossia.engine.request import SamplingParams
    from ossia.server import ScriptedEngine

    engine, began, tokens = ScriptedEngine([script]), time.process_time(), 0
    for _ in range(count):
        engine.submit([1], SamplingParams())
    while engine.has_work():
        tokens += len(engine.step())
    return (time.process_time() - began) / tokens


if __name__ == "__main__":
    main()
