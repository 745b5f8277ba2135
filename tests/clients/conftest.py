"""Servers for other people's clients, and running those in environments of their own. Only with
--clients: what is not installed yet is fetched from PyPI and npm.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from clients import environments

import ossia
from ossia.llm import LLM
from ossia.server import ScriptedEngine, Settings, create_app
from ossia.server.worker import EngineLike
from ossia.tokenizer import Tokenizer

HERE = Path(__file__).parent
LIMIT = 120.0  # seconds that a client may take


@dataclass(frozen=True)
class Served:
    """`url` is where clients are pointed at, with /v1."""

    url: str
    engine: EngineLike
    tokenizer: Tokenizer

    @property
    def prompts(self) -> list[str]:
        """What a scripted engine was asked, as Harmony text."""
        assert isinstance(self.engine, ScriptedEngine)
        return [self.tokenizer.decode(ids) for ids in self.engine.submitted]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("clients") and not config.getoption("--clients"):
            item.add_marker(pytest.mark.skip(reason="clients: run with --clients"))


@pytest.fixture(scope="session")
def llm() -> LLM:
    return ossia.load("nano")


@pytest.fixture(scope="session")
def tokenizer(llm: LLM) -> Tokenizer:
    return llm.tokenizer


@pytest.fixture
def scripted(tokenizer: Tokenizer) -> Callable[..., Any]:
    """`with scripted("<|channel|>final<|message|>Hi<|return|>") as served:` a server whose model
    says these things, one a sample, the last one over and over.
    """

    def made(*texts: str, config: Any = None) -> Any:
        return serving(
            ScriptedEngine([tokenizer.encode_with_specials(text) for text in texts], config),
            tokenizer,
        )

    return made


@pytest.fixture(scope="session")
def nano(llm: LLM) -> Iterator[Served]:
    """A server of the embedded model, which by its own settings always says the likeliest."""
    with serving(
        llm.engine, llm.tokenizer, Settings(model_name="nano", sampling=llm.sampling)
    ) as served:
        yield served


@contextmanager
def serving(
    engine: EngineLike, tokenizer: Tokenizer, settings: Settings | None = None, **more: Any
) -> Iterator[Served]:
    """A server on loopback, in a thread. Whatever it logs as a warning or worse is an error."""
    app = create_app(engine, tokenizer, settings or Settings(model_name="nano"), **more)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    with socket.socket() as listening, no_complaints():
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        try:
            yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", engine, tokenizer)
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive(), "the server did not stop"


@contextmanager
def no_complaints() -> Iterator[None]:
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign]
    for name in ("ossia.server", "uvicorn.error"):
        logging.getLogger(name).addHandler(handler)
    try:
        yield
    finally:
        for name in ("ossia.server", "uvicorn.error"):
            logging.getLogger(name).removeHandler(handler)
    assert [record.getMessage() for record in records] == []


def said(text: str, thought: str) -> str:
    """A sample that ends with an answer, as Harmony text."""
    return (
        f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>final"
        f"<|message|>{text}<|return|>"
    )


def called(name: str, arguments: str, thought: str, constrained: str = " <|constrain|>json") -> str:
    """A sample that ends with a call of a function."""
    header = f"<|channel|>commentary to=functions.{name}{constrained}<|message|>"
    return (
        f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant{header}{arguments}"
        "<|call|>"
    )


def python_of(client: str) -> Path:
    """The client's interpreter; the test is skipped if it cannot be installed."""
    try:
        return environments.python(client)
    except environments.Missing as missing:
        pytest.skip(f"{client}: {missing}")


def environment(**more: str) -> dict[str, str]:
    """A bare one: no proxies, no keys, no settings of the user's. Clients are told not to talk to
    their makers.
    """
    quiet = {
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LANGSMITH_TRACING": "false",
        "PYDANTIC_DISABLE_PLUGINS": "1",
    }
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ
    }
    return {**kept, **quiet, **more}


def run_script(client: str, script: str, case: str, served: Served) -> Any:
    """What a case of a script in `scripts/` got. The client must not complain, neither by its exit
    nor on stderr.
    """
    command = [str(python_of(client)), str(HERE / "scripts" / f"{script}.py"), case]
    variables = environment(OSSIA_URL=served.url, OSSIA_MODEL="nano")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=variables)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == "", ended.stderr
    return json.loads(ended.stdout)
