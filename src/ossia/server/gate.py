"""What every request passes before its route, and every response after it: keys, sizes, queue,
limits, request ids, the log. Pure ASGI, so that a streamed body goes through piece by piece.

Knows HTTP and `access.py`; nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ossia.server import logs, tracing
from ossia.server.access import LEASE, RETRY, Access, Caller, Lease, address_of
from ossia.server.accounts.users import peer_of
from ossia.server.fleet.passing import IS_PASSED, SESSION, Voucher
from ossia.server.service import Service
from ossia.server.settings import Settings
from ossia.server.wire.errors import CLIENT_GONE, ApiError, ClientGone
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
SAFE = {"GET", "HEAD", "OPTIONS"}  # these change nothing
# How much of the bodies that are not whole yet is held, in times the largest one. A caller has half
# of it; when it is full, callers with one body have as much again.
BODIES = 8
AGAIN = 4  # times that limits of several servers are asked for again
MOMENT = 0.05  # seconds between


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
        visit = _Exchange(scope, receive, send, self.service.settings, self.access)
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
            await self._check(visit)
            token = LEASE.set(visit.lease)
            try:
                await self.app(scope, visit.receive, visit.send)
            finally:
                LEASE.reset(token)
        except Exception as error:
            told = ApiError.of(error)
            if told.status == 500:
                visit.crashed(error)
            await visit.fail(told)

    async def _check(self, visit: _Exchange) -> None:
        """Raises `ApiError` for a request that is turned away."""
        settings = self.service.settings
        if visit.scope["path"] in OPEN:
            return
        if settings.hosts and visit.host not in settings.hosts:
            text = f"this server is {settings.hosts[0]}, not {visit.host[:80]!r}"
            help = "see `ossia serve --help`, --insecure"
            raise ApiError(403, f"{text}; {help}", code="host_not_allowed")
        if is_foreign(visit.scope["method"], visit.headers, settings.cors_origins):
            text = f"pages of {visit.headers.get('origin', 'another site')[:80]!r} may not ask here"
            help = "see `ossia serve --help`, --cors-origin"
            raise ApiError(403, f"{text}; {help}", code="origin_not_allowed")
        passed = self.service.fleet.passed(visit.scope, visit.headers)
        visit.passed = passed
        IS_PASSED.set(passed is not None)
        if passed is None:
            caller = self.access.caller(visit.headers, peer_of(visit.scope))
        else:
            caller = self.access.named(passed.caller)
        visit.set_caller(caller)
        if visit.declared_size > settings.max_body:
            raise too_large(settings.max_body)
        if not is_work(visit.scope["method"], visit.scope["path"]):
            return
        visit.limited = caller
        # with limits of its own, this server counts what it is passed as it counts all else
        is_admitted = passed is not None and self.service.ledger.shared
        lease = Lease(self.access, caller, visit.turn, is_admitted=is_admitted)
        lease.begun = self.service.store.clock()
        self._check_room(lease)
        body = await visit.read_body()  # whoever is still sending holds no place
        if passed is not None:
            await passed.check(body)
        if not self.service.fleet.is_alone:
            visit.scope["state"]["body"] = body  # another server may have to get it
        self._check_room(lease)
        visit.begin(lease)
        if not is_admitted:
            await self._check_shared(lease)

    def _check_room(self, lease: Lease) -> None:
        if self.service.is_draining:
            raise ApiError(503, "the server is about to stop", headers={"Retry-After": "5"})
        if (refusal := lease.refusal()) is not None:
            raise refusal

    async def _check_shared(self, lease: Lease) -> None:
        """What other servers know. They are told a moment after an answer that it has ended, so
        whoever has just had one there is asked again.
        """
        ledger = self.service.ledger
        await ledger.admit(lease.caller)
        for _ in range(AGAIN):
            if lease.caller.refusal(0) is None or not lease.caller.elsewhere:
                break
            await asyncio.sleep(MOMENT)
            await ledger.settle(lease.caller)
        if (refusal := lease.caller.refusal(0)) is not None:
            raise refusal


def is_foreign(method: str, headers: Mapping[str, str], allowed: Sequence[str]) -> bool:
    """Whether a browser sends this, and could change something, for a page that is not ours and not
    `allowed`. Programs send neither header. (The rule of Go's net/http.CrossOriginProtection.)
    """
    origin = headers.get("origin", "")
    if method in SAFE or "*" in allowed or (origin and origin in allowed):
        return False
    site = headers.get("sec-fetch-site", "")
    if site:
        return site not in ("same-origin", "none")
    return bool(origin) and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()


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
        self, scope: Scope, receive: Receive, send: Send, settings: Settings, access: Access
    ) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self.headers = Headers(scope=scope)
        self.lease: Lease | None = None
        self.passed: Voucher | None = None  # of another server of ours
        self.caller = ""
        self.status = CLIENT_GONE  # until there is one, and if the body is not complete
        self._begun = time.monotonic()
        self._answered = 0  # the status that has been sent
        self._size = 0
        self._held = 0  # bytes that count as being received
        self._settings = settings
        self._access = access
        self._complete = False  # whether the body has come
        self._whole: bytes | None = None  # the body, if it has come and nobody has it yet
        self._body: list[bytes] | None = [] if settings.log_prompts else None
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
        lease.size = self._size
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

    @property
    def turn(self) -> str:
        """Who takes turns with others: a key's owner, or an address."""
        return self.caller or self.address

    @property
    def address(self) -> str:
        client = self.scope.get("client")
        return address_of(client[0]) if client else ""

    async def read_body(self) -> bytes:
        """Raises `ApiError` for a body that is too large or comes too slowly."""
        pieces: list[bytes] = []
        while not self._complete:
            try:
                message = await self.receive()
            except HTTPException as error:
                raise ApiError.of(error) from error
            if message["type"] != "http.request":
                raise ApiError.of(ClientGone())
            pieces.append(message.get("body", b""))
        self._whole = b"".join(pieces)
        return self._whole

    async def receive(self) -> Message:
        """Errors are of the kind that FastAPI does not make a 400 of."""
        if self._whole is not None:
            body = self._whole
            self._whole = None
            return {"type": "http.request", "body": body, "more_body": False}
        message = await self._next()
        if message["type"] == "http.request":
            self._take(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._complete:
                self._let_go()
        return message

    def _take(self, body: bytes) -> None:
        self._size += len(body)
        self._hold(len(body))
        most = self._settings.max_body
        if self._size > most:
            raise HTTPException(413, too_large(most).message)
        held = self._access.receiving
        share = most if held > BODIES * most else BODIES // 2 * most
        if self._access.receiving_of[self.turn] > share or held > 2 * BODIES * most:
            text = "too many large requests are being received"
            raise HTTPException(429, text, {"Retry-After": str(RETRY)})
        if self._body is not None:
            self._body.append(body)

    def _hold(self, more: int) -> None:
        self._held += more
        self._access.receive(self.turn, more)

    def _let_go(self) -> None:
        self._hold(-self._held)

    async def _next(self) -> Message:
        """The whole body has `body_timeout` from the request's beginning on. After it, only the
        client's leaving is left to wait for, and that may take any time.
        """
        if self._complete:
            return await self._receive()
        seconds = self._settings.body_timeout
        try:
            async with asyncio.timeout(self._begun + seconds - time.monotonic()):
                return await self._receive()
        except TimeoutError as error:
            text = f"the body was not complete after {seconds:g} seconds"
            raise HTTPException(408, text, {"Connection": "close"}) from error

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
        if session := self._session:
            headers[SESSION] = session
        if self.scope["path"].startswith("/v1/messages"):
            headers["request-id"] = self.id  # Anthropic's name for it
        for name, value in self.limited.headers().items() if self.limited is not None else ():
            headers[name] = value

    @property
    def _session(self) -> str:
        """The client's own name for its conversation, else ours."""
        given = self.headers.get(SESSION, "")
        if REQUEST_ID.fullmatch(given):
            return given
        return "" if self.lease is None else self.lease.session

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
        self._let_go()
        if self.lease is not None:
            tokens = (self.lease.prompt_tokens, self.lease.completion_tokens)
            self.lease.release()
            self.lease.answered()
        method = self.scope["method"] if self.scope["method"] in METHODS else "OTHER"
        if self.passed is None:  # the server that passed it on counts it
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
