"""What a front costs: one server asked directly, and through each front, in the same run.

    python bench/front.py [--router vllm-router] [--nginx nginx] [--ray PYTHON] [--rounds 5]

The server is `ossia serve nano`, with one thread; the fronts are vllm-router under two of its
policies, and nginx with deploy/nginx.conf, as far as they are installed. --ray names an interpreter
that has `ray[serve]`: then a second nano, inside recipes/ray_serve.py, is asked too. Every round
asks all of them in an order of its own: GET /v1/models, a completion of one token, the first token
of a stream, and a stream to its end, each on a connection that stays open. Printed are medians, and
what each front adds. Other programs make all rows slower: rows of one run may be compared.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import socket
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from serving import served

ROOT = Path(__file__).resolve().parents[1]
ASKED = 30  # times a round, but for whole streams
TOKENS = 128  # of a whole stream
STREAMS = 3  # of them a round
WARM = 3  # requests of each kind that do not count
POLICIES = ("round_robin", "consistent_hash")
# A replica that drains says 503 to all, which must not shut it out for a minute after it is back;
# and five tries, the default, may all go to one that is gone before the next look at /ready.
ROUTER = (
    "--health-check-endpoint", "/ready",
    "--health-check-interval-secs", "1",
    "--health-success-threshold", "1",
    "--disable-circuit-breaker",
    "--retry-max-retries", "30",
    "--retry-max-backoff-ms", "500",
    "--worker-startup-check-interval", "1",
)  # fmt: skip
COLUMNS = ("GET /v1/models", "one token", "first token", "a chunk")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--router", default="vllm-router", help="the program, or its path")
    parser.add_argument("--nginx", default="nginx", help="the program, or its path")
    parser.add_argument("--ray", help="an interpreter that has ray[serve]")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with ExitStack() as stack:
        ports = {"the server alone": stack.enter_context(server())}
        ports |= fronts(args, ports["the server alone"], stack)
        if len(ports) == 1:
            sys.exit("no front is installed: pip install vllm-router, or give --router or --nginx")
        took = measured(ports, args.rounds)
    print(table(took))


# ---- what is asked ----


@contextmanager
def server() -> Iterator[int]:
    port = free_port()
    command = (sys.executable, "-m", "ossia", "serve", "nano", "--port", port)
    with served(command, port):
        yield port


def fronts(args: argparse.Namespace, behind: int, stack: ExitStack) -> dict[str, int]:
    """The port of each front that is installed, by its name."""
    found = {}
    if shutil.which(args.router):
        for policy in POLICIES:
            front = router(args.router, policy, [behind])
            found[f"vllm-router, {policy}"] = stack.enter_context(front)
    if shutil.which(args.nginx):
        found["nginx"] = stack.enter_context(nginx(args.nginx, [behind]))
    if args.ray is not None:
        found["Ray Serve, a nano of its own"] = stack.enter_context(ray(args.ray))
    return found


@contextmanager
def router(program: str, policy: str, behind: list[int]) -> Iterator[int]:
    """vllm-router in front of these ports."""
    port = free_port()
    urls = [f"http://127.0.0.1:{one}" for one in behind]
    command = (
        program, "--host", "127.0.0.1", "--port", port, "--prometheus-port", free_port(),
        "--policy", policy, "--worker-urls", *urls, *ROUTER,
    )  # fmt: skip
    with served(command, port):
        yield port


@contextmanager
def nginx(program: str, behind: list[int]) -> Iterator[int]:
    """nginx in front of these ports, with deploy/nginx.conf."""
    port = free_port()
    with TemporaryDirectory() as folder:
        conf = Path(folder) / "nginx.conf"
        conf.write_text(nginx_conf(port, behind, folder), encoding="utf-8")
        command = (program, "-p", folder, "-e", "stderr", "-c", conf, "-g", "daemon off;")
        with served(command, port):
            yield port


def nginx_conf(port: int, behind: list[int], folder: str) -> str:
    """deploy/nginx.conf with other addresses, which a test holds to stand in it."""
    text = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    servers = "\n".join(f"    server 127.0.0.1:{one} max_fails=0;" for one in behind)
    begin, end = text.index("    server "), text.index("    keepalive ")
    text = f"{text[:begin]}{servers}\n{text[end:]}"
    return text.replace("/tmp/", f"{folder}/").replace("listen 8080", f"listen 127.0.0.1:{port}")


@contextmanager
def ray(python: str) -> Iterator[int]:
    """nano in Ray Serve, one replica."""
    port = free_port()
    recipe = ROOT / "recipes" / "ray_serve.py"
    with served((python, recipe, "nano", "--replicas", 1, "--port", port), port):
        yield port


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


# ---- how long it takes ----


Took = dict[str, dict[str, list[float]]]


def measured(ports: dict[str, int], rounds: int) -> Took:
    """Seconds by row and column."""
    took: Took = {name: defaultdict(list) for name in ports}
    connections = {name: http.client.HTTPConnection("127.0.0.1", p) for name, p in ports.items()}
    for connection in connections.values():
        _ask_all(connection, WARM, defaultdict(list))
    for number in range(rounds):
        order = list(ports)
        random.Random(number).shuffle(order)
        for name in order:
            _ask_all(connections[name], ASKED, took[name])
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return took


def _ask_all(connection: http.client.HTTPConnection, times: int, into: dict[str, Any]) -> None:
    kinds: tuple[tuple[str, Callable[[], float]], ...] = (
        ("GET /v1/models", partial(whole, connection, "GET", "/v1/models")),
        ("one token", partial(whole, connection, "POST", "/v1/completions", asked(1))),
        ("first token", lambda: stream(connection, 2)[0]),
    )
    for column, ask in kinds:
        into[column] += [ask() for _ in range(times)]
    for _ in range(STREAMS):
        times_of = stream(connection, TOKENS)
        into["a chunk"].append((times_of[-1] - times_of[0]) / (len(times_of) - 1))


def asked(tokens: int, **more: Any) -> dict[str, Any]:
    return {
        "model": "nano", "prompt": "One and one is", "temperature": 0, "max_tokens": tokens,
        "ignore_eos": True, **more,
    }  # fmt: skip


def whole(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None
) -> float:
    """Seconds until the answer is complete."""
    began = time.perf_counter()
    _send(connection, method, path, body).read()
    return time.perf_counter() - began


def stream(connection: http.client.HTTPConnection, tokens: int) -> list[float]:
    """When each chunk came, in seconds since the stream was asked for."""
    began = time.perf_counter()
    response = _send(connection, "POST", "/v1/completions", asked(tokens, stream=True))
    came = []
    for line in response:
        if line.startswith(b"data: {"):
            came.append(time.perf_counter() - began)
    return came


def _send(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any
) -> http.client.HTTPResponse:
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        sys.exit(f"{method} {path} at port {connection.port}: {response.status} {response.read()}")
    return response


# ---- what is printed ----


def table(took: Took) -> str:
    """Milliseconds, chunks a second, and in brackets what a row adds to the first one."""
    head = ("", "GET /v1/models", "one-token completion", "first token", "chunks/s of a stream")
    lines = [head, ("---",) * len(head)]
    alone = next(iter(took.values()))
    for name, row in took.items():
        cells = [name]
        for column in COLUMNS:
            here = statistics.median(row[column])
            cells.append(_cell(column, here, statistics.median(alone[column])))
        lines.append(tuple(cells))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(column: str, here: float, alone: float) -> str:
    if column == "a chunk":
        text = f"{1 / here:.0f}"
        more = f"{alone / here - 1:+.0%}"
    else:
        text = f"{here * 1000:.2f} ms"
        more = f"{(here - alone) * 1000:+.2f}"
    return text if here == alone else f"{text} ({more})"


if __name__ == "__main__":
    main()
