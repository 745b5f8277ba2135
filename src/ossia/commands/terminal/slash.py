"""The /commands of a chat: what each takes and does, and what Tab completes.

`COMMANDS` is the table of which the help, the completion and the dispatch are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from ossia.commands.display import did_you_mean, in_columns
from ossia.commands.terminal.remote import Server
from ossia.commands.terminal.screen import Screen
from ossia.commands.terminal.session import Session
from ossia.config import PRESETS
from ossia.errors import HarmonyError, OssiaError
from ossia.harmony import Effort

LEAVES = ("/quit", "/exit")
RETRIES = "/retry"
ALSO = """\
Enter sends; Alt-Enter, or Esc and then Enter, begins a new line; arrow up recalls.
Tab completes a command. Ctrl-C stops an answer. A message that begins with / needs a blank before
it."""

Words = Callable[[Session], Iterable[str]]


@dataclass(frozen=True)
class Command:
    """`does` returns what is told. `words`: what may follow, for Tab; None: the name of a file."""

    takes: str
    about: str
    does: Callable[[Session, Screen, str], str]
    words: Words | None = lambda session: ()


def run(line: str, session: Session, screen: Screen) -> None:
    """Do what a line that begins with / says, and tell what came of it."""
    name, _, rest = line.strip().partition(" ")
    command = COMMANDS.get(SAME.get(name, name))
    if command is not None:
        screen.note(command.does(session, screen, rest.strip()))
        return
    near = did_you_mean(name, [*COMMANDS, *SAME])
    screen.note(
        f"there is no command {name}; /help lists them (to say this, begin with a blank){near}"
    )


def _help(session: Session, screen: Screen, rest: str) -> str:
    rows = [(f"{name} {command.takes}", command.about) for name, command in COMMANDS.items()]
    return "\n".join([*in_columns(rows, indent=0), ALSO])


def _new(session: Session, screen: Screen, rest: str) -> str:
    session.new()
    return "a new conversation"


def _effort(session: Session, screen: Screen, word: str) -> str:
    if word and word not in list(Effort):
        return f"effort is low, medium or high, not {word!r}"
    session.effort = Effort(word) if word else session.effort
    return f"effort: {session.effort or 'as the server chooses'}"


def _system(session: Session, screen: Screen, text: str) -> str:
    if text:
        session.instructions = None if text == "none" else text
    return f"instructions: {session.instructions or 'none'}"


def _reasoning(session: Session, screen: Screen, word: str) -> str:
    if word in ("on", "off"):
        screen.reasoning = word == "on"
    state = "shown" if screen.reasoning else "hidden"
    return f"reasoning is {state}; /reasoning on or off changes that"


def _tools(session: Session, screen: Screen, words: str) -> str:
    name, _, wish = words.partition(" ")
    named = {name}
    if words in ("on", "off"):  # all of them
        named, wish = set(session.available), words
    if words and (not named <= session.available.keys() or wish not in ("", "on", "off")):
        known = ", ".join(session.available) or "none"
        return f"/tools takes a tool ({known}) and on or off, not {words!r}"
    offered = {name for name, tool in session.available.items() if tool in session.tools}
    if words:
        offered = offered | named if wish != "off" else offered - named
        session.tools = tuple(t for name, t in session.available.items() if name in offered)
    if isinstance(session.llm, Server):
        asked = ", ".join(tool["type"] for tool in session.sampling.get("tools", ()))
        return f"the server is asked for: {asked or 'none of its own tools'}"
    states = (f"{name} {'on' if name in offered else 'off'}" for name in session.available)
    said = [f"tools: {', '.join(states)}; /tools NAME on or off changes one, /tools on or off all"]
    said += (f"{name}: {about}" for name, about in session.bench.about.items())
    return "\n".join(said)


def _model(session: Session, screen: Screen, name: str) -> str:
    try:
        if name:
            session.switch(name)
    except OssiaError as error:
        return f"{session.name} stays: {error}"
    return f"model: {session.name}, {session.about()}"


def _models(session: Session) -> Iterable[str]:
    if not isinstance(session.llm, Server):
        return PRESETS
    try:
        return session.llm.models()
    except OssiaError:
        return ()


def _save(session: Session, screen: Screen, file: str) -> str:
    return _with_file(session.save, "/save", file)


def _load(session: Session, screen: Screen, file: str) -> str:
    return _with_file(session.read, "/load", file)


def _with_file(does: Callable[[Path], str], name: str, file: str) -> str:
    if not file:
        return f"{name} needs the name of a file"
    path = Path(file).expanduser()
    try:
        return does(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    except (ValueError, HarmonyError) as error:
        return f"{path}: does not hold a conversation: {error}"


def _taken(session: Session, screen: Screen, rest: str) -> str:
    return session.taken()


def _nothing(session: Session, screen: Screen, rest: str) -> str:
    raise AssertionError("whoever reads lines does this")


def _switches(session: Session) -> Iterable[str]:
    wishes = ("on", "off")
    return [*wishes, *(f"{name} {wish}" for name in session.available for wish in wishes)]


COMMANDS = {
    "/effort": Command(
        "low|medium|high", "how much the model reasons before it answers", _effort, lambda _: Effort
    ),
    "/system": Command("TEXT", "instructions for the model; /system none removes them", _system),
    "/reasoning": Command(
        "on|off", "show the reasoning, or only the answers", _reasoning, lambda _: ("on", "off")
    ),
    "/tools": Command("[NAME] on|off", "the tools that the model may call", _tools, _switches),
    "/model": Command("NAME", "which model answers; go on with another", _model, _models),
    RETRIES: Command("", "take the last answer back, and ask again", _nothing),
    "/new": Command("", "forget the conversation (also /reset)", _new),
    "/save": Command("FILE", "write the conversation as JSON", _save, None),
    "/load": Command("FILE", "go on from a conversation that was saved", _load, None),
    "/tokens": Command("", "how much of the context is taken, and speed (also /stats)", _taken),
    "/help": Command("", "this", _help),
    LEAVES[0]: Command("", "leave (also Ctrl-D)", _nothing),
}
SAME = {"/reset": "/new", "/stats": "/tokens", LEAVES[1]: LEAVES[0]}


class Completions(Completer):
    """After /, the commands; after a command, what it takes."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/"):
            return
        name, blank, rest = text.partition(" ")
        if not blank:
            yield from _beginning(
                name, [f"{name} " if COMMANDS[name].takes else name for name in COMMANDS]
            )
            return
        command = COMMANDS.get(SAME.get(name, name))
        if command is None:
            return
        if command.words is not None:
            yield from _beginning(rest, command.words(self.session))
            return
        paths = PathCompleter(expanduser=True)
        yield from paths.get_completions(Document(rest), event)


def _beginning(typed: str, words: Iterable[str]) -> Iterator[Completion]:
    for word in words:
        if word.startswith(typed):
            yield Completion(word, start_position=-len(typed))
