"""Routes to conversations: named lists of items that responses read from and add to.

Knows the store and the wire objects; nothing of how a conversation is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from ossia.server.access import caller_of
from ossia.server.responses.conversations_items import checked_items, items_schema
from ossia.server.responses.stored import including
from ossia.server.service import Service
from ossia.server.store.protocol import StoreFull
from ossia.server.wire.errors import ApiError
from ossia.server.wire.fields import ListOf, Metadata, Part, api_router
from ossia.server.wire.lists import DELETED_SCHEMA, LIST_SCHEMA, Page, listed, paging
from ossia.server.wire.replies import documented, reply

AT_ONCE = 20  # items


Items = Annotated[
    ListOf[dict[str, Any]], Field(max_length=AT_ONCE), WithJsonSchema(items_schema(AT_ONCE))
]


class NewConversation(Part):
    items: Items | None = None
    metadata: Metadata | None = None


class ConversationUpdate(Part):
    metadata: Metadata | None


class NewItems(Part):
    items: Items


CONVERSATION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id", "object", "created_at", "metadata"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "conversation"},
        "created_at": {"type": "integer"},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
ITEM_SCHEMA: dict[str, Any] = {"type": "object", "required": ["id", "type"]}


def no_conversation(id: str) -> ApiError:
    message = f"there is no conversation {id!r}"
    return ApiError(404, message, param="conversation_id", code="conversation_not_found")


def no_item(id: str) -> ApiError:
    return ApiError(
        404, f"there is no item {id!r} in this conversation", param="item_id", code="item_not_found"
    )


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except StoreFull as error:
        raise ApiError(413, str(error), code="conversation_too_large") from error


def router(service: Service) -> APIRouter:
    routes = api_router("conversations", prefix="/v1/conversations")
    _add_conversations(routes, service)
    _add_items(routes, service)
    return routes


async def _found(service: Service, request: Request, id: str) -> dict[str, Any]:
    found = await service.store.conversation(caller_of(request).name, id)
    if found is None:
        raise no_conversation(id)
    return found


def _add_conversations(routes: APIRouter, service: Service) -> None:
    store = service.store

    @routes.post("", responses=documented(CONVERSATION_SCHEMA))
    async def create_conversation(
        request: Request, body: NewConversation | None = None
    ) -> Response:
        """A new conversation, with up to 20 items."""
        wanted = body or NewConversation()
        items = checked_items(wanted.items or ())
        with _room():
            made = await store.new_conversation(
                caller_of(request).name, wanted.metadata or {}, items
            )
        return reply(made)

    @routes.get("/{conversation_id}", responses=documented(CONVERSATION_SCHEMA))
    async def retrieve_conversation(request: Request, conversation_id: str) -> Response:
        return reply(await _found(service, request, conversation_id))

    @routes.post("/{conversation_id}", responses=documented(CONVERSATION_SCHEMA))
    async def update_conversation(
        request: Request,
        conversation_id: str,
        body: ConversationUpdate,
    ) -> Response:
        """Replaces the metadata."""
        with _room():
            updated = await store.update_conversation(
                caller_of(request).name, conversation_id, body.metadata or {}
            )
        if updated is None:
            raise no_conversation(conversation_id)
        return reply(updated)

    @routes.delete("/{conversation_id}", responses=documented(DELETED_SCHEMA))
    async def delete_conversation(request: Request, conversation_id: str) -> Response:
        """Deletes a conversation and its items; responses that were made in it stay."""
        if not await store.delete_conversation(caller_of(request).name, conversation_id):
            raise no_conversation(conversation_id)
        return reply({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


def _add_items(routes: APIRouter, service: Service) -> None:
    store = service.store

    @routes.get(
        "/{conversation_id}/items",
        responses=documented(LIST_SCHEMA),
        dependencies=[Depends(including)],
    )
    async def list_items(
        request: Request, conversation_id: str, page: Annotated[Page, Depends(paging)]
    ) -> Response:
        await _found(service, request, conversation_id)
        items = await store.items(caller_of(request).name, conversation_id)
        return reply(page.of(items))

    @routes.post(
        "/{conversation_id}/items",
        responses=documented(LIST_SCHEMA),
        dependencies=[Depends(including)],
    )
    async def create_items(request: Request, conversation_id: str, body: NewItems) -> Response:
        """Adds up to 20 items at the end. One without an id, or with one that is taken, gets a new
        one.
        """
        items = checked_items(body.items)
        try:
            with _room():
                added = await store.add_items(caller_of(request).name, conversation_id, items)
        except KeyError as error:
            raise no_conversation(conversation_id) from error
        return reply(listed(added))

    @routes.get(
        "/{conversation_id}/items/{item_id}",
        responses=documented(ITEM_SCHEMA),
        dependencies=[Depends(including)],
    )
    async def retrieve_item(request: Request, conversation_id: str, item_id: str) -> Response:
        await _found(service, request, conversation_id)
        found = await store.item(caller_of(request).name, conversation_id, item_id)
        if found is None:
            raise no_item(item_id)
        return reply(found)

    @routes.delete("/{conversation_id}/items/{item_id}", responses=documented(CONVERSATION_SCHEMA))
    async def delete_item(request: Request, conversation_id: str, item_id: str) -> Response:
        """Answers with the conversation."""
        found = await _found(service, request, conversation_id)
        if not await store.delete_item(caller_of(request).name, conversation_id, item_id):
            raise no_item(item_id)
        return reply(found)
