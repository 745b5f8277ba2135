"""A Responses request as what is asked of the model: its items and those before them, tools,
format, conversation.

Knows wire types, the store's interface and Harmony's conversation; nothing of events or of HTTP.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ossia.harmony import Conversation, Message, Role, SystemContent
from ossia.server.access import Caller
from ossia.server.hosted.approvals import ApprovalError, Approvals, AskedFor
from ossia.server.hosted.attached import Attached
from ossia.server.hosted.containers import attached_to
from ossia.server.hosted.mcp import McpVisit, with_files
from ossia.server.responses.input import (
    Item,
    Reader,
    droppable,
    references,
    wire_items,
    without_first,
)
from ossia.server.responses.tool_input import asked_for
from ossia.server.responses.tools import WireTools, wire_tools
from ossia.server.responses.types import PromptRequest
from ossia.server.sealing import Sealer, SealError, log_unopened
from ossia.server.service import Effort, Service
from ossia.server.wire.calls import call_ids
from ossia.server.wire.conversation import continued, conversation_of
from ossia.server.wire.errors import ApiError, bad
from ossia.server.wire.fields import At
from ossia.server.wire.format import AnswerFormat, answer_format
from ossia.tools.kinds import ITEMS
from ossia.tools.mcp import RequestedServer
from ossia.tools.mcp.config import label_of
from ossia.turn import Approved

UNFINISHED = ("queued", "in_progress")


@dataclass(frozen=True)
class Prompt:
    """`history`: the items before this request; `input`: its own, with ids. `items`: all, as the
    model reads them; `read`: others in their place. `thread`: what it goes on with: the first
    response of the chain, or the conversation; "": nothing. `approved`, `listed`, `pages`,
    `opening`: see `Reading`. `mcp`: the servers that the tools need. `attached`: files for the
    container of its code. `is_triggered`: nothing but a
    summary is wanted.
    """

    conversation: Conversation
    tools: WireTools
    format: AnswerFormat
    effort: Effort
    history: list[Item]
    input: list[Item]
    thread: str = ""
    pages: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    approved: tuple[Approved, ...] = ()
    listed: frozenset[str] = frozenset()
    items: list[Item] = field(default_factory=list)
    read: Callable[[Sequence[Item]], Reading] | None = None
    mcp: McpVisit = field(default_factory=McpVisit)
    is_triggered: bool = False
    opening: Message | None = None
    attached: Attached = field(default_factory=Attached)


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


@dataclass(frozen=True)
class Reading:
    """Items as a conversation. `approved`: its calls that are run before anything is sampled;
    `listed`: namespaces of MCP servers whose tools the client knows; `pages`: that the browser
    showed before, by cursor: URL and title. `opening`: the message that the answer goes on with.
    """

    conversation: Conversation
    approved: tuple[Approved, ...]
    listed: frozenset[str]
    pages: Mapping[int, tuple[str, str]]
    opening: Message | None


@dataclass(frozen=True)
class Earlier:
    """Answers that a request may go on with without naming them. `find`: the item that an
    item_reference means. `thread`: the one that the answer with an item belongs to; "": none.
    """

    find: Callable[[str], Awaitable[Item | None]]
    thread: Callable[[str], Awaitable[str]]

    async def items(self, ids: Iterable[str]) -> dict[str, Item]:
        """Those that there are."""
        found = {}
        for id in ids:
            item = await self.find(id)
            if item is not None:
                found[id] = item
        return found


async def read_prompt(
    service: Service,
    sealer: Sealer,
    earlier: Earlier,
    body: PromptRequest,
    caller: Caller,
    *,
    max_output: int | None = None,
) -> Prompt:
    """Raises `ApiError` naming the field that is wrong. The prompt's `mcp` is to be closed."""
    history, thread = await _history(service, body, caller)
    by_id = {str(item.get("id")): item for item in history}
    wanted = [id for id in references(body.input) if id not in by_id]
    given = wire_items(body.input, (by_id | await earlier.items(wanted)).get)
    thread = thread or await _thread_of(given, earlier)
    is_triggered = _is_triggered(given)
    if is_triggered:
        given = given[:-1]
    mcp = await service.mcp.visit(body.tools, caller.limits)
    try:
        tools = wire_tools(
            body.tools,
            body.tool_choice,
            body.parallel_tool_calls is True,
            service.tools_for(caller),
            mcp,
        )
        if service.containers is not None:
            tools = replace(tools, tools=with_files(tools.tools, service.containers))
        draft = Prompt(
            Conversation(()),
            tools,
            _format(body),
            service.effort(None),
            history,
            given,
            thread,
            mcp=mcp,
            is_triggered=is_triggered,
            attached=attached_to(service, caller, tools.tools),
        )
        return await _read(service, sealer, body, caller, draft, max_output)
    except BaseException:
        mcp.close()
        raise


async def _read(
    service: Service,
    sealer: Sealer,
    body: PromptRequest,
    caller: Caller,
    draft: Prompt,
    max_output: int | None,
) -> Prompt:
    """The draft with what its items say."""
    history = draft.history
    word = body.reasoning.effort if body.reasoning is not None else None
    seals = _Seals(sealer)
    approvals = Approvals(sealer)
    remembered = await service.thoughts.before(caller.name, call_ids((*history, *draft.input)))

    def read(items: Sequence[Item], first: int) -> Reading:
        before = "conversation" if body.conversation_id else "previous_response_id"
        reader = Reader(seals.open, lambda id: remembered.get(id, ()), first, before)
        reader.read(items)
        instructions = "\n\n".join(filter(None, (body.instructions, *reader.leading)))
        approved = _approved(reader, draft.tools, approvals)
        messages, opening = _opened(body, reader.messages)
        conversation = conversation_of(
            messages,
            effort=service.effort(word, instructions).level,
            instructions=instructions or None,
            tools=draft.tools.tools,
            format=draft.format,
        )
        return Reading(conversation, approved, frozenset(reader.listed), reader.pages, opening)

    items = await _items(service, body, caller, draft)
    reading = read(items, len(history))
    seals.log(items)
    if body.truncation == "auto":
        reading = await shortened(
            service, reading, items, lambda left: read(left, len(left)), max_output
        )
    (system,) = reading.conversation.contents(SystemContent)
    assert system.effort is not None
    effort = replace(service.effort(word), level=system.effort)
    return replace(
        draft,
        conversation=reading.conversation,
        effort=effort,
        approved=reading.approved,
        listed=reading.listed,
        pages=reading.pages,
        opening=reading.opening,
        items=items,
        read=lambda left: read(left, len(left)),
    )


async def _items(
    service: Service, body: PromptRequest, caller: Caller, draft: Prompt
) -> list[Item]:
    """History and input, with the texts of the files that they name."""
    named = (draft.history, draft.input, body.tools)
    await service.fleet.bring(service.uploads, caller.name, named)
    visit = service.documents.visit(draft.attached)
    items = [
        *await visit.read(draft.history, "previous_response_id", are_kept=True),
        *await visit.read(draft.input, "input"),
    ]
    if not items and not body.instructions:
        raise bad("input is missing: there is nothing to answer", "input")
    return items


def _opened(
    body: PromptRequest, messages: Sequence[Message]
) -> tuple[tuple[Message, ...], Message | None]:
    """The messages, and the last one apart if the answer goes on with it."""
    if not body.continue_final_message:
        return tuple(messages), None
    return continued(messages)


def _is_triggered(given: Sequence[Item]) -> bool:
    """Whether the input ends with the wish for a summary. Raises `ApiError` for one elsewhere."""
    places = [n for n, item in enumerate(given) if item["type"] == "compaction_trigger"]
    if places and places[0] != len(given) - 1:
        path = f"input[{places[0]}]"
        raise bad(f"{path} is a compaction_trigger: it must be the last item", path)
    return bool(places)


def _approved(reader: Reader, tools: WireTools, approvals: Approvals) -> tuple[Approved, ...]:
    """The calls to be run. One of a tool that is not among the request's is told the model as such:
    an approval gives no tool that the request does not declare. Raises `ApiError` for a request
    that this caller was not sent.
    """
    servers = [tool for tool in tools.tools.builtin if isinstance(tool, RequestedServer)]
    found: list[Approved] = []
    for wanted in reversed(reader.wanted):
        asked = wanted.request
        call = asked_for(asked)
        digest = _digest(asked["id"], call, approvals)
        message = reader.messages[wanted.place]
        space = label_of(call.label)
        server = next((each for each in servers if each.namespace.name == space), None)
        function = None if server is None else server.function(call.name)
        if server is None or function is None:
            text = f"error: there is no tool {call.name!r:.80} of {call.label!r:.80} now"
            told = Message(Role.TOOL, text, message.recipient, "commentary", "assistant")
            reader.messages.insert(wanted.place + 1, told)
            continue
        tool = server.approving(digest)
        id = asked["id"].text()
        found.append(Approved(message, tool, function, id))
    return tuple(reversed(found))


def _digest(id: At, call: AskedFor, approvals: Approvals) -> str:
    try:
        return approvals.digest(id.text(), call)
    except ApprovalError as error:
        raise id.wrong(
            "is not of a call that this server asked you about, or the call was changed since; "
            "without --secret-file a restart makes ids worthless, too",
            "approval_not_found",
        ) from error


def _format(body: PromptRequest) -> AnswerFormat:
    wanted = None
    if body.text is not None:
        wanted = body.text.format
    return answer_format(At(wanted, "text.format"))


async def _history(service: Service, body: PromptRequest, caller: Caller) -> tuple[list[Item], str]:
    """The earlier items, from the store, and the thread that they are from."""
    id = body.previous_response_id
    conversation = body.conversation_id
    if id and conversation:
        raise bad(
            "a request continues a response or a conversation, not both", "previous_response_id"
        )
    if conversation:
        if await service.store.conversation(caller.name, conversation) is None:
            raise ApiError(
                404,
                f"there is no conversation {conversation!r}",
                param="conversation",
                code="not_found",
            )
        return await service.store.items(caller.name, conversation), conversation
    if not id:
        return [], ""
    found = await service.store.get(caller.name, id)
    if found is None:
        raise bad(
            f"there is no response {id!r}", "previous_response_id", "previous_response_not_found"
        )
    if found.response.get("status") in UNFINISHED:
        raise bad(f"response {id!r} is not finished yet", "previous_response_id")
    items = [*found.history, *found.input, *found.response["output"]]
    return items, found.thread or id


async def _thread_of(given: Sequence[Item], earlier: Earlier) -> str:
    """That of the last call that we ran, for clients that send the items of stored answers."""
    for item in reversed(given):
        if item["type"] in ITEMS:
            return await earlier.thread(item["id"])
    return ""


async def shortened(
    service: Service,
    whole: Reading,
    items: Sequence[Item],
    read: Callable[[Sequence[Item]], Reading],
    max_output: int | None,
) -> Reading:
    """The conversation with as few of its oldest items left out as make room for an answer: for
    `max_output` tokens, or an eighth of the context, at most half of it. If that is not enough, all
    that can be left out are.
    """
    room = min(max_output or service.context // 8, service.context // 2)

    async def fits(candidate: Reading) -> bool:
        ids = await service.answerer.prompt_ids(candidate.conversation)
        return len(ids) + room <= service.context

    few = 0
    many = len(droppable(items))
    if many == 0 or await fits(whole):
        return whole
    while few + 1 < many:  # `few` is too few
        middle = (few + many) // 2
        if await fits(read(without_first(items, middle))):
            many = middle
        else:
            few = middle
    return read(without_first(items, many))
