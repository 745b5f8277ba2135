"""The parser on real malformed streams, on random tokens, on what we render, and against the official one."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest

from ossia.errors import ParseError, TokenizerError
from ossia.harmony import (
    Event,
    Message,
    MessageEnd,
    MessageStart,
    StreamParser,
    TextDelta,
    parse_completion,
    render_message,
)
from ossia.tokenizer import Tokenizer

CORPUS = json.loads((Path(__file__).parent / "harmony_malformed.json").read_text())
SPECIALS = re.compile(r"(<\|[a-z_0-9]+\|>)")


def ids_of(text: str, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode_with_specials(text)


def parse(text: str, tokenizer: Tokenizer, role: Any = "assistant") -> list[tuple[Any, ...]]:
    messages = parse_completion(ids_of(text, tokenizer), tokenizer, role)
    return [(str(m.role), m.channel, m.recipient, m.content_type, m.content) for m in messages]


def checked_events(ids: list[int], tokenizer: Tokenizer, role: Any) -> tuple[StreamParser, list[Event]]:
    """Feeds all ids and asserts that the events tell the same story as the messages."""
    parser = StreamParser(tokenizer, role)
    events = [event for token in ids for event in parser.feed(token)] + parser.finish()
    told, start, text = [], None, ""
    for event in events:
        if isinstance(event, MessageStart):
            assert start is None
            start, text = event, ""
        elif isinstance(event, TextDelta):
            assert start is not None and event.text
            assert (event.channel, event.recipient) == (start.channel, start.recipient)
            text += event.text
        else:
            assert start is not None and isinstance(event, MessageEnd)
            told.append(Message(start.role, text, start.name, start.channel, start.recipient, start.content_type))
            assert told[-1] == event.message
            start = None
    assert start is None
    assert tuple(told) == parser.messages
    assert all(0 <= repair.position <= len(ids) for repair in parser.repairs)
    return parser, events


@pytest.mark.parametrize("entry", CORPUS, ids=lambda entry: entry["id"])
def test_malformed_corpus(entry: dict[str, Any], tokenizer: Tokenizer) -> None:
    parser, _ = checked_events(entry["tokens"], tokenizer, entry["start_role"])
    found = [[m.role, m.channel, m.recipient, m.content_type, m.content] for m in parser.messages]
    assert found == entry["expected"]
    if "expected_author_names" in entry:
        assert [m.name for m in parser.messages] == entry["expected_author_names"]
    if entry["category"] == "control":
        assert not parser.repairs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # calls are never invented, and never lost when they are explicit
        ("commentary functions.f<|message|>{}<|end|>", [("assistant", "commentary", None, None, "{}")]),
        ("<|channel|>commentary to=functions.f{}<|call|>", [("assistant", "commentary", "functions.f", None, "{}")]),
        ("<|channel|>commentary to=functions.f code{}<|call|>", [("assistant", "commentary", "functions.f", "code", "{}")]),
        (
            "<|channel|>commentary to=f <|constrain|>json{}<|call|>",
            [("assistant", "commentary", "f", "<|constrain|>json", "{}")],
        ),
        ("<|channel|>commentary to=f oh no<|start|>assistant", [("assistant", "commentary", None, None, "oh no")]),
        ("<|channel|>commentary to=f {}", [("assistant", "commentary", None, None, "{}")]),
        ("<|channel|>commentary to=f<|start|>assistant", []),
        ("<|channel|>commentaryto=f<|message|>{}<|call|>", [("assistant", "commentary", "f", None, "{}")]),
        (" to=a to=b<|channel|>analysis<|message|>x<|call|>", [("assistant", "analysis", "a", None, "x")]),
        ("<|channel|>final json<|message|>{}<|return|>", [("assistant", "final", None, "json", "{}")]),
        # text is never promoted to the final answer, nor eaten as a header
        ("final answer: 4<|end|>", [("assistant", None, None, None, "final answer: 4")]),
        ("json is fine<|end|>", [("assistant", None, None, None, "json is fine")]),
        ("assistant here<|end|>", [("assistant", None, None, None, "assistant here")]),
        ("<|channel|>finalizing it<|end|>", [("assistant", None, None, None, "finalizing it")]),
        ("<|channel|>final{}<|return|>", [("assistant", "final", None, None, "{}")]),
        ("<|channel|>final {}", [("assistant", None, None, None, "{}")]),
        ("<|channel|>final<|message|>42", [("assistant", "final", None, None, "42")]),
        ("👍<|return|>", [("assistant", None, None, None, "👍")]),
        ("  spaced\n<|return|>", [("assistant", None, None, None, "  spaced\n")]),
        ("Hi <|channel|>final<|message|>x<|return|>", [("assistant", None, None, None, "Hi "), ("assistant", "final", None, None, "x")]),
        # channels
        ("<|channel|>finalx<|message|>x<|end|>", [("assistant", "final", None, None, "x")]),
        ("<|channel|>comment<|message|>x<|end|>", [("assistant", "commentary", None, None, "x")]),
        ("<|channel|> analysis<|message|>x<|end|>", [("assistant", "analysis", None, None, "x")]),
        ("<|channel|>odd<|message|>x<|end|>", [("assistant", "odd", None, None, "x")]),
        ("<|channel|>odd<|channel|>final<|message|>x<|end|>", [("assistant", "final", None, None, "x")]),
        ("<|channel|><|message|>x<|end|>", [("assistant", None, None, None, "x")]),
        # bodies
        ("<|message|>a<|message|>b<|constrain|>c<|end|>", [("assistant", None, None, None, "abc")]),
        ("<|message|><|end|>", [("assistant", None, None, None, "")]),
        ("<|message|>", [("assistant", None, None, None, "")]),
        ("<|message|>a<|return|>loose<|start|>assistant<|message|>b<|end|>", [("assistant", None, None, None, "a"), ("assistant", None, None, None, "b")]),
        # nothing at all
        ("", []),
        ("<|end|><|return|>", []),
        ("<|start|>assist", []),
        ("<|channel|>comme", []),
        (".\n", []),
    ],
)
def test_tolerance(text: str, expected: list[tuple[Any, ...]], tokenizer: Tokenizer) -> None:
    assert parse(text, tokenizer) == expected


@pytest.mark.parametrize(
    ("text", "role", "name", "channel", "content"),
    [
        ("<|start|>user:ann<|message|>x<|end|>", "user", "ann", None, "x"),
        ("<|start|>functions.f<|message|>x<|end|>", "tool", "functions.f", None, "x"),
        ("<|start|>functions.f<|channel|>commentary x<|end|>", "tool", "functions.f", "commentary", "x"),
        ("<|start|>tool_box to=assistant<|message|>x<|end|>", "tool", "tool_box", None, "x"),
        ("<|start|>tool<|message|>x<|end|>", "tool", "tool", None, "x"),
        ("<|start|>assistantfinal<|message|>x<|end|>", "assistant", None, "final", "x"),
        ("<|start|>assistant assistant<|channel|>final<|message|>x<|end|>", "assistant", None, "final", "x"),
        ("<|start|><|message|>x<|end|>", "assistant", None, None, "x"),
        ("<|start|>to=f<|message|>x<|end|>", "assistant", None, None, "x"),
        ("<|start|>user x y<|end|>", "user", None, None, "x y"),
        ("<|start|>The answer<|end|>", "assistant", None, None, "The answer"),
        ("user<|message|>x<|end|>", "user", None, None, "x"),
    ],
)
def test_authors(text: str, role: str, name: Any, channel: Any, content: str, tokenizer: Tokenizer) -> None:
    (message,) = parse_completion(ids_of(text, tokenizer), tokenizer, None)
    assert (message.role, message.name, message.channel, message.content) == (role, name, channel, content)


def test_repairs_say_where_and_what(tokenizer: Tokenizer) -> None:
    ids = ids_of("<|channel|>analysis odd<|message|>a<|reserved_200018|><|channel|>final<|message|>b<|return|>", tokenizer)
    parser, _ = checked_events(ids, tokenizer, "assistant")
    assert [(r.position, r.kind, r.seen) for r in parser.repairs] == [
        (3, "junk", "odd"),
        (5, "reserved-token", "<|reserved_200018|>"),
        (6, "missing-end", ""),
        (6, "missing-start", "<|channel|>"),
    ]


def test_events_of_a_turn(tokenizer: Tokenizer) -> None:
    text = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.f json<|message|>{}<|call|>"
    _, events = checked_events(ids_of(text, tokenizer), tokenizer, "assistant")
    thought = Message("assistant", "hm", channel="analysis")
    call = Message("assistant", "{}", None, "commentary", "functions.f", "json")
    assert events == [
        MessageStart(thought.role, channel="analysis"),  # type: ignore[arg-type]
        TextDelta("hm", "analysis"),
        MessageEnd(thought, "<|end|>"),
        MessageStart(call.role, None, "commentary", "functions.f", "json"),  # type: ignore[arg-type]
        TextDelta("{}", "commentary", "functions.f"),
        MessageEnd(call, "<|call|>"),
    ]


def test_text_appears_as_soon_as_it_is_certain(tokenizer: Tokenizer) -> None:
    """Half a character is held back until the token that completes it, or becomes U+FFFD."""
    parser = StreamParser(tokenizer)
    for token in ids_of("<|channel|>final<|message|>", tokenizer):
        assert parser.feed(token) == []
    assert parser.current == MessageStart(Message("assistant", "").role, channel="final")  # type: ignore[arg-type]
    head, *rest = tokenizer.encode("🤷")
    assert rest  # several tokens
    assert parser.feed(head) == [] or tokenizer.token_bytes(head).startswith(b" ")
    told = [event for token in rest for event in parser.feed(token)]
    assert [event.text for event in told if isinstance(event, TextDelta)] == ["🤷"]
    told = parser.feed(head) + parser.feed(tokenizer.special("<|end|>"))
    assert [event.text for event in told if isinstance(event, TextDelta)] == ["\ufffd"]
    assert parser.current is None


def test_unknown_ids_become_replacement_characters(tokenizer: Tokenizer) -> None:
    body = ids_of("<|message|>a", tokenizer)
    for junk in ([10**9], [-1], tokenizer.encode("🤷")[:1] + [10**9]):
        parser, _ = checked_events([*body, *junk, *tokenizer.encode("b")], tokenizer, "assistant")
        assert parser.messages[0].content == "a" + "\ufffd" * len(junk) + "b"


def random_stream(rng: random.Random, tokenizer: Tokenizer) -> tuple[list[int], list[str]]:
    """Specials, header words, ordinary text, half characters and ids that do not exist; and the unique words."""
    specials = [*tokenizer.specials.values()][:12] + [tokenizer.special(n) for n in ("<|start|>", "<|message|>")]
    words = ["assistant", "user", "analysis", "commentary", "final", " to=f", " json", " ", "\n", "é", "?", "👍"]
    ids: list[int] = []
    unique: list[str] = []
    for position in range(rng.randrange(40)):
        kind = rng.random()
        if kind < 0.45:
            ids.append(rng.choice(specials))
        elif kind < 0.75:
            ids += tokenizer.encode(rng.choice(words))
        elif kind < 0.9:
            unique.append(f"Q{position}q")
            ids += tokenizer.encode(f" {unique[-1]}")
        else:
            ids.append(rng.choice([rng.randrange(tokenizer.vocab_size), tokenizer.vocab_size, -1, 200]))
    return ids, unique


def test_random_streams(tokenizer: Tokenizer, small_tokenizer: Tokenizer) -> None:
    """Nothing raises, the events add up, and no word vanishes: it is content, a field, or noted as dropped."""
    for seed in range(3000):
        rng = random.Random(seed)
        vocabulary = rng.choice([tokenizer, small_tokenizer])
        ids, unique = random_stream(rng, vocabulary)
        parser, _ = checked_events(ids, vocabulary, rng.choice([None, "assistant", "user"]))
        found = " ".join(" ".join(map(str, vars(m).values())) for m in parser.messages)
        dropped = "".join(repair.seen for repair in parser.repairs)
        for word in unique:
            assert word in found or word in dropped, (seed, word)


def test_what_is_rendered_is_parsed_back(tokenizer: Tokenizer, small_tokenizer: Tokenizer) -> None:
    """Messages whose fields are single words come back equal, with nothing to repair."""
    texts = ["", "hello", " spaced \n", "é 👍", "<|end|><|start|>user", "analysis to=f", '{"a": 1}']
    for seed in range(600):
        rng = random.Random(seed)
        messages = []
        for _ in range(rng.randrange(6)):
            role = rng.choice(["user", "assistant", "system", "developer", "tool"])
            name = rng.choice(["ann", "functions.f", "<|end|>"]) if role == "tool" or rng.random() < 0.2 else None
            channel = rng.choice([None, "analysis", "commentary", "final", "notes"])
            recipient = rng.choice([None, None, "assistant", "functions.f", "<|call|>"])
            content_type = rng.choice([None, None, "<|constrain|>json", "<|constrain|>yaml"])
            messages.append(Message(role, rng.choice(texts), name, channel, recipient, content_type))  # type: ignore[arg-type]
        vocabulary = rng.choice([tokenizer, small_tokenizer])
        headers = rng.choice(["peer", "native"])
        ids = [i for m in messages for i in render_message(m, vocabulary, headers=headers)]
        parser, _ = checked_events(ids, vocabulary, None)
        assert list(parser.messages) == messages, seed
        assert not parser.repairs, seed


def test_strict_is_the_official_parser(peer: Any, tokenizer: Tokenizer) -> None:
    """The same messages or the same error on streams that are well-formed, or nearly so. (Wherever the
    tolerant parser repairs nothing, it reads the same, but for a bare word in a recipient's place.)"""
    words = ["assistant", " assistant", "user", "analysis", "commentary", " to=functions.f", " to=", " json", "final"]
    words += ["functions.g", " ", "\n", "\u2003", "<", "<|channel|>", ' a "q"', "\\", "é", "\x1f", "<|constrain|>"]
    specials = ["<|channel|>", "<|constrain|>", "<|start|>", "<|end|>", "<|reserved_200018|>", "<|endoftext|>"]
    agreed = 0
    for seed in range(2500):
        rng = random.Random(seed)
        ids: list[int] = []
        role = rng.choice([None, None, "assistant"])
        for number in range(rng.randrange(1, 4)):
            if rng.random() < 0.95 and not (role and number == 0):
                ids += ids_of("<|start|>" + rng.choice(["assistant", "user", "functions.f", "tool", ""]), tokenizer)
            for _ in range(rng.randrange(4)):
                header = rng.random() < 0.3
                ids += ids_of(rng.choice(specials[: 2 if rng.random() < 0.9 else 6]), tokenizer) if header else []
                ids += tokenizer.encode(rng.choice(words))
            ids += ids_of("<|message|>", tokenizer) if rng.random() < 0.9 else []
            for _ in range(rng.randrange(3)):
                ids += ids_of(rng.choice(specials), tokenizer) if rng.random() < 0.1 else tokenizer.encode(rng.choice(words))
            ids += ids_of(rng.choice(["<|end|>", "<|call|>", "<|return|>"]), tokenizer) if rng.random() < 0.9 else []
        expected = peer.parse(ids, role)
        try:
            found: Any = list(parse_completion(ids, tokenizer, role, strict=True))
        except ParseError as error:
            found = str(error)
        assert found == expected, (seed, tokenizer.decode(ids))
        agreed += isinstance(found, list)
    assert agreed > 300  # not only errors were compared


def test_tolerant_equals_official_on_well_formed_streams(peer: Any, tokenizer: Tokenizer) -> None:
    """Real shapes of turns, in both orders of recipient and channel, from a prompt's end or from START."""
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
    for seed in range(800):
        rng = random.Random(seed)
        text = ""
        for _ in range(rng.randrange(1, 5)):
            stop = rng.choice(["<|end|>", "<|call|>", "<|return|>"])
            text += f"<|start|>{rng.choice(headers)}<|message|>{rng.choice(bodies)}{stop}"
        role = None
        if text.startswith("<|start|>assistant") and rng.random() < 0.5:
            text, role = text.removeprefix("<|start|>assistant"), "assistant"
        ids = ids_of(text[: -len("<|end|>")] if rng.random() < 0.1 and text.endswith("<|end|>") else text, tokenizer)
        parser, _ = checked_events(ids, tokenizer, role)
        assert list(parser.messages) == peer.parse(ids, role), text
        assert not parser.repairs, text


def test_strict_waits_for_the_next_start_after_an_error(tokenizer: Tokenizer) -> None:
    parser = StreamParser(tokenizer, None, strict=True)
    with pytest.raises(ParseError, match="while expecting start token 200006"):
        parser.feed(5)
    with pytest.raises(ParseError, match="Unknown role: nobody"):
        for token in ids_of("<|start|>nobody<|message|>", tokenizer):
            parser.feed(token)
    for token in ids_of("<|start|>user<|message|>x<|end|>", tokenizer):
        parser.feed(token)
    assert parser.messages == (Message("user", "x"),)
    parser.feed(tokenizer.special("<|start|>"))
    with pytest.raises(ParseError, match="Unexpected EOS while waiting for message header"):
        parser.finish()
    for bad in (10**9, 9552):
        with pytest.raises(ParseError, match="could not decode header"):
            parse_completion([200006, bad, 200008], tokenizer, None, strict=True)


def test_time_grows_linearly(small_tokenizer: Tokenizer) -> None:
    """Bodies, endless headers and endless loose text cost the same per token at any length."""

    def seconds(unit: str, times: int) -> float:
        ids = ids_of(unit, small_tokenizer) * times
        best = 9.0
        for _ in range(3):
            began = time.perf_counter()
            parse_completion(ids, small_tokenizer)
            best = min(best, time.perf_counter() - began)
        return best

    for unit in ("<|message|>the user ", "the user ", "<|channel|>", "<|constrain|>x ", "<|start|>", "x<|end|>"):
        assert seconds(unit, 8000) < 3 * 8 * seconds(unit, 1000) + 0.01, unit


def test_missing_specials_are_named(small_tokenizer: Tokenizer) -> None:
    ids = {bytes([byte]): byte for byte in range(256)}
    with pytest.raises(TokenizerError, match=r"<\|start\|>"):
        StreamParser(Tokenizer(ids, {}, small_tokenizer.pattern))
