"""Conversations in-process: their life, their items in pages, what is refused, and that clients can
read it all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import httpx2
import openai
import pytest
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.conversations import (
    Conversation,
    ConversationDeletedResource,
    ConversationItem,
    ConversationItemList,
)
from pydantic import TypeAdapter

from ossia.server import ScriptedEngine, Settings, create_app
from ossia.server.responses.conversations_items import FIELDS, checked_items
from ossia.server.wire.errors import ApiError
from ossia.server.wire.lists import Page
from ossia.tokenizer import Tokenizer

PATH = "/v1/conversations"
ITEM: TypeAdapter[Any] = TypeAdapter(ConversationItem)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(client_for: Callable[..., Any]) -> AsyncIterator[httpx.AsyncClient]:
    async with client_for("<|channel|>final<|message|>Hi<|return|>") as made:
        yield made


def says(text: str, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": text} | fields


async def created(client: httpx.AsyncClient, **body: Any) -> str:
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    Conversation.model_validate(answer.json())
    return str(answer.json()["id"])


def refused(
    answer: httpx.Response, status: int, param: str | None, code: str | None = None
) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code) and error["message"]


async def test_a_conversations_life(client: httpx.AsyncClient) -> None:
    id = await created(client, metadata={"topic": "tea"})
    assert id.startswith("conv_")
    found = (await client.get(f"{PATH}/{id}")).json()
    assert Conversation.model_validate(found).metadata == {"topic": "tea"}
    updated = (await client.post(f"{PATH}/{id}", json={"metadata": {"topic": "milk"}})).json()
    assert (
        updated
        == found | {"metadata": {"topic": "milk"}}
        == (await client.get(f"{PATH}/{id}")).json()
    )
    emptied = (await client.post(f"{PATH}/{id}", json={"metadata": None})).json()
    assert emptied["metadata"] == {}
    gone = (await client.delete(f"{PATH}/{id}")).json()
    assert ConversationDeletedResource.model_validate(gone).deleted and gone["id"] == id
    for answer in (await client.get(f"{PATH}/{id}"), await client.delete(f"{PATH}/{id}")):
        refused(answer, 404, "conversation_id", "conversation_not_found")


async def test_no_body_is_an_empty_conversation(client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH)
    assert answer.status_code == 200 and answer.json()["metadata"] == {}
    items = (await client.get(f"{PATH}/{answer.json()['id']}/items")).json()
    assert items == {"object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False}


GOOD = [
    says("plain"),
    says("answer", role="assistant", phase="final_answer", id=None, status=None),
    says("rule", role="developer"),
    says("x") | {"content": [{"type": "input_text", "text": "a"},
        {"type": "input_text", "text": "b"}]},
    says("x", role="assistant") | {"content": [{"type": "output_text", "text": "a",
        "annotations": None},
                                               {"type": "refusal", "refusal": "no"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}],
        "encrypted_content": "e"},
    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "t"}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "namespace": "n"},
    {"type": "function_call_output", "call_id": "c", "output": "42"},
    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text",
        "text": "42"}]},
    {"type": "custom_tool_call", "call_id": "d", "name": "f", "input": "any"},
    {"type": "custom_tool_call_output", "call_id": "d", "output": "done"},
    {"type": "web_search_call", "action": {"type": "search", "query": "q"}},
    {"type": "code_interpreter_call", "code": "1+1", "container_id": "k", "status": "interpreting"},
]  # fmt: skip


async def test_items_of_every_kind(client: httpx.AsyncClient) -> None:
    id = await created(client, items=GOOD[:2])
    answer = await client.post(f"{PATH}/{id}/items", json={"items": GOOD[2:]})
    assert answer.status_code == 200, answer.text
    assert {item["type"] for item in answer.json()["data"]} == set(FIELDS)
    ConversationItemList.model_validate(answer.json())
    page = (await client.get(f"{PATH}/{id}/items", params={"order": "asc", "limit": 100})).json()
    ConversationItemList.model_validate(page)
    assert page["data"][2:] == answer.json()["data"] and len(page["data"]) == len(GOOD)
    assert page["data"][0]["content"] == [{"type": "input_text", "text": "plain"}]
    assert (
        page["data"][1]["content"][0] | {"annotations": [], "text": "answer"}
        == page["data"][1]["content"][0]
    )
    for item in page["data"]:
        ITEM.validate_python(item)
        assert (await client.get(f"{PATH}/{id}/items/{item['id']}")).json() == item
    await_one = page["data"][3]["id"]
    left = await client.delete(f"{PATH}/{id}/items/{await_one}")
    assert Conversation.model_validate(left.json()).id == id
    for answer in (await client.get(left.url), await client.delete(left.url)):
        refused(answer, 404, "item_id", "item_not_found")
    again = (await client.get(f"{PATH}/{id}/items", params={"order": "asc", "limit": 100})).json()
    assert again["data"] == [item for item in page["data"] if item["id"] != await_one]


@pytest.mark.parametrize(
    ("item", "param", "code"),
    [
        ("text", "items[1]", None),
        (7, "items[1]", None),
        ({"type": "message", "role": "user"}, "items[1].content", None),
        ({"content": "x"}, "items[1].role", None),
        (says("x", role="tool"), "items[1].role", None),
        (says("x", status="done"), "items[1].status", None),
        (says("x", phase="later"), "items[1].phase", None),
        (says("x", id=4), "items[1].id", None),
        ({"type": "picture"}, "items[1].type", None),
        ({"type": ["message"]}, "items[1].type", None),
        ({"type": "item_reference", "id": "msg_1"}, "items[1].type", None),
        (says("x") | {"content": [{"type": "input_text"}]}, "items[1].content[0].text", None),
        (says("x") | {"content": ["x"]}, "items[1].content[0]", None),
        (says("x") | {"content": [{"type": "input_image", "image_url": "data:"}]},
            "items[1].content[0].type",
         "unsupported_content"),
        (says("x") | {"content": [{"type": "output_text", "text": "", "logprobs": 3}]},
         "items[1].content[0].logprobs", None),
        ({"type": "reasoning", "summary": [{"type": "reasoning_text", "text": "t"}]},
            "items[1].summary[0].type",
         "unsupported_content"),
        ({"type": "function_call", "call_id": "c", "name": "f", "arguments": {}},
            "items[1].arguments", None),
        ({"type": "function_call_output", "output": "x"}, "items[1].call_id", None),
    ],
)  # fmt: skip
async def test_items_that_are_none(
    client: httpx.AsyncClient, item: Any, param: str, code: str | None
) -> None:
    id = await created(client, items=[says("first")])
    for path in (f"{PATH}/{id}/items", PATH):
        answer = await client.post(path, json={"items": [says("good"), item]})
        refused(answer, 400, param, code)
    assert len((await client.get(f"{PATH}/{id}/items")).json()["data"]) == 1, "all or nothing"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {"k": 3}}, "metadata.k"),
        ({"metadata": "text"}, "metadata"),
        ({"items": [says("x")] * 21}, "items"),
        ({"items": "text"}, "items"),
        ([], None),
    ],
)
async def test_bodies_that_are_wrong(
    client: httpx.AsyncClient, body: Any, param: str | None
) -> None:
    refused(await client.post(PATH, json=body), 400, param)
    id = await created(client)
    if isinstance(body, dict) and "metadata" in body:
        refused(await client.post(f"{PATH}/{id}", json=body), 400, param)
    if isinstance(body, dict) and "items" in body:
        refused(await client.post(f"{PATH}/{id}/items", json=body), 400, param)
    refused(await client.post(f"{PATH}/{id}", json={}), 400, "metadata")
    refused(await client.post(f"{PATH}/{id}/items", json={}), 400, "items")


@pytest.mark.parametrize(
    "text",
    ['{"metadata": {"a\\ud800": 5}}', '{"items": [{"role": "\\ud800"}]}',
     '{"items": [{"type": "\\ud800"}]}',
     '{"items": [{"role": "user", "content": "", "n": 123456789012345678901234567890}]}',
     '{"items": ', "\\xff"],
)  # fmt: skip
async def test_bodies_that_are_no_text(client: httpx.AsyncClient, text: str) -> None:
    answer = await client.post(PATH, content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text


async def test_half_a_character_is_replaced(client: httpx.AsyncClient) -> None:
    text = (
        '{"metadata": {"a\\ud800": "\\udfff"}, "items": [{"role": "user", "content": "\\ud800b"}]}'
    )
    answer = await client.post(PATH, content=text, headers={"Content-Type": "application/json"})
    assert answer.json()["metadata"] == {"a\ufffd": "\ufffd"}
    items = (await client.get(f"{PATH}/{answer.json()['id']}/items")).json()["data"]
    assert items[0]["content"][0]["text"] == "\ufffdb"


async def test_limits_of_metadata_are_inclusive(client: httpx.AsyncClient) -> None:
    metadata = {f"{n:064}": "é" * 512 for n in range(16)}
    assert (await client.get(f"{PATH}/{await created(client, metadata=metadata)}")).json()[
        "metadata"
    ] == metadata
    assert (
        len(
            (
                await client.get(f"{PATH}/{await created(client, items=[says('x')] * 20)}/items")
            ).json()["data"]
        )
        == 20
    )


async def test_pages(client: httpx.AsyncClient) -> None:
    id = await created(client, items=[says(str(n), id=f"m{n}") for n in range(5)])

    async def ids(**query: Any) -> tuple[list[str], bool]:
        answer = await client.get(f"{PATH}/{id}/items", params=query)
        assert answer.status_code == 200, answer.text
        data = answer.json()
        found = [item["id"] for item in data["data"]]
        assert (data["first_id"], data["last_id"]) == ((found[0], found[-1]) if found else ("", ""))
        return found, data["has_more"]

    assert await ids() == (["m4", "m3", "m2", "m1", "m0"], False)
    assert await ids(limit=2) == (["m4", "m3"], True)
    assert await ids(limit=2, after="m3") == (["m2", "m1"], True)
    assert await ids(limit=2, after="m1") == (["m0"], False)
    assert await ids(order="asc", limit=3, after="m0") == (["m1", "m2", "m3"], True)
    assert await ids(order="asc", limit=2, before="m4") == (["m2", "m3"], True)
    assert await ids(order="asc", before="m2") == (["m0", "m1"], False)
    assert await ids(order="asc", after="m0", before="m3") == (["m1", "m2"], False)
    assert await ids(order="asc", after="m4") == ([], False) == await ids(after="m0", before="m4")
    assert await ids(**{"include[]": "message.output_text.logprobs"}) == await ids(
        include="reasoning.encrypted_content"
    )
    for query, param in [
        ({"limit": 0}, "limit"), ({"limit": 101}, "limit"), ({"limit": "many"}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "nothing"}, "after"), ({"before": ""}, "before"),
        ({"include": "all"}, "include[0]"),
    ]:  # fmt: skip
        refused(await client.get(f"{PATH}/{id}/items", params=query), 400, param)


@given(st.integers(0, 30), st.integers(1, 12), st.booleans())
@settings(max_examples=examples(100))
def test_pages_add_up(count: int, limit: int, is_asc: bool) -> None:
    """Forwards to the end and backwards to the beginning, the pages together are the list."""
    items = [{"id": str(n)} for n in range(count)]
    order, expected = ("asc", items) if is_asc else ("desc", items[::-1])
    page = Page(limit, order, None, None).of(items)
    found = page["data"]
    while page["has_more"]:
        page = Page(limit, order, page["last_id"], None).of(items)
        assert 0 < len(page["data"]) <= limit
        found = found + page["data"]
    assert found == expected
    found, at = expected[-1:], expected[-1]["id"] if expected else None
    while at is not None:
        page = Page(limit, order, None, at).of(items)
        assert len(page["data"]) <= limit
        found, at = page["data"] + found, page["first_id"] if page["has_more"] else None
    assert found == expected


async def test_a_response_reads_and_adds(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    id = await created(client, items=[says("I am Ann")])
    answer = await client.post("/v1/responses", json={"input": "who am I?", "conversation": id})
    assert answer.status_code == 200, answer.text
    prompt = tokenizer.decode(client.engine.submitted[0])  # type: ignore[attr-defined]
    assert "I am Ann" in prompt and "who am I?" in prompt
    items = (await client.get(f"{PATH}/{id}/items", params={"order": "asc"})).json()
    ConversationItemList.model_validate(items)
    assert [item["content"][0]["text"] for item in items["data"]] == ["I am Ann", "who am I?", "Hi"]


async def test_too_large_for_the_store(client_for: Callable[..., Any]) -> None:
    async with client_for("x", settings=Settings(store_bytes=3_000)) as client:
        refused(
            await client.post(PATH, json={"items": [says("x" * 3_000)]}),
            413,
            None,
            "conversation_too_large",
        )
        id = await created(client, items=[says("small")])
        answer = await client.post(f"{PATH}/{id}/items", json={"items": [says("x" * 3_000)]})
        refused(answer, 413, None, "conversation_too_large")
        assert len((await client.get(f"{PATH}/{id}/items")).json()["data"]) == 1


async def test_what_the_openai_client_does(tokenizer: Tokenizer) -> None:
    app = create_app(ScriptedEngine([[1]]), tokenizer, Settings())
    transport = httpx2.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport) as http:
        client = openai.AsyncOpenAI(
            base_url="http://server/v1", api_key="none", http_client=http, max_retries=0
        )
        one = await client.conversations.create(
            metadata={"a": "b"}, items=[{"role": "user", "content": "hi"}]
        )
        made = await client.conversations.items.create(
            one.id,
            items=[{"role": "user", "content": f"{n}"} for n in range(20)],
            include=["reasoning.encrypted_content"],
        )
        assert len(made.data) == 20 and made.object == "list"
        listed = [
            item async for item in client.conversations.items.list(one.id, limit=4, order="asc")
        ]
        assert len(listed) == 21 and [item.id for item in listed[1:]] == [
            item.id for item in made.data
        ]
        item = await client.conversations.items.retrieve(listed[3].id, conversation_id=one.id)
        assert item == listed[3]
        assert (
            await client.conversations.items.delete(item.id, conversation_id=one.id)
        ).id == one.id
        assert (await client.conversations.update(one.id, metadata={"c": "d"})).metadata == {
            "c": "d"
        }
        assert (await client.conversations.retrieve(one.id)).metadata == {"c": "d"}
        assert (await client.conversations.delete(one.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.conversations.retrieve(one.id)


# Against a model: a list

STEP = st.one_of(
    st.tuples(st.just("add"), st.lists(st.text(max_size=5), max_size=4)),
    st.tuples(st.just("delete"), st.integers(0, 20)),
    st.tuples(st.just("get"), st.integers(0, 20)),
    st.tuples(st.just("list"), st.integers(1, 5)),
)


@given(st.lists(STEP, max_size=12))
@settings(max_examples=examples(30), deadline=None)
def test_items_are_what_a_list_would_hold(
    tokenizer: Tokenizer, steps: list[tuple[str, Any]]
) -> None:
    async def play() -> None:
        app = create_app(ScriptedEngine([[1]]), tokenizer, Settings())
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://server") as client,
        ):
            path = f"{PATH}/{await created(client)}/items"
            model: list[dict[str, Any]] = []
            for what, value in steps:
                at = value % (len(model) + 1) if isinstance(value, int) else 0
                id = model[at]["id"] if at < len(model) else "nothing"
                if what == "add":
                    answer = await client.post(path, json={"items": [says(text) for text in value]})
                    added = answer.json()["data"]
                    assert [item["content"][0]["text"] for item in added] == value
                    model += added
                elif what == "list":
                    query: dict[str, Any] = {"limit": value, "order": "asc"} | (
                        {"after": id} if at < len(model) else {}
                    )
                    page = (await client.get(path, params=query)).json()
                    begin = at + 1 if at < len(model) else 0
                    assert page["data"] == model[begin : begin + value]
                    assert page["has_more"] == (begin + value < len(model))
                else:
                    answer = await client.request(
                        "DELETE" if what == "delete" else "GET", f"{path}/{id}"
                    )
                    assert answer.status_code == (200 if at < len(model) else 404)
                    if what == "delete":
                        model = [item for item in model if item["id"] != id]

    asyncio.run(play())


@given(st.lists(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from([*FIELDS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "role", "content", "status", "id", "summary", "output", "text",
            "call_id", "name"]),
        inner, max_size=5),
    max_leaves=12), max_size=3))  # fmt: skip
@settings(max_examples=examples(300))
def test_whatever_comes_is_an_item_or_refused(items: list[Any]) -> None:
    try:
        for item in checked_items(items):
            ITEM.validate_python({"id": "x"} | item)
    except ApiError as error:
        assert error.status == 400 and error.param is not None and error.param.startswith("items[")
