"""What is counted, for Prometheus: under vLLM's names with `ossia:` before them, so that dashboards
for it need little change.

Knows events and the worker's numbers; nothing of routes. Every answer has a `Book`, which is closed
however it ends, so that the sums over answers add up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ossia.engine.request import EngineStats
from ossia.engine.watch import PHASES, Phase, Watch
from ossia.server import tracing
from ossia.server.access import LEASE, Access
from ossia.server.worker import EngineWorker
from ossia.turn.events import Progress, TurnEnd, TurnEvent, Usage

TOKENS = (
    1,
    2,
    5,
    10,
    20,
    50,
    100,
    200,
    500,
    1000,
    2000,
    5000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
)
FIRST = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
)
BETWEEN = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1,
    2.5,
    5,
    10,
    40,
)
WHOLE = (
    0.01,
    0.05,
    0.1,
    0.3,
    0.5,
    0.8,
    1,
    1.5,
    2,
    2.5,
    5,
    10,
    15,
    20,
    30,
    40,
    50,
    60,
    120,
    240,
    480,
    960,
    1920,
)
# of an Accept header: names as they are
UNCHANGED = "escaping=allow-utf-8"


class Metrics:
    """`answering` is entered for every answer, `request` is called for every request; `text` is
    what Prometheus reads.
    """

    def __init__(self, worker: EngineWorker, model: str = "gpt-oss") -> None:
        self.worker = worker
        self.model = model
        self.registry = CollectorRegistry()
        self.registry.register(_Engine(worker, model))
        worker.engine.watch = _Watch(self.registry, model)
        ProcessCollector(registry=self.registry)

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"ossia:{name}", about, ("model_name", *labels), registry=self.registry)

        def histogram(name: str, about: str, buckets: Iterable[float]) -> Histogram:
            made = Histogram(
                f"ossia:{name}",
                about,
                ("model_name",),
                registry=self.registry,
                buckets=tuple(buckets),
            )
            return made.labels(model)

        self.prompt_tokens = counter(
            "prompt_tokens", "Tokens of prompts, cached ones included."
        ).labels(model)
        self.generation_tokens = counter("generation_tokens", "Tokens of answers.").labels(model)
        self.cached_tokens = counter(
            "prompt_tokens_cached", "Tokens of prompts not computed again."
        ).labels(model)
        self.reasoning_tokens = counter(
            "reasoning_tokens", "Tokens of answers that are reasoning."
        ).labels(model)
        self.answers = counter(
            "request_success",
            "Answers that ended: stop, length, calls; or were broken off: abort, error.",
            "finished_reason",
        )
        self.repairs = counter(
            "harmony_repairs", "What had to be repaired in what the model said.", "kind"
        )
        self._count_tools()
        self._count_store()
        self.time_to_first = histogram(
            "time_to_first_token_seconds", "Until the first token.", FIRST
        )
        self.between = histogram(
            "inter_token_latency_seconds", "From one token to the next.", BETWEEN
        )
        self.per_token = histogram(
            "request_time_per_output_token_seconds", "The same, mean of an answer.", BETWEEN
        )
        self.whole = histogram("e2e_request_latency_seconds", "Until the end of an answer.", WHOLE)
        self.prompt_sizes = histogram("request_prompt_tokens", "Of an answer.", TOKENS)
        self.generation_sizes = histogram("request_generation_tokens", "Of an answer.", TOKENS)
        labels = ("method", "route", "status")
        self.requests = Counter(
            "ossia:http_requests", "HTTP requests.", labels, registry=self.registry
        )

    def _count_tools(self) -> None:
        """Calls of the server's own."""
        self.tool_calls = Counter(
            "ossia:tool_calls",
            "Calls of the server's own tools: ok, failed, refused, cancelled.",
            ("model_name", "tool", "outcome"),
            registry=self.registry,
        )
        self.tool_seconds = Histogram(
            "ossia:tool_seconds",
            "That such a call took.",
            ("model_name", "tool"),
            registry=self.registry,
            buckets=WHOLE,
        )

    def state(self, access: Access, is_draining: Callable[[], bool]) -> None:
        """Of what else there is, asked whenever Prometheus asks."""
        self.registry.register(_Tokens(access, self.model))
        gauge = Gauge(
            "ossia:draining",
            "Whether the server is about to stop, and takes no new work.",
            ("model_name",),
            registry=self.registry,
        )
        gauge.labels(self.model).set_function(lambda: float(is_draining()))

    def store(self, operation: str, seconds: float, failed: bool) -> None:
        """`operation`: one of a few."""
        self.store_seconds.labels(self.model, operation).observe(seconds)
        self.store_errors.labels(self.model, operation).inc(failed)

    def _count_store(self) -> None:
        self.store_errors = Counter(
            "ossia:store_errors",
            "Operations of the store at which the database failed.",
            ("model_name", "operation"),
            registry=self.registry,
        )
        self.store_seconds = Histogram(
            "ossia:store_seconds",
            "That an operation of the store took.",
            ("model_name", "operation"),
            registry=self.registry,
            buckets=BETWEEN,
        )

    def answering(self) -> Book:
        return Book(self)

    def request(self, method: str, route: str, status: int) -> None:
        """`route` as it is declared, so that there are few; status 499: the client went away."""
        self.requests.labels(method, route, str(status)).inc()

    def tool_call(self, tool: str, outcome: str, seconds: float) -> None:
        self.tool_calls.labels(self.model, tool, outcome).inc()
        if outcome != "refused":
            self.tool_seconds.labels(self.model, tool).observe(seconds)

    def containers(self, count: Callable[[], int]) -> None:
        """`count` is asked whenever Prometheus asks."""
        gauge = Gauge(
            "ossia:containers",
            "Containers that there are.",
            ("model_name",),
            registry=self.registry,
        )
        gauge.labels(self.model).set_function(count)

    def text(self, accept: str = "", key: str | None = None) -> tuple[bytes, str]:
        """All metrics in the format that `accept` asks for, and its content type. `key`: whose
        counts alone are shown, of those that are kept by key; None: everybody's.
        """
        if UNCHANGED not in accept:  # else prometheus_client writes `_` for our colon
            accept = ""
        encode, content_type = choose_encoder(accept)
        shown = self.registry if key is None else _Own(self.registry, key)
        return encode(shown), content_type


class Book:
    """One answer's numbers, as a context. `usage`: exact if every token has a `Progress`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.usage = Usage()
        self._end: TurnEnd | None = None
        self._lease = LEASE.get()
        self._first: float | None = None
        self._last = 0.0

    def __enter__(self) -> Book:
        self._begin = time.monotonic()
        self._span = tracing.answer_span(self._metrics.model)
        if self._lease is not None:
            self._lease.hold()
        return self

    def event(self, event: TurnEvent) -> None:
        if isinstance(event, TurnEnd):
            self._end = event
            self.usage = event.usage
        elif isinstance(event, Progress):
            self.usage = event.usage
            self._token()

    def _token(self) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._metrics.time_to_first.observe(now - self._begin)
        else:
            self._metrics.between.observe(now - self._last)
        self._last = now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._begin
        if self._end is not None:
            reason: str = self._end.reason
        else:
            gone = kind is None or issubclass(kind, GeneratorExit | asyncio.CancelledError)
            reason = "abort" if gone else "error"
        self._count(reason, seconds)
        self._span.set_attribute("gen_ai.usage.input_tokens", self.usage.prompt)
        self._span.set_attribute("gen_ai.usage.output_tokens", self.usage.completion)
        self._span.set_attribute("gen_ai.response.finish_reasons", (reason,))
        self._span.end()
        if self._lease is not None:
            self._lease.prompt_tokens += self.usage.prompt
            self._lease.completion_tokens += self.usage.completion
            self._lease.release()

    def _count(self, reason: str, seconds: float) -> None:
        to = self._metrics
        usage = self.usage
        to.answers.labels(to.model, reason).inc()
        to.prompt_tokens.inc(usage.prompt)
        to.cached_tokens.inc(usage.cached)
        to.reasoning_tokens.inc(usage.reasoning)
        to.generation_tokens.inc(usage.completion)
        to.prompt_sizes.observe(usage.prompt)
        to.generation_sizes.observe(usage.completion)
        to.whole.observe(seconds)
        if self._first is not None and usage.completion > 1:
            to.per_token.observe((self._last - self._first) / (usage.completion - 1))
        for repair in () if self._end is None else self._end.repairs:
            to.repairs.labels(to.model, repair.kind.value).inc()


class _Watch(Watch):
    """What the engine's thread tells of its steps."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        steps = Histogram(
            "ossia:engine_step_seconds",
            "One forward pass with its sampling: only prompts, only answers, or both.",
            ("model_name", "phase"),
            registry=registry,
            buckets=FIRST,
        )
        self._steps = {phase: steps.labels(model, phase) for phase in PHASES}
        waits = Histogram(
            "ossia:request_queue_time_seconds",
            "Until the first tokens of a prompt are computed.",
            ("model_name",),
            registry=registry,
            buckets=FIRST,
        )
        self._waits = waits.labels(model)

    def step(self, phase: Phase, seconds: float) -> None:
        self._steps[phase].observe(seconds)

    def began(self, waited: float) -> None:
        self._waits.observe(waited)


class _Own(Collector):
    """A registry without what is counted of others' keys."""

    def __init__(self, registry: CollectorRegistry, key: str) -> None:
        self._registry = registry
        self._key = key

    def collect(self) -> Iterable[Metric]:
        for family in self._registry.collect():
            family.samples = [
                each for each in family.samples if each.labels.get("key", self._key) == self._key
            ]
            yield family


class _Tokens(Collector):
    """What callers have used, by key: names of the key file, never secrets."""

    def __init__(self, access: Access, model: str) -> None:
        self.access = access
        self.model = model

    def collect(self) -> Iterable[Metric]:
        about = "Tokens by key; cached ones are among those of prompts."
        labels = ("model_name", "key", "kind")
        family = CounterMetricFamily("ossia:tokens", about, labels=labels)
        for name, used in self.access.totals().items():
            for kind in ("prompt", "cached", "output"):
                family.add_metric((self.model, name, kind), getattr(used, kind))
        yield family


class _Engine(Collector):
    """The engine's own counters, read when Prometheus asks."""

    def __init__(self, worker: EngineWorker, model: str) -> None:
        self.worker = worker
        self.model = model
        self._counted = EngineStats()

    def collect(self) -> Iterable[Metric]:
        now = self.worker.stats()
        before = self._counted
        gauges = {
            "num_requests_running": ("Answers that the engine is computing.", now.running),
            "num_requests_waiting": ("Answers that wait for their turn.", now.waiting),
            "kv_cache_usage_perc": (
                "Share of the memory for keys and values that answers hold; 1 is all.",
                now.kv_used,
            ),
            "kv_cache_kept_perc": (
                "Share of it that is kept for beginnings to come.",
                now.kv_cached,
            ),
        }
        # the engine is read while it works, and what could not be read is 0: a counter never falls
        counters = {
            "prefix_cache_queries": (
                "Tokens looked for.",
                max(now.prompt_tokens, before.prompt_tokens),
            ),
            "prefix_cache_hits": ("Tokens found.", max(now.reused_tokens, before.reused_tokens)),
            "num_preemptions": (
                "Answers that had to begin again.",
                max(now.preemptions, before.preemptions),
            ),
        }
        queries, hits, preemptions = (value for _, value in counters.values())
        self._counted = EngineStats(
            prompt_tokens=queries, reused_tokens=hits, preemptions=preemptions
        )
        for name, (about, value) in gauges.items():
            gauge = GaugeMetricFamily(f"ossia:{name}", about, labels=("model_name",))
            gauge.add_metric((self.model,), value)
            yield gauge
        for name, (about, count) in counters.items():
            family = CounterMetricFamily(f"ossia:{name}", about, labels=("model_name",))
            family.add_metric((self.model,), count)
            yield family
