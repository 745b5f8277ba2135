"""`--parallel` under torchrun: commands answer as they do in one process, and end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
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


def ask_and_stop(server: subprocess.Popen[str]) -> None:
    assert server.stdout is not None
    first = server.stdout.readline()
    address = re.search(r"http://\S+", first)
    assert address is not None, first
    body = json.dumps({"model": "tiny", "prompt": "What", "max_tokens": 5, "temperature": 0})
    request = urllib.request.Request(
        f"{address[0]}/v1/completions", body.encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["choices"][0]["finish_reason"]
    server.send_signal(signal.SIGTERM)
    server.wait(60)
