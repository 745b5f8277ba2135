"""The command line: `ossia {chat, generate, serve, train, info, ...}`.

Knows the names of the commands and the exit codes. What a command takes and does is in its own
file, which is imported when the command is given. Nothing here imports torch, so that
`ossia --help` is quick.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from ossia import __version__
from ossia.commands.options import Command, Computing, Group, Parser, parsed
from ossia.errors import EngineFailed, OssiaError, ProcessLost

EPILOG = """\
to begin with:
  ossia chat                                        talk to nano, the small model inside ossia
  ossia chat gpt-oss-20b                            download the published model and talk to it
  echo 'What is 37 + 48?' | ossia chat              answer each line of a file or pipe
  ossia serve gpt-oss-20b                           for OpenAI and Anthropic clients, a chat page
  ossia train sft data=chats.jsonl                  fine-tune on conversations of your own
  ossia train rl data=sums.jsonl                    learn from answers that can be checked
  ossia info gpt-oss-120b                           what a model consists of; needs no weights
  ossia convert gpt-oss-20b DIR --to hf-bf16        rewrite a checkpoint in another layout
  ossia harmony render chat.json                    the tokens of a conversation, and back
  ossia COMMAND --help                              all options of a command, with examples

environment:
  NO_COLOR=1                no escape codes, also in a terminal
  XDG_STATE_HOME            where what is typed in a chat is kept (default: ~/.local/state)
  XDG_CACHE_HOME            where kernels compiled at first use are kept (default: ~/.cache)
  HF_HOME, HF_TOKEN         where huggingface_hub keeps downloads, and who asks for them

exit codes:
  0    done
  1    the machine failed: disk, memory, one of several processes, a server's engine
  2    what was given cannot be used: arguments, a model, a file, a prompt that does not fit
  130  stopped by Ctrl-C
  141  whoever read the output went away
"""
FIRST = f"""\
ossia {__version__}: gpt-oss in one readable package. To begin with:

  ossia chat               talk to nano, a 4 MB demonstration inside ossia that knows arithmetic
                           and the facts that you give it
  ossia chat gpt-oss-20b   download the published model, 13 GB, and talk to it
  ossia serve gpt-oss-20b  a page to chat on, and an API for the clients that you have
  ossia train --list       fine-tune a model on chats of your own, or make one
  ossia --help             all commands; ossia COMMAND --help has examples of each
"""
ABOUT = (
    "gpt-oss in one readable package: chat with a model, complete text, train, inspect, convert "
    "and measure."
)
# name -> its file in ossia/commands, what it does
COMMANDS = {
    "chat": ("chat", "Talk to a model, in the terminal or through a pipe."),
    "generate": ("generate", "Complete text or token ids, no chat."),
    "serve": ("serve", "Serve a model over HTTP, and a page to chat on."),
    "train": (
        "training.train",
        "Train, fine-tune or plan: run a recipe, see what it would cost, lay a model out over "
        "many GPUs.",
    ),
    "rollouts": ("training.rollouts", "Read what a run of reinforcement learning has sampled."),
    "policy": ("training.policy", "Check a policy to align with, or write it in its other form."),
    "info": ("info", "Show a model's parameters, bytes, files and kernels."),
    "convert": ("convert", "Write a checkpoint in another layout."),
    "eval": ("evaluate", "Measure a model on held-out problems of ossia's tasks."),
    "bench": ("bench", "Measure this machine, and a model's speed on it."),
    "mcp": ("mcp", "Serve our tools to other programs, over MCP."),
    "harmony": (
        "harmony",
        "Debug prompts: render conversations to tokens, parse tokens to messages.",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, as `ossia --help` lists them."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character that cannot be shown stops nothing
    found = parsed(parser(), argv)
    if found is None:
        print(FIRST, end="")
        return 0
    command, options = found
    try:
        computing = getattr(options, "computing", None)
        if isinstance(computing, Computing) and computing.is_beside:
            computing.load_model(options.model)  # leaves by SystemExit
        command.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # or Python complains at exit
        return 141
    except (ProcessLost, EngineFailed) as error:
        return _fail(1, str(error))
    except OssiaError as error:
        return _fail(2, str(error))
    except OSError as error:
        return _fail(1, f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except MemoryError as error:
        return _fail(1, f"out of memory: {error}")
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        return _fail(1, f"out of memory: {error}")
    return 0


def _fail(code: int, message: str) -> int:
    print("ossia:", " ".join(message.split()), file=sys.stderr)
    return code


def parser() -> Parser:
    """The whole command line; a command's options are declared when it is parsed."""
    top = Parser("ossia", description=ABOUT, epilog=EPILOG)
    top.add_argument("--version", action="version", version=f"ossia {__version__}")
    added = top.add_subparsers(title="commands", metavar="COMMAND", required=False)
    for name, (module, about) in COMMANDS.items():
        made = added.add_parser(name, help=about, description=about)
        made.fill = partial(_command, module)
    return top


def _command(module: str) -> Command | Group:
    found: Command | Group = import_module(f"ossia.commands.{module}").COMMAND
    return found
