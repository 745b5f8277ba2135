"""An answer as the Responses API says it: one stream of wire events, and the Response that they add
up to.

    book = ResponseBook(response, include)
    events = [*book.begin(), *book.write(answer_event), ..., *book.fail(error)]
    book.response            # the fold of all that was yielded: the body of a plain answer

Knows an answer's events and the wire; nothing of HTTP, of the store or of where events come from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ossia.errors import CONTEXT_EXCEEDED
from ossia.server.responses.called import at_once, is_at_once
from ossia.server.responses.hosted import hosted_writer
from ossia.server.responses.items import (
    AtOnce,
    Begun,
    CallWriter,
    Done,
    Include,
    MessageWriter,
    ReasoningWriter,
    Wire,
    Writer,
)
from ossia.server.wire.errors import ApiError
from ossia.server.wire.output import responses_usage
from ossia.tools.kinds import ToolKind
from ossia.turn.events import (
    ApprovalItem,
    BuiltinCallItem,
    CallStart,
    Item,
    ItemDelta,
    ItemEnd,
    ItemStart,
    MessageItem,
    Progress,
    ReasoningItem,
    ToolCallItem,
    TurnEnd,
    TurnEvent,
    Usage,
)

Event = dict[str, Any]
# codes that a failed response has, by status
FAILURES = {
    400: "invalid_prompt",
    429: "rate_limit_exceeded",
}


class ResponseBook:
    """`response`: the Response object with an empty output, as it is when it begins."""

    def __init__(
        self,
        response: dict[str, Any],
        include: Include,
        kinds: Mapping[str, ToolKind] | None = None,
        first: Sequence[AtOnce] = (),
        request_id: Callable[[ApprovalItem], str] = lambda asked: asked.id,
    ) -> None:
        """`kinds`: those of tools of the caller's whose calls are items of their own kind, by name.
        `first`: items before the answer. `request_id`: that of a request for approval.
        """
        self.response = response
        self.include = include
        self.kinds = kinds or {}
        self.first = first
        self.request_id = request_id
        self.sequence = 0  # of the next event
        self.call_ids: list[str] = []  # of calls that the client carries out
        self.end: TurnEnd | None = None
        self.has_ended = False
        self._open: dict[int, Writer] = {}
        self._waiting: set[int] = set()  # items that come at once, when they end
        self._has_begun = False  # whether the last item has begun without a writer
        self._places: dict[int, int] = {}  # of an item: its place in the output
        self._usage = Usage()

    def begin(self) -> Iterator[Event]:
        """A queued response says so first."""
        yield self._whole("response.created")
        if self.response["status"] == "queued":
            yield self._whole("response.queued")
            self.response["status"] = "in_progress"
        yield self._whole("response.in_progress")
        for item in self.first:
            yield from self.add(item)

    def add(self, once: AtOnce) -> Iterator[Event]:
        """An item that comes at once."""
        yield from self._added(Begun(once.begun, once.events))
        yield from self._done(Done(once.item))

    def _added(self, begun: Begun) -> Iterator[Event]:
        output = self.response["output"]
        place = {"item_id": begun.item["id"], "output_index": len(output)}
        added = {"output_index": len(output), "item": begun.item}
        output.append(begun.item)
        self._has_begun = True
        yield self._numbered("response.output_item.added", added)
        for type, fields in begun.events:
            yield self._numbered(type, {**place, **fields})

    def _done(self, done: Done) -> Iterator[Event]:
        output = self.response["output"]
        output[-1] = done.item
        self._has_begun = False
        told = {"output_index": len(output) - 1, "item": done.item}
        yield self._numbered("response.output_item.done", told)

    def write(self, event: TurnEvent | Begun | Done) -> Iterator[Event]:
        match event:
            case Begun():
                yield from self._added(event)
            case Done():
                yield from self._done(event)
            case ItemDelta(index=index) if index in self._waiting:
                pass
            case ItemDelta(index=index):
                yield from self._events(self._open[index].delta(event))
            case ItemStart(index=index, item=item) if is_at_once(item, self.kinds):
                self._waiting.add(index)
            case ItemStart(index=index, item=item):
                place = len(self.response["output"])
                self._places[index] = place
                writer = self._writer(place, item)
                self._open[index] = writer
                self.response["output"].append(writer.item)
                yield from self._events(writer.start())
            case CallStart(index=index, item=item):
                yield from self._events(self._open[index].stage(item))
            case ItemEnd(index=index, item=item, complete=complete) if index in self._waiting:
                self._waiting.remove(index)
                if isinstance(item, ApprovalItem):
                    item = replace(item, id=self.request_id(item))
                for once in at_once(item, complete, self.kinds):
                    self.call_ids += filter(None, [once.item.get("call_id")])
                    yield from self.add(once)
            case ItemEnd(index=index, item=item, complete=complete):
                writer = self._open.pop(index)
                yield from self._events(writer.end(item, complete))
                self.response["output"][self._places[index]] = writer.item
                if isinstance(item, ToolCallItem) and complete:
                    self.call_ids.append(item.call_id)
                for once in writer.followed_by(item, complete):
                    yield from self.add(once)
            case Progress(usage=usage):
                self._usage = usage
            case TurnEnd():
                yield from self._finish(event)

    def _writer(self, place: int, item: Item) -> Writer:
        match item:
            case ReasoningItem():
                return ReasoningWriter(place, item, self.include)
            case MessageItem():
                return MessageWriter(place, item, self.include)
            case ToolCallItem():
                return CallWriter(place, item, self.include)
            case BuiltinCallItem():
                return hosted_writer(place, item, self.include)
            case ApprovalItem():
                raise AssertionError("it comes at once")

    def _finish(self, end: TurnEnd) -> Iterator[Event]:
        self.end = end
        self.response["usage"] = responses_usage(end.usage)
        if end.reason == "length":
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
            yield self._last("incomplete")
        else:
            self.response["completed_at"] = int(time.time())
            yield self._last("completed")

    def fail(self, error: ApiError) -> Iterator[Event]:
        """The answer broke off because of an error here."""
        self._close_items()
        code = FAILURES.get(error.status, "server_error")
        if error.code == CONTEXT_EXCEEDED:  # by which agents know that they must shorten
            code = error.code
        self.response["error"] = {
            "code": code,
            "message": error.message,
        }
        self.response["usage"] = responses_usage(self._usage)
        yield self._last("failed")

    def cancel(self) -> None:
        """The answer was stopped from outside. There is no event for it; the response has what
        there is so far.
        """
        self._close_items()
        self.response["usage"] = responses_usage(self._usage)
        self.response["status"] = "cancelled"
        self.has_ended = True

    def _close_items(self) -> None:
        for index, writer in self._open.items():
            self.response["output"][self._places[index]] = writer.partial()
        self._open.clear()
        if self._has_begun:  # there is nothing of it yet
            self.response["output"].pop()

    def _last(self, status: str) -> Event:
        self.response["status"] = status
        self.has_ended = True
        return self._whole(f"response.{status}")

    def _whole(self, type: str) -> Event:
        """An event with the whole response."""
        return self._numbered(
            type, {"response": {**self.response, "output": list(self.response["output"])}}
        )

    def _events(self, wires: Iterable[Wire]) -> Iterator[Event]:
        for type, fields in wires:
            yield self._numbered(type, fields)

    def _numbered(self, type: str, fields: dict[str, Any]) -> Event:
        event = {"type": type, "sequence_number": self.sequence, **fields}
        self.sequence += 1
        return event
