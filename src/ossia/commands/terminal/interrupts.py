"""What Ctrl-C does in a chat at a terminal, at any moment of it.

Whoever is at work takes it: the prompt, an answer, a /command. Between two of them it is kept for
the next, so that none is lost, and none ends the program. Knows signals and the settings of a
terminal; nothing of models or of what is shown.
"""

from __future__ import annotations

import signal
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

LOCAL_MODES = 3  # where `termios.tcgetattr` has the flags that NOFLSH is one of


class Presses:
    """Takes Ctrl-C from Python for as long as it is entered."""

    def __init__(self) -> None:
        self._taker: Callable[[], None] | None = None
        self._kept = False

    def __enter__(self) -> Presses:
        self._before = signal.signal(signal.SIGINT, self._pressed)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def go_to(self, taker: Callable[[], None]) -> Iterator[None]:
        """`taker` is called at once for what was kept, then whenever Ctrl-C comes; it runs in the
        main thread, between any two steps of it, and may raise `KeyboardInterrupt`.
        """
        before = self._taker
        self._taker = taker
        try:
            if self._kept:
                self._kept = False
                taker()
            yield
        finally:
            self._taker = before

    def keep(self) -> None:
        """One that came too late for who took it: the next one gets it."""
        self._kept = True

    def _pressed(self, number: int, frame: object) -> None:
        if self._taker is None:
            self._kept = True
        else:
            self._taker()


def raise_interrupt() -> None:
    """A taker, for work that can be broken off anywhere."""
    raise KeyboardInterrupt


class Interrupt:
    """Ctrl-C during an answer: `press` is its taker. The first sets `asked`, which a call returns;
    one more, during a long step, raises, and so does the first while `waiting`.

    `break_calls`: while tools run, Ctrl-C is for them first. It returns whether it was.
    """

    def __init__(self) -> None:
        self.asked = False
        self.break_calls: Callable[[], bool] = lambda: False
        self._raises = False

    def __call__(self) -> bool:
        return self.asked

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For what can be broken off, and cannot look at `asked`: reading from a socket."""
        self._raises = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._raises = False

    def press(self) -> None:
        if self.break_calls():
            return
        again = self.asked
        self.asked = True
        if again or self._raises:
            raise KeyboardInterrupt


@contextmanager
def nothing_lost(stream: TextIO) -> Iterator[None]:
    """When Ctrl-C comes, a terminal throws away what was typed for the next prompt, and what it has
    not shown yet, unless it is told not to.
    """
    if not stream.isatty():
        yield
        return
    modes = termios.tcgetattr(stream)
    before = modes[LOCAL_MODES]
    modes[LOCAL_MODES] = before | termios.NOFLSH
    termios.tcsetattr(stream, termios.TCSANOW, modes)
    try:
        yield
    finally:
        modes[LOCAL_MODES] = before
        termios.tcsetattr(stream, termios.TCSANOW, modes)
