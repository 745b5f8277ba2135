"""What a connection may do before its request is whole: how long headers and body may take, and how
many connections one address may have.

uvicorn has a limit for all connections together, which one client can use up, and no deadline but
that of an idle connection. Knows sockets and the state of a request; nothing of what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

from ossia.server.access import address_of
from ossia.server.settings import Settings

GRACE = 5.0  # seconds after the deadline of a body that the answer, a 408, has to get out
PIECE = 16 << 10  # bytes that are parsed at a time: the event loop does nothing else meanwhile
FRAMING = 128 << 10  # bytes of a request that may be headers and the sizes of chunks
# Seconds that a client which is still sending has to read its answer: after its last bytes, and
# in all.
LINGER = 3.0
LONGEST = 30.0
LEAVING = 256  # connections that are given these seconds at a time
ANSWER = (
    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n"
    "content-length: {size}\r\n\r\n{text}"
)


class Doors:
    """The connections of every address. One that is at its limit gives up the oldest of its own
    whose request is not whole, so that whoever holds hundreds open does not shut out who asks.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # Behind a proxy all come from one address.
        self.limit = 0 if settings.trusted_proxies else settings.max_connections
        self._open: dict[str, dict[Connection, None]] = {}  # the oldest first
        self.leaving = 0  # connections that have been closed and may still send

    def enter(self, connection: Connection) -> bool:
        """Whether there is room for it."""
        mine = self._open.get(connection.address, {})
        if self.limit and connection.address and len(mine) >= self.limit:
            waiting = [other for other in mine if not other.is_being_answered]
            if not waiting:
                return False
            # who has an answer, then whose headers are not there, then whose body is not
            min(waiting, key=lambda other: other.claim).give_up()
        self._open.setdefault(connection.address, {})[connection] = (
            None  # it may have been the last
        )
        return True

    def leave(self, connection: Connection) -> None:
        mine = self._open.get(connection.address, {})
        mine.pop(connection, None)
        if not mine:
            self._open.pop(connection.address, None)


class _Lingering:
    """A connection's transport. A socket that is closed while bytes are on their way to it resets
    the connection, and an answer that the client has not read yet is lost. So while the client
    `is_sending`, only our side is closed; what still comes is thrown away for a moment.
    """

    def __init__(
        self, transport: asyncio.Transport, doors: Doors, is_sending: Callable[[], bool]
    ) -> None:
        self.is_leaving = False
        self._transport = transport
        self._doors = doors
        self._is_sending = is_sending
        self._loop = asyncio.get_running_loop()
        self._until = 0.0  # on the loop's clock
        self._end: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.is_leaving or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self.is_leaving:
            self._transport.write(data)

    def close(self) -> None:
        if self._is_sending():
            self.leave()
        elif not self.is_leaving:
            self._transport.close()

    def leave(self) -> None:
        if self.is_closing():
            return
        if self._doors.leaving >= LEAVING:
            self._transport.close()
            return
        self.is_leaving = True
        self._doors.leaving += 1
        self._until = self._loop.time() + LONGEST
        self._transport.resume_reading()
        self._transport.write_eof()
        self.wait()

    def wait(self) -> None:
        """Something came; for a client that leaves, a bit longer."""
        if self.is_leaving:
            self._stop_waiting()
            when = min(self._until, self._loop.time() + LINGER)
            self._end = self._loop.call_at(when, self._transport.abort)

    def lost(self) -> None:
        self._stop_waiting()
        if self.is_leaving:
            self.is_leaving = False
            self._doors.leaving -= 1

    def _stop_waiting(self) -> None:
        if self._end is not None:
            self._end.cancel()


class Connection(H11Protocol):
    """uvicorn's, with deadlines. `protocol` makes a class of it for a server."""

    doors: Doors
    address = ""
    lingering: _Lingering

    # bytes of the request that are not body, less those that are, but never below 0
    _framing = 0
    _timer: asyncio.TimerHandle | None = None
    _timed: tuple[bool, Any] | None = None  # what the timer is for: headers or body after a cycle

    @property
    def has_headers(self) -> bool:
        """Of a request that is still being sent, or is being answered."""
        return self._is_sending or (self.cycle is not None and not self.cycle.response_complete)

    @property
    def is_being_answered(self) -> bool:
        return self.has_headers and not self._is_sending

    @property
    def claim(self) -> tuple[bool, bool]:
        """Of several, the connection with the smallest is given up first."""
        return not self.lingering.is_leaving, self.has_headers

    @property
    def _is_sending(self) -> bool:
        return self._client_state == "SEND_BODY"

    def _may_send(self) -> bool:
        return self._client_state in ("SEND_BODY", "ERROR")

    @property
    def _client_state(self) -> str:
        """h11's name for it."""
        return str(self.conn.their_state)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.lingering = _Lingering(transport, self.doors, self._may_send)
        super().connection_made(cast(asyncio.Transport, self.lingering))
        if hasattr(transport, "max_size"):  # of asyncio's own; 256 KiB otherwise
            transport.max_size = PIECE
        self.address = address_of(self.client[0]) if self.client else ""
        if self.doors.enter(self):
            self._watch()
        else:
            text = f"{self.doors.limit} requests of this address are being answered"
            self._say("429 Too Many Requests", text)

    def connection_lost(self, exc: Exception | None) -> None:
        self.doors.leave(self)
        self.lingering.lost()
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            self.lingering.wait()
            return
        cycle = self.cycle
        before = 0 if cycle is None else len(cycle.body)
        super().data_received(data)
        if self.cycle is not cycle:
            self._framing = 0
            before = 0
        elif cycle is not None:
            grown = len(cycle.body) - before
            self._framing = max(0, self._framing + len(data) - 2 * grown)
        if self._framing > FRAMING:  # chunks of a byte: each is parsed at the price of a large one
            self._say("400 Bad Request", "the body comes in too many small chunks")
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_sending and self.cycle.response_complete:
            self._leave()  # nobody wants the rest of the body
        elif self.has_headers:  # the next request's, which had been sent already
            self._watch()
        else:
            self._unwatch()  # idle: uvicorn's own deadline

    def give_up(self) -> None:
        """Closes at once: somebody else of this address needs the place."""
        self.doors.leave(self)
        self._unwatch()
        self.transport.abort()

    def _watch(self) -> None:
        """Sets the deadline for what is awaited of the client, if it is not set already."""
        awaited = (self.has_headers, self.cycle)
        if self.is_being_answered or self.transport.is_closing():
            self._unwatch()
        elif self._timed != awaited:
            self._unwatch()
            self._timed = awaited
            settings = self.doors.settings
            seconds = settings.header_timeout
            if self.has_headers:
                seconds = settings.body_timeout + GRACE
            self._timer = self.loop.call_later(seconds, self._expired)

    def _unwatch(self) -> None:
        self._timed = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        if self.has_headers:  # the gate has not even got out its 408
            self.transport.abort()
        else:
            seconds = self.doors.settings.header_timeout
            text = f"the request's headers were not complete after {seconds:g} seconds"
            self._say("408 Request Timeout", text)

    def _say(self, status: str, text: str) -> None:
        """The last words: before a request is there, nobody else can answer."""
        if not (self._is_sending and self.cycle.response_started):
            answer = ANSWER.format(status=status, size=len(text), text=text)
            self.transport.write(answer.encode("ascii"))
        self._leave()

    def _leave(self) -> None:
        self.lingering.leave()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def shutdown(self) -> None:
        if self.lingering.is_leaving:
            self.transport.abort()
        else:
            super().shutdown()


def protocol(settings: Settings) -> type[Connection]:
    """The class of a server's connections."""
    return type("Connection", (Connection,), {"doors": Doors(settings)})
