"""`ossia` at a pseudo-terminal, as a person sees it."""

from __future__ import annotations

import os
import pty
import re
import select
import sys
import termios
import time
from pathlib import Path

import pytest
import warm_python
from tiny_model import environment


def plain(text: str) -> str:
    """Without escape codes."""
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text)


class Terminal:
    """`ossia` at a pseudo-terminal, which makes Ctrl-C a signal."""

    PROGRAM = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
FIRST
from ossia.commands.main import main
sys.exit(main())
"""

    def __init__(self, *args: str | Path, first: str = "", **variables: str) -> None:
        """`first`: what the program does before it reads its arguments."""
        program = self.PROGRAM.replace("FIRST", first)
        self.handle, theirs = pty.openpty()
        self.process = warm_python.Popen(
            [sys.executable, "-c", program, *map(str, args)],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env=environment(TERM="xterm", **variables),
        )  # fmt: skip
        os.close(theirs)
        self.seen = ""
        self.all = ""

    def shows(self, text: str, seconds: float) -> bool:
        """Read until `text` appears in what was not yet waited for; False if it does not."""
        until = time.monotonic() + seconds
        while text not in plain(self.seen):
            if not select.select([self.handle], [], [], max(0, until - time.monotonic()))[0]:
                return False
            try:
                read = os.read(self.handle, 4096).decode(errors="replace")
            except OSError:  # it has ended
                return False
            self.seen += read
            self.all += read
        self.seen = plain(self.seen).split(text, 1)[1]
        return True

    def wait_until_working(self) -> None:
        """Until no prompt reads keys any more: from now on Ctrl-C is a signal."""
        until = time.monotonic() + 60
        while not termios.tcgetattr(self.handle)[3] & termios.ISIG:
            if time.monotonic() > until:
                pytest.fail(f"the prompt is still there: {self.seen!r}")
            self.shows("nothing that is waited for", 0.01)

    def wait_for(self, text: str) -> None:
        if not self.shows(text, 60):
            pytest.fail(f"no {text!r}, but {self.seen!r}")

    def type(self, text: str) -> None:
        os.write(self.handle, text.encode())

    def end(self) -> int:
        """The exit code."""
        self.shows("nothing more that is waited for", 60)
        return self.process.wait(60)
