"""Input items of the Responses API: how they are kept, and the Harmony messages that they stand
for.

Knows wire items and messages; nothing of tools' schemas, of engines or of HTTP. Every complaint
names the item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from ossia.harmony import DeveloperContent, Message, Role
from ossia.harmony.messages import FUNCTIONS
from ossia.server.hosted.told import cited_pages, marked_part, told_by
from ossia.server.responses.tool_input import READERS, Related, Said
from ossia.server.store.tables import PREFIXES
from ossia.server.wire.content import result_part, text_of
from ossia.server.wire.fields import At
from ossia.tools.kinds import ITEMS
from ossia.turn.events import new_id

Item = dict[str, Any]
READ = tuple(PREFIXES)
CALLS = (
    "function_call",
    "custom_tool_call",
    "apply_patch_call",
    "shell_call",
    "local_shell_call",
)
KEPT = ("user", "system", "developer")  # roles of messages before a summary that stay
SUMMARY = "Summary of the conversation so far: "
UNREADABLE = "(it was written for another server, and cannot be read)"
NO_STATUS = (
    "reasoning",
    "compaction",
    "compaction_trigger",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
)
OUTPUTS = (
    "function_call_output",
    "custom_tool_call_output",
    "apply_patch_call_output",
    "shell_call_output",
    "local_shell_call_output",
)
APPROVALS = ("mcp_approval_response", "mcp_call")
ROLES = ("user", "assistant", "system", "developer")


# ---- how items are kept ----


def wire_items(wanted: Any, find: Callable[[str], Item | None]) -> list[Item]:
    """A request's input as items with types and ids. `find` looks up an item_reference. Raises
    `ApiError` for a value that is not an item; `Reader` checks the contents.
    """
    if wanted is None:
        return []
    if isinstance(wanted, str):
        return [
            _with_id(
                {
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": wanted}],
                }
            )
        ]
    items: list[Item] = []
    before: dict[str, Item] = {}  # by id
    referred: set[str] = set()
    for at in At(wanted, "input").items("a string or a list of items"):
        item = _item(at.object(), before, referred, find)
        items.append(item)
        before.setdefault(item["id"], item)
    return items


def references(wanted: Any) -> list[str]:
    """The ids of the items that a request's input only names, each once."""
    found: dict[str, None] = {}
    for item in wanted if isinstance(wanted, list) else ():
        if isinstance(item, Mapping) and isinstance(item.get("id"), str) and _is_reference(item):
            found[item["id"]] = None
    return list(found)


def _is_reference(item: Mapping[str, Any]) -> bool:
    kind = item.get("type")
    return kind == "item_reference" or (not kind and "role" not in item)


def _item(
    at: At,
    before: Mapping[str, Item],
    referred: set[str],
    find: Callable[[str], Item | None],
) -> Item:
    kind = at["type"].text("message" if "role" in at else "")
    if kind == "item_reference" or (not kind and isinstance(at["id"].value, str)):
        return _referred(at, before, referred, find)
    if kind not in READ:
        raise at.wrong(f"is of type {kind!r:.80}; this server reads {', '.join(READ)}")
    return _with_id({**at.value, "type": kind})


def _referred(
    at: At,
    before: Mapping[str, Item],
    referred: set[str],
    find: Callable[[str], Item | None],
) -> Item:
    """Each item once: a few bytes must not stand for any number of long texts."""
    id = at["id"].value
    if isinstance(id, str):
        if id in referred:
            raise at.wrong(f"names {id!r:.80} again: an item can be referred to once")
        referred.add(id)
        found = before.get(id) or find(id)
        if found is not None:
            return found
    raise at.wrong(
        f"names {id!r:.80}, an item that this server does not have; send the item itself"
    )


def _with_id(item: Item) -> Item:
    """The item as it is listed later."""
    if not (isinstance(item.get("id"), str) and item["id"]):
        item["id"] = new_id(PREFIXES[item["type"]])
    if item["type"] not in NO_STATUS and item.get("status") is None:
        item["status"] = "completed"
    if item["type"] == "message" and isinstance(item.get("content"), str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        part = {"type": kind, "text": item["content"]}
        item["content"] = [
            part | {"annotations": [], "logprobs": []} if kind == "output_text" else part
        ]
    return item


# ---- what they mean ----


class Reader(Said):
    """Items to messages, in order."""

    def read(self, items: Sequence[Item]) -> None:
        """Raises `ApiError` naming the item that cannot be read."""
        self.answered = {str(item.get("call_id")) for item in items if item["type"] in OUTPUTS}
        places = [
            At(item, f"input[{n - self.first}]" if n >= self.first else self.before)
            for n, item in enumerate(items)
        ]
        summaries = [n for n, item in enumerate(items) if item["type"] == "compaction"]
        start = summaries[-1] if summaries else 0
        self.related = Related.of(places[start:])
        for n, at in enumerate(places):
            item = at.value
            if n < start and not is_kept(item):
                continue
            match item["type"]:
                case "message":
                    self._message(at, _calls_follow(items, n))
                case "reasoning":
                    self._reasoning(at)
                case "function_call" | "custom_tool_call":
                    is_answered = str(item.get("call_id")) in self.answered
                    if item.get("status") != "incomplete" or is_answered:
                        self._call(at)
                case "function_call_output" | "custom_tool_call_output":
                    self._output(at)
                case "compaction":
                    sealed = at["encrypted_content"].text()
                    text = self.open(sealed) or UNREADABLE
                    self.add(Message(Role.USER, SUMMARY + text))
                case kind if kind in READERS:
                    READERS[kind](self, at)
                case _:
                    self._hosted_call(item)

    def _message(self, item: At, calls_follow: bool) -> None:
        text = text_of(item["content"])
        match item["role"].one_of(*ROLES):
            case "assistant":
                text = text_of(item["content"], read=marked_part)
                self.pages |= cited_pages(item["content"].value)
                phase = item["phase"].value
                is_preamble = calls_follow if phase is None else phase == "commentary"
                channel = "commentary" if is_preamble else "final"
                self.add(Message(Role.ASSISTANT, text, channel=channel))
            case "user":
                self.add(Message(Role.USER, text))
            case _ if not self.messages:
                self.leading.append(text)
            case _:
                self.add(Message(Role.DEVELOPER, DeveloperContent(text)))

    def _reasoning(self, item: At) -> None:
        """The plain text, else the sealed one. A summary alone is not shown to the model. What
        another server sealed, or an older secret, is left out: it would end the conversation.
        """
        content = item["content"]
        sealed = item["encrypted_content"]
        text = text_of(content, "\n\n") if content.value else ""
        if not text and isinstance(sealed.value, str) and sealed.value:
            text = self.open(sealed.value)
        if text:
            self.add(Message(Role.ASSISTANT, text, channel="analysis"))

    def _call(self, item: At) -> None:
        is_function = item["type"].value == "function_call"
        name = item["name"].word()
        call_id = item["call_id"].word()
        body = item["arguments" if is_function else "input"].text()
        self.called(f"{_namespace(item)}.{name}", body, call_id, is_json=is_function)

    def _output(self, item: At) -> None:
        call_id = item["call_id"]
        name = item["name"].value
        id = call_id.value
        if not (id or name) and len(self.open_calls) == 1:
            id = next(iter(self.open_calls))  # it can be no other's
        recipient = None
        if isinstance(id, str):
            recipient = self.callees.get(id)
            self.open_calls.pop(id, None)
        if recipient is None and isinstance(name, str) and name:
            recipient = f"{_namespace(item)}.{name}"
        if recipient is None:
            raise call_id.wrong(f"is {call_id.value!r:.80}: no call before it has this call_id")
        self.told(recipient, _result(item["output"]))

    def _hosted_call(self, item: Item) -> None:
        """What one of the server's tools did; left out as far as the item does not tell it."""
        found = told_by(item, self.open)
        self.messages += found.messages
        self.pages |= found.pages
        self.hosted |= not found.is_whole


def is_kept(item: Item) -> bool:
    """Whether an item stays when a summary takes the place of what came before it."""
    return item["type"] == "message" and item.get("role") in KEPT


def _namespace(item: At) -> str:
    space = item["namespace"].value
    return space if isinstance(space, str) and space else FUNCTIONS


def _calls_follow(items: Sequence[Item], n: int) -> bool:
    """Whether a message of the assistant without a phase is a preamble: calls, or reasoning and
    calls, come next.
    """
    for at in range(n + 1, len(items)):
        if items[at]["type"] != "reasoning":
            return items[at]["type"] in CALLS + ITEMS
    return False


def _result(output: At) -> str:
    """What a tool answered."""
    if output.value is None:
        raise output.wrong("is missing")
    if isinstance(output.value, str | list):
        return text_of(output, "\n", result_part)
    return orjson.dumps(output.value).decode()


# ---- what can be left out ----


def droppable(items: Sequence[Item]) -> list[int]:
    """Indexes of the items that `truncation: auto` may leave out, the oldest first: not the
    instructions at the beginning, nor anything from the last user's message on, or from a call that
    has been approved and has to be run.
    """
    lead = 0
    while lead < len(items) and items[lead].get("role") in ("system", "developer"):
        lead += 1
    users = [n for n, item in enumerate(items) if item.get("role") == "user"]
    end = users[-1] if users else max(lead, len(items) - 1)
    return list(range(lead, min([end, *_to_be_run(items)])))


def _to_be_run(items: Sequence[Item]) -> Iterator[int]:
    """Where calls were asked for that have been approved since."""
    ran = {str(item.get("approval_request_id")) for item in items if item["type"] == "mcp_call"}
    answers = [item for item in items if item["type"] == "mcp_approval_response"]
    approved = {str(item.get("approval_request_id")) for item in answers if item.get("approve")}
    for n, item in enumerate(items):
        if item["type"] == "mcp_approval_request" and item["id"] in approved - ran:
            yield n


def without_first(items: Sequence[Item], count: int) -> list[Item]:
    """The items without the first `count` of those that are `droppable`, and without results whose
    calls are gone.
    """
    gone = set(droppable(items)[:count])
    left = [item for n, item in enumerate(items) if n not in gone]
    calls = {
        str(item.get("call_id"))
        for n, item in enumerate(items)
        if n in gone and item["type"] in CALLS
    }
    asked = {item["id"] for item in items if item["type"] == "mcp_approval_request"}
    asked -= {item["id"] for item in left}
    return [
        item
        for item in left
        if not (item["type"] in OUTPUTS and str(item.get("call_id")) in calls)
        and not (item["type"] in APPROVALS and str(item.get("approval_request_id")) in asked)
    ]
