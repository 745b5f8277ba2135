"""A model that is nothing but a memory: every slot holds a hash of the salt and of all tokens up to
its position.

It stands for runner, model and sampling. Whatever a forward pass sees must be exactly what these
tokens would have written, so a page shared wrongly, freed too early or not copied is found at once;
and so is a write to a page that somebody else holds too. The next token is a function of the tokens
so far; so the right answer is known beforehand.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence

from ossia.config import PAGE
from ossia.engine.pages import PageTables, first_seen, pages_of
from ossia.engine.prefix import PrefixCache
from ossia.engine.request import Request, SamplingParams
from ossia.engine.scheduler import Scheduler, Step, Work

VOCAB = 11


def chain(salt: str, tokens: Sequence[int], begin: Sequence[int] = ()) -> list[int]:
    """What the slots of these tokens hold; `begin`, if given, is what the first of them do."""
    values = list(begin)
    last = values[-1] if values else zlib.crc32(salt.encode())
    for token in tokens[len(values) :]:
        values.append(last := hash((last, token)))
    return values


def next_token(value: int) -> int:
    return value // 7 % VOCAB


def answer(salt: str, prompt: Sequence[int], limit: int, stop: int | None = None) -> list[int]:
    tokens, values = list(prompt), chain(salt, prompt)
    while len(tokens) < len(prompt) + limit and (len(tokens) == len(prompt) or tokens[-1] != stop):
        tokens.append(next_token(values[-1]))
        values = chain(salt, tokens, values)
    return tokens[len(prompt) :]


class FakeModel:
    def __init__(self, tables: PageTables, rng: random.Random) -> None:
        self.tables, self.rng = tables, rng
        self.slots = {window: [-1] * (pool.total * PAGE) for window, pool in tables.pools.items()}
        self.values: dict[int, list[int]] = {}  # by request, of its known tokens
        self.computed_tokens = 0

    def run(self, step: Step) -> list[list[int]]:
        """For each work that samples the tokens after its last known token and after each of its
        drafts.
        """
        self._copy(step)
        assert len({work.request.id for work in step.scheduled}) == len(step.scheduled)
        written = [self._write(work) for work in step.scheduled]
        self.computed_tokens += step.tokens
        return [
            self._read(work, values) for work, values in zip(step.scheduled, written, strict=True)
        ]

    def _copy(self, step: Step) -> None:
        slots = [(self.slots[c.window], c.src * PAGE, c.dst * PAGE) for c in step.copies]
        if self.rng.random() < 0.5:
            for store, src, dst in slots:
                store[dst : dst + PAGE] = store[src : src + PAGE]
        else:
            read = [store[src : src + PAGE] for store, src, _ in slots]
            for (store, _, dst), values in zip(slots, read, strict=True):
                store[dst : dst + PAGE] = values

    def _write(self, work: Work) -> list[int]:
        request, begin, end = (
            work.request,
            work.request.computed,
            work.request.computed + work.count,
        )
        known = self.values.setdefault(request.id, [])
        known[:] = chain(request.cache_salt, request.tokens(0, request.num_tokens), known)
        assert len(request.draft) == work.drafts
        values = chain(
            request.cache_salt, [*request.tokens(0, request.num_tokens), *request.draft], known
        )
        for window, pool in self.tables.pools.items():
            run, store = self.tables.run(request.id, window), self.slots[window]
            written = run.pages[begin // PAGE - run.first_page : pages_of(end) - run.first_page]
            assert all(pool.holders(page) == 1 for page in written), "a shared page is written"
            for slot, position in zip(run.slots(begin, end), range(begin, end), strict=True):
                store[slot] = values[position]
        return values

    def _read(self, work: Work, values: list[int]) -> list[int]:
        request, begin, end = (
            work.request,
            work.request.computed,
            work.request.computed + work.count,
        )
        for window in self.tables.pools:
            run, store = self.tables.run(request.id, window), self.slots[window]
            first = first_seen(begin, window)
            seen = [
                v
                for page in run.pages[first // PAGE - run.first_page :]
                for v in store[page * PAGE :][:PAGE]
            ]
            assert seen[first % PAGE :][: end - first] == values[first:end], (
                "what is seen is not what was computed"
            )
        return [next_token(v) for v in values[end - 1 - work.drafts : end]] if work.samples else []


class FakeEngine:
    """What the engine does with a scheduler, around a FakeModel; everything is checked after every
    step.

    `drafts`: how often a decoding request gets guesses; `aborts`: how often a request is aborted,
    at any moment; `stop`: the token that ends an answer.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        seed: int = 0,
        drafts: float = 0.0,
        aborts: float = 0.0,
        stop: int | None = None,
    ) -> None:
        self.scheduler, self.rng, self.stop = scheduler, random.Random(seed), stop
        self.drafts, self.aborts = drafts, aborts
        self.model = FakeModel(scheduler.tables, self.rng)
        self.live: dict[int, Request] = {}
        self.done: dict[int, Request] = {}
        self.steps = 0
        self.served: dict[int, int] = {}  # the step in which a live request came or was last served
        self.longest_wait = 0
        self._next = 0

    def submit(
        self,
        prompt: Sequence[int],
        limit: int,
        priority: int = 0,
        salt: str = "",
        parent: Request | None = None,
        caller: str = "",
        is_batch: bool = False,
    ) -> Request:
        request = Request(
            self._next, tuple(prompt), SamplingParams(), limit, priority=priority, cache_salt=salt
        )
        request.caller = caller
        request.is_batch = is_batch
        request.parent = parent
        self._next += 1
        self.live[request.id], self.served[request.id] = request, self.steps
        self.scheduler.add(request)
        return request

    def abort(self, request: Request) -> None:
        self.scheduler.finish(request)
        del self.live[request.id], self.served[request.id]
        self.model.values.pop(request.id, None)

    def step(self) -> Step:
        self._maybe_abort()
        for request in self.live.values():
            if request.waiting_tokens == 1 and self.rng.random() < self.drafts:
                request.draft = self._guess(request)
        decoding = {r.id for r in self.scheduler.running if r.waiting_tokens == 1}
        step = self.scheduler.schedule()
        self.steps += 1
        self._check_step(step, decoding)
        self._maybe_abort()
        outputs = self.model.run(step)
        self._maybe_abort()
        for work, tokens in zip(step.scheduled, outputs, strict=True):
            self._take(work, tokens)
        self.scheduler.check()
        return step

    def run(self, steps: int = 100_000) -> None:
        for _ in range(steps):
            if not self.scheduler.has_work():
                return
            self.step()
        raise AssertionError("it does not come to an end")

    def _take(self, work: Work, tokens: list[int]) -> None:
        request = work.request
        if request.id not in self.live:
            self.scheduler.advance(work)
            self.scheduler.check()
            return
        self.longest_wait = max(self.longest_wait, self.steps - self.served[request.id])
        self.served[request.id] = self.steps
        accepted = 0
        while accepted < work.drafts and request.draft[accepted] == tokens[accepted] != self.stop:
            accepted += 1
        self.scheduler.advance(work, accepted)
        request.generated += tokens[: accepted + 1]
        if len(request.generated) >= request.limit or request.generated[-1:] == [self.stop]:
            self.done[request.id] = request
            self.abort(request)
            assert request.generated == answer(
                request.cache_salt, request.prompt, request.limit, self.stop
            )

    def _guess(self, request: Request) -> list[int]:
        tokens = request.tokens(0, request.num_tokens)
        right = answer(request.cache_salt, tokens, self.rng.randint(1, 9))
        return [t if self.rng.random() < 0.8 else self.rng.randrange(VOCAB) for t in right]

    def _maybe_abort(self) -> None:
        if self.live and self.rng.random() < self.aborts:
            self.abort(self.rng.choice(list(self.live.values())))
            self.scheduler.check()

    def _check_step(self, step: Step, decoding: set[int]) -> None:
        assert step.scheduled or not self.scheduler.has_work()
        assert step.tokens <= self.scheduler.max_batch_tokens
        prompts = [work.request.id not in decoding for work in step.scheduled]
        assert prompts == sorted(prompts)
        written = [(copy.window, copy.dst) for copy in step.copies]
        assert len(set(written)) == len(written)
        for n, copy in enumerate(step.copies):
            assert (copy.window, copy.src) not in written[:n], (
                "a copy is copied again in the same step"
            )


def make_scheduler(
    pages: dict[int | None, int],
    max_batch_tokens: int = 64,
    max_running: int = 8,
    cached: bool = True,
    budget: int | None = None,
    latency_target: float | None = None,
) -> Scheduler:
    tables = PageTables(pages)
    cache = PrefixCache(tables, budget) if cached else None
    return Scheduler(
        tables, max_batch_tokens, max_running, cache=cache, latency_target=latency_target
    )


def all_free(scheduler: Scheduler) -> bool:
    """Whether no page is held by anybody, once the cache is cleared."""
    if scheduler.cache is not None:
        scheduler.cache.clear()
    scheduler.check()
    return all(pool.free == pool.total for pool in scheduler.tables.pools.values())
