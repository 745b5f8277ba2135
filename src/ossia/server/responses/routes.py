"""POST /v1/responses and /v1/responses/input_tokens: thin routes over `create.py`.

Who listens and how long is decided here: a plain answer, a stream, or a run in the background. What
is stored is read, cancelled and deleted by the routes of `stored.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ossia.server.access import caller_of
from ossia.server.responses.create import PendingResponse, ResponseService
from ossia.server.responses.output import Event
from ossia.server.responses.stored import streamed
from ossia.server.responses.types import (
    COMPACTION_SCHEMA,
    COUNT_SCHEMA,
    RESPONSE_SCHEMA,
    PromptRequest,
    ResponseRequest,
)
from ossia.server.service import Service
from ossia.server.wire.errors import ApiError
from ossia.server.wire.fields import api_router
from ossia.server.wire.replies import EVENTS, documented, reply
from ossia.server.wire.sse import first_of, until_disconnected


def router(service: Service) -> APIRouter:
    routes = api_router("responses")
    creator = ResponseService(service)
    keepalive = service.settings.keepalive

    @routes.post("/v1/responses", responses=documented(RESPONSE_SCHEMA, streams=EVENTS))
    async def create(body: ResponseRequest, request: Request) -> Response:
        """Answer items, or a string, as one Response or as its stream of events."""
        prepared = creator.prepare(body, caller_of(request))
        pending = await until_disconnected(request, prepared)
        if not (body.stream or body.background):
            return reply(await until_disconnected(request, creator.whole(pending)))
        made = creator.events(pending, 0.0 if body.background else keepalive)
        first, events = await until_disconnected(request, first_of(made))
        if not body.background:
            return streamed(
                _listen(service, pending, events) if body.is_stored else events, -1, keepalive
            )
        assert first is not None
        try:
            service.runs.start(pending.caller.name, pending.id, events)
        except ApiError:
            await made.aclose()
            raise
        return (
            streamed(_follow(service, pending), -1, keepalive)
            if body.stream
            else reply(first["response"])
        )

    @routes.post("/v1/responses/input_tokens", responses=documented(COUNT_SCHEMA))
    async def count(body: PromptRequest, request: Request) -> Response:
        """How many tokens the prompt of such a request has."""
        prompt = await creator.read(body, caller_of(request))
        prompt.mcp.close()
        ids = await service.answerer.prompt_ids(prompt.conversation, prompt.opening)
        return reply({"object": "response.input_tokens", "input_tokens": len(ids)})

    @routes.post("/v1/responses/compact", responses=documented(COMPACTION_SCHEMA))
    async def compact(body: PromptRequest, request: Request) -> Response:
        """The users' messages of a conversation, and an item with a summary of all else."""
        made = creator.compact(body, caller_of(request))
        return reply(await until_disconnected(request, made))

    return routes


def _follow(service: Service, pending: PendingResponse) -> AsyncGenerator[Event, None]:
    return service.runs.follow(pending.caller.name, pending.id)


async def _listen(
    service: Service,
    pending: PendingResponse,
    events: AsyncGenerator[Event, None],
) -> AsyncGenerator[Event, None]:
    """A run with one listener, which ends when the listener goes. It starts when the client begins
    to listen, so a client that has gone by then leaves nothing running. If there is no room for a
    run, the events come directly.
    """
    try:
        service.runs.start(pending.caller.name, pending.id, events)
    except ApiError:
        async with aclosing(events):
            async for event in events:
                yield event
        return
    try:
        async with aclosing(_follow(service, pending)) as followed:
            async for event in followed:
                yield event
    finally:
        if not pending.book.has_ended:
            service.runs.cancel(pending.caller.name, pending.id)
