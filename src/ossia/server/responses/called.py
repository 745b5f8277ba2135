"""Items that are whole when they come: calls that the client carries out with a tool of a kind of
its own (a patch, commands), calls that wait for approval, lists of an MCP server's tools.

Knows the items and what the model wrote; nothing of the response around them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ossia.errors import PatchError, ToolError
from ossia.server.hosted.approvals import Approvals, AskedFor
from ossia.server.hosted.mcp import Listed
from ossia.server.responses.items import AtOnce, Wire
from ossia.tools.kinds import APPLY_PATCH, SHELL, ToolKind
from ossia.tools.patch import operations, read_patch
from ossia.tools.shell import Arguments
from ossia.tools.texts import read_json
from ossia.turn.events import ApprovalItem, Item, ToolCallItem, new_id

NO_PATCH = "(this is no patch)"  # the path of an operation that no client can carry out
STREAMS = ("stdout", "stderr")
NO_LIMITS: dict[str, Any] = {"timeout_ms": None, "max_output_length": None}


def is_at_once(item: Item, kinds: Mapping[str, ToolKind]) -> bool:
    if isinstance(item, ToolCallItem):
        return item.namespace is None and item.name in kinds
    return isinstance(item, ApprovalItem)


def at_once(item: Item, complete: bool, kinds: Mapping[str, ToolKind]) -> Iterator[AtOnce]:
    """The wire's items of one of ours."""
    if isinstance(item, ApprovalItem):
        yield _approval(item)
    elif isinstance(item, ToolCallItem):
        if kinds[item.name] is APPLY_PATCH and complete:
            yield from _patch(item)
        elif kinds[item.name] is SHELL:
            yield _local_shell(item, complete)


def tools_list(listed: Listed) -> AtOnce:
    item: dict[str, Any] = {
        "id": new_id("mcpl"),
        "type": "mcp_list_tools",
        "server_label": listed.label,
        "tools": list(listed.tools),
        "error": listed.error,
    }
    begun = item | {"tools": [], "error": None}
    last = "completed"
    if listed.error is not None:
        last = "failed"
    stages = ("in_progress", last)
    events: list[Wire] = [(f"response.mcp_list_tools.{stage}", {}) for stage in stages]
    return AtOnce(begun, item, tuple(events))


def request_id(asked: ApprovalItem, approvals: Approvals) -> str:
    """By which the answer to it is known to be of this call, whoever keeps it meanwhile."""
    given = asked.action
    call = AskedFor(given["server_label"], given["name"], asked.text)
    return approvals.id(call, given["digest"])


def _approval(asked: ApprovalItem) -> AtOnce:
    item = {
        "id": asked.id,
        "type": "mcp_approval_request",
        "server_label": asked.action["server_label"],
        "name": asked.action["name"],
        "arguments": asked.text,
    }
    return AtOnce(item, item)


# ---- patches ----


def section_id(call_id: str, number: int) -> str:
    """The call_id of an item for a section of a patch, by which they find together again."""
    if number == 0:
        return call_id
    return f"{call_id}_{number}"


def _patch(call: ToolCallItem) -> Iterator[AtOnce]:
    """An item a section."""
    try:
        sections = operations(read_patch(call.text))
    except PatchError:
        sections = [{"type": "update_file", "path": NO_PATCH, "diff": call.text}]
    for number, section in enumerate(sections):
        item = {
            "id": new_id(APPLY_PATCH.id_prefix),
            "type": APPLY_PATCH.item,
            "status": "completed",
            "call_id": section_id(call.call_id, number),
            "operation": section,
        }
        begun = item | {"status": "in_progress"}
        yield AtOnce(begun, item)


# ---- commands ----


def shell_action(action: Mapping[str, Any] | None) -> tuple[list[str], dict[str, Any]]:
    """The commands, and the action before they have come."""
    given = dict(action or {})
    commands = list(given.pop("commands", []))
    begun = {"commands": [], **NO_LIMITS, **given}
    return commands, begun


def command_events(commands: Sequence[str]) -> Iterator[Wire]:
    event = "response.shell_call_command"
    for number, command in enumerate(commands):
        place = {"command_index": number}
        yield f"{event}.added", place | {"command": ""}
        yield f"{event}.delta", place | {"delta": command}
        yield f"{event}.done", place | {"command": command}


def _local_shell(call: ToolCallItem, complete: bool) -> AtOnce:
    action: dict[str, Any] = {}
    try:
        Arguments.of(call.text)
        given = read_json(call.text)
        action = {key: given[key] for key in ("commands", *NO_LIMITS) if key in given}
    except ToolError:  # it was cut, or the model could not do better
        pass
    commands, begun = shell_action(action)
    item: dict[str, Any] = {
        "id": new_id(SHELL.id_prefix),
        "type": SHELL.item,
        "status": "completed" if complete else "incomplete",
        "call_id": call.call_id,
        "action": begun | {"commands": commands},
        "environment": {"type": "local"},
    }
    started = item | {"status": "in_progress", "action": begun}
    events = command_events(commands)
    return AtOnce(started, item, tuple(events))


def failed_output(text: str) -> dict[str, Any]:
    """Of a call that could not be run."""
    return {
        "stdout": "",
        "stderr": text,
        "outcome": {"type": "exit", "exit_code": 1},
    }


def shell_output(call_id: str, limit: int | None, outputs: Sequence[dict[str, Any]]) -> AtOnce:
    item = {
        "id": new_id("sho"),
        "type": "shell_call_output",
        "status": "completed",
        "call_id": call_id,
        "max_output_length": limit,
        "output": list(outputs),
    }
    event = "response.shell_call_output_content"
    events: list[Wire] = []
    for number, output in enumerate(outputs):
        place = {"command_index": number}
        delta = {key: output[key] for key in STREAMS if output[key]}
        events.append((f"{event}.delta", place | {"delta": delta}))
        events.append((f"{event}.done", place | {"output": [output]}))
    begun = item | {"status": "in_progress", "output": []}
    return AtOnce(begun, item, tuple(events))
