"""Engine: submit requests, step, collect tokens. Many requests share each forward pass.

    engine = Engine(model)
    request = engine.submit(prompt_ids, SamplingParams(temperature=0))
    while engine.has_work():
        for token in engine.step(): ...

It knows nothing of text: which ids stop an answer is said in the request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count

import torch
from torch import Tensor

from ossia.engine.request import FinishReason, Request, SampledToken, SamplingParams
from ossia.engine.runner import Runner, make_tables
from ossia.engine.sampling import sample
from ossia.engine.scheduler import Scheduler
from ossia.errors import RequestError
from ossia.model import Transformer


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
        self._ids = count()

    def submit(self, prompt: Sequence[int], params: SamplingParams) -> int:
        """Queue a request; returns its id. Raises `RequestError` if it can never run."""
        limit = self._check(prompt, params)
        request = Request(next(self._ids), tuple(prompt), params, limit)
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
        """Schedule, run, sample: one forward pass and the tokens it gave."""
        batch = self._scheduler.schedule()
        if not batch:
            return []
        logits_RV = self._runner.run(batch)
        sampling = [work.request for work in batch if work.samples]
        for work in batch:
            self._scheduler.advance(work)
        return [self._sampled(request, row_V) for request, row_V in zip(sampling, logits_RV, strict=True)]

    def generate(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[SampledToken]:
        """The tokens of one request as they come. Closing the iterator aborts it. Several may be read in turns."""
        request_id = self.submit(prompt, params)
        mine = self._unread[request_id] = deque()
        try:
            while True:
                while not mine:
                    for token in self.step():
                        if token.request_id in self._unread:
                            self._unread[token.request_id].append(token)
                token = mine.popleft()
                yield token
                if token.finish_reason is not None:
                    return
        finally:
            del self._unread[request_id]
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

    def _sampled(self, request: Request, logits_V: Tensor) -> SampledToken:
        token_id, logprob = sample(logits_V, request.params, self._rngs[request.id])
        request.generated.append(token_id)
        reason: FinishReason | None = None
        if token_id in request.params.stop_ids:
            reason = "stop"
        elif len(request.generated) >= request.limit:
            reason = "length"
        if reason is not None:
            self._end(request)
        return SampledToken(request.id, token_id, logprob, reason)

    def _end(self, request: Request) -> None:
        self._scheduler.finish(request)
        del self._requests[request.id], self._rngs[request.id]
