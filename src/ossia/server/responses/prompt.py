"""A Responses request as what is asked of the model: its items and those before them, tools,
format, conversation.

Knows wire types, the store's interface and Harmony's conversation; nothing of events or of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from ossia.errors import GrammarError
from ossia.harmony import (
    Conversation,
    Message,
    ResponseFormat,
    Role,
    SystemContent,
    body_format,
)
from ossia.server.access import Caller
from ossia.server.responses.input import Item, Reader, droppable, wire_items, without_first
from ossia.server.responses.tools import WireTools, wire_tools
from ossia.server.responses.types import PromptRequest
from ossia.server.sealing import Sealer
from ossia.server.service import Effort, Service
from ossia.server.wire.errors import ApiError, bad
from ossia.turn.targets import Grammars

UNFINISHED = ("queued", "in_progress")


@dataclass(frozen=True)
class TextFormat:
    """`wanted`: for the grammar, None: free text. `declared`: what the model is told of it."""

    echo: dict[str, Any]
    wanted: dict[str, Any] | None = None
    declared: tuple[ResponseFormat, ...] = ()

    @property
    def is_strict(self) -> bool:
        """Whether it is this or nothing. A schema that is not strict, and of objects, can be taken
        less seriously.
        """
        schema = (self.wanted or {}).get("schema")
        is_of_objects = isinstance(schema, Mapping) and schema.get("type", "object") == "object"
        return not is_of_objects or (self.wanted or {}).get("strict") is True


@dataclass(frozen=True)
class Prompt:
    """`history`: the items before this request; `input`: its own, with ids."""

    conversation: Conversation
    tools: WireTools
    format: TextFormat
    effort: Effort
    history: list[Item]
    input: list[Item]


async def read_prompt(
    service: Service,
    sealer: Sealer,
    find: Callable[[str], Item | None],
    body: PromptRequest,
    caller: Caller,
    *,
    max_output: int | None = None,
) -> Prompt:
    """`find`: items that an item_reference may mean. Raises `ApiError` naming the field that is
    wrong.
    """
    history = _history(service, body, caller)
    by_id = {item.get("id"): item for item in history}
    given = wire_items(body.input, lambda id: by_id.get(id) or find(id))
    tools = wire_tools(
        body.tools,
        body.tool_choice,
        body.parallel_tool_calls is True,
        service.builtin,
    )
    format = text_format(body.text.format if body.text is not None else None)
    effort = service.effort(body.reasoning.effort if body.reasoning is not None else None)
    system = SystemContent(
        current_date=date.today().isoformat(),
        effort=_level(effort),
        namespaces=tools.tools.system_namespaces,
    )

    def conversation(items: Sequence[Item], first: int) -> Conversation:
        before = "conversation" if body.conversation_id else "previous_response_id"
        reader = Reader(
            sealer, lambda call_id: service.thoughts_before(caller, call_id), first, before
        )
        reader.read(items)
        said = [text for text in (body.instructions, *reader.leading) if text]
        developer = tools.tools.developer("\n\n".join(said) or None, format.declared)
        head = [Message(Role.SYSTEM, system)]
        head += [] if developer is None else [Message(Role.DEVELOPER, developer)]
        return Conversation((*head, *reader.messages))

    items = [*history, *given]
    if not items and not body.instructions:
        raise bad("input is missing: there is nothing to answer", "input")
    whole = conversation(items, len(history))
    if body.truncation == "auto":
        whole = await _shortened(
            service, whole, items, lambda left: conversation(left, len(left)), max_output
        )
    return Prompt(whole, tools, format, effort, history, given)


def _level(effort: Effort) -> Any:
    return effort.level


def _history(service: Service, body: PromptRequest, caller: Caller) -> list[Item]:
    """The items that were said before, from the store."""
    id, conversation = body.previous_response_id, body.conversation_id
    if id and conversation:
        raise bad(
            "a request continues a response or a conversation, not both", "previous_response_id"
        )
    if conversation:
        if service.store.conversation(caller.name, conversation) is None:
            raise ApiError(
                404,
                f"there is no conversation {conversation!r}",
                param="conversation",
                code="not_found",
            )
        return service.store.items(caller.name, conversation)
    if not id:
        return []
    found = service.store.get(caller.name, id)
    if found is None:
        raise bad(
            f"there is no response {id!r}", "previous_response_id", "previous_response_not_found"
        )
    if found.response.get("status") in UNFINISHED:
        raise bad(f"response {id!r} is not finished yet", "previous_response_id")
    return [*found.history, *found.input, *found.response["output"]]


async def _shortened(
    service: Service,
    whole: Conversation,
    items: Sequence[Item],
    conversation: Callable[[Sequence[Item]], Conversation],
    max_output: int | None,
) -> Conversation:
    """The conversation without as few of its oldest items as leave room for an answer: for
    `max_output` tokens, or an eighth of the context, at most half of it. If that is not possible,
    without all that can go.
    """
    room = min(max_output or service.context // 8, service.context // 2)

    async def fits(candidate: Conversation) -> bool:
        return len(await service.answerer.prompt_ids(candidate)) + room <= service.context

    few, many = 0, len(droppable(items))
    if many == 0 or await fits(whole):
        return whole
    while few + 1 < many:  # `few` is too few
        middle = (few + many) // 2
        if await fits(conversation(without_first(items, middle))):
            many = middle
        else:
            few = middle
    return conversation(without_first(items, many))


# ---- the answer's form ----


def text_format(format: Mapping[str, Any] | None) -> TextFormat:
    kind = "text" if format is None else format.get("type")
    if format is None or kind == "text":
        return TextFormat({"type": "text"})
    echo = dict(format)
    if kind in ("json_object", "regex", "grammar"):  # the last two are beyond the API
        try:
            body_format(echo)
        except GrammarError as error:
            raise bad(f"text.format: {error}", "text.format") from error
        return TextFormat(echo, echo)
    if kind != "json_schema":
        raise bad(
            f"text.format.type is text, json_object or json_schema, not {kind!r}",
            "text.format.type",
        )
    inner = format.get("json_schema")
    inner = inner if isinstance(inner, Mapping) else format  # as Chat Completions has it
    schema, name, said = (
        inner.get("schema"),
        inner.get("name", "response"),
        inner.get("description"),
    )
    if not isinstance(schema, Mapping | bool):
        raise bad("text.format.schema must be a JSON schema", "text.format.schema")
    if not isinstance(name, str) or not (said is None or isinstance(said, str)):
        raise bad("text.format: name and description are strings", "text.format")
    strict = inner.get("strict") is True
    echo = {
        "type": "json_schema",
        "name": name,
        "schema": schema,
        "description": said,
        "strict": strict,
    }
    return TextFormat(echo, echo, (ResponseFormat(name, schema, said),))


async def grammar_of(service: Service, prompt: Prompt) -> Grammars | None:
    """What samples are held to. Of a schema that cannot be enforced, and is not strict, any object
    is taken.
    """
    wanted, tools, budget = prompt.format.wanted, prompt.tools.tools, prompt.effort.budget
    try:
        return await service.grammar(tools, wanted, budget, format_param="text.format")
    except ApiError as error:
        if error.param != "text.format" or prompt.format.is_strict:
            raise
    return await service.grammar(tools, {"type": "json_object"}, budget, format_param="text.format")
