"""Replicas of nano on ports that stay theirs, and people who stream from whatever is in front."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from front import free_port


class Replica:
    """`ossia serve nano` that can be stopped and started again where it was."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.options = options
        self._log = folder / f"{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it is ready."""
        command = [sys.executable, "-m", "ossia", "serve", "nano", "--port", str(self.port)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self.options], stdout=log, stderr=log, env=environment
            )
        while not is_ready(self.url):
            assert self._process.poll() is None, self.said()[-3000:]
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """What the process ended with."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait()

    def streaming(self) -> int:
        """Answers that its engine is computing."""
        with urllib.request.urlopen(f"{self.url}/metrics") as response:
            lines = response.read().decode().splitlines()
        (value,) = (line for line in lines if line.startswith("ossia:num_requests_running{"))
        return int(float(value.rsplit(" ", 1)[1]))

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def said(self) -> str:
        """All of its log."""
        return self._log.read_text(encoding="utf-8", errors="replace")


@contextmanager
def replicas(count: int, *options: str) -> Iterator[list[Replica]]:
    """Started one after the other; ended, and their logs looked at, when the test is over."""
    with TemporaryDirectory() as folder:
        made = [Replica(Path(folder), *options) for _ in range(count)]
        try:
            for one in made:
                one.start()
            yield made
        finally:
            for one in made:
                one.end()
        for one in made:
            said = one.said()
            assert "Traceback" not in said and " ERROR " not in said, said[-3000:]


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=10) as response:
            return int(response.status) == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


class Crowd:
    """`people` who each stream one answer after the other, until `leave`. What did not end as it
    should is in `lost`.
    """

    def __init__(self, port: int, people: int, tokens: int) -> None:
        self.port = port
        self.tokens = tokens
        self.lost: list[str] = []
        self.whole = 0
        self._leaving = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._person, args=(n,)) for n in range(people)]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        for thread in self._threads:
            thread.join()

    def _person(self, number: int) -> None:
        while not self._leaving.is_set():
            try:
                found = self._stream(number)
            except (OSError, http.client.HTTPException) as error:
                found = repr(error)
            with self._lock:
                if found:
                    self.lost.append(found)
                else:
                    self.whole += 1

    def _stream(self, number: int) -> str:
        """What was wrong, if anything was."""
        body = {
            "model": "nano", "messages": [{"role": "user", "content": f"Count to {number}."}],
            "max_tokens": self.tokens, "ignore_eos": True, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps(body),
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status != 200:
            return f"{response.status} {text[:300]}"
        events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        if events[-1:] != ["[DONE]"]:
            return f"no end: {text[-300:]}"
        usage = json.loads(events[-2])["usage"]
        if usage["completion_tokens"] != self.tokens:
            return f"{usage['completion_tokens']} tokens: {text[-300:]}"
        return ""
