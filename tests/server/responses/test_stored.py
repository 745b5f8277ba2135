"""Stored responses in-process: read, streamed again from any event, cancelled, deleted, and what
went into them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from fastapi import FastAPI
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import TypeAdapter

from ossia.server import ScriptedEngine, Settings, create_app
from ossia.server.settings import ApiKey
from ossia.server.store.tables import StoredResponse
from ossia.tokenizer import Tokenizer

PATH = "/v1/responses"
SAID = (
    "<|channel|>analysis<|message|>Let me "
    "see.<|end|><|start|>assistant<|channel|>final<|message|>Hello<|return|>"
)
ENDLESS = "<|channel|>final<|message|>" + "and so on " * 2000
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


pytestmark = pytest.mark.anyio


@pytest.fixture
def serve(tokenizer: Tokenizer) -> Callable[..., Any]:
    """Like `client_for`, with an engine that takes its time."""

    @asynccontextmanager
    async def made(
        *texts: str, delay: float = 0.0, settings: Settings | None = None
    ) -> AsyncIterator[tuple[httpx.AsyncClient, FastAPI]]:
        engine = ScriptedEngine(
            [tokenizer.encode_with_specials(text) for text in texts], delay=delay
        )
        app = create_app(engine, tokenizer, settings or Settings(drain=0.0))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://server") as client,
        ):
            yield client, app

    return made


async def made(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json={"input": "hello"} | body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def got(client: httpx.AsyncClient, id: str) -> dict[str, Any]:
    answer = await client.get(f"{PATH}/{id}")
    assert answer.status_code == 200, answer.text
    Response.model_validate(answer.json())
    return dict(answer.json())


async def finished(client: httpx.AsyncClient, id: str) -> dict[str, Any]:
    while (response := await got(client, id))["status"] in ("queued", "in_progress"):
        await asyncio.sleep(0.01)
    return response


def events_of(text: str) -> list[dict[str, Any]]:
    events = []
    for block in text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENTS.validate_python(event)
        events.append(event)
    return events


async def streamed(client: httpx.AsyncClient, id: str, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get(f"{PATH}/{id}", params={"stream": "true"} | query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events_of(answer.text)


def refused(
    answer: httpx.Response, status: int, param: str | None, code: str | None = None
) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code) and error["message"]


async def test_read_and_delete(serve: Callable[..., Any]) -> None:
    async with serve(SAID) as (client, _):
        response = await made(client)
        assert await got(client, response["id"]) == response
        gone = await client.delete(f"{PATH}/{response['id']}")
        assert gone.json() == {"id": response["id"], "object": "response", "deleted": True}
        for method, end in [
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/cancel"),
            ("GET", "/input_items"),
        ]:
            for id in (response["id"], "resp_nothing", "é%00"):
                refused(
                    await client.request(method, f"{PATH}/{id}{end}"),
                    404,
                    "response_id",
                    "response_not_found",
                )
        refused(
            await client.get(f"{PATH}/{response['id']}?stream=true"),
            404,
            "response_id",
            "response_not_found",
        )


async def test_what_is_not_to_be_stored_is_not(serve: Callable[..., Any]) -> None:
    async with serve(SAID) as (client, _):
        response = await made(client, store=False)
        refused(
            await client.get(f"{PATH}/{response['id']}"), 404, "response_id", "response_not_found"
        )


async def test_input_items_are_all_that_the_response_was_made_from(
    serve: Callable[..., Any],
) -> None:
    async with serve(SAID) as (client, _):
        first = await made(client, input="one")
        second = await made(
            client, input=[{"role": "user", "content": "two"}], previous_response_id=first["id"]
        )
        answer = await client.get(f"{PATH}/{second['id']}/input_items", params={"order": "asc"})
        ResponseItemList.model_validate(answer.json())
        items = answer.json()["data"]
        assert [item["content"][0]["text"] for item in items] == [
            "one",
            "Let me see.",
            "Hello",
            "two",
        ]
        assert items[1:3] == first["output"] and len({item["id"] for item in items}) == 4
        page = (await client.get(f"{PATH}/{second['id']}/input_items", params={"limit": 2})).json()
        assert (
            page["data"] == items[:1:-1] and page["has_more"] and page["last_id"] == items[2]["id"]
        )
        page = (
            await client.get(answer.url.copy_with(query=None), params={"after": page["last_id"]})
        ).json()
        assert page["data"] == items[1::-1] and not page["has_more"]
        await client.delete(f"{PATH}/{first['id']}")
        assert (await client.get(answer.url)).json()["data"] == items, (
            "it does not need the one before it any more"
        )


@pytest.mark.parametrize(
    ("end", "query", "param"),
    [
        ("", {"stream": "perhaps"}, "stream"),
        ("", {"stream": "true", "starting_after": "x"}, "starting_after"),
        ("", {"stream": "true", "starting_after": "9" * 20}, "starting_after"),
        ("", {"include": "everything"}, "include[0]"),
        ("", {"include[]": "everything"}, "include[][0]"),
        ("/input_items", {"limit": "0"}, "limit"),
        ("/input_items", {"limit": "1e2"}, "limit"),
        ("/input_items", {"order": "random"}, "order"),
        ("/input_items", {"after": "msg_0"}, "after"),
        ("/input_items", {"before": "msg_0"}, "before"),
    ],
)
async def test_queries_that_are_wrong(
    serve: Callable[..., Any], end: str, query: dict[str, str], param: str
) -> None:
    async with serve(SAID) as (client, _):
        response = await made(client)
        refused(await client.get(f"{PATH}/{response['id']}{end}", params=query), 400, param)


async def test_queries_that_are_right(serve: Callable[..., Any]) -> None:
    async with serve(SAID) as (client, _):
        response = await made(client)
        for query in ({"include": ["reasoning.encrypted_content", "message.output_text.logprobs"]},
                      {"include[]": "code_interpreter_call.outputs"}, {"starting_after": 3},
                      {"stream": "false"},
                      {"include_obfuscation": "false"}):  # fmt: skip
            assert (await client.get(f"{PATH}/{response['id']}", params=query)).json() == response


async def test_keys_do_not_see_each_others_things(serve: Callable[..., Any]) -> None:
    keys = tuple(ApiKey(name, hashlib.sha256(name.encode()).hexdigest()) for name in ("ann", "bob"))
    async with serve(SAID, settings=Settings(keys=keys)) as (client, _):
        ann, bob = ({"Authorization": f"Bearer {name}"} for name in ("ann", "bob"))
        id = (await client.post(PATH, json={"input": "x", "background": True}, headers=ann)).json()[
            "id"
        ]
        conversation = (await client.post("/v1/conversations", json={}, headers=ann)).json()["id"]
        for method, path in [
            ("GET", f"{PATH}/{id}"), ("GET", f"{PATH}/{id}?stream=true"),
            ("DELETE", f"{PATH}/{id}"),
            ("POST", f"{PATH}/{id}/cancel"), ("GET", f"{PATH}/{id}/input_items"),
            ("GET", f"/v1/conversations/{conversation}"),
            ("DELETE", f"/v1/conversations/{conversation}"),
            ("GET", f"/v1/conversations/{conversation}/items"),
        ]:  # fmt: skip
            assert (await client.request(method, path, headers=bob)).status_code == 404
            assert (await client.request(method, path)).status_code == 401
        body = {"input": "x", "previous_response_id": id}
        assert (await client.post(PATH, json=body, headers=bob)).status_code in (400, 404)
        assert (await client.get(f"{PATH}/{id}", headers=ann)).status_code == 200
        assert (
            await client.get(f"/v1/conversations/{conversation}", headers=ann)
        ).status_code == 200


# In the background


async def test_background_answers_can_be_heard_from_any_event(serve: Callable[..., Any]) -> None:
    async with serve(SAID, delay=0.005) as (client, _):
        response = await made(client, background=True)
        assert response["status"] in ("queued", "in_progress") and response["background"]
        live = await streamed(client, response["id"])
        assert [event["sequence_number"] for event in live] == list(range(len(live)))
        assert live[-1]["type"] == "response.completed"
        assert live[-1]["response"] == await got(client, response["id"])
        for after in (0, 4, len(live) - 2):
            assert await streamed(client, response["id"], starting_after=after) == live[after + 1 :]
        assert await streamed(client, response["id"], starting_after=len(live) - 1) == []
        assert await streamed(client, response["id"], starting_after=-5) == live


async def test_a_stored_stream_can_be_heard_again(serve: Callable[..., Any]) -> None:
    async with serve(SAID) as (client, _):
        answer = await client.post(PATH, json={"input": "hello", "stream": True})
        events = events_of(answer.text)
        id = events[0]["response"]["id"]
        assert await streamed(client, id) == events
        refused(await client.post(f"{PATH}/{id}/cancel"), 400, "response_id", "not_background")


async def test_events_that_are_not_kept_any_more(serve: Callable[..., Any]) -> None:
    async with serve(SAID) as (client, app):
        response = await made(client)  # not streamed: its events were never kept
        events = await streamed(client, response["id"])
        assert events[-1]["response"] == response and events[0]["type"] == "response.created"
        assert [
            event["item"] for event in events if event["type"] == "response.output_item.done"
        ] == response["output"]
        assert [
            event["sequence_number"]
            for event in await streamed(client, response["id"], starting_after=99)
        ] == [100]
        await app.state.service.store.put(
            StoredResponse("r", "", response | {"status": "in_progress"}, [], [])
        )
        refused(await client.get(f"{PATH}/r?stream=true"), 400, "stream")


async def test_cancel(serve: Callable[..., Any]) -> None:
    async with serve(ENDLESS, delay=0.002) as (client, app):
        response = await made(client, background=True)
        listener = asyncio.create_task(streamed(client, response["id"]))
        await asyncio.sleep(0.1)
        answer = await client.post(f"{PATH}/{response['id']}/cancel")
        assert answer.status_code == 200, answer.text
        cancelled = answer.json()
        Response.model_validate(cancelled)
        assert cancelled["status"] == "cancelled" and cancelled["id"] == response["id"]
        assert cancelled["output"][0]["content"][0]["text"].startswith("and so on")
        assert await got(client, response["id"]) == cancelled
        assert (await client.post(f"{PATH}/{response['id']}/cancel")).json() == cancelled
        last = (await listener)[-1]
        assert last["type"] == "response.incomplete" and last["response"] == cancelled
        await asyncio.sleep(0.05)
        assert not app.state.service.worker.engine.has_work(), "the engine works on"


async def test_cancel_of_what_has_ended_changes_nothing(serve: Callable[..., Any]) -> None:
    async with serve(SAID) as (client, _):
        response = await finished(client, (await made(client, background=True))["id"])
        assert response["status"] == "completed"
        assert (await client.post(f"{PATH}/{response['id']}/cancel")).json() == response
        foreground = await made(client)
        refused(
            await client.post(f"{PATH}/{foreground['id']}/cancel"),
            400,
            "response_id",
            "not_background",
        )


async def test_delete_stops_what_runs(serve: Callable[..., Any]) -> None:
    async with serve(ENDLESS, delay=0.002) as (client, app):
        id = (await made(client, background=True))["id"]
        await asyncio.sleep(0.05)
        assert (await client.delete(f"{PATH}/{id}")).status_code == 200
        await asyncio.sleep(0.05)
        assert (await client.get(f"{PATH}/{id}")).status_code == 404
        assert not app.state.service.worker.engine.has_work() and not app.state.service.runs.cancel(
            "", id
        )


async def test_a_restart(serve: Callable[..., Any], tmp_path: Path) -> None:
    settings = Settings(store_path=tmp_path / "s.db", drain=0.05)
    async with serve(SAID, settings=settings) as (client, _):
        complete = await finished(client, (await made(client, background=True))["id"])
        conversation = (
            await client.post("/v1/conversations", json={"metadata": {"a": "b"}})
        ).json()
    async with serve(ENDLESS, delay=0.002, settings=settings) as (client, _):
        assert await got(client, complete["id"]) == complete
        assert (await client.get(f"/v1/conversations/{conversation['id']}")).json() == conversation
        cut = (await made(client, background=True))["id"]
        await asyncio.sleep(0.1)
    async with serve(SAID, settings=settings) as (client, app):
        response = await got(client, cut)
        assert response["status"] == "failed" and "stopped" in response["error"]["message"]
        assert (
            response["output"][0]["status"] == "incomplete"
            and response["output"][0]["content"][0]["text"]
        )
        assert (await streamed(client, cut))[-1]["type"] == "response.failed"
        # As if the machine had gone down in the midst of it:
        await app.state.service.store.put(
            StoredResponse("died", "", response | {"id": "died", "status": "in_progress"}, [], [])
        )
    async with serve(SAID, settings=settings) as (client, _):
        assert (await got(client, "died"))["status"] == "failed"


async def test_what_the_openai_client_does(tokenizer: Tokenizer) -> None:
    app = create_app(
        ScriptedEngine([tokenizer.encode_with_specials(SAID)], delay=0.002), tokenizer, Settings()
    )
    transport = httpx2.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport) as http:
        client = openai.AsyncOpenAI(
            base_url="http://server/v1", api_key="none", http_client=http, max_retries=0
        )
        stream = await client.responses.create(
            input="hello", model="m", background=True, stream=True
        )
        seen = []
        async for event in stream:
            seen.append(event)
            if len(seen) == 4:
                break
        await stream.close()
        rest = await client.responses.retrieve(
            seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number,
            include=["reasoning.encrypted_content"],
        )  # fmt: skip
        seen += [event async for event in rest]
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        response = seen[-1].response
        assert response.status == "completed" and response.output_text == "Hello"
        assert await client.responses.retrieve(response.id) == response
        assert await client.responses.cancel(response.id) == response
        async with client.responses.stream(response_id=response.id, starting_after=3) as again:
            kinds = [event.type async for event in again]
            assert kinds[-1] == "response.completed"
            assert (await again.get_final_response()).output_text == "Hello"
        items = [item async for item in client.responses.input_items.list(response.id, limit=1)]
        assert [item.content[0].text for item in items] == ["hello"]
        await client.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)


def test_routes_are_documented(tokenizer: Tokenizer) -> None:
    app = create_app(ScriptedEngine([[1]]), tokenizer, Settings())
    paths = app.openapi()["paths"]
    asyncio.run(app.state.service.store.close())
    found = {
        (method, path): operation
        for path, operations in paths.items()
        if path.startswith(("/v1/responses/{", "/v1/conversations"))
        for method, operation in operations.items()
    }
    assert len(found) == 4 + 8
    for operation in found.values():
        assert {"200", "400", "401", "404", "413", "429", "500", "503"} <= {*operation["responses"]}
        assert "422" not in operation["responses"]
