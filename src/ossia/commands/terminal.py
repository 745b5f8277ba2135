"""A chat at a terminal or through a pipe: shows the events of a turn, reads lines, knows the
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
    Role,
    SystemContent,
    render_for_completion,
)
from ossia.llm import LLM, to_conversation
from ossia.tools import Tool, Toolbox
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
Enter sends; Alt-Enter, or Esc and then Enter, begins a new line; arrow up recalls.
Ctrl-C stops an answer. A message that begins with / needs a blank before it."""

ERASE_LINE = "\r\x1b[K"
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
STOPPED = "stopped"
CUT = "the tokens ran out (--max-tokens, or the context is full)"
FORGOTTEN = "before an answer began; the question is forgotten"
STAYS = "the answer stays in the conversation as far as it got"


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
        """A line of our own, not the model's."""
        self.end_line()
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
    history: list[Message] = field(default_factory=list)  # without system and developer message
    answered_tokens: int = 0
    seconds: float = 0.0

    def conversation(self, *more: Message) -> Conversation:
        system = SystemContent(current_date=self.date, effort=self.effort)
        functions = Toolbox(builtin=self.tools).json_functions
        messages = Conversation((*self.history, *more))
        return to_conversation(messages, system, self.instructions, functions)

    def ask(self, text: str, screen: Screen, interrupt: Interrupt | None = None) -> str:
        """Answer `text` on the screen; returns what the user should be told besides, or "".

        An answer that was stopped or cut stays in the conversation as far as it got. If none had
        begun, the question is forgotten: reasoning without an answer would only confuse the next
        turn.
        """
        user = Message(Role.USER, text)
        began = time.perf_counter()
        try:
            end = self._answer(user, screen, interrupt)
        except KeyboardInterrupt:
            if interrupt is None:
                raise
            return f"stopped {FORGOTTEN}"
        self.seconds += time.perf_counter() - began
        self.answered_tokens += end.completion_tokens
        stopped = interrupt is not None and interrupt.asked
        if end.reason == "length" and not end.text:
            return f"{STOPPED if stopped else CUT} {FORGOTTEN}"
        self.history += [user, *end.messages]
        match end.reason:
            case "length":
                return f"{STOPPED if stopped else CUT}; {STAYS}"
            case "tool_rounds":
                return "the model kept calling tools and gave no answer"
        return "" if end.text else "the model ended its turn without an answer"

    def _answer(self, user: Message, screen: Screen, interrupt: Interrupt | None) -> TurnEnd:
        stop: dict[str, Any] = {} if interrupt is None else {"stop": lambda: interrupt.asked}
        with progress("reading the prompt", "tokens") as tell:
            conversation = self.conversation(user)
            chat = self.llm.chat(
                conversation, tools=self.tools, progress=tell, **stop, **self.sampling
            )
            for event in chat:
                screen.show(event)
        return chat.result()


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
    size = _size_of(session.llm)
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


def _size_of(llm: LLM) -> str:
    sizes = account(llm.config)
    scale, unit = 1e6, "M"
    if sizes.total >= 1e9:
        scale, unit = 1e9, "B"
    return f"{sizes.total / scale:.1f}{unit} parameters, {sizes.active / scale:.1f}{unit} active"


def _answer(text: str, session: Session, screen: Screen) -> None:
    tokens = session.answered_tokens
    seconds = session.seconds
    try:
        with Interrupt() as interrupt:
            note = session.ask(text, screen, interrupt)
    except RequestError as error:
        note = f"{error}; /new begins a new conversation"
    except OssiaError as error:
        note = str(error)
    if note:
        screen.note(note)
    tokens = session.answered_tokens - tokens
    seconds = session.seconds - seconds
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
            screen.note(_set_reasoning(screen, rest))
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


def _set_reasoning(screen: Screen, word: str) -> str:
    if word in ("on", "off"):
        screen.reasoning = word == "on"
    state = "shown" if screen.reasoning else "hidden"
    return f"reasoning is {state}; /reasoning on or off changes that"


def _usage(session: Session) -> str:
    taken = len(render_for_completion(session.conversation(), session.llm.tokenizer))
    context = session.llm.config.max_context_length
    usage = f"the conversation takes {taken:,} of {context:,} tokens"
    if session.seconds:
        rate = session.answered_tokens / session.seconds
        usage += f"; {session.answered_tokens:,} were sampled in {session.seconds:.1f} s, "
        usage += f"{rate:.1f} tokens/s"
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
        return f"{path}: does not hold a conversation: {error}"


def _save(session: Session, path: Path) -> str:
    if path.exists() and not _is_conversation(path):
        return f"{path}: exists and does not hold a conversation; choose another name"
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
