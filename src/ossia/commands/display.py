"""What every command needs to print: colours where they are welcome, text made harmless, progress
bars.

Knows terminals; nothing of models or chats, and loads no torch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

RESET, DIM, RED, GREEN = "\x1b[0m", "\x1b[2m", "\x1b[31m", "\x1b[32m"
YELLOW, CYAN = "\x1b[33m", "\x1b[36m"
# What a model says must not move the cursor or write to the clipboard: controls become U+FFFD.
_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
BAR_AFTER = 1.0  # seconds


def is_styled(stream: TextIO) -> bool:
    """Whether escape codes are welcome: a terminal, and nobody said no (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def visible(text: str) -> str:
    return text.translate(_CONTROLS)


@contextmanager
def progress(what: str, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """A function to tell (done, of all). After a second a bar is shown on stderr, if that is a
    terminal, until all is done.

    unit: "bytes", or a word for what is counted.
    """
    from rich import progress as bars
    from rich.console import Console

    counts: Sequence[Any] = (bars.DownloadColumn(True), bars.TransferSpeedColumn())
    if unit != "bytes":
        counts = (bars.MofNCompleteColumn(), bars.TextColumn(unit))
    columns = (bars.TextColumn(what), bars.BarColumn(), *counts, bars.TimeRemainingColumn())
    console = Console(stderr=True)
    bar = bars.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=None)
    lock, over = threading.Lock(), threading.Event()

    def show() -> None:
        with lock:
            if not over.is_set():
                bar.start()

    def tell(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        if done >= total:
            end()

    def end() -> None:
        with lock:
            if not over.is_set():
                over.set()
                bar.stop()

    timer = threading.Timer(BAR_AFTER, show)  # also when nothing is told for long
    timer.daemon = True
    timer.start()
    try:
        yield tell
    finally:
        timer.cancel()
        end()
