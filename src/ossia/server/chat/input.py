"""A Chat Completions request -> what the answerer is asked: one `Ask` for each of its choices.

Puts together what messages.py, tools.py and format.py read. Knows the service; nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from ossia.engine.request import SamplingParams
from ossia.harmony import Conversation, Message, Role, SystemContent
from ossia.server.access import Caller
from ossia.server.answer import Ask
from ossia.server.chat.format import check_refused, declared_format, wanted_format
from ossia.server.chat.messages import harmony_messages
from ossia.server.chat.tools import is_legacy, tools_of
from ossia.server.chat.types import ChatRequest, Reasoning, TemplateWishes
from ossia.server.service import Effort, Service
from ossia.server.stops import check_stops
from ossia.server.tools import Tools
from ossia.server.wire.errors import bad
from ossia.server.worker import Samples


@dataclass(frozen=True)
class ChatForm:
    """How the answer is to be written.

    `shows_reasoning`: or it is kept back. `preambles_are_content`: what is said on commentary
    stands with the answer, which it cannot where the answer has to be JSON. `is_legacy`: a call is
    a `function_call`.
    """

    model: str
    logprobs: bool = False
    shows_reasoning: bool = True
    preambles_are_content: bool = True
    is_legacy: bool = False


async def asks_of(
    request: ChatRequest, service: Service, caller: Caller
) -> tuple[list[Ask], ChatForm]:
    """Raises `ApiError` for what does not fit, naming the field."""
    model = service.check_model(request.model)
    check_refused(request)
    tools = tools_of(request, service.builtin)
    wanted, field = wanted_format(request)
    effort = effort_of(request, service)
    instructions, messages = harmony_messages(
        [message.model_dump() for message in request.messages],
        lambda call: service.thoughts_before(caller, call),
    )
    conversation = _conversation(instructions, messages, tools, wanted, effort)
    params, stop = sampling_of(request, service), _stops(request.stop)
    grammar = await service.grammar(tools, wanted, effort.budget, format_param=field)
    ask = Ask(
        conversation, params, tools, grammar, stop,
        logprobs=request.logprobs is True, cache_salt=request.cache_salt or "", samples=Samples(),
    )  # fmt: skip
    form = ChatForm(
        model=model,
        logprobs=ask.logprobs,
        shows_reasoning=request.include_reasoning is not False
        and (request.reasoning is None or request.reasoning.exclude is not True),
        preambles_are_content=wanted is None,
        is_legacy=is_legacy(request),
    )
    return [replace(ask, stream=n) for n in range(request.n or 1)], form


def _conversation(
    instructions: str | None,
    messages: tuple[Message, ...],
    tools: Tools,
    wanted: Any,
    effort: Effort,
) -> Conversation:
    today = date.today().isoformat()
    system = SystemContent(
        current_date=today,
        effort=effort.level,  # type: ignore[arg-type]
        namespaces=tools.system_namespaces,
    )
    developer = tools.developer(instructions, declared_format(wanted))
    first = [Message(Role.SYSTEM, system)]
    if developer is not None:
        first.append(Message(Role.DEVELOPER, developer))
    return Conversation((*first, *messages))


def effort_of(request: ChatRequest, service: Service) -> Effort:
    """Of all the places where clients put it, the first that says something."""
    nested, template = (
        request.reasoning or Reasoning(),
        request.chat_template_kwargs or TemplateWishes(),
    )
    word = request.reasoning_effort or nested.effort or template.reasoning_effort
    if word is None and (nested.enabled is False or template.enable_thinking is False):
        word = "none"
    effort = service.effort(word)
    budget = (
        nested.max_tokens
        if request.thinking_token_budget is None
        else request.thinking_token_budget
    )
    return effort if budget is None or effort.budget == 0 else replace(effort, budget=budget)


def sampling_of(request: ChatRequest, service: Service) -> SamplingParams:
    if request.top_logprobs and not request.logprobs:
        raise bad("top_logprobs needs logprobs: true", "top_logprobs")
    return service.sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=None if request.top_k is None else max(request.top_k, 0),
        min_p=request.min_p,
        seed=request.seed,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=_bias(request.logit_bias, service.tokenizer.vocab_size),
        top_logprobs=request.top_logprobs,
    )


def _bias(wire: Mapping[str, float] | None, vocabulary: int) -> dict[int, float] | None:
    if not wire:
        return None
    bias = {}
    for key, value in wire.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocabulary):
            raise bad(
                f"logit_bias: {key[:80]!r} is no token id; there are {vocabulary}", "logit_bias"
            )
        bias[int(key)] = value
    return bias


def _stops(stop: Any) -> tuple[str, ...]:
    """An empty string stops nothing."""
    listed = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        raise bad("stop must be a string or a list of strings", "stop")
    check_stops(listed, "stop")
    return tuple(text for text in listed if text)
