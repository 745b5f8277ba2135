"""For who keeps the server: what everybody has used, and the deletion of all that is anybody's.

Only for keys with `admin`.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ossia.server.access import caller_of
from ossia.server.accounts.forgetting import forget_here, forget_kept
from ossia.server.accounts.ledger import DayUsage
from ossia.server.fleet.passing import IS_PASSED
from ossia.server.service import Service
from ossia.server.wire.errors import ApiError, bad
from ossia.server.wire.fields import api_router
from ossia.server.wire.replies import documented, reply

DAYS = 30  # that are told where nobody says
FIRST = date(1970, 1, 1)


def router(service: Service) -> APIRouter:
    routes = api_router("accounts")

    @routes.get("/v1/usage", responses=documented(about="Rows by day, key and model."))
    async def usage(
        request: Request,
        start: date | None = None,
        end: date | None = None,
        key: str | None = None,
    ) -> Response:
        """Tokens and calls of tools, by day (UTC), key and model. Answers that still run are not in
        it.
        """
        _check_admin(request)
        last = end or datetime.now(UTC).date()
        if last < FIRST:
            raise bad(f"end must be {FIRST} or later, found {last}", "end")
        first = start or last - timedelta(days=DAYS - 1)
        if first > last:
            raise bad(f"start must not be after end, which is {last}, found {first}", "start")
        await service.ledger.settle_ended()
        rows = await service.ledger.usage((first - FIRST).days, (last - FIRST).days, key)
        data = [_row(each) for each in rows]
        return reply({"object": "list", "start": f"{first}", "end": f"{last}", "data": data})

    @routes.delete("/v1/users/{id:path}", responses=documented(about="How much was deleted."))
    async def delete(id: str, request: Request) -> Response:
        """All that belongs to a key or a user, by name: responses, conversations, files,
        containers, remembered reasoning, and what was counted. `not_reached`: servers that have
        still to delete what they alone have, which they do when they are back.
        """
        _check_admin(request)
        counts = Counter(await forget_here(service, id))
        said, missed = await service.fleet.by_others(request)
        for told in said:
            counts.update(told["counts"])
        if not IS_PASSED.get():
            counts.update(await forget_kept(service, id))
        return reply(
            {
                "id": id,
                "object": "user.deleted",
                "deleted": True,
                "counts": counts,
                "not_reached": missed,
            }
        )

    return routes


def _check_admin(request: Request) -> None:
    if not caller_of(request).limits.admin:
        text = "this takes a key with admin=yes (in TOML: admin = true) in the key file"
        raise ApiError(403, text, code="admin_required")


def _row(each: DayUsage) -> dict[str, Any]:
    return {
        "object": "usage",
        "day": f"{FIRST + timedelta(days=each.day)}",
        "key": each.owner,
        "model": each.model,
        "prompt_tokens": each.used.prompt,
        "cached_tokens": each.used.cached,
        "output_tokens": each.used.output,
        "tool_calls": each.used.calls,
    }
