"""One answer's events, from whatever tokens a model may say: items, calls, retries, stop strings,
usage.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answer_events import ASKED, SAID, THOUGHT, WEATHER, Damage, Folded, collected, fold
from harmony_streams import Streams

from ossia.config import ModelConfig
from ossia.engine.request import SamplingParams
from ossia.errors import ToolError
from ossia.harmony import (
    Conversation,
    DeveloperContent,
    FunctionTool,
    Message,
    RepairKind,
    Role,
    ToolNamespace,
)
from ossia.server import ScriptedEngine
from ossia.server.answer import Answerer, AnswerRequest
from ossia.server.wire.errors import ApiError
from ossia.server.worker import EngineWorker
from ossia.tokenizer import Tokenizer
from ossia.tools import SessionKey, Toolbox, ToolChoice, ToolResult
from ossia.tools.kinds import BROWSER
from ossia.tools.protocol import MaybeAwaitable
from ossia.tools.toolbox import DeclaredCustom
from ossia.turn.events import (
    BuiltinCallItem,
    CallStart,
    ItemDelta,
    ItemEnd,
    ItemStart,
    MessageItem,
    Progress,
    ReasoningItem,
    ToolCallItem,
    TurnEvent,
    Usage,
)
from ossia.turn.targets import Grammars

CORPUS = json.loads((Path(__file__).parents[1] / "harmony" / "harmony_malformed.json").read_text())
TOOLS = Toolbox(functions=(WEATHER,))
CALL = (
    '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"place": '
    '"Rome"}<|call|>'
)
FINAL = "<|channel|>final<|message|>Fine.<|return|>"


@asynccontextmanager
async def answering(
    tokenizer: Tokenizer,
    scripts: Any,
    config: ModelConfig | None = None,
    delay: float = 0.0,
    **limits: int,
) -> AsyncIterator[Answerer]:
    worker = EngineWorker(ScriptedEngine(scripts, config, delay))
    worker.start()
    try:
        yield Answerer(worker, tokenizer, **limits)
    finally:
        worker.stop()


async def events_of(
    tokenizer: Tokenizer, texts: Sequence[str | list[int]] | Callable[[list[int]], list[int]],
    config: ModelConfig | None = None, retries: int = 2, rounds: int = 16, **ask: Any,
) -> list[TurnEvent]:  # fmt: skip
    scripts = texts
    if not callable(texts):
        scripts = [
            tokenizer.encode_with_specials(text) if isinstance(text, str) else text
            for text in texts
        ]
    ask = {"conversation": ASKED, "params": SamplingParams(), **ask}
    async with answering(tokenizer, scripts, config, retries=retries, rounds=rounds) as answerer:
        return await collected(answerer.answer(AnswerRequest(**ask)))


def answer(tokenizer: Tokenizer, *texts: str | list[int], **options: Any) -> Folded:
    return fold(asyncio.run(events_of(tokenizer, texts, **options)))


# ---- well-formed answers ----


def test_a_thought_a_preamble_and_an_answer(tokenizer: Tokenizer) -> None:
    folded = answer(
        tokenizer,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>A moment.<|end|>"
        f"<|start|>assistant{FINAL}",
    )
    kinds = [(type(item), item.text) for item in folded.items]
    assert kinds == [(ReasoningItem, "Hm."), (MessageItem, "A moment."), (MessageItem, "Fine.")]
    assert [item.phase for item in folded.items if isinstance(item, MessageItem)] == [
        "commentary",
        "final_answer",
    ]
    assert folded.end is not None and folded.end.reason == "stop" and not folded.end.repairs
    assert [m.channel for m in folded.end.messages] == ["analysis", "commentary", "final"]


def test_a_text_comes_as_it_is_said(tokenizer: Tokenizer) -> None:
    events = asyncio.run(
        events_of(tokenizer, ["<|channel|>final<|message|>one two three four<|return|>"])
    )
    assert len([event for event in events if isinstance(event, ItemDelta)]) > 3
    assert isinstance(events[-2], ItemEnd)


def test_a_call_is_the_clients(tokenizer: Tokenizer) -> None:
    folded = answer(tokenizer, CALL, tools=TOOLS)
    (called,) = folded.items
    assert isinstance(called, ToolCallItem) and (called.name, called.kind, called.text) == (
        "weather", "function", '{"place": "Rome"}',
    )  # fmt: skip
    assert folded.end is not None and folded.end.reason == "calls"
    assert folded.end.messages[-1].recipient == "functions.weather"


def test_several_calls_in_one_sample(tokenizer: Tokenizer) -> None:
    folded = answer(
        tokenizer, CALL.replace("<|call|>", "<|end|>") + "<|start|>assistant" + CALL, tools=TOOLS
    )
    assert [item.name for item in folded.items if isinstance(item, ToolCallItem)] == [
        "weather",
        "weather",
    ]
    assert folded.end is not None and folded.end.reason == "calls"


def test_custom_and_namespaced_tools(tokenizer: Tokenizer) -> None:
    spaces = (ToolNamespace("team", None, (FunctionTool("spawn"),)),)
    tools = Toolbox(custom=(DeclaredCustom("patch"),), namespaces=spaces)
    patch = "<|channel|>commentary to=functions.patch<|message|>*** Begin {<|call|>"
    (called,) = answer(tokenizer, patch, tools=tools).items
    assert isinstance(called, ToolCallItem) and (called.kind, called.name, called.text) == (
        "custom",
        "patch",
        "*** Begin {",
    )
    (called,) = answer(
        tokenizer, "<|channel|>commentary to=team.spawn<|message|>{}<|call|>", tools=tools
    ).items
    assert isinstance(called, ToolCallItem) and (called.kind, called.namespace, called.name) == (
        "function",
        "team",
        "spawn",
    )


def test_usage_counts_every_token_once(tokenizer: Tokenizer) -> None:
    text = f"<|channel|>analysis<|message|>Let me think.<|end|><|start|>assistant{FINAL}"
    folded = answer(tokenizer, text)
    assert folded.end is not None
    usage, ids = folded.end.usage, tokenizer.encode_with_specials(text)
    assert usage.completion == len(ids) and usage.total == usage.prompt + len(ids)
    thought = len(tokenizer.encode("Let me think."))
    assert thought <= usage.reasoning <= thought + 1  # the token that ends it may count


def test_progress_is_told_with_every_token(tokenizer: Tokenizer) -> None:
    text = "<|channel|>final<|message|>Hi<|return|>"
    events = asyncio.run(events_of(tokenizer, [text]))
    told = [event for event in events if isinstance(event, Progress)]
    assert [event.usage.completion for event in told] == [1, 2, 3, 4, 5]
    assert all(isinstance(event.usage, Usage) and event.usage.prompt > 0 for event in told)


# ---- the ends of answers ----


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("<|channel|>analysis<|message|>Hm, so", [ReasoningItem]),
        ("<|channel|>final<|message|>The answer", [MessageItem]),
        ('<|channel|>commentary to=functions.weather<|message|>{"place": ', [ToolCallItem]),
        ('<|channel|>commentary to=functions.nope<|message|>{"place": ', []),
        ("<|channel|>commentary to=functions.wea", []),
        ("<|channel|>", []),
    ],
)
def test_an_answer_that_is_cut(tokenizer: Tokenizer, text: str, kinds: list[type]) -> None:
    folded = answer(tokenizer, text, tools=TOOLS)
    assert [type(item) for item in folded.items] == kinds and folded.complete == [False] * len(
        kinds
    )
    assert folded.end is not None and folded.end.reason == "length"


def test_the_most_tokens_are_those_of_all_samples(tokenizer: Tokenizer) -> None:
    wrong = "<|channel|>commentary to=functions.nope<|message|>{}<|call|>"
    first = len(tokenizer.encode_with_specials(wrong))
    params = SamplingParams(max_tokens=first + 4)
    folded = answer(
        tokenizer,
        wrong,
        "<|channel|>final<|message|>one two three<|return|>",
        tools=TOOLS,
        params=params,
    )
    assert (
        folded.end is not None
        and folded.end.usage.completion == first + 4
        and folded.end.reason == "length"
    )
    exact = answer(tokenizer, wrong, FINAL, tools=TOOLS, params=SamplingParams(max_tokens=first))
    assert (
        exact.end is not None
        and exact.end.usage.completion == first
        and exact.end.reason == "length"
    )


@pytest.mark.parametrize(
    ("stop", "said", "found"),
    [
        (("three",), "one two ", "three"),
        (("two three", "one two thx"), "one ", "two three"),
        (("wo", "two"), "one ", "two"),
        (("four five",), "one two three four", None),
        (("o",), "", "o"),
        ((" four",), "one two three", " four"),
    ],
)
def test_stop_strings_end_the_final_answer_only(
    tokenizer: Tokenizer, stop: tuple[str, ...], said: str, found: str | None
) -> None:
    text = "<|channel|>analysis<|message|>one two three four<|end|><|start|>assistant"
    folded = answer(
        tokenizer, text + "<|channel|>final<|message|>one two three four<|return|>", stop=stop
    )
    assert [item.text for item in folded.items] == ["one two three four", said]
    assert folded.end is not None and (folded.end.stopped_by, folded.end.reason) == (found, "stop")


def test_a_stop_string_ends_the_sample(tokenizer: Tokenizer) -> None:
    """What the model would have said behind it is not waited for."""

    async def run() -> tuple[list[TurnEvent], int]:
        ids = tokenizer.encode_with_specials("<|channel|>final<|message|>a STOP" + " and on" * 2000)
        async with answering(tokenizer, [ids], delay=0.001) as answerer:
            events = await collected(
                answerer.answer(AnswerRequest(ASKED, SamplingParams(), stop=("STOP",))), 5
            )
            await asyncio.sleep(0.05)
            return events, answerer.worker.stats().running

    events, running = asyncio.run(run())
    assert fold(events).said == "a " and running == 0


def test_the_model_does_not_go_on_for_others(tokenizer: Tokenizer) -> None:
    text = (
        "<|channel|>final<|message|>Fine.<|end|><|start|>user<|message|>And "
        "now?<|end|><|start|>assistant" + FINAL
    )
    assert answer(tokenizer, text).said == "Fine."
    text = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>user<|message|>Me!<|end|>"
        f"<|start|>assistant{FINAL}"
    )
    assert answer(tokenizer, text).said == "Fine."


# ---- damage ----


@pytest.mark.parametrize("entry", CORPUS, ids=lambda entry: entry["id"])
def test_recorded_damage_gives_well_formed_items(entry: dict[str, Any]) -> None:
    o200k = Tokenizer.o200k_harmony()
    folded = answer(o200k, entry["tokens"], tools=TOOLS, retries=0)
    # control words as plain text are text
    written = "".join(message[4] for message in entry["expected"])
    leaked = [
        name
        for name in o200k.specials
        for item in folded.items
        if name in item.text and name not in written
    ]
    assert not leaked
    messages = [message[:5] for message in entry["expected"]]
    calls = [place for place, message in enumerate(messages) if message[2] is not None]
    for role, channel, _, _, text in messages[: calls[0] if calls else None]:
        if (role, channel) == ("assistant", "final"):
            assert folded.said.startswith(text)
            break


@pytest.mark.parametrize("seed", range(60))
def test_any_stream_gives_well_formed_items(tokenizer: Tokenizer, seed: int) -> None:
    rng, streams = random.Random(seed), Streams.of(tokenizer)
    scripts = [streams.any(rng)[0] or [streams.structure[0]] for _ in range(4)]
    stop = rng.choice([(), ("need", "}"), ("4",)])
    params = SamplingParams(max_tokens=rng.choice([None, 5, 30]), top_logprobs=rng.choice([0, 2]))
    tools = Toolbox(functions=(FunctionTool("f"),))
    answer(tokenizer, *scripts, tools=tools, stop=stop, params=params, logprobs=rng.random() < 0.5)


@pytest.mark.parametrize("seed", range(100))
def test_damage_shows_no_reasoning_and_no_control_token(tokenizer: Tokenizer, seed: int) -> None:
    rng, damage = random.Random(seed), Damage(tokenizer)
    folded = answer(tokenizer, *(damage.turn(rng) for _ in range(4)), tools=TOOLS)
    assert "qwx" not in folded.said
    assert not any(name in item.text for name in tokenizer.specials for item in folded.items)


@pytest.mark.parametrize("header", ["", "<|channel|>", "<|channel|>zzz"])
def test_text_without_a_channel(tokenizer: Tokenizer, header: str) -> None:
    """<|return|> ends answers; anything else that the model does not say to be final is its
    reasoning.
    """
    thinking = (
        f"{header}<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final"
        f"<|message|>{SAID}<|return|>"
    )
    folded = answer(tokenizer, thinking)
    assert [(type(item), item.text) for item in folded.items] == [
        (ReasoningItem, THOUGHT),
        (MessageItem, SAID),
    ]
    folded = answer(tokenizer, f"{header}<|message|>{SAID}<|return|>", stop=(".",))
    assert folded.said == SAID[:-1]
    assert answer(tokenizer, f"{header}<|message|>{THOUGHT}").complete == [False]


# ---- calls that cannot be carried out ----


def test_an_unknown_tool_is_told_to_the_model(tokenizer: Tokenizer) -> None:
    prompts: list[list[int]] = []

    def script(prompt: list[int]) -> list[int]:
        prompts.append(prompt)
        wrong = "<|channel|>commentary to=functions.wether<|message|>{}<|call|>"
        return tokenizer.encode_with_specials(wrong if len(prompts) == 1 else FINAL)

    folded = fold(asyncio.run(events_of(tokenizer, script, tools=TOOLS)))
    assert folded.said == "Fine." and len(folded.items) == 1
    told = tokenizer.decode(prompts[1][len(prompts[0]) :])
    assert "wether" in told and "did you mean 'functions.weather'" in told
    assert folded.end is not None and folded.end.usage.prompt == sum(map(len, prompts))


def test_retries_come_to_an_end(tokenizer: Tokenizer) -> None:
    prompts: list[list[int]] = []

    def script(prompt: list[int]) -> list[int]:
        prompts.append(prompt)
        return tokenizer.encode_with_specials(
            "<|channel|>commentary to=functions.nope<|message|>{}<|call|>"
        )

    folded = fold(asyncio.run(events_of(tokenizer, script, tools=TOOLS, retries=2)))
    assert len(prompts) == 3 and not folded.items
    assert folded.end is not None and folded.end.reason == "stop"


@pytest.mark.parametrize("tail", ["<|call|>", "<|end|>", f"<|end|><|start|>assistant{FINAL}"])
def test_arguments_that_are_no_json(tokenizer: Tokenizer, tail: str) -> None:
    """The model may try again; when it has no more tries, the client gets what it wrote."""
    wrong = f"<|channel|>commentary to=functions.weather<|message|>place: Rome{tail}"
    folded = answer(tokenizer, wrong, CALL, tools=TOOLS)
    assert [item.text for item in folded.items] == ['{"place": "Rome"}']
    if tail != "<|call|>":
        return
    folded = answer(tokenizer, wrong, tools=TOOLS, retries=1)
    assert [item.text for item in folded.items] == ["place: Rome"]
    assert folded.end is not None and folded.end.reason == "calls"


def test_arguments_are_mended_and_said_to_be(tokenizer: Tokenizer) -> None:
    text = '<|channel|>commentary to=functions.weather<|message|>{"place": "Rome",}<|call|>'
    folded = answer(tokenizer, text, tools=TOOLS)
    assert [json.loads(item.text) for item in folded.items] == [{"place": "Rome"}]
    assert folded.end is not None and [r.kind for r in folded.end.repairs] == [RepairKind.ARGUMENTS]
    assert folded.end.messages[-1].text == folded.items[0].text


def test_no_arguments_are_an_empty_object(tokenizer: Tokenizer) -> None:
    folded = answer(
        tokenizer, "<|channel|>commentary to=functions.weather<|message|><|call|>", tools=TOOLS
    )
    assert [item.text for item in folded.items] == ["{}"]


@pytest.mark.parametrize(
    "header",
    ["analysis to=functions.weather", "commentary to=functions.weatherjson", "final to=weather"],
)
def test_the_recipient_decides(tokenizer: Tokenizer, header: str) -> None:
    folded = answer(tokenizer, f"<|channel|>{header}<|message|>{{}}<|call|>", tools=TOOLS)
    assert [item.name for item in folded.items if isinstance(item, ToolCallItem)] == ["weather"]


# ---- tools of the server's own ----


class Clock:
    """A tool that answers, fails as tools may, or fails as they may not."""

    kind = BROWSER
    namespace = ToolNamespace("clock", "Tells the time.", (FunctionTool("now"),))

    def __init__(self, result: ToolResult | Exception) -> None:
        self.result = result
        self.calls: list[tuple[str, str]] = []

    def session(self, key: SessionKey) -> Clock:
        return self

    def action(self, function: str, text: str) -> dict[str, Any] | None:
        return {"type": function}

    def close(self) -> None:
        return None

    def call(self, function: str, text: str, deadline: float | None) -> MaybeAwaitable[ToolResult]:
        return self.run(function, text)

    async def run(self, function: str, text: str) -> ToolResult:
        self.calls.append((function, text))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


NOW = "<|channel|>analysis to=clock.now<|message|>{}<|call|>"


def test_a_tool_of_the_server(tokenizer: Tokenizer) -> None:
    clock = Clock(ToolResult("noon", ({"type": "logs", "logs": "12:00"},)))
    events = asyncio.run(events_of(tokenizer, [NOW, FINAL], tools=Toolbox(builtin=(clock,))))
    folded = fold(events)
    called, said = folded.items
    assert (
        isinstance(called, BuiltinCallItem)
        and called.action == {"type": "now"}
        and not called.failed
    )
    assert called.outputs == ({"type": "logs", "logs": "12:00"},) and said.text == "Fine."
    assert len([event for event in events if isinstance(event, CallStart)]) == 1
    assert clock.calls == [("now", "{}")]
    assert folded.end is not None
    assert [(str(m.role), m.text) for m in folded.end.messages] == [
        ("assistant", "{}"), ("tool", "noon"), ("assistant", "Fine."),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "told"),
    [(ToolError("no clock here"), "no clock here"), (KeyError("x"), "the tool failed")],
)
def test_a_tool_that_fails_is_told_to_the_model(
    tokenizer: Tokenizer, error: Exception, told: str
) -> None:
    folded = answer(tokenizer, NOW, FINAL, tools=Toolbox(builtin=(Clock(error),)))
    called = folded.items[0]
    assert isinstance(called, BuiltinCallItem) and called.failed and folded.said == "Fine."
    assert folded.end is not None and folded.end.messages[1].text == f"error: {told}"


def test_rounds_come_to_an_end(tokenizer: Tokenizer) -> None:
    clock = Clock(ToolResult("noon"))
    folded = answer(tokenizer, NOW, tools=Toolbox(builtin=(clock,)), rounds=3)
    assert len(clock.calls) == 3 and folded.end is not None and folded.end.reason == "stop"


class Held(ScriptedEngine):
    """Holds what the script says to the constraint that comes with the prompt."""

    enforces_constraints = True

    def submit(
        self, prompt: Sequence[int], params: SamplingParams, constraint: Any = None, **more: Any
    ) -> int:
        script = self._scripts[len(self.submitted)]  # type: ignore[index]
        for token in script:
            constraint.advance(token)  # raises for a token that may not come
        return super().submit(prompt, params, constraint, **more)


def test_a_required_call_binds_the_first_one_only(tokenizer: Tokenizer) -> None:
    """Or an answer that has to call a tool of the server's could not end."""
    clock = Clock(ToolResult("noon"))
    tools = Toolbox(builtin=(clock,), choice=ToolChoice("required"))
    grammars = Grammars.of(tools, lambda box: box.grammar(tokenizer, None, None))
    called = NOW.replace("clock.now", "clock.now <|constrain|>json").replace(
        "analysis", "commentary"
    )

    async def run(*texts: str) -> Folded:
        scripts = [tokenizer.encode_with_specials(text) for text in texts]
        worker = EngineWorker(Held(scripts))
        worker.start()
        try:
            request = AnswerRequest(ASKED, SamplingParams(), tools, grammars)
            return fold(await collected(Answerer(worker, tokenizer).answer(request)))
        finally:
            worker.stop()

    folded = asyncio.run(run(called, FINAL))
    assert folded.said == "Fine." and clock.calls == [("now", "{}")]
    with pytest.raises(Exception, match="may not come next"):
        asyncio.run(run(FINAL))


def test_what_the_server_runs_comes_before_what_follows(tokenizer: Tokenizer) -> None:
    early = NOW.replace("<|call|>", "<|end|>") + f"<|start|>assistant{FINAL}"
    folded = answer(tokenizer, early, FINAL, tools=Toolbox(builtin=(Clock(ToolResult("noon")),)))
    assert [type(item) for item in folded.items] == [BuiltinCallItem, MessageItem]


def test_a_context_that_is_full_after_a_tool_ends_the_answer(tokenizer: Tokenizer) -> None:
    config = replace(ModelConfig.preset("gpt-oss-20b"), max_context_length=400)
    tools = Toolbox(builtin=(Clock(ToolResult("noon " * 1000)),))
    folded = answer(tokenizer, NOW, tools=tools, config=config)
    assert folded.end is not None and folded.end.reason == "length" and len(folded.items) == 1


# ---- log-probabilities ----


@pytest.mark.parametrize("stop", [(), ("never said, but alike: é",)])
def test_logprobs_are_those_of_the_text(tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
    text = "Olé 👍, never sad."
    before = (
        '<|channel|>commentary to=functions.weather<|message|>{"a": 1}<|end|><|start|>assistant'
    )
    other = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>user<|message|>What?<|end|>"
        "<|start|>assistant"
    )
    params = SamplingParams(top_logprobs=2)
    script = f"{before}{other}<|channel|>final<|message|>{text}<|return|>"
    folded = answer(tokenizer, script, tools=TOOLS, params=params, logprobs=True, stop=stop)
    said = folded.of(MessageItem)[0]
    assert isinstance(said, MessageItem) and said.text == text
    assert b"".join(one.data for one in said.logprobs).decode() == text
    assert [one.token_id for one in said.logprobs] == tokenizer.encode(text)
    assert all(len(one.top) == 2 and one.top[0].token_id == one.token_id for one in said.logprobs)


def test_logprobs_end_where_a_stop_string_begins(tokenizer: Tokenizer) -> None:
    script = "<|channel|>final<|message|>one two three<|return|>"
    for stop in ("three", " three", "two three", "e two", "ree"):
        said = answer(tokenizer, script, logprobs=True, stop=(stop,)).of(MessageItem)[0]
        assert isinstance(said, MessageItem)
        data = b"".join(one.data for one in said.logprobs).decode()
        assert data.startswith(said.text)
        without_last = b"".join(one.data for one in said.logprobs[:-1]).decode()
        assert len(without_last) < len(said.text), "every token begins in the text"


# ---- refusals and interruptions ----


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_said(tokenizer: Tokenizer) -> None:
    config = replace(ModelConfig.preset("gpt-oss-20b"), max_context_length=20)
    with pytest.raises(ApiError) as refused:
        asked = Conversation((Message(Role.USER, "word " * 100),))
        answer(tokenizer, FINAL, conversation=asked, config=config, prompt_param="input")
    assert (refused.value.status, refused.value.param) == (400, "input")
    assert refused.value.code == "context_length_exceeded"


def test_closing_aborts_at_once(tokenizer: Tokenizer) -> None:
    async def run() -> int:
        ids = tokenizer.encode_with_specials("<|channel|>final<|message|>" + "on " * 5000)
        async with answering(tokenizer, [ids], delay=0.001) as answerer:
            events = answerer.answer(AnswerRequest(ASKED, SamplingParams()))
            async for event in events:
                if isinstance(event, ItemDelta):
                    break
            await events.aclose()
            await asyncio.sleep(0.05)
            return answerer.worker.stats().running

    assert asyncio.run(run()) == 0


def test_cancelling_while_a_tool_runs(tokenizer: Tokenizer) -> None:
    cancelled = asyncio.Event()

    class Slow(Clock):
        async def run(self, function: str, text: str) -> ToolResult:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            raise AssertionError

    async def run() -> None:
        async with answering(tokenizer, [tokenizer.encode_with_specials(NOW)]) as answerer:
            tools = Toolbox(builtin=(Slow(ToolResult("")),))
            task = asyncio.ensure_future(
                collected(answerer.answer(AnswerRequest(ASKED, SamplingParams(), tools=tools)), 60)
            )
            await asyncio.sleep(0.1)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert cancelled.is_set()

    asyncio.run(run())


def test_an_engine_that_stops_is_a_503(tokenizer: Tokenizer) -> None:
    async def run() -> None:
        ids = tokenizer.encode_with_specials("<|channel|>final<|message|>" + "on " * 5000)
        async with answering(tokenizer, [ids], delay=0.001) as answerer:
            with pytest.raises(ApiError) as failed:
                async for event in answerer.answer(AnswerRequest(ASKED, SamplingParams())):
                    if isinstance(event, ItemStart):
                        await asyncio.to_thread(answerer.worker.stop)
            assert failed.value.status == 503 and "Retry-After" in failed.value.headers

    asyncio.run(run())


def test_long_instructions_are_rendered_beside_the_event_loop(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []
    encode = Tokenizer.encode

    def noted(self: Tokenizer, text: str) -> list[int]:
        if len(text) > 20_000:
            threads.append(threading.current_thread() is threading.main_thread())
        return encode(self, text)

    monkeypatch.setattr(Tokenizer, "encode", noted)
    tool = FunctionTool("f", "words " * 5_000)

    async def run() -> None:
        async with answering(tokenizer, [[]]) as answerer:
            for content in (DeveloperContent("words " * 5_000), DeveloperContent(None, (tool,))):
                await answerer.prompt_ids(Conversation((Message(Role.DEVELOPER, content),)))

    asyncio.run(run())
    assert threads == [False, False]
