"""Many answers at once on one engine: evaluations, rollouts of reinforcement learning and batches
of prompts are all `sample_many`.

Knows rollouts and an engine's requests; no torch, and nothing of losses or reports. An answer
depends on its ask, its index and the model alone: not on its neighbours, on how many run at once,
or on how long its tools take. Tools, environments and rewards run in threads of their own, so that
one that hangs costs its own sample and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from ossia.engine.request import SampledToken, SamplingParams
from ossia.errors import CONTEXT_EXCEEDED, DataError, RequestError
from ossia.tasks.environment import Ask
from ossia.tokenizer import Tokenizer
from ossia.tools import SessionKey
from ossia.tools.sessions import CLOSE_SECONDS
from ossia.turn.chores import Chores
from ossia.turn.rollout import Manner, Rollout, Sample, Step, Work, not_begun

AT_ONCE = 64
STREAMS = 1 << 16  # of one seed: the samples of a group. Their later requests have streams after it


class AnyEngine(Protocol):
    """What `engine.Engine` is to this file."""

    failed: dict[int, Exception]

    @property
    def longest(self) -> int: ...
    def submit(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        cache_salt: str = "",
        sample_of: int | None = None,
        stream: int = 0,
    ) -> int: ...
    def step(self) -> list[SampledToken]: ...
    def abort(self, request_id: int) -> None: ...


def sample_many(
    engine: AnyEngine,
    tokenizer: Tokenizer,
    asks: Iterable[Ask],
    params: SamplingParams,
    *,
    samples: int = 1,
    at_once: int = AT_ONCE,
    manner: Manner | None = None,
) -> Iterator[Sample]:
    """`samples` answers to each ask, in the order in which they are finished, `at_once` of them in
    every forward pass.

    `params` hold the stop tokens, as those of `llm.params()` do; their `max_tokens` is not used:
    the manner's limits are. The samples of a group draw from different streams of the ask's seed.
    Raises `RequestError` for a prompt that does not fit the context, `DataError` if an ask's
    environments do not ask the same, and whatever the engine failed with.
    """
    many = _Many(engine, tokenizer, params, manner or Manner())
    waiting = ((ask, index) for ask in asks for index in range(samples))
    try:
        while True:
            while len(many.open) < at_once and (item := next(waiting, None)) is not None:
                many.begin(*item)
            if not many.open:
                yield from many.finished()
                return
            many.collect()
            many.step()
            yield from many.finished()
    finally:  # also of samples that an error or a caller has cut short
        many.give_up()


class _Many:
    """The rollouts in progress, by key."""

    def __init__(
        self, engine: AnyEngine, tokenizer: Tokenizer, params: SamplingParams, manner: Manner
    ) -> None:
        self.open: dict[int, Rollout] = {}
        self._engine = engine
        self._tokenizer = tokenizer
        self._params = params
        self._manner = manner
        self._chores = Chores()
        self._work: dict[int, Work] = {}  # that runs
        self._requests: dict[int, int] = {}  # the engine's -> key
        self._asked: dict[int, int] = {}  # key -> requests so far
        self._first: tuple[Ask, list[int], int] | None = None  # of a group: prompt and request
        self._over: list[Sample] = []
        self._count = 0

    def begin(self, ask: Ask, index: int) -> None:
        key = self._count
        self._count += 1
        # nobody comes back for the state of its tools, and nobody shares it
        own = SessionKey(caller=f"sample {id(self)}.{key}")
        try:
            rollout = Rollout(ask, index, self._tokenizer, self._manner, own)
            step = rollout.begin()
        except (Exception, SystemExit) as error:
            self._over.append(not_begun(ask, index, self._manner, error))
            return
        self.open[key] = rollout
        self._asked[key] = 0
        self._take(key, step)

    def collect(self) -> None:
        """What work is over. Waits for some if the engine has nothing to do."""
        for done in self._chores.done(wait=not self._requests):
            work = self._work.pop(done.key)
            self._take(done.key, work.then(done))

    def step(self) -> None:
        """A step of the engine, if anything is to be sampled."""
        if not self._requests:
            return
        for token in self._engine.step():
            key = self._requests.get(token.request_id)
            if key is None:  # a guess beyond what ended the sample
                continue
            rollout = self.open[key]
            is_over = rollout.feed(token)
            if token.finish_reason is None and not is_over:
                continue
            if token.finish_reason is None:
                self._engine.abort(token.request_id)
            del self._requests[token.request_id]
            self._take(key, rollout.end())
        for request in self._requests.keys() & self._engine.failed.keys():
            raise self._engine.failed.pop(request)

    def finished(self) -> list[Sample]:
        over = self._over
        self._over = []
        return over

    def give_up(self) -> None:
        for request in self._requests:
            self._engine.abort(request)
        closing = Chores()
        for key, rollout in self.open.items():
            closing.start(key, rollout.sessions.close_now, CLOSE_SECONDS)
        while len(closing):
            closing.done(wait=True)

    def _take(self, key: int, step: Step) -> None:
        if isinstance(step, Sample):
            self._over.append(step)
            del self.open[key], self._asked[key]
        elif isinstance(step, Work):
            self._work[key] = step
            self._chores.start(key, step.do, step.seconds)
        elif not self._submit(key, step):
            self._take(key, self.open[key].no_room())

    def _submit(self, key: int, prompt: list[int]) -> bool:
        """Whether there is room for the prompt and an answer. There has to be for the first one."""
        rollout = self.open[key]
        asked = self._asked[key]
        most = rollout.tokens_left
        if most is not None:
            most = max(1, min(most, self._engine.longest - len(prompt)))
        params = replace(self._params, max_tokens=most)
        if rollout.ask.seed is not None:
            params = replace(params, seed=rollout.ask.seed)
        try:
            request = self._engine.submit(
                prompt,
                params,
                cache_salt=str(self._manner.version),
                sample_of=None if asked else self._parent(rollout.ask, prompt),
                stream=asked * STREAMS + rollout.index,
            )
        except RequestError as error:
            if not asked or error.code != CONTEXT_EXCEEDED:
                raise
            return False
        if not asked and (self._first is None or self._first[0] is not rollout.ask):
            self._first = (rollout.ask, prompt, request)
        self._asked[key] = asked + 1
        self._requests[request] = key
        return True

    def _parent(self, ask: Ask, prompt: list[int]) -> int | None:
        """The request of the group's first sample, which computes the same prompt."""
        if self._first is None or self._first[0] is not ask:
            return None
        _, known, request = self._first
        if known != prompt:
            raise DataError(
                f"the environments of group {ask.group} ({ask.task or 'no task named'}) ask "
                "different things; a fresh one must give the same prompt each time: draw it from "
                "a fixed seed"
            )
        return request
