"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's Messages over the same answers as
every API.

Thin: input.py makes a conversation of the request, output.py the wire's events of the answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ossia.harmony import Conversation, Message
from ossia.server.access import Caller, caller_of
from ossia.server.answer import AnswerRequest
from ossia.server.messages.input import conversation_of
from ossia.server.messages.output import Event, Writer, fold, tool_use_id
from ossia.server.messages.types import CountRequest, MessagesRequest
from ossia.server.service import Service
from ossia.server.wire.errors import TYPES, ApiError
from ossia.server.wire.fields import api_router
from ossia.server.wire.sse import encode, first_of, streaming, until_disconnected
from ossia.turn.events import ItemEnd, ToolCallItem, TurnEnd

STATUSES: dict[int | str, dict[str, Any]] = {
    **{status: {"description": kind} for status, kind in TYPES.items() if status not in (409, 422)},
    500: {"description": "api_error"},
}
ANSWERED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The message; with `stream`, server-sent events from message_start to message_stop.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {},
        },
    },
    **STATUSES,
}


def router(service: Service) -> APIRouter:
    routes = api_router("messages")

    @routes.post("/v1/messages", response_model=None, responses=ANSWERED)
    async def create_message(body: MessagesRequest, request: Request) -> Response:
        """The assistant's next message. Thoughts are shown if `thinking` is enabled or adaptive."""
        body.check_supported()
        caller = caller_of(request)
        ask, writer = await _asked(service, body, caller)
        events = _events(service, ask, writer, caller)
        if not body.stream:
            message = await until_disconnected(request, _folded(events))
            return Response(orjson.dumps(message), media_type="application/json")
        _, checked = await until_disconnected(request, first_of(events))
        return streaming(_lines(checked), keepalive=service.settings.keepalive, on_error=_error)

    @routes.post("/v1/messages/count_tokens", response_model=None, responses=STATUSES)
    async def count_tokens(body: CountRequest, request: Request) -> Response:
        """How many tokens the request's prompt has, tools and system prompt included."""
        body.check_supported()
        service.check_model(body.model)
        conversation = _conversation(service, body, caller_of(request))
        ids = await service.answerer.prompt_ids(conversation)
        return Response(orjson.dumps({"input_tokens": len(ids)}), media_type="application/json")

    return routes


def _conversation(service: Service, body: CountRequest, caller: Caller) -> Conversation:
    return conversation_of(
        body,
        body.declared(),
        body.effort(service),
        service.sealer,
        lambda id: service.thoughts_before(caller, id),
    )


async def _asked(
    service: Service, body: MessagesRequest, caller: Caller
) -> tuple[AnswerRequest, Writer]:
    """Raises `ApiError`."""
    model = service.check_model(body.model)
    tools = body.declared()
    effort = body.effort(service)
    conversation = _conversation(service, body, caller)
    params = service.sampling(body, max_tokens=body.max_tokens)
    grammar = await service.grammar(tools, body.format(), effort.budget)
    ask = AnswerRequest(conversation, params, tools, grammar, body.stop_sequences)
    writer = Writer(
        model, service.sealer, thinking=body.shows_thinking, omitted=body.omits_thinking, limit=body.max_tokens,
        whole=grammar is None or not service.worker.engine.enforces_constraints,
    )  # fmt: skip
    return ask, writer


async def _events(
    service: Service, ask: AnswerRequest, writer: Writer, caller: Caller
) -> AsyncGenerator[Event, None]:
    calls: list[ToolCallItem] = []
    async with aclosing(service.answer(ask, caller)) as events:
        async for event in events:
            if isinstance(event, ItemEnd) and isinstance(event.item, ToolCallItem):
                calls.append(event.item)
            if isinstance(event, TurnEnd) and calls:
                service.remember_thoughts(
                    caller, [tool_use_id(calls[0])], _before_calls(event.messages)
                )
            for out in writer.write(event):
                yield out


def _before_calls(messages: Sequence[Message]) -> list[Message]:
    """What led to the first call."""
    before: list[Message] = []
    for message in messages:
        if message.recipient is not None:
            break
        before.append(message)
    return before


async def _folded(events: AsyncGenerator[Event, None]) -> dict[str, Any]:
    async with aclosing(events):
        return fold([event async for event in events])


async def _lines(events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        async for event in events:
            yield encode(event, event["type"])
            if event["type"] == "message_start":
                yield encode({"type": "ping"}, "ping")


def _error(error: ApiError) -> bytes:
    return encode(error.anthropic(), "error")
