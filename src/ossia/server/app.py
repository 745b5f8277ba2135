"""The application: routes over one `Service`, what happens at its start and end, and errors as each API has them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ossia.errors import OssiaError
from ossia.server.builtin import BuiltinTool
from ossia.server.errors import ApiError, from_ossia
from ossia.server.service import Service
from ossia.server.settings import Settings
from ossia.server.sse import ClientGone
from ossia.server.worker import EngineLike, EngineStopped
from ossia.tokenizer import Tokenizer

log = logging.getLogger("ossia.server")


def create_app(
    engine: EngineLike,
    tokenizer: Tokenizer,
    settings: Settings | None = None,
    *,
    builtin: Sequence[BuiltinTool] = (),
) -> FastAPI:
    """An ASGI application that answers with `engine`, which it steps in a thread while it runs. `builtin`: tools that
    the server runs itself. `app.state.service` is its `Service`."""
    service = Service(engine, tokenizer, settings or Settings(), builtin)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        try:
            yield
        finally:
            service.worker.stop()

    app = FastAPI(title="ossia", version="1", lifespan=lifespan)
    app.state.service = service
    _add_routes(app, service)
    app.add_exception_handler(Exception, _failed)
    for kind in (ApiError, OssiaError, EngineStopped, ClientGone, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _told)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    from ossia.server import anthropic, chat, completions, operations, page, responses

    for module in (chat, completions, responses, anthropic, operations, page):
        app.include_router(module.router(service))


async def _told(request: Request, error: Exception) -> Response:
    return respond_error(request, as_api_error(error))


async def _failed(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return respond_error(request, ApiError(500, "the server failed; its log says more"))


def as_api_error(error: Exception) -> ApiError:
    match error:
        case ApiError():
            return error
        case OssiaError():
            return from_ossia(error)
        case EngineStopped():
            return ApiError(503, str(error), headers={"Retry-After": "5"})
        case ClientGone():
            return ApiError(499, "the client went away")
        case RequestValidationError():
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"] if part != "body")
            return ApiError(400, f"{place or 'body'}: {first['msg']}", param=place or None)
        case HTTPException():
            return ApiError(error.status_code, str(error.detail), headers=error.headers)
    raise AssertionError(error)


def respond_error(request: Request, error: ApiError) -> Response:
    body = error.anthropic() if request.url.path.startswith("/v1/messages") else error.openai()
    return Response(orjson.dumps(body), error.status, error.headers, "application/json")
