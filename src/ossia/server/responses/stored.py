"""Routes to responses that were stored: read (whole, or its events again), cancel, delete, list
what went into it.

Knows the store, what runs in the background, and lists as the API pages them; not how an answer is
made.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from ossia.server.access import caller_of
from ossia.server.responses.background import Event
from ossia.server.responses.types import RESPONSE_SCHEMA
from ossia.server.service import Service
from ossia.server.store.tables import StoredResponse
from ossia.server.wire.errors import ApiError, bad
from ossia.server.wire.lists import DELETED_SCHEMA, LIST_SCHEMA, Page, paging
from ossia.server.wire.replies import EVENTS, documented, reply
from ossia.server.wire.sse import encode, first_of, streaming

Item = dict[str, Any]
Includable = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]


def including(
    include: Annotated[list[Includable] | None, Query()] = None,
    include_: Annotated[list[Includable] | None, Query(alias="include[]")] = None,
) -> None:
    """What may be asked for, as `include=` or `include[]=`. Everything that was asked for when the
    response was made is kept with it and shown always; what was not cannot be had later.
    """


def not_found(response_id: str) -> ApiError:
    return ApiError(
        404, f"there is no response {response_id!r}", param="response_id", code="response_not_found"
    )


STREAMED = documented(RESPONSE_SCHEMA, streams=EVENTS)


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["responses"], dependencies=[Depends(including)])
    runs = service.runs

    find = partial(_find, service)

    @routes.get("/v1/responses/{response_id}", responses=STREAMED)
    async def retrieve_response(
        request: Request,
        response_id: str,
        stream: bool = False,
        starting_after: Annotated[
            int | None, Query(lt=1 << 53, description="with stream: the last number seen")
        ] = None,
    ) -> Response:
        """A stored response; with `stream`, its events from the first, or after the one named,
        until the last.
        """
        found = await find(request, response_id)
        if not stream:
            return reply(found.response)
        await service.fleet.check_here(found)
        after = -1 if starting_after is None else max(starting_after, -1)
        _, events = await first_of(runs.follow(found.owner, response_id, after))
        return streamed(events, after, service.settings.keepalive)

    @routes.delete("/v1/responses/{response_id}", responses=documented(DELETED_SCHEMA))
    async def delete_response(request: Request, response_id: str) -> Response:
        """Deletes a stored response; one in progress is stopped."""
        found = await find(request, response_id)
        await service.fleet.check_runs_here(found)
        await runs.delete(caller_of(request).name, response_id)
        return reply({"id": response_id, "object": "response", "deleted": True})

    @routes.post("/v1/responses/{response_id}/cancel", responses=documented(RESPONSE_SCHEMA))
    async def cancel_response(request: Request, response_id: str) -> Response:
        """Stops a response made with `background`. One that has ended is returned as it is."""
        found = await find(request, response_id)
        if not found.response.get("background"):
            why = "only responses made with background: true can be cancelled"
            raise bad(why, "response_id", "not_background")
        await service.fleet.check_runs_here(found)
        if runs.cancel(found.owner, response_id):
            await runs.ended(found.owner, response_id)
            found = await find(request, response_id)
        return reply(found.response)

    @routes.get("/v1/responses/{response_id}/input_items", responses=documented(LIST_SCHEMA))
    async def list_input_items(
        request: Request, response_id: str, page: Annotated[Page, Depends(paging)]
    ) -> Response:
        """The items that the response was made from: those of the conversation or of the responses
        before it, too.
        """
        found = await find(request, response_id)
        return reply(page.of([*found.history, *found.input]))

    return routes


async def _find(service: Service, request: Request, response_id: str) -> StoredResponse:
    found = await service.store.get(caller_of(request).name, response_id)
    if found is None:
        raise not_found(response_id)
    return found


def streamed(events: AsyncGenerator[Event, None], last: int, keepalive: float) -> Response:
    """`last`: the number of the event that the client saw last."""

    async def parts() -> AsyncGenerator[bytes, None]:
        nonlocal last
        async with aclosing(events):
            async for event in events:
                last = event["sequence_number"]
                yield encode(event, event["type"])

    def on_error(error: ApiError) -> bytes:
        fields = {"code": error.code or error.type, "message": error.message, "param": error.param}
        return encode({"type": "error", "sequence_number": last + 1, **fields}, "error")

    return streaming(parts(), keepalive=keepalive, on_error=on_error)
