"""Chat at a terminal or through a pipe: shows the events of a turn, reads lines, knows the
/commands.

Knows escape codes, prompt_toolkit and signals. Nothing here samples, parses or runs a tool: a turn
is `LLM.chat`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ossia.commands.display import CYAN, DIM, RED, RESET, progress, visible
from ossia.config import account
from ossia.errors import HarmonyError, OssiaError, RequestError
from ossia.files import replace_file
from ossia.harmony import (
    Conversation,
    DeveloperContent,
    Effort,
    Message,
    MessageStart,
    Role,
    SystemContent,
    TextDelta,
    render_for_completion,
)
from ossia.llm import LLM, to_conversation
from ossia.tools import Tool
from ossia.turn.turn import Event, ToolCalled, ToolReturned, TurnEnd

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

HELP = """\
/effort low|medium|high   how much the model reasons before it answers
/system TEXT              instructions for the model; /system none removes them
/reasoning on|off         show the reasoning, or only the answers
/new                      forget the conversation (also /reset)
/save FILE                write the conversation as JSON; /load FILE goes on from one
/tokens                   how much of the context is taken, and how fast it went (also /stats)
/quit                     leave (also Ctrl-D)
Enter sends; Alt-Enter, or Esc and then Enter, begins a new line; arrow up recalls; Ctrl-C stops an answer.
A message that begins with / needs a blank before it."""

ERASE_LINE = "\r\x1b[K"
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
FORGOTTEN = "before an answer began; the question is forgotten"


class Screen:
    """Writes events to a stream. Styled: reasoning dim, tools coloured. Else: a prefix on their
    lines.
    """

    def __init__(self, out: TextIO, *, styled: bool, reasoning: bool = True) -> None:
        self.out, self.styled, self.reasoning = out, styled, reasoning
        self._fresh = True  # whether the cursor is at the beginning of a line
        self._waiting = False  # whether that line says that reasoning goes on, which is not shown

    def show(self, event: Event) -> None:
        match event:
            case MessageStart():
                self.end_line()
            case TextDelta() if event.recipient is None and event.channel == "analysis":
                self._think(event.text)
            case TextDelta() if event.recipient is None:
                self._write(event.text)
            case ToolCalled():
                self._block("call", f"{event.name} {event.arguments}", CYAN)
            case ToolReturned():
                self._block(
                    "failed" if event.failed else "result",
                    event.result,
                    RED if event.failed else CYAN,
                )
            case TurnEnd():
                self.end_line()
        self.out.flush()

    def note(self, text: str) -> None:
        """A line of our own, not the model's."""
        self.end_line()
        self._write(text, DIM)
        self.end_line()
        self.out.flush()

    def end_line(self) -> None:
        if self._waiting:
            self.out.write(ERASE_LINE)
            self._waiting, self._fresh = False, True
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
        begin, end = (style, RESET) if style and self.styled else ("", "")
        for line in _LINE.findall(visible(text)):
            self.out.write(f"{begin}{prefix if self._fresh else ''}{line}{end}")
            self._fresh = line.endswith("\n")


class Interrupt:
    """While it is entered, the first Ctrl-C sets `asked`; one more, during a long step, raises."""

    def __enter__(self) -> Interrupt:
        self.asked = False
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@dataclass
class Session:
    """A conversation in progress: what was said, and how the next turn will be asked for."""

    llm: LLM
    effort: Effort
    instructions: str | None
    date: str | None
    tools: tuple[Tool, ...]
    sampling: dict[str, Any]
    history: list[Message] = field(
        default_factory=list
    )  # without the system and the developer message
    answered_tokens: int = 0
    seconds: float = 0.0

    def conversation(self, *more: Message) -> Conversation:
        system = SystemContent(current_date=self.date, effort=self.effort)
        functions = tuple(tool.function for tool in self.tools)
        messages = Conversation((*self.history, *more))
        return to_conversation(messages, system, self.instructions, functions)

    def ask(self, text: str, screen: Screen, interrupt: Interrupt | None = None) -> str:
        """Answer `text` on the screen; returns what the user should be told besides, or "".

        An answer that was stopped or cut stays in the conversation as far as it got. If none had
        begun the question is forgotten: reasoning without an answer would only confuse the next
        turn.
        """
        user, started = Message(Role.USER, text), time.perf_counter()
        stop: dict[str, Any] = {} if interrupt is None else {"stop": lambda: interrupt.asked}
        try:
            with progress("reading the prompt", "tokens") as tell:
                chat = self.llm.chat(
                    self.conversation(user),
                    tools=self.tools,
                    progress=tell,
                    **stop,
                    **self.sampling,
                )
                for event in chat:
                    screen.show(event)
        except KeyboardInterrupt:
            if interrupt is None:
                raise
            return f"stopped {FORGOTTEN}"
        end = chat.result()
        self.seconds += time.perf_counter() - started
        self.answered_tokens += end.completion_tokens
        if end.reason == "length":
            asked = interrupt is not None and interrupt.asked
            why = (
                "stopped" if asked else "the tokens ran out (--max-tokens, or the context is full)"
            )
            if not end.text:
                return f"{why} {FORGOTTEN}"
        self.history += [user, *end.messages]
        if end.reason == "length":
            return f"{why}; the answer stays in the conversation as far as it got"
        if end.reason == "tool_rounds":
            return "the model kept calling tools and gave no answer"
        return "" if end.text else "the model ended its turn without an answer"


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
    sizes = account(session.llm.config)
    scale, unit = (1e9, "B") if sizes.total >= 1e9 else (1e6, "M")
    size = f"{sizes.total / scale:.1f}{unit} parameters, {sizes.active / scale:.1f}{unit} active"
    screen.note(f"{name}: {size}; effort {session.effort}; /help lists the commands, Ctrl-D leaves")
    prompt = _prompt_session(keep_history)
    while True:
        try:
            text = prompt.prompt("\n> ")
            if text.startswith("/"):
                if not _command(text, session, screen):
                    return
            elif text.strip():
                _answer(text.strip(), session, screen)
        except EOFError:
            return
        except KeyboardInterrupt:
            if not prompt.default_buffer.text:
                screen.note("Ctrl-C stops an answer; /quit or Ctrl-D leaves")


def _answer(text: str, session: Session, screen: Screen) -> None:
    tokens, seconds = session.answered_tokens, session.seconds
    try:
        with Interrupt() as interrupt:
            note = session.ask(text, screen, interrupt)
    except RequestError as error:
        note = f"{error}; /new begins a new conversation"
    except OssiaError as error:
        note = str(error)
    if note:
        screen.note(note)
    tokens, seconds = session.answered_tokens - tokens, session.seconds - seconds
    if tokens:
        screen.note(f"[{tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} tokens/s]")


def _command(line: str, session: Session, screen: Screen) -> bool:
    """Do what a line that begins with / says; returns False to leave."""
    name, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    match name:
        case "/quit" | "/exit":
            return False
        case "/help":
            screen.note(HELP)
        case "/new" | "/reset":
            session.history.clear()
            screen.note("a new conversation")
        case "/effort":
            screen.note(_set_effort(session, rest))
        case "/system":
            if rest:
                session.instructions = None if rest == "none" else rest
            screen.note(f"instructions: {session.instructions or 'none'}")
        case "/reasoning":
            screen.reasoning = {"on": True, "off": False}.get(rest, screen.reasoning)
            screen.note(
                f"reasoning is {'shown' if screen.reasoning else 'hidden'}; /reasoning on or off changes that"
            )
        case "/save" | "/load":
            screen.note(_save_or_load(name, session, rest))
        case "/tokens" | "/stats":
            screen.note(_usage(session))
        case _:
            screen.note(
                f"there is no command {name}; /help lists them (to say this, begin with a blank)"
            )
    return True


def _set_effort(session: Session, word: str) -> str:
    if word and word not in list(Effort):
        return f"effort is low, medium or high, not {word!r}"
    session.effort = Effort(word) if word else session.effort
    return f"effort: {session.effort}"


def _usage(session: Session) -> str:
    taken = len(render_for_completion(session.conversation(), session.llm.tokenizer))
    context = session.llm.config.max_context_length
    usage = f"the conversation takes {taken:,} of {context:,} tokens"
    if session.seconds:
        rate = session.answered_tokens / session.seconds
        usage += f"; {session.answered_tokens:,} were sampled in {session.seconds:.1f} s, {rate:.1f} tokens/s"
    return usage


def _save_or_load(name: str, session: Session, file: str) -> str:
    if not file:
        return f"{name} needs the name of a file"
    path = Path(file).expanduser()
    try:
        return _save(session, path) if name == "/save" else _load(session, path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    except (ValueError, HarmonyError) as error:
        return f"{path}: holds no conversation: {error}"


def _save(session: Session, path: Path) -> str:
    if path.exists() and not _is_conversation(path):
        return f"{path}: exists and holds no conversation; choose another name"
    text = json.dumps(session.conversation().to_dict(), indent=2, ensure_ascii=False)
    replace_file(path, (text + "\n").encode("utf-8", "replace"))
    return f"{len(session.history)} messages saved in {path}"


def _is_conversation(path: Path) -> bool:
    try:
        Conversation.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, AttributeError, HarmonyError):
        return False
    return True


def _load(session: Session, path: Path) -> str:
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError("expected an object")
    session.history = []
    for message in Conversation.from_dict(data).messages:
        if isinstance(message.content, SystemContent):
            session.effort = Effort(message.content.effort or session.effort)
        elif isinstance(message.content, DeveloperContent):
            session.instructions = message.content.instructions
        else:
            session.history.append(message)
    return f"{len(session.history)} messages from {path}; effort {session.effort}"


def _prompt_session(keep_history: bool) -> PromptSession[str]:
    """A line editor in which Enter sends and Alt-Enter begins a new line."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

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
        history=history, key_bindings=keys, multiline=True, prompt_continuation="  "
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
