"""What every route needs: settings, tokenizer, the engine's worker, grammars, and answering with
the books kept.

One object per application, made by `create_app`. Knows no routes and no wire types.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from ossia.engine.request import SamplingParams
from ossia.errors import GrammarError
from ossia.harmony import HarmonyGrammar, Message
from ossia.server.access import Caller
from ossia.server.answer import Answerer, Ask
from ossia.server.events import AnswerEvent, new_id
from ossia.server.metrics import Metrics
from ossia.server.responses.background import Runs
from ossia.server.responses.store import Store
from ossia.server.sealing import Sealer
from ossia.server.settings import Settings
from ossia.server.wire.errors import ApiError, bad
from ossia.server.worker import EngineLike, EngineWorker
from ossia.tokenizer import Tokenizer
from ossia.tools import SessionKey, Tool, Toolbox
from ossia.turn.targets import Grammars

log = logging.getLogger("ossia.server")
GRAMMARS = 256  # kept, the least recently used go
REASONING_KEPT = 64 << 20  # characters of reasoning that are remembered, for calls
OVERHEAD = 600  # that a message takes beside its text


@dataclass(frozen=True)
class Effort:
    """`level` as Harmony has it; `budget`: tokens of reasoning, None: as many as the model likes."""

    level: str
    budget: int | None = None


EFFORTS = {
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
    "python").
    """

    def __init__(
        self,
        engine: EngineLike,
        tokenizer: Tokenizer,
        settings: Settings,
        builtin: Sequence[Tool] = (),
    ) -> None:
        self.settings, self.tokenizer = settings, tokenizer
        self.sealer = Sealer(settings.secret)
        self.worker = EngineWorker(engine)
        self.answerer = Answerer(self.worker, tokenizer, settings.retries, settings.tool_rounds)
        self.builtin = {tool.namespace.name: tool for tool in builtin}
        self.metrics = Metrics(self.worker, settings.model_name)
        self.store = Store(settings.store_path, settings.store_ttl, settings.store_bytes)
        self.runs = Runs(self.store, max_running=settings.max_queue)
        self.is_draining = False
        self._grammars: OrderedDict[str, Grammars] = OrderedDict()
        self._thoughts: OrderedDict[tuple[str, str], tuple[Message, ...]] = OrderedDict()
        self._thoughts_size = 0

    @property
    def context(self) -> int:
        """Tokens."""
        return self.worker.engine.config.max_context_length

    def check_model(self, name: str | None) -> str:
        """The model's name to answer with: what was asked for, or ours. Raises `ApiError` if names
        are strict.
        """
        ours = self.settings.model_name
        if name not in (None, "", ours) and self.settings.strict_model_names:
            raise ApiError(
                404,
                f"there is no model {name!r}; this server has {ours!r}",
                param="model",
                code="model_not_found",
            )
        return (
            (name or ours).encode("utf-8", "replace").decode()
        )  # half a surrogate pair could not be answered

    def sampling(self, **wishes: Any) -> SamplingParams:
        """The server's defaults with the wishes that are not None. Raises `ApiError` naming the
        field.
        """
        given = {name: value for name, value in wishes.items() if value is not None}
        return replace(self.settings.sampling, **given)

    def effort(self, name: str | None) -> Effort:
        """Raises `ApiError` for a word that is none."""
        if name is None:
            return Effort(self.settings.effort)
        if name not in EFFORTS:
            raise bad(
                f"reasoning effort {name!r} is none of {', '.join(EFFORTS)}", "reasoning.effort"
            )
        return EFFORTS[name]

    async def grammar(
        self,
        tools: Toolbox,
        response_format: Any = None,
        budget: int | None = None,
        *,
        format_param: str = "response_format",
    ) -> Grammars | None:
        """What samples are held to; None if the settings say that nothing is enforced and nothing
        has to be. Raises `ApiError`.
        """
        if not (
            self.settings.constrained or response_format is not None or budget is not None
        ) and (tools.choice.mode == "auto" and tools.choice.names is None):
            return None
        key = json.dumps([tools.declaration, repr(response_format), budget])
        if (kept := self._grammars.get(key)) is not None:
            self._grammars.move_to_end(key)
            return kept

        def make(box: Toolbox) -> HarmonyGrammar:
            return box.grammar(self.tokenizer, response_format, budget)

        try:
            made = await asyncio.to_thread(Grammars.of, tools, make)
        except GrammarError as error:
            raise ApiError.of(error, response_format=format_param) from error
        self._grammars[key] = made
        if len(self._grammars) > GRAMMARS:
            self._grammars.popitem(last=False)
        return made

    async def answer(
        self, ask: Ask, caller: Caller, started: Callable[[], object] = lambda: None
    ) -> AsyncGenerator[AnswerEvent, None]:
        """`Answerer.answer`, counted and logged; the reasoning that led to calls is remembered for
        the caller.
        """
        with self.metrics.answering() as book:
            try:
                conversation = ask.session.conversation or new_id("turn")
                asked = replace(
                    ask,
                    cache_salt=caller.salted(ask.cache_salt),
                    session=SessionKey(caller.name, conversation),
                )
                async with aclosing(self.answerer.answer(asked)) as events:
                    async for event in events:
                        book.event(event)
                        yield event
            finally:  # also of an answer that was broken off
                caller.spend(book.usage.total)

    # Reasoning between calls. A client that drops it would have the model forget why it called.

    def remember_thoughts(
        self, caller: Caller, call_ids: Sequence[str], messages: Sequence[Message]
    ) -> None:
        """`messages`: those of the answer before its first call (analysis, preambles)."""
        if not (call_ids and messages):
            return
        key = (caller.name, call_ids[0])
        self._thoughts_size += _size(messages) - _size(self._thoughts.pop(key, ()))
        self._thoughts[key] = tuple(messages)
        while self._thoughts_size > REASONING_KEPT:
            self._thoughts_size -= _size(self._thoughts.popitem(last=False)[1])

    def thoughts_before(self, caller: Caller, call_id: str) -> tuple[Message, ...]:
        """What `remember_thoughts` was told for an answer whose first call this is; nothing if it
        is not known.
        """
        return self._thoughts.get((caller.name, call_id), ())


def _size(messages: Sequence[Message]) -> int:
    return sum(len(message.text) + OVERHEAD for message in messages)
