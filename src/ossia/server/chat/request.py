"""A Chat Completions request -> what the answerer is asked: one `AnswerRequest` for each of its
choices.

Knows which fields say what, the deprecated `functions` and the names under which vLLM's clients ask
for a format; what tools, formats and sampling fields look like is wire/'s. Nothing of HTTP.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ossia.engine.request import SamplingParams
from ossia.harmony import Conversation, Message
from ossia.server.access import Caller
from ossia.server.answer import AnswerRequest
from ossia.server.chat.messages import harmony_messages
from ossia.server.chat.types import ChatRequest, Reasoning, TemplateWishes
from ossia.server.hosted.containers import attached_to
from ossia.server.service import Effort, Service
from ossia.server.wire.calls import call_ids
from ossia.server.wire.conversation import continued, conversation_of
from ossia.server.wire.errors import bad
from ossia.server.wire.fields import At
from ossia.server.wire.format import FREE_TEXT, AnswerFormat, answer_format
from ossia.server.wire.hosted import check_allowed
from ossia.server.wire.sampling import check_prompt_logprobs
from ossia.server.wire.tools import ToolReader, with_choice
from ossia.server.worker import Samples
from ossia.tools import Tool
from ossia.tools.kinds import BROWSER
from ossia.tools.toolbox import Toolbox, ToolChoice

STRUCTURED = ("json", "json_object", "regex", "choice", "grammar")  # of `structured_outputs`
GUIDED = ("json", "regex", "choice", "grammar")  # of `guided_...`


@dataclass(frozen=True)
class ChatForm:
    """How the answer is to be written.

    `shows_reasoning`: whether reasoning is sent at all. `preambles_are_content`: messages on the
    commentary channel are part of the content; false if the content has to be JSON, which they
    would break. `is_legacy`: a call is a `function_call`. `token_ids`: whether those of prompt and
    answer are told.
    """

    model: str
    logprobs: bool = False
    shows_reasoning: bool = True
    preambles_are_content: bool = True
    is_legacy: bool = False
    token_ids: bool = False


@dataclass(frozen=True)
class ChatPrompt:
    """What the answers start from. `opening`: the message that they go on with."""

    conversation: Conversation
    tools: Toolbox
    format: AnswerFormat
    effort: Effort
    opening: Message | None


async def prompt_of(request: ChatRequest, service: Service, caller: Caller) -> ChatPrompt:
    """Raises `ApiError` naming the field that is wrong."""
    request.check_supported()
    check_prompt_logprobs(request.prompt_logprobs, request.stream)
    allowed = service.tools_for(caller)
    check_allowed(_declared(request), service.builtin, allowed)
    tools = tools_of(request, allowed)
    wanted = wanted_format(request)
    given = [message.model_dump() for message in request.messages]
    await service.fleet.bring(service.uploads, caller.name, given)
    visit = service.documents.visit(attached_to(service, caller))
    read = await visit.read(given, "messages")
    remembered = await service.thoughts.before(caller.name, call_ids(read))
    instructions, messages = harmony_messages(read, lambda id: remembered.get(id, ()))
    opening = None
    if request.continue_final_message:
        if request.add_generation_prompt:
            why = "cannot be true with add_generation_prompt, which begins a message"
            raise bad(f"continue_final_message {why}", "continue_final_message")
        messages, opening = continued(messages)
    elif request.add_generation_prompt is False:
        why = "must be true, or the model would not know that it is to answer"
        raise bad(f"add_generation_prompt {why}", "add_generation_prompt", "unsupported_parameter")
    template = request.chat_template_kwargs or TemplateWishes()
    effort = effort_of(request, service, instructions)
    conversation = conversation_of(
        messages,
        effort=effort.level,
        instructions=instructions,
        tools=tools,
        format=wanted,
        identity=template.model_identity,
    )
    return ChatPrompt(conversation, tools, wanted, effort, opening)


async def asks_of(
    request: ChatRequest, service: Service, caller: Caller
) -> tuple[list[AnswerRequest], ChatForm]:
    """Raises `ApiError` naming the field that is wrong."""
    model = service.check_model(request.model)
    prompt = await prompt_of(request, service, caller)
    params = sampling_of(request, service)
    grammar = await service.grammar(
        prompt.tools,
        prompt.format,
        prompt.effort.budget,
        lambda: service.check_prompt(prompt.conversation, params, opening=prompt.opening),
        holds_on=request.holds_on,
    )
    ask = AnswerRequest(
        prompt.conversation,
        params,
        prompt.tools,
        grammar,
        request.stop,
        logprobs=request.logprobs is True,
        cache_salt=request.cache_salt or "",
        samples=Samples(),
        opening=prompt.opening,
    )
    nested = request.reasoning or Reasoning()
    hides_reasoning = nested.exclude is True or request.include_reasoning is False
    form = ChatForm(
        model=model,
        logprobs=ask.logprobs,
        shows_reasoning=not hides_reasoning,
        preambles_are_content=prompt.format.wanted is None,
        is_legacy=is_legacy(request),
        token_ids=request.return_token_ids is True,
    )
    choices = request.n or 1
    return [replace(ask, stream=n) for n in range(choices)], form


def effort_of(request: ChatRequest, service: Service, instructions: str | None) -> Effort:
    """The first that is given, of the places where clients put it."""
    nested = request.reasoning or Reasoning()
    template = request.chat_template_kwargs or TemplateWishes()
    word = request.reasoning_effort or nested.effort or template.reasoning_effort
    is_off = nested.enabled is False or template.enable_thinking is False
    if word is None and is_off:
        word = "none"
    effort = service.effort(word, instructions)
    budgets = (
        request.thinking_token_budget,
        request.reasoning_budget,
        request.thinking_budget_tokens,
        nested.max_tokens,
    )
    budget = next((given for given in budgets if given is not None), -1)
    if budget < 0 or effort.budget == 0:
        return effort
    return replace(effort, budget=budget)


def sampling_of(request: ChatRequest, service: Service) -> SamplingParams:
    if request.top_logprobs and not request.logprobs:
        raise bad("top_logprobs needs logprobs: true", "top_logprobs")
    return service.sampling(
        request,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        top_logprobs=request.top_logprobs,
    )


# ---- tools ----


def tools_of(request: ChatRequest, builtin: Mapping[str, Tool]) -> Toolbox:
    """`builtin`: tools that the server runs itself. Raises `ApiError` naming the wrong tool."""
    reader = ToolReader(builtin).read(_declared(request))
    if request.web_search_options is not None:
        if BROWSER.name not in builtin:
            why = "web search is not switched on at this server"
            raise bad(why, "web_search_options", "unsupported_parameter")
        options = {**request.web_search_options, "type": BROWSER.name}
        reader.read([At(options, "web_search_options")])
    tools = reader.tools(parallel=request.parallel_tool_calls is True)
    if request.tool_choice is None and request.function_call is not None:
        return replace(tools, choice=_legacy_choice(request.function_call))
    return with_choice(tools, At(request.tool_choice, "tool_choice"))


def is_legacy(request: ChatRequest) -> bool:
    """Whether the client sent `functions`, and expects a `function_call` in the answer."""
    return bool(request.functions) and not request.tools


def _declared(request: ChatRequest) -> Iterator[At]:
    yield from At(request.tools or [], "tools").items()
    for function in At(request.functions or [], "functions").items():
        yield At({**function.value, "type": "function"}, function.path)


def _legacy_choice(choice: Any) -> ToolChoice:
    match choice:
        case "auto" | "none":
            return ToolChoice(choice)
        case {"name": str(name)}:
            return ToolChoice("required", (name,))
    raise bad('function_call must be none, auto or {"name": ...}', "function_call")


# ---- format ----


def wanted_format(request: ChatRequest) -> AnswerFormat:
    """The one format that is asked for, under whatever name. Raises `ApiError` if there are two."""
    found = list(_formats(request))
    if len(found) > 1:
        fields = [format.field for format in found]
        named = " and ".join(fields)
        raise bad(f"only one format can be asked for, not {named}", fields[1])
    if not found:
        return FREE_TEXT
    return found[0]


def _formats(request: ChatRequest) -> Iterator[AnswerFormat]:
    format = answer_format(At(request.response_format, "response_format"), nested=True)
    if format.wanted is not None:
        yield format
    structured = At(request.structured_outputs, "structured_outputs")
    for name in STRUCTURED:
        at = structured[name]
        if at.value not in (None, False):
            yield _of_vllm(name, at)
    for name in GUIDED:
        field = f"guided_{name}"
        at = At(getattr(request, field), field)
        if at.value is not None:
            yield _of_vllm(name, at)


def _of_vllm(name: str, at: At) -> AnswerFormat:
    """vLLM's forms. They promise the format, so they are always strict."""
    match name, at.value:
        case "json", str(text):
            try:
                schema = json.loads(text)
            except ValueError as error:
                raise at.wrong(f"is not valid JSON: {error}", "invalid_schema") from error
            return _of_schema(at, schema)
        case "json", schema:
            return _of_schema(at, schema)
        case "json_object", True:
            wanted = {"type": "json_object"}
        case "regex", str(pattern):
            wanted = {"type": "regex", "pattern": pattern}
        case "choice", [*choices] if choices and all(isinstance(each, str) for each in choices):
            pattern = "|".join(map(_escaped, choices))
            wanted = {"type": "regex", "pattern": pattern}
        case "grammar", str(grammar):
            wanted = {"type": "grammar", "syntax": "lark", "definition": grammar}
        case _:
            raise at.wrong(f"does not have the form of a {name}")
    return AnswerFormat(at.path, wanted)


def _of_schema(at: At, schema: Any) -> AnswerFormat:
    wanted = At({"type": "json_schema", "schema": schema}, at.path)
    return answer_format(wanted)


def _escaped(text: str) -> str:
    """As a pattern, in the syntax that Python and ECMAScript share."""
    return re.sub(r"[\\^$.*+?()[\]{}|/]", r"\\\g<0>", text)
