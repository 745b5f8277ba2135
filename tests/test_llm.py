"""`ossia.load` and what one does with it, on a tiny random model: logits, sampling, chat."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import CONTEXT, Script, call, final, scripted, thought, write_endless, write_tiny

import ossia
from ossia.engine import SampledToken, SamplingParams
from ossia.errors import (
    CONTEXT_EXCEEDED,
    CheckpointError,
    HarmonyError,
    ModelNotFoundError,
    RequestError,
    TokenizerError,
)
from ossia.harmony import Conversation, DeveloperContent, FunctionTool, Message, Role, SystemContent
from ossia.llm import LLM, sampling_defaults, to_conversation
from ossia.turn.events import TurnEnd

TOKENS = [3, 141, 59, 26, 53, 58, 97, 93, 238, 46, 264, 33, 83, 279, 50, 288, 41, 97, 169, 39, 93]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def llm(tiny: Path) -> LLM:
    return ossia.load(tiny, dtype="float32")


@pytest.fixture(scope="module")
def endless(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return ossia.load(write_endless(tmp_path_factory.mktemp("models") / "endless", tiny))


# ---- loading ----


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="neither a folder here nor a model name"):
        ossia.load("no-such-model")
    with pytest.raises(ModelNotFoundError, match="neither a folder here nor"):
        ossia.load("a b/c d")
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors"):
        ossia.load(tmp_path)
    with pytest.raises(ModelNotFoundError, match="hf download openai/gpt-oss-20b"):
        ossia.load("gpt-oss-20b")  # the tests run offline


def test_a_download_that_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    broken = next(base for base in HfHubHTTPError.__mro__ if base.__module__.startswith("httpx"))

    def download(*_: Any, **__: Any) -> None:
        raise broken("the read operation timed out")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(ModelNotFoundError, match="broke off: the read operation timed out"):
        ossia.load("openai/gpt-oss-20b")


def test_devices(tiny: Path) -> None:
    with pytest.raises(RequestError, match="'toaster' is no device"):
        ossia.load(tiny, device="toaster")
    if not torch.cuda.is_available():
        with pytest.raises(ModelNotFoundError, match="no CUDA device"):
            ossia.load(tiny, device="cuda")


def test_without_a_tokenizer_ids_still_work(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer.json"))
    bare = ossia.load(tmp_path / "bare")
    assert len(list(bare.generate([1, 2, 3], max_tokens=2))) == 2
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        bare.chat("Hi").result()


@pytest.mark.parametrize(
    ("recommended", "params"),
    [
        (None, SamplingParams()),
        ({"do_sample": False, "temperature": 0.7}, SamplingParams(temperature=0.0)),
        ({"do_sample": True, "temperature": 0.7, "top_p": None}, SamplingParams(temperature=0.7)),
        ({"top_k": 50, "eos_token_id": [1, 2]}, SamplingParams(top_k=50)),
    ],
)
def test_sampling_defaults(tmp_path: Path, recommended: Any, params: SamplingParams) -> None:
    if recommended is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(recommended))
    assert sampling_defaults(tmp_path) == params


# ---- logits ----


@pytest.mark.parametrize("chunks", [[18, 1, 1, 1], [1] * 21, [5, 16], [21], [8, 9, 4]])
def test_logits_in_chunks_are_those_of_one_pass(llm: LLM, chunks: list[int]) -> None:
    """Longer than the window and with pages that are released on the way."""
    whole, pieces = llm.logits(TOKENS), llm.logits(TOKENS, chunks=chunks)
    assert whole.shape == (len(TOKENS), llm.config.vocab_size) and whole.dtype == np.float32
    np.testing.assert_allclose(pieces, whole, atol=1e-4, rtol=0)


def test_logits_of_some_rows(llm: LLM) -> None:
    whole = llm.logits(TOKENS)
    np.testing.assert_allclose(llm.logits(TOKENS, rows=[-1, 0, 5]), whole[[-1, 0, 5]], atol=1e-5)
    np.testing.assert_allclose(llm.logits(TOKENS, rows=[2], chunks=[20, 1]), whole[[2]], atol=1e-4)


def test_logits_refuse_what_makes_no_sense(llm: LLM) -> None:
    wrong: list[tuple[list[int], dict[str, Any], str]] = [
        ([], {}, "at least one"),
        ([1, -1], {}, "token id -1 is outside the vocabulary"),
        ([llm.config.vocab_size], {}, "outside the vocabulary"),
        ([1, 2], {"rows": [2]}, "row 2 is outside the 2 tokens"),
        ([1, 2], {"rows": [-3]}, "row -3"),
        ([1, 2, 3], {"chunks": [1, 1]}, "add up to 3"),
        ([1, 2, 3], {"chunks": [3, 0]}, "must be positive"),
        ([1, 2, 3], {"chunks": []}, "add up to 3"),
    ]
    for tokens, options, said in wrong:
        with pytest.raises(RequestError, match=said):
            llm.logits(tokens, **options)


# ---- generate ----


def test_greedy_takes_the_likeliest_token(llm: LLM) -> None:
    generation = llm.generate(TOKENS, temperature=0, max_tokens=6, stop_ids=frozenset())
    ids = list(generation)
    assert ids == generation.ids and len(ids) == 6 and generation.finish_reason == "length"
    logits = llm.logits([*TOKENS, *ids])[len(TOKENS) - 1 : -1]
    assert logits.argmax(-1).tolist() == ids
    logprobs = torch.from_numpy(logits).log_softmax(-1)[torch.arange(6), torch.tensor(ids)]
    np.testing.assert_allclose(generation.logprobs, logprobs, atol=1e-4)


def test_a_seed_gives_the_same_tokens_whatever_else_runs(llm: LLM) -> None:
    sampling = {"temperature": 1.0, "max_tokens": 12, "stop_ids": frozenset()}
    alone = [list(llm.generate(TOKENS, seed=seed, **sampling)) for seed in (1, 2)]
    assert alone[0] != alone[1] and alone[0] == list(llm.generate(TOKENS, seed=1, **sampling))
    in_turns = zip(*(llm.generate(TOKENS, seed=seed, **sampling) for seed in (1, 2)), strict=True)
    assert [list(ids) for ids in zip(*in_turns, strict=True)] == alone
    assert list(llm.generate(TOKENS, **sampling)) != list(llm.generate(TOKENS, **sampling))


def test_a_stop_token_ends_and_is_the_last(llm: LLM) -> None:
    greedy = list(llm.generate(TOKENS, temperature=0, max_tokens=8, stop_ids=frozenset()))
    generation = llm.generate(TOKENS, temperature=0, max_tokens=8, stop_ids=frozenset(greedy[3:4]))
    assert list(generation) == greedy[: greedy.index(greedy[3]) + 1]
    assert generation.finish_reason == "stop"
    stops = {llm.tokenizer.special(name) for name in ("<|return|>", "<|call|>", "<|endoftext|>")}
    assert (
        llm.params().stop_ids == stops and llm.params(stop_ids=frozenset()).stop_ids == frozenset()
    )


def test_logits_may_go_beyond_the_context(llm: LLM) -> None:
    assert llm.logits([1] * (CONTEXT + 5), rows=[-1]).shape == (1, llm.config.vocab_size)


def test_sampling_ends_where_the_context_does(endless: LLM) -> None:
    generation = endless.generate([7] * (CONTEXT - 3))
    assert len(list(generation)) == 3 and generation.finish_reason == "length"
    with pytest.raises(RequestError, match=f"the context holds {CONTEXT}"):
        list(endless.generate([7] * CONTEXT))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1}, {"temperature": float("nan")}, {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.5}, {"top_k": -1}, {"min_p": 2.0}, {"max_tokens": 0}, {"temprature": 1.0},
    ],
)  # fmt: skip
def test_sampling_values_that_make_no_sense(llm: LLM, wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        llm.generate(TOKENS, **wrong)
    with pytest.raises(RequestError):
        llm.chat("Hi", **wrong)
    with pytest.raises(RequestError, match="at least one"):
        llm.generate([])


# ---- chat ----


def test_chat_runs_functions_and_goes_on(tiny: Path) -> None:
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    llm, script = scripted(
        tiny, thought("Add.") + call("add", '{"a": 2, "b": 3}'), final("5"), final("Bye")
    )
    chat = llm.chat(
        "2 + 3?", tools=[add], effort="high", instructions="Be brief.", date="2025-08-05"
    )
    end = list(chat)[-1]
    assert isinstance(end, TurnEnd) and end is chat.result() and end.text == "5"
    first = script.prompts[0]
    for part in (
        "Current date: 2025-08-05",
        "Reasoning: high",
        "# Instructions\n\nBe brief.",
        "// Adds two",
    ):
        assert part in first
    messages = (*chat.conversation.messages, Message(Role.USER, "Thanks"))
    assert llm.chat(Conversation(messages), tools=[add]).result().text == "Bye"
    assert script.prompts[2].count("type add = (") == 1, "what is declared is not declared again"
    assert "Add." not in script.prompts[2], "reasoning of a finished turn is dropped"


def test_chat_takes_messages_in_every_form(tiny: Path) -> None:
    llm, script = scripted(tiny, *[final("ok")] * 4)
    dicts = [{"role": "system", "content": "Rhyme."}, {"role": "user", "content": "Hi"}]
    assert llm.chat(dicts, date=None).result().text == "ok"
    assert "Rhyme." in script.prompts[0] and "Current date" not in script.prompts[0]
    llm.chat([Message(Role.USER, "Hi")], date=None).result()
    llm.chat(
        Conversation((Message(Role.SYSTEM, SystemContent(effort="low")), Message(Role.USER, "Hi")))
    ).result()
    assert "Reasoning: medium" in script.prompts[1] and "Reasoning: low" in script.prompts[2]
    llm.chat("Hi", date=None).result()
    assert script.prompts[3] == script.prompts[1]


def test_conversations_that_contradict_the_arguments(llm: LLM) -> None:
    developer = Message(Role.DEVELOPER, DeveloperContent("Be kind."))
    own = Conversation((Message(Role.SYSTEM, SystemContent()), developer, Message(Role.USER, "Hi")))
    with pytest.raises(RequestError, match="developer message of its own"):
        llm.chat(own, instructions="Be rude.")
    with pytest.raises(RequestError, match="developer message of its own"):
        to_conversation(own, SystemContent(), DeveloperContent(tools=(FunctionTool("f"),)))
    with pytest.raises(RequestError, match="not a mixture"):
        llm.chat([Message(Role.USER, "Hi"), {"role": "user", "content": "Hi"}])
    with pytest.raises(HarmonyError, match="unknown reasoning effort"):
        llm.chat("Hi", effort="enormous")  # type: ignore[arg-type]
    with pytest.raises(HarmonyError, match=r"messages\[0\]: role must be one of"):
        llm.chat([{"role": "robot", "content": "Hi"}])


def test_chat_can_be_stopped(endless: LLM) -> None:
    asked = iter([False, False, True])
    end = endless.chat("Hi", stop=lambda: next(asked)).result()
    assert end.reason == "length" and end.completion_tokens == 3
    assert not endless.engine.has_work(), "what was stopped gives its cache back"
    end = endless.chat("Hi", max_tokens=5).result()
    assert end.reason == "length" and end.completion_tokens == 5


def test_a_chat_that_is_closed_stops_sampling(tiny: Path) -> None:
    ended = []

    class Watched(Script):
        def generate(self, *asked: Any) -> Iterator[SampledToken]:
            try:
                yield from super().generate(*asked)
            finally:
                ended.append(True)

    llm, script = scripted(tiny)
    llm.__dict__["engine"] = Watched(script.tokenizer, thought("I think"))
    chat = llm.chat("Hi")
    next(iter(chat))
    assert not ended
    chat.close()
    assert ended


def test_a_conversation_longer_than_the_context(llm: LLM) -> None:
    with pytest.raises(RequestError, match=f"the context holds {CONTEXT}"):
        llm.chat("apple " * CONTEXT).result()


def test_a_context_that_is_full_after_a_tool_ends_the_turn(tiny: Path) -> None:
    """What was said before is kept."""

    class Small(Script):
        def generate(self, prompt: Any, *asked: Any) -> Iterator[SampledToken]:
            if self.prompts:
                raise RequestError("the context holds 9", "prompt", CONTEXT_EXCEEDED)
            yield from super().generate(prompt, *asked)

    def look() -> str:
        return "a lot"

    llm, script = scripted(tiny)
    llm.__dict__["engine"] = Small(script.tokenizer, call("look", "{}"))
    end = llm.chat("Hi", tools=look).result()
    assert end.reason == "length" and [m.text for m in end.messages] == ["{}", "a lot"]


def test_nano_answers() -> None:
    """The embedded model, as a user meets it first."""
    end = ossia.load().chat("What is 37 + 48?").result()
    assert end.reason == "stop" and end.reasoning and "85" in end.text


def test_odd_forms_of_a_conversation(llm: LLM) -> None:
    one = Message(Role.USER, "apple")
    assert llm.chat(one, max_tokens=1).result().completion_tokens == 1
    with pytest.raises(RequestError, match="empty"):
        llm.chat([])
    with pytest.raises(RequestError, match="without code"):
        llm.chat("apple", tools=[{"type": "function", "function": {"name": "f"}}])
    first = Message(Role.SYSTEM, SystemContent(current_date="2024-01-01", effort="low"))
    chat = llm.chat(Conversation((first, one)), effort="high", max_tokens=1)
    assert chat.conversation.messages[0].content == SystemContent(
        current_date="2024-01-01", effort="high"
    )
    again = llm.chat(
        llm.chat(one, instructions="Be kind.", max_tokens=1).conversation,
        instructions="Be kind.",
        max_tokens=1,
    )
    assert [m.role for m in again.conversation.messages].count(Role.DEVELOPER) == 1


def test_a_bare_function_is_a_tool(llm: LLM) -> None:
    def now() -> str:
        """The time."""
        return "noon"

    messages = llm.chat("apple", tools=now, max_tokens=1).conversation.messages
    assert [t.name for t in messages[1].content.tools] == ["now"]  # type: ignore[union-attr]


def test_a_closed_generation_leaves_nothing_behind(llm: LLM) -> None:
    generation = llm.generate(TOKENS, max_tokens=50)
    next(generation)
    generation.close()
    assert not llm.engine.has_work()
