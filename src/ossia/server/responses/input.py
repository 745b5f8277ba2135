"""Input items of the Responses API: how they are kept, and the Harmony messages that they stand
for.

Knows wire items and messages; nothing of tools' schemas, of engines or of HTTP. Every complaint
names the item.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from ossia.harmony import CONSTRAIN, DeveloperContent, Message, Role
from ossia.harmony.messages import FUNCTIONS
from ossia.server.events import new_id
from ossia.server.responses.store import PREFIXES
from ossia.server.sealing import Sealer, SealError
from ossia.server.wire.errors import ApiError, bad

Item = dict[str, Any]
TEXT_PARTS = {
    "input_text": "text",
    "output_text": "text",
    "text": "text",
    "summary_text": "text",
    "reasoning_text": "text",
    "refusal": "refusal",
}
READ = tuple(
    kind for kind in PREFIXES if kind != "compaction"
)  # what stands in one nobody here can say
CALLS = ("function_call", "custom_tool_call")
OUTPUTS = ("function_call_output", "custom_tool_call_output")
HOSTED_CALLS = ("web_search_call", "code_interpreter_call")
ROLES = ("user", "assistant", "system", "developer")
UNREADABLE = "error: this part of the result is {}, and the model reads text only"


# ---- how items are kept ----


def wire_items(wanted: Any, find: Callable[[str], Item | None]) -> list[Item]:
    """A request's input as items with types and ids. `find` knows what an item_reference may mean.
    Raises `ApiError` for what is no item; their contents are checked by `Reader`.
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
    if not isinstance(wanted, Sequence):
        raise bad("input must be a string or a list of items", "input")
    items: list[Item] = []
    for n, item in enumerate(wanted):
        where = f"input[{n}]"
        if not isinstance(item, Mapping):
            raise bad(f"{where} must be an object", where)
        items.append(_item(dict(item), where, items, find))
    return items


def _item(
    item: Item, where: str, before: Sequence[Item], find: Callable[[str], Item | None]
) -> Item:
    kind = item.get("type")
    if kind is not None and not isinstance(kind, str):
        raise bad(f"{where}.type must be a string", f"{where}.type")
    if kind is None and "role" in item:
        kind = "message"
    if kind == "item_reference" or (kind is None and isinstance(item.get("id"), str)):
        id = item.get("id")
        found = (
            next((each for each in before if each.get("id") == id), None)
            if id is not None
            else None
        )
        found = found or (find(id) if isinstance(id, str) else None)
        if found is None:
            raise bad(
                f"{where}: there is no item {id!r} that this server still knows; send the item itself",
                where,
            )
        return found
    if kind not in READ:
        raise bad(
            f"{where}: {kind!r} is no type of item that this server reads: {', '.join(READ)}", where
        )
    return _with_id({**item, "type": kind})


def _with_id(item: Item) -> Item:
    """The item as it is listed later."""
    if not (isinstance(item.get("id"), str) and item["id"]):
        item["id"] = new_id(PREFIXES[item["type"]])
    if item["type"] != "reasoning" and item.get("status") is None:
        item["status"] = "completed"
    if item["type"] == "message" and isinstance(item.get("content"), str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        part = {"type": kind, "text": item["content"]}
        item["content"] = [
            part | {"annotations": [], "logprobs": []} if kind == "output_text" else part
        ]
    return item


# ---- what they mean ----


@dataclass
class Reader:
    """Items to messages, in order.

    `thoughts_before`: what is remembered of the reasoning before a call, by its id. `first`: where
    the items begin that the client has just sent, as `input`; those before it were checked when
    they came, from the field `before`.
    """

    sealer: Sealer
    thoughts_before: Callable[[str], tuple[Message, ...]]
    first: int = 0
    before: str = "previous_response_id"
    leading: list[str] = field(default_factory=list)  # instructions before anything else is said
    messages: list[Message] = field(default_factory=list)
    _callees: dict[str, str] = field(default_factory=dict)  # call_id -> recipient
    _begin: int = 0  # of the messages that the model wrote last, without a break
    # whether calls of the server's tools, whose results items do not tell, belong to them
    _hosted: bool = False

    def read(self, items: Sequence[Item]) -> None:
        """Raises `ApiError` naming the item that cannot be read."""
        answered = {str(item.get("call_id")) for item in items if item["type"] in OUTPUTS}
        for n, item in enumerate(items):
            where = f"input[{n - self.first}]" if n >= self.first else self.before
            match item["type"]:
                case "message":
                    self._message(item, where, _calls_follow(items, n))
                case "reasoning":
                    self._reasoning(item, where)
                case "function_call" | "custom_tool_call":
                    if item.get("status") != "incomplete" or str(item.get("call_id")) in answered:
                        self._call(item, where)
                case "function_call_output" | "custom_tool_call_output":
                    self._output(item, where)
                case "code_interpreter_call":
                    self._code(item, where)
                case _:
                    self._hosted = True

    def _add(self, message: Message) -> None:
        self.messages.append(message)
        if message.role is not Role.ASSISTANT:
            self._begin, self._hosted = len(self.messages), False

    def _message(self, item: Item, where: str, calls_follow: bool) -> None:
        role, text = item.get("role"), _content(item.get("content"), f"{where}.content")
        if role not in ROLES:
            raise bad(
                f"{where}.role must be one of {', '.join(ROLES)}, not {role!r}", f"{where}.role"
            )
        if role == "assistant":
            phase = item.get("phase")
            is_preamble = calls_follow if phase is None else phase == "commentary"
            self._add(
                Message(Role.ASSISTANT, text, channel="commentary" if is_preamble else "final")
            )
        elif role == "user":
            self._add(Message(Role.USER, text))
        elif not self.messages:
            self.leading.append(text)
        else:
            self._add(Message(Role.DEVELOPER, DeveloperContent(text)))

    def _reasoning(self, item: Item, where: str) -> None:
        """In plain if it is there, else what was sealed. A summary alone says nothing to the model."""
        text = _content(item.get("content") or "", f"{where}.content", "\n\n")
        sealed = item.get("encrypted_content")
        if not text and isinstance(sealed, str) and sealed:
            try:
                text = self.sealer.open(sealed)
            except SealError as error:
                place = f"{where}.encrypted_content"
                raise bad(
                    f"{place} cannot be read: {error}", place, "invalid_encrypted_content"
                ) from error
        if text:
            self._add(Message(Role.ASSISTANT, text, channel="analysis"))

    def _call(self, item: Item, where: str) -> None:
        is_function = item["type"] == "function_call"
        name, call_id = _word(item, "name", where), _word(item, "call_id", where)
        body = _string(item, "arguments" if is_function else "input", where)
        space = item.get("namespace")
        recipient = f"{space if isinstance(space, str) and space else FUNCTIONS}.{name}"
        self._callees[call_id] = recipient
        self._remember(call_id)
        content_type = f"{CONSTRAIN}json" if is_function else "code"
        self._add(Message(Role.ASSISTANT, body, None, "commentary", recipient, content_type))

    def _remember(self, call_id: str) -> None:
        """The reasoning before the call that the client has not sent back."""
        sent = self.messages[self._begin :]
        is_whole = any(message.channel == "analysis" for message in sent) and not self._hosted
        if is_whole or any(
            message.recipient and message.channel == "commentary" for message in sent
        ):
            return  # it is there, or this is not the first call
        if remembered := self.thoughts_before(call_id):
            self.messages[self._begin :] = remembered

    def _output(self, item: Item, where: str) -> None:
        call_id = item.get("call_id")
        recipient = self._callees.get(call_id) if isinstance(call_id, str) else None
        if recipient is None and isinstance(item.get("name"), str) and item["name"]:
            recipient = f"{item.get('namespace') or FUNCTIONS}.{item['name']}"
        if recipient is None:
            place = f"{where}.call_id"
            raise bad(f"{place}: no call before it has the call_id {call_id!r}", place)
        text = _result(item.get("output"), f"{where}.output")
        self._add(Message(Role.TOOL, text, recipient, "commentary", "assistant"))

    def _code(self, item: Item, where: str) -> None:
        """Code that the server ran, if its output is there; else it is as if it had not been."""
        code, outputs = item.get("code"), item.get("outputs")
        self._hosted = True
        if (
            isinstance(code, str)
            and isinstance(outputs, Sequence)
            and not isinstance(outputs, str)
            and outputs
        ):
            logs = [each.get("logs") for each in outputs if isinstance(each, Mapping)]
            text = "\n".join(log for log in logs if isinstance(log, str))
            self.messages.append(Message(Role.ASSISTANT, code, None, "analysis", "python", "code"))
            self.messages.append(Message(Role.TOOL, text, "python", "analysis", "assistant"))


def _calls_follow(items: Sequence[Item], n: int) -> bool:
    """Whether a message of the assistant without a phase is a preamble: calls, or reasoning and
    calls, come next.
    """
    for at in range(n + 1, len(items)):
        if items[at]["type"] != "reasoning":
            return items[at]["type"] in CALLS + HOSTED_CALLS
    return False


def _content(content: Any, where: str, between: str = "") -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise bad(f"{where} must be a string or a list of parts", where)
    return between.join(_part(part, f"{where}[{n}]") for n, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    key = TEXT_PARTS.get(str(kind))
    if key is None:
        raise bad(
            f"{where}: the model reads text only, not {_named(part)}", where, "unsupported_content"
        )
    return _string(part, key, where)


def _named(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    return f"{kind!r}" if kind is not None else f"a {type(part).__name__}"


def _result(output: Any, where: str) -> str:
    """What a tool answered. Of an image or file the model is told that it cannot see it: the tool
    has run, and refusing its result would end the conversation for good.
    """
    if isinstance(output, str):
        return output
    if isinstance(output, Sequence):
        return "\n".join(_result_part(part, f"{where}[{n}]") for n, part in enumerate(output))
    if output is None:
        raise bad(f"{where} is missing", where)
    return orjson.dumps(output).decode()


def _result_part(part: Any, where: str) -> str:
    try:
        return _part(part, where)
    except ApiError as error:
        if (
            error.code == "unsupported_content"
            and isinstance(part, Mapping)
            and isinstance(part.get("type"), str)
        ):
            return UNREADABLE.format(part["type"])
        raise


def _string(data: Mapping[str, Any], key: str, where: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise bad(f"{where}.{key} must be a string", f"{where}.{key}")
    return value


def _word(data: Mapping[str, Any], key: str, where: str) -> str:
    if not _string(data, key, where):
        raise bad(f"{where}.{key} is empty", f"{where}.{key}")
    return str(data[key])


# ---- what can be left out ----


def droppable(items: Sequence[Item]) -> list[int]:
    """Indexes of the items that `truncation: auto` may leave out, the oldest first: not the
    instructions at the beginning, nor anything from the last user's message on.
    """
    lead = 0
    while lead < len(items) and items[lead].get("role") in ("system", "developer"):
        lead += 1
    users = [n for n, item in enumerate(items) if item.get("role") == "user"]
    return list(range(lead, users[-1] if users else max(lead, len(items) - 1)))


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
    return [
        item for item in left if not (item["type"] in OUTPUTS and str(item.get("call_id")) in calls)
    ]
