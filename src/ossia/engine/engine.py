"""Engine: submit requests, step, collect tokens. Many requests share each forward pass.

    engine = Engine(model)
    request = engine.submit(prompt_ids, SamplingParams(temperature=0))
    while engine.has_work():
        for token in engine.step(): ...

A step is: schedule, run, sample. What a request is answered depends on its prompt, its parameters
and its seed, and on nothing else: not on who else is served, how its prompt is cut, what the prefix
cache holds, or whether tokens are guessed ahead. It knows nothing of text: which ids stop an answer
is said in the request. So is which may come, by a `Constraint`. For one thread at a time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, count
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ossia.engine.budget import make_tables, page_bytes, streams_within, tokens_within
from ossia.engine.prefix import PrefixCache
from ossia.engine.request import (
    MAX_TOP_LOGPROBS,
    Constraint,
    EngineStats,
    FinishReason,
    PromptToken,
    Request,
    SampledToken,
    SamplingParams,
)
from ossia.engine.runner import Runner
from ossia.engine.sampling import RowState, Sampled, mask_ahead, sample_rows
from ossia.engine.scheduler import Scheduler, Work
from ossia.engine.scoring import prompt_logprobs
from ossia.engine.speculate import NgramProposer, Speculation, verify
from ossia.errors import CONTEXT_EXCEEDED, RequestError
from ossia.model import Transformer

if TYPE_CHECKING:
    from ossia.engine.request import Mask

Progress = Callable[[int, int], object]


class Engine:
    """`capacity`: tokens that the cache can hold, over all sequences; or `kv_memory`: the bytes it
    may take. By default one full context. `max_batch_tokens` and `latency_target` (seconds; None:
    none) bound a step: while sequences decode, no more of a prompt is read than keeps the step to
    that time.
    """

    enforces_constraints = True

    def __init__(
        self,
        model: Transformer,
        *,
        capacity: int | None = None,
        kv_memory: int | None = None,
        max_batch_tokens: int = 1024,
        max_running: int = 64,
        latency_target: float | None = 0.25,
        prefix_cache: bool = True,
        speculate: bool = True,
    ) -> None:
        config, kind = model.config, model.kv_kind
        if capacity is None and kv_memory is not None:
            max_running = streams_within(config, kv_memory, kind, max_running, max_batch_tokens)
            capacity = tokens_within(
                config, kv_memory, kind, max_running, max_batch_tokens, prefix_cache
            )
            if capacity < 1:
                raise RequestError(
                    f"{kv_memory} bytes of memory for keys and values hold no token; give it more"
                )
        self.max_batch_tokens = max_batch_tokens
        self.config, self.capacity = config, capacity or config.max_context_length
        tables = make_tables(config, self.capacity, max_running, max_batch_tokens, prefix_cache)
        self.prefix_cache = (
            PrefixCache(tables, page_costs=page_bytes(config, kind)) if prefix_cache else None
        )
        self._runner = Runner(model, tables)
        self._scheduler = Scheduler(
            tables,
            max_batch_tokens,
            max_running,
            cache=self.prefix_cache,
            latency_target=latency_target,
        )
        self._speculation = Speculation() if speculate else None
        self._proposers: dict[int, NgramProposer] = {}
        self._requests: dict[int, Request] = {}
        self._states: dict[int, RowState] = {}
        self._unread: dict[int, deque[SampledToken]] = {}
        self.failed: dict[int, Exception] = {}
        self._prompt_tokens = 0  # of all requests
        self._ids = count()

    def submit(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        constraint: Constraint | None = None,
        *,
        priority: int = 0,
        cache_salt: str = "",
        sample_of: int | None = None,
        stream: int = 0,
    ) -> int:
        """Queue a request; returns its id. Raises `RequestError` if it can never run.

        `constraint`, a fresh one, decides which tokens may be drawn, and may end the request.
        Requests of smaller `priority` are served first. Beginnings are shared only among requests
        with the same `cache_salt`. Further samples of one prompt name the first one's id in
        `sample_of`, to share its pages at once, and have a `stream` each, so that they draw other
        numbers from the same seed.
        """
        limit = self._check(prompt, params)
        if constraint is not None and constraint.is_done:
            raise RequestError(
                "the constraint has already come to its end; start a fresh one for every request",
                "constraint",
            )
        state = RowState(params, prompt, self.config.vocab_size, stream)
        parent = None if sample_of is None else self._requests.get(sample_of)
        request = Request(next(self._ids), tuple(prompt), params, limit, constraint)
        request.priority, request.cache_salt = priority, cache_salt
        if parent is not None:
            if (parent.prompt, parent.cache_salt) != (request.prompt, cache_salt):
                raise RequestError(
                    "samples of one prompt must have the same prompt and cache_salt as the first"
                )
            request.parent = parent
        if constraint is not None:
            request.mask = mask_ahead(constraint)
        self._requests[request.id], self._states[request.id] = request, state
        self._prompt_tokens += len(request.prompt)
        self._scheduler.add(request)
        return request.id

    def abort(self, request_id: int) -> None:
        """Forget a request and give its pages back; does nothing if it has ended."""
        if request := self._requests.get(request_id):
            self._end(request)

    def has_work(self) -> bool:
        return self._scheduler.has_work()

    def step(self) -> list[SampledToken]:
        """Schedule, run, sample: one forward pass and the tokens it gave, more than one for a
        request whose guessed tokens were right.

        A request whose constraint fails, or whose logits are no numbers, ends without a last token;
        what was raised is in `failed`, for the caller to take out (`generate` raises it).
        """
        self._guess()
        step = self._scheduler.schedule()
        if not step.works:
            return []
        began = time.perf_counter()
        self._runner.copy(step.copies)
        logits_RV = self._runner.run(step.works)
        decoded = all(work.samples and work.count == 1 + work.drafts for work in step.works)
        tokens, held = self._sample(step.works, logits_RV)
        seconds = time.perf_counter() - began
        self._scheduler.observe(step.tokens, seconds)
        if self._speculation is not None and decoded:
            self._speculation.observe(
                [*zip((work.drafts for work in step.works), held, strict=True)], seconds
            )
        return tokens

    def stats(self) -> EngineStats:
        """How it stands now. Another thread may ask, too."""
        scheduler, cache = self._scheduler, self.prefix_cache
        used, cached = max(
            ((pool.total - pool.available) / pool.total, pool.idle / pool.total)
            for pool in scheduler.tables.pools.values()
        )
        reused = 0 if cache is None else cache.tokens_reused
        counts = (len(scheduler.running), len(scheduler.waiting))
        return EngineStats(
            *counts, used, cached, self._prompt_tokens, reused, scheduler.preemptions
        )

    def prompt_logprobs(self, prompt: Sequence[int], top: int = 0) -> Iterator[list[PromptToken]]:
        """Log-probabilities of the prompt's tokens from the second on, a step's worth at a time,
        with the `top` (at most 128) likeliest tokens of each place. Steps may be taken meanwhile.
        Raises `RequestError`.

        They are the model's own, as those of sampled tokens are. Keys and values are kept beside
        the engine's memory, until the iterator ends.
        """
        if not 0 <= top <= MAX_TOP_LOGPROBS:
            raise RequestError(
                f"the number of top log-probabilities must be 0 to {MAX_TOP_LOGPROBS}, found {top}",
                "top_logprobs",
            )
        self._check_ids(prompt)
        if len(prompt) > self.config.max_context_length:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens; "
                f"the context holds {self.config.max_context_length}",
                "prompt",
                CONTEXT_EXCEEDED,
            )
        return prompt_logprobs(self._runner.model, prompt, top, self.max_batch_tokens)

    def generate(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        constraint: Constraint | None = None,
        progress: Progress = lambda done, total: None,
    ) -> Iterator[SampledToken]:
        """The tokens of one request as they come. Closing the iterator aborts it. Several may be
        read in turns.

        `progress` is told, after every step, how many of the prompt's tokens have been read.
        """
        request_id = self.submit(prompt, params, constraint)
        mine = self._unread[request_id] = deque()
        try:
            while True:
                while not mine:
                    if request_id in self.failed:
                        raise self.failed[request_id]
                    if request_id not in self._requests:  # aborted by somebody else
                        return
                    for token in self.step():
                        if token.request_id in self._unread:
                            self._unread[token.request_id].append(token)
                    if request_id in self._requests:
                        progress(min(self._requests[request_id].computed, len(prompt)), len(prompt))
                token = mine.popleft()
                yield token
                if token.finish_reason is not None:
                    return
        finally:
            del self._unread[request_id]
            self.failed.pop(request_id, None)
            self.abort(request_id)

    def _check_ids(self, prompt: Sequence[int]) -> None:
        if not prompt:
            raise RequestError(
                "the prompt is empty; a model needs at least one token to continue", "prompt"
            )
        for id in (min(prompt), max(prompt)):
            if not 0 <= id < self.config.vocab_size:
                raise RequestError(
                    f"token id {id} is outside the vocabulary of {self.config.vocab_size}",
                    "prompt",
                )

    def _check(self, prompt: Sequence[int], params: SamplingParams) -> int:
        """How many tokens may be generated."""
        self._check_ids(prompt)
        room = self.config.max_context_length - len(prompt)
        if room < 1:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens; "
                f"the context holds {self.config.max_context_length}",
                "prompt",
                CONTEXT_EXCEEDED,
            )
        held = min(self.capacity - len(prompt), self._scheduler.max_tokens_of(len(prompt)))
        wanted = 1 if params.max_tokens is None else min(room, params.max_tokens)
        if held < wanted:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens and {wanted} are asked for; "
                f"the memory for keys and values holds {self.capacity}: "
                "give it more (kv_memory), or ask for less",
                "prompt",
                CONTEXT_EXCEEDED,
            )
        return min(room, held) if params.max_tokens is None else wanted

    # One step

    def _guess(self) -> None:
        """Drafts for the requests that decode; what is constrained has none, its masks come one by
        one.
        """
        if self._speculation is None:
            return
        decoding = [request for request in self._scheduler.running if request.waiting_tokens == 1]
        guesses = self._speculation.plan(len(decoding))
        for request in decoding:
            request.draft = []
            if guesses and request.constraint is None:
                if (
                    request.id not in self._proposers
                ):  # made when first needed: a long prompt takes a moment
                    self._proposers[request.id] = NgramProposer(
                        [*request.prompt, *request.generated]
                    )
                request.draft = self._proposers[request.id].propose(guesses)

    def _sample(
        self, works: Sequence[Work], logits_RV: Tensor
    ) -> tuple[list[SampledToken], list[int]]:
        """The tokens drawn, and how many drafts of each work that samples were right."""
        sampling = [work for work in works if work.samples]
        firsts = [0, *accumulate(1 + work.drafts for work in sampling)]
        tokens: list[SampledToken] = []

        def draw(wanted: list[tuple[int, int]]) -> list[int | None]:
            requests = [sampling[n].request for n, _ in wanted]
            taken = self._draw(requests, [firsts[n] + row for n, row in wanted], logits_RV)
            tokens.extend(token for token in taken if token is not None)
            return [
                None if token is None or token.finish_reason else token.token_id for token in taken
            ]

        held = verify([work.request.draft[: work.drafts] for work in sampling], draw)
        right = {work.request.id: n for work, n in zip(sampling, held, strict=True)}
        for work in works:
            self._scheduler.advance(work, right.get(work.request.id, 0))
        for token in tokens:
            if token.finish_reason is not None:
                self._end(self._requests[token.request_id])
        return tokens, held

    def _draw(
        self, requests: Sequence[Request], rows: list[int], logits_RV: Tensor
    ) -> list[SampledToken | None]:
        """The next token of each request from its row of the logits; None for one that failed."""
        masks: dict[int, Mask | None] = {}
        for n, request in enumerate(requests):
            try:
                masks[n] = None if request.mask is None else request.mask.result()
            except Exception as error:  # whatever it is, it must not take the other requests along
                self._fail(request, error)
        picked = [rows[n] for n in masks]
        if picked != list(range(len(logits_RV))):
            logits_RV = logits_RV[torch.tensor(picked, dtype=torch.int64)]
        states = [self._states[requests[n].id] for n in masks]
        drawn = dict(zip(masks, sample_rows(logits_RV, states, [*masks.values()]), strict=True))
        return [
            self._take(request, drawn[n]) if n in drawn else None
            for n, request in enumerate(requests)
        ]

    def _take(self, request: Request, drawn: Sampled | Exception) -> SampledToken | None:
        """Note a drawn token; None if the request failed instead. Does not end the request where
        the token does: the scheduler has first to be told of the work.
        """
        if isinstance(drawn, Exception):
            self._fail(request, drawn)
            return None
        request.generated.append(drawn.token_id)
        self._states[request.id].observe(drawn.token_id)
        constraint, done = request.constraint, False
        if constraint is not None:
            try:
                constraint.advance(drawn.token_id)
                done = constraint.is_done
            except Exception as error:  # as above
                self._fail(request, error)
                return None
        elif request.id in self._proposers:
            self._proposers[request.id].append(drawn.token_id)
        reason: FinishReason | None = None
        if done or drawn.token_id in request.params.stop_ids:
            reason = "stop"
        elif len(request.generated) >= request.limit:
            reason = "length"
        if reason is None and constraint is not None:
            request.mask = mask_ahead(constraint)  # while the model runs over this token
        return SampledToken(
            request.id, drawn.token_id, drawn.logprob, reason, drawn.top_logprobs, request.cached
        )

    def _fail(self, request: Request, error: Exception) -> None:
        self.failed[request.id] = error
        self._end(request)

    def _end(self, request: Request) -> None:
        self._scheduler.finish(request)
        del self._requests[request.id], self._states[request.id]
        self._proposers.pop(request.id, None)
