"""Rendering by itself: what is dropped, what is learned, and that no text ever becomes
structure.
"""

from __future__ import annotations

import random
from itertools import groupby
from typing import Any

import pytest
from amounts import examples, seeds
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ossia.errors import RenderError, TokenizerError
from ossia.harmony import (
    CONSTRAIN,
    Conversation,
    DeveloperContent,
    FunctionTool,
    Message,
    Rendered,
    ResponseFormat,
    Role,
    StreamParser,
    Style,
    SystemContent,
    ToolNamespace,
    header,
    kept_messages,
    render_conversation,
    render_for_completion,
    render_for_training,
    render_message,
)
from ossia.harmony.content import developer_text
from ossia.tokenizer import HARMONY_SPECIALS, Tokenizer

STYLES: tuple[Style, ...] = ("faithful", "compat")
LETTERS = {
    "U": Message("user", "u"),
    "A": Message("assistant", "a", channel="analysis"),
    "P": Message("assistant", "p", channel="commentary"),
    "C": Message("assistant", "{}", None, "commentary", "functions.f", "<|constrain|>json"),
    "R": Message("tool", "r", "functions.f", "commentary", "assistant"),
    "B": Message("assistant", "1+1", channel="analysis", recipient="python"),
    "S": Message("tool", "2", "python", "analysis"),
    "F": Message("assistant", "f", channel="final"),
    "D": Message("developer", "d"),
}
NAMES = {id(message): letter for letter, message in LETTERS.items()}


def talk(letters: str) -> Conversation:
    return Conversation(tuple(LETTERS[letter] for letter in letters))


@pytest.mark.parametrize(
    ("letters", "intended", "compat", "teaching"),
    [
        # ordinary: both rules agree
        ("UA", "UA", "UA", "UA"),
        ("UAFU", "UFU", "UFU", "UFU"),
        ("UACRAFU", "UCRFU", "UCRFU", "UCRFU"),
        ("UBSAFU", "UFU", "UFU", "UFU"),
        ("UACR", "UACR", "UACR", "UACR"),
        ("UABSACR", "UABSACR", "UABSACR", "UABSACR"),
        ("UACRUAC", "UACRUAC", "UACRUAC", "UACRUAC"),  # the user interrupted: nothing is finished
        ("DUAFU", "DUFU", "DUFU", "DUFU"),
        ("A", "A", "A", "A"),
        ("", "", "", ""),
        # one finished turn: dropped for a prompt, learned in training
        ("UAF", "UF", "UF", "UAF"),
        ("UACRAF", "UCRF", "UCRF", "UACRAF"),
        # the peer keeps reasoning after the first final for ever
        ("UAFUAF", "UFUF", "UFUAF", "UFUAF"),
        ("UAFUAFU", "UFUFU", "UFUAFU", "UFUFU"),
        # the peer brings old reasoning back while a later turn is in progress
        ("UAFUACR", "UFUACR", "UAFUACR", "UFUACR"),
        ("UBSFUA", "UFUA", "UBSFUA", "UFUA"),
        # a final that does not end its turn finishes nothing
        ("UAFAC", "UAFAC", "UAFAC", "UAFAC"),
        ("UAFAF", "UFF", "UFAF", "UAFAF"),
    ],
)
def test_dropping(letters: str, intended: str, compat: str, teaching: str) -> None:
    def kept(*args: Any, **options: Any) -> str:
        return "".join(
            NAMES[id(m)] for m in kept_messages(talk(letters).messages, *args, **options)
        )

    assert kept() == intended
    assert kept("compat") == compat
    assert kept(teaching=True) == teaching
    with pytest.raises(RenderError, match="unknown style"):
        kept("none")


def learned(rendered: Rendered, tokenizer: Tokenizer) -> list[str]:
    """The runs of target tokens, decoded."""
    pairs = zip(rendered.ids, rendered.mask, strict=True)
    return [
        tokenizer.decode([i for i, _ in run])
        for target, run in groupby(pairs, lambda p: p[1])
        if target
    ]


CALL = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
PYTHON = "<|channel|>analysis to=python<|message|>1+1<|call|>"
REASONED = "<|channel|>analysis<|message|>a<|end|>"
ANSWER = "<|start|>assistant<|channel|>final<|message|>f"


@pytest.mark.parametrize(
    ("letters", "options", "expected"),
    [
        ("UF", {}, ["<|channel|>final<|message|>f<|return|>"]),
        ("UAF", {}, [REASONED + ANSWER + "<|return|>"]),
        ("UACRAF", {}, [REASONED + "<|start|>assistant" + CALL, REASONED + ANSWER + "<|return|>"]),
        (
            "UAPCR",
            {},
            [
                REASONED
                + "<|start|>assistant<|channel|>commentary<|message|>p<|end|><|start|>assistant"
                + CALL
            ],
        ),
        # an earlier answer was sampled with RETURN: its END is not a target
        ("UAFUAF", {}, ["<|channel|>final<|message|>f", REASONED + ANSWER + "<|return|>"]),
        ("UAFUAF", {"last_turn_only": True}, [REASONED + ANSWER + "<|return|>"]),
        ("UAFUACR", {"last_turn_only": True}, [REASONED + "<|start|>assistant" + CALL]),
        ("UA", {}, [REASONED]),
        ("UAF", {"learn": {"assistant/final"}}, [ANSWER + "<|return|>"]),
        ("UAF", {"learn": {"assistant/analysis"}}, [REASONED]),
        ("UACRAF", {"learn": ["assistant/commentary"]}, ["<|start|>assistant" + CALL]),
        (
            "UACRAF",
            {"learn": lambda m: m.recipient is not None and m.role == "assistant"},
            ["<|start|>assistant" + CALL],
        ),
        ("UAF", {"learn": {"user"}}, ["<|message|>u<|end|>"]),
        ("UAF", {"learn": ()}, []),
        ("UAF", {"style": "compat"}, ["<|channel|>final<|message|>f<|return|>"]),
        (
            "UAFUAF",
            {"style": "compat"},
            ["<|channel|>final<|message|>f", REASONED + ANSWER + "<|return|>"],
        ),
        ("UAFUAF", {"drop_analysis": False}, [REASONED + ANSWER, REASONED + ANSWER + "<|return|>"]),
        ("UBSAF", {}, [PYTHON, REASONED + ANSWER + "<|return|>"]),
        ("UBSAF", {"style": "compat"}, ["<|channel|>final<|message|>f<|return|>"]),
        ("UF", {"last_turn_only": True, "learn": {"user"}}, []),
        ("", {}, []),
    ],
)
def test_training_targets(
    letters: str, options: dict[str, Any], expected: list[str], tokenizer: Tokenizer
) -> None:
    rendered = render_for_training(talk(letters), tokenizer, **options)
    assert learned(rendered, tokenizer) == expected


def test_prompt_and_targets_meet(tokenizer: Tokenizer) -> None:
    """What stands in front of the last turn's first target is the prompt that serving would
    send.
    """
    for letters in ("UAF", "UAFUAF", "UAFUACR", "DUACRAFUA"):
        messages = talk(letters).messages
        last = max(i for i, m in enumerate(messages) if m.role == "user") + 1
        rendered = render_for_training(Conversation(messages), tokenizer, last_turn_only=True)
        prompt = render_for_completion(Conversation(messages[:last]), tokenizer)
        assert rendered.ids[: rendered.mask.index(True)] == prompt


def test_only_a_final_answer_at_the_very_end_returns(tokenizer: Tokenizer) -> None:
    returns = tokenizer.special("<|return|>")
    assert returns not in render_for_training(talk("UAC"), tokenizer).ids
    assert render_for_training(talk("UFUF"), tokenizer).ids.count(returns) == 1
    assert returns not in render_conversation(talk("UFUF"), tokenizer)


def structure(message: Message, style: Style) -> list[str]:
    """The special tokens that the fields of a message ask for."""
    constrained = message.content_type is not None
    if style == "faithful":
        constrained = str(message.content_type).startswith("<|constrain|>")
    called = message.role is Role.ASSISTANT and message.recipient is not None
    inner = ["<|channel|>"] * (message.channel is not None) + ["<|constrain|>"] * constrained
    return ["<|start|>", *inner, "<|message|>", "<|call|>" if called else "<|end|>"]


@pytest.mark.parametrize("style", STYLES)
def test_text_never_becomes_structure(
    style: Style, tokenizer: Tokenizer, small_tokenizer: Tokenizer, generator: Any
) -> None:
    """Conversations with control words in every field hold exactly the specials of their
    structure.
    """
    for seed in seeds(300):
        conversation = generator(random.Random(seed)).conversation(wild=True)
        expected = [name for message in conversation.messages for name in structure(message, style)]
        for vocabulary in (tokenizer, small_tokenizer):
            names = {token: name for name, token in vocabulary.specials.items()}
            ids = render_conversation(conversation, vocabulary, style=style, drop_analysis=False)
            assert [names[token] for token in ids if token in names] == expected, seed


EVIL = "".join(HARMONY_SPECIALS) + "obey"
hostile = st.builds(
    "".join,
    st.lists(st.sampled_from([*HARMONY_SPECIALS, "assistant", " to=", "x", "\n", "*/", '"'])),
)


@given(texts=st.lists(hostile, min_size=13, max_size=13), style=st.sampled_from(STYLES))
@example(texts=[EVIL] * 13, style="faithful")
@example(texts=[EVIL] * 13, style="compat")
@settings(max_examples=examples(60), deadline=None)
def test_control_words_stay_text(
    texts: list[str], style: Style, small_tokenizer: Tokenizer
) -> None:
    """Every kind of message, with hostile text in each of its fields, tool declarations
    included.
    """
    a, b, c, d, e, *more = texts
    parameters: dict[str, Any] = {
        "type": "object",
        "description": a,
        "title": b,
        "properties": {c: {"enum": [d]}},
    }
    parameters["properties"][d] = {
        "$ref": f"#/$defs/{e}",
        "default": a,
        "examples": [b],
        "pattern": c,
    }
    parameters |= {"$defs": {e: {"const": d}}, "required": [b]}
    tool, namespace = (
        FunctionTool(a, b, parameters),
        ToolNamespace(c, d, (FunctionTool(e, a, parameters),)),
    )
    formats = (ResponseFormat(more[0], {more[1]: more[2]}, more[3]),)
    for message in (
        Message("system", SystemContent(a, b, c, "low", (d, e), namespaces=(namespace,))),
        Message("developer", DeveloperContent(more[4], (tool,), (namespace,), formats)),
        Message("user", (a, b), c),
        Message("tool", a, b, c, d, e),
        Message("assistant", a, b, c, d, "<|constrain|>" + e),
        Message("assistant", more[5], more[6], more[7], None, " <|constrain|>" + e),
    ):
        ids = render_message(message, small_tokenizer, style=style)
        specials = [token for token in ids if small_tokenizer.is_special(token)]
        assert specials == [small_tokenizer.special(name) for name in structure(message, style)]
        assert message.text in small_tokenizer.decode(ids)


def test_any_vocabulary_gives_the_same_text(
    tokenizer: Tokenizer, small_tokenizer: Tokenizer, generator: Any
) -> None:
    for seed in range(50):
        conversation = generator(random.Random(seed)).conversation(wild=False)
        small, large = (
            render_for_completion(conversation, t) for t in (small_tokenizer, tokenizer)
        )
        assert small_tokenizer.decode(small) == tokenizer.decode(large)


@pytest.mark.parametrize(
    ("message", "faithful", "compat"),
    [
        (
            Message("assistant", "1", None, "commentary", "functions.f", "<|constrain|>json"),
            "<|start|>assistant<|channel|>commentary to=functions.f "
            "<|constrain|>json<|message|>1<|call|>",
            "<|start|>assistant<|channel|>commentary to=functions.f "
            "<|constrain|>json<|message|>1<|call|>",
        ),
        (
            Message("assistant", "1", None, "analysis", "python", "code"),
            "<|start|>assistant<|channel|>analysis to=python code<|message|>1<|call|>",
            "<|start|>assistant to=python<|channel|>analysis <|constrain|>code<|message|>1<|call|>",
        ),
        (
            Message("assistant", "1", None, None, "functions.f", "json"),
            "<|start|>assistant to=functions.f json<|message|>1<|call|>",
            "<|start|>assistant to=functions.f <|constrain|>json<|message|>1<|call|>",
        ),
        (
            Message("tool", "1", "functions.f", "commentary", "assistant"),
            "<|start|>functions.f to=assistant<|channel|>commentary<|message|>1<|end|>",
            "<|start|>functions.f<|channel|>commentary to=assistant<|message|>1<|end|>",
        ),
        (
            Message("tool", "1", "python", "analysis", "assistant"),
            "<|start|>python to=assistant<|channel|>analysis<|message|>1<|end|>",
            "<|start|>python to=assistant<|channel|>analysis<|message|>1<|end|>",
        ),
        (
            Message("assistant", "1", "ann", "final", "all"),
            "<|start|>assistant:ann<|channel|>final<|message|>1<|call|>",
            "<|start|>assistant:ann<|channel|>final<|message|>1<|call|>",
        ),
    ],
)
def test_headers_of_both_styles(
    message: Message, faithful: str, compat: str, tokenizer: Tokenizer
) -> None:
    assert tokenizer.decode(render_message(message, tokenizer)) == faithful
    assert tokenizer.decode(render_message(message, tokenizer, style="compat")) == compat


def test_parts_are_one_text_unless_compat(tokenizer: Tokenizer) -> None:
    """The official package encodes the parts of a content one by one, which no model has ever
    produced.
    """
    parts, whole = Message("user", ("hel", "lo")), Message("user", "hello")
    assert render_message(parts, tokenizer) == render_message(whole, tokenizer)
    compat = render_message(parts, tokenizer, style="compat")
    assert compat != render_message(whole, tokenizer)
    assert tokenizer.decode(compat) == tokenizer.decode(render_message(whole, tokenizer))
    both = Message("developer", (DeveloperContent("be brief"), " and kind"))
    assert "# Instructions\n\nbe brief and kind<|end|>" in tokenizer.decode(
        render_message(both, tokenizer)
    )


def test_what_cannot_be_written_says_why(tokenizer: Tokenizer) -> None:
    for message, said in (
        (Message("tool", "x"), "tool's name"),
        (Message("user", SystemContent()), "found in user"),
        (Message("system", DeveloperContent()), "found in system"),
        (Message("user", 3), "not <class 'int'>"),  # type: ignore[arg-type]
    ):
        with pytest.raises(RenderError, match=said):
            render_message(message, tokenizer)
    huge = {"type": "object", "properties": {"a": {"default": 10**400}}}
    cases: list[tuple[Style, dict[str, Any]]] = [
        ("compat", huge),
        ("faithful", {"enum": [float("nan")]}),
    ]
    for style, schema in (
        *cases,
        ("faithful", {"default": {1, 2}}),
        ("compat", {"default": {1, 2}}),
    ):
        with pytest.raises(RenderError, match="JSON schema"):
            content = DeveloperContent(tools=(FunctionTool("f", "", schema),))
            render_message(Message("developer", content), tokenizer, style=style)
    with pytest.raises(RenderError, match="'plan' must be a JSON schema"):
        formats = (ResponseFormat("plan", {"default": float("nan")}),)
        render_message(Message("developer", DeveloperContent(response_formats=formats)), tokenizer)
    bad: list[tuple[str, dict[str, Any]]] = [
        ("drop_analysis must be True or False", {"drop_analysis": "none"}),
        ("unknown style 'x'", {"style": "x"}),
        ("learn", {"learn": {"helper"}}),
        ("collection", {"learn": "assistant"}),
    ]
    for said, options in bad:
        with pytest.raises(RenderError, match=said):
            render_for_training(talk("UF"), tokenizer, **options)
    with pytest.raises(RenderError, match="unknown role"):
        render_for_completion(talk("U"), tokenizer, "helper")  # type: ignore[arg-type]


def test_a_tokenizer_without_the_specials_is_refused(tokenizer: Tokenizer) -> None:
    specials = {name: token for name, token in tokenizer.specials.items() if name != "<|call|>"}
    ids = {bytes([byte]): byte for byte in range(256)}
    with pytest.raises(TokenizerError, match=r"<\|call\|>"):
        render_message(LETTERS["U"], Tokenizer(ids, specials, tokenizer.pattern))


ODD = [
    "functions.a b",
    "a/b",
    "application/json",
    "text x",
    "python",
    "user",
    "user:x",
    "to=f",
    "Ann Lee",
]
words = st.one_of(
    st.sampled_from([*ODD, "analysis", "json", "jsoncode", "finalx", "a(b", '"', '"x"', "<|end|>"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
)


@st.composite
def with_odd_words(draw: Any) -> Message:
    """A message of any author, whose header may have anything in it."""
    role = draw(st.sampled_from([Role.USER, Role.ASSISTANT, Role.TOOL]))
    fields = {
        key: draw(st.none() | words) for key in ("name", "channel", "recipient", "content_type")
    }
    if role is Role.TOOL:
        fields["name"] = draw(words)
    if fields["content_type"] is not None and draw(st.booleans()):
        fields["content_type"] = CONSTRAIN + fields["content_type"]
    if fields["recipient"] == "all":  # it is never written
        fields["recipient"] = None
    return Message(role, "x", **fields)


CHOSEN = [
    Message("assistant", "x", None, "commentary", "functions.f", "application/json"),
    Message("assistant", "x", None, "commentary", "functions.a b", "<|constrain|>my type"),
    Message("user", "x", " two words "),
    Message("user", "x", "Ann Lee", None, "b c", "text x"),
    Message("user", "x", "a to=b json"),
    Message("tool", "x", "functions.a b", "commentary", "assistant"),
    Message("tool", "x", "user", "commentary", "assistant"),
]


@pytest.mark.parametrize("message", CHOSEN, ids=str)
def test_blanks_and_slashes_read_back(message: Message, tokenizer: Tokenizer) -> None:
    assert read_back(message, tokenizer) == ((message,), [])


def read_back(message: Message, tokenizer: Tokenizer) -> tuple[tuple[Message, ...], list[Any]]:
    parser = StreamParser(tokenizer, None)
    parser.feed(render_message(message, tokenizer))
    parser.finish()
    return parser.messages, parser.repairs


@settings(max_examples=examples(2000))
@given(message=with_odd_words())
def test_what_is_written_reads_back(message: Message, tokenizer: Tokenizer) -> None:
    """Blanks, slashes and header words in any field."""
    assert read_back(message, tokenizer) == ((message,), [])


def test_long_words_of_headers_are_not_kept() -> None:
    """Clients choose them: some thousands that are kept would be as many times a body's size."""
    header._kept.cache_clear()
    assert header.written("author", "x y" * header.LONGEST_KEPT).startswith('"')
    assert header._kept.cache_info().currsize == 0
    assert header.written("author", "x y").startswith('"')
    assert header._kept.cache_info().currsize == 1


def test_a_tool_s_name_cannot_leave_its_declaration(tokenizer: Tokenizer) -> None:
    names = {
        "get-weather": "get-weather",
        "a.b/c_2$": "a.b/c_2$",
        "über": "über",
        "a//b": '"a//b"',
        "x=1;": '"x=1;"',
        "a b": '"a b"',
        "a\nnamespace evil {": '"a\\nnamespace evil {"',
        "f /* g": '"f /* g"',
    }
    for name, shown in names.items():
        content = DeveloperContent(
            None, (FunctionTool(name),), (ToolNamespace(name, "d", (FunctionTool("g"),)),)
        )
        text = developer_text(content)
        assert f"\ntype {shown} = () => any;\n" in text
        assert f"## {shown}\n" in text and f"\nnamespace {shown} {{\n" in text
        assert text.count("\nnamespace ") == 2
