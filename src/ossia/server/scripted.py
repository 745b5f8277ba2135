"""An engine that says what it is told: the test double of everything above an engine.

    ids = tokenizer.encode_with_specials("<|channel|>final<|message|>Hi<|return|>")
    engine = ScriptedEngine([ids])

Every request is given the next script, the last one over and over; or a function makes one from the
prompt. It takes no notice of constraints, so what a model would never be allowed to say can be
tried too. Same face as `engine.Engine`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from ossia.config import ModelConfig
from ossia.engine.request import (
    Constraint,
    EngineStats,
    FinishReason,
    PromptToken,
    SampledToken,
    SamplingParams,
)
from ossia.engine.watch import Watch
from ossia.errors import PromptTooLong, RequestError

Script = Sequence[int]


@dataclass
class _Running:
    prompt: int  # tokens
    script: Script
    params: SamplingParams
    arrived: float = field(default_factory=time.perf_counter)
    said: int = 0


class ScriptedEngine:
    """`delay`: seconds that a step takes. `submitted` are the prompts, for a test to look at."""

    enforces_constraints = False

    def __init__(
        self,
        scripts: Sequence[Script] | Callable[[list[int]], Script],
        config: ModelConfig | None = None,
        delay: float = 0.0,
    ) -> None:
        self.config = config or ModelConfig.preset("gpt-oss-20b")
        self.delay = delay
        self.failed: dict[int, Exception] = {}
        self.watch = Watch()
        self.submitted: list[list[int]] = []
        self._scripts = scripts
        self._running: dict[int, _Running] = {}
        self._ids = count()

    def rest(self) -> None:
        """It has nothing to give back."""

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
        self.check(prompt, params)
        id = next(self._ids)
        ids = list(prompt)
        if callable(self._scripts):
            script = self._scripts(ids)
        else:
            script = self._scripts[min(len(self.submitted), len(self._scripts) - 1)]
        self.submitted.append(ids)
        self._running[id] = _Running(len(ids), list(script), params)
        return id

    @property
    def longest(self) -> int:
        return self.config.max_context_length

    def abort(self, request_id: int) -> None:
        self._running.pop(request_id, None)

    def has_work(self) -> bool:
        return bool(self._running)

    def step(self) -> list[SampledToken]:
        began = time.perf_counter()
        if self.delay:
            time.sleep(self.delay)
        for one in self._running.values():
            if not one.said:
                self.watch.began(began - one.arrived)
        tokens = [token for id in list(self._running) if (token := self._next(id)) is not None]
        self.watch.step("decode", time.perf_counter() - began)
        return tokens

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self._running))

    def prompt_logprobs(self, prompt: Sequence[int], top: int = 0) -> Iterator[list[PromptToken]]:
        """-0.25 for every token; the likeliest are it and those of the ids below, each 1 less."""
        self._check(prompt, self.config.max_context_length)
        return iter([[PromptToken(id, -0.25, _likeliest(id, -0.25, top)) for id in prompt[1:]]])

    def check(self, prompt: Sequence[int], params: SamplingParams) -> int:
        most = self.config.max_context_length - 1
        self._check(prompt, most)
        return most

    def _check(self, prompt: Sequence[int], most: int) -> None:
        if not 0 < len(prompt) <= most:
            raise PromptTooLong(len(prompt), self.config.max_context_length)

    def _next(self, id: int) -> SampledToken | None:
        one = self._running[id]
        if not one.script:
            self.failed[id] = RequestError("the script is empty")
            del self._running[id]
            return None
        token = one.script[one.said]
        one.said += 1
        reason: FinishReason | None = None
        if token in one.params.stop_ids:
            reason = "stop"
        elif one.said in (len(one.script), one.params.max_tokens):
            reason = "length"
        if reason is not None:
            del self._running[id]
        top = _likeliest(token, -0.5, one.params.top_logprobs)
        return SampledToken(id, token, -0.5, reason, top)


def _likeliest(token: int, logprob: float, count: int) -> tuple[tuple[int, float], ...]:
    return tuple((max(token - n, 0), logprob - n) for n in range(count))
