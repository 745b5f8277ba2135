"""The command line: `ossia {chat, generate, info, convert, eval}`.

Knows arguments, streams and exit codes. What a command does is elsewhere, and is imported only when that command runs:
`ossia --help` must not wait for torch. What a terminal shows is `terminal.py`, the table of `ossia info` is `info.py`.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from ossia import __version__
from ossia.errors import OssiaError

if TYPE_CHECKING:
    from ossia.evals import Report
    from ossia.llm import LLM, Generation
    from ossia.tokenizer import Tokenizer

MODEL = 'nano (part of ossia), a folder, gpt-oss-20b, gpt-oss-120b, or a Hugging Face id (default: "nano")'
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, as `ossia --help` lists them."""
    # Threads that spin while they wait starve each other where there are more of them than idle cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character is no reason to stop
            stream.reconfigure(errors="replace")
    args = parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OssiaError as error:
        return _fail(2, str(error))
    except OSError as error:
        return _fail(1, f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        return _fail(1, f"out of memory: {error}")
    return 0


def _fail(code: int, message: str) -> int:
    print("ossia:", " ".join(message.split()), file=sys.stderr)
    return code


# ---- arguments -----------------------------------------------------------------------------------------------

TOP = """\
commands to begin with:
  ossia chat                                        talk to nano, the small model inside ossia
  ossia chat gpt-oss-20b                            download the published model, talk to it
  echo 'What is 37 + 48?' | ossia chat              answer each line of a file or pipe
  ossia info gpt-oss-120b                           what a model consists of; needs no weights
  ossia convert gpt-oss-20b DIR --to hf-bf16        rewrite a checkpoint in another layout

environment:
  OSSIA_KERNELS=reference   use the plain torch version of every operation
  NO_COLOR=1                no escape codes, also in a terminal

exit codes:
  0 done;  1 the machine failed (disk, memory);  2 what was given cannot be used (arguments, model, files,
  a prompt that does not fit);  130 stopped by Ctrl-C;  141 the reader of the output went away
"""

CHAT = """\
In a terminal: Enter sends, Alt-Enter (or Esc, Enter) begins a new line, arrow up recalls, Ctrl-C stops an answer, Ctrl-D
leaves; /help lists commands such as /effort high, /new and /save FILE. Reasoning is dim, the answer is not.

From a pipe or file: every line that is not empty is a turn of one conversation and is answered in order. Lines of
reasoning begin with "thinking: ", tool calls with "call: ", their results with "result: "; the answer has no prefix:
  echo 'What is 37 + 48?' | ossia chat
  ossia chat gpt-oss-20b --effort high --hide-reasoning < questions.txt
"""

GENERATE = """\
examples:
  ossia generate --prompt 'Tom has 3 apples.' --temperature 0
  ossia generate nano --ids 5,17,42 --max-tokens 20 --json
  ossia generate --specials --prompt '<|start|>user<|message|>Hi<|end|><|start|>assistant'
  ossia generate gpt-oss-20b < story.txt

--json prints one object: prompt_ids, ids, text, finish_reason ("stop" or "length"), logprobs (natural logarithm,
before temperature and filters).
"""

INFO = """\
examples:
  ossia info gpt-oss-20b          from the published numbers; reads no weights, needs no network
  ossia info my-model             a folder: also its files and tokenizer, and every tensor's name, shape and dtype
  ossia info nano --json

B is 10^9 parameters; KiB, MiB and GiB are 2^10, 2^20 and 2^30 bytes.
"""

CONVERT = """\
layouts:
  hf         as on Hugging Face: experts in MXFP4 (4.25 bits a weight), everything else bfloat16
  original   OpenAI's own names, experts in MXFP4
  hf-bf16    as on Hugging Face, everything in bfloat16: three times as large, for tools without MXFP4

examples:
  ossia convert gpt-oss-20b gpt-oss-20b-bf16 --to hf-bf16
  ossia convert my-trained-model my-model --to hf --rule best
  ossia convert --random gpt-oss-120b big --layers 4     random weights, to measure speed without the download

MXFP4 blocks stay as they are between hf and original. DST appears only when it is complete.
"""

EVAL = """\
examples:
  ossia eval nano                            every task at every effort
  ossia eval nano --task arithmetic --effort high --samples 500 --failures 10

Each cell: share of right answers (right/asked, 95% Wilson interval). An answer that is cut by --max-tokens counts as it
stands, and how many were cut is said below the table.
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    about = "gpt-oss in one readable package: chat with a model, complete text, look at, convert and measure it."
    top = argparse.ArgumentParser("ossia", description=about, epilog=TOP, formatter_class=_Help)
    top.add_argument("--version", action="version", version=f"ossia {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Any, about: str, epilog: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about, epilog=epilog, formatter_class=_Help)
        made.set_defaults(run=run)
        return made

    _chat_arguments(command("chat", _chat, "Talk to a model, in the terminal or through a pipe.", CHAT))
    _generate_arguments(command("generate", _generate, "Complete text or token ids, without a chat.", GENERATE))
    _info_arguments(command("info", _info, "Show what a model consists of: parameters, bytes, kernels.", INFO))
    _convert_arguments(command("convert", _convert, "Write a checkpoint in another layout.", CONVERT))
    _eval_arguments(command("eval", _eval, "Measure a model on held-out problems of ossia's own tasks.", EVAL))
    return top


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal up to 110 columns, texts as they are written."""

    def __init__(self, prog: str, **given: Any) -> None:
        super().__init__(prog, max_help_position=32, **given)


def _chat_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", nargs="?", default="nano", metavar="MODEL", help=MODEL)
    p.add_argument("--effort", choices=("low", "medium", "high"), default="medium", help="reasoning effort (default: medium)")
    p.add_argument("--instructions", metavar="TEXT", help="developer instructions: how the model should behave")
    p.add_argument("--calculator", action="store_true", help="offer the model a calculator, as a tool to call")
    p.add_argument("--hide-reasoning", dest="show_reasoning", action="store_false", help="show answers and tool calls only")
    p.add_argument("--show-reasoning", dest="show_reasoning", action="store_true", help="show reasoning too (default)")
    p.add_argument(
        "--date", default="today", type=_date, metavar="DATE", help="YYYY-MM-DD, today, or none, told to the model (default: today)"
    )
    p.add_argument("--no-history", action="store_true", help="do not keep what is typed for the next session")
    _model_arguments(p)
    _sampling_arguments(p, "until the context is full")


def _generate_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", nargs="?", default="nano", metavar="MODEL", help=MODEL)
    prompt = p.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="TEXT", help="text to go on from (default: what stdin holds)")
    prompt.add_argument("--prompt-file", metavar="FILE", help="a UTF-8 file to go on from")
    prompt.add_argument("--ids", type=_ids, metavar="1,2,3", help="token ids to go on from")
    p.add_argument(
        "--specials", action="store_true", help="names such as <|start|> in the text are special tokens, and are shown"
    )
    p.add_argument("--json", action="store_true", help="print one JSON object at the end, instead of the text")
    _model_arguments(p)
    _sampling_arguments(p, "256")
    p.set_defaults(max_tokens=256)


def _info_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", nargs="?", default="nano", metavar="MODEL", help=MODEL)
    p.add_argument("--json", action="store_true", help="print one JSON object")


def _convert_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("src", nargs="?", metavar="SRC", help="the checkpoint to read: a folder, nano, or a hub model's name")
    p.add_argument("dst", metavar="DST", help="the folder to write")
    p.add_argument("--to", choices=("hf", "original", "hf-bf16"), default="hf", help="the layout to write (default: hf)")
    p.add_argument(
        "--rule",
        choices=("floor", "rceil", "even", "best"),
        default="rceil",
        help="how the scale of an MXFP4 block is chosen when experts are quantized (default: rceil)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace DST, once the new one is complete")
    p.add_argument(
        "--random", metavar="PRESET", help="write random weights of this shape (gpt-oss-20b, gpt-oss-120b, nano), no SRC"
    )
    p.add_argument("--seed", type=int, default=0, help="of --random (default: 0)")
    p.add_argument("--layers", type=_positive, metavar="N", help="of --random: fewer (or more) layers than the preset")


def _eval_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", nargs="?", default="nano", metavar="MODEL", help=MODEL)
    p.add_argument("--samples", type=_positive, default=50, metavar="N", help="problems of each task (default: 50)")
    p.add_argument(
        "--task", action="append", metavar="TASK",
        help="arithmetic, word problems, facts, multi-turn, calculator or scope; may be given again (default: all)",
    )  # fmt: skip
    p.add_argument(
        "--effort", action="append", choices=("low", "medium", "high"), help="may be given again (default: all three)"
    )
    p.add_argument("--problem-seed", type=int, default=0, metavar="N", help="which problems are drawn (default: 0)")
    p.add_argument("--failures", type=int, default=0, metavar="N", help="also show the first N wrong answers (default: 0)")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of the Markdown table")
    _model_arguments(p)
    _sampling_arguments(p, "512")
    p.set_defaults(max_tokens=512)


def _model_arguments(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("computing")
    group.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="what to compute in (default: bfloat16)"
    )
    group.add_argument("--device", default="cpu", help="cpu, cuda, or cuda:1 (default: cpu)")


def _sampling_arguments(p: argparse.ArgumentParser, max_tokens: str) -> None:
    group = p.add_argument_group("sampling", "Defaults are the model's own, if its folder has any.")
    group.add_argument("--temperature", type=float, metavar="X", help="0: always the likeliest token (default: 1)")
    group.add_argument("--top-p", type=float, metavar="X", help="from the likeliest tokens of this total probability (default: 1)")
    group.add_argument("--top-k", type=int, metavar="N", help="from the N likeliest tokens; 0 for all (default: 0)")
    group.add_argument(
        "--min-p", type=float, metavar="X", help="from tokens at least X times as likely as the likeliest (default: 0)"
    )
    group.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same tokens (default: a new one)")
    group.add_argument("--max-tokens", type=int, metavar="N", help=f"tokens to sample at most (default: {max_tokens})")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def _ids(text: str) -> list[int]:
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers between commas, found {text!r}") from None


def _date(text: str) -> str | None:
    if text in ("today", "none"):
        return text if text == "today" else None
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected YYYY-MM-DD, today or none, found {text!r}") from None


def _sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling values that were given; the model's own hold for the rest."""
    return {name: value for name in SAMPLING if (value := getattr(args, name)) is not None}
