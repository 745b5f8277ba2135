"""Spans of OpenTelemetry for requests and answers, if its packages are installed (`ossia[otel]`);
nothing without.

Names follow its conventions for HTTP servers and generative models. What was asked and said is
never in a span.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol

from ossia import __version__
from ossia.errors import RequestError


class Span(Protocol):
    """The part of OpenTelemetry's spans that is used here."""

    def set_attribute(self, key: str, value: Any, /) -> object: ...
    def update_name(self, name: str, /) -> object: ...
    def end(self) -> object: ...


class NoSpan:
    def set_attribute(self, key: str, value: Any, /) -> None: ...
    def update_name(self, name: str, /) -> None: ...
    def end(self) -> None: ...


NO_SPAN = NoSpan()
HAS_API = find_spec("opentelemetry") is not None and find_spec("opentelemetry.trace") is not None


@contextmanager
def request_span(method: str, path: str, headers: Mapping[str, str]) -> Iterator[Span]:
    """Of one HTTP request until its body's end; a child of what `traceparent` names."""
    if not HAS_API:
        yield NO_SPAN
        return
    from opentelemetry import propagate, trace

    tracer = trace.get_tracer("ossia.server", __version__)
    attributes = {"http.request.method": method, "url.path": path}
    parent = propagate.extract(dict(headers))
    kind = trace.SpanKind.SERVER
    with tracer.start_as_current_span(method, parent, kind=kind, attributes=attributes) as span:
        yield span


def answer_span(model: str) -> Span:
    """Of one answer; whoever starts it ends it. A child of the request that it is begun for."""
    if not HAS_API:
        return NO_SPAN
    from opentelemetry import trace

    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": model}
    span: Span = trace.get_tracer("ossia.server", __version__).start_span(
        "answer", attributes=attributes
    )
    return span


def set_up() -> bool:
    """Sends spans to OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT). False if neither is set.
    Raises `RequestError` if one is and the packages are missing.
    """
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    named = next((name for name in names if os.environ.get(name)), None)
    if named is None or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http import trace_exporter
        from opentelemetry.sdk import resources
        from opentelemetry.sdk import trace as sdk
        from opentelemetry.sdk.trace import export
    except ImportError as error:
        raise RequestError(
            f"{named} is set, but spans need more packages: pip install 'ossia[otel]'"
        ) from error
    service = {
        "service.name": os.environ.get("OTEL_SERVICE_NAME", "ossia"),
        "service.version": __version__,
    }
    provider = sdk.TracerProvider(resource=resources.Resource.create(service))
    exporter = trace_exporter.OTLPSpanExporter()
    provider.add_span_processor(export.BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return True
