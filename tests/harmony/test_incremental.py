"""A growing rendered conversation: always equal to rendering at once, at the cost of the new
messages.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from amounts import examples, seeds
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.errors import RenderError, TokenizerError
from ossia.harmony import (
    Conversation,
    DeveloperContent,
    FunctionTool,
    Message,
    RenderedHistory,
    Style,
    SystemContent,
    render_conversation,
    render_for_completion,
)
from ossia.harmony.official.rules import rules_for
from ossia.tokenizer import Tokenizer

STYLES: tuple[Style, ...] = ("faithful", "compat")
TOOLS = Message("developer", DeveloperContent("x", (FunctionTool("f"),)))
TURN = (
    Message("user", "how many?"),
    Message("assistant", "I should look it up", channel="analysis"),
    Message("assistant", "{}", None, "commentary", "functions.f", "<|constrain|>json"),
    Message("tool", "41", "functions.f", "commentary", "assistant"),
    Message("assistant", "now add one", channel="analysis"),
    Message("assistant", "42", channel="final"),
)
# What changes what is shown: turns that finish or do not, reasoning of any role, tools declared
# late.
PIECES = (
    *(
        Message("system", SystemContent()),
        Message("system", SystemContent(), channel="analysis"),
        TOOLS,
        *TURN,
    ),
    *(Message("assistant", "wait", channel="commentary"), Message("user", "why?", channel="final")),
    Message("tool", "17", "python", "analysis", "assistant"),
)


class Counting:
    """A tokenizer that keeps what it was asked to encode."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.special = tokenizer.special
        self._encode = tokenizer.encode
        self.texts: list[str] = []

    def encode(self, text: str) -> list[int]:
        self.texts.append(text)
        return self._encode(text)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("drop", [True, False])
def test_equal_to_rendering_at_once(
    style: Style, drop: bool, small_tokenizer: Tokenizer, generator: Any
) -> None:
    """After every one of random appends: late tools, finished turns, reasoning that compat brings
    back.
    """
    for seed in seeds(300):
        rng = random.Random(seed)
        messages = generator(rng).conversation(wild=seed % 4 == 0, most=16).messages
        history = RenderedHistory(small_tokenizer, style=style, drop_analysis=drop)
        done = 0
        while done < len(messages):
            step = rng.randrange(4)
            history.append(messages[done : done + step])
            done += step
            so_far = Conversation(messages[:done])
            options: dict[str, Any] = {"style": style, "drop_analysis": drop}
            assert history.conversation == so_far
            assert history.ids == render_conversation(so_far, small_tokenizer, **options), seed
            role: Any = rng.choice(["assistant", "user"])
            assert history.ids_for_completion(role) == render_for_completion(
                so_far, small_tokenizer, role, **options
            )


@settings(max_examples=examples(200), deadline=None)
@given(
    style=st.sampled_from(STYLES),
    drop=st.booleans(),
    appends=st.lists(st.lists(st.sampled_from(PIECES), max_size=5), max_size=12),
)
def test_any_appends_are_equal_to_rendering_at_once(
    style: Style, drop: bool, appends: list[list[Message]], small_tokenizer: Tokenizer
) -> None:
    history = RenderedHistory(small_tokenizer, style=style, drop_analysis=drop)
    messages: tuple[Message, ...] = ()
    for added in appends:
        history.append(added)
        messages += tuple(added)
        wanted = render_conversation(
            Conversation(messages), small_tokenizer, style=style, drop_analysis=drop
        )
        assert history.ids == wanted


@given(st.lists(st.sampled_from(PIECES), max_size=24))
def test_reasoning_is_cut_as_the_rules_say(messages: list[Message]) -> None:
    """The rules read once more, from the end of a whole conversation backwards."""
    users = [n for n, message in enumerate(messages) if message.role == "user"]
    ends = [*users, len(messages)]
    begins = [0, *users]
    finished = [
        end
        for begin, end in zip(begins, ends, strict=True)
        if [m.channel for m in messages[begin:end] if m.role == "assistant"][-1:] == ["final"]
    ]
    assert rules_for("faithful").cut.after(messages).index == max(finished, default=0)
    channels = [message.channel for message in messages]
    spoken = [message.channel for message in messages if message.role == "assistant"]
    wanted = channels.index("final") if spoken[-1:] == ["final"] else 0
    assert rules_for("compat").cut.after(messages).index == wanted


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("repeated", [TURN, TURN[1:4]], ids=["turns", "one long turn"])
def test_an_append_costs_the_same_however_long_the_history(
    style: Style, repeated: tuple[Message, ...], small_tokenizer: Tokenizer
) -> None:
    """In steps of the interpreter, for the messages of a turn one by one."""

    def cost(repetitions: int) -> int:
        history = RenderedHistory(small_tokenizer, style=style)
        history.append([Message("system", SystemContent()), TURN[0], *repeated * repetitions])

        def append_one_by_one() -> None:
            for message in repeated:
                history.append([message])

        return interpreter_steps(append_one_by_one)

    assert cost(300) == cost(30)


def interpreter_steps(work: Callable[[], None]) -> int:
    steps = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return steps


@pytest.mark.parametrize("style", STYLES)
def test_only_new_messages_are_encoded(style: Style, small_tokenizer: Tokenizer) -> None:
    counting: Any = Counting(small_tokenizer)
    history = RenderedHistory(counting, style=style)
    for message in (Message("system", SystemContent()), TOOLS, *TURN):
        history.append([message])
    for _ in range(5):
        for message in TURN:
            counting.texts.clear()
            history.append([message])
            history.ids_for_completion()
            assert counting.texts == [message.content]  # the words of its header are known by now
    everything = (Message("system", SystemContent()), TOOLS, *TURN * 6)
    assert history.ids == render_conversation(
        Conversation(everything), small_tokenizer, style=style
    )


def test_what_is_never_shown_is_never_encoded(small_tokenizer: Tokenizer) -> None:
    counting: Any = Counting(small_tokenizer)
    RenderedHistory(counting).append([*TURN, *TURN])
    assert "41" in counting.texts and "now add one" not in counting.texts


def test_late_tools_change_the_system_text_and_nothing_else(small_tokenizer: Tokenizer) -> None:
    counting: Any = Counting(small_tokenizer)
    history = RenderedHistory(counting)
    history.append([Message("system", SystemContent()), *TURN])
    counting.texts.clear()
    history.append([TOOLS])
    system, developer = (text for text in counting.texts if text.startswith(("You are", "# ")))
    assert len(counting.texts) == 3 and counting.texts.count("developer") == 1
    assert "Calls to these tools" in system and "type f" in developer


def test_a_message_that_cannot_be_written_is_not_added(small_tokenizer: Tokenizer) -> None:
    history = RenderedHistory(small_tokenizer)
    history.append([Message("system", SystemContent()), *TURN])
    before = history.ids
    for bad in (Message("tool", "x"), Message("user", SystemContent())):
        with pytest.raises(RenderError):
            history.append([TOOLS, bad])
        assert history.ids == before and len(history.conversation.messages) == len(TURN) + 1
    history.append(TURN)
    assert history.ids == render_conversation(history.conversation, small_tokenizer)
    with pytest.raises(RenderError, match="unknown role"):
        history.ids_for_completion("helper")  # type: ignore[arg-type]
    with pytest.raises(RenderError, match="unknown style"):
        RenderedHistory(small_tokenizer, style="x")  # type: ignore[arg-type]
    with pytest.raises(RenderError, match="drop_analysis must be True or False, not 'none'"):
        RenderedHistory(small_tokenizer, drop_analysis="none")  # type: ignore[arg-type]
    with pytest.raises(TokenizerError):
        RenderedHistory(
            Tokenizer({bytes([byte]): byte for byte in range(256)}, {}, small_tokenizer.pattern)
        )


def test_given_ids_are_the_callers_own(small_tokenizer: Tokenizer) -> None:
    history = RenderedHistory(small_tokenizer)
    history.append(TURN)
    history.ids.clear()
    history.ids_for_completion().clear()
    assert history.ids == render_conversation(Conversation(TURN), small_tokenizer)
