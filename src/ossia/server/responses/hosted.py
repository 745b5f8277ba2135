"""Calls that the server runs itself, as output items of a response.

A kind of tool (`tools/kinds.py`) names the type of its item. What a client has to see of it besides
its beginning and end is a writer here; without one of its own, it is a `HostedWriter`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ossia.server.hosted.told import told
from ossia.server.responses.called import (
    command_events,
    failed_output,
    shell_action,
    shell_output,
)
from ossia.server.responses.items import AtOnce, Include, Wire, Writer
from ossia.tools.kinds import BROWSER, MCP, PYTHON, SHELL
from ossia.turn.events import BuiltinCallItem, ItemDelta, new_id


class HostedWriter(Writer):
    def __init__(self, output_index: int, called: BuiltinCallItem, include: Include) -> None:
        self.kind = called.kind
        item = {
            "id": called.id,
            "type": self.kind.item,
            "status": "in_progress",
        }
        super().__init__(output_index, item, include)
        self.begin(called)

    def begin(self, called: BuiltinCallItem) -> None:
        """Puts into the item what it begins with."""

    def event(self, stage: str) -> Wire:
        return self.small(f"{self.kind.item}.{stage}")

    def start(self) -> Iterator[Wire]:
        yield self.added()
        yield self.event("in_progress")

    def delta(self, delta: ItemDelta) -> Iterator[Wire]:
        self.parts.append(delta.text)
        yield from ()

    def end(self, item: BuiltinCallItem, complete: bool) -> Iterator[Wire]:
        yield from self.closed(item, complete, {})

    def closed(self, item: BuiltinCallItem, complete: bool, more: dict[str, Any]) -> Iterator[Wire]:
        """`more`: fields that the item has at its end."""
        if complete:
            yield self.event("completed")
        yield self.sealed(item, complete, more)

    def sealed(self, item: BuiltinCallItem, complete: bool, more: dict[str, Any]) -> Wire:
        """The end, with what the model was told for a client that keeps it."""
        if complete and self.include.seal is not None:
            more["encrypted_content"] = self.include.seal(told(item))
        status = _status(item, complete)
        return self.done(self.item | {"status": status} | more)

    def partial(self) -> dict[str, Any]:
        return {**self.item, "status": "incomplete"}


class SearchWriter(HostedWriter):
    """A call of the browser."""

    def begin(self, called: BuiltinCallItem) -> None:
        self.item["action"] = self._action(called)

    def stage(self, item: BuiltinCallItem) -> Iterator[Wire]:
        yield self.event("searching")

    def end(self, item: BuiltinCallItem, complete: bool) -> Iterator[Wire]:
        why = {"error": item.result} if item.failed else {}  # beyond the API, for people
        yield from self.closed(item, complete, {"action": self._action(item), **why})

    def _action(self, called: BuiltinCallItem) -> dict[str, Any]:
        action = dict(called.action or {"type": "search", "query": ""})
        pages = [_source(page) for page in called.outputs if isinstance(page.get("url"), str)]
        if action.get("type") != "search":  # the page that was opened: its title, beyond the API
            titles = [page["title"] for page in pages if "title" in page]
            if titles:
                action["title"] = titles[0]
        elif self.include.sources:
            action.setdefault("sources", pages)
        if not self.include.sources:
            action.pop("sources", None)
        return action


def _source(page: Mapping[str, Any]) -> dict[str, Any]:
    """A page that was found. The API has no title; people read it sooner than an address."""
    titled = {"title": page["title"]} if page.get("title") else {}
    return {"type": "url", "url": page["url"], **titled}


class CodeWriter(HostedWriter):
    """A call of python."""

    def begin(self, called: BuiltinCallItem) -> None:
        container = (called.action or {}).get("container_id", "")
        self.item |= {"container_id": container, "code": "", "outputs": None}

    def delta(self, delta: ItemDelta) -> Iterator[Wire]:
        self.parts.append(delta.text)
        yield self.small("code_interpreter_call_code.delta", delta=delta.text)

    def stage(self, item: BuiltinCallItem) -> Iterator[Wire]:
        yield self.small("code_interpreter_call_code.done", code=item.text)
        yield self.event("interpreting")

    def end(self, item: BuiltinCallItem, complete: bool) -> Iterator[Wire]:
        if not complete:
            yield self.small("code_interpreter_call_code.done", code=item.text)
        more: dict[str, Any] = {"code": item.text}
        if self.include.code_outputs and complete:
            more["outputs"] = list(item.outputs)
        yield from self.closed(item, complete, more)

    def partial(self) -> dict[str, Any]:
        left = {"status": "incomplete", "code": self.text}
        return self.item | left


class McpWriter(HostedWriter):
    """A call of an MCP server's tool."""

    def begin(self, called: BuiltinCallItem) -> None:
        action = called.action or {}
        self.item |= {
            "server_label": action.get("server_label", called.tool),
            "name": action.get("name", called.function),
            "arguments": "",
            "output": None,
            "error": None,
            "approval_request_id": called.approval,
        }

    def delta(self, delta: ItemDelta) -> Iterator[Wire]:
        self.parts.append(delta.text)
        yield self.small("mcp_call_arguments.delta", delta=delta.text)

    def end(self, item: BuiltinCallItem, complete: bool) -> Iterator[Wire]:
        yield self.small("mcp_call_arguments.done", arguments=item.text)
        more: dict[str, Any] = {"arguments": item.text}
        if complete and not item.failed:
            more["output"] = item.result
            yield self.event("completed")
        elif complete:
            more["error"] = {
                "type": "mcp_tool_execution_error",
                "content": [{"type": "text", "text": item.result}],
            }
            yield self.event("failed")
        yield self.sealed(item, complete, more)

    def partial(self) -> dict[str, Any]:
        left = {"status": "incomplete", "arguments": self.text}
        return self.item | left


class ShellWriter(HostedWriter):
    """A call of our shell, and an item with what it printed."""

    def begin(self, called: BuiltinCallItem) -> None:
        given = dict(called.action or {})
        container = given.pop("container_id", None) or ""
        self.commands, action = shell_action(given)
        self.item["call_id"] = new_id("call")
        self.item["action"] = action
        self.item["environment"] = {
            "type": "container_reference",
            "container_id": container,
        }

    def start(self) -> Iterator[Wire]:
        yield self.added()

    def stage(self, item: BuiltinCallItem) -> Iterator[Wire]:
        for type, fields in command_events(self.commands):
            yield type, self.place | fields

    def end(self, item: BuiltinCallItem, complete: bool) -> Iterator[Wire]:
        more = {
            "action": self.item["action"] | {"commands": self.commands},
            # that a command failed is said by its output
            "status": "completed" if complete else "incomplete",
        }
        yield self.sealed(item, complete, more)

    def followed_by(self, item: BuiltinCallItem, complete: bool) -> Iterator[AtOnce]:
        if not complete:
            return
        outputs = list(item.outputs)
        if not outputs:
            outputs = [failed_output(item.result)]
        call_id = self.item["call_id"]
        limit = self.item["action"]["max_output_length"]
        yield shell_output(call_id, limit, outputs)


def _status(item: BuiltinCallItem, complete: bool) -> str:
    if item.failed:
        return "failed"
    return "completed" if complete else "incomplete"


WRITERS: dict[str, type[HostedWriter]] = {
    BROWSER.item: SearchWriter,
    PYTHON.item: CodeWriter,
    MCP.item: McpWriter,
    SHELL.item: ShellWriter,
}


def hosted_writer(output_index: int, called: BuiltinCallItem, include: Include) -> HostedWriter:
    writer = WRITERS.get(called.kind.item, HostedWriter)
    return writer(output_index, called, include)
