"""Chat at a terminal: what is shown how, the commands, and what Ctrl-C does."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent, DummyCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from pseudo_terminal import Terminal, plain
from tiny_model import final, scripted, thought, write_endless, write_tiny

import ossia
from ossia.commands.terminal import Presses, Screen, Session, interact
from ossia.commands.terminal.interrupts import Interrupt, nothing_lost
from ossia.commands.terminal.prompt import Prompt, history_file
from ossia.commands.terminal.slash import COMMANDS, Completions
from ossia.errors import ModelNotFoundError
from ossia.harmony import Effort
from ossia.llm import LLM
from ossia.tasks import CALCULATOR, calculate
from ossia.tasks import Tool as TaskTool
from ossia.tools.kinds import FUNCTION
from ossia.turn.events import BuiltinCallItem, CallStart


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


class Typed:
    """Stands in for the line editor: what a person types, then Ctrl-D."""

    typed = ""

    def __init__(self, *lines: str | BaseException) -> None:
        self.lines = iter(lines)

    def read(self, presses: Presses) -> str:
        line = next(self.lines, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line


def talk(
    monkeypatch: pytest.MonkeyPatch, llm: LLM, *lines: str | BaseException, styled: bool = True
) -> tuple[str, Session]:
    session = Session(llm, Effort.MEDIUM, None, None, (), {})
    out = io.StringIO()
    monkeypatch.setattr("ossia.commands.terminal.Prompt", lambda **_: Typed(*lines))
    interact(session, Screen(out, styled=styled), "tiny", keep_history=False)
    return out.getvalue(), session


def test_reasoning_is_dim_and_the_answer_is_not(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, _ = scripted(tiny, thought("Hm.") + final("85"), final("Bye"))
    out, session = talk(monkeypatch, llm, "37 + 48?", " /not a command")
    assert "\x1b[2mH" in out and "thinking: " not in out
    assert "\n85\n\x1b[2m[" in out and "tokens/s]" in out
    assert [m.role for m in session.history] == [
        "user",
        "assistant",
        "assistant",
        "user",
        "assistant",
    ]
    assert session.history[3].content == "/not a command"


def test_commands(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm, script = scripted(
        tiny, thought("Hm.") + final("one"), thought("Hm.") + final("two"), final("three")
    )
    out, _ = talk(
        monkeypatch, llm, "/help", "/effort", "/effort huge", "/effort high", "/system Be kind.",
        "/tokens",
        "first", "/reasoning off", "second", "/tokens", "/frobnicate", "/system none", "/new",
        "third",
        "/quit", "never",
    )  # fmt: skip
    for said in (
        "Ctrl-C stops an answer", "effort: medium", "not 'huge'", "effort: high",
        "instructions: Be kind.",
        "reasoning is hidden", "there is no command /frobnicate; /help", "instructions: none",
        "a new conversation", "of 1,024 tokens",
    ):  # fmt: skip
        assert said in out
    assert "Reasoning: high" in script.prompts[0] and "Be kind." in script.prompts[0]
    assert "one" in script.prompts[1] and "one" not in script.prompts[2]
    assert "Be kind." not in script.prompts[2] and len(script.prompts) == 3
    assert plain(out).count("Hm.") == 1, "the first time it is shown, the second hidden"
    assert out.index("\x1b[2mthinking ...") < out.index("\r\x1b[K") < out.index("two")


def test_save_and_load(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, foreign = tmp_path / "talk.json", tmp_path / "notes.txt"
    foreign.write_text("mine")
    llm, _ = scripted(tiny, thought("Hm.") + final("85"), final("86"))
    out, _ = talk(
        monkeypatch, llm, "/effort low", "/system Be kind.", "37 + 48?", f"/save {file}", "again",
        f"/save {file}", f"/save {foreign}", f"/save {tmp_path}/no/such", "/save",
        f"/load {foreign}",
        f"/load {tmp_path}/no",
    )  # fmt: skip
    for said in (
        "5 messages saved", "exists and does not hold a conversation; choose another",
        "No such file",
        "needs the name", "does not hold a conversation: Expecting value",
    ):  # fmt: skip
        assert said in out
    assert foreign.read_text() == "mine" and sorted(tmp_path.iterdir()) == [foreign, file]
    saved = json.loads(file.read_text())["messages"]
    assert [m["role"] for m in saved] == [
        "system",
        "developer",
        "user",
        *["assistant"] * 2,
        "user",
        "assistant",
    ]
    llm, script = scripted(tiny, final("still 86"))
    out, session = talk(monkeypatch, llm, f"/load {file}", "and now?")
    assert (
        "5 messages from" in out
        and session.effort is Effort.LOW
        and session.instructions == "Be kind."
    )
    assert "86" in script.prompts[0] and "Be kind." in script.prompts[0]


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, script = scripted(tiny, final("It is eighty five"), thought("Let me see"), final("ok"))
    sample = script.generate

    def interrupted(*args: Any) -> Iterator[Any]:
        for n, token in enumerate(sample(*args)):
            if len(script.prompts) < 3 and n == 6:
                signal.raise_signal(signal.SIGINT)
            yield token

    monkeypatch.setattr(script, "generate", interrupted)
    out, session = talk(
        monkeypatch, llm, KeyboardInterrupt(), "first", "second", "third", styled=False
    )
    assert "Ctrl-C stops an answer; /quit or Ctrl-D leaves" in out
    assert "stopped; the answer stays in the conversation as far as it got" in out
    assert "stopped before an answer began; the question is forgotten" in out
    assert [m.role for m in session.history] == ["user", "assistant", "user", "assistant"]
    assert str(session.history[1].content).startswith("It is")
    assert (
        session.history[2].content == "third"
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def test_a_second_ctrl_c_does_not_wait_for_the_next_token(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, script = scripted(tiny, final("never said"))

    def slow(*args: Any) -> Iterator[Any]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        yield from ()

    monkeypatch.setattr(script, "generate", slow)
    out, session = talk(monkeypatch, llm, "first", "/tokens")
    assert "stopped before an answer began" in out and "the conversation takes" in out
    assert session.history == []


def test_a_full_context_does_not_end_the_session(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, session = talk(monkeypatch, ossia.load(tiny), "apple " * 2000, "/tokens")
    assert "the context holds 1024; /new begins a new conversation" in out and session.history == []


def test_retry_takes_the_last_answer_back_and_asks_again(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, script = scripted(
        tiny, final("one"), final("two"), thought("Hm") + final("three"), thought("cut"), final("x")
    )
    lines = ("/retry", "first", "second", "/retry")
    out, session = talk(monkeypatch, llm, *lines, styled=False)
    assert "there is no question yet that could be asked again" in out
    said = [m.text for m in session.history if m.channel != "analysis"]
    assert said == ["first", "one", "second", "three"] and "two" in out
    assert "second" in script.prompts[2] and "two" not in script.prompts[2]
    # without a new answer the old one stays; a question that was forgotten can be asked again
    sample = script.generate

    def cut(*args: Any) -> Iterator[Any]:
        for token in sample(*args):
            if len(script.prompts) == 1:
                signal.raise_signal(signal.SIGINT)
            yield token

    for history, left in (([*session.history], said), ([], ["first", "x"])):
        llm, script = scripted(tiny, thought("cut"), final("x"))
        sample = script.generate
        monkeypatch.setattr(script, "generate", cut)
        other = Session(llm, Effort.MEDIUM, None, None, (), {}, history=history)
        screen = Screen(io.StringIO(), styled=False)
        typed = ("/retry",) if history else ("first", "/retry")
        monkeypatch.setattr(
            "ossia.commands.terminal.Prompt", lambda typed=typed, **_: Typed(*typed)
        )
        interact(other, screen, "tiny", keep_history=False)
        assert [m.text for m in other.history if m.channel != "analysis"] == left


def test_tools_are_switched_on_and_off(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm, script = scripted(tiny, *map(final, "abcd"))
    tool = TaskTool(CALCULATOR, calculate)
    session = Session(llm, Effort.MEDIUM, None, None, (), {}, available={"calculator": tool})
    out = io.StringIO()
    lines = (
        "/tools",
        "/tools calculator on",
        "q",
        "/tools calculator off",
        "q",
        "/tools hammer on",
        "/tools on",
        "q",
        "/tools off",
        "q",
    )
    monkeypatch.setattr("ossia.commands.terminal.Prompt", lambda **_: Typed(*lines))
    interact(session, Screen(out, styled=False), "tiny", keep_history=False)
    assert out.getvalue().count("tools: calculator off; /tools NAME on or off") == 3
    assert "tools: calculator on" in out.getvalue()
    assert "/tools takes a tool (calculator) and on or off, not 'hammer on'" in out.getvalue()
    told = ["calculator" in prompt for prompt in script.prompts]
    assert told == [True, False, True, False]


def test_another_model_goes_on_with_the_conversation(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, _), (second, script) = scripted(tiny, final("one")), scripted(tiny, final("two"))

    def load(name: str) -> LLM:
        if name != "other":
            raise ModelNotFoundError(f"there is no {name}")
        return second

    session = Session(first, Effort.MEDIUM, None, None, (), {}, load=load)
    out = io.StringIO()
    lines = ("a", "/model", "/model none", "/model other", "b")
    monkeypatch.setattr("ossia.commands.terminal.Prompt", lambda **_: Typed(*lines))
    interact(session, Screen(out, styled=False), "tiny", keep_history=False)
    for said in ("model: tiny, 0.", "tiny stays: there is no none", "model: other, 0.", "two"):
        assert said in out.getvalue()
    assert "one" in script.prompts[0]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("/", [*COMMANDS]),
        ("/re", ["/reasoning", "/retry"]),
        ("/effort ", ["low", "medium", "high"]),
        ("/effort h", ["high"]),
        ("/tools c", ["calculator on", "calculator off"]),
        ("/tools o", ["on", "off"]),
        ("/model na", ["nano"]),
        ("/load FOLDER/ta", ["lk.json"]),
        ("/save FOLDER/", ["talk.json"]),
        ("/frob x", []),
        ("hello /re", []),
        (" /re", []),
        ("", []),
    ],
)
def test_tab_completes_commands_and_what_they_take(
    typed: str, offered: list[str], tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "talk.json").write_text("")
    tool = TaskTool(CALCULATOR, calculate)
    session = Session(
        scripted(tiny)[0], Effort.MEDIUM, None, None, (), {}, available={"calculator": tool}
    )
    document = Document(typed.replace("FOLDER", str(tmp_path)))
    found = Completions(session).get_completions(document, CompleteEvent())
    assert [completion.text.strip() for completion in found] == offered


def test_tools_are_dim_and_lines_end_where_they_should() -> None:
    out = io.StringIO()
    screen = Screen(out, styled=True)
    screen.show(CallStart(0, BuiltinCallItem("fc_1", FUNCTION, "functions", "f", "{}")))
    screen.note("done")
    assert out.getvalue() == "\x1b[2mcall: f {}\x1b[0m\n\x1b[2mdone\x1b[0m\n"


def test_what_is_said_is_folded_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "12")
    shown = []
    for is_terminal in (True, False):
        out = io.StringIO()
        monkeypatch.setattr(out, "isatty", lambda is_terminal=is_terminal: is_terminal)
        Screen(out, styled=False).note("some words\n\n  and more of them")
        shown.append(out.getvalue())
    assert shown == [
        "some words\n\n  and more\nof them\n",
        "some words\n\n  and more of them\n",
    ]


@pytest.mark.parametrize(("name", "is_said"), [("nano", True), ("gpt-oss-20b", False)])
def test_a_newcomer_is_told_what_nano_is(
    name: str, is_said: bool, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(scripted(tiny)[0], Effort.MEDIUM, None, None, (), {})
    out = io.StringIO()
    monkeypatch.setattr("ossia.commands.terminal.Prompt", lambda **_: Typed())
    interact(session, Screen(out, styled=False), name, keep_history=False)
    assert ("for real work: ossia chat gpt-oss-20b" in out.getvalue()) == is_said


def test_ctrl_c_at_a_terminal_stops_an_answer_not_the_program(
    tiny: Path, tmp_path: Path, terminals: list[Terminal]
) -> None:
    endless = write_endless(tmp_path / "endless", tiny)
    terminal = Terminal("chat", endless, XDG_STATE_HOME=str(tmp_path))
    terminals.append(terminal)
    terminal.wait_for("/help lists the commands")
    terminal.wait_for(">")
    terminal.type("Hi\r")
    terminal.wait_until_working()
    terminal.type("\x03")
    terminal.wait_for("stopped before an answer began")
    for typed, shown in (
        ("two\x1b\rlines\x03", "lines"),  # Alt-Enter does not send, and Ctrl-C discards
        ("\x03", "/quit or Ctrl-D leaves"),
        ("\x03" * 9 + "/frob\r", "there is no command /frob"),
    ):
        terminal.wait_for(">")
        terminal.type(typed)
        terminal.wait_for(shown)
    terminal.wait_for(">")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.all and "exception" not in terminal.all
    assert "+Hi" in (tmp_path / "ossia" / "history").read_text()


def test_ctrl_c_is_safe_before_within_and_after_a_prompt() -> None:
    """As a signal, which comes whenever the prompt has not taken the terminal, or has left it."""
    interrupt = Interrupt()
    with create_pipe_input() as keys, create_app_session(keys, DummyOutput()):
        prompt = Prompt(keep_history=False, completer=DummyCompleter())
        editor = prompt._session
        with Presses() as presses:
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                prompt.read(presses)

            def press_while_running() -> None:
                while not editor.app.is_running:
                    time.sleep(0.001)
                os.kill(os.getpid(), signal.SIGINT)

            presser = threading.Thread(target=press_while_running)
            presser.start()
            with pytest.raises(KeyboardInterrupt):
                prompt.read(presses)
            presser.join()

            keys.send_text("Hi\r")
            editor.app.after_render += lambda app: app.is_done and os.kill(os.getpid(), 2)
            assert prompt.read(presses) == "Hi"
            with presses.go_to(interrupt.press):
                assert interrupt.asked, "it came after Enter, so it is the answer's"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_was_typed_for_the_next_prompt_outlives_ctrl_c() -> None:
    ours, theirs = pty.openpty()
    with open(theirs) as terminal:
        before = termios.tcgetattr(terminal)
        with nothing_lost(terminal):
            os.write(ours, b"and why?\x03\n")
            assert terminal.readline() == "and why?\n"
        assert termios.tcgetattr(terminal) == before
    os.close(ours)


def test_tab_and_commands_at_a_terminal(
    tiny: Path, tmp_path: Path, terminals: list[Terminal]
) -> None:
    terminal = Terminal("chat", tiny, XDG_STATE_HOME=str(tmp_path))
    terminals.append(terminal)
    terminal.wait_for("/help lists the commands")
    terminal.wait_for(">")
    terminal.type("/eff\thi\t\r")
    terminal.wait_for("effort: high")
    terminal.wait_for(">")
    terminal.type("/re\t")
    terminal.wait_for("/reasoning")
    terminal.wait_for("/retry")
    terminal.wait_for("> /re")
    terminal.type("\x03")
    kept = tmp_path / "talk.json"
    for typed, said in {
        "/retry": "there is no question yet",
        "/tools": "tools: calculator off",
        "/model": "model: ",
        f"/save {kept}": "messages saved in",
    }.items():
        terminal.wait_for(">")
        terminal.type(f"{typed}\r")
        terminal.wait_for(said)
    assert kept.exists()
    terminal.wait_for(">")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_ctrl_c_while_loading_leaves(terminals: list[Terminal]) -> None:
    terminal = Terminal("chat", "nano", NO_COLOR="1")
    terminals.append(terminal)
    terminal.wait_for("loading nano")
    terminal.type("\x03")
    assert terminal.end() == 130


def test_history_is_kept_only_if_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    file = history_file()
    assert file is not None and file.stat().st_mode & 0o777 == 0o600
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "blocked"))
    assert history_file() is None
