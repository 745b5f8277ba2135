"""What benchmark clients ask for in vLLM's words, on every API that has it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest

from ossia.llm import LLM
from ossia.server import Settings, create_app
from ossia.server.access import Caller, secret_digest
from ossia.server.settings import ApiKey
from ossia.server.wire import sampling
from ossia.tokenizer import Tokenizer
from ossia.turn.events import Usage

pytestmark = pytest.mark.anyio
TEXT = "What is 2 + 3?"
USER = [{"role": "user", "content": TEXT}]
CHAT = "/v1/chat/completions"
APIS: dict[str, tuple[str, dict[str, Any], str]] = {
    "chat": (CHAT, {"messages": USER}, "max_tokens"),
    "responses": ("/v1/responses", {"input": TEXT}, "max_output_tokens"),
    "messages": ("/v1/messages", {"messages": USER}, "max_tokens"),
    "completions": ("/v1/completions", {"prompt": TEXT}, "max_tokens"),
}
SAID = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{}"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def nano(llm: LLM, anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    """A server whose sampling is held to nothing by itself."""
    settings = Settings(model_name="nano", sampling=llm.sampling, constrained=False)
    app = create_app(llm.engine, llm.tokenizer, settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            yield client


async def counted(client: httpx.AsyncClient, api: str, tokens: int, **fields: Any) -> int:
    """How many tokens the answer has."""
    path, body, limit = APIS[api]
    answer = await client.post(path, json={**body, limit: tokens, **fields}, timeout=60)
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    return int(usage.get("completion_tokens", usage.get("output_tokens")))


@pytest.mark.parametrize("api", APIS)
async def test_an_answer_can_be_as_long_as_wanted(nano: httpx.AsyncClient, api: str) -> None:
    """Whatever the model says, a benchmark gets the number of tokens that it asks for."""
    free = await counted(nano, api, 200)
    assert free < 150
    assert await counted(nano, api, 200, ignore_eos=True) == 200
    assert await counted(nano, api, 200, min_tokens=170) >= 170
    assert await counted(nano, api, 200, min_tokens=200) == 200
    assert await counted(nano, api, 200, min_tokens=1) == free


async def test_the_end_of_a_format_is_the_end(nano: httpx.AsyncClient) -> None:
    """Nothing else is allowed then."""
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [1, 2]}}}
    for wish in ({"ignore_eos": True}, {"min_tokens": 390}):
        body = {"messages": USER, "response_format": form, "max_tokens": 400, "temperature": 0}
        body |= {"reasoning_effort": "none"}
        choice = (await nano.post(CHAT, json=body | wish)).json()["choices"][0]
        assert choice["finish_reason"] == "stop"
        assert json.loads(choice["message"]["content"]) in (1, 2)


async def test_too_many_are_refused(nano: httpx.AsyncClient) -> None:
    for path, body, limit in APIS.values():
        answer = await nano.post(path, json={**body, limit: 5, "min_tokens": 6})
        assert answer.status_code == 400 and "min_tokens must be at most" in answer.text


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_that_are_named_end_the_answer(
    client_for: Callable[..., Any], tokenizer: Tokenizer, stream: bool
) -> None:
    said = SAID.format("A X Z<|return|>")
    x = tokenizer.encode("A X")[-1]
    end = tokenizer.special("<|return|>")
    async with client_for(said) as client:
        for named in (x, end):
            for path, body, limit in list(APIS.values())[:3]:
                sent = {**body, limit: 50, "stop_token_ids": [named], "stream": stream}
                told = (await client.post(path, json=sent)).text
                assert "A" in told and ("Z" in told) == (named == end), told
                if path == CHAT:
                    assert f'"stop_reason":{named}' in told and '"finish_reason":"stop"' in told
                if path == "/v1/messages":
                    assert '"stop_reason":"end_turn"' in told


async def test_a_named_token_in_the_reasoning_ends_the_answer(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    end = tokenizer.special("<|end|>")
    async with client_for(SAID.format("Late.<|return|>")) as client:
        sent = {"messages": USER, "stop_token_ids": [end]}
        choice = (await client.post(CHAT, json=sent)).json()["choices"][0]
        assert choice["message"]["content"] == "" and choice["message"]["reasoning"] == "Hm."
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", end)


async def test_stop_strings_wait_for_the_least_length(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    said = "<|channel|>final<|message|>a, b, c, d<|return|>"
    at = len(tokenizer.encode_with_specials("<|channel|>final<|message|>a, b"))
    async with client_for(said) as client:
        body = {"messages": USER, "stop": [", "], "min_tokens": at}
        choice = (await client.post(CHAT, json=body)).json()["choices"][0]
        assert (choice["message"]["content"], choice["stop_reason"]) == ("a, b", ", ")
    ids = tokenizer.encode("a, b, c, d")
    async with client_for(ids) as client:
        least = len(tokenizer.encode("a, b"))
        body = {"prompt": "x", "stop": [", "], "min_tokens": least, "max_tokens": 50}
        choice = (await client.post("/v1/completions", json=body)).json()["choices"][0]
        assert (choice["text"], choice["stop_reason"]) == ("a, b", ", ")


# ---- the prompt's log-probabilities, and ids ----


async def test_log_probabilities_of_the_prompt(nano: httpx.AsyncClient, llm: LLM) -> None:
    ids = llm.tokenizer.encode(TEXT)
    wish = {"prompt": TEXT, "max_tokens": 2, "prompt_logprobs": 2, "n": 2, "temperature": 1}
    answer = (await nano.post("/v1/completions", json=wish)).json()
    for choice in answer["choices"]:
        check_places(choice["prompt_logprobs"], ids, 2)
    wish = {"messages": USER, "max_tokens": 2, "prompt_logprobs": 0, "return_token_ids": True}
    answer = (await nano.post(CHAT, json=wish)).json()
    check_places(answer["prompt_logprobs"], answer["prompt_token_ids"], 0)


def check_places(places: list[Any], ids: list[int], top: int) -> None:
    assert places[0] is None and len(places) == len(ids)
    for id, place in zip(ids[1:], places[1:], strict=True):
        own = place[str(id)]
        assert set(own) == {"logprob", "rank", "decoded_token"}
        assert len(place) == max(1, top) + (top > 0 and own["rank"] > top)
        ranks = sorted(each["rank"] for each in place.values())
        assert ranks[:top] == list(range(1, top + 1))
        assert max(each["logprob"] for each in place.values()) >= own["logprob"]


async def test_ranks_are_counted(llm: LLM) -> None:
    """Among all tokens, from the whole distribution."""
    ids = llm.tokenizer.encode("Green ideas sleep")
    (scores,) = llm.engine.prompt_logprobs(ids)
    logits = llm.logits(ids)
    for n, token in enumerate(scores):
        assert token.rank == 1 + int((logits[n] > logits[n][token.token_id]).sum())


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
async def test_so_many_are_given_and_no_more(
    client_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(sampling, "MAX_SCORES", 500)
    body = {"prompt": ["one", "two"], "messages": USER, "prompt_logprobs": 1}
    del body["messages" if path != CHAT else "prompt"]
    async with client_for(SAID.format("Hi<|return|>")) as client:
        assert (await client.post(path, json=body)).status_code == 200
        if path != CHAT:
            body["prompt"] = ["one " * 100, "two " * 100]
        answer = await client.post(path, json={**body, "prompt_logprobs": 100})
        error = answer.json()["error"]
        assert answer.status_code == 400 and "at most 500 are given" in error["message"]
        assert (error["param"], error["code"]) == ("prompt_logprobs", "too_many_logprobs")
        assert len(client.engine.submitted) == (1 if path == CHAT else 2), "nothing was begun"


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
async def test_they_are_paid_for_and_end_with_who_asked(
    client_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    spent: list[int] = []

    def spend(self: Caller, usage: Usage) -> None:
        spent.append(usage.prompt + usage.completion)

    monkeypatch.setattr(Caller, "spend", spend)
    body = {"prompt": "one two", "messages": USER, "prompt_logprobs": 1, "return_token_ids": True}
    del body["messages" if path != CHAT else "prompt"]
    keys = (ApiKey("ann", secret_digest("ann")),)
    async with client_for(
        SAID.format("Hi<|return|>"), settings=Settings(model_name="nano", keys=keys)
    ) as client:
        client.headers["Authorization"] = "Bearer ann"
        answer = (await client.post(path, json=body)).json()
        assert sum(spent) == answer["usage"]["total_tokens"] + answer["usage"]["prompt_tokens"]
        began, ended = asyncio.Event(), asyncio.Event()

        async def endless(prompt: Any, top: int = 0, caller: str = "", **rest: Any) -> None:
            assert caller == "ann"
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        monkeypatch.setattr(client.app.state.service.worker, "prompt_logprobs", endless)
        asking = asyncio.ensure_future(client.post(path, json=body))
        async with asyncio.timeout(30):
            await began.wait()
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
            await ended.wait()


async def test_they_are_not_streamed(client_for: Callable[..., Any]) -> None:
    async with client_for(SAID.format("Hi<|return|>")) as client:
        for api in ("chat", "completions"):
            path, body, _ = APIS[api]
            answer = await client.post(path, json={**body, "prompt_logprobs": 1, "stream": True})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt_logprobs")


async def test_ids_of_prompt_and_answer(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    said = SAID.format("One two.<|return|>")
    wish = {"messages": USER, "return_token_ids": True}
    async with client_for(said) as client:
        body = (await client.post(CHAT, json=wish)).json()
        prompt = client.engine.submitted[0]  # type: ignore[attr-defined]
        assert body["prompt_token_ids"] == prompt
        assert body["choices"][0]["token_ids"] == tokenizer.encode_with_specials(said)
        streamed = await client.post(CHAT, json={**wish, "stream": True})
        lines = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: {")]
        chunks = [json.loads(line) for line in lines]
        assert [chunk.get("prompt_token_ids") for chunk in chunks[:2]] == [prompt, None]
        ids = [id for chunk in chunks for id in chunk["choices"][0]["token_ids"]]
        assert ids == tokenizer.encode_with_specials(said)
        plain = (await client.post(CHAT, json={"messages": USER})).json()
        assert "prompt_token_ids" not in plain and "token_ids" not in plain["choices"][0]


# ---- going on with the last message ----

BEGUN = [*USER, {"role": "assistant", "content": "The sum is"}]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_answer_goes_on_with_the_last_message(
    client_for: Callable[..., Any], tokenizer: Tokenizer, stream: bool
) -> None:
    async with client_for(" five.<|return|>") as client:
        wish = {"messages": BEGUN, "continue_final_message": True, "stream": stream}
        told = (await client.post(CHAT, json=wish | {"add_generation_prompt": False})).text
        prompt = tokenizer.decode(client.engine.submitted[0])  # type: ignore[attr-defined]
        assert prompt.endswith("<|start|>assistant<|channel|>final<|message|>The sum is")
        assert "".join(re.findall('"content":"([^"]*)"', told)) == " five."
        assert '"finish_reason":"stop"' in told


async def test_reasoning_can_be_gone_on_with(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    said = " five<|end|><|start|>assistant<|channel|>final<|message|>5<|return|>"
    async with client_for(said) as client:
        begun = [*USER, {"role": "assistant", "content": None, "reasoning": "It is"}]
        wish = {"messages": begun, "continue_final_message": True}
        message = (await client.post(CHAT, json=wish)).json()["choices"][0]["message"]
        prompt = tokenizer.decode(client.engine.submitted[0])  # type: ignore[attr-defined]
        assert prompt.endswith("<|channel|>analysis<|message|>It is")
        assert (message["reasoning"], message["content"]) == (" five", "5")


async def test_what_was_begun_has_to_fit_the_format(nano: httpx.AsyncClient) -> None:
    pattern = {"type": "regex", "pattern": "The sum is [0-9] or so"}
    wish = {"messages": BEGUN, "continue_final_message": True, "response_format": pattern}
    wish |= {"max_tokens": 40}
    message = (await nano.post(CHAT, json=wish)).json()["choices"][0]["message"]
    assert message["content"][0] == " " and message["content"].endswith(" or so")
    wish["response_format"] = {"type": "regex", "pattern": "No"}
    answer = await nano.post(CHAT, json=wish)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "continue_final_message"
    assert "response_format or tool_choice" in answer.json()["error"]["message"]


@pytest.mark.parametrize("budget", [0, 2])
async def test_what_was_begun_has_to_fit_the_reasoning_budget(
    nano: httpx.AsyncClient, budget: int
) -> None:
    begun = [*USER, {"role": "assistant", "content": None, "reasoning": "It is this and that"}]
    wish = {"messages": begun, "continue_final_message": True, "reasoning_budget": budget}
    answer = await nano.post(CHAT, json=wish | {"max_tokens": 8})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "continue_final_message"
    assert f"the reasoning budget of {budget} tokens" in error["message"]
    answer = await nano.post(CHAT, json=wish | {"max_tokens": 8, "reasoning_budget": 100})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "messages",
    [
        USER,
        [*USER, {"role": "assistant", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}],
    ],
)  # fmt: skip
async def test_only_a_text_of_the_assistant_can_be_gone_on_with(
    client_for: Callable[..., Any], messages: list[Any]
) -> None:
    async with client_for("x<|return|>") as client:
        wish = {"messages": messages, "continue_final_message": True}
        for path, more in ((CHAT, {}), (CHAT, {"add_generation_prompt": True}), ("/tokenize", {})):
            answer = await client.post(path, json=wish | more)
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "continue_final_message"


async def test_a_begun_message_is_tokenized(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    async with client_for("x<|return|>") as client:
        wish = {"messages": BEGUN, "continue_final_message": True, "add_generation_prompt": False}
        ids = (await client.post("/tokenize", json=wish)).json()["tokens"]
        assert tokenizer.decode(ids).endswith("<|channel|>final<|message|>The sum is")


# ---- budgets of reasoning ----


@pytest.mark.parametrize(
    "field", ["reasoning_budget", "thinking_budget_tokens", "thinking_token_budget"]
)
async def test_a_budget_of_reasoning_under_every_name(nano: httpx.AsyncClient, field: str) -> None:
    async def reasoning(budget: int) -> int:
        wish = {"messages": USER, "max_tokens": 100, field: budget}
        usage = (await nano.post(CHAT, json=wish)).json()["usage"]
        return int(usage["completion_tokens_details"]["reasoning_tokens"])

    assert await reasoning(0) == 0
    assert 0 < await reasoning(3) <= 4  # with the token that ends it
    assert await reasoning(-1) > 4
    refused = await nano.post(CHAT, json={"messages": USER, field: -2})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == field
