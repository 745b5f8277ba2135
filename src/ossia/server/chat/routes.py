"""POST /v1/chat/completions: OpenAI's Chat Completions, streamed or whole.

Thin: request.py reads the request, the service answers, output.py writes chunks, and a body is
their sum. Here are HTTP, the choices of one request, which are answered at the same time, and the
memory for reasoning that clients drop.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ossia import __version__
from ossia.errors import OssiaError
from ossia.harmony import Message, Role
from ossia.server.access import Caller, caller_of, count_samples, whose_turn
from ossia.server.accounts.session import name_session
from ossia.server.answer import AnswerRequest
from ossia.server.chat.output import Body, ChunkOptions, Chunks
from ossia.server.chat.request import asks_of
from ossia.server.chat.types import ChatRequest
from ossia.server.service import Service
from ossia.server.wire.errors import ApiError
from ossia.server.wire.fields import StreamOptions, api_router
from ossia.server.wire.output import extension, prompt_logprobs
from ossia.server.wire.replies import EVENTS, documented, reply
from ossia.server.wire.sampling import check_scores
from ossia.server.wire.sse import encode, first_of, streaming, until_disconnected
from ossia.server.worker import EngineStopped
from ossia.turn.events import ItemEnd, ToolCallItem, TurnEnd, TurnEvent, Usage

DONE = b"data: [DONE]\n\n"


def router(service: Service) -> APIRouter:
    routes = api_router("chat")
    fingerprint = _fingerprint(service)

    @routes.post(
        "/v1/chat/completions",
        summary="Answer a conversation",
        response_class=Response,
        responses=documented(streams=EVENTS),
    )
    async def create(wanted: ChatRequest, request: Request) -> Response:
        """OpenAI's Chat Completions. With `stream` the answer comes as server-sent events, the last
        being `[DONE]`.
        """
        caller = caller_of(request)
        samples = wanted.n or 1
        count_samples(samples, "n")
        name_session(cache_key=wanted.prompt_cache_key, user=wanted.user)
        asked = _Answer.to(wanted, service, caller, fingerprint)
        answer = await until_disconnected(request, asked)
        if not wanted.stream:
            body = await until_disconnected(request, answer.body())
            return reply(body)
        # the first chunk may have to wait; an error before it has a status of its own
        _, chunks = await until_disconnected(request, first_of(answer.chunks()))
        return streaming(_bytes(chunks), keepalive=service.settings.keepalive, on_error=_error)

    return routes


def _fingerprint(service: Service) -> str:
    """Stands for everything but seed and request that decides the tokens."""
    facts = f"{__version__} {service.settings.model_name} {service.worker.engine.config!r}"
    digest = hashlib.sha256(facts.encode()).hexdigest()
    return f"fp_{digest[:10]}"


def _error(error: ApiError) -> bytes:
    return encode(error.openai())


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
    prompt_logprobs: int | None = None

    @classmethod
    async def to(
        cls, wanted: ChatRequest, service: Service, caller: Caller, fingerprint: str
    ) -> _Answer:
        wanted.check_stream()
        asks, form = await asks_of(wanted, service, caller)
        options = wanted.stream_options or StreamOptions()
        needs_usage = options.include_usage is True or not wanted.stream
        chunk_options = ChunkOptions(
            usage=needs_usage,
            continuous=options.continuous_usage_stats is True,
            obfuscation=options.include_obfuscation is True,
        )
        extra: dict[str, Any] = {"system_fingerprint": fingerprint}
        if wanted.service_tier is not None:
            extra["service_tier"] = "default"
        if wanted.metadata is not None and not wanted.stream:
            extra["metadata"] = wanted.metadata
        opening = extension(asks[0].tools, asks[0].grammar)
        writer = Chunks(form, len(asks), chunk_options, opening, **extra)
        return cls(asks, writer, service, caller, wanted.prompt_logprobs)

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        choices = [self._events(ask) for ask in self.asks]
        try:
            async with aclosing(merge_streams(choices)) as events:
                async for index, event in events:
                    for chunk in self.writer.feed(index, event):
                        yield chunk
        except EngineStopped as error:
            raise ApiError.of(error) from error
        for chunk in self.writer.last():
            yield chunk

    async def body(self) -> dict[str, Any]:
        scored = await self._to_score()
        body = Body(len(self.asks), self.asks[0].logprobs)
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                body.add(chunk)
        return body.result() | await self._of_prompt(scored)

    async def _to_score(self) -> list[int]:
        """The prompt, if its log-probabilities are wanted. Raises `ApiError` if they are too many,
        before the answer is begun.
        """
        if self.prompt_logprobs is None:
            return []
        ask = self.asks[0]
        ids = await self.service.answerer.prompt_ids(ask.conversation, ask.opening)
        check_scores(len(ids), self.prompt_logprobs, "prompt_logprobs")
        return ids

    async def _of_prompt(self, ids: Sequence[int]) -> dict[str, Any]:
        """The prompt's log-probabilities, if they are wanted; it is read once more for them."""
        if self.prompt_logprobs is None:
            return {}
        self.caller.spend(Usage(len(ids)))
        worker = self.service.worker
        whose = whose_turn()
        try:
            tokens = await worker.prompt_logprobs(
                ids, self.prompt_logprobs, whose.caller, is_batch=whose.is_batch
            )
        except (OssiaError, EngineStopped) as error:
            raise ApiError.of(error, prompt="messages") from error
        return {"prompt_logprobs": prompt_logprobs(tokens, self.service.tokenizer)}

    async def _events(self, ask: AnswerRequest) -> AsyncGenerator[TurnEvent, None]:
        """A choice's events. The messages that led to its calls are remembered, for clients that do
        not send them back.
        """
        calls: list[ToolCallItem] = []
        async with aclosing(self.service.answer(ask, self.caller)) as events:
            async for event in events:
                match event:
                    case ItemEnd(item=ToolCallItem() as call):
                        calls.append(call)
                    case TurnEnd():
                        await self._remember(calls, event.messages)
                yield event

    async def _remember(self, calls: Sequence[ToolCallItem], messages: Sequence[Message]) -> None:
        for call, before in reasoning_before_calls(calls, messages):
            await self.service.remember_thoughts(self.caller, [call.call_id], before)


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
    """The events of all, each as it comes, with the number of its answer. If one fails, all end."""
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
                    following = asyncio.ensure_future(anext(answers[number]))
                    waiting[following] = number
                    yield number, event
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for answer in answers:
            await answer.aclose()
