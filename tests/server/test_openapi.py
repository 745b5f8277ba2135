"""The server under schemathesis: requests made from its own description, apt and inept ones, alone
and in sequences. No status of 500 and above, none that is not described, no body of another type
than described.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from amounts import thorough

from ossia.server import ScriptedEngine, Settings, create_app
from ossia.tokenizer import Tokenizer

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
TEXTS = (
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Fine.<|return|>",
    '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>',
    "<|channel|>final<|message|>{}<|return|>",
)


@contextmanager
def served(tokenizer: Tokenizer) -> Iterator[str]:
    """The address of a server in a thread, whose model says one of a few things."""
    scripts = [tokenizer.encode_with_specials(text) for text in TEXTS]
    engine = ScriptedEngine(lambda prompt: scripts[sum(prompt) % len(scripts)])
    app = create_app(engine, tokenizer, Settings(model_name="nano", drain=0.0))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def failures(url: str, examples: int, coverage: bool) -> list[str]:
    """What schemathesis finds, in its words: of so many examples an operation, of sequences and, if
    `coverage`, of every bound and type that the description names, more than four thousand.
    """
    # imported in two seconds, and so only where these tests run
    import schemathesis
    from schemathesis.config import SchemathesisConfig
    from schemathesis.engine import from_schema
    from schemathesis.engine.events import NonFatalError, ScenarioFinished

    checks = {"enabled": False} | {name: {"enabled": True} for name in CHECKS}
    generation = {
        "max-examples": examples,
        "deterministic": not thorough(),
        "database": "none",
    }
    config = SchemathesisConfig.from_dict(
        {
            "checks": checks,
            "generation": generation,
            "phases": {"coverage": {"enabled": coverage}},
            "continue-on-failure": True,
        }
    )
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
    found: dict[str, str] = {}
    for event in from_schema(schema).execute():
        if isinstance(event, NonFatalError):
            found.setdefault(f"{event.label} {event.value!r}", f"{event.label}: {event.value!r}")
        elif isinstance(event, ScenarioFinished):
            for id, checked in event.recorder.checks.items():
                for check in checked:
                    if check.failure_info is not None:
                        case = event.recorder.cases[id].value
                        key = f"{event.label} {check.failure_info.failure.title}"
                        found.setdefault(
                            key, f"{key}\n{check.failure_info.failure.message}\n{shown(case)}"
                        )
    return list(found.values())


def shown(case: Any) -> str:
    return f"{case.method} {case.path} {case.path_parameters} {case.query} {str(case.body)[:600]}"


def test_what_is_described_is_what_happens(tokenizer: Tokenizer) -> None:
    with served(tokenizer) as url:
        assert "\n\n".join(failures(url, 3, coverage=False)) == ""


@pytest.mark.slow
def test_two_hundred_examples_an_operation_and_every_bound(tokenizer: Tokenizer) -> None:
    with served(tokenizer) as url:
        assert "\n\n".join(failures(url, 200, coverage=True)) == ""
