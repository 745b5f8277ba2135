"""Asking the person at the terminal whether a call may be carried out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ossia.commands.terminal.screen import Screen, is_shown_whole
from ossia.tools.approval import Asked, Verdict

if TYPE_CHECKING:
    from ossia.commands.terminal.interrupts import Presses

NOBODY = "Nobody can be asked: this chat does not run at a terminal."
ANSWERS = {"y": True, "yes": True, "n": False, "no": False, "a": True, "always": True}
ALWAYS = ("a", "always")


class Approver:
    """Called with a question, in the thread that shows the answer. Until there is a terminal, every
    call is refused.
    """

    def __init__(self) -> None:
        self._screen: Screen | None = None
        self._read: Callable[[str], str] | None = None

    def attend(self, screen: Screen, read: Callable[[str], str]) -> None:
        """`read`: shows a question, and returns what was typed after it."""
        self._screen = screen
        self._read = read

    def __call__(self, asked: Asked) -> Verdict:
        if self._read is None or self._screen is None:
            return Verdict(False, NOBODY)
        name = ".".join(filter(None, (asked.label, asked.name)))
        text = _text(asked.arguments)
        if asked.reason == "changed":
            self._screen.note(f"{name} is no longer what it was when this chat began")
        if not is_shown_whole(text):
            self._screen.note(text)
        self._screen.end_line()
        while True:
            try:
                word = self._read(f"allow {name}? y = yes, n = no, a = always: ").strip().lower()
            except (EOFError, KeyboardInterrupt):
                return Verdict(False)
            if word in ANSWERS:
                return Verdict(ANSWERS[word], always=word in ALWAYS)


def at_terminal(approver: Approver, screen: Screen, presses: Presses) -> None:
    from ossia.commands.terminal.prompt import read_answer

    approver.attend(screen, lambda question: read_answer(question, presses))


def _text(arguments: dict[str, Any]) -> str:
    """A patch as it is, anything else as JSON."""
    match arguments:
        case {"patch": str(patch)}:
            return patch
    return json.dumps(arguments, ensure_ascii=False, indent=2)
