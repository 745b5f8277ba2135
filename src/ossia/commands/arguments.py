"""What the commands' options have in common: kinds of values, groups that several commands have,
the form of help.

Knows argparse. No torch, and nothing of what a command does.
"""

from __future__ import annotations

import argparse
import re
from datetime import date
from typing import Any


class Help(argparse.RawDescriptionHelpFormatter):
    """Texts as they are written, options in a column of their own."""

    def __init__(self, prog: str, **given: Any) -> None:
        super().__init__(prog, max_help_position=28, **given)


# ---- groups ----


def model(p: argparse.ArgumentParser) -> None:
    text = "nano, a folder, gpt-oss-20b, gpt-oss-120b or a Hugging Face id (default: nano)"
    p.add_argument("model", nargs="?", default="nano", metavar="MODEL", help=text)


def computing(p: argparse.ArgumentParser) -> Any:
    group = p.add_argument_group("computing")
    text = "what to compute in (default: bfloat16)"
    group.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help=text)
    group.add_argument(
        "--device", default="cpu", help="cpu, cuda, or cuda:1 and so on (default: cpu)"
    )
    text = "attention and unembedding: bf16 as published, exact; or int8, half the bytes (default: bf16)"
    group.add_argument("--dense", choices=("bf16", "int8"), default="bf16", help=text)
    text = "what experts' MXFP4 weights are multiplied with: bf16, exact; or int8, faster (default: bf16)"
    group.add_argument("--activations", choices=("bf16", "int8"), default="bf16", help=text)
    text = "keys and values in the cache: bf16, or int8, half the memory (default: bf16)"
    group.add_argument("--kv", choices=("bf16", "int8"), default="bf16", help=text)
    text = "map: weights stay in the file; promote: they move to memory while answers flow; copy: before the first "
    text += "answer (default: promote). No answer depends on it"
    group.add_argument(
        "--load", dest="loading", choices=("map", "promote", "copy"), default="promote", help=text
    )
    text = "of the CPU (default: as many as there are cores)"
    group.add_argument("--threads", type=positive, metavar="N", help=text)
    text = "memory for keys and values, such as 4GiB (default: half of what the weights leave free)"
    group.add_argument("--kv-memory", type=byte_count, metavar="SIZE", help=text)
    return group


def sampling(p: argparse.ArgumentParser, max_tokens: int | None) -> None:
    group = p.add_argument_group(
        "sampling", "What is not given is the model's own, else the default."
    )
    text = "0: always the likeliest token (default: 1)"
    group.add_argument("--temperature", type=float, metavar="X", help=text)
    text = "draw from the likeliest tokens that together have probability X (default: 1)"
    group.add_argument("--top-p", type=float, metavar="X", help=text)
    text = "draw from the N likeliest tokens; 0: from all (default: 0)"
    group.add_argument("--top-k", type=int, metavar="N", help=text)
    text = "draw from tokens at least X times as likely as the likeliest (default: 0)"
    group.add_argument("--min-p", type=float, metavar="X", help=text)
    text = "the same seed draws the same tokens (default: a new one every time)"
    group.add_argument("--seed", type=int, metavar="N", help=text)
    text = f"sample at most N tokens (default: {max_tokens or 'until the context is full'})"
    group.add_argument("--max-tokens", type=int, default=max_tokens, metavar="N", help=text)


# ---- kinds of values ----


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, at least 1, found {text!r}")
    return int(text)


def byte_count(text: str) -> int:
    """ "4GiB", "512M", "1.5 GB" or a number of bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"expected a size such as 4GiB or 512MB, found {text!r}")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgt".index(match[2].lower() or " "))


def port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 65535, found {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """ "500ms", "30s", "15min", "12h", "30d" or a number of seconds."""
    units = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
    match = re.fullmatch(r"\s*(\d{1,12}(?:\.\d+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    if match is None or match[2].lower() not in units:
        raise argparse.ArgumentTypeError(
            f"expected a time such as 30s, 15min, 12h or 30d, found {text!r}"
        )
    return float(match[1]) * units[match[2].lower()]


def token_ids(text: str) -> list[int]:
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers between commas, found {text!r}"
        ) from None


def day(text: str) -> str | None:
    if text == "none":
        return None
    try:
        return (date.today() if text == "today" else date.fromisoformat(text)).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected YYYY-MM-DD, today or none, found {text!r}"
        ) from None
