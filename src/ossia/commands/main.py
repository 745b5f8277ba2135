"""The command line: `ossia {chat, generate, serve, train, info, convert, eval, bench, harmony}`.

Knows arguments, their help and the exit codes. What a command does is `commands/common.py`; nothing
here imports torch, so that `ossia --help` is quick.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ossia import __version__
from ossia.commands import arguments, serve_options
from ossia.commands import common as commands
from ossia.commands import train as train_command
from ossia.errors import OssiaError

TOP = """\
to begin with:
  ossia chat                                        talk to nano, the small model inside ossia
  ossia chat gpt-oss-20b                            download the published model and talk to it
  echo 'What is 37 + 48?' | ossia chat              answer each line of a file or pipe
  ossia serve gpt-oss-20b                           for OpenAI and Anthropic clients, and a page to chat on
  ossia train sft data=chats.jsonl                  fine-tune on conversations of your own
  ossia info gpt-oss-120b                           what a model consists of; needs no weights
  ossia convert gpt-oss-20b DIR --to hf-bf16        rewrite a checkpoint in another layout
  ossia harmony render chat.json                    the tokens a model reads for a conversation, and back
  ossia COMMAND --help                              all options of a command, with examples

environment:
  NO_COLOR=1                no escape codes, also in a terminal
  XDG_STATE_HOME            where what is typed in a chat is kept (default: ~/.local/state)
  XDG_CACHE_HOME            where kernels are kept that were compiled at first use (default: ~/.cache)
  HF_HOME, HF_TOKEN         where huggingface_hub keeps downloads, and who asks for them

exit codes:
  0    done
  1    the machine failed: disk, memory
  2    what was given cannot be used: arguments, a model, a file, a prompt that does not fit
  130  stopped by Ctrl-C
  141  whoever read the output went away
"""

CHAT = """\
In a terminal: Enter sends, Alt-Enter (or Esc, then Enter) begins a new line, arrow up recalls, Ctrl-C stops
an answer, Ctrl-D leaves. /help lists commands such as /effort high, /new and /save FILE. Reasoning is dim.

From a pipe or a file: every line that is not empty is a turn of one conversation, answered in order. Lines
of reasoning begin with "thinking: ", tool calls with "call: ", what tools return with "result: " or
"failed: "; the answer has no prefix.

examples:
  ossia chat --effort high --calculator
  ossia chat --temperature 0.7 --seed 1
  ossia chat gpt-oss-20b --instructions 'Answer in French.' --date 2025-08-05
  echo 'What is 37 + 48?' | ossia chat
  ossia chat --hide-reasoning < questions.txt > answers.txt
"""

GENERATE = """\
examples:
  ossia generate --prompt 'Tom has 3 apples.' --temperature 0
  ossia generate gpt-oss-20b < story.txt
  ossia generate nano --ids 5,17,42 --max-tokens 20 --json
  ossia generate --specials --prompt '<|start|>user<|message|>Hi<|end|><|start|>assistant'

The text goes to the model as it is, nothing before it. Sampling ends at <|return|>, <|call|>, <|endoftext|>
or --max-tokens. --json prints one object: prompt_ids, ids, text, finish_reason ("stop" or "length") and
logprobs, the natural logarithms of the probabilities before temperature and filters.
"""

INFO = """\
examples:
  ossia info gpt-oss-20b          from the published numbers: reads no weights, needs no network
  ossia info my-model             a folder: also its files and tokenizer; every tensor's name, shape and dtype
                                  is checked, no weight is read
  ossia info nano --json

B is 10^9 parameters, M 10^6; KiB, MiB and GiB are 2^10, 2^20 and 2^30 bytes.
"""

CONVERT = """\
layouts:
  hf         as on Hugging Face: experts in MXFP4 (4.25 bits a weight), everything else in bfloat16
  original   OpenAI's own names, experts in MXFP4
  hf-bf16    as on Hugging Face, everything in bfloat16: three times as large, for tools without MXFP4
  gguf       one file for llama.cpp: experts in MXFP4, other matrices in --dense, tokenizer inside

examples:
  ossia convert gpt-oss-20b gpt-oss-20b-bf16 --to hf-bf16
  ossia convert my-trained-model my-model --to hf --rule best
  ossia convert gpt-oss-20b 20b.gguf --to gguf --dense q8_0
  ossia convert --random gpt-oss-120b big --layers 4       random weights: to measure speed, no download

rules for the scale of a block of 32 weights, where experts are quantized:
  rceil      the smallest power of two that clips nothing; exact for weights that MXFP4 can hold
  floor      the OCP rule: values above 6 scales are clipped
  even       floor, after rounding the block's largest value: clips less
  best       of floor's and the next larger, the one with the smaller squared error, block by block

MXFP4 blocks go between hf, original and gguf without loss; SRC may be a .gguf file too. DST appears only when
it is complete; the disk's free space is checked before anything is written. Tokenizer files go along.
"""

EVAL = """\
examples:
  ossia eval nano                                          every task at every effort
  ossia eval nano --task arithmetic --effort high --samples 500 --failures 10

A cell is the share of right answers (right/asked, 95% Wilson interval). An answer that --max-tokens cuts is
graded as it stands, and how many were cut is said below the table.
"""

BENCH = """\
phases, comma-separated:
  kernels_N   each kernel alone with N threads, in the shapes of gpt-oss-20b; one thread is timed by its
              processor time, so that other programs disturb it little
  prefill_N   tokens per second while a prompt of N random tokens is read
  decode_N    tokens per second of one stream behind a prompt of N tokens
  batch_N     tokens per second of N streams together

The tables give each speed's share of the bound: for decoding the bytes that a step reads over the measured
read bandwidth, for prompts the operations over the measured peak of the instruction set in use. The machine
is measured before and after. A kernel below 40% of its bound is warned of. OSSIA_ISA=NAME in the environment
measures another instruction set that this CPU offers.

examples:
  ossia bench gpt-oss-20b
  ossia bench gpt-oss-20b --dense int8 --activations int8 --phases prefill_512,decode_0,decode_4096
  OSSIA_ISA=avx2 ossia bench --phases kernels_1
  ossia bench --random gpt-oss-20b          random weights of that shape, 12.8 GiB in a temporary folder
"""

HARMONY = """\
examples:
  ossia harmony render conversation.json               the prompt, as text
  ossia harmony render request.json --chat --tokens    from a chat-completions request, token by token
  ossia harmony parse < sampled.txt                    what a model said, as messages, and what was repaired

Special tokens are written by their names, such as <|start|>. `render` takes what `parse` prints.
"""

RENDER = """\
FILE holds {"messages": [...]}, or just the list. A message is {"role", "content", "name"?, "channel"?,
"recipient"?, "content_type"?}, the JSON form of the official Harmony package. With --chat it is the body of
a chat-completions request instead: "messages", and perhaps "tools" and "reasoning_effort".

styles:
  faithful   as the published models read and write: see docs/harmony.md
  compat     token for token what the official package gives, its defects included

In a terminal special tokens are cyan, headers yellow, reasoning dim, what is learned (--for training)
green, and every message begins a line. In a pipe the text is exact. The number of tokens goes to stderr.

examples:
  ossia harmony render conversation.json
  ossia harmony render conversation.json --style compat --json > compat.json
  ossia harmony render conversation.json --for training --tokens
  ossia harmony render request.json --chat --tokenizer nano --date 2025-08-05
"""

PARSE = """\
FILE holds text, in which names such as <|channel|> are special tokens, or a JSON list of token ids. Prints
one JSON object: "messages", and "repairs", each with the position of the token, the kind and what was seen.
--strict reads as the official package does, and stops with its error.

examples:
  ossia harmony parse sampled.txt
  ossia harmony parse --ids 200005,17196,200008,12194,200002
  echo '<|channel|>final json<|message|>{}<|return|>' | ossia harmony parse --strict
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, as `ossia --help` lists them."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # a character that cannot be shown is no reason to stop
    whole = parser()
    args, rest = whole.parse_known_args(argv)
    if rest and not train_command.takes(args, rest):  # key=value may stand behind options, too
        whole.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or Python complains at exit
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


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    about = "gpt-oss in one readable package: chat with a model, complete text, train, inspect, convert and measure."
    top = argparse.ArgumentParser(
        "ossia", description=about, epilog=TOP, formatter_class=arguments.Help
    )
    top.add_argument("--version", action="version", version=f"ossia {__version__}")
    added = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], None], about: str, epilog: str
    ) -> Any:
        made = added.add_parser(
            name, help=about, description=about, epilog=epilog, formatter_class=arguments.Help
        )
        made.set_defaults(run=run)
        return made

    _chat(
        command("chat", commands.chat, "Talk to a model, in the terminal or through a pipe.", CHAT)
    )
    _generate(
        command("generate", commands.generate, "Complete text or token ids, no chat.", GENERATE)
    )
    about = "Serve a model over HTTP, and a page to chat on."
    serve_options.add(command("serve", commands.serve, about, serve_options.TEXT))
    about = "Train, fine-tune or plan: run a recipe, see what it would cost, lay a model out over many GPUs."
    train_command.add(command("train", train_command.train, about, train_command.TEXT))
    _info(
        command("info", commands.info, "Show a model's parameters, bytes, files and kernels.", INFO)
    )
    _convert(command("convert", commands.convert, "Write a checkpoint in another layout.", CONVERT))
    _eval(
        command(
            "eval",
            commands.evaluate,
            "Measure a model on held-out problems of ossia's tasks.",
            EVAL,
        )
    )
    _bench(
        command("bench", commands.bench, "Measure this machine, and a model's speed on it.", BENCH)
    )
    _harmony(added)
    return top


# ---- arguments -----------------------------------------------------------------------------------


def _chat(p: argparse.ArgumentParser) -> None:
    arguments.model(p)
    text = "how much to reason before the answer (default: medium)"
    p.add_argument("--effort", choices=("low", "medium", "high"), default="medium", help=text)
    p.add_argument("--instructions", metavar="TEXT", help="developer instructions: how to behave")
    p.add_argument(
        "--calculator", action="store_true", help="offer a calculator, as a tool to call"
    )
    shown = p.add_mutually_exclusive_group()
    text = "print the reasoning too (default)"
    shown.add_argument("--show-reasoning", action="store_true", default=True, help=text)
    text = "print only answers and tool calls"
    shown.add_argument("--hide-reasoning", dest="show_reasoning", action="store_false", help=text)
    text = "YYYY-MM-DD, today or none: what the model is told (default: today)"
    p.add_argument("--date", default="today", type=arguments.day, metavar="DATE", help=text)
    text = "do not keep what is typed for the next session"
    p.add_argument("--no-history", action="store_true", help=text)
    arguments.computing(p)
    arguments.sampling(p, None)


def _generate(p: argparse.ArgumentParser) -> None:
    arguments.model(p)
    prompt = p.add_mutually_exclusive_group()
    prompt.add_argument(
        "--prompt", metavar="TEXT", help="text to go on from (default: what stdin holds)"
    )
    prompt.add_argument("--prompt-file", metavar="FILE", help="a text file to go on from")
    prompt.add_argument(
        "--ids", type=arguments.token_ids, metavar="1,2,3", help="token ids to go on from"
    )
    text = "names such as <|start|> in the text are special tokens; specials are printed too"
    p.add_argument("--specials", action="store_true", help=text)
    p.add_argument("--json", action="store_true", help="print one JSON object, at the end")
    arguments.computing(p)
    arguments.sampling(p, 256)


def _info(p: argparse.ArgumentParser) -> None:
    arguments.model(p)
    p.add_argument("--json", action="store_true", help="print one JSON object")


def _convert(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "src", nargs="?", metavar="SRC", help="what to read: a folder, nano, or a hub model"
    )
    p.add_argument("dst", metavar="DST", help="the folder to write; with --to gguf, the file")
    layouts = ("hf", "original", "hf-bf16", "gguf")
    p.add_argument("--to", choices=layouts, default="hf", help="layout (default: hf)")
    text = "of --to gguf: embeddings and attention in 16 bits, or in 8.5 (default: bf16)"
    p.add_argument("--dense", choices=("bf16", "q8_0"), help=text)
    text = "of quantization, see below (default: rceil)"
    p.add_argument("--rule", choices=("floor", "rceil", "even", "best"), default="rceil", help=text)
    p.add_argument(
        "--overwrite", action="store_true", help="replace DST, once the new one is complete"
    )
    text = "instead of SRC: random weights in the shape of gpt-oss-20b, gpt-oss-120b or nano"
    p.add_argument("--random", metavar="PRESET", help=text)
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of --random (default: 0)")
    p.add_argument(
        "--layers",
        type=arguments.positive,
        metavar="N",
        help="of --random: not as many as the preset",
    )


def _eval(p: argparse.ArgumentParser) -> None:
    arguments.model(p)
    p.add_argument(
        "--samples",
        type=arguments.positive,
        default=50,
        metavar="N",
        help="problems a task (default: 50)",
    )
    text = "such as arithmetic or 'world hops'; repeatable; an unknown one lists them all (default: the six of nano)"
    p.add_argument("--task", action="append", metavar="TASK", help=text)
    text = "repeatable (default: all three)"
    p.add_argument("--effort", action="append", choices=("low", "medium", "high"), help=text)
    text = "which problems are drawn (default: 0)"
    p.add_argument("--problem-seed", type=int, default=0, metavar="N", help=text)
    p.add_argument(
        "--failures",
        type=arguments.positive,
        metavar="N",
        help="also print the first N wrong answers",
    )
    p.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments.computing(p)
    arguments.sampling(p, 512)


def _bench(p: argparse.ArgumentParser) -> None:
    arguments.model(p)
    text = "instead of MODEL: random weights in the shape of gpt-oss-20b, gpt-oss-120b or nano"
    p.add_argument("--random", metavar="PRESET", help=text)
    text = "what to measure, see below (default: kernels_1,prefill_512,prefill_2048,decode_0,decode_4096,batch_8,batch_16)"
    p.add_argument("--phases", metavar="LIST", help=text)
    p.add_argument(
        "--repetitions",
        type=arguments.positive,
        default=3,
        metavar="N",
        help="of every phase (default: 3)",
    )
    p.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments.computing(p)


def _harmony(added: Any) -> None:
    about = "Debug prompts: render conversations to tokens, parse tokens to messages."
    group = added.add_parser(
        "harmony", help=about, description=about, epilog=HARMONY, formatter_class=arguments.Help
    )
    verbs = group.add_subparsers(title="what to do", metavar="render|parse", required=True)
    about = "A conversation as the tokens that a model reads."
    p = verbs.add_parser(
        "render", help=about, description=about, epilog=RENDER, formatter_class=arguments.Help
    )
    p.set_defaults(run=commands.harmony_render)
    p.add_argument(
        "file",
        nargs="?",
        default="-",
        metavar="FILE",
        help="a conversation in JSON (default: stdin)",
    )
    text = "faithful or compat, see below (default: faithful)"
    p.add_argument("--style", choices=("faithful", "compat"), default="faithful", help=text)
    text = "completion: ends where the assistant goes on; conversation: without that; training (default: completion)"
    modes = ("completion", "conversation", "training")
    p.add_argument("--for", dest="mode", choices=modes, default="completion", help=text)
    p.add_argument(
        "--keep-analysis", action="store_true", help="do not drop the reasoning of finished turns"
    )
    p.add_argument("--chat", action="store_true", help="FILE is a chat-completions request")
    text = "of --chat: YYYY-MM-DD, today or none (default: today)"
    p.add_argument("--date", default="today", type=arguments.day, metavar="DATE", help=text)
    shown = p.add_mutually_exclusive_group()
    shown.add_argument("--tokens", action="store_true", help="one token a line: place, id, text")
    shown.add_argument(
        "--json", action="store_true", help="one JSON object: text, ids, and the mask of training"
    )
    _tokenizer(p)
    about = "Tokens, or text, as the messages they stand for, with what had to be repaired."
    p = verbs.add_parser(
        "parse", help=about, description=about, epilog=PARSE, formatter_class=arguments.Help
    )
    p.set_defaults(run=commands.harmony_parse)
    p.add_argument(
        "file",
        nargs="?",
        default="-",
        metavar="FILE",
        help="text or a JSON list of ids (default: stdin)",
    )
    p.add_argument(
        "--ids", type=arguments.token_ids, metavar="1,2,3", help="token ids, instead of FILE"
    )
    text = (
        "whose message the stream goes on with; none: it begins with <|start|> (default: found out)"
    )
    roles = ("auto", "none", "assistant", "user", "system", "developer", "tool")
    p.add_argument("--role", choices=roles, default="auto", metavar="ROLE", help=text)
    p.add_argument(
        "--strict", action="store_true", help="as the official package: errors instead of repairs"
    )
    _tokenizer(p)


def _tokenizer(p: argparse.ArgumentParser) -> None:
    text = "o200k_harmony, nano, or a folder with a tokenizer.json (default: o200k_harmony)"
    p.add_argument("--tokenizer", default="o200k_harmony", metavar="NAME", help=text)
