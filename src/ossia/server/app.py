"""The application: routes over one `Service`, the gate before them, what happens at its start and
end, and errors as each API has them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from ossia import __version__
from ossia.errors import OssiaError
from ossia.server import openapi
from ossia.server.accounts.chores import Chores
from ossia.server.fleet.passing import Elsewhere
from ossia.server.gate import AccessMiddleware, respond_error
from ossia.server.hosted.mcp import McpServers
from ossia.server.service import Service
from ossia.server.settings import Settings
from ossia.server.wire.errors import ApiError, ClientGone
from ossia.server.worker import EngineLike, EngineStopped
from ossia.tokenizer import Tokenizer
from ossia.tools import Tool
from ossia.tools.containers import Containers

log = logging.getLogger("ossia.server")
LONGEST_PATH = 200  # characters that an error repeats
EXPOSED = (
    "x-request-id",
    "retry-after",
    "x-session-id",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
)
ERRORS = (
    ApiError,
    OssiaError,
    OSError,
    EngineStopped,
    ClientGone,
    RequestValidationError,
    HTTPException,
)


def create_app(
    engine: EngineLike,
    tokenizer: Tokenizer,
    settings: Settings | None = None,
    *,
    builtin: Sequence[Tool] = (),
    containers: Containers | None = None,
    mcp: McpServers | None = None,
    changed: Callable[[], str | None] = lambda: None,
) -> FastAPI:
    """An ASGI application that answers with `engine`, which it steps in a thread while it runs.
    `builtin`: tools that the server runs itself, and ends with it; `containers`: those of its code.
    `mcp`: other programs' tools, which end with it, too. `changed`: see `EngineWorker`.
    `app.state.service` is its `Service`, `app.state.access` its `Access`.
    """
    settings = settings or Settings()
    service = Service(engine, tokenizer, settings, builtin, changed, containers, mcp)
    access = service.access
    chores = Chores(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.open()
        await chores.open()
        service.worker.start()
        service.warm()
        try:
            yield
        finally:
            service.is_draining = True
            await service.runs.close(settings.drain if service.worker.is_alive else 0)
            service.worker.stop()
            await service.close_tools()
            await service.mcp.close()
            await chores.close()
            await service.close()

    # No /docs: that page would load its parts from a third party.
    app = FastAPI(
        title="ossia",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.access = access
    _add_routes(app, service)
    app.add_exception_handler(Elsewhere, service.fleet.pass_on)
    for kind in ERRORS:
        app.add_exception_handler(kind, error_response)
    app.add_middleware(AccessMiddleware, service=service, access=access)
    _let_in(app, settings.cors_origins)
    openapi.complete(app, has_keys=bool(settings.keys))
    return app


def _let_in(app: FastAPI, origins: Sequence[str]) -> None:
    """Pages of other sites. Outside the gate: a browser must be able to read refusals too."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("*",),
            allow_headers=("*",),
            expose_headers=EXPOSED,
            max_age=3600,
        )


def _add_routes(app: FastAPI, service: Service) -> None:
    from ossia.server import operations
    from ossia.server.accounts import routes as accounts
    from ossia.server.chat import routes as chat
    from ossia.server.completions import routes as completions
    from ossia.server.hosted import container_files, containers, files
    from ossia.server.messages import routes as anthropic
    from ossia.server.ollama import routes as ollama
    from ossia.server.page import page
    from ossia.server.responses import conversations, stored
    from ossia.server.responses import routes as responses

    for module in (
        chat,
        completions,
        responses,
        stored,
        conversations,
        containers,
        container_files,
        files,
        anthropic,
        ollama,
        operations,
        accounts,
        page,
    ):
        app.include_router(module.router(service))


async def error_response(request: Request, error: Exception) -> Response:
    told = ApiError.of(error)
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        told.message = _no_route(request, error)
    if told.status == 500:
        log.error("%s failed", request.method, exc_info=error)
    if told.status == 507:
        log.error("%s %s is refused: %s", request.method, request.url.path, told)
    return respond_error(request.url.path, told)


def _no_route(request: Request, error: HTTPException) -> str:
    """Why no route takes a request, for a developer who tries what OpenAI, Anthropic or Ollama
    have.
    """
    path = request.url.path[:LONGEST_PATH]
    if error.status_code == 405:
        takes = (error.headers or {}).get("Allow", "another method")
        return f"{path} takes {takes}, not {request.method}"
    return f"{path} is not here; GET /openapi.json lists what is"
