"""One Chromium for all tests of the page.

Playwright's own loop runs as long as it is connected, and no other test could run one: so the
browser is a process of the session, and the tests of this folder, which is a package for that, are
connected to it.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import CHROMIUM, OPTIONS, Tab, playwright

# As playwright has it: without a screen Chromium would have no mouse.
MOUSE = (
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,"
    "primaryPointerType=4,availablePointerTypes=4"
)
PORT = "DevToolsActivePort"  # the file in which Chromium says where it listens


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address to connect to."""
    assert CHROMIUM is not None
    profile = tmp_path_factory.mktemp("chromium")
    own = ["--headless", MOUSE, "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    command = [CHROMIUM, *own, *OPTIONS]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        try:
            yield f"http://127.0.0.1:{port_of(profile, process)}"
        finally:
            process.terminate()


def port_of(profile: Path, process: subprocess.Popen[bytes]) -> int:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        assert process.poll() is None, "Chromium did not start"
        if (profile / PORT).exists() and (text := (profile / PORT).read_text()):
            return int(text.splitlines()[0])
        time.sleep(0.02)
    raise AssertionError("Chromium does not say where it listens")


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[object]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.connect_over_cdp(chromium)
        yield running
        running.close()  # the connection; what was opened through it goes, too


@pytest.fixture(scope="package")
def tabs(browser: object) -> list[Tab]:
    """Pages that have forgotten everything, for the next test."""
    return []
