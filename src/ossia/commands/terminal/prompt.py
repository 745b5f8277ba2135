"""The line editor of a chat, and where it keeps what was typed.

Knows prompt_toolkit, which is imported when a prompt is made: a pipe needs none.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ossia.commands.terminal.interrupts import Presses

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import Application
    from prompt_toolkit.completion import Completer


class Prompt:
    """Enter sends, Alt-Enter begins a new line. `typed`: what stood there when it was left."""

    def __init__(self, *, keep_history: bool, completer: Completer) -> None:
        self._session = _prompt_session(keep_history)
        self._session.completer = completer

    @property
    def typed(self) -> str:
        return self._session.default_buffer.text

    def read(self, presses: Presses) -> str:
        """Raises `KeyboardInterrupt` for Ctrl-C, as a key or as a signal, and `EOFError` for
        Ctrl-D.

        prompt_toolkit has a handler of the signal, which fails where the program is not running
        yet, or not any more; its own `asyncio.run` would set another one.
        """
        return _read(self._session, "\n> ", presses)


def read_answer(question: str, presses: Presses) -> str:
    """Like `Prompt.read`, for one line that is not kept."""
    from prompt_toolkit import PromptSession

    return _read(PromptSession(), question, presses)


def _read(session: PromptSession[str], message: str, presses: Presses) -> str:
    leaving = _Leaving(session.app)
    try:
        with presses.go_to(leaving.ask):
            return session.prompt(message, handle_sigint=False, pre_run=leaving.leave)
    finally:
        if leaving.asked and not leaving.left:
            presses.keep()


class _Leaving:
    """A signal may come before the editor runs, while it does, and after it has read a line."""

    def __init__(self, app: Application[str]) -> None:
        self.app = app
        self.asked = False
        self.left = False

    def ask(self) -> None:
        self.asked = True
        if self.app.loop is not None:
            self.app.loop.call_soon_threadsafe(self.leave)

    def leave(self) -> None:
        future = self.app.future
        if self.asked and not self.left and future is not None and not future.done():
            self.left = True
            self.app.exit(exception=KeyboardInterrupt, style="class:aborting")


def _prompt_session(keep_history: bool) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.shortcuts import CompleteStyle

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    file = history_file() if keep_history else None
    history = FileHistory(str(file)) if file is not None else InMemoryHistory()
    return PromptSession(
        history=history,
        key_bindings=keys,
        multiline=True,
        prompt_continuation="  ",
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
    )


def history_file() -> Path | None:
    """Where the lines typed are kept, readable by their owner only; None where nothing can be
    written.
    """
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "ossia" / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError:
        return None
    return path
