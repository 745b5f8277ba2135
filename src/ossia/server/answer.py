"""Answering: what a request asks for in, one stream of events out. The only place where samples
become items.

    async for event in answerer.answer(ask): ...

render -> generate -> parse -> items; if the model called a tool of the server's own, or none that
exists, its result goes back into the conversation and the next sample follows. Knows Harmony and
the worker; no wire types, no HTTP.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from ossia.engine.request import SampledToken, SamplingParams
from ossia.errors import CONTEXT_EXCEEDED, OssiaError, TokenizerError, ToolError, blaming
from ossia.harmony import (
    CallReady,
    Conversation,
    DeveloperContent,
    HarmonyGrammar,
    Message,
    MessageEnd,
    MessageStart,
    RenderedHistory,
    Repair,
    RepairKind,
    Role,
    StreamParser,
    TextDelta,
    UnknownTool,
    read_arguments,
    resolve_recipient,
)
from ossia.harmony.calls import NOT_A_CALL
from ossia.server.builtin import BuiltinResult
from ossia.server.events import (
    AnswerEnd,
    AnswerEvent,
    BuiltinCalled,
    BuiltinStage,
    Called,
    Item,
    ItemDelta,
    ItemEnd,
    ItemStart,
    Progress,
    Reason,
    Said,
    Thought,
    Timing,
    TokenLogprob,
    Usage,
    new_id,
)
from ossia.server.stops import begun, first_stop
from ossia.server.tools import Callee, Tools
from ossia.server.wire.errors import ApiError
from ossia.server.worker import EngineStopped, EngineWorker, Samples
from ossia.tokenizer import Tokenizer
from ossia.turn.turn import stop_ids

log = logging.getLogger("ossia.server")
# characters of a conversation that is rendered in a thread, so that streams go on meanwhile
LONG = 20_000


@dataclass(frozen=True)
class Ask:
    """One answer that is wanted. `params` without stop ids; its `max_tokens` is that of the whole
    answer.

    `conversation` declares the `tools`. `grammar`: None: nothing is enforced. `stop`: strings that
    end the final answer, and are left out of it. `logprobs`: whether those of the text's tokens are
    wanted. `prompt_param`: the field that a prompt of too many tokens is blamed on. `samples` and
    `stream`: of several answers to one prompt.
    """

    conversation: Conversation
    params: SamplingParams
    tools: Tools = field(default_factory=Tools)
    grammar: HarmonyGrammar | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    cache_salt: str = ""
    samples: Samples | None = None
    stream: int = 0
    prompt_param: str = "messages"


class Answerer:
    """`retries`: samples that may follow one whose call could not be understood; `rounds`: that
    call server's tools.
    """

    def __init__(
        self, worker: EngineWorker, tokenizer: Tokenizer, retries: int = 2, rounds: int = 16
    ) -> None:
        self.worker, self.tokenizer = worker, tokenizer
        self.retries, self.rounds = retries, rounds
        self.stop_ids = stop_ids(tokenizer)

    async def answer(self, ask: Ask) -> AsyncGenerator[AnswerEvent, None]:
        """Closing the iterator stops the answer. Raises `ApiError` for what the engine refuses,
        before any event.
        """
        answer = _Answer(self, ask)
        async with aclosing(answer.run()) as events:
            async for event in events:
                yield event

    async def prompt_ids(self, conversation: Conversation) -> list[int]:
        """What a sample of the conversation's answer starts from."""
        history = await self._rendered(RenderedHistory(self.tokenizer), conversation.messages)
        return history.ids_for_completion()

    async def _rendered(
        self, history: RenderedHistory, messages: Sequence[Message]
    ) -> RenderedHistory:
        with blaming("messages"):
            if sum(map(_length, messages)) > LONG:
                await asyncio.to_thread(history.append, messages)
            else:
                history.append(messages)
        return history


def _length(message: Message) -> int:
    """In characters, roughly: what tools take besides their descriptions is not counted."""
    content = message.content
    if not isinstance(content, DeveloperContent):
        return len(message.text)
    tools = [tool for space in content.all_namespaces for tool in space.tools]
    return len(content.instructions or "") + sum(len(tool.description) for tool in tools)


class _Answer:
    """One answer on its way."""

    def __init__(self, answerer: Answerer, ask: Ask) -> None:
        self.answerer, self.ask = answerer, ask
        self.worker, self.tokenizer = answerer.worker, answerer.tokenizer
        self.callees = ask.tools.by_recipient
        self.history = RenderedHistory(self.tokenizer)
        self.index = 0  # of the next item
        self.prompt = self.cached = self.completion = self.reasoning = 0  # tokens
        self.messages: list[Message] = []
        self.repairs: list[Repair] = []
        self.arrived = time.monotonic()
        self.first_token: float | None = None
        self.retries, self.rounds = answerer.retries, answerer.rounds

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt, self.cached, self.completion, self.reasoning)

    async def run(self) -> AsyncGenerator[AnswerEvent, None]:
        news: Sequence[Message] = self.ask.conversation.messages
        while True:
            await self.answerer._rendered(self.history, news)
            sample = _Sample(self)
            async with aclosing(sample.run(self.history.ids_for_completion())) as events:
                async for event in events:
                    yield event
            begin = len(self.messages)
            self.messages += sample.messages
            self.repairs += sample.repairs
            async with aclosing(self._carry_out(sample)) as events:
                async for event in events:
                    yield event
            reason = self._over(sample)
            if reason is not None:
                break
            news = self.messages[begin:]
        for repair in self.repairs:
            log.info("repaired: %s at token %d", repair.kind.value, repair.position)
        timing = Timing(self.arrived, self.first_token, time.monotonic())
        stopped_by = sample.stopped_by
        yield AnswerEnd(
            reason, self.usage, tuple(self.messages), timing, stopped_by, tuple(self.repairs)
        )

    def _over(self, sample: _Sample) -> Reason | None:
        """How the answer ended; None if another sample has to follow."""
        if sample.reason == "length":
            return "length"
        if sample.calls:
            return "calls"
        if not (sample.builtin or sample.mistakes):
            return "stop"
        if self.ask.params.max_tokens is not None and self.completion >= self.ask.params.max_tokens:
            return "length"
        if sample.builtin:
            self.rounds -= 1
        else:
            self.retries -= 1
        return "stop" if min(self.rounds, self.retries) < 0 else None

    async def _carry_out(self, sample: _Sample) -> AsyncGenerator[AnswerEvent, None]:
        """The server's own tools, and what the model is told of calls that could not be understood."""
        for index, item, callee, message in sample.builtin:
            assert callee.builtin is not None
            yield BuiltinStage(index, item)
            try:
                result = await callee.builtin.run(callee.name, message.text)
            except ToolError as error:
                result = BuiltinResult(f"error: {error}", failed=True)
            except Exception:  # a tool must not take the answer along
                log.exception("tool %s failed", message.recipient)
                result = BuiltinResult("error: the tool failed", failed=True)
            yield ItemEnd(index, replace(item, outputs=result.outputs, failed=result.failed))
            name, channel = message.recipient, message.channel
            self.messages.append(Message(Role.TOOL, result.text, name, channel, "assistant"))
        for message, text in sample.mistakes:
            author = message.recipient or "functions"
            self.messages.append(
                Message(Role.TOOL, f"error: {text}", author, "commentary", "assistant")
            )


class _Sample:
    """One sample: tokens to items."""

    def __init__(self, answer: _Answer) -> None:
        self.answer, self.ask, self.callees = answer, answer.ask, answer.callees
        self.tokenizer = answer.tokenizer
        self.parser = StreamParser(self.tokenizer)
        self.reason: Reason = "length"
        self.stopped_by: str | None = None
        self.messages: list[Message] = []
        self.repairs: list[Repair] = []
        self.calls = 0  # for the client
        self.builtin: list[tuple[int, BuiltinCalled, Callee, Message]] = []
        self.mistakes: list[tuple[Message, str]] = []
        self.text: _Text | None = None  # of the item that is open
        self.noted: list[TokenLogprob] = []  # of tokens whose text has not come yet
        self.over = False
        self.ending = False  # whether the tokens are over
        # What is held to the grammar is right as it comes; else a call is shown when it is whole,
        # and understood.
        self.is_certain = self.ask.grammar is not None and answer.worker.engine.enforces_constraints

    async def run(self, prompt: list[int]) -> AsyncGenerator[AnswerEvent, None]:
        answer, ask = self.answer, self.ask
        left = ask.params.max_tokens
        left = None if left is None else left - answer.completion
        params = replace(ask.params, max_tokens=left, stop_ids=answer.answerer.stop_ids)
        constraint = None if ask.grammar is None else ask.grammar.start()
        samples = (
            ask.samples if answer.prompt == 0 else None
        )  # later ones have prompts of their own
        answer.prompt += len(prompt)
        tokens = answer.worker.generate(
            prompt, params, constraint,
            cache_salt=ask.cache_salt, samples=samples, stream=ask.stream,
        )  # fmt: skip
        first = True
        is_later = (
            answer.completion > 0
        )  # what has been said must not be lost because the context is full now
        async with aclosing(_refused(tokens, ask.prompt_param, is_later)) as checked:
            async for token in checked:
                if first:
                    answer.cached += token.cached_tokens
                    answer.first_token = answer.first_token or time.monotonic()
                    first = False
                for event in self.feed(token):
                    yield event
                if token.finish_reason == "stop":
                    self.reason = "stop"
                if self.over:
                    self.reason = "stop"
                    break
        for event in self.finish():
            yield event

    def feed(self, token: SampledToken) -> Iterator[AnswerEvent]:
        answer, current = self.answer, self.parser.current
        answer.completion += 1
        answer.reasoning += current is not None and current.channel == "analysis"
        if current is None:
            self.noted = []
        yield Progress(answer.usage)
        events = self.parser.feed(token.token_id)
        if (
            self.ask.logprobs
            and current is not None
            and not self.tokenizer.is_special(token.token_id)
        ):
            self.noted.append(self._logprob(token))
        for n, event in enumerate(events):
            whole = n + 1 < len(events) and isinstance(events[n + 1], CallReady)
            yield from self._handle(event, whole)
            if self.over:
                return

    def finish(self) -> Iterator[AnswerEvent]:
        """The tokens are over."""
        self.ending = True
        if not self.over:
            for event in self.parser.finish():
                yield from self._handle(event, False)
        self.repairs += self.parser.repairs

    # Parsed events

    def _handle(self, event: object, whole: bool) -> Iterator[AnswerEvent]:
        if isinstance(event, MessageStart):
            yield from self._start(event)
        elif isinstance(event, TextDelta) and self.text is not None:
            noted, self.noted = self.noted, []
            yield from self._delta(self.text.add(event.text, noted))
        elif isinstance(event, MessageEnd):
            yield from self._end(event, whole)

    def _start(self, header: MessageStart) -> Iterator[AnswerEvent]:
        self.text = None
        if header.role is not Role.ASSISTANT:
            return  # the model speaks for others: nobody's to hear
        if header.recipient not in NOT_A_CALL:
            callee = self._callee(header.recipient)
            if self.is_certain and callee is not None and callee.kind != "builtin":
                yield from self._open(_call_item(callee))
        elif header.channel == "analysis":
            yield from self._open(Thought(new_id("rs")))
        elif header.channel == "commentary":
            yield from self._open(Said(new_id("msg"), "commentary"))
        elif header.channel == "final":
            yield from self._open(Said(new_id("msg"), "final_answer"), stop=self.ask.stop)

    def _open(self, item: Item, stop: tuple[str, ...] = ()) -> Iterator[AnswerEvent]:
        self.text = _Text(self.answer.index, item, stop)
        self.answer.index += 1
        yield ItemStart(self.text.index, item)

    def _delta(self, piece: tuple[str, tuple[TokenLogprob, ...]]) -> Iterator[AnswerEvent]:
        text = self.text
        assert text is not None
        if piece[0] or piece[1]:
            yield ItemDelta(text.index, *piece)
        if text.found is not None:  # a stop string: the answer ends before it
            self.stopped_by, self.over = text.found, True
            self.messages.append(Message(Role.ASSISTANT, text.said, channel="final"))
            yield ItemEnd(text.index, text.ended())

    def _end(self, end: MessageEnd, whole: bool) -> Iterator[AnswerEvent]:
        message, text = end.message, self.text
        if message.role is not Role.ASSISTANT:
            return
        if message.recipient not in NOT_A_CALL:
            yield from self._end_call(end, whole)
            return
        if text is None:
            yield from self._without_channel(end)
            return
        self.messages.append(message)
        yield from self._delta(text.rest())
        self.text = None
        yield ItemEnd(text.index, text.ended(), complete=not self.ending)
        if message.channel == "final" and end.closed_by == "<|end|>":
            self.over = (
                True  # said, though not with <|return|>: what would follow is another's turn
            )

    def _without_channel(self, end: MessageEnd) -> Iterator[AnswerEvent]:
        """Text that no channel, or none that there is, says the use of: so it is not shown before
        it is whole. With <|return|> the model ends its answers; what else it says, and says not to
        be final, is reasoning.
        """
        if not end.message.text:
            return
        is_answer = end.closed_by == "<|return|>"
        message = replace(end.message, channel="final" if is_answer else "analysis")
        if is_answer:
            yield from self._open(Said(new_id("msg"), "final_answer"), stop=self.ask.stop)
        else:
            yield from self._open(Thought(new_id("rs")))
        assert self.text is not None
        text, noted, self.noted = self.text, self.noted, []
        yield from self._delta(text.add(message.text, noted))
        if self.over:
            return
        self.messages.append(message)
        yield from self._delta(text.rest())
        self.text = None
        yield ItemEnd(text.index, text.ended(), complete=not self.ending)

    def _end_call(self, end: MessageEnd, whole: bool) -> Iterator[AnswerEvent]:
        """`whole`: the parser says that it is ready, not cut by the end of the tokens."""
        message, text, self.text = end.message, self.text, None
        callee = self._callee(message.recipient)
        if text is not None:  # it has been shown as it came
            self.messages.append(message)
            self.calls += whole
            yield ItemEnd(text.index, text.ended(), complete=whole)
            return
        arguments, wrong = message.text, None
        if callee is None:
            found = resolve_recipient(message.recipient, self.callees)
            wrong = found.text if isinstance(found, UnknownTool) else "no such tool"
        elif (
            whole and callee.kind != "custom" and not (callee.kind == "builtin" and not callee.name)
        ):
            read = read_arguments(
                arguments, callee.parameters if end.closed_by in ("<|call|>", "<|end|>") else None
            )
            if read.repaired:
                self.repairs.append(Repair(self.parser.position, RepairKind.ARGUMENTS, arguments))
            arguments = read.text if read.value is None or read.repaired else read.text or "{}"
            wrong = (
                None if read.value is not None else f"the arguments are no JSON: {read.diagnosis}"
            )
        if wrong is not None and whole:
            log.info("a call was not understood: %s", wrong)
            if callee is None or self.answer.retries > 0:
                self.messages.append(message)
                self.mistakes.append((message, wrong))
                self.over = True  # the model has to be told, whatever it goes on to say
                return
        if callee is None:
            return  # cut, and nobody's
        message = replace(message, content=arguments, recipient=_recipient(callee))
        self.messages.append(message)
        yield from self._whole_call(callee, message, whole)

    def _whole_call(self, callee: Callee, message: Message, whole: bool) -> Iterator[AnswerEvent]:
        if callee.builtin is None:
            item: Item = _call_item(callee)
            yield from self._open(item)
            assert self.text is not None
            yield from self._delta(self.text.add(message.text, []))
            yield ItemEnd(self.text.index, self.text.ended(), complete=whole)
            self.calls += whole
        else:
            prefix = "ci" if callee.namespace == "python" else "ws"
            action = callee.builtin.action(callee.name, message.text)
            called = BuiltinCalled(
                new_id(prefix), callee.namespace or "", callee.name, action=action
            )
            yield from self._open(called)
            assert self.text is not None
            yield from self._delta(self.text.add(message.text, []))
            called = replace(called, text=message.text)
            if whole:
                self.builtin.append((self.text.index, called, callee, message))
                self.over = True  # its result comes first, whatever the model goes on to say
            else:
                yield ItemEnd(self.text.index, called, complete=False)
        self.text = None

    # Small things

    def _callee(self, recipient: str | None) -> Callee | None:
        found = resolve_recipient(recipient, self.callees)
        return None if isinstance(found, UnknownTool) else self.callees[found]

    def _logprob(self, token: SampledToken) -> TokenLogprob:
        top = tuple(token_logprob(self.tokenizer, id, value) for id, value in token.top_logprobs)
        return replace(token_logprob(self.tokenizer, token.token_id, token.logprob), top=top)


class _Text:
    """The text of an open item. What could be the beginning of a stop string is held back until it
    is certain.
    """

    def __init__(self, index: int, item: Item, stop: tuple[str, ...]) -> None:
        self.index, self.item, self.stop = index, item, stop
        self.found: str | None = None  # the stop string that has come
        self._said: list[str] = []
        self._shown: list[TokenLogprob] = []
        self._held = ""
        self._pending: list[TokenLogprob] = []  # of what is held
        self._covered = (
            0  # characters of what is held that belong to a token which is shown already
        )

    @property
    def said(self) -> str:
        return "".join(self._said)

    def ended(self) -> Item:
        if isinstance(self.item, Said):
            return replace(self.item, text=self.said, logprobs=tuple(self._shown))
        return replace(self.item, text=self.said)

    def add(self, text: str, noted: Sequence[TokenLogprob]) -> tuple[str, tuple[TokenLogprob, ...]]:
        """What can be said now, and the log-probabilities of tokens that are said with it."""
        self._held += text
        if isinstance(self.item, Said):
            self._pending += noted
        if not self.stop:
            return self.rest()
        if (found := first_stop(self._held, self.stop)) is not None:
            at, self.found = found
            return self._release(at)
        return self._release(len(self._held) - begun(self._held, self.stop))

    def rest(self) -> tuple[str, tuple[TokenLogprob, ...]]:
        """The message is over: nothing is held back any more."""
        return self._release(len(self._held))

    def _release(self, count: int) -> tuple[str, tuple[TokenLogprob, ...]]:
        """The first characters of what is held. A token goes with the text that it begins in."""
        text, whole = self._held[:count], count == len(self._held)
        self._held = self._held[count:]
        if text:
            self._said.append(text)
        at, logprobs = self._covered, []
        while self._pending and (whole or at < count):
            logprobs.append(self._pending.pop(0))
            at += len(logprobs[-1].text)
        self._covered = 0 if whole else max(0, at - count)
        self._shown += logprobs
        return text, tuple(logprobs)


def token_logprob(tokenizer: Tokenizer, token: int, logprob: float) -> TokenLogprob:
    try:
        data = tokenizer.token_bytes(token)
    except TokenizerError:  # an id without text
        data = b""
    return TokenLogprob(token, codecs.decode(data, "utf-8", "replace"), data, logprob)


def _call_item(callee: Callee) -> Called:
    kind, prefix = ("function", "fc") if callee.kind == "function" else ("custom", "ctc")
    return Called(new_id(prefix), new_id("call"), kind, callee.name, callee.namespace)  # type: ignore[arg-type]


def _recipient(callee: Callee) -> str:
    space = callee.namespace or "functions"
    return f"{space}.{callee.name}" if callee.name else space


async def _refused(
    tokens: AsyncGenerator[SampledToken, None], param: str, is_later: bool
) -> AsyncGenerator[SampledToken, None]:
    """What the engine refuses is the request's fault. `is_later`: a prompt that is too long gives
    no tokens.
    """
    try:
        async for token in tokens:
            yield token
    except OssiaError as error:
        if not (is_later and error.code == CONTEXT_EXCEEDED):
            raise ApiError.of(error, prompt=param) from error
    except EngineStopped as error:
        raise ApiError.of(error) from error
    finally:
        await tokens.aclose()
