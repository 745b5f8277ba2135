"""Creating responses: a request prepared, its answer as one stream of wire events, and what is kept
of it.

Knows the service, the store's and the runs' interfaces, and the book that writes events; nothing of
HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from ossia.engine.request import SamplingParams
from ossia.errors import OssiaError
from ossia.harmony import Message
from ossia.harmony.calls import NOT_A_CALL
from ossia.server.access import Caller
from ossia.server.answer import Ask
from ossia.server.events import AnswerEvent, new_id
from ossia.server.responses.input import Item
from ossia.server.responses.items import Look
from ossia.server.responses.output import Event, ResponseBook
from ossia.server.responses.prompt import Prompt, grammar_of, read_prompt
from ossia.server.responses.store import StoredResponse
from ossia.server.responses.types import PromptRequest, ResponseRequest
from ossia.server.service import Service
from ossia.server.wire.errors import ApiError, bad

log = logging.getLogger("ossia.server")
ITEMS_KNOWN = 100_000  # that an item_reference can mean, the last ones


@dataclass
class Making:
    """A response on its way. `error`: what it failed of after it had begun."""

    body: ResponseRequest
    caller: Caller
    prompt: Prompt
    ask: Ask
    book: ResponseBook
    error: ApiError | None = None

    @property
    def id(self) -> str:
        return str(self.book.response["id"])


class Creator:
    """One per application."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._made: OrderedDict[tuple[str, str], str] = (
            OrderedDict()
        )  # owner and item's id -> id of the stored response

    async def read(self, body: PromptRequest, caller: Caller, **limits: int | None) -> Prompt:
        self.service.check_model(body.model)
        return await read_prompt(
            self.service,
            self.service.sealer,
            lambda id: self._item(caller.name, id),
            body,
            caller,
            **limits,
        )

    async def prepare(self, body: ResponseRequest, caller: Caller) -> Making:
        """Raises `ApiError` for what can be seen to be wrong before the model is asked."""
        for name in ("prompt", "moderation"):
            if getattr(body, name) is not None:
                raise bad(f"{name} is not supported by this server", name, "unsupported_parameter")
        if body.background and not body.is_stored:
            raise bad(
                "a response in the background must be stored: nobody could get it otherwise",
                "store",
            )
        prompt = await self.read(
            body, caller, max_calls=body.max_tool_calls, max_output=body.max_output_tokens
        )
        wants_logprobs = "message.output_text.logprobs" in body.includes or bool(body.top_logprobs)
        params = self._sampling(body, wants_logprobs)
        ask = Ask(
            prompt.conversation,
            params,
            prompt.tools.tools,
            await grammar_of(self.service, prompt),
            stop=body.stop or (),
            logprobs=wants_logprobs,
            prompt_param="input",
        )
        look = Look(
            summary=body.reasoning.wants_summary if body.reasoning is not None else None,
            seal=self.service.sealer.seal
            if "reasoning.encrypted_content" in body.includes
            else None,
            logprobs=wants_logprobs,
            code_outputs="code_interpreter_call.outputs" in body.includes,
            sources="web_search_call.action.sources" in body.includes,
        )
        return Making(
            body, caller, prompt, ask, ResponseBook(self._response(body, prompt, params), look)
        )

    def _sampling(self, body: ResponseRequest, logprobs: bool) -> SamplingParams:
        bias = None
        if body.logit_bias is not None:
            try:
                bias = {int(token): value for token, value in body.logit_bias.items()}
            except ValueError as error:
                raise bad("logit_bias maps token ids to numbers", "logit_bias") from error
        return self.service.sampling(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            min_p=body.min_p,
            seed=body.seed,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            logit_bias=bias,
            top_logprobs=body.top_logprobs if logprobs else None,
            max_tokens=body.max_output_tokens,
        )

    def _response(
        self, body: ResponseRequest, prompt: Prompt, params: SamplingParams
    ) -> dict[str, Any]:
        """The Response object, with what is in effect where the request says nothing."""
        reasoning = body.reasoning
        conversation = body.conversation_id
        return {
            "id": new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "queued" if body.background else "in_progress",
            "background": bool(body.background),
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
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

    async def events(self, making: Making, patience: float) -> AsyncGenerator[Event, None]:
        """The wire events. What is refused before the first event is raised; after `patience`
        seconds without an event of the model the stream begins all the same, and what goes wrong
        from then on is a `response.failed`.

        If this is closed or cancelled, the response is kept as cancelled.
        """
        book = making.book
        answers = self.service.answer(making.ask, making.caller)
        try:
            async with aclosing(_patient(answers, patience)) as steps:
                async for step in steps:
                    if book.sequence == 0:
                        for event in book.begin():
                            yield event
                        if making.body.background:
                            self._keep(making)
                    for event in book.write(step) if step is not None else ():
                        if book.has_ended:
                            self._keep(making)
                        yield event
        except Exception as error:
            if book.sequence == 0 or book.has_ended:
                raise
            making.error = ApiError.of(error)
            if making.error.status == 500:
                log.error("an answer failed", exc_info=error)
            for event in book.fail(making.error):
                self._keep(making)
                yield event
        finally:
            if book.sequence and not book.has_ended:
                book.cancel()
                self._keep(making)

    async def whole(self, making: Making) -> dict[str, Any]:
        """The Response object of a plain answer: the fold of its events. Raises what it failed of."""
        async with aclosing(self.events(making, patience=float("inf"))) as events:
            async for _ in events:
                pass
        if making.error is not None:
            raise making.error
        return making.book.response

    # What is kept

    def _keep(self, making: Making) -> None:
        """For who comes back: the store's entry, the conversation's items, and the reasoning that
        led to calls.
        """
        book, body, owner, prompt = making.book, making.body, making.caller.name, making.prompt
        if book.end is not None:
            thoughts = thoughts_before_calls(making.ask, book.end.messages)
            self.service.remember_thoughts(making.caller, book.call_ids, thoughts)
        if body.is_stored:
            self.service.store.put(
                StoredResponse(making.id, owner, book.response, prompt.history, prompt.input)
            )
            self._know(making)
        if body.conversation_id is not None and book.end is not None:
            try:
                self.service.store.add_items(
                    owner, body.conversation_id, [*prompt.input, *book.response["output"]]
                )
            except (
                KeyError,
                OssiaError,
            ) as error:  # gone meanwhile, or full: the answer is there all the same
                log.warning("conversation %s does not grow: %r", body.conversation_id, error)

    # Items that a reference means without naming the response that they are from

    def _know(self, making: Making) -> None:
        for item in (*making.prompt.input, *making.book.response["output"]):
            key = (making.caller.name, item["id"])
            self._made[key] = making.id
            self._made.move_to_end(key)
        while len(self._made) > ITEMS_KNOWN:
            self._made.popitem(last=False)

    def _item(self, owner: str, id: str) -> Item | None:
        made = self._made.get((owner, id))
        stored = self.service.store.get(owner, made) if made is not None else None
        if stored is None:
            return None
        return next(
            (item for item in (*stored.input, *stored.response["output"]) if item["id"] == id), None
        )


def thoughts_before_calls(ask: Ask, messages: Sequence[Message]) -> list[Message]:
    """What an answer says before it calls for the first time what the client carries out."""
    builtin = {
        recipient
        for recipient, callee in ask.tools.by_recipient.items()
        if callee.kind == "builtin"
    }
    before: list[Message] = []
    for message in messages:
        if message.role == "assistant" and message.recipient not in (*NOT_A_CALL, *builtin):
            break
        before.append(message)
    return before


async def _patient(
    events: AsyncGenerator[AnswerEvent, None], patience: float
) -> AsyncGenerator[AnswerEvent | None]:
    """The events; before them None if the first is not there after `patience` seconds."""
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


async def _next(events: AsyncGenerator[AnswerEvent, None]) -> AnswerEvent | None:
    return await anext(events, None)
