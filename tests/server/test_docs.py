"""What docs/serving.md shows works: its examples are run against nano, and the options it names
exist.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm_python

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
CURL = [block for kind, block in BLOCKS if kind == "sh" and block.startswith("curl")]
PYTHON = [block for kind, block in BLOCKS if kind == "python"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    command = [sys.executable, "-m", "ossia", "serve", "nano", "--port", "0"]
    with warm_python.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            process.kill()


def run(command: list[str]) -> str:
    environment = os.environ | {"NO_PROXY": "*", "OPENAI_LOG": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", CURL, ids=lambda text: text.split()[2].removeprefix(ADDRESS))
def test_curl(address: str, example: str) -> None:
    said = run(["bash", "-euc", example.replace(ADDRESS, address)])
    if '"stream": true' in example:
        assert '"finish_reason":"stop"' in said and "data: [DONE]" in said
    else:
        assert "85" in said and '"error":{' not in said


@pytest.mark.parametrize("example", PYTHON, ids=["responses", "tools", "parse"])
def test_python(address: str, example: str) -> None:
    said = run([sys.executable, "-c", example.replace(ADDRESS, address)])
    assert {"previous": "85", "calculator": "4821", "BaseModel": "result="}[_kind(example)] in said


def _kind(example: str) -> str:
    return next(word for word in ("calculator", "BaseModel", "previous") if word in example)


def test_every_option_named_is_one() -> None:
    known = run([sys.executable, "-m", "ossia", "serve", "--help"])
    named = set(re.findall(r"--[a-z][a-z-]+", TEXT.split("## Beside")[0].split("## Options")[1]))
    assert named and not {option for option in named if option not in known}
    for commands in (block for kind, block in BLOCKS if kind == "sh" and block.startswith("ossia")):
        assert not {
            option for option in re.findall(r"--[a-z][a-z-]+", commands) if option not in known
        }


def test_every_path_named_is_served(address: str) -> None:
    described = run(["curl", "-s", f"{address}/openapi.json"])
    for path in (
        "/v1/responses",
        "/v1/chat/completions",
        "/v1/messages",
        "/v1/responses/input_tokens",
        "/v1/conversations",
    ):
        assert f'"{path}"' in described
    for path in ("/health", "/ready", "/metrics", "/v1/models", "/"):
        assert path in TEXT or path == "/v1/models"
        assert (
            run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{address}{path}"])
            == "200"
        )
