"""Calls that the server runs itself, as output items of a response.

A kind of tool (`tools/kinds.py`) names the type of its item. What a client has to see of it besides
its beginning and end is a writer here; without one of its own, it is a `HostedWriter`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ossia.server.hosted.told import told
from ossia.server.responses.items import Include, Wire, Writer
from ossia.tools.kinds import BROWSER, PYTHON
from ossia.turn.events import BuiltinCallItem, ItemDelta


class HostedWriter(Writer):
    def __init__(self, output_index: int, called: BuiltinCallItem, include: Include) -> None:
        self.kind = called.kind
        item = {"id": called.id, "type": self.kind.item, "status": "in_progress"}
        super().__init__(output_index, item, include)

    def event(self, stage: str) -> Wire:
        return f"response.{self.kind.item}.{stage}", dict(self.place)

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
        if complete and self.include.seal is not None:
            more["encrypted_content"] = self.include.seal(told(item))
        yield self.done({**self.item, "status": _status(item, complete), **more})

    def partial(self) -> dict[str, Any]:
        return {**self.item, "status": "incomplete"}


class SearchWriter(HostedWriter):
    """A call of the browser."""

    def __init__(self, output_index: int, called: BuiltinCallItem, include: Include) -> None:
        super().__init__(output_index, called, include)
        self.item["action"] = self._action(called)

    def stage(self, item: BuiltinCallItem) -> Iterator[Wire]:
        yield self.event("searching")

    def end(self, item: BuiltinCallItem, complete: bool) -> Iterator[Wire]:
        yield from self.closed(item, complete, {"action": self._action(item)})

    def _action(self, called: BuiltinCallItem) -> dict[str, Any]:
        action = dict(called.action or {"type": "search", "query": ""})
        urls = [page["url"] for page in called.outputs if isinstance(page.get("url"), str)]
        if not self.include.sources:
            action.pop("sources", None)
        elif action.get("type") == "search":
            action.setdefault("sources", [{"type": "url", "url": url} for url in urls])
        return action


class CodeWriter(HostedWriter):
    """A call of python."""

    def __init__(self, output_index: int, called: BuiltinCallItem, include: Include) -> None:
        super().__init__(output_index, called, include)
        container = (called.action or {}).get("container_id", "")
        self.item |= {"container_id": container, "code": "", "outputs": None}

    def delta(self, delta: ItemDelta) -> Iterator[Wire]:
        self.parts.append(delta.text)
        yield "response.code_interpreter_call_code.delta", {**self.place, "delta": delta.text}

    def stage(self, item: BuiltinCallItem) -> Iterator[Wire]:
        yield "response.code_interpreter_call_code.done", {**self.place, "code": item.text}
        yield self.event("interpreting")

    def end(self, item: BuiltinCallItem, complete: bool) -> Iterator[Wire]:
        if not complete:
            yield "response.code_interpreter_call_code.done", {**self.place, "code": item.text}
        outputs = list(item.outputs) if self.include.code_outputs and complete else None
        yield from self.closed(item, complete, {"code": item.text, "outputs": outputs})

    def partial(self) -> dict[str, Any]:
        return {**self.item, "status": "incomplete", "code": self.text}


def _status(item: BuiltinCallItem, complete: bool) -> str:
    if item.failed:
        return "failed"
    return "completed" if complete else "incomplete"


WRITERS: dict[str, type[HostedWriter]] = {BROWSER.item: SearchWriter, PYTHON.item: CodeWriter}


def hosted_writer(output_index: int, called: BuiltinCallItem, include: Include) -> HostedWriter:
    writer = WRITERS.get(called.kind.item, HostedWriter)
    return writer(output_index, called, include)
