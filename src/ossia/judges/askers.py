"""Who is asked for verdicts: a server that speaks Chat Completions, or a model in this process."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ossia.harmony.chat_messages import reasoning_and_text
from ossia.judges.verdicts import SCHEMA
from ossia.remote import OPENER, checked_key, headers_with, reason_of

SHOWN = 80  # characters of what is no answer
MOST_BYTES = 1 << 22  # of an endpoint's answer


@dataclass(frozen=True)
class Endpoint:
    """A server that speaks Chat Completions. `url`: up to `/v1`."""

    url: str
    name: str
    key: str = ""
    max_tokens: int = 2048
    silence: float = 600.0  # seconds without a byte, after which the connection is closed

    def __post_init__(self) -> None:
        """Raises `RequestError` for a key that cannot be sent, without showing it."""
        object.__setattr__(self, "key", checked_key(self.key, "OSSIA_JUDGE_KEY"))

    def __call__(self, system: str, text: str) -> str:
        shape = {"name": "verdict", "strict": True, "schema": SCHEMA}
        body = {
            "model": self.name,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": text},
            ],
            "response_format": {"type": "json_schema", "json_schema": shape},
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }
        choice = chat_choice(self.url, self.key, body, self.silence)
        return reasoning_and_text(choice["message"])[1]


def chat_choice(url: str, key: str, body: Mapping[str, Any], silence: float) -> Mapping[str, Any]:
    """The first choice of what a server that speaks Chat Completions answers. `url`: up to `/v1`;
    `silence`: seconds without a byte, after which the connection is closed. Raises what the server
    or the connection fails with, and ValueError for what is no such answer.
    """
    address = f"{url.rstrip('/')}/chat/completions"
    request = urllib.request.Request(address, json.dumps(body).encode(), headers_with(key))
    try:
        with OPENER.open(request, timeout=silence) as response:
            text = response.read(MOST_BYTES)
    except urllib.error.HTTPError as error:
        error.msg = reason_of(error)
        raise
    match _json(text):
        case {"choices": [{"message": {}} as choice, *_]}:
            return dict(choice)
    shown = text[:SHOWN].decode("utf-8", "replace")
    raise ValueError(f"what it answered is none of Chat Completions: {shown!r}")


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


class Chatting(Protocol):
    """What `ossia.load` returns, as far as it is asked here."""

    def chat(self, messages: Any, **wishes: Any) -> Any: ...


class InProcess:
    """A model in this process. It answers one question at a time."""

    at_once = 1

    def __init__(self, llm: Chatting, name: str, max_tokens: int = 2048) -> None:
        self.name = name
        self._llm = llm
        self._max_tokens = max_tokens
        self._lock = threading.Lock()

    def __call__(self, system: str, text: str) -> str:
        shape = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA}}
        with self._lock:
            chat = self._llm.chat(
                text,
                instructions=system,
                response_format=shape,
                temperature=0,
                max_tokens=self._max_tokens,
                date=None,
            )
            return str(chat.result().text)
