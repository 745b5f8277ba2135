"""POST /v1/completions: text that continues text, without Harmony; for evaluations, and for
clients that render their own prompts.

A prompt goes to the engine as it is; there is no grammar and no answerer, only tokens and their
text.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ossia.engine.request import PromptToken
from ossia.errors import OssiaError
from ossia.server.access import Caller, caller_of, count_samples, whose_turn
from ossia.server.accounts.session import name_by_prompt, name_session
from ossia.server.completions.chunks import Writer, add_prompt_logprobs, fold
from ossia.server.completions.text import Piece, TextStream
from ossia.server.completions.types import CompletionRequest
from ossia.server.service import Service
from ossia.server.wire.errors import ApiError
from ossia.server.wire.fields import StreamOptions, api_router
from ossia.server.wire.output import chat_usage
from ossia.server.wire.replies import EVENTS, documented, reply
from ossia.server.wire.sse import encode, first_of, streaming, until_disconnected
from ossia.server.worker import EngineStopped, Samples
from ossia.turn.events import Progress, Timing, TurnEnd, Usage

PATH = "/v1/completions"
STREAMED = "The completion; with `stream`, server-sent events, the last being [DONE]."


def router(service: Service) -> APIRouter:
    routes = api_router("completions")

    @routes.post(PATH, response_model=None, responses=documented(about=STREAMED, streams=EVENTS))
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        """Text that continues a prompt, or each of several."""
        body.check()
        name_session(user=body.user)
        count_samples(body.all_samples, "prompt")
        model = service.check_model(body.model)
        with_ids = body.return_token_ids is True
        writer = Writer(model, service.tokenizer, logprobs=body.logprobs, token_ids=with_ids)
        prompts = await body.prompts(service)
        job = _Job(service, body, caller_of(request), prompts)
        if not body.stream:
            whole = await until_disconnected(request, job.body(writer))
            return reply(whole)
        _, chunks = await until_disconnected(request, first_of(job.stream(writer)))
        return streaming(_lines(chunks), keepalive=service.settings.keepalive, on_error=_error)

    return routes


async def _lines(chunks: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield encode(chunk)
    yield b"data: [DONE]\n\n"


def _error(error: ApiError) -> bytes:
    return encode(error.openai()) + b"data: [DONE]\n\n"


@dataclass(frozen=True)
class _Said:
    """A piece of a sample. `prompt`: its ids, if the piece comes before the sample's own tokens.
    `usage`: of the whole request up to here.
    """

    at: int  # the prompt's place
    sample: int
    piece: Piece
    prompt: Sequence[int] | None = None
    usage: Usage = Usage()  # noqa: RUF009 - immutable


_Queue = asyncio.Queue[_Said | BaseException | None]


class _Job:
    """One request on its way. A refusal of the engine is an `ApiError` before the first piece."""

    def __init__(
        self, service: Service, wish: CompletionRequest, caller: Caller, prompts: list[list[int]]
    ) -> None:
        self.service = service
        self.wish = wish
        self.caller = caller
        self.prompts = prompts
        self.params = wish.sampling(service)
        self.shared = [Samples() for _ in prompts]
        self.scores: dict[int, asyncio.Future[list[PromptToken]]] = {}
        self.usage = Usage()  # so far, of all samples

    async def stream(self, writer: Writer) -> AsyncGenerator[dict[str, Any], None]:
        options = self.wish.stream_options or StreamOptions()
        continuous = options.continuous_usage_stats is True
        async with aclosing(self._said()) as pieces:
            async for said in pieces:
                index = said.at * self.wish.samples + said.sample
                chunk = writer.chunk(index, said.piece, said.prompt)
                if continuous:
                    chunk["usage"] = chat_usage(said.usage)
                yield chunk
        if options.include_usage:
            yield writer.last(self.usage)

    async def body(self, writer: Writer) -> dict[str, Any]:
        """The fold of the stream, of the best samples if there are more than were asked for."""
        wanted = self.wish.n or 1
        of_prompt: list[list[list[_Said]]] = []
        for _ in self.prompts:
            of_prompt.append([[] for _ in range(self.wish.samples)])
        async with aclosing(self._said()) as pieces:
            async for said in pieces:
                of_prompt[said.at][said.sample].append(said)
        chunks = []
        for at, samples in enumerate(of_prompt):
            if wanted < len(samples):
                samples = sorted(samples, key=_mean_logprob, reverse=True)[:wanted]
            for place, parts in enumerate(samples):
                index = at * wanted + place
                chunks += [writer.chunk(index, said.piece, said.prompt) for said in parts]
        body = fold([*chunks, writer.last(self.usage)])
        if self.wish.prompt_logprobs is not None:
            try:
                scores = [await self._prompt_scores(at) for at in range(len(self.prompts))]
            finally:
                self._cancel_scores()
            top = self.wish.prompt_logprobs
            cut = [[replace(t, top_logprobs=t.top_logprobs[:top]) for t in one] for one in scores]
            add_prompt_logprobs(body, cut, self.service.tokenizer)
        return body

    async def _said(self) -> AsyncGenerator[_Said, None]:
        """The pieces of all samples, as they come."""
        queue: _Queue = asyncio.Queue()
        tasks = []
        for at in range(len(self.prompts)):
            for sample in range(self.wish.samples):
                tasks.append(asyncio.ensure_future(self._read(at, sample, queue)))
        left = len(tasks)
        try:
            while left:
                got = await queue.get()
                if isinstance(got, BaseException):
                    raise got
                if got is None:
                    left -= 1
                else:
                    yield got
        finally:
            for task in tasks:
                task.cancel()
            self._cancel_scores()
            await asyncio.gather(*tasks, *self.scores.values(), return_exceptions=True)

    async def _read(self, at: int, sample: int, queue: _Queue) -> None:
        """Puts the pieces of a sample into the queue, then None, or the error that ended it."""
        try:
            async with aclosing(self._sample(at, sample)) as pieces:
                async for said in pieces:
                    queue.put_nowait(said)
            queue.put_nowait(None)
        except Exception as error:  # raised by the reader of the queue
            queue.put_nowait(error)

    async def _sample(self, at: int, sample: int) -> AsyncGenerator[_Said, None]:
        wish = self.wish
        prompt = self.prompts[at]
        text = TextStream(
            self.service.tokenizer,
            stop=wish.stop,
            stop_ids=frozenset(wish.stop_token_ids or ()),
            show_special=wish.skip_special_tokens is False,
            keep_stop=wish.include_stop_str_in_output is True,
            min_tokens=wish.min_tokens or 0,
        )
        try:
            scores = None
            if wish.echo and wish.logprobs is not None:
                scores = await self._prompt_scores(at)
            is_echoed = wish.echo is True
            head = text.prompt(prompt, scores, echo=is_echoed, alone=wish.limit == 0)
            said = _Said(at, sample, head, prompt)
            if wish.limit == 0:
                if sample == 0:
                    self._count(Usage(len(prompt)))
                piece = replace(head, finish="length")
                yield replace(said, piece=piece, usage=self.usage)
                return
            async with aclosing(self._answer(said, text)) as pieces:
                async for each in pieces:
                    yield each
        except (OssiaError, EngineStopped) as error:
            field = "prompt" if len(self.prompts) == 1 else f"prompt[{at}]"
            names = {"prompt": field, "top_logprobs": "logprobs", "stop_ids": "stop_token_ids"}
            raise ApiError.of(error, **names) from error

    async def _answer(self, head: _Said, text: TextStream) -> AsyncGenerator[_Said, None]:
        """What the engine says after a prompt; metrics and the caller's limits are told."""
        wish = self.wish
        prompt = self.prompts[head.at]
        arrived = time.monotonic()
        first: float | None = None
        mine = Usage()
        reason: Literal["stop", "length"] = "stop"
        whose = whose_turn()
        name_by_prompt(prompt, self.service.tokenizer)
        tokens = self.service.worker.generate(
            prompt,
            self.service.worker.within(self.params, prompt),
            priority=wish.priority or 0,
            cache_salt=self.caller.salted(wish.cache_salt or ""),
            samples=self.shared[head.at],
            stream=head.sample,
            caller=whose.caller,
            is_batch=whose.is_batch,
        )
        with self.service.metrics.answering() as book:
            async with aclosing(tokens):
                async for token in tokens:
                    if first is None:
                        first = time.monotonic()
                        if head.sample == 0:  # the others share its prompt
                            mine = self._count(Usage(len(prompt), token.cached_tokens))
                        if wish.echo or wish.return_token_ids:
                            yield replace(head, usage=self.usage)
                    self._count(Usage(completion=1))
                    mine = replace(mine, completion=mine.completion + 1)
                    book.event(Progress(mine))
                    piece = text.feed(token)
                    if piece.text or piece.tokens or piece.finish:
                        yield replace(head, piece=piece, prompt=None, usage=self.usage)
                    if piece.finish:
                        if piece.finish == "length":
                            reason = "length"
                        break
            book.event(TurnEnd(reason, mine, (), Timing(arrived, first, time.monotonic())))

    async def _prompt_scores(self, at: int) -> list[PromptToken]:
        """Those of a prompt are computed once for all its samples."""
        if at not in self.scores:
            top = self.wish.top_scores or 0
            if self.wish.limit:  # it is read once more, and nobody else counts that
                self.caller.spend(Usage(len(self.prompts[at])))
            whose = whose_turn()
            asked = self.service.worker.prompt_logprobs(
                self.prompts[at], top, whose.caller, is_batch=whose.is_batch
            )
            self.scores[at] = asyncio.ensure_future(asked)
        return await asyncio.shield(self.scores[at])

    def _cancel_scores(self) -> None:
        for score in self.scores.values():
            score.cancel()

    def _count(self, more: Usage) -> Usage:
        before = self.usage
        self.usage = Usage(
            before.prompt + more.prompt,
            before.cached + more.cached,
            before.completion + more.completion,
        )
        self.caller.spend(more)
        return more


def _mean_logprob(parts: Sequence[_Said]) -> float:
    """Of the tokens that were sampled: `best_of` keeps the samples with the highest."""
    known: list[float] = []
    for said in parts:
        if said.prompt is not None:
            continue
        for token in said.piece.tokens:
            if token.logprob is not None:
                known.append(token.logprob)
    if not known:
        return -math.inf
    return sum(known) / len(known)
