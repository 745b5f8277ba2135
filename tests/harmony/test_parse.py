"""The parser case by case: real malformed streams, what is tolerated and how, events, repairs,
strictness.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harmony_streams import parsed

from ossia.errors import HarmonyError, TokenizerError
from ossia.harmony import (
    CallReady,
    Message,
    MessageEnd,
    MessageStart,
    RepairKind,
    Role,
    StreamParser,
    TextDelta,
    TurnClosed,
    events,
    parse_completion,
)
from ossia.tokenizer import Tokenizer

CORPUS = json.loads((Path(__file__).parent / "harmony_malformed.json").read_text())


WORDS_AND_BODY = ("final words are", "42")


def ids_of(text: str, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode_with_specials(text)


def parse(text: str, tokenizer: Tokenizer, role: Any = "assistant") -> list[tuple[Any, ...]]:
    messages = parsed(ids_of(text, tokenizer), tokenizer, role)[0].messages
    return [(str(m.role), m.channel, m.recipient, m.content_type, m.content) for m in messages]


@pytest.mark.parametrize("entry", CORPUS, ids=lambda entry: entry["id"])
def test_malformed_corpus(entry: dict[str, Any], tokenizer: Tokenizer) -> None:
    parser, _ = parsed(entry["tokens"], tokenizer, entry["start_role"])
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
        (
            "commentary functions.f<|message|>{}<|end|>",
            [("assistant", "commentary", None, None, "{}")],
        ),
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
        (
            "<|channel|>commentaryto=f<|message|>{}<|call|>",
            [("assistant", "commentary", "f", None, "{}")],
        ),
        (
            " to=a to=b<|channel|>analysis<|message|>x<|call|>",
            [("assistant", "analysis", "a", None, "x")],
        ),
        (
            "<|channel|>final json<|message|>{}<|return|>",
            [("assistant", "final", None, "json", "{}")],
        ),
        # text is never promoted to the final answer, nor eaten as a header
        ("final answer: 4<|end|>", [("assistant", None, None, None, "final answer: 4")]),
        ("json is fine<|end|>", [("assistant", None, None, None, "json is fine")]),
        ("assistant here<|end|>", [("assistant", None, None, None, "assistant here")]),
        ("<|channel|>finalizing it<|end|>", [("assistant", None, None, None, "finalizing it")]),
        ("<|channel|>final{}<|return|>", [("assistant", "final", None, None, "{}")]),
        ("<|channel|>final {}", [("assistant", "final", None, None, "{}")]),
        ("<|channel|>final The answer", [("assistant", "final", None, None, "The answer")]),
        ("<|channel|>final<|message|>42", [("assistant", "final", None, None, "42")]),
        # a channel glued to its text: only what cannot be one word, and never the final answer
        (
            "<|channel|>analysisWe need to<|end|>",
            [("assistant", "analysis", None, None, "We need to")],
        ),
        ("<|channel|>analysisWe need to", [("assistant", "analysis", None, None, "We need to")]),
        ("<|channel|>analysisanalysisÉtat<|end|>", [("assistant", "analysis", None, None, "État")]),
        (
            "<|channel|>commentary2 files<|end|>",
            [("assistant", "commentary", None, None, "2 files")],
        ),
        ("<|channel|>analysis用户<|end|>", [("assistant", "analysis", None, None, "用户")]),
        ('<|channel|>analysis"x" is<|end|>', [("assistant", "analysis", None, None, '"x" is')]),
        ("<|channel|>analysisé<|end|>", [("assistant", None, None, None, "analysisé")]),
        ("<|channel|>analysis_of_x<|end|>", [("assistant", None, None, None, "analysis_of_x")]),
        ("<|channel|>commentarybox<|end|>", [("assistant", None, None, None, "commentarybox")]),
        (
            "<|channel|>finalThe answer<|return|>",
            [("assistant", None, None, None, "finalThe answer")],
        ),
        ("<|channel|>final42<|return|>", [("assistant", None, None, None, "final42")]),
        (
            "<|channel|>analysisfinalThe<|return|>",
            [("assistant", None, None, None, "analysisfinalThe")],
        ),
        # prose in front of a body or content type without its header
        (
            "<|channel|>analysis<|message|>a<|end|>I think so.<|message|>42<|return|>",
            [
                ("assistant", "analysis", None, None, "a"),
                ("assistant", None, None, None, "I think so."),
                ("assistant", None, None, None, "42"),
            ],
        ),
        (
            "<|end|>final words are<|message|>42<|return|>",
            [("assistant", None, None, None, x) for x in WORDS_AND_BODY],
        ),
        (
            "Hello there<|constrain|>json<|message|>x",
            [
                ("assistant", None, None, None, "Hello there"),
                ("assistant", None, None, "<|constrain|>json", "x"),
            ],
        ),
        (
            "<|end|>Hello there<|constrain|>json<|message|>x<|end|>",
            [
                ("assistant", None, None, None, "Hello there"),
                ("assistant", None, None, "<|constrain|>json", "x"),
            ],
        ),
        (
            "Hello to=f<|message|>{}<|call|>",
            [("assistant", None, None, None, "Hello to=f"), ("assistant", None, None, None, "{}")],
        ),
        # but header words, and what a header has beside them, are none
        (
            "commentary oh<|constrain|>json<|message|>x",
            [("assistant", "commentary", None, "<|constrain|>json", "x")],
        ),
        ("... final<|message|>x<|end|>", [("assistant", "final", None, None, "x")]),
        ("<|end|> to=f oh<|message|>{}<|call|>", [("assistant", None, "f", None, "{}")]),
        ("<|end|>user:ann<|message|>x<|end|>", [("user", None, None, None, "x")]),
        (
            "<|start|>assistant Hello there<|message|>x<|end|>",
            [("assistant", None, None, None, "x")],
        ),
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
        (
            "<|channel|>odd<|channel|>final<|message|>x<|end|>",
            [("assistant", "final", None, None, "x")],
        ),
        ("<|channel|><|message|>x<|end|>", [("assistant", None, None, None, "x")]),
        # bodies
        ("<|message|>a<|message|>b<|constrain|>c<|end|>", [("assistant", None, None, None, "abc")]),
        ("<|message|><|end|>", [("assistant", None, None, None, "")]),
        ("<|message|>", [("assistant", None, None, None, "")]),
        (
            "<|message|>a<|return|>loose<|start|>assistant<|message|>b<|end|>",
            [("assistant", None, None, None, "a"), ("assistant", None, None, None, "b")],
        ),
        # control tokens anywhere
        (
            "<|channel|>commentary to=f<|channel|>commentary<|message|>{}<|call|>",
            [("assistant", "commentary", "f", None, "{}")],
        ),
        (
            "<|channel|>commentary to=f<|channel|><|message|>{}<|call|>",
            [("assistant", "commentary", "f", None, "{}")],
        ),
        (
            "<|channel|>final<|message|>a<|start|>b<|return|>",
            [("assistant", "final", None, None, "a"), ("assistant", None, None, None, "b")],
        ),
        (
            "<|channel|>final<|message|>a<|constrain|>json<|return|>",
            [("assistant", "final", None, None, "ajson")],
        ),
        (
            "<|channel|>commentary to=f<|message|>{<|reserved_200018|>}<|call|>",
            [("assistant", "commentary", "f", None, "{}")],
        ),
        (
            "<|reserved_200000|><|channel|><|reserved_200000|>final<|reserved_200000|><|message|>x"
            "<|startoftext|>y<|return|>",
            [("assistant", "final", None, None, "xy")],
        ),
        (
            "<|channel|>final<|message|>x<|return|><|return|><|end|>",
            [("assistant", "final", None, None, "x")],
        ),
        ("<|channel|>final<|message|><|endoftext|>", [("assistant", "final", None, None, "")]),
        ("<|channel|>final<|endoftext|>", []),
        ("<|channel|>final answer<|endoftext|>", [("assistant", "final", None, None, "answer")]),
        (
            "<|startoftext|><|start|>assistant<|channel|>final<|message|>x",
            [("assistant", "final", None, None, "x")],
        ),
        # one call after another, and text behind a call
        (
            "<|channel|>commentary to=f<|message|>{}<|call|>"
            "<|start|>assistant<|channel|>commentary to=g<|message|>[]<|call|>",
            [
                ("assistant", "commentary", "f", None, "{}"),
                ("assistant", "commentary", "g", None, "[]"),
            ],
        ),
        (
            "<|channel|>commentary to=f<|message|>{}<|channel|>commentary to=g<|message|>[]<|end|>",
            [
                ("assistant", "commentary", "f", None, "{}"),
                ("assistant", "commentary", "g", None, "[]"),
            ],
        ),
        (
            "<|channel|>analysis to=f<|message|>{}<|end|><|start|>assistant<|channel|>final"
            "<|message|>x<|return|>",
            [("assistant", "analysis", "f", None, "{}"), ("assistant", "final", None, None, "x")],
        ),
        (
            "<|channel|>commentary to=f<|message|>{}<|call|>and so on",
            [
                ("assistant", "commentary", "f", None, "{}"),
                ("assistant", None, None, None, "and so on"),
            ],
        ),
        (
            "<|channel|>commentary to=f<|message|>{}<|call|>.",
            [("assistant", "commentary", "f", None, "{}")],
        ),
        ("<|channel|>commentary to=f<|message|><|start|>assistant", []),
        (
            '<|channel|>commentary to=f["a"]<|call|>',
            [("assistant", "commentary", "f", None, '["a"]')],
        ),
        # header words glued together, spelt or placed oddly
        (
            "assistant<|channel|>final<|message|>x<|return|>",
            [("assistant", "final", None, None, "x")],
        ),
        ("assistantfinal<|message|>x<|return|>", [("assistant", "final", None, None, "x")]),
        ("<|channel|>finaljson<|message|>x<|return|>", [("assistant", "final", None, "json", "x")]),
        ("<|channel|>Final<|message|>x<|return|>", [("assistant", "final", None, None, "x")]),
        (
            "<|channel|>––commentary<|message|>x<|return|>",
            [("assistant", "commentary", None, None, "x")],
        ),
        ("<|channel|>odd final<|message|>x<|return|>", [("assistant", "final", None, None, "x")]),
        ("<|channel|>final.<|message|>x<|return|>", [("assistant", "final", None, None, "x")]),
        ("<|channel|>to=f<|message|>{}<|call|>", [("assistant", None, "f", None, "{}")]),
        (
            "<|channel|>commentary to= f<|message|>{}<|call|>",
            [("assistant", "commentary", "f", None, "{}")],
        ),
        (
            "<|channel|>commentary to=<|message|>{}<|call|>",
            [("assistant", "commentary", None, None, "{}")],
        ),
        ("<|channel|>commentary to=<|call|>", []),
        (
            "<|channel|>commentary to = f<|message|>{}<|call|>",
            [("assistant", "commentary", None, None, "{}")],
        ),
        (
            "<|channel|>commentary <|constrain|> to=f<|message|>{}<|call|>",
            [("assistant", "commentary", "f", None, "{}")],
        ),
        (
            "<|channel|>commentary to=f{}<|message|><|call|>",
            [("assistant", "commentary", "f", None, "")],
        ),
        (
            " to=f oh<|channel|>commentary<|message|>{}<|call|>",
            [("assistant", "commentary", "f", None, "{}")],
        ),
        (
            "Ask to=f<|channel|>commentary<|message|>{}<|call|>",
            [
                ("assistant", None, None, None, "Ask to=f"),
                ("assistant", "commentary", None, None, "{}"),
            ],
        ),
        # blanks are those of Unicode
        (
            "<|channel|>commentary\u3000to=f\xa0\u2003<|constrain|>\x85json\n<|message|>{}<|call|>",
            [("assistant", "commentary", "f", "<|constrain|>json", "{}")],
        ),
        (
            "<|channel|>\u200bfinal\ufeff<|message|>x<|return|>",
            [("assistant", "final", None, None, "x")],
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
        (
            "<|start|>functions.f<|channel|>commentary x<|end|>",
            "tool",
            "functions.f",
            "commentary",
            "x",
        ),
        ("<|start|>tool_box to=assistant<|message|>x<|end|>", "tool", "tool_box", None, "x"),
        ("<|start|>tool<|message|>x<|end|>", "tool", "tool", None, "x"),
        # a tool without a name could not be rendered
        ("<|start|>Tool<|message|>x<|end|>", "tool", "tool", None, "x"),
        ("<|start|>tool hi<|end|>", "tool", "tool", None, "hi"),
        ("<|start|>tool:<|message|>x<|end|>", "tool", "tool", None, "x"),
        ("<|start|>tool.<|message|>x<|end|>", "tool", "tool", None, "x"),
        ("tool<|channel|>hi<|return|>", "tool", "tool", None, "hi"),
        ("<|start|>assistantfinal<|message|>x<|end|>", "assistant", None, "final", "x"),
        (
            "<|start|>assistant assistant<|channel|>final<|message|>x<|end|>",
            "assistant",
            None,
            "final",
            "x",
        ),
        ("<|start|><|message|>x<|end|>", "assistant", None, None, "x"),
        ("<|start|>to=f<|message|>x<|end|>", "assistant", None, None, "x"),
        ("<|start|>user x y<|end|>", "user", None, None, "x y"),
        ("<|start|>The answer<|end|>", "assistant", None, None, "The answer"),
        ("user<|message|>x<|end|>", "user", None, None, "x"),
        ("assistant<|channel|>final<|message|>x<|return|>", "assistant", None, "final", "x"),
        ("<|start|>Assistant<|channel|>final<|message|>x<|end|>", "assistant", None, "final", "x"),
        ("<|start|>assistant.<|channel|>final<|message|>x<|end|>", "assistant", None, "final", "x"),
        ("<|start|>assistant:<|channel|>final<|message|>x<|end|>", "assistant", None, "final", "x"),
        (
            "<|start|>python to=assistant<|channel|>analysis<|message|>x<|end|>",
            "tool",
            "python",
            "analysis",
            "x",
        ),
        ("<|start|>tool:functions.f<|message|>x<|end|>", "tool", "functions.f", None, "x"),
        ("<|start|>user assistant<|message|>x<|end|>", "user", None, None, "x"),
        ("<|start|><|start|>assistant<|start|>user<|message|>x<|end|>", "user", None, None, "x"),
    ],
)
def test_authors(
    text: str, role: str, name: Any, channel: Any, content: str, tokenizer: Tokenizer
) -> None:
    (message,) = parse_completion(ids_of(text, tokenizer), tokenizer, None)
    assert (message.role, message.name, message.channel, message.content) == (
        role,
        name,
        channel,
        content,
    )


def test_repairs_say_where_and_what(tokenizer: Tokenizer) -> None:
    ids = ids_of(
        "<|channel|>analysis odd<|message|>a<|reserved_200018|><|channel|>final<|message|>b"
        "<|return|>",
        tokenizer,
    )
    parser, _ = parsed(ids, tokenizer, "assistant")
    assert [(r.position, r.kind, r.seen) for r in parser.repairs] == [
        (3, "junk", "odd"),
        (5, "reserved-token", "<|reserved_200018|>"),
        (6, "missing-end", ""),
        (6, "missing-start", "<|channel|>"),
    ]


def test_text_after_the_turn_is_one_repair_a_run(tokenizer: Tokenizer) -> None:
    """Its characters whole, however many tokens they are."""
    runs = ["🤷 " * 1000, "more"]
    text = f"<|channel|>final<|message|>x<|return|>{runs[0]}<|return|>{runs[1]}"
    ids = ids_of(text, tokenizer)
    repairs = parsed(ids, tokenizer, "assistant")[0].repairs
    assert [repair.seen for repair in repairs if repair.kind == "text-after-return"] == runs
    assert [repair.kind for repair in repairs] == [
        "text-after-return",
        "stray-stop",
        "text-after-return",
    ]
    assert repairs[0].position == repairs[1].position and repairs[2].position == len(ids)


def test_nothing_needs_no_repair(tokenizer: Tokenizer) -> None:
    for role in (None, "assistant"):
        assert parsed([], tokenizer, role)[0].repairs == []
    assert parsed(ids_of("<|start|>", tokenizer), tokenizer, None)[0].repairs != []


def test_events_of_a_turn(tokenizer: Tokenizer) -> None:
    text = "<|channel|>analysis<|message|>hm<|end|>"
    text += "<|start|>assistant<|channel|>commentary to=functions.f json<|message|>{}<|call|>"
    _, events = parsed(ids_of(text, tokenizer), tokenizer, "assistant")
    thought = Message("assistant", "hm", channel="analysis")
    call = Message("assistant", "{}", None, "commentary", "functions.f", "json")
    assert events == [
        MessageStart(thought.role, channel="analysis"),  # type: ignore[arg-type]
        TextDelta("hm", "analysis"),
        MessageEnd(thought, "<|end|>"),
        MessageStart(call.role, None, "commentary", "functions.f", "json"),  # type: ignore[arg-type]
        TextDelta("{}", "commentary", "functions.f"),
        MessageEnd(call, "<|call|>"),
        CallReady(call),
        TurnClosed("<|call|>"),
    ]


@pytest.mark.parametrize(
    ("text", "calls", "closed"),
    [
        ("<|channel|>final<|message|>x<|return|><|return|><|call|>", 0, ["<|return|>"]),
        ("<|channel|>final<|message|>x<|end|><|return|>", 0, ["<|return|>"]),
        ("<|channel|>final<|message|>x<|end|>", 0, []),
        ("<|channel|>final<|message|>x<|endoftext|>", 0, ["<|endoftext|>"]),
        ("<|channel|>commentary to=f<|message|>{}<|end|><|call|>", 1, ["<|call|>"]),
        ("<|channel|>commentary to=f<|message|>{}<|return|>", 1, ["<|return|>"]),
        ("<|channel|>commentary to=f<|message|>{}", 0, []),
        ("<|channel|>commentary to=f<|call|>", 1, ["<|call|>"]),
        (
            "<|channel|>commentary to=f<|message|>{}<|start|>assistant to=g<|message|>{}<|call|>",
            2,
            ["<|call|>"],
        ),
        (
            "<|channel|>commentary to=f<|message|>{}<|call|><|start|>assistant to=g<|call|>",
            2,
            ["<|call|>"] * 2,
        ),
        ("<|channel|>commentary to=assistant<|message|>x<|end|>", 0, []),
        ("<|channel|>final to=user<|message|>x<|call|>", 0, ["<|call|>"]),
        ("<|channel|>final to=f<|message|>x<|return|>", 1, ["<|return|>"]),
        ("<|channel|>commentary to=f x<|start|>functions.f to=assistant<|message|>x<|end|>", 0, []),
        ("<|return|>", 0, ["<|return|>"]),
        (
            "<|channel|>final<|return|><|start|>assistant<|channel|>final<|message|>x<|return|>",
            0,
            ["<|return|>"] * 2,
        ),
    ],
)
def test_calls_and_turn_ends(
    text: str, calls: int, closed: list[str], tokenizer: Tokenizer
) -> None:
    _, events = parsed(ids_of(text, tokenizer), tokenizer, "assistant")
    assert sum(isinstance(event, CallReady) for event in events) == calls
    assert [event.by for event in events if isinstance(event, TurnClosed)] == closed


def test_one_id_or_several(tokenizer: Tokenizer) -> None:
    """`feed` takes an id, ints of other libraries, or any iterable of them, and never half an
    argument.
    """
    text = "<|channel|>final<|message|>some 👍 text<|return|>"
    ids = ids_of(text, tokenizer)
    one_by_one = StreamParser(tokenizer)
    events = [event for token in ids for event in one_by_one.feed(token)]
    for several in (ids, tuple(ids), iter(ids), np.array(ids), [np.int64(token) for token in ids]):
        parser = StreamParser(tokenizer)
        assert parser.feed(several) == events
        assert parser.position == len(ids) - 1
    parser = StreamParser(tokenizer)
    assert [event for token in np.array(ids) for event in parser.feed(token)] == events
    assert parser.feed([]) == [] and parser.finish() == []
    for wrong in ("ab", 1.5, [1.5], None):
        with pytest.raises(TypeError):
            StreamParser(tokenizer).feed(wrong)  # type: ignore[arg-type]


def test_the_role_that_is_known(tokenizer: Tokenizer) -> None:
    parser = StreamParser(tokenizer)
    roles = []
    for token in ids_of("<|channel|>final<|message|>x<|end|><|start|>user<|message|>y", tokenizer):
        parser.feed(token)
        roles.append(parser.current_role)
    assert roles == [*[Role.ASSISTANT] * 4, None, None, None, Role.USER, Role.USER]


REPAIRS = {
    RepairKind.MISSING_START: "<|end|>assistant<|message|>x",
    RepairKind.MISSING_ROLE: "<|start|><|channel|>final<|message|>x",
    RepairKind.REPEATED_ROLE: "<|start|>assistantassistant<|message|>x",
    RepairKind.ODD_ROLE: "<|start|>Assistant<|message|>x",
    RepairKind.MISSING_MESSAGE: "<|channel|>analysis x<|end|>",
    RepairKind.MISSING_END: "<|message|>x<|start|>",
    RepairKind.EMPTY_MESSAGE: "<|message|><|start|>",
    RepairKind.DROPPED_HEADER: "<|channel|>final<|end|>",
    RepairKind.CUT_HEADER: "<|channel|>final x",
    RepairKind.DROPPED_TEXT: " to=f ...<|call|>",
    RepairKind.TEXT_AFTER_RETURN: "<|message|>x<|return|>x",
    RepairKind.STRAY_STOP: "<|message|>x<|end|><|end|>",
    RepairKind.STRAY_TOKEN: "<|message|>x<|message|>",
    RepairKind.RESERVED_TOKEN: "<|reserved_200018|>",
    RepairKind.CHANNEL_NAME: "<|channel|>final?<|message|>x",
    RepairKind.EMPTY_CHANNEL: "<|channel|><|message|>x",
    RepairKind.BARE_CHANNEL: "final<|message|>x",
    RepairKind.REPEATED_CHANNEL: "<|channel|>final<|channel|>final<|message|>x",
    RepairKind.REPEATED_RECIPIENT: " to=f to=g<|message|>x",
    RepairKind.EMPTY_RECIPIENT: " to=<|message|>x",
    RepairKind.SPACED_RECIPIENT: " to= f<|message|>x",
    RepairKind.REPEATED_CONTENT_TYPE: " json code<|message|>x",
    RepairKind.EMPTY_CONTENT_TYPE: "<|constrain|><|message|>x",
    RepairKind.GLUED_WORDS: "<|channel|>finaljson<|message|>x",
    RepairKind.JUNK: "<|channel|>final oh<|message|>x",
}
BY_ID = {RepairKind.UNKNOWN_TOKEN: [10**9], RepairKind.INVALID_UTF8: [200008, 9552, 9552]}


@pytest.mark.parametrize("kind", [*REPAIRS, *BY_ID])
def test_every_kind_of_repair(kind: RepairKind, tokenizer: Tokenizer) -> None:
    ids = BY_ID[kind] if kind in BY_ID else ids_of(REPAIRS[kind], tokenizer)
    assert kind in [repair.kind for repair in parsed(ids, tokenizer, "assistant")[0].repairs]


def test_every_kind_is_documented() -> None:
    rows = [line for line in (events.__doc__ or "").splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[1:]] == [
        str(kind) for kind in RepairKind
    ]
    # the last is tested with calls
    assert set(RepairKind) == {
        *REPAIRS,
        *BY_ID,
        RepairKind.ARGUMENTS,
    }


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
    for junk in ([10**9], [-1], [*tokenizer.encode("🤷")[:1], 10**9]):
        parser, _ = parsed([*body, *junk, *tokenizer.encode("b")], tokenizer, "assistant")
        assert parser.messages[0].content == "a" + "\ufffd" * len(junk) + "b"


def test_missing_specials_are_named(small_tokenizer: Tokenizer) -> None:
    ids = {bytes([byte]): byte for byte in range(256)}
    with pytest.raises(TokenizerError, match=r"<\|start\|>"):
        StreamParser(Tokenizer(ids, {}, small_tokenizer.pattern))
    with pytest.raises(HarmonyError, match="unknown role"):
        StreamParser(small_tokenizer, "helper")  # type: ignore[arg-type]
