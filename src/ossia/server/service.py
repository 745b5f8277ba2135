"""What every route needs: settings, tokenizer, the engine's worker, grammars, and answering with
the books kept.

One object per application, made by `create_app`. Knows no routes and no wire types.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from ossia.engine.request import SamplingParams
from ossia.errors import GrammarError, RequestError
from ossia.harmony import Conversation, HarmonyGrammar, JsonFormat, Message, body_format
from ossia.harmony.content import forget_types
from ossia.harmony.grammar.bodies import Vocabulary, forget_formats, vocabulary
from ossia.harmony.grammar.compiling import GivenUp, giving_up
from ossia.harmony.grammar.kept import Parts
from ossia.harmony.messages import EffortName
from ossia.server.access import Access, Caller, request_begun, request_size, whose_turn
from ossia.server.accounts.ledger import Ledger
from ossia.server.accounts.session import name_by_prompt
from ossia.server.answer import LONG, Answerer, AnswerRequest
from ossia.server.fleet.fleet import Fleet
from ossia.server.hosted.approvals import ApprovedCalls
from ossia.server.hosted.calls import Calls, allowed, names
from ossia.server.hosted.mcp import McpServers
from ossia.server.hosted.uploads import UploadRules, Uploads
from ossia.server.metrics import Metrics
from ossia.server.places import Places
from ossia.server.responses.background import Runs
from ossia.server.sealing import Sealer
from ossia.server.settings import Settings
from ossia.server.store.approved import ApprovedTable
from ossia.server.store.forgotten import ForgottenTable
from ossia.server.store.late import LateWrites, Write
from ossia.server.store.opening import database_of
from ossia.server.store.store import Store
from ossia.server.store.thoughts import Thoughts
from ossia.server.wire.conversation import effort_in
from ossia.server.wire.documents import Documents
from ossia.server.wire.errors import ApiError
from ossia.server.wire.fields import EffortWord
from ossia.server.wire.format import FREE_TEXT, AnswerFormat
from ossia.server.wire.sampling import SamplingFields
from ossia.server.worker import EngineLike, EngineWorker
from ossia.tokenizer import Tokenizer
from ossia.tools import Tool, Toolbox
from ossia.tools.containers import Containers
from ossia.turn.events import TurnEvent
from ossia.turn.targets import Grammars

log = logging.getLogger("ossia.server")
T = TypeVar("T")
UPLOADS = "uploads"  # the folder beside the containers
COMPILERS = 2  # callers whose grammars are compiled at the same time; others take turns
OUT_OF_REACH = -1000.0  # a bias


@dataclass(frozen=True)
class Effort:
    """`level`: Harmony's word. `budget`: how many tokens of reasoning; None: no limit."""

    level: EffortName
    budget: int | None = None


EFFORTS: dict[EffortWord, Effort] = {
    "none": Effort("low", 0),
    "minimal": Effort("low"),
    "low": Effort("low"),
    "medium": Effort("medium"),
    "high": Effort("high"),
    "xhigh": Effort("high"),
    "max": Effort("high"),
}


class Service:
    """`builtin`: tools that the server runs itself, by the name of their namespace ("browser",
    "python"); which of them a caller may use, `tools_for` says. `containers`: those that code runs
    in. `mcp`: other programs' tools.
    """

    def __init__(
        self,
        engine: EngineLike,
        tokenizer: Tokenizer,
        settings: Settings,
        builtin: Sequence[Tool] = (),
        changed: Callable[[], str | None] = lambda: None,
        containers: Containers | None = None,
        mcp: McpServers | None = None,
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.sealer = Sealer(settings.secret)
        self.worker = EngineWorker(engine, changed, self._rest)
        self.answerer = Answerer(
            self.worker,
            tokenizer,
            settings.retries,
            settings.tool_rounds,
            call_seconds=settings.tool_seconds,
            keep_marks=settings.citations == "marks",
        )
        self.builtin = {tool.namespace.name: tool for tool in builtin}
        self.containers = containers
        self.mcp = mcp or McpServers()
        self.uploads: Uploads | None = None  # where code runs
        self.metrics = Metrics(self.worker, settings.model_name)
        database = database_of(settings.store_url or settings.store_path)
        self.store = Store(database, settings.store_ttl, settings.store_bytes)
        self.fleet = Fleet(self.store, self.sealer, settings.home)
        self.store.observe = self.metrics.store
        self.store.keep_for(settings.retention)
        self.access = Access.of(settings)
        self.metrics.state(self.access, lambda: self.is_draining)
        shared = database.is_shared and not settings.local_limits
        self.ledger = Ledger(self.store, self.access, settings.model_name, shared=shared)
        if containers is not None:
            self.metrics.containers(lambda: containers.count)
            self._keep_files(containers)
        self.thoughts = Thoughts(self.store)
        self._approved = ApprovedTable(self.store, settings.home, settings.tool_seconds)
        self.forgotten = ForgottenTable(self.store)
        self.approved = ApprovedCalls(self._approved)
        self.runs = Runs(self.store, home=settings.home, max_running=settings.max_queue)
        self.documents = Documents()
        self.is_draining = False
        self._compilers = ThreadPoolExecutor(COMPILERS, "grammar")
        self._compiling = Places(COMPILERS)
        self._vocabulary: Future[Vocabulary] | None = None
        self._outlasting: set[asyncio.Future[Any]] = set()
        self._late = LateWrites()

    def _keep_files(self, containers: Containers) -> None:
        """How many containers a caller has, how long files stay, and whose server they are at."""
        limits = {key.name: key.limits.containers for key in self.settings.keys}
        users = self.settings.users.containers
        containers.most_of = lambda caller: limits.get(caller, users)
        kept = self.settings.retention
        if kept.containers is not None:
            containers.rules = replace(containers.rules, expires_after=kept.containers)
        rules = UploadRules()
        if kept.files is not None:
            rules = UploadRules(expires_after=kept.files)
        self.uploads = Uploads(containers.root / UPLOADS, rules)
        if not self.fleet.is_alone:
            containers.mark = self.fleet.mark()
            self.uploads.mark = self.fleet.mark()

    async def open(self) -> None:
        """Before the first request. Raises `StoreError`."""
        await self.store.open()
        await self._approved.open()
        await self.runs.recover()
        await self.fleet.open(self.runs.give_up, self.runs.settle)

    async def keep(self, what: str, write: Write) -> None:
        """Writes what an answer leaves behind, even if the client goes away; see `LateWrites`."""
        await self.outlasting(self._late.keep(what, write))

    async def close(self) -> None:
        """After the last one."""
        if self._outlasting:
            await asyncio.wait(self._outlasting)
        await self._late.close()
        await self.fleet.close()
        await self.store.close()

    async def outlasting(self, work: Awaitable[T]) -> T:
        """The result of work that goes on to its end even if who waits for it is cancelled."""
        task = asyncio.ensure_future(work)
        self._outlasting.add(task)
        task.add_done_callback(self._outlasting.discard)
        return await asyncio.shield(task)

    @property
    def context(self) -> int:
        """Tokens that one request can have, prompt and answer."""
        return self.worker.engine.longest

    def check_model(self, name: str | None) -> str:
        """The model's name for the answer: the one that was asked for, or ours. Raises `ApiError`
        if names are strict.
        """
        ours = self.settings.model_name
        if name not in (None, "", ours) and self.settings.strict_model_names:
            raise ApiError(
                404,
                f"there is no model {name!r}; this server has {ours!r}",
                param="model",
                code="model_not_found",
            )
        return name or ours

    def sampling(self, fields: SamplingFields, **own: Any) -> SamplingParams:
        """The server's defaults with the request's values; see `SamplingFields.params`. `stop_ids`
        are those that the request names. With `ignore_eos` the model's own are out of reach, unless
        the grammar allows nothing else.
        """
        named = frozenset(fields.stop_token_ids or ())
        wishes = {"stop_ids": named, **own}
        params = fields.params(self.settings.sampling, self.tokenizer.vocab_size, **wishes)
        if not fields.ignore_eos:
            return params
        never = dict.fromkeys(self.answerer.stop_ids - named, OUT_OF_REACH)
        return replace(params, logit_bias={**params.logit_bias, **never})

    def effort(self, word: EffortWord | None, instructions: str | None = None) -> Effort:
        """That of the request's field, else of its system message, else the server's."""
        if word is not None:
            return EFFORTS[word]
        said = effort_in(instructions) if self.settings.effort_in_system else None
        return Effort(said or self.settings.effort)

    def warm(self) -> Future[Vocabulary]:
        """Reads the vocabulary for grammars, in a thread: that takes most of a second."""
        if self._vocabulary is None:
            self._vocabulary = self._compilers.submit(vocabulary, self.tokenizer)
        return self._vocabulary

    async def grammar(
        self,
        tools: Toolbox,
        format: AnswerFormat = FREE_TEXT,
        budget: int | None = None,
        check: Callable[[], Awaitable[object]] | None = None,
        *,
        holds_on: bool = False,
    ) -> Grammars | None:
        """The grammar of the samples; None if the settings enforce nothing and the request needs
        nothing enforced. `holds_on`: the model may not end its answer in ways of its own. What
        cannot be enforced of a schema that is not strict is relaxed, and the log says so once.
        `check`, what is wrong otherwise and cheaper to find, is awaited before anything is
        compiled. Raises `ApiError`.
        """
        must_hold = format.wanted is not None or budget is not None or holds_on
        is_free = tools.choice.mode == "auto" and tools.choice.names is None
        if is_free and not (self.settings.constrained or must_hold):
            return None
        try:
            wanted = body_format(format.wanted)
            if isinstance(wanted, JsonFormat):
                wanted = replace(wanted, is_strict=format.is_strict)
            return await self._grammar(tools, wanted, budget, check)
        except GrammarError as error:
            raise ApiError.of(error, response_format=format.field) from error

    async def _grammar(
        self,
        tools: Toolbox,
        format: Any,
        budget: int | None,
        check: Callable[[], Awaitable[object]] | None,
    ) -> Grammars:
        """Puts together what has been compiled before, or else compiles. To put together what a
        large request declares takes a thread.
        """

        def make(box: Toolbox) -> HarmonyGrammar:
            return box.grammar(self.tokenizer, format, budget)

        def known() -> Grammars | None:
            with suppress(GivenUp), giving_up(lambda: True):
                return Grammars.of(tools, make)
            return None

        if not self.warm().done():
            await asyncio.shield(asyncio.wrap_future(self.warm()))
        is_large = request_size() > LONG
        found = await asyncio.to_thread(known) if is_large else known()
        if found is not None:
            return found
        if check is not None:
            await check()
        return await self._compiled(lambda: Grammars.of(tools, make))

    async def _compiled(self, make: Callable[[], Grammars]) -> Grammars:
        """In a thread, which stops when this is cancelled; callers take turns, part by part."""
        whose = whose_turn()
        parts = Parts(lambda: self._compiling.is_wanted(whose))
        is_over = threading.Event()

        def part() -> Grammars | None:
            with suppress(GivenUp), giving_up(is_over.is_set), parts.one():
                return make()
            return None

        try:
            while True:
                async with self._compiling.place(whose):
                    loop = asyncio.get_running_loop()
                    found = await loop.run_in_executor(self._compilers, part)
                if found is not None:
                    return found
        finally:
            is_over.set()

    async def check_prompt(
        self,
        conversation: Conversation,
        params: SamplingParams,
        param: str = "messages",
        opening: Message | None = None,
    ) -> None:
        """Raises `ApiError` for a conversation that the engine would refuse."""
        ids = await self.answerer.prompt_ids(conversation, opening)
        try:
            self.worker.engine.check(ids, self.worker.within(params, ids))
        except RequestError as error:
            raise ApiError.of(error, prompt=param) from error

    async def answer(
        self, ask: AnswerRequest, caller: Caller, started: Callable[[], object] = lambda: None
    ) -> AsyncGenerator[TurnEvent, None]:
        """`Answerer.answer`, counted and logged."""
        with self.metrics.answering() as book:
            try:
                asked = replace(
                    ask,
                    cache_salt=caller.salted(ask.cache_salt),
                    turn_of=whose_turn(),
                    begun=partial(name_by_prompt, tokenizer=self.tokenizer),
                    session=replace(ask.session, caller=caller.name),
                    run=Calls(self.metrics, caller, self.approved, dict(ask.uses)).run,
                )
                async with aclosing(self.answerer.answer(asked)) as events:
                    async for event in events:
                        book.event(event)
                        yield event
            finally:  # also of an answer that was broken off
                caller.spend(book.usage)

    def tools_for(self, caller: Caller) -> dict[str, Tool]:
        """The server's own tools that a caller may use, by namespace."""
        return allowed(self.builtin, caller.limits)

    def tool_names(self, caller: Caller) -> list[str]:
        """As the key file has them, of all that a caller may use."""
        own = self.tools_for(caller).values()
        return names([*own, *self.mcp.allowed(caller.limits).values()])

    async def close_tools(self) -> None:
        """Ends what the tools keep: processes, connections."""
        for tool in self.builtin.values():
            close = getattr(tool, "close", None)
            if close is None:
                continue
            try:
                closing = await asyncio.to_thread(close)
                if closing is not None:
                    await closing
            except Exception:
                log.exception("a tool did not close")

    def _rest(self) -> None:
        """Forgets what only saves time, and collects garbage. In the engine's thread."""
        forget_formats()
        forget_types()
        self.documents.rest()
        self.runs.rest()
        gc.collect()

    async def remember_thoughts(
        self,
        caller: Caller,
        call_ids: Sequence[str],
        messages: Sequence[Message],
        begun: float | None = None,
    ) -> None:
        """`messages`: those of the answer before its first call (analysis, preambles). `begun`:
        when it began, where that is not the request that is being answered here.
        """
        if call_ids and messages:
            since = begun or request_begun()
            await self.outlasting(self.thoughts.remember(caller.name, call_ids[0], messages, since))
