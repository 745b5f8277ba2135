"""strict=True against the official parser: token by token, on streams well-formed and broken."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import openai_harmony
import pytest
from amounts import seeds
from harmony_streams import Streams, check_events

from ossia.errors import ParseError
from ossia.harmony import (
    Event,
    Message,
    MessageEnd,
    MessageStart,
    StreamParser,
    TextDelta,
    parse_completion,
)
from ossia.tokenizer import Tokenizer

MANY = pytest.param(range(20_000), marks=pytest.mark.slow)


@dataclass(frozen=True)
class Step:
    """What a parser shows after a token, or after the end: its error, the text released, the
    header, the messages.
    """

    error: str | None
    delta: str | None
    role: str | None
    channel: str | None
    recipient: str | None
    content_type: str | None
    messages: tuple[Message, ...]


def official_trace(encoding: Any, ids: list[int], role: str | None) -> list[Step]:
    known = None if role is None else openai_harmony.Role(role)
    parser = openai_harmony.StreamableParser(
        openai_harmony.HarmonyEncoding(encoding), known, strict=True
    )
    steps = []
    for token in [*ids, None]:
        error = None
        try:
            parser.process_eos() if token is None else parser.process(token)
        except openai_harmony.HarmonyError as raised:
            error = str(raised)
        messages = tuple(
            Message.from_dict(message) for message in json.loads(parser._inner.messages)
        )
        header = (parser.current_channel, parser.current_recipient, parser.current_content_type)
        steps.append(
            Step(error, parser.last_content_delta, parser._inner.current_role, *header, messages)
        )
    return steps


def our_trace(tokenizer: Tokenizer, ids: list[int], role: Any) -> list[Step]:
    """The official parser reports no delta at a message's end, so the one that we add there is left
    out; that it completes the content is asserted.
    """
    parser = StreamParser(tokenizer, role, strict=True)
    steps, told = [], []
    for token in [*ids, None]:
        error, events = None, list[Event]()
        try:
            events = parser.finish() if token is None else parser.feed(token)
        except ParseError as raised:
            error = str(raised)
        told.append(events)
        ended = any(isinstance(event, MessageEnd) for event in events)
        delta = "".join(
            event.text for event in events if isinstance(event, TextDelta) and not ended
        )
        at = parser.current
        header = (at.channel, at.recipient, at.content_type) if at else (None, None, None)
        steps.append(Step(error, delta or None, parser.current_role, *header, parser.messages))
    check_events(told, parser.messages)
    return steps


@pytest.mark.parametrize("chosen", [seeds(1_500), MANY], ids=["some", "20_000"])
def test_traces_are_the_official_ones(
    chosen: Sequence[int], peer: Any, tokenizer: Tokenizer
) -> None:
    streams = Streams.of(tokenizer)
    errors, messages = set(), 0
    for seed in chosen:
        ids, role = streams.any(random.Random(seed))
        expected = official_trace(peer.encoding, ids, role)
        found = our_trace(tokenizer, ids, role)
        for number, (theirs, ours) in enumerate(zip(expected, found, strict=True)):
            assert ours == theirs, f"seed {seed}, role {role}, step {number} of {ids}"
        errors |= {
            step.error.split()[0] + step.error.split()[-1][:5] for step in expected if step.error
        }
        messages += len(expected[-1].messages)
    # a good part of the streams was read, and all errors occurred
    assert messages > len(chosen) / 2 and len(errors) > 10


def test_the_whole_result_is_the_official_one(peer: Any, tokenizer: Tokenizer) -> None:
    streams = Streams.of(tokenizer)
    read = 0
    for seed in seeds(1_500):
        rng = random.Random(seed)
        role: Any = rng.choice([None, "assistant"])
        ids = streams.turn(rng, role) if rng.random() < 0.7 else streams.mutated(rng, role)
        try:
            found: Any = list(parse_completion(ids, tokenizer, role, strict=True))
        except ParseError as error:
            found = str(error)
        assert found == peer.parse(ids, role), seed
        read += isinstance(found, list)
    assert read > len(seeds(1_500)) / 2.1


def test_headers_word_by_word(peer: Any, tokenizer: Tokenizer) -> None:
    """Headers of words that the generator above does not have: blanks of all sorts, quotes,
    marks.
    """
    words = [
        "assistant",
        "user",
        "functions.f",
        " to=",
        " to=f",
        "final",
        " ",
        "\n",
        "\u2003",
        "\x1f",
        "<",
        "\\",
        ' a "q"',
    ]
    words += [
        "é",
        "e\u0301",
        "\u0947",
        "\u200d",
        "\x00",
        "\x7f",
        "\ufeff",
        "<|channel|>",
        "<|constrain|>",
        " json",
        "👍",
    ]
    for seed in seeds(1_500):
        rng = random.Random(seed)
        role: Any = rng.choice([None, "assistant"])
        ids = [] if role else [tokenizer.special("<|start|>")]
        for _ in range(rng.randrange(6)):
            special = rng.choice(["<|channel|>", "<|constrain|>", "<|start|>", "<|return|>"])
            word = tokenizer.encode(rng.choice(words))
            ids += [tokenizer.special(special)] if rng.random() < 0.2 else word
        ids += tokenizer.encode_with_specials("<|message|>x<|end|>")
        expected = official_trace(peer.encoding, ids, role)
        assert our_trace(tokenizer, ids, role) == expected, (seed, tokenizer.decode(ids))


def test_strict_waits_for_the_next_start_after_an_error(tokenizer: Tokenizer) -> None:
    parser = StreamParser(tokenizer, None, strict=True)
    with pytest.raises(ParseError, match="while expecting start token 200006"):
        parser.feed(5)
    with pytest.raises(ParseError, match="Unknown role: nobody"):
        for token in tokenizer.encode_with_specials("<|start|>nobody<|message|>"):
            parser.feed(token)
    for token in tokenizer.encode_with_specials("<|start|>user<|message|>x<|end|>"):
        parser.feed(token)
    assert parser.messages == (Message("user", "x"),)
    parser.feed(tokenizer.special("<|start|>"))
    with pytest.raises(ParseError, match="Unexpected EOS while waiting for message header"):
        parser.finish()
    for bad in (10**9, 9552):
        with pytest.raises(ParseError, match="could not decode header"):
            parse_completion([200006, bad, 200008], tokenizer, None, strict=True)


def test_a_role_given_outlives_an_error(tokenizer: Tokenizer) -> None:
    parser = StreamParser(tokenizer, "user", strict=True)
    with pytest.raises(ParseError, match="unexpected tokens remaining"):
        parser.feed(tokenizer.encode_with_specials("a b c<|message|>"))
    assert parser.current_role == "user"
    parser.feed(tokenizer.encode_with_specials("<|start|><|message|>x<|end|>"))
    assert parser.messages == (Message("user", "x"),)


def test_the_rest_of_broken_text_is_a_delta_too(tokenizer: Tokenizer) -> None:
    """What the official parser reports in no delta comes with the message's end."""
    ids = tokenizer.encode_with_specials("<|start|>user<|message|>")
    parser = StreamParser(tokenizer, None, strict=True)
    told = parser.feed(
        [*ids, 9552, 9552, *tokenizer.encode("worked"), tokenizer.special("<|end|>")]
    )
    start = MessageStart(Message("user", "").role)  # type: ignore[arg-type]
    texts = [TextDelta(" "), TextDelta("\ufffd"), TextDelta(" \ufffd"), TextDelta("worked")]
    assert told == [start, *texts, MessageEnd(Message("user", " \ufffd \ufffdworked"), "<|end|>")]
