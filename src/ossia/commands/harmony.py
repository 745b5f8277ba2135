"""`ossia harmony`: a conversation as the tokens that a model reads, and tokens as the messages that
they say.

Knows the command's arguments as `commands/main.py` names them, and Harmony; loads no model and no
torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from ossia import hub
from ossia.commands.display import CYAN, DIM, GREEN, RESET, YELLOW, is_styled, visible
from ossia.errors import HarmonyError, RequestError
from ossia.harmony import (
    Conversation,
    Rendered,
    StreamParser,
    SystemContent,
    render_conversation,
    render_for_completion,
    render_for_training,
)
from ossia.harmony.messages import as_object
from ossia.tokenizer import Tokenizer

O200K = "o200k_harmony"


def render(args: argparse.Namespace) -> None:
    """Print a conversation's tokens: as text, as a table, or as JSON."""
    tokenizer = _tokenizer(args.tokenizer)
    rendered = _rendered(_conversation(args), tokenizer, args)
    if args.json:
        mask = {"mask": rendered.mask} if args.mode == "training" else {}
        _print(
            json.dumps(
                {"text": tokenizer.decode(rendered.ids), "ids": rendered.ids} | mask,
                ensure_ascii=False,
            )
        )
        return
    if args.tokens:
        _print_table(rendered, tokenizer, args.mode == "training")
    elif is_styled(sys.stdout):
        print("".join(_coloured(rendered, tokenizer)))
    else:
        _print(tokenizer.decode(rendered.ids))
    print(f"{len(rendered.ids)} tokens", file=sys.stderr)


def parse(args: argparse.Namespace) -> None:
    """Print the messages that tokens or text stand for, and what had to be repaired, as JSON."""
    tokenizer = _tokenizer(args.tokenizer)
    ids = args.ids if args.ids is not None else _stream(_text(args.file), tokenizer)
    role = args.role
    if role == "auto":
        role = None if ids[:1] == [tokenizer.special("<|start|>")] else "assistant"
    parser = StreamParser(tokenizer, None if role == "none" else role, strict=args.strict)
    parser.feed(ids)
    parser.finish()
    repairs = [{"position": r.position, "kind": r.kind, "seen": r.seen} for r in parser.repairs]
    found = {"messages": [message.to_dict() for message in parser.messages], "repairs": repairs}
    _print(json.dumps(found, indent=2, ensure_ascii=False))


def _print(text: str) -> None:
    """Prints a text, in a terminal with its controls made harmless, colours or not."""
    print(visible(text) if sys.stdout.isatty() else text)


def _tokenizer(name: str) -> Tokenizer:
    """The published models have o200k_harmony; downloading one for its tokenizer would fetch its
    weights too.
    """
    if name == "nano" or (name != O200K and Path(name).expanduser().exists()):
        return Tokenizer.from_pretrained(hub.find(name))
    if name in (O200K, *hub.HUB_IDS, *hub.HUB_IDS.values()):
        return Tokenizer.o200k_harmony()
    raise RequestError(
        f"there is no folder {name!r} with a tokenizer.json; use {O200K}, nano or the folder of a model you have"
    )


def _text(file: str) -> str:
    """What a file, or stdin for `-`, holds."""
    if file != "-":
        try:
            return Path(file).read_text(encoding="utf-8")
        except OSError as error:
            raise RequestError(f"{file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise RequestError(
                f"{file}: byte {error.start} is not UTF-8; is it a text file?"
            ) from error
    if sys.stdin.isatty():
        print("reading from the terminal; Ctrl-D ends it", file=sys.stderr)
    return sys.stdin.read()


def _conversation(args: argparse.Namespace) -> Conversation:
    try:
        data = json.loads(_text(args.file))
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        raise RequestError(f"{args.file}: not JSON: {error}") from error
    data = {"messages": data} if isinstance(data, list) else data
    try:
        return _from_request(data, args.date) if args.chat else Conversation.from_dict(data)
    except HarmonyError as error:
        raise RequestError(f"{args.file}: {error}") from error


def _from_request(data: Any, date: str | None) -> Conversation:
    request = as_object(data, "a request")
    if request.get("messages") is None:
        raise HarmonyError("a request needs a list under the key 'messages'")
    system = SystemContent(current_date=date, effort=request.get("reasoning_effort") or "medium")
    return Conversation.from_chat(request["messages"], system=system, tools=request.get("tools"))


def _rendered(
    conversation: Conversation, tokenizer: Tokenizer, args: argparse.Namespace
) -> Rendered:
    options: dict[str, Any] = {"style": args.style, "drop_analysis": not args.keep_analysis}
    if args.mode == "training":
        return render_for_training(conversation, tokenizer, **options)
    write = render_for_completion if args.mode == "completion" else render_conversation
    ids = write(conversation, tokenizer, **options)
    return Rendered(ids, [False] * len(ids))


def _stream(text: str, tokenizer: Tokenizer) -> list[int]:
    """A JSON list of ids, or text in which the names of special tokens are those tokens."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if isinstance(data, list) and all(type(item) is int for item in data):
        return data
    return tokenizer.encode_with_specials(text.removesuffix("\n"))


def _coloured(rendered: Rendered, tokenizer: Tokenizer) -> Iterator[str]:
    """The text for a terminal: a message begins on a line of its own, special tokens cyan, headers
    yellow, reasoning dim, and what is learned in training green.
    """
    for number, (kind, ids) in enumerate(_runs(rendered, tokenizer)):
        if ids[0] == tokenizer.special("<|start|>") and number:
            yield "\n"
        style = {"special": CYAN, "header": YELLOW, "reasoning": DIM, "learned": GREEN, "text": ""}[
            kind
        ]
        text = visible(tokenizer.decode(ids))
        yield f"{style}{text}{RESET}" if style else text


def _runs(rendered: Rendered, tokenizer: Tokenizer) -> Iterator[tuple[str, list[int]]]:
    """(what they are, neighbouring ids of that kind); special tokens one by one."""
    kinds = _kinds(rendered, tokenizer)
    numbered = enumerate(zip(kinds, rendered.ids, strict=True))
    for (kind, _), run in groupby(
        numbered, lambda item: (item[1][0], item[0] if item[1][0] == "special" else 0)
    ):
        yield kind, [token for _, (_, token) in run]


def _kinds(rendered: Rendered, tokenizer: Tokenizer) -> Iterator[str]:
    names = {token: name for name, token in tokenizer.specials.items()}
    analysis = tokenizer.encode("analysis")
    place, channel = "text", list[int]()
    for token, learned in zip(rendered.ids, rendered.mask, strict=True):
        name = names.get(token)
        if name == "<|start|>":
            place, channel = "header", []
        elif name == "<|message|>":
            place = "reasoning" if channel[: len(analysis)] == analysis else "text"
        elif name == "<|channel|>":
            channel = []
        elif place == "header":
            channel.append(token)
        yield "special" if name else "learned" if learned and place != "header" else place


def _print_table(rendered: Rendered, tokenizer: Tokenizer, training: bool) -> None:
    """One token a line: its place, its id, its text, and in training whether it is learned."""
    for place, (token, learned) in enumerate(zip(rendered.ids, rendered.mask, strict=True)):
        text = json.dumps(_shown(token, tokenizer), ensure_ascii=False)
        _print(f"{place:7} {token:7}  {text}{'  learned' if training and learned else ''}")


def _shown(token: int, tokenizer: Tokenizer) -> str:
    """A token's text; bytes that are no character by themselves as `\\xNN`."""
    return tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")
