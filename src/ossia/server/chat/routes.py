"""POST /v1/chat/completions: OpenAI's Chat Completions, streamed or whole.

Thin: request.py reads the request, the service answers, output.py writes chunks, and a body is
their sum. Here are HTTP, the choices of one request running beside each other, and the memory for
reasoning that clients drop.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from ossia import __version__
from ossia.harmony import Message, Role
from ossia.server.access import Caller, caller_of
from ossia.server.answer import AnswerRequest
from ossia.server.chat.output import Body, ChunkOptions, Chunks
from ossia.server.chat.request import asks_of
from ossia.server.chat.types import ChatRequest
from ossia.server.service import Service
from ossia.server.wire.errors import TYPES, ApiError
from ossia.server.wire.fields import StreamOptions, api_router
from ossia.server.wire.sse import encode, first_of, streaming, until_disconnected
from ossia.server.worker import EngineStopped
from ossia.turn.events import ItemEnd, ToolCallItem, TurnEnd, TurnEvent

DONE = b"data: [DONE]\n\n"
STATUSES = (400, 401, 404, 413, 429, 500, 503)


def router(service: Service) -> APIRouter:
    routes = api_router("chat")
    fingerprint = _fingerprint(service)

    @routes.post(
        "/v1/chat/completions",
        summary="Answer a conversation",
        response_class=Response,
        responses=_documented(),
    )
    async def create(wanted: ChatRequest, request: Request) -> Response:
        """OpenAI's Chat Completions. With `stream` the answer comes as server-sent events, the last
        being `[DONE]`.
        """
        caller = caller_of(request)
        answer = await _Answer.to(wanted, service, caller, fingerprint)
        if not wanted.stream:
            body = await until_disconnected(request, answer.body())
            return Response(orjson.dumps(body), media_type="application/json")
        _, chunks = await until_disconnected(
            request, first_of(answer.chunks())
        )  # the first may have to wait
        return streaming(
            _bytes(chunks),
            keepalive=service.settings.keepalive,
            on_error=lambda e: encode(e.openai()),
        )

    return routes


def _documented() -> dict[int | str, dict[str, Any]]:
    answer = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}}
    error = {"application/json": {"schema": {"type": "object", "required": ["error"]}}}
    found: dict[int | str, dict[str, Any]] = {200: {"description": "The answer", "content": answer}}
    for status in STATUSES:
        found[status] = {"description": TYPES.get(status, "server_error"), "content": error}
    return found


def _fingerprint(service: Service) -> str:
    """Stands for what, beside seed and request, decides the tokens."""
    facts = f"{__version__} {service.settings.model_name} {service.worker.engine.config!r}"
    return f"fp_{hashlib.sha256(facts.encode()).hexdigest()[:10]}"


async def _bytes(chunks: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield encode(chunk)
    yield DONE


@dataclass
class _Answer:
    """One request being answered."""

    asks: Sequence[AnswerRequest]
    writer: Chunks
    service: Service
    caller: Caller

    @classmethod
    async def to(
        cls, wanted: ChatRequest, service: Service, caller: Caller, fingerprint: str
    ) -> _Answer:
        wanted.check_stream()
        asks, form = await asks_of(wanted, service, caller)
        options = wanted.stream_options or StreamOptions()
        chunk_options = ChunkOptions(
            usage=options.include_usage is True or not wanted.stream,
            continuous=options.continuous_usage_stats is True,
            obfuscation=options.include_obfuscation is True,
        )
        extra: dict[str, Any] = {"system_fingerprint": fingerprint}
        if wanted.service_tier is not None:
            extra["service_tier"] = "default"
        if wanted.metadata is not None and not wanted.stream:
            extra["metadata"] = wanted.metadata
        return cls(asks, Chunks(form, len(asks), chunk_options, **extra), service, caller)

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        try:
            async with aclosing(merge_streams([self._events(ask) for ask in self.asks])) as events:
                async for index, event in events:
                    for chunk in self.writer.feed(index, event):
                        yield chunk
        except EngineStopped as error:
            raise ApiError.of(error) from error
        for chunk in self.writer.last():
            yield chunk

    async def body(self) -> dict[str, Any]:
        body = Body(len(self.asks), self.asks[0].logprobs)
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                body.add(chunk)
        return body.result()

    async def _events(self, ask: AnswerRequest) -> AsyncGenerator[TurnEvent, None]:
        """A choice's events; what led to its calls is remembered, for clients that will not send it
        back.
        """
        calls: list[ToolCallItem] = []
        async with aclosing(self.service.answer(ask, self.caller)) as events:
            async for event in events:
                if isinstance(event, ItemEnd) and isinstance(event.item, ToolCallItem):
                    calls.append(event.item)
                elif isinstance(event, TurnEnd):
                    for call, before in reasoning_before_calls(calls, event.messages):
                        self.service.remember_thoughts(self.caller, [call.call_id], before)
                yield event


def reasoning_before_calls(
    calls: Sequence[ToolCallItem], messages: Sequence[Message]
) -> list[tuple[ToolCallItem, list[Message]]]:
    """Each call with the messages between it and the call before."""
    found: list[tuple[ToolCallItem, list[Message]]] = []
    waiting = list(calls)
    before: list[Message] = []
    for message in messages:
        if waiting and _is_call(message, waiting[0]):
            found.append((waiting.pop(0), before))
            before = []
        else:
            before.append(message)
    return found


def _is_call(message: Message, call: ToolCallItem) -> bool:
    is_to_it = message.recipient == f"functions.{call.name}"
    return message.role is Role.ASSISTANT and is_to_it and message.text == call.text


async def merge_streams(
    answers: Sequence[AsyncGenerator[TurnEvent, None]],
) -> AsyncGenerator[tuple[int, TurnEvent], None]:
    """The events of all, each as it comes, with the number of its answer. One that fails takes the
    others along.
    """
    waiting: dict[asyncio.Future[TurnEvent], int] = {}
    try:
        if len(answers) == 1:
            async for event in answers[0]:
                yield 0, event
            return
        for number, answer in enumerate(answers):
            waiting[asyncio.ensure_future(anext(answer))] = number
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                number = waiting.pop(task)
                with suppress(StopAsyncIteration):
                    event = task.result()
                    waiting[asyncio.ensure_future(anext(answers[number]))] = number
                    yield number, event
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for answer in answers:
            await answer.aclose()
