"""`--parallel` under torchrun: commands answer as they do in one process, and end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from front import free_port
from tiny_model import environment, write_tiny

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ONE = [sys.executable]


def command(start: list[str], *words: str) -> list[str]:
    return [*start, "-m", "ossia", *words]


def done(start: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    there = environment(OMP_NUM_THREADS="1")
    return subprocess.run(
        command(start, *words), env=there, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_generate_in_two_processes(tmp_path: Path) -> None:
    tiny = str(write_tiny(tmp_path / "tiny"))
    words = ["generate", tiny, "--ids", "5,17,42", "--max-tokens", "8", "--seed", "3", "--json"]
    words += ["--dtype", "float32"]
    wanted = json.loads(done(ONE, *words).stdout)
    together = done(TORCHRUN, *words, "--parallel", "ep=2")
    assert together.returncode == 0, together.stderr
    found: dict[str, Any] = json.loads(together.stdout)
    assert found["ids"] == wanted["ids"]
    assert found["logprobs"] == pytest.approx(wanted["logprobs"], abs=1e-5)


@pytest.mark.slow
def test_what_does_not_divide_or_does_not_fit_is_said(tmp_path: Path) -> None:
    tiny = str(write_tiny(tmp_path / "tiny"))
    words = ["generate", tiny, "--ids", "5"]
    wrong = done(ONE, *words, "--parallel", "ep=2")
    assert wrong.returncode == 2
    assert "WORLD_SIZE says 1" in wrong.stderr
    assert "torchrun --nproc-per-node 2" in wrong.stderr
    assert "give --parallel" in done(TORCHRUN, *words).stderr
    heads = done(TORCHRUN, *words, "--parallel", "tp=2")
    assert "does not divide intermediate_size / 32" in heads.stderr


@pytest.mark.slow
def test_a_server_in_two_processes_answers_and_stops(tmp_path: Path) -> None:
    tiny = str(write_tiny(tmp_path / "tiny"))
    words = ["serve", tiny, "--port", "0", "--parallel", "ep=2", "--dtype", "float32"]
    with subprocess.Popen(
        command(TORCHRUN, *words),
        env=environment(OMP_NUM_THREADS="1"),
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            ask_and_stop(server)
        finally:
            server.kill()


def address_of(server: subprocess.Popen[str]) -> str:
    """When it is ready."""
    assert server.stdout is not None
    first = server.stdout.readline()
    address = re.search(r"http://\S+", first)
    assert address is not None, first
    return address[0]


def ask(address: str) -> dict[str, Any]:
    body = json.dumps({"model": "tiny", "prompt": "What", "max_tokens": 5, "temperature": 0})
    request = urllib.request.Request(
        f"{address}/v1/completions", body.encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def ask_and_stop(server: subprocess.Popen[str]) -> None:
    assert ask(address_of(server))["choices"][0]["finish_reason"]
    server.send_signal(signal.SIGTERM)
    server.wait(60)


@pytest.mark.slow
def test_a_server_ends_when_the_process_beside_it_dies(tmp_path: Path) -> None:
    """By an error of its own, whoever started the two: it is started again only if it ends."""
    tiny = str(write_tiny(tmp_path / "tiny"))
    words = ["serve", tiny, "--port", "0", "--parallel", "ep=2", "--dtype", "float32"]
    meet = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}

    def started(rank: int) -> subprocess.Popen[str]:
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        there = environment(**meet, **place)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command(ONE, *words), env=there, **pipes)  # type: ignore[call-overload, no-any-return]

    with started(0) as server, started(1) as beside:
        try:
            address = address_of(server)
            assert ask(address)["choices"][0]["finish_reason"]
            beside.kill()
            with pytest.raises(urllib.error.HTTPError) as caught:
                ask(address)
            assert caught.value.code == 503
            caught.value.close()
            _, log = server.communicate(timeout=60)
            assert server.returncode == 1, log
            assert "start all of them again" in log.splitlines()[-1]
        finally:
            server.kill()
            beside.kill()
