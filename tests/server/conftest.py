"""What the server's tests share: nano's tokenizer, scripts of what a model says, an application
in-process.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import known_endpoints
import pytest
from postgres_server import Postgres, binaries, postgres

import ossia
from ossia.llm import LLM
from ossia.server import ScriptedEngine, Settings, create_app
from ossia.tokenizer import Tokenizer

NUMBERS = itertools.count()  # of databases
Script = Callable[..., list[int]]
known_endpoints.remember()


@pytest.fixture(scope="session")
def llm() -> LLM:
    return ossia.load("nano")


@pytest.fixture(scope="session")
def tokenizer(llm: LLM) -> Tokenizer:
    return llm.tokenizer


@pytest.fixture(scope="session")
def script(tokenizer: Tokenizer) -> Script:
    """Harmony text, with its control tokens written out, to ids: what a model says behind
    `<|start|>assistant`.
    """
    return lambda text: tokenizer.encode_with_specials(text)


@pytest.fixture(scope="session")
def client_for(
    tokenizer: Tokenizer, script: Script
) -> Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]:
    """`async with client_for("<|channel|>final<|message|>Hi<|return|>") as client:` an HTTP client
    of an application whose model says these things, one a sample. `client.app` and `client.engine`
    are at hand.
    """

    @asynccontextmanager
    async def made(
        *texts: str | Sequence[int], settings: Settings | None = None, **more: object
    ) -> AsyncIterator[httpx.AsyncClient]:
        scripts = [script(text) if isinstance(text, str) else list(text) for text in texts]
        engine = ScriptedEngine(scripts)
        app = create_app(engine, tokenizer, settings or Settings(model_name="nano"), **more)  # type: ignore[arg-type]
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                client.app, client.engine = app, engine  # type: ignore[attr-defined]
                yield client

    return made


@pytest.fixture(scope="session")
def database_server() -> Iterator[Postgres]:
    bin = binaries()
    if bin is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql (Debian)")
    with postgres(bin) as server:
        yield server


@pytest.fixture
def new_database(database_server: Postgres) -> str:
    """The URL of an empty one."""
    return database_server.make(f"store{next(NUMBERS)}")
