"""A chat at a terminal or through a pipe: reads lines, has them answered, and does what the
/commands say.

Knows prompt_toolkit and files of history. How a turn is shown is `screen.py`, what a conversation
is `session.py`, a model behind a URL `remote.py`, and which /commands there are `slash.py`. Loads
no torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ossia.commands.terminal.remote import Server
from ossia.commands.terminal.screen import Interrupt, Screen
from ossia.commands.terminal.session import Session
from ossia.errors import CONTEXT_EXCEEDED, OssiaError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

__all__ = ["Interrupt", "Screen", "Session", "answer_lines", "interact"]

DEMONSTRATION = (
    "a demonstration of 4 MB that knows arithmetic and the facts that you give it; "
    "for real work: ossia chat gpt-oss-20b"
)


def answer_lines(session: Session, lines: Iterable[str], screen: Screen) -> None:
    """Each line that is not empty is a turn. Raises what `LLM.chat` raises."""
    first = True
    for line in lines:
        if not (text := line.strip()):
            continue
        if not first:
            screen.out.write("\n")
        first = False
        if note := session.ask(text, screen):
            print("ossia:", note, file=sys.stderr)


# ---- at a terminal -------------------------------------------------------------------------------


def interact(session: Session, screen: Screen, name: str, *, keep_history: bool) -> None:
    """Read, answer, and again, until /quit or Ctrl-D."""
    # late: prompt_toolkit is not needed to answer a pipe
    from ossia.commands.terminal import slash

    session.name = name
    effort = f"effort {session.effort}; " if session.effort else ""
    screen.note(f"{name}: {session.about()}; {effort}/help lists the commands, Ctrl-D leaves")
    if name == "nano" and not isinstance(session.llm, Server):
        screen.note(DEMONSTRATION)
    prompt = _prompt_session(keep_history)
    prompt.completer = slash.Completions(session)
    while True:
        try:
            text = prompt.prompt("\n> ")
            word = text.strip() if text.startswith("/") else ""
            if word in slash.LEAVES:
                return
            if word == slash.RETRIES:
                _retry(session, screen)
            elif word:
                slash.run(word, session, screen)
            elif text.strip():
                _answer(text.strip(), session, screen)
        except EOFError:
            return
        except KeyboardInterrupt:
            if not prompt.default_buffer.text:
                screen.note("Ctrl-C stops an answer; /quit or Ctrl-D leaves")


def _answer(text: str, session: Session, screen: Screen) -> None:
    tokens = session.answered_tokens
    seconds = session.seconds
    try:
        with Interrupt() as interrupt:
            note = session.ask(text, screen, interrupt)
    except OssiaError as error:
        way_out = "/retry asks again"
        if error.code == CONTEXT_EXCEEDED:
            way_out = "/new begins a new conversation"
        note = f"{error}; {way_out}"
    if note:
        screen.note(note)
    tokens = session.answered_tokens - tokens
    seconds = session.seconds - seconds
    if tokens:
        screen.note(f"[{tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} tokens/s]")


def _retry(session: Session, screen: Screen) -> None:
    """Ask the last question again. If no new answer comes, the old one stays."""
    before = list(session.history)
    question = session.take_back()
    if not question:
        screen.note("there is no question yet that could be asked again")
        return
    left = len(session.history)
    _answer(question, session, screen)
    if left == len(session.history) < len(before):
        session.history = before
        session.forgotten = ""
        screen.note("the answer before stays")


def _prompt_session(keep_history: bool) -> PromptSession[str]:
    """A line editor in which Enter sends and Alt-Enter begins a new line."""
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

    file = _history_file() if keep_history else None
    history = FileHistory(str(file)) if file is not None else InMemoryHistory()
    return PromptSession(
        history=history,
        key_bindings=keys,
        multiline=True,
        prompt_continuation="  ",
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
    )


def _history_file() -> Path | None:
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
