"""Lists of objects with ids, a page at a time, as OpenAI's APIs have them. Knows no objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Query

from ossia.server.wire.errors import bad

Item = dict[str, Any]


@dataclass(frozen=True)
class Page:
    """A part of a list."""

    limit: int
    order: str
    after: str | None
    before: str | None

    def of(self, items: Sequence[Item]) -> dict[str, Any]:
        """The wire object. `before` alone gives the page that ends there. Raises `ApiError` for a
        cursor that is not an item's id.
        """
        ordered = list(items) if self.order == "asc" else list(reversed(items))
        ids = [item["id"] for item in ordered]
        begin = 0 if self.after is None else _place(ids, self.after, "after") + 1
        end = len(ids) if self.before is None else _place(ids, self.before, "before")
        between = ordered[begin:end] if begin < end else []
        is_back = self.before is not None and self.after is None
        shown = between[-self.limit :] if is_back else between[: self.limit]
        return listed(shown, has_more=len(shown) < len(between))


def _place(ids: Sequence[str], id: str, param: str) -> int:
    if id not in ids:
        raise bad(f"{param}: there is no item {id!r} in this list", param)
    return ids.index(id)


def paging(
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="desc: the newest first")] = "desc",
    after: Annotated[
        str | None, Query(description="an item's id: the list continues after it")
    ] = None,
    before: Annotated[
        str | None, Query(description="an item's id: the list ends in front of it")
    ] = None,
) -> Page:
    return Page(limit, order, after, before)


def listed(items: Sequence[Item], has_more: bool = False) -> dict[str, Any]:
    """The list object. Its ids are strings, empty ones for an empty list."""
    first, last = (items[0]["id"], items[-1]["id"]) if items else ("", "")
    return {
        "object": "list",
        "data": list(items),
        "first_id": first,
        "last_id": last,
        "has_more": has_more,
    }


LIST_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["object", "data", "first_id", "last_id", "has_more"],
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"type": "object", "required": ["id", "type"]}},
        "first_id": {"type": "string"},
        "last_id": {"type": "string"},
        "has_more": {"type": "boolean"},
    },
}
DELETED_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id", "object", "deleted"],
    "properties": {
        "id": {"type": "string"},
        "object": {"type": "string"},
        "deleted": {"const": True},
    },
}
