"""Answering: an `AnswerRequest` in, one stream of events out. The turn's asynchronous driver.

    async for event in answerer.answer(request): ...

Samples come from the engine's worker, and tools run on the event loop; everything else about an
answer is `turn.Turn`'s. Knows Harmony and the worker; no wire types, no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from ossia.engine.request import SampledToken, SamplingParams
from ossia.errors import CONTEXT_EXCEEDED, GrammarError, OssiaError, blaming
from ossia.harmony import (
    Conversation,
    DeveloperContent,
    HarmonyConstraint,
    HarmonyGrammar,
    Message,
    RenderedHistory,
)
from ossia.harmony.render import opened
from ossia.server.access import Whose
from ossia.server.hosted.citing import Citing
from ossia.server.wire.errors import ApiError
from ossia.server.worker import EngineStopped, EngineWorker, Samples
from ossia.tokenizer import Tokenizer
from ossia.tools import SessionKey, Sessions, Toolbox, ToolResult
from ossia.turn import Approved, Limits, Rules, Turn, stop_ids
from ossia.turn.events import Progress, Timing, TurnEnd, TurnEvent
from ossia.turn.sample import BuiltinCall
from ossia.turn.targets import FREE, Grammars

log = logging.getLogger("ossia.server")
# Longer conversations, in characters, are rendered in a thread, so that streams go on meanwhile.
LONG = 20_000


async def run_call(sessions: Sessions, call: BuiltinCall) -> ToolResult:
    """For anybody, without limits."""
    return await sessions.call(*call.request)


@dataclass(frozen=True)
class AnswerRequest:
    """A request for one answer. `params` has the stop ids that the client names; its `max_tokens`
    and `min_tokens` are for the whole answer. `opening`: the beginning of a message, after the
    conversation, that the answer goes on with. `conversation` declares the `tools`; `max_calls`:
    how many calls of our own tools may be run, and `uses`: how many of one, by its recipient.
    `grammar` None: nothing is enforced. `stop`: strings that end the final answer, and are left out
    of it. `logprobs`: whether those of the text's tokens are wanted. `prompt_param`: the field to
    name if the prompt is too long. `samples` and `stream`: of several answers to one prompt.
    `session`: whose state our tools see. `run`: carries out their calls. `turn_of`: who waits for
    it; callers take turns. `approved`: calls in the conversation that are run before anything is
    sampled. `begun`: told of the first sample's prompt.
    """

    conversation: Conversation
    params: SamplingParams
    tools: Toolbox = field(default_factory=Toolbox)
    grammar: Grammars | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    cache_salt: str = ""
    samples: Samples | None = None
    stream: int = 0
    prompt_param: str = "messages"
    max_calls: int | None = None
    uses: Mapping[str, int] = field(default_factory=dict)
    session: SessionKey = field(default_factory=SessionKey)
    run: Callable[[Sessions, BuiltinCall], Awaitable[ToolResult]] = run_call
    turn_of: Whose = Whose()  # noqa: RUF009 - immutable
    opening: Message | None = None
    approved: tuple[Approved, ...] = ()
    begun: Callable[[Sequence[int]], object] = lambda prompt: None


class Answerer:
    """`retries` and `rounds`: see `turn.Limits`. `call_seconds`: that a call of a tool may take.
    `keep_marks`: of citations, see `hosted.citing`.
    """

    def __init__(
        self,
        worker: EngineWorker,
        tokenizer: Tokenizer,
        retries: int = 2,
        rounds: int = 100,
        *,
        call_seconds: float = 300.0,
        keep_marks: bool = False,
    ) -> None:
        self.worker = worker
        self.tokenizer = tokenizer
        self.retries = retries
        self.rounds = rounds
        self.call_seconds = call_seconds
        self.keep_marks = keep_marks
        self.stop_ids = stop_ids(tokenizer)

    async def answer(self, request: AnswerRequest) -> AsyncGenerator[TurnEvent, None]:
        """Closing the iterator stops the answer. If the engine refuses the request, this raises
        `ApiError` before any event.
        """
        turn = self._turn(request)
        citing = Citing(turn.sessions, request.tools.builtin, keep_marks=self.keep_marks)
        arrived = time.monotonic()
        first_token: float | None = None
        try:
            for event in turn.begin_calls():
                yield event
            async for event in _run_calls(turn, request):
                yield event
            while (prompt := await _begin(turn)) is not None:
                if turn.samples == 1:
                    request.begun(prompt)
                async with aclosing(self._tokens(request, turn, prompt)) as tokens:
                    async for token in tokens:
                        first_token = first_token or time.monotonic()
                        events = turn.feed(token)
                        is_first = turn.usage.completion == 1
                        yield Progress(turn.usage, token.token_id, (*prompt,) if is_first else ())
                        for event in citing.events(events):
                            yield event
                        if turn.sample_is_over:
                            break
                for event in citing.events(turn.end_sample()):
                    yield event
                async for event in _run_calls(turn, request):
                    yield event
        finally:
            await turn.sessions.close()
        assert turn.end is not None
        yield _ended(turn.end, Timing(arrived, first_token, time.monotonic()))

    async def prompt_ids(
        self, conversation: Conversation, opening: Message | None = None
    ) -> list[int]:
        """What a sample of the conversation's answer starts from."""
        history = RenderedHistory(self.tokenizer)
        with blaming("messages"):
            if _is_long(conversation.messages):
                await asyncio.to_thread(history.append, conversation.messages)
            else:
                history.append(conversation.messages)
        begun = [] if opening is None else opened(opening, self.tokenizer)
        return history.ids_for_completion() + begun

    def _turn(self, request: AnswerRequest) -> Turn:
        params = request.params
        rules = Rules(
            request.tools,
            request.stop,
            request.logprobs,
            is_enforced=request.grammar is not None and self.worker.engine.enforces_constraints,
            checked=(request.grammar or FREE).checked,
            stop_ids=params.stop_ids,
            min_tokens=params.min_tokens,
        )
        return Turn(
            request.conversation,
            self.tokenizer,
            rules,
            Limits(params.max_tokens, self.rounds, self.retries, request.max_calls),
            Sessions(request.session, self.call_seconds),
            request.opening,
            request.approved,
        )

    async def _tokens(
        self, request: AnswerRequest, turn: Turn, prompt: list[int]
    ) -> AsyncGenerator[SampledToken, None]:
        """One sample. Raises `ApiError` for a refusal of the engine, except that a later prompt
        that is too long gives no tokens: the answer so far must not be lost because the context is
        full now.
        """
        is_first = turn.samples == 1
        params = replace(
            request.params,
            max_tokens=turn.tokens_left,
            min_tokens=max(0, request.params.min_tokens - turn.usage.completion),
            stop_ids=self.stop_ids | request.params.stop_ids,
        )
        grammar = await _grammar(request.grammar or FREE, turn)
        constraint = None if grammar is None else grammar.start()
        if constraint is not None and turn.opening_ids:  # a long one takes a while
            budget = grammar.reasoning_budget if grammar and _is_thought(request.opening) else None
            await asyncio.to_thread(_go_on, constraint, turn.opening_ids, budget)
        tokens = self.worker.generate(
            prompt,
            self.worker.within(params, prompt),
            constraint,
            cache_salt=request.cache_salt,
            samples=request.samples if is_first else None,  # later ones have prompts of their own
            stream=request.stream,
            caller=request.turn_of.caller,
            is_batch=request.turn_of.is_batch,
        )
        try:
            async with aclosing(tokens):
                async for token in tokens:
                    yield token
        except OssiaError as error:
            if is_first or error.code != CONTEXT_EXCEEDED:
                raise ApiError.of(error, prompt=request.prompt_param) from error
        except EngineStopped as error:
            raise ApiError.of(error) from error


async def _grammar(grammars: Grammars, turn: Turn) -> HarmonyGrammar | None:
    """Of the next sample."""
    spent = turn.calls_are_spent
    if spent and turn.has_called:  # has to be put together first
        return await asyncio.to_thread(grammars.of_sample, has_called=True, calls_are_spent=True)
    return grammars.of_sample(has_called=turn.has_called)


def _is_thought(opening: Message | None) -> bool:
    return opening is not None and opening.channel == "analysis"


def _go_on(constraint: HarmonyConstraint, opening: Sequence[int], budget: int | None) -> None:
    """Walks over a message that has begun. `budget`: in tokens, if it is reasoning, which nothing
    else forbids. Raises `ApiError`.
    """
    try:
        for token in opening:
            constraint.advance(token)
    except GrammarError as error:
        why = "response_format or tool_choice forbids it"
        if budget is not None:
            why = f"it has more reasoning than the reasoning budget of {budget} tokens allows; "
            why += "raise the budget or shorten the message"
        why = f"the last message cannot be gone on with: {why}"
        raise ApiError(400, why, param="continue_final_message") from error


async def _begin(turn: Turn) -> list[int] | None:
    with blaming("messages"):
        if _is_long(turn.unrendered):
            return await asyncio.to_thread(turn.begin_sample)
        return turn.begin_sample()


async def _run_calls(turn: Turn, request: AnswerRequest) -> AsyncGenerator[TurnEvent, None]:
    """Runs the calls of our own tools at the same time."""
    calls = turn.calls
    for call in calls:
        yield turn.start_call(call)
    results = await asyncio.gather(*(request.run(turn.sessions, call) for call in calls))
    for call, result in zip(calls, results, strict=True):
        yield turn.end_call(call, result)


def _ended(end: TurnEnd, timing: Timing) -> TurnEnd:
    """An answer that used up its rounds of tools counts as stopped: no API has a word for it."""
    for repair in end.repairs:
        log.info("repaired: %s at token %d", repair.kind.value, repair.position)
    reason = "stop" if end.reason == "tool_rounds" else end.reason
    return replace(end, reason=reason, timing=timing)


def _is_long(messages: Sequence[Message]) -> bool:
    return sum(map(_length, messages)) > LONG


def _length(message: Message) -> int:
    """In characters, roughly: of tools only the descriptions are counted."""
    content = message.content
    if not isinstance(content, DeveloperContent):
        return len(message.text)
    tools = [tool for space in content.all_namespaces for tool in space.tools]
    return len(content.instructions or "") + sum(len(tool.description) for tool in tools)
