"""Anthropic's JavaScript client against a server: its tool runner comes to the answer."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from clients import environments
from clients.conftest import HERE, LIMIT, Served, environment
from clients.test_python_clients import RAN, TOOL

pytestmark = pytest.mark.clients
each_way = pytest.mark.parametrize("case", ["runner", "runner_streamed"])


def run(case: str, served: Served) -> Any:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    try:
        modules = environments.node("anthropic-js")
    except environments.Missing as missing:
        pytest.skip(f"anthropic-js: {missing}")
    variables = environment(OSSIA_URL=served.url, OSSIA_MODEL="nano", OSSIA_MODULES=str(modules))
    command = [node, str(HERE / "scripts/anthropic_runner.mjs"), case]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=variables)
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


@each_way
def test_it_gets_what_the_model_says(case: str, scripted: Callable[..., Any]) -> None:
    with scripted(*TOOL) as served:
        assert run(case, served) == RAN
    assert "<|message|>85<|end|>" in served.prompts[-1]


@each_way
def test_it_comes_to_an_answer_with_nano(case: str, nano: Served) -> None:
    assert run(case, nano) == RAN
