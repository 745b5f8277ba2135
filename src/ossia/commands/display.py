"""What every command needs to print: colours where they are welcome, text made harmless, progress
bars.

Knows terminals; nothing of models or chats, and loads no torch.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

RESET, DIM, RED, GREEN = "\x1b[0m", "\x1b[2m", "\x1b[31m", "\x1b[32m"
YELLOW, CYAN = "\x1b[33m", "\x1b[36m"
# What a model says must not move the cursor, write to the clipboard or change the order in which
# words are shown: controls become U+FFFD, those of a text's direction too.
_DIRECTIONS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROLS = {
    code: "\ufffd"
    for code in (*range(32), *range(127, 160), *_DIRECTIONS)
    if chr(code) not in "\t\n"
}
BAR_AFTER = 1.0  # seconds


def is_styled(stream: TextIO) -> bool:
    """Whether escape codes are welcome: a terminal, and nobody said no (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def visible(text: str) -> str:
    return text.translate(_CONTROLS)


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The end of a sentence about a word that is none of these: the likeliest of them, or ""."""
    import difflib  # late: it takes a while to load

    near = difflib.get_close_matches(word, list(words), 1)
    return f"; did you mean {near[0]}?" if near else ""


def in_columns(
    rows: Sequence[Sequence[str]], indent: int = 2, right: int = 0, least: int = 0
) -> Iterator[str]:
    """Rows as lines of aligned columns, the last `right` of them aligned right; the first is at
    least `least` wide.

    Where a person looks, a last column of words is folded to the width of the window; elsewhere a
    row is a line.
    """
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    count = max(map(len, rows), default=0)
    for number in range(count):
        is_number = number >= count - right
        folds = number == count - 1 and not is_number
        table.add_column(
            justify="right" if is_number else "left",
            no_wrap=not folds,
            min_width=0 if number else least,
        )
    for row in rows:
        table.add_row(*map(Text, row))
    width = 1 << 16
    if sys.stdout.isatty() and not right:
        width = shutil.get_terminal_size().columns
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(Padding.indent(table, indent))
    yield from map(str.rstrip, captured.get().splitlines())


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
