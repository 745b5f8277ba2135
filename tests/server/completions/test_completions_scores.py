"""Log-probabilities of prompts: against the model's logits, on the way through the engine's thread,
and as evaluation harnesses ask for them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from ossia.engine import Engine
from ossia.engine.request import SamplingParams
from ossia.errors import RequestError
from ossia.llm import LLM
from ossia.server import ScriptedEngine, Settings, create_app
from ossia.server.worker import EngineStopped, EngineWorker

TEXT = "The capital of France is Paris, and 2 + 2 = 4. " * 3


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def logprobs_of(llm: LLM, ids: list[int]) -> NDArray[np.float64]:
    logits = llm.logits(ids).astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


@asynccontextmanager
async def nano(llm: LLM, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(
        Engine(llm.model, capacity=4096, **more), llm.tokenizer, Settings(model_name="nano")
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client,
    ):
        yield client


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_the_engine_scores_a_prompt_as_the_model_does(llm: LLM, chunk: int) -> None:
    ids = llm.tokenizer.encode(TEXT)
    engine = Engine(llm.model, capacity=256, max_batch_tokens=chunk)
    parts = list(engine.prompt_logprobs(ids, 3))
    assert [*map(len, parts)][:1] == [min(chunk, len(ids) - 1)]
    scored, wanted = [token for part in parts for token in part], logprobs_of(llm, ids)
    assert [token.token_id for token in scored] == ids[1:]
    for row, token in zip(wanted, scored, strict=False):
        assert token.logprob == pytest.approx(row[token.token_id], abs=1e-4)
        assert [value for _, value in token.top_logprobs] == pytest.approx(
            np.sort(row)[::-1][:3], abs=1e-4
        )
        assert token.top_logprobs[0][1] == max(value for _, value in token.top_logprobs)
    assert not engine.has_work()


def test_what_the_engine_does_not_score(llm: LLM) -> None:
    engine = Engine(llm.model, capacity=256)
    context = engine.config.max_context_length
    for ids, top in (([], 0), ([10**9], 0), ([1] * (context + 1), 0), ([1, 2], 999), ([1, 2], -1)):
        with pytest.raises(RequestError):
            engine.prompt_logprobs(ids, top)
    assert [token for part in engine.prompt_logprobs([5]) for token in part] == []


@pytest.mark.anyio
async def test_scoring_takes_turns_with_steps() -> None:
    """A prompt of many chunks does not keep a running answer waiting, nor one prompt another; one
    that is given up is not read to its end.
    """
    engine, read, order = ScriptedEngine([[1] * 40], delay=0.001), [], []
    inner, step = engine.prompt_logprobs, engine.step

    def slow(prompt: Any, top: int = 0) -> Any:
        for chunk in range(20):
            read.append(prompt[0])
            order.append("score")
            yield from inner(prompt, top) if chunk == 0 else [[]]

    def counted() -> Any:
        order.append("step")
        return step()

    engine.prompt_logprobs, engine.step = slow, counted  # type: ignore[method-assign]
    worker = EngineWorker(engine)
    worker.start()
    try:

        async def answer() -> int:
            return len(
                [token async for token in worker.generate([1], SamplingParams(max_tokens=40))]
            )

        given_up = asyncio.ensure_future(worker.prompt_logprobs([9, 9]))
        scores = [asyncio.ensure_future(worker.prompt_logprobs([n, 2, 3])) for n in (1, 2)]
        running = asyncio.ensure_future(answer())
        await asyncio.sleep(0.005)
        given_up.cancel()
        assert [len(await score) for score in scores] == [2, 2] and await running == 40
        assert read.count(1) == read.count(2) == 20 and read.count(9) < 20
        first, last = order.index("step"), len(order) - order[::-1].index("score")
        assert "score" in order[first:] and "step" in order[:last]
        with pytest.raises(RequestError):
            engine.prompt_logprobs = inner  # type: ignore[method-assign]
            await worker.prompt_logprobs([])
    finally:
        worker.stop()
    with pytest.raises(EngineStopped):
        await worker.prompt_logprobs([1, 2])


@pytest.mark.anyio
async def test_callers_take_turns_at_having_prompts_read() -> None:
    engine = ScriptedEngine([[1]])
    inner, read = engine.prompt_logprobs, []

    def slow(prompt: Any, top: int = 0) -> Any:
        for chunk in range(10):
            read.append(prompt[0])
            yield from inner(prompt, top) if chunk == 0 else [[]]

    engine.prompt_logprobs = slow  # type: ignore[method-assign]
    worker = EngineWorker(engine)
    prompts = [(1, "heavy"), (2, "heavy"), (3, "heavy"), (4, "light"), (5, "third")]
    scores = [asyncio.ensure_future(worker.prompt_logprobs([n, 2], 0, who)) for n, who in prompts]
    worker._thread = threading.current_thread()  # it counts as alive before its first step
    await asyncio.sleep(0)
    worker.start()
    try:
        for score in scores:
            await score
    finally:
        worker.stop()
    assert read[:20].count(4) >= 8, "one chunk of each in turns"
    assert read.index(5) < read.index(2), "no second prompt before another's first"
    assert sorted(read) == [n for n, _ in prompts for _ in range(10)]


@pytest.mark.anyio
async def test_echoed_scores_are_the_models(llm: LLM) -> None:
    ids = llm.tokenizer.encode(TEXT)
    body = {
        "prompt": [ids, ids[:9]],
        "echo": True,
        "logprobs": 2,
        "max_tokens": 1,
        "temperature": 0,
    }
    async with nano(llm, max_batch_tokens=16) as client:
        choices = (await client.post("/v1/completions", json=body)).json()["choices"]
    for choice, prompt in zip(choices, (ids, ids[:9]), strict=True):
        classic, wanted = choice["logprobs"], logprobs_of(llm, prompt)
        assert classic["token_logprobs"][0] is None and len(classic["tokens"]) == len(prompt) + 1
        scored = classic["token_logprobs"][1:-1]
        assert scored == pytest.approx([wanted[n, id] for n, id in enumerate(prompt[1:])], abs=1e-4)
        assert classic["token_logprobs"][-1] == pytest.approx(wanted[-1].max(), abs=1e-4)


@pytest.mark.anyio
async def test_loglikelihoods_as_lm_evaluation_harness_asks_for_them(llm: LLM) -> None:
    """Its requests, and its reading of the answers: the last token is the generated one, which it
    leaves out.
    """
    pairs = [
        ("The capital of France is", " Paris"),
        ("2 + 2 =", " 4"),
        ("Once upon a", " time, there was"),
    ]
    tokens = [llm.tokenizer.encode(context) + llm.tokenizer.encode(rest) for context, rest in pairs]
    lengths = [len(llm.tokenizer.encode(context)) for context, _ in pairs]
    body = {
        "model": "nano", "prompt": tokens, "temperature": 0, "max_tokens": 1, "logprobs": 1,
        "seed": 1234, "echo": True
    }  # fmt: skip
    async with nano(llm) as client:
        out = (await client.post("/v1/completions", json=body)).json()
    for choice, length, ids in zip(
        sorted(out["choices"], key=lambda c: c["index"]), lengths, tokens, strict=True
    ):
        values, tops = (
            choice["logprobs"][name][length:-1] for name in ("token_logprobs", "top_logprobs")
        )
        wanted = logprobs_of(llm, ids)
        expected = [wanted[n - 1, ids[n]] for n in range(length, len(ids))]
        assert values == pytest.approx(expected, abs=1e-4)
        is_greedy = all(value == max(top.values()) for value, top in zip(values, tops, strict=True))
        assert is_greedy == all(wanted[n - 1].argmax() == ids[n] for n in range(length, len(ids)))


@pytest.mark.anyio
async def test_nano_goes_on_the_same_for_the_same_seed(llm: LLM) -> None:
    async with nano(llm) as client:

        async def said(**wishes: Any) -> list[str]:
            body = {"prompt": "Once upon a time", "seed": 7, "n": 3, **wishes}
            answer = await client.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            return [choice["text"] for choice in answer.json()["choices"]]

        first = await said()
        assert await said() == first and len({*first}) > 1
        only = llm.tokenizer.encode("x")[0]
        assert await said(logit_bias={str(only): 900}, n=1, temperature=0) == ["x" * 16]
        refused = await client.post(
            "/v1/completions", json={"prompt": "a", "logit_bias": {"999999": 1}}
        )
        assert refused.status_code in (200, 400) and refused.json().get("error", {}).get(
            "param"
        ) in (
            None,
            "logit_bias",
        )
