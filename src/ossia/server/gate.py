"""What every request passes before its route, and every response after it: keys, sizes, queue,
limits, request ids, the log. Pure ASGI, so that a streamed body goes through piece by piece.

Knows HTTP and `access.py`; nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ossia.server import logs, tracing
from ossia.server.access import LEASE, RETRY, Access, Caller, Lease
from ossia.server.service import Service
from ossia.server.wire.errors import CLIENT_GONE, ApiError
from ossia.turn.events import new_id

# answered without a key: they show nothing of anybody
OPEN = {
    "/",
    "/health",
    "/ready",
    "/openapi.json",
    "/favicon.ico",
}
# a client's own id, if it can be written to a log and a header
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
BODY_WAIT = 60.0  # seconds for the next piece of a body


class AccessMiddleware:
    """The middleware. `access.running` is how many requests are being answered."""

    def __init__(self, app: ASGIApp, service: Service, access: Access) -> None:
        self.app = app
        self.service = service
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = _Exchange(
            scope, receive, send, self.service.settings.max_body, self.service.settings.log_prompts
        )
        path = visit.path
        with tracing.request_span(scope["method"], path, visit.headers) as span:
            try:
                await self._admit(visit)
            finally:
                visit.close(self.service)
                span.set_attribute("http.response.status_code", visit.status)
                span.set_attribute("http.route", visit.route)
                span.update_name(f"{scope['method']} {visit.route}")

    async def _admit(self, visit: _Exchange) -> None:
        scope = visit.scope
        try:
            self._check(visit)
            token = LEASE.set(visit.lease)
            try:
                await self.app(scope, visit.receive, visit.send)
            finally:
                LEASE.reset(token)
        except ApiError as error:
            await visit.fail(error)
        except Exception as error:
            visit.crashed(error)
            await visit.fail(ApiError.of(error))

    def _check(self, visit: _Exchange) -> None:
        """Raises `ApiError` for a request that is turned away."""
        service = self.service
        settings = self.service.settings
        if visit.scope["path"] in OPEN:
            return
        if settings.hosts and visit.host not in settings.hosts:
            text = f"this server is {settings.hosts[0]}, not {visit.host[:80]!r}"
            help = "see `ossia serve --help`, --insecure"
            raise ApiError(403, f"{text}; {help}", code="host_not_allowed")
        caller = self.access.caller(visit.headers)
        visit.set_caller(caller)
        if visit.declared_size > settings.max_body:
            raise too_large(settings.max_body)
        if not is_work(visit.scope["method"], visit.scope["path"]):
            return
        visit.limited = caller
        if service.is_draining:
            raise ApiError(503, "the server is about to stop", headers={"Retry-After": "5"})
        if self.access.running >= settings.max_queue:
            text = f"{self.access.running} requests are being answered or waiting already"
            raise ApiError(429, text, code="queue_full", headers={"Retry-After": str(RETRY)})
        if (refusal := caller.refusal()) is not None:
            raise refusal
        visit.begin(Lease(self.access, caller))


def is_work(method: str, path: str) -> bool:
    """Whether the request can make the engine work, and so counts. Requests that cancel work, or
    look at it, are never turned away.
    """
    return method == "POST" and not path.endswith("/cancel")


def too_large(most: int) -> ApiError:
    return ApiError(413, f"the request is larger than {most} bytes", code="request_too_large")


class _Exchange:
    """One request on its way in and out."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, max_body: int, keeps_body: bool
    ) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self.headers = Headers(scope=scope)
        self.lease: Lease | None = None
        self.caller = ""
        self.status = CLIENT_GONE  # until there is one, and if the body is not complete
        self._begun = time.monotonic()
        self._answered = 0  # the status that has been sent
        self._size = 0
        self._max_body = max_body
        self._complete = False  # whether the body has come
        self._body: list[bytes] | None = [] if keeps_body else None
        self.limited: Caller | None = None  # whose limits the response tells
        given = self.headers.get("x-request-id", "")
        self.id = given if REQUEST_ID.fullmatch(given) else new_id("req")
        scope.setdefault("state", {})["request_id"] = self.id

    @property
    def path(self) -> str:
        """As the client sent it, percent-encoded, so it cannot break a log line."""
        raw = self.scope.get("raw_path") or quote(self.scope["path"]).encode()
        return quote(raw.decode("latin-1"), safe="/%:@!$&'()*+,;=-._~")

    @property
    def route(self) -> str:
        """As it is declared, so that there are few, whatever paths clients ask for."""
        return str(getattr(self.scope.get("route"), "path", "")) or "none"

    @property
    def declared_size(self) -> int:
        text = self.headers.get("content-length", "")
        return int(text) if re.fullmatch("[0-9]{1,18}", text) else 0

    def set_caller(self, caller: Caller) -> None:
        self.scope["state"]["caller"] = caller
        self.caller = caller.name

    def begin(self, lease: Lease) -> None:
        lease.hold()
        self.lease = lease

    @property
    def host(self) -> str:
        """The name by which the client calls this server, without the port."""
        host = self.headers.get("host", "").lower()
        return (
            host.partition("]")[0].removeprefix("[")
            if host.startswith("[")
            else host.partition(":")[0]
        )

    async def receive(self) -> Message:
        message = await self._next()
        if message["type"] == "http.request":
            self._complete = not message.get("more_body", False)
            body = message.get("body", b"")
            self._size += len(body)
            if (
                self._size > self._max_body
            ):  # of this kind, because FastAPI makes a 400 of any other
                raise HTTPException(413, too_large(self._max_body).message)
            if self._body is not None:
                self._body.append(body)
        return message

    async def _next(self) -> Message:
        """A body that stops coming must not hold its place for ever. After the whole body, only the
        client's leaving is left to wait for, and that may take any time.
        """
        if self._complete:
            return await self._receive()
        try:
            return await asyncio.wait_for(self._receive(), BODY_WAIT)
        except TimeoutError as error:
            raise HTTPException(
                400, f"the body stopped coming {BODY_WAIT:.0f} seconds ago"
            ) from error

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._answered = message["status"]
            self._stamp(message)
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.status = self._answered

    def _stamp(self, message: MutableMapping[str, Any]) -> None:
        headers = MutableHeaders(scope=message)
        headers["x-request-id"] = self.id
        if self.scope["path"].startswith("/v1/messages"):
            headers["request-id"] = self.id  # Anthropic's name for it
        for name, value in self.limited.headers().items() if self.limited is not None else ():
            headers[name] = value

    async def fail(self, error: ApiError) -> None:
        """Answers with the error, unless a response has begun: that one is broken off, which the
        client sees.
        """
        if not self._answered:
            response = respond_error(self.scope["path"], error)
            await response(self.scope, self._receive, self.send)

    def crashed(self, error: Exception) -> None:
        logs.log.error(
            "%s %s failed, id=%s", self.scope["method"], self.path, self.id, exc_info=error
        )

    def close(self, service: Service) -> None:
        seconds = time.monotonic() - self._begun
        tokens = (0, 0)
        if self.lease is not None:
            tokens = (self.lease.prompt_tokens, self.lease.completion_tokens)
            self.lease.release()
        method = self.scope["method"] if self.scope["method"] in METHODS else "OTHER"
        service.metrics.request(method, self.route, self.status)
        if self._body:
            logs.prompt(self.id, b"".join(self._body))
        logs.access(method, self.path, self.status, seconds, tokens, self.caller, self.id)


def respond_error(path: str, error: ApiError) -> Response:
    """The error in the form of the API that the path belongs to."""
    if path.startswith("/v1/messages"):
        body = error.anthropic()
    elif path.startswith("/api/"):
        body = error.ollama()
    else:
        body = error.openai()
    return Response(orjson.dumps(body), error.status, error.headers, "application/json")
