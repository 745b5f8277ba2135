"""Bodies that hold very much: refused before anybody waits for them, and told of one mistake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from ossia.server import create_app
from ossia.server.chat.types import ChatRequest
from ossia.server.wire import fields
from ossia.server.wire.fields import Part, plain_json

pytestmark = pytest.mark.anyio
USER = {"role": "user", "content": "Hi"}
DOORS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/conversations",
    "/api/chat",
    "/tokenize",
)
MUCH = {
    "objects": "{}," * (fields.MOST_PARTS + 1) + "1",
    "lists": "[]," * (fields.MOST_PARTS + 1) + "1",
    "depth": "[[[]]]," * fields.MOST_PARTS + "1",
    "strings": '"",' * (fields.MOST_STRINGS + 1) + "1",
    "numbers": "1," * fields.MOST_VALUES + "1",
    "after a mark in a string": '"∀\\"\\\\",' + "{}," * (fields.MOST_PARTS + 1) + "1",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("what", MUCH)
def test_a_body_of_very_many_values_is_not_read(what: str) -> None:
    with pytest.raises(HTTPException, match="more than 65536 lists and objects"):
        plain_json(f"[{MUCH[what]}]".encode())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_nor_is_one_in_another_encoding(encoding: str) -> None:
    with pytest.raises(HTTPException, match="more than 65536 lists and objects"):
        plain_json(f"[{MUCH['after a mark in a string']}]".encode(encoding))


@pytest.mark.parametrize("text", ["{[," * 100_000, '"' * 70_000 + "[" * 70_000, "\\[" * 70_000])
def test_what_stands_in_a_text_is_not_counted(text: str) -> None:
    asked = {"a": text, text: [1, "b"]}
    assert plain_json(json.dumps(asked).encode()) == asked


async def test_every_door_refuses_it(client_for: Any) -> None:
    body = f'{{"messages": [{MUCH["objects"]}]}}'
    async with client_for("<|channel|>final<|message|>Hi<|return|>") as client:
        for door in DOORS:
            answer = await client.post(
                door, content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 400 and "send less" in answer.text, (door, answer.text)


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Everything in one of pydantic's schemas."""
    if isinstance(schema, dict):
        yield schema
        schema = list(schema.values())
    if isinstance(schema, list | tuple):
        for inner in schema:
            yield from nodes(inner)


def kinds(of: type[Part]) -> Iterator[type[Part]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_of_a_list_the_first_wrong_item_is_told() -> None:
    """To tell of each takes microseconds and half a kilobyte, and a body may have millions."""
    assert create_app, "all that is sent is declared by now"
    found = 0
    for kind in kinds(Part):
        for node in nodes(kind.__pydantic_core_schema__):
            if node.get("type") == "list" and node.get("items_schema", {}).get("type") != "any":
                found += 1
                assert node.get("fail_fast"), f"{kind.__name__}: its lists should be ListOf"
    assert found > 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": [1] * 100},
        {"messages": [USER], "tools": ["x"] * 100},
        {"messages": [USER], "logit_bias": {str(n): "x" for n in range(100)}},
        {"messages": [USER], "metadata": {str(n): 1 for n in range(100)}},
    ],
)
def test_one_mistake_is_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as told:
        ChatRequest.model_validate(wrong)
    assert told.value.error_count() == 1
