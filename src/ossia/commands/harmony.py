"""`ossia harmony`: a conversation as the tokens that a model reads, and tokens as the messages that
they say.

Knows Harmony; loads no model and no torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ossia import hub
from ossia.commands.display import CYAN, DIM, GREEN, RESET, YELLOW, is_styled, visible
from ossia.commands.options import Command, Day, Group, TokenIds, argument, option
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
EPILOG = """\
examples:
  ossia harmony render conversation.json             the prompt, as text
  ossia harmony render request.json --chat --tokens  from a chat-completions request, token by token
  ossia harmony parse < sampled.txt                  what a model said, as messages, and the repairs

Special tokens are written by their names, such as <|start|>. `render` takes what `parse` prints.
"""
RENDER = """\
FILE holds {"messages": [...]}, or just the list. A message is {"role", "content", "name"?,
"channel"?, "recipient"?, "content_type"?}, the JSON form of the official Harmony package. With
--chat it is the body of a chat-completions request instead: "messages", and perhaps "tools" and
"reasoning_effort".

styles:
  faithful   as the published models read and write: see docs/harmony.md
  compat     token for token what the official package gives, its defects included

In a terminal special tokens are cyan, headers yellow, reasoning dim, what is learned (--for
training) green, and every message begins a line. In a pipe the text is exact. The number of tokens
goes to stderr.

examples:
  ossia harmony render conversation.json
  ossia harmony render conversation.json --style compat --json > compat.json
  ossia harmony render conversation.json --for training --tokens
  ossia harmony render request.json --chat --tokenizer nano --date 2025-08-05
"""
PARSE = """\
FILE holds text, in which names such as <|channel|> are special tokens, or a JSON list of token ids.
Prints one JSON object: "messages", and "repairs", each with the position of the token, the kind and
what was seen. --strict reads as the official package does, and stops with its error.

examples:
  ossia harmony parse sampled.txt
  ossia harmony parse --ids 200005,17196,200008,12194,200002
  echo '<|channel|>final json<|message|>{}<|return|>' | ossia harmony parse --strict
"""


def _tokenizer_option() -> str:
    return option(O200K, f"{O200K}, nano, or a folder with a tokenizer.json", "NAME")


@dataclass(frozen=True)
class RenderOptions:
    """What `ossia harmony render` takes."""

    file: str = argument("a conversation in JSON (default: stdin)", "FILE", "-")
    style: Literal["faithful", "compat"] = option("faithful", "faithful or compat, see below")
    for_: Literal["completion", "conversation", "training"] = option(
        "completion",
        "completion: ends where the assistant goes on; conversation: without that; training",
    )
    keep_analysis: bool = option(False, "do not drop the reasoning of finished turns")
    chat: bool = option(False, "FILE is a chat-completions request")
    date: Day = option("today", "of --chat: YYYY-MM-DD, today or none", "DATE")
    tokens: bool = option(False, "one token a line: place, id, text", one_of="form")
    json: bool = option(
        False, "one JSON object: text, ids, and the mask of training", one_of="form"
    )
    tokenizer: str = _tokenizer_option()


Author = Literal["assistant", "user", "system", "developer", "tool"]
RoleWord = Literal["auto", "none", "assistant", "user", "system", "developer", "tool"]


@dataclass(frozen=True)
class ParseOptions:
    """What `ossia harmony parse` takes."""

    file: str = argument("text or a JSON list of ids (default: stdin)", "FILE", "-")
    ids: TokenIds | None = option(None, "token ids, instead of FILE", "1,2,3")
    role: RoleWord = option(
        "auto",
        "whose message the stream goes on with; none: it begins with <|start|>",
        "ROLE",
        shown="found out",
    )
    strict: bool = option(False, "as the official package: errors instead of repairs")
    tokenizer: str = _tokenizer_option()


def render(options: RenderOptions) -> None:
    """Print a conversation's tokens: as text, as a table, or as JSON."""
    tokenizer = _tokenizer(options.tokenizer)
    rendered = _rendered(_conversation(options), tokenizer, options)
    if options.json:
        _print_json(rendered, tokenizer, options)
        return
    if options.tokens:
        _print_table(rendered, tokenizer, options.for_ == "training")
    elif is_styled(sys.stdout):
        print("".join(_coloured(rendered, tokenizer)))
    else:
        _print(tokenizer.decode(rendered.ids))
    print(f"{len(rendered.ids)} tokens", file=sys.stderr)


def _print_json(rendered: Rendered, tokenizer: Tokenizer, options: RenderOptions) -> None:
    found: dict[str, Any] = {"text": tokenizer.decode(rendered.ids), "ids": rendered.ids}
    if options.for_ == "training":
        found["mask"] = rendered.mask
    _print(json.dumps(found, ensure_ascii=False))


def parse(options: ParseOptions) -> None:
    """Print the messages that tokens or text stand for, and what had to be repaired, as JSON."""
    tokenizer = _tokenizer(options.tokenizer)
    ids = list(options.ids or ())
    if options.ids is None:
        ids = _stream(_text(options.file), tokenizer)
    parser = StreamParser(tokenizer, _role(options.role, ids, tokenizer), strict=options.strict)
    parser.feed(ids)
    parser.finish()
    repairs = [{"position": r.position, "kind": r.kind, "seen": r.seen} for r in parser.repairs]
    found = {"messages": [message.to_dict() for message in parser.messages], "repairs": repairs}
    _print(json.dumps(found, indent=2, ensure_ascii=False))


def _role(given: RoleWord, ids: list[int], tokenizer: Tokenizer) -> Author | None:
    """Whose message goes on at the first token; None if that begins a message."""
    if given == "auto":
        begins = ids[:1] == [tokenizer.special("<|start|>")]
        return None if begins else "assistant"
    return None if given == "none" else given


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
        f"there is no folder {name!r} with a tokenizer.json; use {O200K}, nano or the folder of a "
        "model you have"
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


def _conversation(options: RenderOptions) -> Conversation:
    try:
        data = json.loads(_text(options.file))
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        raise RequestError(f"{options.file}: not JSON: {error}") from error
    if isinstance(data, list):
        data = {"messages": data}
    try:
        if options.chat:
            return _from_request(data, options.date)
        return Conversation.from_dict(data)
    except HarmonyError as error:
        raise RequestError(f"{options.file}: {error}") from error


def _from_request(data: Any, date: str | None) -> Conversation:
    request = as_object(data, "a request")
    if request.get("messages") is None:
        raise HarmonyError("a request needs a list under the key 'messages'")
    system = SystemContent(current_date=date, effort=request.get("reasoning_effort") or "medium")
    return Conversation.from_chat(request["messages"], system=system, tools=request.get("tools"))


def _rendered(conversation: Conversation, tokenizer: Tokenizer, options: RenderOptions) -> Rendered:
    how: dict[str, Any] = {"style": options.style, "drop_analysis": not options.keep_analysis}
    if options.for_ == "training":
        return render_for_training(conversation, tokenizer, **how)
    write = render_for_completion if options.for_ == "completion" else render_conversation
    ids = write(conversation, tokenizer, **how)
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


STYLES = {"special": CYAN, "header": YELLOW, "reasoning": DIM, "learned": GREEN, "text": ""}


def _coloured(rendered: Rendered, tokenizer: Tokenizer) -> Iterator[str]:
    """The text for a terminal: a message begins on a line of its own, special tokens cyan, headers
    yellow, reasoning dim, and what is learned in training green.
    """
    for number, (kind, ids) in enumerate(_runs(rendered, tokenizer)):
        if ids[0] == tokenizer.special("<|start|>") and number:
            yield "\n"
        style = STYLES[kind]
        text = visible(tokenizer.decode(ids))
        yield f"{style}{text}{RESET}" if style else text


def _runs(rendered: Rendered, tokenizer: Tokenizer) -> Iterator[tuple[str, list[int]]]:
    """(what they are, neighbouring ids of that kind); special tokens one by one."""
    run: list[int] = []
    before = ""
    for kind, token in zip(_kinds(rendered, tokenizer), rendered.ids, strict=True):
        if run and (kind != before or kind == "special"):
            yield before, run
            run = []
        run.append(token)
        before = kind
    if run:
        yield before, run


def _kinds(rendered: Rendered, tokenizer: Tokenizer) -> Iterator[str]:
    """What each token is: a key of STYLES."""
    names = {token: name for name, token in tokenizer.specials.items()}
    analysis = tokenizer.encode("analysis")
    place = "text"
    channel: list[int] = []
    for token, learned in zip(rendered.ids, rendered.mask, strict=True):
        name = names.get(token)
        match name:
            case "<|start|>":
                place = "header"
                channel = []
            case "<|message|>":
                place = "reasoning" if channel[: len(analysis)] == analysis else "text"
            case "<|channel|>":
                channel = []
            case _ if place == "header":
                channel.append(token)
        if name:
            yield "special"
        elif learned and place != "header":
            yield "learned"
        else:
            yield place


def _print_table(rendered: Rendered, tokenizer: Tokenizer, training: bool) -> None:
    """One token a line: its place, its id, its text, and in training whether it is learned."""
    for place, (token, learned) in enumerate(zip(rendered.ids, rendered.mask, strict=True)):
        text = json.dumps(_shown(token, tokenizer), ensure_ascii=False)
        note = "  learned" if training and learned else ""
        _print(f"{place:7} {token:7}  {text}{note}")


def _shown(token: int, tokenizer: Tokenizer) -> str:
    """A token's text; bytes that are no character by themselves as `\\xNN`."""
    return tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")


COMMAND = Group(
    {
        "render": (
            "A conversation as the tokens that a model reads.",
            Command(RenderOptions, render, RENDER),
        ),
        "parse": (
            "Tokens, or text, as the messages they stand for, with what had to be repaired.",
            Command(ParseOptions, parse, PARSE),
        ),
    },
    EPILOG,
)
