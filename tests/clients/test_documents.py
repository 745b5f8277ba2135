"""docs/clients.md: the versions that it names are those that are tested, and its examples print
what it says.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import environments
from clients.conftest import LIMIT, environment, python_of
from clients.documents import PAGE, blocks, sections

EXAMPLES = [
    heading
    for heading, shown in sections().items()
    if any(language == "python" for language, _ in shown)
]


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """What the page's own command serves, only at another port."""
    command = blocks("sh")[0]
    name, *options = shlex.split(command)
    assert name == "ossia"
    server = subprocess.Popen(
        [sys.executable, "-m", "ossia", *options, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(PYTHONUNBUFFERED="1"),
    )
    try:
        assert server.stdout is not None
        first = server.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", first)
        assert found, first + server.stdout.read()
        yield found[0]
    finally:
        server.terminate()
        server.communicate(timeout=30)


@pytest.mark.clients
@pytest.mark.parametrize("client", EXAMPLES)
def test_an_example_prints_what_the_page_says(client: str, base: str, tmp_path: Path) -> None:
    shown = sections()[client]
    assert [language for language, _ in shown] == ["python", "text"]
    (_, code), (_, printed) = shown
    assert "http://127.0.0.1:8000" in code
    script = tmp_path / "example.py"
    script.write_text(code.replace("http://127.0.0.1:8000", base))
    command = [str(python_of(client)), str(script)]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT, env=environment()
    )
    assert (ended.stdout, ended.stderr) == (printed, "")


def test_every_python_client_has_an_example() -> None:
    assert sorted(EXAMPLES) == sorted(environments.PYTHON)


def test_the_versions_are_those_that_are_tested() -> None:
    pins = [
        re.sub(r"\[.*\]", "", packages[0]).rpartition("==")
        for packages in environments.PYTHON.values()
    ]
    pins += [packages[0].rpartition("@") for packages in environments.NODE.values()]
    rows = re.findall(r"^\| .*?`(\S+)` (\S+) \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted((name, version) for name, _, version in pins)
