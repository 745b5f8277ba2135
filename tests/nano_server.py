"""`ossia serve nano` as a process, and questions for it: what the tests under load share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import Any

import warm_python

QUESTIONS = tuple(
    text.format(a, b)
    for text in (
        "What is {} + {}?",
        "Tom has {} apples and buys {} more. How many has he?",
        "Tell me of {} and {}.",
    )
    for a, b in ((3, 4), (608, 311))
)


@dataclass
class Process:
    url: str
    process: subprocess.Popen[str]

    def resident(self) -> int:
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(*options: str) -> Iterator[Process]:
    """`ossia serve nano` as a process of its own, which logs no failure."""
    command = [sys.executable, "-m", "ossia", "serve", "nano", "--port", "0", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (
        TemporaryFile("w+") as log,
        warm_python.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found is not None, line
            yield Process(found[0], process)
        finally:
            process.kill()
            log.seek(0)
            said = log.read()
        failed = re.search(r".*(?:Traceback|ERROR)", said)
        assert failed is None, said[failed.start() :][:3000]


def body(question: str, tokens: int, **more: Any) -> dict[str, Any]:
    return {
        "model": "nano", "messages": [{"role": "user", "content": question}], "temperature": 0,
        "max_tokens": tokens,
        "stream": True, "stream_options": {"include_usage": True}, **more,
    }  # fmt: skip
