"""The parser case by case: real malformed streams, what is tolerated and how, events, repairs, strictness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ossia.errors import HarmonyError, ParseError, TokenizerError
from ossia.harmony import (
    Message,
    MessageEnd,
    MessageStart,
    StreamParser,
    TextDelta,
    parse_completion,
)
from ossia.tokenizer import Tokenizer

CORPUS = json.loads((Path(__file__).parent / "harmony_malformed.json").read_text())


def ids_of(text: str, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode_with_specials(text)


def parse(text: str, tokenizer: Tokenizer, role: Any = "assistant") -> list[tuple[Any, ...]]:
    messages = parse_completion(ids_of(text, tokenizer), tokenizer, role)
    return [(str(m.role), m.channel, m.recipient, m.content_type, m.content) for m in messages]


@pytest.mark.parametrize("entry", CORPUS, ids=lambda entry: entry["id"])
def test_malformed_corpus(entry: dict[str, Any], tokenizer: Tokenizer, checked: Any) -> None:
    parser, _ = checked(entry["tokens"], tokenizer, entry["start_role"])
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
        (
            "<|channel|>commentary to=functions.f{}<|call|>",
            [("assistant", "commentary", "functions.f", None, "{}")],
        ),
        (
            "<|channel|>commentary to=functions.f code{}<|call|>",
            [("assistant", "commentary", "functions.f", "code", "{}")],
        ),
        (
            "<|channel|>commentary to=f <|constrain|>json{}<|call|>",
            [("assistant", "commentary", "f", "<|constrain|>json", "{}")],
        ),
        (
            "<|channel|>commentary to=f oh no<|start|>assistant",
            [("assistant", "commentary", None, None, "oh no")],
        ),
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
        (
            "Hi <|channel|>final<|message|>x<|return|>",
            [("assistant", None, None, None, "Hi "), ("assistant", "final", None, None, "x")],
        ),
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
        (
            "<|message|>a<|return|>loose<|start|>assistant<|message|>b<|end|>",
            [("assistant", None, None, None, "a"), ("assistant", None, None, None, "b")],
        ),
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


def test_repairs_say_where_and_what(tokenizer: Tokenizer, checked: Any) -> None:
    ids = ids_of(
        "<|channel|>analysis odd<|message|>a<|reserved_200018|><|channel|>final<|message|>b<|return|>",
        tokenizer,
    )
    parser, _ = checked(ids, tokenizer, "assistant")
    assert [(r.position, r.kind, r.seen) for r in parser.repairs] == [
        (3, "junk", "odd"),
        (5, "reserved-token", "<|reserved_200018|>"),
        (6, "missing-end", ""),
        (6, "missing-start", "<|channel|>"),
    ]


def test_events_of_a_turn(tokenizer: Tokenizer, checked: Any) -> None:
    text = "<|channel|>analysis<|message|>hm<|end|>"
    text += "<|start|>assistant<|channel|>commentary to=functions.f json<|message|>{}<|call|>"
    _, events = checked(ids_of(text, tokenizer), tokenizer, "assistant")
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


def test_unknown_ids_become_replacement_characters(tokenizer: Tokenizer, checked: Any) -> None:
    body = ids_of("<|message|>a", tokenizer)
    for junk in ([10**9], [-1], [*tokenizer.encode("🤷")[:1], 10**9]):
        parser, _ = checked([*body, *junk, *tokenizer.encode("b")], tokenizer, "assistant")
        assert parser.messages[0].content == "a" + "\ufffd" * len(junk) + "b"


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


def test_missing_specials_are_named(small_tokenizer: Tokenizer) -> None:
    ids = {bytes([byte]): byte for byte in range(256)}
    with pytest.raises(TokenizerError, match=r"<\|start\|>"):
        StreamParser(Tokenizer(ids, {}, small_tokenizer.pattern))
    with pytest.raises(HarmonyError, match="unknown role"):
        StreamParser(small_tokenizer, "helper")  # type: ignore[arg-type]
