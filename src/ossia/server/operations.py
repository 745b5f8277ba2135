"""How the server is: /health, /ready, /metrics, /version; which model it has; and text to tokens
and back.

/tokenize, /detokenize and /tokenizer_info are in vLLM's shapes; a conversation is tokenized to what
an answer to it starts from. What other servers have, and a model that writes text cannot do, is
refused in words.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import Field, StrictBool, StrictInt
from starlette.responses import Response

from ossia import __version__
from ossia.errors import TokenizerError
from ossia.harmony import RenderedHistory
from ossia.server.access import Caller, caller_of
from ossia.server.chat.request import prompt_of
from ossia.server.chat.types import ChatMessage, ChatRequest
from ossia.server.service import Service
from ossia.server.wire.errors import ApiError, bad
from ossia.server.wire.fields import ListOf, Part, api_router
from ossia.server.wire.replies import documented, reply
from ossia.tools.browser import Browser, LimitedBrowser
from ossia.tools.kinds import BROWSER

NO_VECTORS = (
    "/v1/embeddings",
    "/v1/rerank",
    "/v2/rerank",
    "/rerank",
    "/api/embed",
    "/api/embeddings",
)
LONG = 20_000  # characters or tokens
SOON = {"Retry-After": "5"}
# what a configuration calls the tokens that end an answer, and that fill rows up
ROLES = {"eos_token": "<|return|>", "pad_token": "<|endoftext|>"}
T = TypeVar("T")


Messages = Annotated[ListOf[ChatMessage], Field(min_length=1)]


class TokenizeRequest(ChatRequest):
    """Either `prompt`, a text, or `messages` and whatever else belongs to a chat. There are no
    tokens that every text begins with, so `add_special_tokens` changes nothing.
    """

    messages: Messages | None = None  # type: ignore[assignment]
    prompt: str | None = None
    # names such as <|start|> in the prompt are special tokens
    parse_special: StrictBool | None = None
    add_special_tokens: StrictBool | None = None
    add_generation_prompt: StrictBool = True
    return_token_strs: StrictBool | None = None


class DetokenizeRequest(Part):
    tokens: ListOf[Annotated[StrictInt, Field(ge=0)]]
    model: str | None = None


def router(service: Service) -> APIRouter:
    routes = APIRouter()
    routes.include_router(_states(service))
    routes.include_router(_models(service))
    routes.include_router(_tokens(service))
    routes.include_router(_others())
    return routes


def _others() -> APIRouter:
    """Routes that this server does not have, and why."""
    routes = APIRouter(include_in_schema=False)

    async def no_vectors(request: Request) -> Response:
        raise ApiError(
            404,
            f"{request.url.path} is not here: this model writes text, and makes neither embeddings "
            "nor rankings; ask a server that has a model for those",
            code="not_supported",
        )

    for path in NO_VECTORS:
        routes.add_api_route(path, no_vectors, methods=["POST"], response_class=Response)
    return routes


def _states(service: Service) -> APIRouter:
    routes = APIRouter(tags=["operations"])

    def failed() -> Response:
        why = str(service.worker.error or "not running")
        return reply({"status": "failed", "error": why}, 503)

    @routes.get(
        "/health",
        summary="Whether the engine lives",
        response_class=Response,
        responses=documented(about="Its state."),
    )
    async def health() -> Response:
        if not service.worker.is_alive:
            return failed()
        return reply({"status": "ok"})

    @routes.get(
        "/ready",
        summary="Whether new work is taken",
        response_class=Response,
        responses=documented(about="It is."),
    )
    async def ready() -> Response:
        if not service.worker.is_alive:
            return failed()
        return (
            reply({"status": "draining"}, 503, SOON)
            if service.is_draining
            else reply({"status": "ready"})
        )

    @routes.get(
        "/version",
        summary="Of the server",
        response_class=Response,
        responses=documented(about="The version."),
    )
    async def version() -> Response:
        return reply({"version": __version__})

    text: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    counted: dict[int | str, dict[str, Any]] = {
        200: {"description": "What Prometheus reads.", "content": text}
    }

    @routes.get("/metrics", summary="What is counted", response_class=Response, responses=counted)
    async def metrics(request: Request) -> Response:
        """What is counted by key is shown to keys with `metrics` or `admin`, and of their own to
        others.
        """
        caller = caller_of(request)
        sees_all = caller.limits.metrics or caller.limits.admin or not service.access.has_names
        key = None if sees_all else caller.name
        body, content_type = service.metrics.text(request.headers.get("accept", ""), key)
        return Response(body, headers={"Content-Type": content_type})

    return routes


def _models(service: Service) -> APIRouter:
    routes = APIRouter(tags=["models"])
    name = service.settings.model_name
    started = int(time.time())
    model = {  # OpenAI's fields, vLLM's, Anthropic's
        "id": name,
        "object": "model",
        "created": started,
        "owned_by": "ossia",
        "root": name,
        "parent": None,
        "max_model_len": service.context,
        "permission": [],
        "type": "model",
        "display_name": name,
        "created_at": datetime.fromtimestamp(started, UTC).isoformat().replace("+00:00", "Z"),
    }

    @routes.get(
        "/v1/models",
        summary="List models",
        response_class=Response,
        responses=documented(about="The one that is served."),
    )
    async def models(request: Request) -> Response:
        listed = {"object": "list", "data": [model | _offered(service, caller_of(request))]}
        return reply(listed | {"first_id": name, "last_id": name, "has_more": False})

    @routes.get(
        "/v1/models/{id:path}",
        summary="One model",
        response_class=Response,
        responses=documented(about="The model."),
    )
    async def one(id: str, request: Request) -> Response:
        if id != name:
            raise ApiError(
                404, f"there is no model {id!r}; this server has {name!r}", code="model_not_found"
            )
        return reply(model | _offered(service, caller_of(request)))

    return routes


def _offered(service: Service, caller: Caller) -> dict[str, Any]:
    """`tools`: names of those that the server runs for this caller; `searches`: what its browser
    searches if a request chooses nothing; `sources`: what it may choose, and what each is. The page
    at / reads them.
    """
    found = service.tools_for(caller).get(BROWSER.name)
    browser = found if isinstance(found, Browser | LimitedBrowser) else None
    searches = browser.backend.searched if browser is not None else ""
    named = browser.sources.items() if browser is not None else ()
    sources = [{"name": name, "searches": each.searched or None} for name, each in named if name]
    return {
        "tools": service.tool_names(caller),
        "searches": searches or None,
        "sources": sources,
    }


def _tokens(service: Service) -> APIRouter:
    routes = api_router("tokens")
    tokenizer = service.tokenizer

    @routes.post(
        "/tokenize",
        summary="Text to tokens",
        response_class=Response,
        responses=documented(about="The tokens."),
    )
    async def tokenize(body: TokenizeRequest, request: Request) -> Response:
        """`prompt` as text, or `messages` as the prompt that a chat completion would start from."""
        service.check_model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise bad("give either prompt or messages", "prompt")
        ids = await (
            _of_messages(body, request, service) if body.prompt is None else _of_text(body, service)
        )
        texts = None
        if body.return_token_strs:
            texts = await _aside(len(ids), lambda: [tokenizer.decode((id,)) for id in ids])
        return reply(
            {
                "count": len(ids),
                "max_model_len": service.context,
                "tokens": ids,
                "token_strs": texts,
            }
        )

    @routes.get(
        "/tokenizer_info",
        summary="The vocabulary",
        response_class=Response,
        responses=documented(about="What clients ask a tokenizer's configuration for."),
    )
    async def info() -> Response:
        """In the words of a Hugging Face tokenizer's configuration. There is no template: ask
        /tokenize for what a conversation becomes.
        """
        return reply(_configuration(service))

    @routes.post(
        "/detokenize",
        summary="Tokens to text",
        response_class=Response,
        responses=documented(about="The text."),
    )
    async def detokenize(body: DetokenizeRequest) -> Response:
        service.check_model(body.model)
        try:
            return reply(
                {"prompt": await _aside(len(body.tokens), lambda: tokenizer.decode(body.tokens))}
            )
        except TokenizerError as error:
            raise bad(str(error), "tokens", error.code) from error

    return routes


def _configuration(service: Service) -> dict[str, Any]:
    """Of the tokenizer."""
    tokenizer = service.tokenizer
    special = tokenizer.specials
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": service.context,
        "vocab_size": tokenizer.vocab_size,
        "bos_token": None,
        "chat_template": None,
        "added_tokens_decoder": {
            str(id): {"content": name, "special": True} for name, id in special.items()
        },
        **{role: name for role, name in ROLES.items() if name in special},
    }


async def _aside(length: int, work: Callable[[], T]) -> T:
    """The result; for a long text it is made in a thread, so that streams are not held up."""
    return await asyncio.to_thread(work) if length > LONG else work()


async def _of_text(body: TokenizeRequest, service: Service) -> list[int]:
    assert body.prompt is not None
    encode = (
        service.tokenizer.encode_with_specials if body.parse_special else service.tokenizer.encode
    )
    try:
        return await _aside(len(body.prompt), partial(encode, body.prompt))
    except TokenizerError as error:
        raise bad(str(error), "prompt") from error


async def _of_messages(body: TokenizeRequest, request: Request, service: Service) -> list[int]:
    # a chat completion would refuse to do without
    chat = body.model_copy(update={"add_generation_prompt": None})
    prompt = await prompt_of(chat, service, caller_of(request))
    ids = await service.answerer.prompt_ids(prompt.conversation, prompt.opening)
    if body.add_generation_prompt or body.continue_final_message:
        return ids
    return ids[: -len(RenderedHistory(service.tokenizer).ids_for_completion())]
