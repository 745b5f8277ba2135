"""Answers from a server that speaks OpenAI's Chat Completions or Responses.

    endpoint = Endpoint("http://127.0.0.1:8000/v1", "gpt-oss-20b")
    for index, answered in endpoint.answer(trials): ...

What the server calls reasoning is counted and not kept. A request that the server refuses, or that
fails again and again, is an answer that failed, with the reason. Knows HTTP; no graders.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Literal

from ossia.errors import RequestError
from ossia.evals.questions import Answered, Trial
from ossia.evals.texts import well_formed
from ossia.harmony import DeveloperContent, Message, Role
from ossia.remote import BUSY, OPENER, checked_key, headers_with, patiently, reason_of

Api = Literal["chat", "responses"]
PATHS: Mapping[Api, str] = {"chat": "/chat/completions", "responses": "/responses"}
SILENCE = 24 * 3600.0  # seconds without a byte: an answer of 131,072 tokens takes hours on a CPU
TRIES = 5
BROKEN = (OSError, http.client.HTTPException, ValueError, RecursionError)
MOST_BYTES = 1 << 27


@dataclass(frozen=True)
class Endpoint:
    """`url`: up to `/v1`. `sampling`: what is asked for; what is not there is the server's own."""

    url: str
    model: str
    api: Api = "chat"
    key: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    at_once: int = 16
    pause: Callable[[float], object] = time.sleep

    def __post_init__(self) -> None:
        """Raises `RequestError` for an address that is none, and for a key that cannot be sent,
        without showing it.
        """
        if not self.url.startswith(("http://", "https://")):
            raise RequestError(
                f"{self.url!r} is no address of a server; write http://HOST:PORT/v1", "url"
            )
        object.__setattr__(self, "key", checked_key(self.key, "OPENAI_API_KEY"))

    def answer(self, trials: Sequence[Trial]) -> Iterator[tuple[int, Answered]]:
        """As they are finished. Who stops listening leaves what is under way."""
        waiting: SimpleQueue[int | None] = SimpleQueue()
        finished: SimpleQueue[tuple[int, Answered | Exception]] = SimpleQueue()
        for index in range(len(trials)):
            waiting.put(index)

        def work() -> None:
            while (index := waiting.get()) is not None:
                try:
                    finished.put((index, self.one(trials[index])))
                except Exception as error:  # is raised where the answer is waited for
                    finished.put((index, error))

        workers = min(self.at_once, len(trials))
        for _ in range(workers):  # the program may end while a server is silent
            threading.Thread(target=work, name="ossia-ask", daemon=True).start()
        try:
            for _ in trials:
                index, came = finished.get()
                if isinstance(came, Exception):
                    raise came
                yield index, came
        finally:
            while not waiting.empty():
                waiting.get()
            for _ in range(workers):
                waiting.put(None)

    def one(self, trial: Trial) -> Answered:
        body = self.body(trial)
        try:
            said = patiently(lambda: self._post(body), TRIES, self.pause, BROKEN)
        except urllib.error.HTTPError as error:
            tries = f" ({TRIES} tries)" if error.code in BUSY else ""
            why = f"the server answered {error.code}: {reason_of(error)}{tries}"
        except (OSError, http.client.HTTPException) as error:
            why = f"the server could not be asked: {error} ({TRIES} tries)"
        except (ValueError, RecursionError) as error:
            why = f"the server's answer is not JSON: {error} ({TRIES} tries)"
        else:
            return _read(self.api, said)
        return Answered(error=why)

    def body(self, trial: Trial) -> dict[str, Any]:
        messages = [_wire(message) for message in trial.question.messages]
        sampling = dict(self.sampling)
        if self.api == "chat":
            return {
                "model": self.model,
                "messages": messages,
                "reasoning_effort": str(trial.effort),
                "seed": trial.seed,
                **sampling,
            }
        if "max_tokens" in sampling:
            sampling["max_output_tokens"] = sampling.pop("max_tokens")
        return {
            "model": self.model,
            "input": messages,
            "reasoning": {"effort": str(trial.effort)},
            "store": False,
            **sampling,
        }

    def models(self) -> list[str]:
        """Raises `RequestError` if the server cannot be asked."""
        address = f"{self.url.rstrip('/')}/models"
        request = urllib.request.Request(address, headers=headers_with(self.key))
        try:
            with OPENER.open(request, timeout=30.0) as response:
                said = json.loads(response.read(MOST_BYTES))
            names = [str(one["id"]) for one in said["data"]]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise RequestError(
                f"{self.url} does not say which models it has: {error}; is it the address of an "
                "OpenAI-compatible server, with /v1 at the end? Name the model with --model-name",
                "url",
            ) from error
        if not names:
            raise RequestError(f"{self.url} has no models; load one into the server", "url")
        return names

    def _post(self, body: Mapping[str, Any]) -> Any:
        address = f"{self.url.rstrip('/')}{PATHS[self.api]}"
        data = json.dumps(body).encode()
        request = urllib.request.Request(address, data, headers_with(self.key))
        with OPENER.open(request, timeout=SILENCE) as response:
            return json.loads(response.read(MOST_BYTES))


def _wire(message: Message) -> dict[str, str]:
    content = message.content
    if isinstance(content, DeveloperContent):
        content = content.instructions or ""
    role = "assistant" if message.role is Role.ASSISTANT else str(message.role)
    return {"role": role, "content": str(content)}


def _read(api: Api, said: Any) -> Answered:
    try:
        return _read_chat(said) if api == "chat" else _read_responses(said)
    except (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
        return Answered(error=f"the server's answer is not one of this API: {error!r}")


def _read_chat(said: Any) -> Answered:
    choice = said["choices"][0]
    usage = said.get("usage") or {}
    details = usage.get("completion_tokens_details") or {}
    return Answered(
        _text(choice["message"].get("content")),
        (),
        "length" if choice.get("finish_reason") == "length" else "stop",
        int(usage.get("completion_tokens") or 0),
        int(details.get("reasoning_tokens") or 0),
        int(usage.get("prompt_tokens") or 0),
    )


def _text(content: Any) -> str:
    """Text, or a list of parts of which some are text."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError(f"content is {type(content).__name__}, not text")
    return well_formed(content or "")


def _read_responses(said: Any) -> Answered:
    """A message's phase tells a preamble from the answer, where the server gives it."""
    if said.get("status") == "failed":
        return Answered(error=f"the server failed: {(said.get('error') or {}).get('message')}")
    texts = []
    for item in said["output"]:
        if item["type"] == "message" and item.get("phase") != "commentary":
            texts += [part["text"] for part in item["content"] if part["type"] == "output_text"]
    usage = said.get("usage") or {}
    details = usage.get("output_tokens_details") or {}
    why = (said.get("incomplete_details") or {}).get("reason")
    return Answered(
        well_formed("".join(texts)),
        (),
        "length" if why == "max_output_tokens" else "stop",
        int(usage.get("output_tokens") or 0),
        int(details.get("reasoning_tokens") or 0),
        int(usage.get("input_tokens") or 0),
    )
