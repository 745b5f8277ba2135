"""How events of a turn are written to a stream.

Knows escape codes; nothing of models, conversations or /commands.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from itertools import chain
from typing import TextIO

from ossia.commands.display import DIM, RED, RESET, visible
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
CALL_LINES = 40  # that a terminal shows of a call
RESULT_LINES = 12  # and of a result, from its beginning and its end
LINE_CHARACTERS = 500  # of a line of either
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class Screen:
    """Writes events to a stream. Styled: reasoning, calls and results dim. Else: a prefix on their
    lines. `cuts`: whether long calls and results are cut; at a terminal they are.
    """

    def __init__(self, out: TextIO, *, styled: bool, reasoning: bool = True) -> None:
        self.out, self.styled, self.reasoning = out, styled, reasoning
        self.cuts = out.isatty()
        self._fresh = True  # whether the cursor is at the beginning of a line
        self._waiting = False  # whether that line says that reasoning goes on, which is not shown
        self._items: dict[int, Item] = {}  # of the turn that is shown
        self._calls: dict[int, Cut] = {}  # of our tools, begun to be shown
        self._whole: set[str] = set()  # the texts of calls that were shown whole

    def show(self, event: TurnEvent) -> None:
        match event:
            case ItemStart():
                self.end_line()
                self._items[event.index] = event.item
            case ItemDelta():
                self._text(event.index, event.text)
            case CallStart(index=index, item=call):
                if index not in self._calls:
                    self._call(index, call, call.text)
                cut = self._calls.pop(index)
                if not cut.left_out:
                    self._whole.add(call.text)
                self._write(cut.rest(), DIM, "call: ")
                self.end_line()
            case ItemEnd(item=BuiltinCallItem(failed=True) as call) if event.complete:
                self._block("failed", self._shortened(call.result), RED)
            case ItemEnd(item=BuiltinCallItem() as call) if event.complete:
                self._block("result", self._shortened(call.result), DIM)
            case ItemEnd(item=ToolCallItem() as call):
                self._block("call", f"{call.name} {call.text}", DIM)
            case TurnEnd():
                self.end_line()
                self._items.clear()
                self._calls.clear()
                self._whole.clear()
        self.out.flush()

    def _text(self, index: int, text: str) -> None:
        match self._items[index]:
            case ReasoningItem():
                self._think(text)
            case MessageItem():
                self._write(text)
            case BuiltinCallItem() as call:
                self._call(index, call, text)

    def _call(self, index: int, call: BuiltinCallItem, text: str) -> None:
        """Code as it is sampled; other calls when they are complete."""
        if index not in self._calls:
            self._calls[index] = Cut(CALL_LINES if self.cuts else None)
            gap = " " if text.startswith("{") else "\n"
            text = f"{call.name}{gap}{text}"
        self._write(self._calls[index].feed(text), DIM, "call: ")

    def _shortened(self, text: str) -> str:
        return shortened(text) if self.cuts else text

    def has_shown(self, call: str) -> bool:
        """Whether a call was written like that in this turn, and shown whole."""
        return call in self._whole

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


class Cut:
    """Text that grows, as far as it is shown: so many lines (None: all) of bounded length."""

    def __init__(self, lines: int | None) -> None:
        self.most = lines
        self.lines = 0
        self.column = 0
        self.left_out = 0  # characters

    def feed(self, text: str) -> str:
        return text if self.most is None else "".join(map(self._part, _LINE.findall(text)))

    def rest(self) -> str:
        """What is said at the end."""
        return f"\n[... {self.left_out} characters left out ...]" if self.left_out else ""

    def _part(self, part: str) -> str:
        """Of a line, or all of it, with its end."""
        assert self.most is not None
        is_seen = self.lines < self.most
        room = max(0, LINE_CHARACTERS - self.column) if is_seen else 0
        words = part.removesuffix("\n")
        self.left_out += max(0, len(words) - room)
        self.column += len(words)
        end = part[len(words) :]
        if end:
            self.lines += 1
            self.column = 0
        return words[:room] + (end if is_seen else "")


def shortened(result: str) -> str:
    """Lines of the beginning and the end."""
    lines = [_within(line) for line in result.split("\n")]
    if len(lines) <= RESULT_LINES:
        return "\n".join(lines)
    half = RESULT_LINES // 2
    note = f"[... {len(lines) - 2 * half} lines left out ...]"
    return "\n".join([*lines[:half], note, *lines[-half:]])


def _within(line: str) -> str:
    return line if len(line) <= LINE_CHARACTERS else f"{line[:LINE_CHARACTERS]} ..."
