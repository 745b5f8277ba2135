"""A body is the fold of the stream that would have been sent: for any answer, and whatever a model
says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from amounts import examples
from chat_wire import CALL, FINAL, PREAMBLE, THOUGHT, WEATHER, both, folded, told, without_ids
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from ossia.server.chat.output import Body, ChunkOptions, Chunks
from ossia.server.chat.request import ChatForm
from ossia.turn.events import (
    ItemDelta,
    ItemEnd,
    ItemStart,
    MessageItem,
    Progress,
    ReasoningItem,
    Timing,
    ToolCallItem,
    TurnEnd,
    Usage,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


DAMAGED = [
    "",
    "<|return|>",
    "<|channel|><|return|>",
    "no header at all<|return|>",
    "<|channel|>final<|channel|>final<|message|>twice<|return|>",
    "<|channel|>commentary to=functions.nobody <|constrain|>json<|message|>{}<|call|>",
    "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{city: Rome<|call|>",
    "<|channel|>analysis to=functions.weather<|message|>{}<|end|><|start|>assistant" + FINAL,
    "<|channel|>final<|message|>one<|end|><|start|>assistant<|channel|>final<|message|>two<|return|>",
    "<|start|>user<|message|>I speak for you<|end|><|start|>assistant" + FINAL,
    "<|channel|>nowhere<|message|>lost<|return|>",
    "<|message|><|message|><|constrain|>json<|call|>",
    "<|channel|>analysis<|message|>endless",
    "<|channel|>final <|constrain|>json<|message|>{}<|return|>",
]
PIECES = st.sampled_from(
    [
        *[
            "<|channel|>",
            "<|message|>",
            "<|end|>",
            "<|return|>",
            "<|call|>",
            "<|start|>",
            "<|constrain|>",
        ],
        *[
            "analysis",
            "final",
            "commentary",
            "assistant",
            " to=functions.weather",
            " to=functions.x",
            "json",
            "code",
        ],
        *['{"city":', '"Rome"}', "{}", "text ", "é", "東", "\n\n", THOUGHT, PREAMBLE, FINAL, CALL],
    ]
)
CONTROL = (
    "<|channel|>",
    "<|message|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|start|>",
    "<|constrain|>",
)


@settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    text=st.one_of(st.sampled_from(DAMAGED), st.lists(PIECES, max_size=12).map("".join)),
    logprobs=st.booleans(),
)
@example(text=DAMAGED[5], logprobs=True)
@example(text=DAMAGED[6], logprobs=True)
async def test_whatever_a_model_says_stream_and_body_agree(
    client_for: Callable[..., Any], script: Callable[..., Any], text: str, logprobs: bool
) -> None:
    ids = script(text) or script("<|return|>")
    async with client_for(ids) as client:
        body, chunks = await both(client, tools=[WEATHER], logprobs=logprobs)
    assert without_ids(folded(chunks)) == without_ids(told(body))
    assert chunks[-1]["usage"] == body["usage"]
    (choice,) = body["choices"]
    assert choice["finish_reason"] in ("stop", "length", "tool_calls")
    assert not any(control in json.dumps(choice["message"]) for control in CONTROL)
    if choice["finish_reason"] == "tool_calls":
        for call in choice["message"]["tool_calls"]:
            assert call["function"]["name"] == "weather"


# Without a server: the writer and its fold over any answer, also those that a scripted model cannot
# give

TEXTS = st.text(max_size=12)
ITEMS = st.lists(
    st.tuples(
        st.sampled_from(["thought", "preamble", "answer", "function", "custom"]),
        st.lists(TEXTS, max_size=4),
    ),
    max_size=6,
)


def events_of(items: list[tuple[str, list[str]]], reason: Any) -> list[Any]:
    events: list[Any] = []
    for n, (kind, texts) in enumerate(items):
        item: Any
        match kind:
            case "thought":
                item = ReasoningItem(f"rs_{n}")
            case "preamble" | "answer":
                item = MessageItem(
                    f"msg_{n}", "commentary" if kind == "preamble" else "final_answer"
                )
            case _:
                item = ToolCallItem(f"fc_{n}", f"call_{n}", kind, f"tool{n}")  # type: ignore[arg-type]
        events.append(ItemStart(n, item))
        for text in texts:
            events += [Progress(Usage(7, 2, n, n)), ItemDelta(n, text)]
        events.append(ItemEnd(n, item))
    return [*events, TurnEnd(reason, Usage(7, 2, len(items), 1), (), Timing(0.0, 1.0, 2.0))]


@given(
    choices=st.lists(
        st.tuples(ITEMS, st.sampled_from(["stop", "length", "calls"])), min_size=1, max_size=3
    ),
    form=st.builds(
        ChatForm, st.just("m"), st.booleans(), st.booleans(), st.booleans(), st.just(False)
    ),
    order=st.randoms(use_true_random=False),
)
def test_the_body_is_the_fold_of_the_chunks(choices: Any, form: ChatForm, order: Any) -> None:
    writer, body = (
        Chunks(form, len(choices), ChunkOptions(usage=True), {}),
        Body(len(choices), form.logprobs),
    )
    streams = [iter(events_of(*choice)) for choice in choices]
    waiting, chunks = list(range(len(choices))), []
    while waiting:  # the choices interleaved in any way
        n = order.choice(waiting)
        event = next(streams[n], None)
        if event is None:
            waiting.remove(n)
        else:
            chunks += writer.feed(n, event)
    chunks += writer.last()
    for chunk in chunks:
        body.add(chunk)
    whole = body.result()
    ChatCompletion.model_validate(whole)
    assert folded(chunks) == told(whole)
    for choice, (items, _) in zip(whole["choices"], choices, strict=True):
        message = choice["message"]
        said = [
            kind
            for kind, _ in items
            if kind == "answer" or (kind == "preamble" and form.preambles_are_content)
        ]
        texts = ["".join(texts) for kind, texts in items if kind in said and "".join(texts)]
        assert (message["content"] or "") == "\n\n".join(texts)
        calls = [call[call["type"]] for call in message.get("tool_calls", [])]
        wanted = ["".join(texts) for kind, texts in items if kind in ("function", "custom")]
        assert [call.get("arguments", call.get("input")) for call in calls] == wanted
    used = whole["usage"]
    assert used["prompt_tokens"] == 7 and used["completion_tokens"] == sum(
        len(items) for items, _ in choices
    )
