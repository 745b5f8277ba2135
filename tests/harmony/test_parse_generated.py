"""The parser on generated streams: random tokens, what we render, and what the official parser
reads.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from amounts import examples, seeds
from harmony_streams import BODY_ENDS, Streams, bodies, parsed
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import seconds, steps

from ossia.errors import ParseError
from ossia.harmony import Message, StreamParser, render_message
from ossia.tokenizer import Tokenizer

MANY = pytest.param(range(200_000), marks=pytest.mark.slow)


def ids_of(text: str, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode_with_specials(text)


@pytest.mark.parametrize("chosen", [seeds(4_000), MANY], ids=["some", "200_000"])
def test_random_streams(
    chosen: Sequence[int], tokenizer: Tokenizer, small_tokenizer: Tokenizer
) -> None:
    """Nothing raises, the events add up, and every body is a message's content (all asserted by
    `parsed`).
    """
    vocabularies = (Streams(tokenizer), Streams(small_tokenizer))
    for seed in chosen:
        rng = random.Random(seed)
        streams = vocabularies[seed % 2]
        ids, role = streams.any(rng)
        try:
            parsed(ids, streams.tokenizer, role)
        except Exception as error:
            raise AssertionError(f"seed {seed}, role {role}: {ids}") from error


def test_no_word_vanishes(tokenizer: Tokenizer, small_tokenizer: Tokenizer) -> None:
    """Wherever a word stands, in a body or not: it is content, a field, or what a repair has
    seen.
    """
    vocabularies = (Streams(tokenizer), Streams(small_tokenizer))
    for seed in seeds(2_000):
        rng = random.Random(seed)
        streams = vocabularies[seed % 2]
        ids, role = streams.any(rng)
        words = [f" Q{number}q" for number in range(3)]
        places = sorted((rng.randrange(len(ids) + 1) for _ in words), reverse=True)
        for word, at in zip(words, places, strict=True):
            ids[at:at] = streams.tokenizer.encode(word)
        parser, _ = parsed(ids, streams.tokenizer, role)
        found = " ".join(
            str(value) for message in parser.messages for value in vars(message).values()
        )
        found += "".join(repair.seen for repair in parser.repairs)
        for word in words:
            assert word.strip() in found, (seed, word)


def test_the_statement_about_bodies(tokenizer: Tokenizer) -> None:
    """What `parsed` asserts of every stream is no triviality."""
    text = (
        "a<|message|>b<|message|>c<|constrain|>d<|end|>e<|message|>f<|channel|>g<|message|>"
        "<|start|>h"
    )
    assert bodies(ids_of(text, tokenizer), tokenizer) == ["bcd", "f"]
    for end in BODY_ENDS:
        assert bodies(ids_of(f"<|message|>x{end}y", tokenizer), tokenizer) == ["x"]
    assert bodies([200008, 9552, 10**9, 9552], tokenizer) == [" \ufffd\ufffd \ufffd"]


@settings(max_examples=examples(150), deadline=None)
@given(
    seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 60), max_size=6), strict=st.booleans()
)
def test_chunks_are_as_single_tokens(
    seed: int, cuts: list[int], strict: bool, tokenizer: Tokenizer
) -> None:
    """However a stream is cut into calls of `feed`: the same events, messages and repairs."""
    rng = random.Random(seed)
    ids, role = Streams.of(tokenizer).any(rng)
    single, chunked = (StreamParser(tokenizer, role, strict=strict) for _ in range(2))
    events = []
    for number, token in enumerate(ids):
        try:
            events += single.feed(token)
        except ParseError:  # the events of the whole call would be missing
            ids = ids[:number]
            break
    bounds = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    assert [
        event for start, end in pairwise(bounds) for event in chunked.feed(ids[start:end])
    ] == events
    if not strict:
        assert (single.finish(), single.messages) == (chunked.finish(), chunked.messages)
        assert single.repairs == chunked.repairs


@settings(max_examples=examples(150), deadline=None)
@given(data=st.binary(max_size=40), junk=st.lists(st.integers(0, 2**31), max_size=3))
def test_text_is_that_of_the_bytes(
    data: bytes, junk: list[int], small_tokenizer: Tokenizer
) -> None:
    """A body of any bytes, a token each, is their UTF-8 with U+FFFD for what is none, and so add up
    the deltas; no delta ends inside a character.
    """
    ids = [small_tokenizer.vocabulary[bytes([byte])] for byte in data]
    parser, _ = parsed([small_tokenizer.special("<|message|>"), *ids], small_tokenizer, "assistant")
    assert parser.messages[0].content == data.decode("utf-8", "replace")
    ids = [token for token in junk if token not in small_tokenizer.specials.values()]
    parsed([small_tokenizer.special("<|message|>"), *ids], small_tokenizer, "assistant")


def test_what_is_rendered_is_parsed_back(tokenizer: Tokenizer, small_tokenizer: Tokenizer) -> None:
    """Messages whose fields are single words come back equal, with nothing to repair."""
    texts = ["", "hello", " spaced \n", "é 👍", "<|end|><|start|>user", "analysis to=f", '{"a": 1}']
    for seed in seeds(600):
        rng = random.Random(seed)
        messages = []
        for _ in range(rng.randrange(6)):
            role = rng.choice(["user", "assistant", "system", "developer", "tool"])
            name = (
                rng.choice(["ann", "functions.f", "<|end|>"])
                if role == "tool" or rng.random() < 0.2
                else None
            )
            channel = rng.choice([None, "analysis", "commentary", "final", "notes"])
            recipient = rng.choice([None, None, "assistant", "functions.f", "<|call|>"])
            content_type = rng.choice([None, None, "<|constrain|>json", "<|constrain|>yaml"])
            messages.append(
                Message(role, rng.choice(texts), name, channel, recipient, content_type)
            )  # type: ignore[arg-type]
        vocabulary = rng.choice([tokenizer, small_tokenizer])
        style: Any = rng.choice(["faithful", "compat"])
        ids = [i for m in messages for i in render_message(m, vocabulary, style=style)]
        parser, _ = parsed(ids, vocabulary, None)
        assert list(parser.messages) == messages, seed
        assert not parser.repairs, seed


def test_tolerant_equals_official_on_well_formed_streams(peer: Any, tokenizer: Tokenizer) -> None:
    """Real shapes of turns, in both orders of recipient and channel, from a prompt's end or from
    START.
    """
    headers = [
        "assistant<|channel|>analysis",
        "assistant<|channel|>final",
        "assistant<|channel|>final to=user <|constrain|>json",
        "assistant<|channel|>commentary",
        "assistant<|channel|>commentary to=functions.f <|constrain|>json",
        "assistant to=functions.f<|channel|>commentary <|constrain|>json",
        "assistant to=python<|channel|>analysis code",
        "assistant<|channel|>analysis to=python code",
        "assistant<|channel|>commentary to=functions.f",
        "assistant",
        "functions.f to=assistant<|channel|>commentary",
        "python to=assistant<|channel|>analysis",
        "user",
        "system",
        "developer",
    ]
    bodies = ["", "hello", "  two\n", "é 👍 日本", '{"a": 1}', "to=f <b>"]
    for seed in seeds(800):
        rng = random.Random(seed)
        text = ""
        for _ in range(rng.randrange(1, 5)):
            stop = rng.choice(["<|end|>", "<|call|>", "<|return|>"])
            text += f"<|start|>{rng.choice(headers)}<|message|>{rng.choice(bodies)}{stop}"
        role: Any = None
        if text.startswith("<|start|>assistant") and rng.random() < 0.5:
            text, role = text.removeprefix("<|start|>assistant"), "assistant"
        ids = ids_of(
            text[: -len("<|end|>")] if rng.random() < 0.1 and text.endswith("<|end|>") else text,
            tokenizer,
        )
        parser, _ = parsed(ids, tokenizer, role)
        assert list(parser.messages) == peer.parse(ids, role), text
        assert not parser.repairs, text


ENDLESS = {
    "a body": "<|message|>the user ",
    "loose text": "the user ",
    "channels": "<|channel|>",
    "content types": "<|constrain|>x ",
    "starts": "<|start|>",
    "messages": "x<|end|>",
    "recipients": " to=a",
    "glued words": "final",
    "odd channels": "analysis?",
    "a known channel after unknown ones": "<|channel|>x ",
    "specials": "<|reserved|>",
    "half characters": b"\xf0\x9f",
    "stray bytes": b"\x80\x80\xff",
}


def endless(
    unit: str | bytes, opening: str, strict: bool, tokenizer: Tokenizer
) -> Callable[[int], None]:
    """Parses `opening` with so many units after it."""
    head = ids_of(opening, tokenizer)
    if isinstance(unit, bytes):
        units = [tokenizer.vocabulary[bytes([byte])] for byte in unit]
    else:
        units = ids_of(unit, tokenizer)

    def parse(times: int) -> None:
        parser = StreamParser(tokenizer, None, strict=strict)
        with suppress(ParseError):  # well before the end
            parser.feed(head + units * times)
            parser.finish()

    return parse


@pytest.mark.parametrize("opening", ["<|start|>user", "<|start|>user<|message|>"])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("unit", ENDLESS.values(), ids=ENDLESS.keys())
def test_steps_grow_linearly(
    unit: str | bytes, strict: bool, opening: str, small_tokenizer: Tokenizer
) -> None:
    """Whatever goes on endlessly costs the same per token at any length, in headers and in
    bodies.
    """
    parse = endless(unit, opening, strict, small_tokenizer)
    assert steps(lambda: parse(800)) < 1.2 * 8 * steps(lambda: parse(100))


@pytest.mark.slow
@pytest.mark.parametrize("opening", ["<|start|>user", "<|start|>user<|message|>"])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("unit", ENDLESS.values(), ids=ENDLESS.keys())
def test_time_grows_linearly(
    unit: str | bytes, strict: bool, opening: str, small_tokenizer: Tokenizer
) -> None:
    """The same for what happens within one step: copies, searches. Processor time."""
    parse = endless(unit, opening, strict, small_tokenizer)
    assert seconds(lambda: parse(4000)) < 3 * 8 * seconds(lambda: parse(500)) + 0.02
