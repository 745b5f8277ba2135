"""Connections to MCP servers, of which no message takes more memory than is allowed.

The `mcp` package reads a server's lines without a bound; its process is therefore started and read
here. Knows the package's transports; nothing of tools.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from ossia.errors import McpError
from ossia.tools.mcp.config import McpConfig
from ossia.tools.texts import clean

if TYPE_CHECKING:
    from mcp import Client

MOST_BYTES = 8 << 20  # of one message
MOST_ANSWER = 32 << 20  # of one answer over HTTP, which may be a stream of messages
MOST_PARTS = 1000  # of a list in an answer: the package walks each part twice, on the event loop
MOST_GARBAGE = 100  # lines that are no messages, such as those of a log
MOST_MESSAGES = 10_000  # between two of ours
TAIL = 2000  # characters of what a process writes to its error stream, for an error
PATIENCE = 2.0  # seconds that a process has to end by itself
INHERITED = ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TZ", "USER", "SYSTEMROOT", "TEMP")


@asynccontextmanager
async def connected(config: McpConfig) -> AsyncIterator[Client]:
    """A client whose handshake is done. Raises McpError if the package is missing, and whatever the
    connection raises.
    """
    try:
        from mcp import Client
    except ImportError:
        raise McpError("MCP servers need `pip install 'ossia[tools]'`") from None
    transport = _http(config) if config.url is not None else _process(config)
    wishes: dict[str, Any] = {"read_timeout_seconds": config.timeout, "cache": None}
    async with Client(_bounded(transport), **wishes) as client:
        yield client


@asynccontextmanager
async def _bounded(transport: Any) -> AsyncIterator[Any]:
    async with transport as (incoming, outgoing):
        yield _Bounded(incoming), outgoing


class _Bounded:
    """A stream of messages without lists of very many parts."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def last_context(self) -> Any:
        """What the package finds at its own streams."""
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        return _cut(await self._stream.receive())

    def __aiter__(self) -> _Bounded:
        return self

    async def __anext__(self) -> Any:
        return _cut(await self._stream.__anext__())

    async def __aenter__(self) -> _Bounded:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._stream.__aexit__(*error)

    async def aclose(self) -> None:
        await self._stream.aclose()


def _cut(received: Any) -> Any:
    """What is left of a list says so, where a model reads it."""
    result = getattr(getattr(received, "message", None), "result", None)
    if not isinstance(result, dict):
        return received
    for name, listed in result.items():
        if not isinstance(listed, list) or len(listed) <= MOST_PARTS:
            continue
        left_out = len(listed) - MOST_PARTS
        del listed[MOST_PARTS:]
        if name == "content":
            listed.append({"type": "text", "text": f"[... {left_out} parts left out ...]"})
    return received


@asynccontextmanager
async def _http(config: McpConfig) -> AsyncIterator[Any]:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    from ossia.tools.browser.transport import guarded_transport

    timeout = httpx2.Timeout(config.timeout)
    guarded = None if config.guard is None else guarded_transport(config.guard)
    http = httpx2.AsyncClient(
        headers=dict(config.headers),
        timeout=timeout,
        transport=guarded,
        trust_env=guarded is None,
        event_hooks={"response": [_bounded_response]},
    )
    async with http:
        opened = streamable_http_client(
            str(config.url), http_client=http, max_sse_event_size=MOST_BYTES
        )
        async with opened as streams:
            yield streams


async def _bounded_response(response: Any) -> None:
    """Its body ends with an error when it has become too long."""
    import httpx2

    whole = response.stream

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = MOST_ANSWER
            async for chunk in whole:
                left -= len(chunk)
                if left < 0:
                    raise httpx2.ReadError(f"the answer has more than {MOST_ANSWER:,} bytes")
                yield chunk

        async def aclose(self) -> None:
            await whole.aclose()

    if response.headers.get("content-encoding"):
        raise httpx2.ReadError("the answer is compressed, which was not asked for")
    response.stream = Bounded()


@asynccontextmanager
async def _process(config: McpConfig) -> AsyncIterator[Any]:
    """The two streams of messages that the package's client reads and writes."""
    import anyio
    from mcp.shared.message import SessionMessage

    process = await _started(config)
    errors = _Tail()
    to_client, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, from_client = anyio.create_memory_object_stream[SessionMessage](0)
    pipes = _Pipes(process, to_client, from_client)
    tasks = [
        asyncio.create_task(pipes.read()),
        asyncio.create_task(pipes.write()),
        asyncio.create_task(errors.read(process.stderr)),
    ]
    try:
        yield incoming, outgoing
    except Exception as error:
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(process.wait(), asyncio.shield(tasks[-1]))
        if errors.text and process.returncode:
            said = clean(errors.text, TAIL)
            raise McpError(f"{config.label}: its process ended, and said: {said}") from error
        raise
    finally:
        for stream in (incoming, outgoing):
            await stream.aclose()
        try:
            await asyncio.shield(_ended(process, 0.1 if pipes.is_broken else PATIENCE))
        finally:
            _close_pipes(process)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _started(config: McpConfig) -> asyncio.subprocess.Process:
    """In a process group of its own, with little of our environment: ours may hold secrets."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    pipe = asyncio.subprocess.PIPE
    try:
        return await asyncio.create_subprocess_exec(
            *config.command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=inherited | dict(config.env),
            cwd=config.cwd,
            limit=MOST_BYTES,
            start_new_session=True,
        )
    except OSError as error:
        raise McpError(f"{config.label}: {config.command[0]}: {error.strerror}") from error


class _Pipes:
    """Between a process's pipes and the client's streams, one message a line."""

    def __init__(self, process: asyncio.subprocess.Process, to_client: Any, from_client: Any):
        self.process = process
        self.to_client = to_client
        self.from_client = from_client
        self.garbage = 0
        self.messages = 0  # since one of ours
        self.is_broken = False

    async def read(self) -> None:
        """Ends the connection at a line that is too long, and after too many."""
        from mcp.shared.message import SessionMessage
        from mcp.types import jsonrpc_message_adapter

        assert self.process.stdout
        async with self.to_client:
            while max(self.garbage / MOST_GARBAGE, self.messages / MOST_MESSAGES) < 1:
                try:
                    line = await self.process.stdout.readline()
                except ValueError:  # longer than the limit
                    break
                if not line:
                    return
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError:
                    if b'"jsonrpc"' in line:  # an answer that cannot be read
                        break
                    self.garbage += 1
                    continue
                self.messages += 1
                await self.to_client.send(SessionMessage(message))
            self.is_broken = True

    async def write(self) -> None:
        assert self.process.stdin
        async with self.from_client:
            async for sent in self.from_client:
                self.messages = 0
                text = sent.message.model_dump_json(by_alias=True, exclude_unset=True)
                try:
                    self.process.stdin.write(text.encode() + b"\n")
                    await self.process.stdin.drain()
                except OSError:
                    await self.to_client.aclose()
                    return


class _Tail:
    """The end of what a process says on its error stream."""

    def __init__(self) -> None:
        self.text = ""

    async def read(self, stream: asyncio.StreamReader | None) -> None:
        while stream is not None and (chunk := await stream.read(1 << 16)):
            self.text = (self.text + chunk.decode("utf-8", "replace"))[-TAIL:]


async def _ended(process: asyncio.subprocess.Process, patience: float) -> None:
    """Its input ends; then it and all that it has started are told to end, then made to."""
    if process.stdin:
        process.stdin.close()
    for sent in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await process.wait()
            if sent == signal.SIGTERM:
                _signal(process, sent)  # what it has left behind
                return
        _signal(process, sent)
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await process.wait()


def _close_pipes(process: asyncio.subprocess.Process) -> None:
    """Also those that hold something unread, which asyncio keeps open."""
    transport = getattr(process, "_transport", None)
    if transport is not None:
        with suppress(PermissionError, ProcessLookupError):
            transport.close()


def _signal(process: asyncio.subprocess.Process, sent: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, sent)
        else:
            process.send_signal(sent)
