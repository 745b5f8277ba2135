"""Asking the person at the terminal whether a call may be carried out."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ossia.commands.display import visible
from ossia.commands.terminal.screen import Screen
from ossia.tools.approval import Asked, Verdict

if TYPE_CHECKING:
    from ossia.commands.terminal.interrupts import Presses

NOBODY = "Nobody can be asked: this chat does not run at a terminal."
ANSWERS = {"y": True, "yes": True, "n": False, "no": False, "a": True, "always": True}
ALWAYS = ("a", "always")
LONGEST_NAME = 200  # characters


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
        name = _in_line(".".join(filter(None, (asked.label, asked.name))))
        texts = _texts(asked.arguments)
        if asked.reason == "changed":
            self._screen.note(f"{name} is no longer what it was when this chat began")
        if not any(map(self._screen.has_shown, texts)):
            self._screen.note(texts[0])
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


def _in_line(name: str) -> str:
    """A server may name its tool as it likes, also like a question with its answer."""
    return " ".join(visible(name[:LONGEST_NAME]).split())


def _texts(arguments: dict[str, Any]) -> tuple[str, ...]:
    """What will be run, first as it is asked for: a patch as it is, anything else as JSON; then as
    a model may have written the same. JSON in another form may say something else to a person: a
    name twice, or letters as escapes.
    """
    match arguments:
        case {"patch": str(patch)}:
            return (patch,)
    dumps = partial(json.dumps, ensure_ascii=False)
    return dumps(arguments, indent=2), dumps(arguments), dumps(arguments, separators=(",", ":"))
