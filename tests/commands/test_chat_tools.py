"""Tools in a chat: what is shown of them, who is asked, and what Ctrl-C does while they run."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pseudo_terminal import Terminal
from tiny_model import Script, final, scripted, thought, write_tiny

import ossia
from ossia.commands.hosted.chat import ChatTools, make
from ossia.commands.main import main
from ossia.commands.terminal import Screen, Session, answer_lines, slash
from ossia.commands.terminal.approvals import Approver
from ossia.commands.terminal.screen import CALL_LINES, Cut, shortened
from ossia.errors import SandboxError
from ossia.harmony import Effort
from ossia.tools.approval import Asked, Verdict
from ossia.tools.kinds import SHELL
from ossia.tools.sandbox import best, find
from ossia.turn.events import BuiltinCallItem, CallStart, ItemStart

PATCH = "*** Begin Patch\n*** Add File: new.txt\n+hello\n*** End Patch"
SANDBOXED = pytest.mark.skipif(find().rung is None, reason=find().described)


def code(text: str) -> str:
    return f"<|channel|>analysis to=python code<|message|>{text}<|call|>"


def patch(text: str = PATCH) -> str:
    return f"<|channel|>commentary to=functions.apply_patch<|message|>{text}<|call|>"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def say(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Script]:
    """Lets `ossia chat` answer lines through a pipe with these samples."""

    def prepare(lines: str, *samples: str) -> Script:
        llm, script = scripted(tiny, *samples)
        monkeypatch.setattr(ossia.llm, "load", lambda *_, **__: llm)
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        return script

    return prepare


@SANDBOXED
def test_variables_live_as_long_as_the_conversation(
    say: Callable[..., Script], capsys: pytest.CaptureFixture[str]
) -> None:
    script = say(
        "first\nsecond\n",
        thought("I count.") + code("n = 6\nprint(n * 7)"),
        final("42"),
        code("n + 1"),
        final("7"),
    )
    assert main(["chat", "--tools", "python"]) == 0
    out = capsys.readouterr().out
    assert "call: python\ncall: n = 6\ncall: print(n * 7)\nresult: 42\n42\n" in out
    assert "call: python\ncall: n + 1\nresult: 7\n7\n" in out
    assert "stateful Jupyter notebook" in script.prompts[0]


def test_nobody_can_be_asked_through_a_pipe(
    say: Callable[..., Script], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = say("Edit it.\n", patch(), final("I may not."))
    assert main(["chat", "--patch-root", str(tmp_path)]) == 0
    said = "The user did not approve this call. Nobody can be asked"
    assert f"failed: {said}" in capsys.readouterr().out and said in script.prompts[1]
    assert not list(tmp_path.iterdir())


def test_yes_no_and_always(tiny: Path, tmp_path: Path) -> None:
    typed = iter(["what?", "n", "y", "always"])
    questions = []
    out = io.StringIO()
    approver = Approver()
    screen = Screen(out, styled=False)

    def read(question: str) -> str:
        questions.append(question)
        word = next(typed, None)
        if word is None:
            raise EOFError
        return word

    approver.attend(screen, read)
    bench = make(ChatTools(patch_root=str(tmp_path)), approver)
    patches = [patch(PATCH.replace("new", name)) for name in ("a", "b", "c", "d")]
    llm, _ = scripted(tiny, *patches, final("done"))
    session = Session(
        llm, Effort.LOW, None, None, tuple(bench.tools.values()), {}, bench=bench, approver=approver
    )
    answer_lines(session, ["Edit"], screen)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.txt", "c.txt", "d.txt"]
    assert questions == ["allow apply_patch? y = yes, n = no, a = always: "] * 4
    assert out.getvalue().count("failed: The user did not approve this call.") == 1
    # a new conversation: what was allowed always is asked again, and end of input is no
    slash.run("/new", session, screen)
    llm.__dict__["engine"] = Script(llm.tokenizer, patch(PATCH.replace("new", "e")), final("no"))
    answer_lines(session, ["Edit"], screen)
    assert len(questions) == 5 and not (tmp_path / "e.txt").exists()


def test_a_question_shows_what_was_cut(tmp_path: Path) -> None:
    long = "\n".join(f"+{n}" for n in range(2 * CALL_LINES))
    assert long in asked_after(long, Asked("", "apply_patch", {"patch": long}))
    text = '{"text": "short"}'
    asked = Asked("files", "write", {"text": "short"}, "changed")
    out = asked_after(text, asked)
    assert "files.write is no longer what it was when this chat began" in out
    assert out.count("short") == 1, "the call itself shows it"


def asked_after(text: str, asked: Asked) -> str:
    """What the terminal shows of a call that the model wrote as `text`, up to the question."""
    out = io.StringIO()
    screen = Screen(out, styled=False)
    screen.cuts = True
    approver = Approver()

    def read(question: str) -> str:
        out.write(question)
        return "y"

    approver.attend(screen, read)
    item = BuiltinCallItem("c", SHELL, "functions", "shell", text)
    screen.show(ItemStart(0, item))
    screen.show(CallStart(0, item))
    assert approver(asked) == Verdict(True)
    return out.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        # one long line, which is cut, although it is short when it is folded
        json.dumps({"commands": [f"echo {'.' * 400}", f"echo {'.' * 90}; rm -rf project"]}),
        # what is shown is not what is run
        '{"commands":["ls"],"commands":["\\u0072m -rf project"]}',
        '{"commands":["ls"],"commands":["echo","rm -rf project"]}',
    ],
)
def test_what_is_asked_is_what_will_be_run(text: str) -> None:
    asked = Asked("", "shell", {"commands": json.loads(text)["commands"]})
    shown = asked_after(text, asked)
    assert "rm -rf project" in shown
    for command in asked.arguments["commands"]:
        assert json.dumps(command) in shown.split("call: ")[-1]


def test_a_name_cannot_look_like_a_question() -> None:
    name = "list? y = yes\n\x1b[2Kallow \u202enothing" + "." * 1000
    asked = Asked("files", name, {"commands": ["\u202els"]})
    question = asked_after("{}", asked).split("\n")[-1]
    assert question.startswith("allow files.list? y = yes \ufffd[2Kallow \ufffdnothing...")
    assert len(question) < 300
    assert "\u202e" not in asked_after("{}", asked)


def test_long_calls_and_results_are_cut_at_a_terminal() -> None:
    cut = Cut(2)
    assert cut.feed("ab") + cut.feed("c\nd\ne") + cut.feed("f\n") == "abc\nd\n"
    assert cut.rest() == "\n[... 2 characters left out ...]"
    assert Cut(2).feed("x" * 600 + "\ny\n") == "x" * 500 + "\ny\n"
    lines = [str(n) for n in range(30)]
    assert shortened("\n".join(lines[:12])) == "\n".join(lines[:12])
    said = [*lines[:6], "[... 18 lines left out ...]", *lines[-6:]]
    assert shortened("\n".join(lines)) == "\n".join(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tools", "pyton"], "there are apply_patch, browser, python, shell"),
        (["--corpus", "docs"], "--corpus is of browser: add --tools browser"),
        (["--search", "exa"], "--search is of browser: add --tools browser"),
        (["--tools", "browser", "--search", "you"], "You.com needs a key: set YDC_API_KEY"),
        (["--python-unsafe"], "--python-unsafe is of python and shell: add --tools python"),
        (["--tools", "browser", "--corpus", "/no/such"], "/no/such"),
        (["--patch-root", "/no/such"], "/no/such"),
        (["--mcp", "/no/such.json"], "/no/such.json cannot be read"),
        (["--server", "http://127.0.0.1:1", "--mcp", "x"], "--mcp: such a tool runs beside"),
        (["--server", "http://127.0.0.1:1", "--tools", "shell"], "--tools shell: such a tool"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ossia.llm, "load", lambda *_, **__: pytest.fail("it was loaded"))
    monkeypatch.delenv("YDC_API_KEY", raising=False)
    assert main(["chat", *words]) == 2
    assert said in capsys.readouterr().err


def test_without_a_sandbox_nothing_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ossia.llm, "load", lambda *_, **__: pytest.fail("it was loaded"))
    nothing = best.Found(None, (("bubblewrap", "no program bwrap"),))
    monkeypatch.setattr(best, "find", lambda executable=None: nothing)
    assert main(["chat", "--tools", "python"]) == 2
    err = capsys.readouterr().err
    assert "nothing on this machine confines code" in err and "bubblewrap: no program bwrap" in err
    assert "--python-unsafe" in err
    with pytest.raises(SandboxError):
        make(ChatTools(tools="shell"), lambda asked: True)


SCRIPTED = """
import json, os, sys, time
import ossia.llm
from tiny_model import Script
real = ossia.llm.load

class Endless(Script):
    def generate(self, prompt, *rest, **more):
        if self.samples[0] != "ENDLESS":
            yield from super().generate(prompt, *rest, **more)
            return
        self.samples[0] = "<|channel|>final<|message|>" + "and so on " * 1000
        for token in super().generate(prompt, *rest, **more):
            time.sleep(0.01)  # as a model, so that a terminal can follow
            yield token

def load(*given, **wishes):
    llm = real(*given, **wishes)
    llm.__dict__["engine"] = Endless(llm.tokenizer, *json.loads(os.environ["SAMPLES"]))
    return llm

ossia.llm.load = load
"""


@SANDBOXED
def test_ctrl_c_is_for_the_cell_first_and_patches_are_asked_for(
    tiny: Path, tmp_path: Path, terminals: list[Terminal]
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    begin = "print('begun')\nopen('/mnt/data/begun', 'w').close()\nn = 5\nwhile True: pass"
    samples = [code(begin), "ENDLESS", code("n + 1"), final("six"), patch(), final("written")]
    terminal = Terminal(
        "chat", tiny, "--tools", "python", "--patch-root", project,
        first=SCRIPTED,
        SAMPLES=json.dumps(samples),
        TMPDIR=str(tmp_path),
        XDG_STATE_HOME=str(tmp_path),
        PYTHONPATH=f"{Path(ossia.__file__).parents[1]}:{Path(__file__).parents[1]}",
    )  # fmt: skip
    terminals.append(terminal)
    terminal.wait_for("/help lists the commands")
    terminal.wait_for(">")
    terminal.type("Loop.\r")
    terminal.wait_for("call: while True: pass")
    while not list(tmp_path.glob("ossia-containers-*/*/data/begun")):
        time.sleep(0.01)
    terminal.type("\x03")
    terminal.wait_for("failed: begun")
    terminal.wait_for("The code was interrupted by the user; variables are kept.")
    terminal.wait_for("and so on")
    terminal.type("\x03")
    terminal.wait_for("stopped; the answer stays in the conversation")
    terminal.wait_for(">")
    terminal.type("And n?\r")
    terminal.wait_for("result: 6")
    terminal.wait_for("six")
    terminal.wait_for(">")
    terminal.type("Write.\r")
    terminal.wait_for("allow apply_patch? y = yes, n = no, a = always:")
    assert not list(project.iterdir())
    terminal.type("y\r")
    terminal.wait_for("result: A new.txt")
    assert (project / "new.txt").read_text() == "hello\n"
    terminal.wait_for(">")
    terminal.type("/tools\r")
    terminal.wait_for(f"python: in {find().rung.name}" if find().rung else "")
    terminal.wait_for(">")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert terminal.all.count("Traceback (most") == 1, "that of the cell"
