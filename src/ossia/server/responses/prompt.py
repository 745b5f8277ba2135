"""A Responses request as what is asked of the model: its items and those before them, tools,
format, conversation.

Knows wire types, the store's interface and Harmony's conversation; nothing of events or of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ossia.harmony import Conversation, SystemContent
from ossia.server.access import Caller
from ossia.server.responses.input import Item, Reader, droppable, wire_items, without_first
from ossia.server.responses.tools import WireTools, wire_tools
from ossia.server.responses.types import PromptRequest
from ossia.server.sealing import Sealer, SealError, log_unopened
from ossia.server.service import Effort, Service
from ossia.server.wire.conversation import conversation_of
from ossia.server.wire.errors import ApiError, bad
from ossia.server.wire.fields import At
from ossia.server.wire.format import AnswerFormat, answer_format

UNFINISHED = ("queued", "in_progress")


@dataclass(frozen=True)
class Prompt:
    """`history`: the items before this request; `input`: its own, with ids. `thread`: what it goes
    on with: the first response of the chain, or the conversation; "": nothing. `pages`: that the
    browser showed before, by cursor: URL and title.
    """

    conversation: Conversation
    tools: WireTools
    format: AnswerFormat
    effort: Effort
    history: list[Item]
    input: list[Item]
    thread: str = ""
    pages: Mapping[int, tuple[str, str]] = field(default_factory=dict)


class _Seals:
    """Of one request. Each is opened once: to leave out items, a conversation is read several
    times.
    """

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._texts: dict[str, str] = {}
        self._errors: dict[str, SealError] = {}

    def open(self, sealed: str) -> str:
        """The text; empty if it cannot be opened."""
        if sealed not in self._texts:
            self._texts[sealed] = ""
            try:
                self._texts[sealed] = self._sealer.open(sealed)
            except SealError as error:
                self._errors[sealed] = error
        return self._texts[sealed]

    def log(self, items: Sequence[Item]) -> None:
        """What of the items stays closed."""
        given = [str(item.get("encrypted_content")) for item in items]
        log_unopened([self._errors[seal] for seal in given if seal in self._errors])


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
    history, thread = _history(service, body, caller)
    by_id = {item.get("id"): item for item in history}
    given = wire_items(body.input, lambda id: by_id.get(id) or find(id))
    tools = wire_tools(
        body.tools,
        body.tool_choice,
        body.parallel_tool_calls is True,
        service.tools_for(caller),
    )
    format = _format(body)
    word = body.reasoning.effort if body.reasoning is not None else None

    seals = _Seals(sealer)
    pages: dict[int, tuple[str, str]] = {}

    def conversation(items: Sequence[Item], first: int) -> Conversation:
        before = "conversation" if body.conversation_id else "previous_response_id"
        reader = Reader(
            seals.open, lambda call_id: service.thoughts_before(caller, call_id), first, before
        )
        reader.read(items)
        pages.update(reader.pages)
        instructions = "\n\n".join(filter(None, (body.instructions, *reader.leading)))
        return conversation_of(
            reader.messages,
            effort=service.effort(word, instructions).level,
            instructions=instructions or None,
            tools=tools.tools,
            format=format,
        )

    visit = service.documents.visit()
    items = [
        *await visit.read(history, "previous_response_id"),
        *await visit.read(given, "input"),
    ]
    if not items and not body.instructions:
        raise bad("input is missing: there is nothing to answer", "input")
    whole = conversation(items, len(history))
    seals.log(items)
    if body.truncation == "auto":
        whole = await _shortened(
            service, whole, items, lambda left: conversation(left, len(left)), max_output
        )
    (system,) = whole.contents(SystemContent)
    assert system.effort is not None
    effort = replace(service.effort(word), level=system.effort)
    return Prompt(whole, tools, format, effort, history, given, thread, pages)


def _format(body: PromptRequest) -> AnswerFormat:
    wanted = None
    if body.text is not None:
        wanted = body.text.format
    return answer_format(At(wanted, "text.format"))


def _history(service: Service, body: PromptRequest, caller: Caller) -> tuple[list[Item], str]:
    """The earlier items, from the store, and the thread that they are from."""
    id = body.previous_response_id
    conversation = body.conversation_id
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
        return service.store.items(caller.name, conversation), conversation
    if not id:
        return [], ""
    found = service.store.get(caller.name, id)
    if found is None:
        raise bad(
            f"there is no response {id!r}", "previous_response_id", "previous_response_not_found"
        )
    if found.response.get("status") in UNFINISHED:
        raise bad(f"response {id!r} is not finished yet", "previous_response_id")
    return [*found.history, *found.input, *found.response["output"]], found.thread or id


async def _shortened(
    service: Service,
    whole: Conversation,
    items: Sequence[Item],
    conversation: Callable[[Sequence[Item]], Conversation],
    max_output: int | None,
) -> Conversation:
    """The conversation with as few of its oldest items left out as make room for an answer: for
    `max_output` tokens, or an eighth of the context, at most half of it. If that is not enough, all
    that can be left out are.
    """
    room = min(max_output or service.context // 8, service.context // 2)

    async def fits(candidate: Conversation) -> bool:
        return len(await service.answerer.prompt_ids(candidate)) + room <= service.context

    few = 0
    many = len(droppable(items))
    if many == 0 or await fits(whole):
        return whole
    while few + 1 < many:  # `few` is too few
        middle = (few + many) // 2
        if await fits(conversation(without_first(items, middle))):
            many = middle
        else:
            few = middle
    return conversation(without_first(items, many))
