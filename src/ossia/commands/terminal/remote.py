"""A model behind a URL, to talk to as to a loaded one: any server with OpenAI's chat completions.

Knows HTTP and that API, as a client; loads no torch. What is shown of an answer are the events of a
turn, as of a model that runs here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request

from ossia import __version__
from ossia.commands.display import did_you_mean, visible
from ossia.commands.terminal.interrupts import Interrupt
from ossia.errors import RequestError
from ossia.harmony import Conversation, DeveloperContent, Message, Role, SystemContent, is_call
from ossia.harmony.chat_messages import REASONING_KEYS
from ossia.remote import OPENER, checked_key, error_in, headers_with
from ossia.turn.events import (
    ItemDelta,
    ItemEnd,
    ItemStart,
    MessageItem,
    Reason,
    ReasoningItem,
    TurnEnd,
    TurnEvent,
    Usage,
    new_id,
)

PATIENCE = 600.0  # seconds without a byte: the server may be reading a long prompt
LIST_PATIENCE = 10.0  # the same for the list of models, which needs no thought
UNREACHABLE = "unreachable"  # the code of an error where no server answers
LISTED = 10  # models that an error names
SHOWN = 300  # characters of an error that is not in the API's form
BROKEN = (OSError, HTTPException, ValueError)  # what a connection, or the name of a host, can raise
Fields = Mapping[str, Any]


@dataclass
class Server:
    """`url` ends before /chat/completions; `key` goes with every request, if there is one."""

    url: str
    key: str = ""
    model: str = ""

    @classmethod
    def at(cls, address: str, key: str | None, model: str | None) -> Server:
        """The server at a URL, or HOST:PORT. Without a model, its first.

        Raises `RequestError` if that is no URL, no such server answers there, or the key is none.
        """
        url = address if "://" in address else f"http://{address}"
        try:
            parts = urlsplit(url)
            fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port that is no number
            fits = None
        if not fits:
            raise RequestError(
                f"--server {address}: is not a server's URL, such as http://127.0.0.1:8000"
            )
        url = url.rstrip("/").removesuffix("/chat/completions")
        if not parts.path.strip("/"):
            url += "/v1"
        server = cls(url, checked_key(key or "", "OSSIA_API_KEY"), model or "")
        if not model:
            models = server.models()
            if not models:
                raise RequestError(f"{url}: names no model; say which: ossia chat MODEL --server")
            server.model = models[0]
        return server

    def models(self) -> list[str]:
        """The names that the server announces."""
        with closing(self._open("models", patience=LIST_PATIENCE)) as response:
            try:
                text = response.read()
            except BROKEN as error:
                raise self._unreachable(error) from error
        found = self._read(text)
        entries = found.get("data")
        if not isinstance(entries, list):
            raise RequestError(f"{self.url}/models: holds no list of models; is the URL right?")
        return [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]

    def with_model(self, name: str) -> Server:
        """Another of its models. Raises `RequestError` for one that it does not announce, if it
        announces any, and if it does not answer.
        """
        try:
            models = self.models()
        except RequestError as error:
            if error.code == UNREACHABLE:
                raise
            models = []
        if models and name not in models:
            near = did_you_mean(name, models) or f"; there are {', '.join(models[:LISTED])}"
            raise RequestError(f"{self.url}: has no model {name!r}{near}")
        return Server(self.url, self.key, name)

    def chat(
        self, conversation: Conversation, *, stop: Interrupt | None = None, **options: Any
    ) -> Iterator[TurnEvent]:
        """The events of an answer. `options` are fields of the request.

        The last event is a `TurnEnd`, also of an answer that `stop` has broken off. Raises
        `RequestError` with what the server says.
        """
        waiting = stop or Interrupt()
        answer = _Answer()
        try:
            with waiting.waiting():
                response = self._open("chat/completions", self._body(conversation, options))
            with closing(response):
                chunks = self._chunks(response)
                while answer.reason is None:
                    with waiting.waiting():
                        chunk = next(chunks, None)
                    if chunk is None:
                        raise RequestError(f"{self.url}: broke off before the end of its answer")
                    yield from answer.feed(chunk)
                answer.feed_rest(chunks)
        except KeyboardInterrupt:
            if not waiting.asked:
                raise
            answer.reason = "length"
        yield from answer.finish()

    def _body(self, conversation: Conversation, options: Fields) -> dict[str, Any]:
        body = {
            "model": self.model,
            "messages": list(chat_messages(conversation)),
            "stream": True,
            "stream_options": {"include_usage": True},
            **options,
        }
        for system in conversation.contents(SystemContent):
            if system.effort is not None:
                body["reasoning_effort"] = str(system.effort)
        return body

    def _open(self, path: str, body: Fields | None = None, patience: float = PATIENCE) -> Any:
        """The response. Raises `RequestError` for one that is an error, or where none comes."""
        headers = headers_with(self.key) | {"User-Agent": f"ossia/{__version__}"}
        data = None if body is None else json.dumps(body).encode()
        try:
            request = Request(f"{self.url}/{path}", data, headers)
            return OPENER.open(request, timeout=patience)
        except HTTPError as error:
            with closing(error):
                raise self._refused(error) from error
        except BROKEN as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> RequestError:
        reason = error.reason if isinstance(error, URLError) else error
        why = reason.strerror if isinstance(reason, OSError) else None
        return RequestError(f"{self.url}: cannot be reached: {why or reason}", code=UNREACHABLE)

    def _refused(self, error: HTTPError) -> RequestError:
        try:
            text = error.read(1 << 16).decode("utf-8", "replace")
        except BROKEN:
            text = ""
        about = error_in(text)
        message = about.get("message") or text[:SHOWN].strip()
        hint = ""
        if error.code == 404 and not about:
            message = "does not speak OpenAI's API there; give the URL that ends in /v1"
        if error.code == 401:
            hint += "; give --api-key, or OSSIA_API_KEY in the environment"
        said = visible(f"{self.url}: {error.code} {error.reason}: {message}{hint}")
        return RequestError(said, code=about.get("code"))

    def _chunks(self, response: Any) -> Iterator[Fields]:
        """What the server sends: events, or one body if it does not stream."""
        try:
            if "json" in response.headers.get("Content-Type", ""):
                yield self._read(response.read())
                return
            for line in response:
                if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                    yield self._read(line[5:])
        except (OSError, HTTPException) as error:
            raise RequestError(f"{self.url}: the connection broke: {error}") from error

    def _read(self, text: bytes) -> Fields:
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RequestError(f"{self.url}: sends what is not OpenAI's API; is the URL right?")
        if found.get("error"):
            about = error_in(text.decode("utf-8", "replace"))
            raise RequestError(
                visible(f"{self.url}: {about.get('message') or 'an error'}"), code=about.get("code")
            )
        return found


@dataclass
class _Answer:
    """Chunks of an answer as the events of a turn."""

    parts: list[tuple[str, list[str]]] = field(default_factory=list)  # (channel, texts)
    reason: Reason | None = None
    usage: Usage = Usage()

    def feed(self, chunk: Fields) -> Iterator[TurnEvent]:
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            counts = [usage.get(key) or 0 for key in ("prompt_tokens", "completion_tokens")]
            self.usage = Usage(prompt=counts[0], completion=counts[1])
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices:
            return
        choice = choices[0]
        delta = choice.get("delta") or choice.get("message") or {}
        thoughts = [delta.get(key) for key in REASONING_KEYS]
        yield from self._say("analysis", next(filter(None, thoughts), None))
        yield from self._say("final", delta.get("content"))
        if finish := choice.get("finish_reason"):
            self.reason = "length" if finish == "length" else "stop"

    def feed_rest(self, chunks: Iterator[Fields]) -> None:
        """The usage comes after the end of the answer, if it comes."""
        for chunk in chunks:
            for _ in self.feed(chunk):
                pass

    def _say(self, channel: str, text: Any) -> Iterator[TurnEvent]:
        if not isinstance(text, str) or not text:
            return
        if not self.parts or self.parts[-1][0] != channel:
            yield from self._end_item()
            self.parts.append((channel, []))
            yield ItemStart(len(self.parts) - 1, self._item(""))
        self.parts[-1][1].append(text)
        yield ItemDelta(len(self.parts) - 1, text)

    def _item(self, text: str) -> ReasoningItem | MessageItem:
        if self.parts[-1][0] == "analysis":
            return ReasoningItem(new_id("rs"), text)
        return MessageItem(new_id("msg"), "final_answer", text)

    def _end_item(self) -> Iterator[TurnEvent]:
        if self.parts:
            yield ItemEnd(len(self.parts) - 1, self._item("".join(self.parts[-1][1])))

    def finish(self) -> Iterator[TurnEvent]:
        assert self.reason is not None
        yield from self._end_item()
        messages = tuple(
            Message(Role.ASSISTANT, "".join(texts), channel=channel)
            for channel, texts in self.parts
        )
        yield TurnEnd(self.reason, self.usage, messages)


def chat_messages(conversation: Conversation) -> Iterator[dict[str, Any]]:
    """As chat completions write them: calls without a result between them in one message.
    Reasoning is left out, as models leave out that of finished turns.
    """
    count = 0
    waiting: list[tuple[str, str | None]] = []  # (id, tool) of calls that have no result yet
    calls: list[dict[str, Any]] = []
    for message in conversation.messages:
        if message.role is Role.DEVELOPER:
            for content in message.parts:
                if isinstance(content, DeveloperContent) and content.instructions is not None:
                    yield {"role": "system", "content": content.instructions}
        elif message.role is Role.TOOL:
            of_its_tool = [one for one in waiting if one[1] == message.name]
            answered = (of_its_tool or waiting or [(f"call_{count}", None)])[0]
            waiting = [one for one in waiting if one != answered]
            calls = []
            yield {"role": "tool", "tool_call_id": answered[0], "content": message.text}
        elif is_call(message):
            count += 1
            name = (message.recipient or "").removeprefix("functions.")
            function = {"name": name, "arguments": message.text}
            call = {"id": f"call_{count}", "type": "function", "function": function}
            waiting.append((f"call_{count}", message.recipient))
            if not calls:
                yield {"role": "assistant", "content": None, "tool_calls": calls}
            calls.append(call)
        elif message.role is not Role.SYSTEM and message.channel != "analysis":
            calls = []
            yield {"role": str(message.role), "content": message.text}
