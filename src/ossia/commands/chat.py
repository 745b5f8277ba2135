"""`ossia chat`: its options, and a session of them at a terminal or through a pipe.

How a terminal shows a turn and which /commands there are is `commands/terminal/`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ossia.commands.hosted.chat import ChatTools, asked_of_server
from ossia.commands.options import (
    MODEL_HELP,
    Command,
    Computing,
    Day,
    EffortWord,
    Sampling,
    argument,
    option,
)
from ossia.errors import RequestError

if TYPE_CHECKING:
    from ossia.commands.terminal.session import Session

EPILOG = """\
In a terminal: Enter sends, Alt-Enter (or Esc, then Enter) begins a new line, arrow up recalls,
Ctrl-C stops an answer, Ctrl-D leaves. /help lists commands such as /effort high, /new and /save
FILE, and Tab completes them. Reasoning is dim.

From a pipe or a file: every line that is not empty is a turn of one conversation, answered in
order. Lines of reasoning begin with "thinking: ", tool calls with "call: ", what tools return with
"result: " or "failed: "; the answer has no prefix. Nobody can be asked there: calls that need
approval are refused.

examples:
  ossia chat --effort high --calculator
  ossia chat gpt-oss-20b --tools python --effort high
  ossia chat gpt-oss-20b --tools browser --corpus notes/ --mcp mcp.json --patch-root project/
  ossia chat --temperature 0.7 --seed 1
  ossia chat gpt-oss-20b --instructions 'Answer in French.' --date 2025-08-05
  ossia chat --server http://127.0.0.1:8000       a model that `ossia serve` has loaded
  ossia chat MODEL --server https://HOST/v1 --api-key KEY
  echo 'What is 37 + 48?' | ossia chat
  ossia chat --hide-reasoning < questions.txt > answers.txt
"""


@dataclass(frozen=True)
class Options:
    """What `ossia chat` takes."""

    model: str | None = argument(
        f"{MODEL_HELP} (default: nano); with --server, one of its models (default: its first)",
        "MODEL",
        None,
    )
    server: str | None = option(
        None, "talk to a running server of OpenAI's API, such as ossia serve", "URL"
    )
    api_key: str | None = option(
        None, "for the server", "KEY", shown="OSSIA_API_KEY or OPENAI_API_KEY in the environment"
    )
    effort: EffortWord | None = option(
        None, "how much to reason before the answer", shown="medium, or as the server chooses"
    )
    instructions: str | None = option(None, "developer instructions: how to behave", "TEXT")
    calculator: bool = option(False, "offer a calculator, as a tool to call")
    show_reasoning: bool = option(False, "print the reasoning too (default)", one_of="reasoning")
    hide_reasoning: bool = option(False, "print only answers and tool calls", one_of="reasoning")
    date: Day = option(
        "today", "YYYY-MM-DD, today or none: what a model that runs here is told", "DATE"
    )
    no_history: bool = option(False, "do not keep what is typed for the next session")
    chat_tools: ChatTools = ChatTools()
    computing: Computing = Computing()
    sampling: Sampling = Sampling()


def run(options: Options) -> None:
    session = _local(options) if options.server is None else _remote(options, options.server)
    from ossia.commands.display import is_styled
    from ossia.commands.terminal import Screen, answer_lines, interact

    styled = is_styled(sys.stdout)
    screen = Screen(sys.stdout, styled=styled, reasoning=not options.hide_reasoning)
    if sys.stdin.isatty() and sys.stdout.isatty():
        interact(session, screen, session.name, keep_history=not options.no_history)
    else:
        answer_lines(session, sys.stdin, screen)


def _local(options: Options) -> Session:
    """With a model that is loaded here."""
    if options.api_key is not None:
        raise RequestError("--api-key is for a server: give --server URL too")
    from ossia.commands.hosted import chat as chat_tools
    from ossia.commands.terminal.approvals import Approver

    approver = Approver()
    bench = chat_tools.make(options.chat_tools, approver)
    name = options.model or "nano"
    llm = options.computing.load_model(name)
    from ossia.commands.terminal.session import Session
    from ossia.harmony import Effort
    from ossia.tasks import CALCULATOR, calculate
    from ossia.tools import PythonFunction

    sampling = options.sampling.given()
    llm.params(**sampling)  # values that make no sense are reported before the first question
    calculator = PythonFunction(CALCULATOR, calculate)
    return Session(
        llm,
        Effort(options.effort or Effort.MEDIUM),
        options.instructions,
        options.date,
        tools=(*bench.tools.values(), *((calculator,) if options.calculator else ())),
        sampling=sampling,
        name=name,
        load=options.computing.load_model,
        available={**bench.tools, "calculator": calculator},
        bench=bench,
        approver=approver,
    )


def _remote(options: Options, url: str) -> Session:
    """With a model of a server. Raises `RequestError` for options of a model that is loaded."""
    if options.computing != Computing() or options.calculator:
        raise RequestError(
            "--server: the model and its tools are the server's; leave out --calculator and the "
            "options under `computing`"
        )
    sampling = options.sampling.given()
    if asked := asked_of_server(options.chat_tools):
        sampling["tools"] = asked
    from ossia.commands.terminal.remote import Server
    from ossia.commands.terminal.session import Session
    from ossia.harmony import Effort

    key = options.api_key or os.environ.get("OSSIA_API_KEY") or os.environ.get("OPENAI_API_KEY")
    server = Server.at(url, key or None, options.model)
    return Session(
        server,
        None if options.effort is None else Effort(options.effort),
        options.instructions,
        options.date,
        tools=(),
        sampling=sampling,
        name=server.model,
        load=server.with_model,
    )


COMMAND = Command(Options, run, EPILOG)
