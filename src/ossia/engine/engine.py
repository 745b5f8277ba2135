"""Engine: submit requests, step, collect tokens. Many requests share each forward pass.

    engine = Engine(model)
    request = engine.submit(prompt_ids, SamplingParams(temperature=0))
    while engine.has_work():
        for token in engine.step(): ...

A step is: schedule, run, sample. The answer to a request depends on its prompt, its parameters and
its seed, and on nothing else: not on the other requests, how its prompt is cut, what the prefix
cache holds, or whether tokens are guessed ahead. The engine does not know text: the request says
which ids stop an answer, and its `Constraint` which ids may come. For one thread at a time.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, count
from typing import TYPE_CHECKING

from torch import Tensor

from ossia.engine.budget import make_tables, page_bytes, streams_within, tokens_within
from ossia.engine.device.ahead import Begun, Drawing, Unread
from ossia.engine.exact import as_trained, check_model, check_sampling
from ossia.engine.prefix import PrefixCache
from ossia.engine.request import (
    MAX_TOP_LOGPROBS,
    UNREAD,
    Constraint,
    EngineStats,
    FinishReason,
    PromptToken,
    Request,
    SampledToken,
    SamplingParams,
    check_ids,
)
from ossia.engine.runner import Runner
from ossia.engine.sampling import RowState, Sampled, begin_rows, mask_ahead
from ossia.engine.scheduler import Scheduler
from ossia.engine.scoring import prompt_experts, prompt_logprobs
from ossia.engine.speculate import NgramProposer, Speculation, verify
from ossia.engine.watch import Watch, report
from ossia.errors import CONTEXT_EXCEEDED, PromptTooLong, RequestError
from ossia.kernels import products
from ossia.kernels.transfer import integers
from ossia.model import Transformer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ossia.engine.request import Mask

RESTING = 1 / 16  # of the pages: what the prefix cache holds while nothing is asked
Progress = Callable[[int, int], object]


class Engine:
    """A model that serves many requests at once.

    `capacity`: tokens that the cache can hold, over all sequences; or `kv_memory`: its size in
    bytes. By default one full context. `max_batch_tokens` and `latency_target` (seconds; None: no
    target) bound a step: while sequences decode, only so much of a prompt is read that the step
    keeps to that time. `max_running`: requests that run at the same time. Raises `RequestError` if
    the memory does not hold a single token.

    `exact`: `model` is the one that is being trained, and a sampled token's log-probability is the
    one that training will compute for it, to the bit: by the kernels of training, at the request's
    temperature. Only its temperature may change what is drawn. Raises `ConfigError` where that is
    not possible. Until `close`, products of the whole process are made row by row
    (`products.hold_rows_alike`). After a step of the optimizer call `flush`, or give later requests
    another `cache_salt`: pages of older weights are no use to them. `record_experts`: each sampled
    token says to which experts the token went that it was drawn after.

    On a GPU: `same_bits`: a sequence's logits are the same bits whatever is computed beside them,
    as they are on a CPU anyway, at some cost in speed. `graphs`: steps that only decode are
    launched as CUDA graphs. `ahead`: a step is begun before the tokens of the last one are read, so
    that the device has something to do meanwhile; by default on a GPU. Not where the last tokens
    decide what the step is: guesses, a request at its limit, an exact engine, several processes.
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
        exact: bool = False,
        record_experts: bool = False,
        same_bits: bool = False,
        graphs: bool = True,
        ahead: bool | None = None,
    ) -> None:
        self.exact = exact
        if exact:
            self._hold_rows_alike(model)
        config = model.config
        kind = model.kv_kind
        if capacity is None and kv_memory is not None:
            here = model.here
            max_running = streams_within(here, kv_memory, kind, max_running, max_batch_tokens)
            sizes = (here, kv_memory, kind, max_running, max_batch_tokens, prefix_cache)
            capacity = tokens_within(*sizes)
            if capacity < 1:
                raise RequestError(
                    f"{kv_memory} bytes of memory for keys and values hold no token; give it more"
                )
        self.max_batch_tokens = max_batch_tokens
        self.config = config
        self.capacity = capacity or config.max_context_length
        tables = make_tables(config, self.capacity, max_running, max_batch_tokens, prefix_cache)
        self.prefix_cache: PrefixCache | None = None
        if prefix_cache:
            self.prefix_cache = PrefixCache(tables, page_costs=page_bytes(model.here, kind))
        most_rows = max_running if graphs else 0
        self._runner = Runner(model, tables, exact, record_experts, same_bits, most_rows)
        self._scheduler = Scheduler(
            tables,
            max_batch_tokens,
            max_running,
            cache=self.prefix_cache,
            latency_target=latency_target,
        )
        self._ahead = self._runner.begins_early(ahead)
        self._begun: Begun | Exception | None = None  # early, or why that failed
        self._speculation = Speculation() if speculate else None
        self._proposers: dict[int, NgramProposer] = {}
        self._requests: dict[int, Request] = {}
        self._states: dict[int, RowState] = {}
        self._unread: dict[int, deque[SampledToken]] = {}
        self.failed: dict[int, Exception] = {}
        self.watch = Watch()  # told of every step; whoever wants to know puts another here
        self._prompt_tokens = 0  # of all requests
        self._has_run = False  # since it last rested
        self._read_at = 0.0  # when the tokens of the last step were read
        self._ids = count()

    def _hold_rows_alike(self, model: Transformer) -> None:
        products.hold_rows_alike(check_model(model))
        self.enforces_constraints = False
        self._release = weakref.finalize(self, products.release_rows_alike)
        self._release.atexit = False

    def close(self) -> None:
        """Ends what an exact engine asks of the products of its process; others hold nothing."""
        if self.exact:
            self._release()

    def flush(self) -> None:
        """Forget all cached prefixes: the weights have changed. Requests that are under way keep
        their own pages.
        """
        if self.prefix_cache is not None:
            self.prefix_cache.clear()

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
        caller: str = "",
        is_batch: bool = False,
    ) -> int:
        """Queue a request; returns its id. Raises `RequestError` if it can never run.

        `constraint`: a fresh one, which decides which tokens may be drawn, and may end the request.
        `caller`: whom it is for; callers take turns. `priority`: of one caller's requests, smaller
        ones are served first. `is_batch`: behind everybody's requests that are not.
        `cache_salt`: cached prefixes are shared only among requests with the same one.
        `sample_of`: for further samples of one prompt, the id of the first, whose pages they share
        at once. Each has a `stream` of its own, so that it draws other numbers from the same seed.
        """
        limit = self.check(prompt, params)
        if self.exact:
            check_sampling(params, constraint)
        if constraint is not None and constraint.is_done:
            raise RequestError(
                "the constraint has already ended; start a fresh one for every request",
                "constraint",
            )
        state = RowState(params, prompt, self.config.vocab_size, stream)
        parent = None if sample_of is None else self._requests.get(sample_of)
        request = Request(next(self._ids), tuple(prompt), params, limit, constraint)
        request.priority = priority
        request.cache_salt = cache_salt
        request.caller = caller
        request.is_batch = is_batch
        request.arrived = time.perf_counter()
        if parent is not None:
            if (parent.prompt, parent.cache_salt) != (request.prompt, cache_salt):
                raise RequestError(
                    "samples of one prompt must have the same prompt and cache_salt as the first"
                )
            request.parent = parent
        if constraint is not None:
            constraint.within(limit)
            request.mask = mask_ahead(constraint)
        self._requests[request.id] = request
        self._states[request.id] = state
        self._prompt_tokens += len(request.prompt)
        self._scheduler.add(request)
        return request.id

    def abort(self, request_id: int) -> None:
        """Forget a request and give its pages back; does nothing if it has ended."""
        request = self._requests.get(request_id)
        if request is not None:
            self._end(request)

    def has_work(self) -> bool:
        return self._scheduler.has_work()

    def step(self) -> list[SampledToken]:
        """Schedule, run, sample: one forward pass and the tokens it gave, more than one for a
        request whose guessed tokens were right.

        A request whose constraint fails, or whose logits are not numbers, ends without a last
        token; its exception is in `failed`, for the caller to take out (`generate` raises it).
        """
        begun = self._begun
        self._begun = None
        if isinstance(begun, Exception):
            raise begun
        if begun is None:
            self._guess()
            begun = self._begin()
        if begun is None:
            return []
        if any(work.drafts for work in begun.step.scheduled):
            tokens, held = self._verified(begun)
        else:
            tokens = self._drawn(begun)
            held = [0] * len(begun.sampling)
        self._observe(begun, held)
        return tokens

    def _begin(self, unread: Unread | None = None) -> Begun | None:
        """Schedules and runs; None if there is nothing to do. On a GPU it need not be done."""
        step = self._scheduler.schedule()
        if not step.scheduled:
            return None
        self._has_run = True
        began = time.perf_counter()
        self._runner.copy(step.copies)
        return Begun(step, self._runner.run(step.scheduled, unread), began)

    def _observe(self, begun: Begun, held: Sequence[int]) -> None:
        """What a step cost, from its beginning or the end of the one before."""
        step = begun.step
        now = time.perf_counter()
        seconds = now - max(begun.began, self._read_at)
        self._read_at = now
        self._scheduler.observe(step, seconds)
        report(self.watch, step, begun.began, seconds)
        if self._speculation is not None and begun.only_decodes:
            guesses = [work.drafts for work in step.scheduled]
            self._speculation.observe([*zip(guesses, held, strict=True)], seconds)

    def rest(self) -> None:
        """To be called when nothing has run for a while: gives memory back to the system. Of the
        prefix cache, the last sequence stays, and what else fits a small share of the pages.
        """
        if self._has_run and not self.has_work():
            self._has_run = False
            if self.prefix_cache is not None:
                self.prefix_cache.shrink(RESTING)
            self._runner.cache.forget_free()

    def stats(self) -> EngineStats:
        """The current state. Another thread may ask for it, too."""
        scheduler = self._scheduler
        shares = []
        for pool in scheduler.tables.pools.values():
            used = pool.total - pool.available
            shares.append((used / pool.total, pool.idle / pool.total))
        kv_used, kv_cached = max(shares)
        cache = self.prefix_cache
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_used=kv_used,
            kv_cached=kv_cached,
            prompt_tokens=self._prompt_tokens,
            reused_tokens=0 if cache is None else cache.tokens_reused,
            preemptions=scheduler.preemptions,
        )

    @property
    def longest(self) -> int:
        """Tokens that one request can have, prompt and answer: the context, or as much of it as the
        memory for keys and values holds.
        """
        return min(
            self.config.max_context_length,
            self.capacity,
            self._scheduler.max_tokens_of(0),
        )

    def prompt_logprobs(self, prompt: Sequence[int], top: int = 0) -> Iterator[list[PromptToken]]:
        """Log-probabilities of the prompt's tokens from the second one on, in chunks of at most
        `max_batch_tokens`, with the `top` (at most 128) likeliest tokens of each place. Steps may
        be taken meanwhile. Raises `RequestError`.

        They are the model's own, like those of sampled tokens. Keys and values take memory in
        addition to the engine's, until the iterator ends.
        """
        if not 0 <= top <= MAX_TOP_LOGPROBS:
            raise RequestError(
                f"the number of top log-probabilities must be 0 to {MAX_TOP_LOGPROBS}, found {top}",
                "top_logprobs",
            )
        self._check_text(prompt)
        model = self._runner.model
        return prompt_logprobs(model, prompt, top, self.max_batch_tokens, self.exact)

    def prompt_experts(self, prompt: Sequence[int]) -> NDArray[np.int16]:
        """[P, L, k]: the experts that each of a prompt's tokens goes to in each layer, -1 where
        there is no router; for training that follows them. Memory and errors as
        `prompt_logprobs`.
        """
        self._check_text(prompt)
        return prompt_experts(self._runner.model, prompt, self.max_batch_tokens, self.exact)

    def _check_text(self, prompt: Sequence[int]) -> None:
        check_ids(prompt, self.config.vocab_size)
        if len(prompt) > self.config.max_context_length:
            raise PromptTooLong(len(prompt), self.config.max_context_length)

    def generate(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        constraint: Constraint | None = None,
        progress: Progress = lambda done, total: None,
    ) -> Iterator[SampledToken]:
        """The tokens of one request as they come. Closing the iterator aborts it. Several may be
        read in turns.

        `progress` is called after every step, with the number of the prompt's tokens that have been
        read, and with their total. Raises `RequestError`, or the exception that ended the request.
        """
        request_id = self.submit(prompt, params, constraint)
        unread: deque[SampledToken] = deque()
        self._unread[request_id] = unread
        try:
            while True:
                while not unread:
                    if request_id in self.failed:
                        raise self.failed[request_id]
                    if request_id not in self._requests:  # aborted by another caller
                        return
                    self._step_for_readers()
                    request = self._requests.get(request_id)
                    if request is not None:
                        progress(min(request.computed, len(prompt)), len(prompt))
                token = unread.popleft()
                yield token
                if token.finish_reason is not None:
                    return
        finally:
            del self._unread[request_id]
            self.failed.pop(request_id, None)
            self.abort(request_id)

    def _step_for_readers(self) -> None:
        """A step, its tokens handed to the iterators of `generate` that they belong to."""
        for token in self.step():
            if token.request_id in self._unread:
                self._unread[token.request_id].append(token)

    def check(self, prompt: Sequence[int], params: SamplingParams) -> int:
        """How many tokens may be generated. Raises RequestError for a request that can never run.
        Any thread may ask.
        """
        check_ids(prompt, self.config.vocab_size)
        held = self.longest - len(prompt)
        if held < 1:
            raise PromptTooLong(len(prompt), self.longest)
        room = self.config.max_context_length - len(prompt)
        wanted = 1 if params.max_tokens is None else min(room, params.max_tokens)
        if held < wanted:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens and {wanted} are asked for; "
                f"the memory for keys and values holds {self.capacity}: "
                "give it more (kv_memory), or ask for less",
                "prompt",
                CONTEXT_EXCEEDED,
            )
        return held if params.max_tokens is None else wanted

    # One step

    def _guess(self) -> None:
        """Drafts for the requests that decode. Constrained ones have none: their masks are made one
        by one.
        """
        if self._speculation is None:
            return
        decoding = [request for request in self._scheduler.running if request.waiting_tokens == 1]
        guesses = self._speculation.plan(len(decoding))
        for request in decoding:
            request.draft = []
            if guesses and request.constraint is None:
                request.draft = self._proposer(request).propose(guesses)

    def _proposer(self, request: Request) -> NgramProposer:
        """Made when it is first needed: a long prompt takes a moment."""
        proposer = self._proposers.get(request.id)
        if proposer is None:
            proposer = NgramProposer([*request.prompt, *request.generated])
            self._proposers[request.id] = proposer
        return proposer

    def _drawn(self, begun: Begun) -> list[SampledToken]:
        """The tokens of a step without guesses. The next one may be begun before they are read."""
        rows = {n: work.request for n, work in enumerate(begun.sampling)}
        alive = {n: request for n, request in rows.items() if request.id in self._requests}
        drawing = self._draw([*alive.values()], [*alive], begun.logits_RV)
        if self._goes_ahead(begun, drawing.requests):
            self._begin_next(begun, drawing)
        tokens = [token for token in drawing.read() if token is not None]
        if not begun.is_advanced:
            for work in begun.step.scheduled:
                self._scheduler.advance(work)
        self._end_all(tokens)
        return tokens

    def _goes_ahead(self, begun: Begun, drawn: Sequence[Request]) -> bool:
        """Whether the next step is known before the tokens of this one, but for stop tokens."""
        if not (self._ahead and drawn):
            return False
        if any(len(request.generated) + 1 >= request.limit for request in drawn):
            return False
        if self._speculation is None or all(request.constraint is not None for request in drawn):
            return True
        return self._speculation.plan(len(drawn)) == 0

    def _begin_next(self, begun: Begun, drawing: Drawing) -> None:
        """As if no request ended with its token: one that does has a row that nobody reads. If it
        fails, that is said in its turn, after the tokens that have been drawn.
        """
        for request in drawing.requests:
            request.generated.append(UNREAD)
        for request in self._scheduler.running:
            request.draft = []  # guesses that there was no room for, and that nobody would verify
        for work in begun.step.scheduled:
            self._scheduler.advance(work)
        begun.is_advanced = True
        ids = [request.id for request in drawing.requests]
        rows = {id: row for row, id in enumerate(ids)}
        try:
            self._begun = self._begin(Unread(drawing.tokens_R(), rows))
        except Exception as error:
            self._begun = error

    def _verified(self, begun: Begun) -> tuple[list[SampledToken], list[int]]:
        """The tokens of a step with guesses, and how many guesses of each sampling request were
        right.
        """
        sampling = begun.sampling
        first_rows = [0, *accumulate(1 + work.drafts for work in sampling)]
        tokens: list[SampledToken] = []

        def draw(wanted: list[tuple[int, int]]) -> list[int | None]:
            requests = [sampling[n].request for n, _ in wanted]
            rows = [first_rows[n] + row for n, row in wanted]
            taken = self._draw(requests, rows, begun.logits_RV).read()
            tokens.extend(token for token in taken if token is not None)
            return [_continued(token) for token in taken]

        held = verify([work.request.draft[: work.drafts] for work in sampling], draw)
        ids = [work.request.id for work in sampling]
        accepted = dict(zip(ids, held, strict=True))
        for work in begun.step.scheduled:
            self._scheduler.advance(work, accepted.get(work.request.id, 0))
        self._end_all(tokens)
        return tokens, held

    def _end_all(self, tokens: Sequence[SampledToken]) -> None:
        for token in tokens:
            if token.finish_reason is not None:
                self._end(self._requests[token.request_id])

    def _draw(self, requests: Sequence[Request], rows: list[int], logits_RV: Tensor) -> Drawing:
        """Begins to draw the next token of each request from its row of the logits."""
        masks: dict[int, Mask | None] = {}
        for n, request in enumerate(requests):
            try:
                masks[n] = None if request.mask is None else request.mask.result()
            except Exception as error:  # whatever it is, the other requests must go on
                self._fail(request, error)
        picked = [rows[n] for n in masks]
        if picked != list(range(len(logits_RV))):
            logits_RV = logits_RV.index_select(0, integers(picked, logits_RV.device))
        drawn = [requests[n] for n in masks]
        states = [self._states[request.id] for request in drawn]
        begun = begin_rows(logits_RV, states, [*masks.values()])

        def read() -> list[SampledToken | None]:
            sampled = begun.read()
            if self.exact and states:
                sampled = as_trained(logits_RV, states, sampled)
            taken: list[SampledToken | None] = [None] * len(requests)
            for n, one in zip(masks, sampled, strict=True):
                experts = None
                if self._runner.experts is not None:
                    experts = tuple(map(tuple, self._runner.experts[rows[n]].tolist()))
                taken[n] = self._take(requests[n], one, experts)
            return taken

        return Drawing(drawn, begun.tokens_R, read)

    def _take(
        self,
        request: Request,
        drawn: Sampled | Exception,
        experts: tuple[tuple[int, ...], ...] | None,
    ) -> SampledToken | None:
        """Record a drawn token; None if the request failed instead. If the token is the last, the
        request is not ended yet: the scheduler must be told of the work first.
        """
        if request.is_unread:
            request.generated.pop()
        if isinstance(drawn, Exception):
            self._fail(request, drawn)
            return None
        request.generated.append(drawn.token_id)
        self._states[request.id].observe(drawn.token_id)
        constraint = request.constraint
        done = False
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
            request.id,
            drawn.token_id,
            drawn.logprob,
            reason,
            drawn.top_logprobs,
            request.cached,
            experts,
        )

    def _fail(self, request: Request, error: Exception) -> None:
        self.failed[request.id] = error
        self._end(request)

    def _end(self, request: Request) -> None:
        self._scheduler.finish(request)
        del self._requests[request.id], self._states[request.id]
        self._proposers.pop(request.id, None)
        if not self._requests:
            self._drop_begun()

    def _drop_begun(self) -> None:
        """Nobody waits for the step that has been begun. Whatever writes to its pages next is asked
        of the device later.
        """
        if isinstance(self._begun, Begun):
            for work in self._begun.step.scheduled:
                self._scheduler.advance(work)
        self._begun = None


def _continued(token: SampledToken | None) -> int | None:
    """The id of a token that is not the last of its request; None for one that is."""
    if token is None or token.finish_reason is not None:
        return None
    return token.token_id
