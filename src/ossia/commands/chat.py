"""`ossia chat`: its options, and a session of them at a terminal or through a pipe.

How a terminal shows a turn and which /commands there are is `commands/terminal.py`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ossia.commands.options import (
    Command,
    Computing,
    Day,
    EffortWord,
    Sampling,
    model,
    option,
)

EPILOG = """\
In a terminal: Enter sends, Alt-Enter (or Esc, then Enter) begins a new line, arrow up recalls,
Ctrl-C stops an answer, Ctrl-D leaves. /help lists commands such as /effort high, /new and /save
FILE. Reasoning is dim.

From a pipe or a file: every line that is not empty is a turn of one conversation, answered in
order. Lines of reasoning begin with "thinking: ", tool calls with "call: ", what tools return with
"result: " or "failed: "; the answer has no prefix.

examples:
  ossia chat --effort high --calculator
  ossia chat --temperature 0.7 --seed 1
  ossia chat gpt-oss-20b --instructions 'Answer in French.' --date 2025-08-05
  echo 'What is 37 + 48?' | ossia chat
  ossia chat --hide-reasoning < questions.txt > answers.txt
"""


@dataclass(frozen=True)
class Options:
    """What `ossia chat` takes."""

    model: str = model()
    effort: EffortWord = option("medium", "how much to reason before the answer")
    instructions: str | None = option(None, "developer instructions: how to behave", "TEXT")
    calculator: bool = option(False, "offer a calculator, as a tool to call")
    show_reasoning: bool = option(False, "print the reasoning too (default)", one_of="reasoning")
    hide_reasoning: bool = option(False, "print only answers and tool calls", one_of="reasoning")
    date: Day = option("today", "YYYY-MM-DD, today or none: what the model is told", "DATE")
    no_history: bool = option(False, "do not keep what is typed for the next session")
    computing: Computing = Computing()
    sampling: Sampling = Sampling()


def run(options: Options) -> None:
    llm = options.computing.load_model(options.model)
    from ossia.commands.display import is_styled
    from ossia.commands.terminal import Screen, Session, answer_lines, interact
    from ossia.harmony import Effort
    from ossia.tasks import CALCULATOR, calculate
    from ossia.tasks import Tool as TaskTool

    sampling = options.sampling.given()
    llm.params(**sampling)  # values that make no sense are reported before the first question
    session = Session(
        llm,
        Effort(options.effort),
        options.instructions,
        options.date,
        tools=(TaskTool(CALCULATOR, calculate),) if options.calculator else (),
        sampling=sampling,
    )
    styled = is_styled(sys.stdout)
    screen = Screen(sys.stdout, styled=styled, reasoning=not options.hide_reasoning)
    if sys.stdin.isatty() and sys.stdout.isatty():
        interact(session, screen, options.model, keep_history=not options.no_history)
    else:
        answer_lines(session, sys.stdin, screen)


COMMAND = Command(Options, run, EPILOG)
