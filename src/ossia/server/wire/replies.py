"""How routes answer with JSON, and how OpenAPI is told of it. Knows HTTP; no API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from ossia.server.wire.fields import OBJECT

EVENTS = "text/event-stream"
LINES = "application/x-ndjson"


def reply(
    body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")


def documented(
    schema: dict[str, Any] = OBJECT, about: str = "The answer", *, streams: str | None = None
) -> dict[int | str, dict[str, Any]]:
    """A route's `responses=`: a 200 of the schema. `streams`: the type of a body that is not whole
    at once, which the route can answer with, too. openapi.py adds the errors.
    """
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if streams is not None:
        content[streams] = {}
    return {200: {"description": about, "content": content}}
