"""How events of a turn are written to a stream.

Knows escape codes; nothing of models, conversations or /commands.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from itertools import chain
from typing import TextIO

from ossia.commands.display import CYAN, DIM, RED, RESET, visible
from ossia.turn.events import (
    BuiltinCallItem,
    CallStart,
    Item,
    ItemDelta,
    ItemEnd,
    ItemStart,
    MessageItem,
    ReasoningItem,
    ToolCallItem,
    TurnEnd,
    TurnEvent,
)

ERASE_LINE = "\r\x1b[K"
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class Screen:
    """Writes events to a stream. Styled: reasoning dim, tools coloured. Else: a prefix on their
    lines.
    """

    def __init__(self, out: TextIO, *, styled: bool, reasoning: bool = True) -> None:
        self.out, self.styled, self.reasoning = out, styled, reasoning
        self._fresh = True  # whether the cursor is at the beginning of a line
        self._waiting = False  # whether that line says that reasoning goes on, which is not shown
        self._items: dict[int, Item] = {}  # of the turn that is shown

    def show(self, event: TurnEvent) -> None:
        match event:
            case ItemStart():
                self.end_line()
                self._items[event.index] = event.item
            case ItemDelta():
                self._text(self._items[event.index], event.text)
            case CallStart(item=call):
                self._block("call", f"{call.name} {call.text}", CYAN)
            case ItemEnd(item=BuiltinCallItem(failed=True) as call) if event.complete:
                self._block("failed", call.result, RED)
            case ItemEnd(item=BuiltinCallItem() as call) if event.complete:
                self._block("result", call.result, CYAN)
            case ItemEnd(item=ToolCallItem() as call):
                self._block("call", f"{call.name} {call.text}", CYAN)
            case TurnEnd():
                self.end_line()
        self.out.flush()

    def _text(self, item: Item, text: str) -> None:
        match item:
            case ReasoningItem():
                self._think(text)
            case MessageItem():
                self._write(text)

    def note(self, text: str) -> None:
        """A line of our own, not the model's; at a terminal it is folded between words."""
        self.end_line()
        if self.out.isatty():
            width = shutil.get_terminal_size().columns
            lines = (textwrap.wrap(line, width) or [""] for line in text.split("\n"))
            text = "\n".join(chain.from_iterable(lines))
        self._write(text, DIM)
        self.end_line()
        self.out.flush()

    def end_line(self) -> None:
        if self._waiting:
            self.out.write(ERASE_LINE)
            self._waiting = False
            self._fresh = True
        if not self._fresh:
            self.out.write("\n")
            self._fresh = True

    def _think(self, text: str) -> None:
        if self.reasoning:
            self._write(text, DIM, "" if self.styled else "thinking: ")
        elif self.styled and not self._waiting:
            self._write("thinking ...", DIM)
            self._waiting = True

    def _block(self, prefix: str, text: str, style: str) -> None:
        self.end_line()
        self._write(text or "\n", style, f"{prefix}: ")
        self.end_line()

    def _write(self, text: str, style: str = "", prefix: str = "") -> None:
        for line in _LINE.findall(visible(text)):
            if self._fresh:
                line = prefix + line
            self._fresh = line.endswith("\n")
            if style and self.styled:
                line = f"{style}{line}{RESET}"
            self.out.write(line)
