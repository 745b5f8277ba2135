"""Ollama's API: /api/chat, /api/generate, /api/tags, /api/ps, /api/show and /api/version, for
the many editors that speak nothing else.

Thin: input.py makes a conversation of the request, output.py the lines of the answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ossia.config import ModelConfig, account
from ossia.harmony import Message
from ossia.server.access import Caller, caller_of
from ossia.server.answer import AnswerRequest
from ossia.server.ollama.input import of_chat, of_prompt
from ossia.server.ollama.output import Line, Lines, fold, now
from ossia.server.ollama.types import ChatRequest, GenerateRequest, OllamaRequest, ShowRequest
from ossia.server.service import Service
from ossia.server.wire.calls import call_ids
from ossia.server.wire.conversation import conversation_of
from ossia.server.wire.errors import ApiError
from ossia.server.wire.fields import At, api_router
from ossia.server.wire.output import extension, thoughts_before_calls
from ossia.server.wire.replies import LINES, documented, reply
from ossia.server.wire.sse import first_of, streaming, until_disconnected
from ossia.server.wire.tools import ToolReader
from ossia.tools.toolbox import Toolbox
from ossia.turn.events import ItemEnd, ToolCallItem, TurnEnd

SPOKEN = "0.12.6"  # the version of Ollama whose API this is: editors compare it
STREAMED = "The answer, a line of JSON for each piece; with `stream: false` one object."
FAMILY = "gptoss"
FOREVER = "9999-12-31T00:00:00Z"  # when the model is unloaded
Asked = tuple[str | None, tuple[Message, ...]]


def router(service: Service) -> APIRouter:
    routes = api_router("ollama")
    routes.include_router(_answers(service))
    routes.include_router(_models(service))
    return routes


def _answers(service: Service) -> APIRouter:
    routes = api_router()

    @routes.post(
        "/api/chat", response_model=None, responses=documented(about=STREAMED, streams=LINES)
    )
    async def chat(body: ChatRequest, request: Request) -> Response:
        """The assistant's next message."""
        caller = caller_of(request)
        lines = Lines(
            service.check_model(_untagged(body.model)),
            "chat",
            preambles_are_content=body.format in (None, ""),
        )
        if not body.messages:
            return reply(lines.done("load"))
        reader = ToolReader(service.tools_for(caller)).read(At(body.tools or [], "tools").items())
        tools = reader.tools(parallel=False)
        given = [message.model_dump(include={"tool_calls"}) for message in body.messages]
        remembered = await service.thoughts.before(caller.name, call_ids(given))
        asked = of_chat(body, lambda id: remembered.get(id, ()))
        return await _answered(service, request, body, _asked(service, body, asked, tools), lines)

    @routes.post(
        "/api/generate", response_model=None, responses=documented(about=STREAMED, streams=LINES)
    )
    async def generate(body: GenerateRequest, request: Request) -> Response:
        """The answer to one prompt."""
        lines = Lines(
            service.check_model(_untagged(body.model)),
            "generate",
            preambles_are_content=body.format in (None, ""),
        )
        if not body.prompt:
            body.check_supported()
            return reply(lines.done("load"))
        asking = _asked(service, body, of_prompt(body), Toolbox(), "prompt")
        return await _answered(service, request, body, asking, lines)

    return routes


def _untagged(name: str | None) -> str | None:
    """A tag that Ollama adds to every name."""
    return None if name is None else name.removesuffix(":latest")


async def _asked(
    service: Service, body: OllamaRequest, asked: Asked, tools: Toolbox, param: str = "messages"
) -> AnswerRequest:
    """`param`: the field to name if the prompt is too long. Raises `ApiError`."""
    params = body.sampling(service)
    format = body.wanted_format()
    instructions, messages = asked
    effort = body.effort(service, instructions)
    conversation = conversation_of(
        messages, effort=effort.level, instructions=instructions, tools=tools, format=format
    )
    wishes = body.wishes
    grammar = await service.grammar(
        tools,
        format,
        effort.budget,
        lambda: service.check_prompt(conversation, params, param),
        holds_on=wishes.holds_on,
    )
    return AnswerRequest(
        conversation,
        params,
        tools,
        grammar,
        wishes.stop,
        logprobs=body.logprobs is True,
        prompt_param=param,
    )


async def _answered(
    service: Service,
    request: Request,
    body: OllamaRequest,
    asking: Coroutine[Any, Any, AnswerRequest],
    lines: Lines,
) -> Response:
    ask = await until_disconnected(request, asking)
    lines.extra = extension(ask.tools, ask.grammar)
    made = _lines(service, ask, lines, caller_of(request))
    if not body.is_streamed:
        return reply(await until_disconnected(request, _folded(made)))
    _, checked = await until_disconnected(request, first_of(made))
    return streaming(
        _encoded(checked),
        keepalive=service.settings.keepalive,
        on_error=_error,
        media_type=LINES,
        alive=_line(lines.alive()),
    )


async def _lines(
    service: Service, ask: AnswerRequest, lines: Lines, caller: Caller
) -> AsyncGenerator[Line, None]:
    first_call = ""
    async with aclosing(service.answer(ask, caller)) as events:
        async for event in events:
            match event:
                case ItemEnd(item=ToolCallItem() as call):
                    first_call = first_call or call.call_id
                case TurnEnd(messages=messages) if first_call:
                    before = thoughts_before_calls(ask.tools, messages)
                    await service.remember_thoughts(caller, [first_call], before)
            for line in lines.write(event):
                yield line


async def _folded(lines: AsyncGenerator[Line, None]) -> Line:
    async with aclosing(lines):
        return fold([line async for line in lines])


async def _encoded(lines: AsyncGenerator[Line, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(lines):
        async for line in lines:
            yield _line(line)


def _line(line: Line) -> bytes:
    return orjson.dumps(line) + b"\n"


def _error(error: ApiError) -> bytes:
    return _line(error.ollama())


# ---- the model ----


def _models(service: Service) -> APIRouter:
    routes = api_router()
    name = service.settings.model_name
    config = service.worker.engine.config
    started = now()
    model = _listed(name, config)

    @routes.get("/api/tags", response_model=None, responses=documented(about="The model."))
    async def tags() -> Response:
        """The one model that is served."""
        return reply({"models": [model | {"modified_at": started}]})

    @routes.get("/api/ps", response_model=None, responses=documented(about="The model."))
    async def running() -> Response:
        """The same model: it is loaded as long as the server runs."""
        loaded = {"expires_at": FOREVER, "context_length": service.context}
        return reply({"models": [model | loaded]})

    @routes.post("/api/show", response_model=None, responses=documented(about="The model."))
    async def show(body: ShowRequest) -> Response:
        """What the model is and can do."""
        service.check_model(_untagged(body.model or body.name))
        shown = {
            "modelfile": f"FROM {name}\n",
            "parameters": "",
            "template": "",
            "details": model["details"],
            "model_info": _info(name, config, service.context),
            "capabilities": ["completion", "tools", "thinking"],
            "modified_at": started,
        }
        return reply(shown)

    @routes.get("/api/version", response_model=None, responses=documented(about="A version."))
    async def version() -> Response:
        """Of Ollama's API; /version tells this server's."""
        return reply({"version": SPOKEN})

    return routes


def _listed(name: str, config: ModelConfig) -> dict[str, Any]:
    """The model as it is listed."""
    size = account(config)
    details = {
        "parent_model": "",
        "format": "safetensors",
        "family": FAMILY,
        "families": [FAMILY],
        "parameter_size": _size(size.total),
        "quantization_level": "MXFP4",
    }
    return {
        "name": name,
        "model": name,
        "size": size.checkpoint_bytes,
        "digest": hashlib.sha256(f"{name} {config!r}".encode()).hexdigest(),
        "details": details,
    }


def _info(name: str, config: ModelConfig, context: int) -> dict[str, Any]:
    return {
        "general.architecture": FAMILY,
        "general.basename": name,
        "general.parameter_count": account(config).total,
        f"{FAMILY}.block_count": config.num_hidden_layers,
        f"{FAMILY}.context_length": context,
        f"{FAMILY}.embedding_length": config.hidden_size,
        f"{FAMILY}.vocab_size": config.vocab_size,
    }


def _size(count: int) -> str:
    for unit, letter in ((1e9, "B"), (1e6, "M")):
        if count >= unit:
            return f"{count / unit:.1f}{letter}"
    return f"{count / 1e3:.1f}K"
