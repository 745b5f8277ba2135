"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's Messages, answered as in every API.

Thin: input.py makes a conversation of the request, output.py the wire's events of the answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ossia.errors import ContainerError
from ossia.harmony import Conversation
from ossia.server.access import Caller, caller_of
from ossia.server.accounts.session import name_session
from ossia.server.answer import AnswerRequest
from ossia.server.hosted.attached import Attached
from ossia.server.hosted.containers import attached_to, containers_for, refused
from ossia.server.hosted.told import Pages, show_again
from ossia.server.messages.input import read_messages
from ossia.server.messages.output import Event, Writer, fold, tool_use_id
from ossia.server.messages.types import CountRequest, MessagesRequest, WireMessage
from ossia.server.service import Service
from ossia.server.wire.calls import call_ids
from ossia.server.wire.conversation import conversation_of
from ossia.server.wire.errors import ApiError
from ossia.server.wire.fields import api_router
from ossia.server.wire.output import extension, thoughts_before_calls
from ossia.server.wire.replies import EVENTS, documented, reply
from ossia.server.wire.sse import encode, first_of, streaming, until_disconnected
from ossia.tools import SessionKey, Toolbox
from ossia.tools.kinds import PYTHON
from ossia.turn.events import ItemEnd, ToolCallItem, TurnEnd, new_id

STREAMED = "The message; with `stream`, server-sent events from message_start to message_stop."


def router(service: Service) -> APIRouter:
    routes = api_router("messages")

    @routes.post(
        "/v1/messages", response_model=None, responses=documented(about=STREAMED, streams=EVENTS)
    )
    async def create_message(body: MessagesRequest, request: Request) -> Response:
        """The assistant's next message. Thoughts are shown if `thinking` is enabled or adaptive."""
        body.check_supported()
        caller = caller_of(request)
        ask, writer = await until_disconnected(request, _asked(service, body, caller))
        events = _events(service, ask, writer, caller)
        if not body.stream:
            message = await until_disconnected(request, _folded(events))
            return reply(message)
        _, checked = await until_disconnected(request, first_of(events))
        return streaming(_lines(checked), keepalive=service.settings.keepalive, on_error=_error)

    @routes.post(
        "/v1/messages/count_tokens",
        response_model=None,
        responses=documented(about="The number of tokens."),
    )
    async def count_tokens(body: CountRequest, request: Request) -> Response:
        """How many tokens the request's prompt has, tools and system prompt included."""
        body.check_supported()
        service.check_model(body.model)
        caller = caller_of(request)
        attached = attached_to(service, caller, body.declared(service.tools_for(caller)))
        conversation, _ = await _conversation(service, body, caller, attached)
        ids = await service.answerer.prompt_ids(conversation)
        return reply({"input_tokens": len(ids)})

    return routes


async def _conversation(
    service: Service, body: CountRequest, caller: Caller, attached: Attached
) -> tuple[Conversation, Pages]:
    """And the pages that the browser showed before. `attached` gets the files."""
    given = [message.model_dump() for message in body.messages]
    await service.fleet.bring(service.uploads, caller.name, given)
    told = await service.documents.visit(attached).read(given, "messages")
    read = [WireMessage.model_validate(message) for message in told]
    whole = body.model_copy(update={"messages": read})
    remembered = await service.thoughts.before(caller.name, call_ids(told))
    sealer = service.sealer.of(caller.name)
    earlier = read_messages(whole, sealer, lambda id: remembered.get(id, ()))
    conversation = conversation_of(
        earlier.messages,
        effort=body.effort(service).level,
        instructions=body.instructions,
        tools=body.declared(service.tools_for(caller)),
        format=body.format(),
    )
    return conversation, earlier.pages


async def _session(
    service: Service,
    body: MessagesRequest,
    caller: Caller,
    tools: Toolbox,
    pages: Pages,
    attached: Attached,
) -> SessionKey:
    """A conversation of its own: clients that come back name the container. The request's files are
    there then. Raises `ApiError`.
    """
    container = body.container_id
    runs_code = any(tool.kind is PYTHON for tool in tools.builtin)
    if container and runs_code:
        containers = containers_for(service, caller)
        try:
            await service.fleet.check_mark(container)
            container = containers.get(caller.name, container).id
        except ContainerError as error:
            raise refused(error, "container", expired=400, not_found=400) from error
    key = SessionKey(caller.name, new_id("msg"), container if runs_code else "")
    show_again(service.builtin, key, pages)
    if service.containers is not None:
        try:
            await attached.fill(service.containers, key)
        except ContainerError as error:
            raise refused(error, "messages") from error
    return key


def _container(service: Service, caller: Caller, id: str) -> dict[str, Any] | None:
    """What clients are told of the container that code ran in; None if it has gone."""
    assert service.containers is not None
    try:
        found = service.containers.get(caller.name, id)
    except ContainerError:
        return None
    expires = datetime.fromtimestamp(found.active + found.expires_after, UTC)
    return {"id": found.id, "expires_at": expires.isoformat(timespec="seconds")}


async def _asked(
    service: Service, body: MessagesRequest, caller: Caller
) -> tuple[AnswerRequest, Writer]:
    """Raises `ApiError`."""
    model = service.check_model(body.model)
    tools = body.declared(service.tools_for(caller))
    effort = body.effort(service)
    attached = attached_to(service, caller, tools)
    conversation, pages = await _conversation(service, body, caller, attached)
    params = service.sampling(body, max_tokens=body.max_tokens)
    format = body.format()
    grammar = await service.grammar(
        tools,
        format,
        effort.budget,
        lambda: service.check_prompt(conversation, params),
        holds_on=body.holds_on,
    )
    name_session(user=body.user_id)
    ask = AnswerRequest(
        conversation,
        params,
        tools,
        grammar,
        body.stop_sequences,
        uses=body.uses,
        session=await _session(service, body, caller, tools, pages, attached),
    )
    is_enforced = grammar is not None and service.worker.engine.enforces_constraints
    writer = Writer(
        model,
        service.sealer.of(caller.name),
        thinking=body.shows_thinking,
        omitted=body.omits_thinking,
        limit=body.max_tokens,
        whole=not is_enforced,
        extra=extension(tools, grammar),
        container=lambda id: _container(service, caller, id),
    )
    return ask, writer


async def _events(
    service: Service, ask: AnswerRequest, writer: Writer, caller: Caller
) -> AsyncGenerator[Event, None]:
    calls: list[ToolCallItem] = []
    async with aclosing(service.answer(ask, caller)) as events:
        async for event in events:
            match event:
                case ItemEnd(item=ToolCallItem() as call):
                    calls.append(call)
                case TurnEnd() if calls:
                    before = thoughts_before_calls(ask.tools, event.messages)
                    await service.remember_thoughts(caller, [tool_use_id(calls[0])], before)
            for out in writer.write(event):
                yield out


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
