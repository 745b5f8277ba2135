"""/v1/files: files that a caller sends once and names later: in a container's `file_ids`, in a
container's files, in a message's `input_file`, `file`, `document` or `container_upload`.

In OpenAI's form, or in Anthropic's for its clients, which say so in a header of every request.
Each caller sees its own. They are kept where containers are. Knows uploads and the wire.
"""

from __future__ import annotations

import asyncio
import mimetypes
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ossia.errors import ContainerError
from ossia.server.access import caller_of
from ossia.server.hosted.containers import containers_for, refused
from ossia.server.hosted.uploads import Upload, Uploads
from ossia.server.service import Service
from ossia.server.wire.errors import bad
from ossia.server.wire.fields import api_router
from ossia.server.wire.forms import BYTES, FIELDS, check_form, pieces, saved_as
from ossia.server.wire.lists import DELETED_SCHEMA, LIST_SCHEMA, Page, listed
from ossia.server.wire.replies import documented, reply
from ossia.tools.containers import file_name

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
ANTHROPIC = "anthropic-version"  # the header
ANTHROPICS_PURPOSE = "user_data"  # its clients name none
UNKNOWN_KIND = "application/octet-stream"
ANCHOR = "created_at"
FEWEST_SECONDS = 3600  # as in OpenAI's API
MOST_LISTED = 10_000
MOST_SECONDS = 2_592_000
UPLOAD_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id", "object", "bytes", "created_at", "filename", "purpose", "status"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "file"},
        "bytes": {"type": "integer"},
        "created_at": {"type": "integer"},
        "expires_at": {"type": ["integer", "null"]},
        "filename": {"type": "string"},
        "purpose": {"type": "string"},
        "status": {"const": "processed"},
    },
}
UPLOAD = {
    "requestBody": {
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"enum": list(PURPOSES)},
                    },
                }
            }
        }
    }
}


class _Own:
    """The files of a request's caller. Raises `ApiError` for one that may have none."""

    def __init__(self, service: Service, request: Request) -> None:
        self.caller = caller_of(request).name
        containers_for(service, caller_of(request))
        assert service.uploads is not None, "where there are containers, files can be sent"
        self.uploads: Uploads = service.uploads
        self.is_anthropics = ANTHROPIC in request.headers
        self._fleet = service.fleet

    async def file(self, id: str) -> Upload:
        """Raises `ApiError`, and `Elsewhere` for one that another server has."""
        try:
            await self._fleet.check_mark(id)
            return self.uploads.get(self.caller, id)
        except ContainerError as error:
            raise refused(error) from error

    def shown(self, upload: Upload) -> dict[str, Any]:
        if self.is_anthropics:
            return _anthropics(upload)
        return _openais(upload)


def router(service: Service) -> APIRouter:
    routes = api_router("files", prefix="/v1/files")

    @routes.post("", responses=documented(UPLOAD_SCHEMA), openapi_extra=UPLOAD)
    async def upload_file(request: Request) -> Response:
        """multipart/form-data with `file` and `purpose`."""
        own = _Own(service, request)
        check_form(request.headers.get("content-type", ""))
        async with request.form(max_files=1, max_fields=FIELDS) as form:
            made = await _sent(own, form)
        return reply(own.shown(made))

    @routes.get("", responses=documented(LIST_SCHEMA))
    async def list_files(
        request: Request,
        page: Annotated[Page, Depends(_paging)],
        purpose: Annotated[str | None, Query()] = None,
    ) -> Response:
        own = _Own(service, request)
        files = own.uploads.of_caller(own.caller)
        wanted = [each for each in files if purpose in (None, each.purpose)]
        mine = [own.shown(each) for each in wanted if service.fleet.is_here(each.id)]
        shown = await service.fleet.with_others(request, mine)
        if not shown:
            return reply(listed([]))
        return reply(page.of(shown))

    @routes.get("/{file_id}", responses=documented(UPLOAD_SCHEMA))
    async def retrieve_upload(request: Request, file_id: str) -> Response:
        own = _Own(service, request)
        found = await own.file(file_id)
        return reply(own.shown(found))

    @routes.delete("/{file_id}", responses=documented(DELETED_SCHEMA))
    async def delete_upload(request: Request, file_id: str) -> Response:
        own = _Own(service, request)
        found = await own.file(file_id)
        await _delete(service, own, found, request)
        told = {"id": found.id, "object": "file", "deleted": True}
        if own.is_anthropics:
            told = {"id": found.id, "type": "file_deleted"}
        return reply(told)

    @routes.get("/{file_id}/content", responses=BYTES, response_class=Response)
    async def upload_content(request: Request, file_id: str) -> Response:
        """The bytes that were sent."""
        own = _Own(service, request)
        found = await own.file(file_id)
        try:
            opened = own.uploads.open(found)
        except ContainerError as error:
            raise refused(error) from error
        headers = saved_as(found.name)
        return StreamingResponse(pieces(opened), headers=headers)

    return routes


async def _delete(service: Service, own: _Own, file: Upload, request: Request) -> None:
    """And its copies, which other servers have; one of them that is told so tells nobody."""
    has_copies = service.fleet.is_shared_here(file.id)
    if has_copies:
        await service.forgotten.add(own.caller, file.id)
    own.uploads.delete(own.caller, file.id)
    if has_copies:
        await service.fleet.tell_others(request)


def _paging(
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
    order: Annotated[Literal["asc", "desc"], Query(description="desc: the newest first")] = "desc",
    after: Annotated[str | None, Query(description="a file: the list goes on after it")] = None,
    after_id: Annotated[str | None, Query(description="the same, of Anthropic's clients")] = None,
) -> Page:
    """Of this list pages may be longer than of others, as in OpenAI's API."""
    return Page(limit, order, after or after_id, None)


async def _sent(own: _Own, form: FormData) -> Upload:
    """Raises `ApiError`."""
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise bad("file is missing: it is a part of the form, with a name", "file")
    purpose = form.get("purpose")
    if own.is_anthropics:
        purpose = ANTHROPICS_PURPOSE
    if purpose not in PURPOSES:
        raise bad(f"purpose must be one of {', '.join(PURPOSES)}", "purpose")
    seconds = _expiry(form)
    name = file_name(file.filename or "")
    try:
        return await asyncio.to_thread(
            own.uploads.add, own.caller, name, str(purpose), file.file, seconds
        )
    except ContainerError as error:
        raise refused(error) from error


def _expiry(form: FormData) -> int | None:
    """Seconds after which the file goes. Raises `ApiError`."""
    anchor = form.get("expires_after[anchor]")
    given = form.get("expires_after[seconds]")
    if anchor is None and given is None:
        return None
    if anchor != ANCHOR:
        raise bad(f"expires_after.anchor must be {ANCHOR}", "expires_after[anchor]")
    text = str(given)
    is_number = text.isascii() and text.isdecimal() and len(text) < 9
    if not is_number or not FEWEST_SECONDS <= int(text) <= MOST_SECONDS:
        raise bad(
            f"expires_after.seconds must be a whole number from {FEWEST_SECONDS} to {MOST_SECONDS}",
            "expires_after[seconds]",
        )
    return int(text)


def _anthropics(upload: Upload) -> dict[str, Any]:
    created = datetime.fromtimestamp(upload.created, UTC)
    kind, _ = mimetypes.guess_type(upload.name)
    return {
        "id": upload.id,
        "type": "file",
        "filename": upload.name,
        "mime_type": kind or UNKNOWN_KIND,
        "size_bytes": upload.bytes,
        "created_at": created.isoformat(timespec="seconds"),
        "downloadable": True,
    }


def _openais(upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "object": "file",
        "bytes": upload.bytes,
        "created_at": int(upload.created),
        "expires_at": int(upload.expires),
        "filename": upload.name,
        "purpose": upload.purpose,
        "status": "processed",
        "status_details": None,
    }
