"""Rendering, streaming parse, decoding and loading of Harmony, ours against the official package
and tiktoken.

    python bench/harmony.py [--tokens 100000] [--rounds 7]

One conversation of about that many tokens: user turns, reasoning, calls with JSON, tool results and
answers, texts cut from this repository. Both packages get their own message objects, built
beforehand, and must give the same ids. The streaming parse reads, for every token, the text it
released and the header fields, as a server does. Decoding is beside tiktoken's own, all ids at once
and one by one. Loading is a fresh process each: import, load, first encode; neither side has a
cache, so every load is a first one. Sides take turns; printed are medians of processor time, their
ratio, and the smallest and largest ratio of a round. At last what it costs to add a message to a
rendered history, by its length.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import openai_harmony
import tiktoken

from ossia.harmony import (
    CONSTRAIN,
    Conversation,
    DeveloperContent,
    FunctionTool,
    Message,
    RenderedHistory,
    StreamParser,
    Style,
    SystemContent,
    TextDelta,
    render_conversation,
)
from ossia.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent
SCHEMA = {
    "type": "object",
    "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
}
LOAD_OURS = "from ossia.tokenizer import Tokenizer; Tokenizer.o200k_harmony().encode('Hello')"
LOAD_PEER = (
    "from openai_harmony import *; "
    "load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS).encode('Hello', "
    "disallowed_special=())"
)


def conversation(tokens: int) -> Conversation:
    """Turns of five messages with texts of 100 to 2,000 characters, until there are about `tokens`
    tokens.
    """
    files = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.py")])
    text = "\n".join(path.read_text() for path in files)
    rng = Random(0)

    def piece() -> str:
        begin = rng.randrange(len(text) - 2000)
        return text[begin : begin + rng.choice((100, 300, 800, 2000))]

    tool = FunctionTool("search", "Searches the documents.", SCHEMA)
    messages = [
        Message("system", SystemContent()),
        Message("developer", DeveloperContent("Be exact.", (tool,))),
    ]
    characters = 0
    while characters < tokens * 3.6:
        arguments = json.dumps({"query": piece(), "limit": rng.randrange(50)}, ensure_ascii=False)
        turn = [
            Message("user", piece()),
            Message("assistant", piece(), channel="analysis"),
            Message(
                "assistant", arguments, None, "commentary", "functions.search", CONSTRAIN + "json"
            ),
            Message("tool", piece(), "functions.search", "commentary", "assistant"),
            Message("assistant", piece(), channel="final"),
        ]
        characters += sum(len(message.text) for message in turn)
        messages += turn
    return Conversation(tuple(messages))


def parse_ours(ids: list[int], tokenizer: Tokenizer) -> int:
    parser, characters = StreamParser(tokenizer, None), 0
    for token in ids:
        for event in parser.feed(token):
            if isinstance(event, TextDelta):
                characters += len(event.text)
    parser.finish()
    return characters


def parse_peer(ids: list[int], encoding: Any) -> int:
    parser, characters = openai_harmony.StreamableParser(encoding, None), 0
    for token in ids:
        parser.process(token)
        _ = parser.current_role, parser.current_channel, parser.current_recipient
        if delta := parser.last_content_delta:
            characters += len(delta)
    return characters


def parse_peer_deltas(ids: list[int], encoding: Any) -> int:
    parser, characters = openai_harmony.StreamableParser(encoding, None), 0
    for token in ids:
        parser.process(token)
        if delta := parser.last_content_delta:
            characters += len(delta)
    return characters


def tiktoken_of(tokenizer: Tokenizer) -> tiktoken.Encoding:
    vocabulary, specials = dict(tokenizer.vocabulary), dict(tokenizer.specials)
    return tiktoken.Encoding(
        "o200k", pat_str=tokenizer.pattern, mergeable_ranks=vocabulary, special_tokens=specials
    )


def one_by_one(decode: Callable[[list[int]], str], ids: list[int]) -> None:
    for token in ids:
        decode([token])


def fresh_process(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def processor_seconds() -> float:
    """Of this process and of those it waited for: other work on the machine disturbs them less than
    a clock.
    """
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def compare(
    what: str, ours: Callable[[], object], peer: Callable[[], object], rounds: int, tokens: int = 0
) -> None:
    """Take turns, and print a row: medians in ms, peer : ours, and tokens per second of ours."""
    times: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        pair = [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):
            began = processor_seconds()
            (ours, peer)[side]()
            pair[side] = processor_seconds() - began
        times.append((pair[0], pair[1]))
    times = times[1:]  # the first round warms up
    ratios = [b / a for a, b in times]
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    speed = f"{tokens / a / 1e6:8.2f}" if tokens else " " * 8
    spread = f"{min(ratios):.2f} - {max(ratios):.2f}"
    print(
        f"{what:<34}{a * 1e3:9.1f}{b * 1e3:9.1f}{statistics.median(ratios):8.2f}   "
        f"{spread:<15}{speed}"
    )


def appends(tokenizer: Tokenizer, style: Style) -> None:
    """The mean cost of the messages of a turn, appended one by one to histories of turns of six
    messages.
    """
    turn = [
        Message("user", "how many?"),
        Message("assistant", "I should look it up", channel="analysis"),
        Message("assistant", "{}", None, "commentary", "functions.f", CONSTRAIN + "json"),
        Message("tool", "41", "functions.f", "commentary", "assistant"),
        Message("assistant", "now add one", channel="analysis"),
        Message("assistant", "42", channel="final"),
    ]
    for length in (18, 1_002, 16_002):
        history = RenderedHistory(tokenizer, style=style)
        history.append(turn * (length // len(turn)))
        times = []
        for _ in range(20):
            began = time.thread_time()
            for message in turn:
                history.append([message])
            times.append((time.thread_time() - began) / len(turn))
        print(f"append to {length:6} messages, {style:<10}{statistics.median(times) * 1e6:9.1f} us")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tokens", type=int, default=100_000, help="about how long (default: 100000)"
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="how often each side runs (default: 7)"
    )
    args = parser.parse_args()
    tokenizer = Tokenizer.o200k_harmony()
    encoding = openai_harmony.load_harmony_encoding(
        openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS
    )
    talk = conversation(args.tokens)
    peers = openai_harmony.Conversation.from_json(json.dumps(talk.to_dict()))
    keep = openai_harmony.RenderConversationConfig(auto_drop_analysis=False)

    def render_ours() -> list[int]:
        return render_conversation(talk, tokenizer, style="compat", drop_analysis=False)

    def render_peer() -> Any:
        return encoding.render_conversation(peers, config=keep)

    ids = render_ours()
    assert ids == render_peer() and parse_ours(ids, tokenizer) == parse_peer(ids, encoding)
    print(f"{len(ids)} tokens, {len(talk.messages)} messages, oss-harmony {_version()}\n")
    print(f"{'':<34}{'ours ms':>9}{'peer ms':>9}{'ratio':>8}   {'of rounds':<15}{'M tok/s':>8}")
    compare("render", render_ours, render_peer, args.rounds, len(ids))
    rows = {"deltas and header fields": parse_peer, "deltas only (of the peer)": parse_peer_deltas}
    for name, peer in rows.items():
        compare(
            f"parse, {name}",
            lambda: parse_ours(ids, tokenizer),
            lambda peer=peer: peer(ids, encoding),  # type: ignore[misc]
            args.rounds,
            len(ids),
        )
    theirs = tiktoken_of(tokenizer)
    compare(
        "decode", lambda: tokenizer.decode(ids), lambda: theirs.decode(ids), args.rounds, len(ids)
    )
    compare(
        "decode, one by one",
        lambda: one_by_one(tokenizer.decode, ids),
        lambda: one_by_one(theirs.decode, ids),
        args.rounds,
        len(ids),
    )
    compare(
        "load, fresh process",
        lambda: fresh_process(LOAD_OURS),
        lambda: fresh_process(LOAD_PEER),
        args.rounds,
    )
    print()
    for style in ("faithful", "compat"):
        appends(tokenizer, style)


def _version() -> str:
    from importlib.metadata import version

    return version("oss-harmony")


if __name__ == "__main__":
    main()
