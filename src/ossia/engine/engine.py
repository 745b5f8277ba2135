"""Engine: submit requests, step, collect tokens. Many requests share each forward pass.

    engine = Engine(model)
    request = engine.submit(prompt_ids, SamplingParams(temperature=0))
    while engine.has_work():
        for token in engine.step(): ...

It knows nothing of text: which ids stop an answer is said in the request. So is which may come, by a `Constraint`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import torch
from torch import Tensor

from ossia.engine.request import Constraint, FinishReason, Request, SampledToken, SamplingParams
from ossia.engine.runner import Runner, make_tables
from ossia.engine.sampling import mask_ahead, sample, unpacked
from ossia.engine.scheduler import Scheduler
from ossia.errors import RequestError
from ossia.model import Transformer

Progress = Callable[[int, int], object]


class Engine:
    """`capacity`: tokens that the cache can hold, over all sequences; by default one full context."""

    def __init__(
        self,
        model: Transformer,
        *,
        capacity: int | None = None,
        max_batch_tokens: int = 1024,
        max_running: int = 64,
    ) -> None:
        self.config = model.config
        self.capacity = capacity or model.config.max_context_length
        tables = make_tables(model.config, self.capacity, max_running, max_batch_tokens)
        self._runner = Runner(model, tables)
        self._scheduler = Scheduler(tables, max_batch_tokens, max_running)
        self._requests: dict[int, Request] = {}
        self._rngs: dict[int, torch.Generator] = {}
        self._unread: dict[int, deque[SampledToken]] = {}
        self.failed: dict[int, Exception] = {}
        self._ids = count()

    def submit(self, prompt: Sequence[int], params: SamplingParams, constraint: Constraint | None = None) -> int:
        """Queue a request; returns its id. `constraint`, a fresh one, decides which tokens may be drawn, and may end
        the request. Raises `RequestError` if it can never run."""
        limit = self._check(prompt, params)
        if constraint is not None and constraint.is_done:
            raise RequestError("the constraint has already come to its end; start a fresh one for every request")
        request = Request(next(self._ids), tuple(prompt), params, limit, constraint)
        if constraint is not None:
            request.mask = mask_ahead(constraint)
        rng = torch.Generator()
        if params.seed is None:
            rng.seed()
        else:
            rng.manual_seed(params.seed % 2**63)
        self._requests[request.id], self._rngs[request.id] = request, rng
        self._scheduler.add(request)
        return request.id

    def abort(self, request_id: int) -> None:
        """Forget a request and give its pages back; does nothing if it has ended."""
        if request := self._requests.get(request_id):
            self._end(request)

    def has_work(self) -> bool:
        return self._scheduler.has_work()

    def step(self) -> list[SampledToken]:
        """Schedule, run, sample: one forward pass and the tokens it gave.

        A request whose constraint fails ends without a last token; what it raised is in `failed`, for the caller to
        take out (`generate` raises it).
        """
        batch = self._scheduler.schedule()
        if not batch:
            return []
        logits_RV = self._runner.run(batch)
        sampling = [work.request for work in batch if work.samples]
        allowed = [self._allowed(request) for request in sampling]
        for work in batch:
            if work.request.id in self._requests:
                self._scheduler.advance(work)
        rows = zip(sampling, logits_RV, allowed, strict=True)
        sampled = [self._sampled(*row) for row in rows if row[0].id in self._requests]
        return [token for token in sampled if token is not None]

    def generate(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        constraint: Constraint | None = None,
        progress: Progress = lambda done, total: None,
    ) -> Iterator[SampledToken]:
        """The tokens of one request as they come. Closing the iterator aborts it. Several may be read in turns.

        `progress` is told, after every step, how many of the prompt's tokens have been read.
        """
        request_id = self.submit(prompt, params, constraint)
        mine = self._unread[request_id] = deque()
        try:
            while True:
                while not mine:
                    if request_id in self.failed:
                        raise self.failed[request_id]
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

    def _check(self, prompt: Sequence[int], params: SamplingParams) -> int:
        """How many tokens may be generated."""
        context = min(self.config.max_context_length, self.capacity)
        if not prompt:
            raise RequestError("the prompt is empty; a model needs at least one token to go on from")
        wrong = next((id for id in prompt if not 0 <= id < self.config.vocab_size), None)
        if wrong is not None:
            raise RequestError(f"token id {wrong} is outside the vocabulary of {self.config.vocab_size}")
        room = context - len(prompt)
        if room < 1:
            raise RequestError(f"the prompt has {len(prompt)} tokens; the context holds {context}")
        return room if params.max_tokens is None else min(room, params.max_tokens)

    def _allowed(self, request: Request) -> Tensor | None:
        """Waits for the request's mask: bool [V], or None for all tokens. Ends the request if there is none."""
        if request.mask is None:
            return None
        try:
            allowed_V = unpacked(request.mask.result(), self.config.vocab_size)
            if not allowed_V.any():
                raise RequestError("the constraint allows no token of this model; was it made for another vocabulary?")
        except Exception as error:  # whatever it is, it must not take the other requests along
            self._fail(request, error)
            return None
        return allowed_V

    def _sampled(self, request: Request, logits_V: Tensor, allowed_V: Tensor | None) -> SampledToken | None:
        token_id, logprob = sample(logits_V, request.params, self._rngs[request.id], allowed_V)
        request.generated.append(token_id)
        constraint, done = request.constraint, False
        if constraint is not None:
            try:
                constraint.advance(token_id)
                done = constraint.is_done
            except Exception as error:  # as above
                self._fail(request, error)
                return None
        reason: FinishReason | None = None
        if done or token_id in request.params.stop_ids:
            reason = "stop"
        elif len(request.generated) >= request.limit:
            reason = "length"
        if reason is not None:
            self._end(request)
        elif constraint is not None:
            request.mask = mask_ahead(constraint)  # while the model runs over this token
        return SampledToken(request.id, token_id, logprob, reason)

    def _fail(self, request: Request, error: Exception) -> None:
        self.failed[request.id] = error
        self._end(request)

    def _end(self, request: Request) -> None:
        self._scheduler.finish(request)
        del self._requests[request.id], self._rngs[request.id]
