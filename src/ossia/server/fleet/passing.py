"""A request that another server of ours can answer goes there, for the same caller, and its answer
comes back as it is.

What is passed on carries a proof that a server with the same secret sent it, for this caller, path,
body and minute: the other one asks for no key then, and counts nothing of it against the caller's
limits, as the first has done so. Knows HTTP; nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ossia.errors import RequestError
from ossia.server.sealing import Sealer
from ossia.server.wire.errors import ApiError

if TYPE_CHECKING:
    import httpx2

PASSED = "x-ossia-passed"  # the header
LASTS = 60.0  # seconds for which the proof holds, and by which clocks may differ
CONNECT = 3.0  # seconds
READ = 30.0  # seconds without a byte of what is read whole
PARTS = 3  # of what is signed: time, caller, digest
LARGE = 1 << 20  # bytes whose digest takes milliseconds
SESSION = "x-session-id"
SENT = ("content-type", "accept", "anthropic-version", "anthropic-beta", SESSION)
RETURNED = ("content-type", "content-disposition", "cache-control", "retry-after", SESSION)


# Whether the request that is being answered was passed on: that happens once, and the server that
# it came to has what is asked for, or nobody has.
IS_PASSED: ContextVar[bool] = ContextVar("ossia_passed", default=False)


class Elsewhere(Exception):
    """What is asked for lives at another server."""

    def __init__(self, home: str) -> None:
        super().__init__(home)
        self.home = home


def unanswered() -> ApiError:
    return ApiError(
        503,
        "the server that has this does not answer: ask again soon",
        code="replica_unreachable",
        headers={"Retry-After": "5"},
    )


def client() -> httpx2.AsyncClient:
    """Of all that this server passes on. Raises `RequestError` if the library is missing."""
    try:
        import httpx2
    except ImportError as error:
        raise RequestError("servers that share a store need: pip install 'ossia[fleet]'") from error
    return httpx2.AsyncClient(timeout=httpx2.Timeout(None, connect=CONNECT), trust_env=False)


@dataclass(frozen=True)
class Voucher:
    """What the server that passes a request on says of it. `digest`: of its body."""

    caller: str
    digest: str

    async def check(self, body: bytes) -> None:
        """Raises `ApiError` (401) for another body."""
        if not hmac.compare_digest(await digest_of(body), self.digest):
            raise not_ours()


def not_ours() -> ApiError:
    return ApiError(401, f"{PASSED} is not of a server of ours", code="invalid_api_key")


async def digest_of(body: bytes) -> str:
    """SHA-256, in hex."""
    if len(body) < LARGE:
        return hashlib.sha256(body).hexdigest()
    return (await asyncio.to_thread(hashlib.sha256, body)).hexdigest()


class Proof:
    """`sealer`: of the secret that all servers have."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def made(self, vouched: Voucher, method: str, target: str) -> str:
        now = f"{int(time.time()):x}"
        caller = vouched.caller.encode("utf-8", "surrogatepass")
        name = base64.urlsafe_b64encode(caller).decode()
        said = (now, name, vouched.digest)
        return ".".join((*said, self._signature(*said, method, target)))

    def read(self, given: str, method: str, target: str) -> Voucher:
        """Raises `ApiError` (401) for what none of our servers has sent."""
        *said, signature = given.split(".")
        if len(said) != PARTS:  # of another version, whose servers are no peers of this one
            raise not_ours()
        expected = self._signature(*said, method, target)
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            raise not_ours()
        now, name, digest = said
        if abs(time.time() - int(now, 16)) > LASTS:
            raise not_ours()
        return Voucher(base64.urlsafe_b64decode(name).decode("utf-8", "surrogatepass"), digest)

    def _signature(self, *parts: str) -> str:
        return self._sealer.signature("passed", *parts)


def target_of(scope: Scope | Mapping[str, Any]) -> str:
    """Path and query, as they are signed."""
    query = scope.get("query_string", b"").decode("latin-1")
    path = quote(scope["path"], safe="/:@!$&'()*+,;=-._~")
    return f"{path}?{query}" if query else path


def those(names: Sequence[str], headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of these names that are there."""
    return {each: headers[each] for each in names if each in headers}


class Passed(StreamingResponse):
    """The other server's answer. It is closed there when the client goes away here."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        headers = those(RETURNED, answer.headers)
        super().__init__(self._parts(), answer.status_code, headers)

    async def _parts(self) -> AsyncIterator[bytes]:
        async for part in self.answer.aiter_raw():
            yield part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.answer.aclose()


class Line:
    """To the other servers, for callers of this one. Raises `ApiError` (503) if nobody is there."""

    def __init__(self, proof: Proof) -> None:
        self._proof = proof
        self._client = client()

    async def close(self) -> None:
        await self._client.aclose()

    async def passed_on(self, request: Request, home: str, caller: str) -> Passed:
        """The answer to the same request there."""
        target = target_of(request.scope)
        headers = those(SENT, request.headers)
        headers["x-request-id"] = request.state.request_id  # both logs call it the same
        body: bytes | None = getattr(request.state, "body", None)  # the gate has read it
        if body is None:
            body = await request.body()
        return Passed(await self._sent(home, request.method, target, caller, headers, body))

    async def read(
        self, home: str, target: str, caller: str, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """What is there, whole."""
        return await self.told(home, "GET", target, caller, headers)

    async def told(
        self,
        home: str,
        method: str,
        target: str,
        caller: str,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """The whole answer there to a request without a body."""
        import httpx2

        answer = await self._sent(home, method, target, caller, headers or {}, patience=READ)
        try:
            await answer.aread()
        except httpx2.TransportError as error:
            raise unanswered() from error
        finally:
            await answer.aclose()
        return answer

    async def _sent(
        self,
        home: str,
        method: str,
        target: str,
        caller: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        patience: float | None = None,
    ) -> httpx2.Response:
        """`patience`: seconds between two parts of the answer; None: an answer may take long."""
        import httpx2

        vouched = Voucher(caller, await digest_of(body))
        shown = {**headers, PASSED: self._proof.made(vouched, method, target)}
        shown["accept-encoding"] = "identity"  # it goes back as it comes
        timeout = httpx2.Timeout(patience, connect=CONNECT)
        made = self._client.build_request(
            method, home + target, headers=shown, content=body, timeout=timeout
        )
        try:
            return await self._client.send(made, stream=True)
        except httpx2.TransportError as error:
            raise unanswered() from error
