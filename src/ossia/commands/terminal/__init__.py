"""A chat at a terminal or through a pipe: reads lines, has them answered, and does what the
/commands say.

How a turn is shown is `screen.py`, what a conversation is `session.py`, a model behind a URL
`remote.py`, which /commands there are `slash.py`, the line editor `prompt.py`, and what Ctrl-C does
`interrupts.py`. Loads no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ossia.commands.terminal.approvals import at_terminal
from ossia.commands.terminal.interrupts import Interrupt, Presses, nothing_lost, raise_interrupt
from ossia.commands.terminal.prompt import Prompt
from ossia.commands.terminal.remote import Server
from ossia.commands.terminal.screen import Screen
from ossia.commands.terminal.session import Session
from ossia.errors import CONTEXT_EXCEEDED, OssiaError

__all__ = ["Interrupt", "Presses", "Screen", "Session", "answer_lines", "carry_out", "interact"]

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
    prompt = Prompt(keep_history=keep_history, completer=slash.Completions(session))
    with nothing_lost(sys.stdin), Presses() as presses:
        at_terminal(session.approver, screen, presses)
        while True:
            try:
                text = prompt.read(presses)
                if text.startswith("/") and text.strip() in slash.LEAVES:
                    return
                carry_out(text, session, screen, presses)
            except EOFError:
                return
            except KeyboardInterrupt:
                if not prompt.typed:
                    screen.note("Ctrl-C stops an answer; /quit or Ctrl-D leaves")


def carry_out(text: str, session: Session, screen: Screen, presses: Presses) -> None:
    """What a line says: a /command, or a question."""
    from ossia.commands.terminal import slash

    word = text.strip()
    is_command = text.startswith("/")
    if is_command and word != slash.RETRIES:
        with presses.go_to(raise_interrupt):
            slash.run(word, session, screen)
        return
    interrupt = Interrupt()
    with presses.go_to(interrupt.press):
        if is_command:
            _retry(session, screen, interrupt)
        elif word:
            _answer(word, session, screen, interrupt)


def _answer(text: str, session: Session, screen: Screen, interrupt: Interrupt) -> None:
    tokens = session.answered_tokens
    seconds = session.seconds
    try:
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


def _retry(session: Session, screen: Screen, interrupt: Interrupt) -> None:
    """Ask the last question again. If no new answer comes, the old one stays."""
    before = list(session.history)
    question = session.take_back()
    if not question:
        screen.note("there is no question yet that could be asked again")
        return
    left = len(session.history)
    _answer(question, session, screen, interrupt)
    if left == len(session.history) < len(before):
        session.history = before
        session.forgotten = ""
        screen.note("the answer before stays")
