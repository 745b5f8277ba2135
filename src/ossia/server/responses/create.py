"""Creating responses: a request prepared, its answer as one stream of wire events, and what is kept
of it.

Knows the service, the store's and the runs' interfaces, and the book that writes events; nothing of
HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

from ossia.engine.request import SamplingParams
from ossia.errors import CONTEXT_EXCEEDED, OssiaError
from ossia.server.access import Caller, request_begun
from ossia.server.accounts.session import name_session
from ossia.server.answer import AnswerRequest
from ossia.server.hosted.approvals import Approvals
from ossia.server.responses import compaction
from ossia.server.responses.called import request_id, tools_list
from ossia.server.responses.input import Item, is_kept
from ossia.server.responses.items import Begun, Done, Include
from ossia.server.responses.output import Event, ResponseBook
from ossia.server.responses.prompt import Earlier, Prompt, Reading, read_prompt, shortened
from ossia.server.responses.scope import session_of
from ossia.server.responses.types import PromptRequest, ResponseRequest
from ossia.server.service import Service
from ossia.server.store.protocol import StoreUnreachable
from ossia.server.store.tables import StoredResponse
from ossia.server.wire.errors import ApiError, bad
from ossia.server.wire.output import extension, responses_usage, thoughts_before_calls
from ossia.server.wire.sampling import NO_LIMIT
from ossia.tools.mcp.config import label_of
from ossia.turn.events import Progress, TurnEnd, TurnEvent, Usage, new_id
from ossia.turn.targets import Grammars

log = logging.getLogger("ossia.server")
Step: TypeAlias = TurnEvent | Begun | Done


@dataclass
class PendingResponse:
    """A response on its way. `compacts`: whether a summary comes first. `error`: set if the answer
    failed after the first event was sent. `begun`: when the request did, on the store's clock.
    """

    body: ResponseRequest
    caller: Caller
    prompt: Prompt
    ask: AnswerRequest
    book: ResponseBook
    compacts: bool = False
    error: ApiError | None = None
    begun: float = field(default_factory=lambda: request_begun() or 0.0)

    @property
    def id(self) -> str:
        return str(self.book.response["id"])


class ResponseService:
    """One per application."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def read(self, body: PromptRequest, caller: Caller, **limits: int | None) -> Prompt:
        self.service.check_model(body.model)
        earlier = Earlier(partial(self._item, caller.name), partial(self._thread, caller.name))
        return await read_prompt(
            self.service,
            self.service.sealer.of(caller.name),
            earlier,
            body,
            caller,
            **limits,
        )

    async def prepare(self, body: ResponseRequest, caller: Caller) -> PendingResponse:
        """Raises `ApiError` for everything that can be found wrong before the model is asked."""
        body.check_supported()
        if body.background and not body.is_stored:
            raise bad(
                "a response in the background must be stored: nobody could get it otherwise",
                "store",
            )
        if body.is_stored or body.conversation_id is not None:
            await self.service.store.check_writable()
        prompt = await self.read(body, caller, max_output=body.max_output_tokens)
        try:
            return await self._prepared(body, caller, prompt)
        except BaseException:
            prompt.mcp.close()
            raise

    async def _prepared(
        self,
        body: ResponseRequest,
        caller: Caller,
        prompt: Prompt,
    ) -> PendingResponse:
        wants_logprobs = "message.output_text.logprobs" in body.includes or bool(body.top_logprobs)
        params = self.service.sampling(
            body, top_logprobs=body.top_logprobs, max_tokens=body.max_output_tokens
        )
        tools = prompt.tools.tools
        compacts = await self._compacts(body, prompt)
        grammar = await self._grammar(body, prompt, params, compacts=compacts)
        id = new_id("resp")
        ask = AnswerRequest(
            prompt.conversation,
            params,
            tools,
            grammar,
            stop=body.stop,
            logprobs=wants_logprobs,
            prompt_param="input",
            max_calls=body.max_tool_calls,
            opening=prompt.opening,
            session=await session_of(self.service, caller, body.tools or [], prompt, id),
            approved=prompt.approved,
        )
        seal = None
        if "reasoning.encrypted_content" in body.includes:
            seal = self.service.sealer.of(caller.name).seal
        summary = None
        if body.reasoning is not None:
            summary = body.reasoning.wants_summary
        include = Include(
            summary=summary,
            seal=seal,
            logprobs=wants_logprobs,
            code_outputs="code_interpreter_call.outputs" in body.includes,
            sources="web_search_call.action.sources" in body.includes,
        )
        first = None
        if prompt.thread or body.is_stored:
            first = ask.session.conversation
        name_session(
            conversation=body.conversation_id,
            first_response=first,
            cache_key=body.prompt_cache_key,
            user=body.user,
        )
        response = self._response(id, body, prompt, params) | extension(tools, ask.grammar)
        book = self._book(response, include, prompt, caller)
        return PendingResponse(body, caller, prompt, ask, book, compacts=compacts)

    async def _grammar(
        self,
        body: ResponseRequest,
        prompt: Prompt,
        params: SamplingParams,
        *,
        compacts: bool,
    ) -> Grammars | None:
        """A conversation that is about to be shortened may be too long."""

        async def check() -> None:
            if not compacts:
                await self.service.check_prompt(
                    prompt.conversation, params, "input", prompt.opening
                )

        try:
            return await self.service.grammar(
                prompt.tools.tools,
                prompt.format,
                prompt.effort.budget,
                check,
                holds_on=body.holds_on,
            )
        except ApiError as error:
            if not (body.stream and error.code == CONTEXT_EXCEEDED):
                raise
            return None  # nothing will be sampled: the stream itself says so

    def _book(
        self,
        response: dict[str, Any],
        include: Include,
        prompt: Prompt,
        caller: Caller,
    ) -> ResponseBook:
        approvals = Approvals(self.service.sealer.of(caller.name))
        known = prompt.listed
        new = [each for each in prompt.mcp.listed if label_of(each.label) not in known]
        return ResponseBook(
            response,
            include,
            prompt.tools.items,
            [tools_list(each) for each in new],
            lambda asked: request_id(asked, approvals),
        )

    def _response(
        self,
        id: str,
        body: ResponseRequest,
        prompt: Prompt,
        params: SamplingParams,
    ) -> dict[str, Any]:
        """The Response object, with the defaults where the request says nothing."""
        reasoning = body.reasoning
        conversation = body.conversation_id
        most = body.max_output_tokens
        return {
            "id": id,
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "queued" if body.background else "in_progress",
            "background": bool(body.background),
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": None if most == NO_LIMIT else most,
            "max_tool_calls": body.max_tool_calls,
            "metadata": body.metadata or {},
            "model": self.service.check_model(body.model),
            "output": [],
            "parallel_tool_calls": prompt.tools.tools.parallel,
            "previous_response_id": body.previous_response_id,
            "conversation": {"id": conversation} if conversation is not None else None,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": {
                "effort": (reasoning.effort if reasoning is not None else None)
                or prompt.effort.level,
                "summary": reasoning.wants_summary if reasoning is not None else None,
                "context": None,
            },
            "safety_identifier": body.safety_identifier,
            "service_tier": "default" if body.service_tier in (None, "auto") else body.service_tier,
            "store": body.is_stored,
            "temperature": params.temperature,
            "text": {
                "format": prompt.format.echo,
                "verbosity": (body.text.verbosity if body.text is not None else None) or "medium",
            },
            "tool_choice": body.tool_choice if body.tool_choice is not None else "auto",
            "tools": prompt.tools.echo,
            "top_logprobs": body.top_logprobs or 0,
            "top_p": params.top_p,
            "truncation": body.truncation or "disabled",
            "usage": None,
            "user": body.user,
        }

    # The answer

    async def events(
        self,
        pending: PendingResponse,
        patience: float,
    ) -> AsyncGenerator[Event, None]:
        """The wire events. An error before the first event is raised, except that a stream tells a
        prompt that is too long as a `response.failed`, which agents wait for. After `patience`
        seconds without an event of the model the stream begins all the same, and later errors are a
        `response.failed`. If this is closed or cancelled, the response is kept as cancelled.
        """
        book = pending.book
        answers = self._steps(pending)
        try:
            async with aclosing(_patient(answers, patience)) as steps:
                async for step in steps:
                    if book.sequence == 0:
                        if pending.body.background:  # nobody could get it otherwise
                            await self.service.store.put(self._stored(pending), must=True)
                        for event in book.begin():
                            yield event
                        if pending.body.background:
                            await self._keep(pending)
                    for event in book.write(step) if step is not None else ():
                        if book.has_ended:
                            await self._keep(pending)
                        yield event
        except Exception as error:
            told = ApiError.of(error)
            is_told = pending.body.stream and told.code == CONTEXT_EXCEEDED
            if book.has_ended or (book.sequence == 0 and not is_told):
                raise
            if book.sequence == 0:
                for event in book.begin():
                    yield event
            pending.error = told
            if pending.error.status == 500:
                log.error("an answer failed", exc_info=error)
            for event in book.fail(pending.error):
                await self._keep(pending)
                yield event
        finally:
            if book.sequence and not book.has_ended:
                book.cancel()
                await self._keep(pending)
            pending.prompt.mcp.close()

    async def _steps(self, pending: PendingResponse) -> AsyncGenerator[Step, None]:
        """The summary, if there is to be one, and the answer."""
        ask = pending.ask
        before = Usage()
        if pending.compacts:
            begun = compaction.begun()
            yield begun
            text, before = await self._summary(pending.prompt, pending.caller)
            seal = self.service.sealer.of(pending.caller.name).seal
            done = compaction.done(begun, text, seal)
            yield done
            if pending.prompt.is_triggered:
                yield TurnEnd("stop", before, ())
                return
            read = pending.prompt.read
            assert read is not None
            left = read(compaction.compacted(pending.prompt.items, done.item))
            ask = replace(ask, conversation=left.conversation, approved=left.approved)
        async with aclosing(self.service.answer(ask, pending.caller)) as events:
            async for event in events:
                if isinstance(event, Progress | TurnEnd):
                    event = replace(event, usage=compaction.added(before, event.usage))
                yield event

    async def _compacts(self, body: ResponseRequest, prompt: Prompt) -> bool:
        """Whether a summary comes first."""
        if prompt.is_triggered:
            return True
        rules = body.context_management
        if not rules or prompt.approved or not compaction.can_shrink(prompt.items):
            return False
        most = compaction.threshold(self.service.context, rules[0].compact_threshold)
        return len(await self.service.answerer.prompt_ids(prompt.conversation)) >= most

    async def _summary(self, prompt: Prompt, caller: Caller) -> tuple[str, Usage]:
        """What does not fit the context beside the summary is left out, the oldest first."""
        assert prompt.read is not None
        read = prompt.read

        def asking(items: Sequence[Item]) -> Reading:
            reading = read(items)
            return replace(reading, conversation=compaction.asking(reading.conversation))

        room = self.service.context // compaction.PART
        items = prompt.items
        whole = await shortened(self.service, asking(items), items, asking, room)
        return await compaction.summary(
            self.service, whole.conversation, prompt.tools.tools, caller
        )

    async def compact(self, body: PromptRequest, caller: Caller) -> dict[str, Any]:
        """The users' messages and a summary of all else."""
        prompt = await self.read(body, caller)
        prompt.mcp.close()
        text, usage = await self._summary(prompt, caller)
        seal = self.service.sealer.of(caller.name).seal
        item = compaction.done(compaction.begun(), text, seal).item
        items = (*prompt.history, *prompt.input)
        kept = [each for each in items if is_kept(each)]
        return {
            "id": new_id("resp"),
            "object": "response.compaction",
            "created_at": int(time.time()),
            "output": [*kept, item],
            "usage": responses_usage(usage),
        }

    async def whole(self, pending: PendingResponse) -> dict[str, Any]:
        """The Response object of a plain answer: the fold of its events. Raises its error."""
        async with aclosing(self.events(pending, patience=float("inf"))) as events:
            async for _ in events:
                pass
        if pending.error is not None:
            raise pending.error
        return pending.book.response

    # What is kept

    async def _keep(self, pending: PendingResponse) -> None:
        """Also when the client goes away meanwhile."""
        await self.service.keep(f"response {pending.id}", partial(self._kept, pending))

    async def _kept(self, pending: PendingResponse, again: bool) -> None:
        """Keeps what later requests need: the store's entry, the conversation's items, and the
        reasoning that led to calls. `again`: some of it may be kept already.
        """
        book = pending.book
        body = pending.body
        owner = pending.caller.name
        prompt = pending.prompt
        if book.end is not None:
            thoughts = thoughts_before_calls(pending.ask.tools, book.end.messages)
            remember = self.service.remember_thoughts
            await remember(pending.caller, book.call_ids, thoughts, pending.begun)
        if body.is_stored:
            await self.service.store.put(self._stored(pending))
        if body.conversation_id is not None and book.end is not None:
            try:
                items = [*prompt.input, *book.response["output"]]
                await self.service.store.add_items(owner, body.conversation_id, items, again=again)
            except StoreUnreachable:
                raise
            except (
                KeyError,
                OssiaError,
            ) as error:  # gone meanwhile, or full: the answer is there all the same
                log.warning("conversation %s does not grow: %r", body.conversation_id, error)

    def _stored(self, pending: PendingResponse) -> StoredResponse:
        prompt = pending.prompt
        return StoredResponse(
            pending.id,
            pending.caller.name,
            pending.book.response,
            prompt.history,
            prompt.input,
            thread=pending.ask.session.conversation,
            home=self.service.fleet.home,
            begun=pending.begun,
        )

    # Items that a reference means without naming the response that they are from

    async def _thread(self, owner: str, id: str) -> str:
        stored = await self.service.store.with_item(owner, id)
        return "" if stored is None else stored.thread or stored.id

    async def _item(self, owner: str, id: str) -> Item | None:
        stored = await self.service.store.with_item(owner, id)
        if stored is None:
            return None
        return next(
            (item for item in (*stored.input, *stored.response["output"]) if item["id"] == id), None
        )


async def _patient(
    events: AsyncGenerator[Step, None], patience: float
) -> AsyncGenerator[Step | None]:
    """The events; first of all None if none comes within `patience` seconds."""
    async with aclosing(events):
        first = asyncio.ensure_future(_next(events))
        try:
            timeout = None if patience == float("inf") else patience
            done, _ = await asyncio.wait((first,), timeout=timeout)
            if not done:
                yield None
            event = await first
        finally:
            if not first.done():
                first.cancel()
                with suppress(asyncio.CancelledError):
                    await first
        if event is not None:
            yield event
            async for event in events:
                yield event


async def _next(events: AsyncGenerator[Step, None]) -> Step | None:
    return await anext(events, None)
