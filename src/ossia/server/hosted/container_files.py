"""/v1/containers/ID/files: what lies in /mnt/data, in OpenAI's form.

Files come from hostile code: they are sent as bytes to be saved, never as a page. Knows containers
and the wire; nothing of answers.
"""

from __future__ import annotations

import asyncio
import json
from typing import IO, Annotated, Any

from fastapi import APIRouter, Depends
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ossia.errors import ContainerError
from ossia.server.hosted.containers import Place, refused
from ossia.server.hosted.uploads import Upload
from ossia.server.service import Service
from ossia.server.wire.errors import bad
from ossia.server.wire.fields import At, api_router, plain_json
from ossia.server.wire.forms import BYTES, FIELDS, check_form, kind_of, pieces, saved_as
from ossia.server.wire.lists import DELETED_SCHEMA, LIST_SCHEMA, Page, paging
from ossia.server.wire.replies import documented, reply
from ossia.tools.area import AreaFile
from ossia.tools.containers import Container, Containers, file_name

FILE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id", "object", "bytes", "container_id", "path", "source"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "container.file"},
        "bytes": {"type": "integer"},
        "container_id": {"type": "string"},
        "path": {"type": "string"},
        "source": {"enum": ["user", "assistant"]},
    },
}
UPLOAD = {
    "requestBody": {
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["file_id"],
                    "properties": {"file_id": {"type": "string"}},
                }
            },
        }
    }
}


def router(service: Service) -> APIRouter:
    routes = api_router("containers", prefix="/v1/containers")
    _add_files(routes, service)
    _add_content(routes, service)
    return routes


def _add_files(routes: APIRouter, service: Service) -> None:
    @routes.post("/{container_id}/files", responses=documented(FILE_SCHEMA), openapi_extra=UPLOAD)
    async def create_file(request: Request, container_id: str) -> Response:
        """Puts a file into /mnt/data: multipart/form-data with a part `file`, or JSON with the
        `file_id` of one of /v1/files.
        """
        place = Place(service, request)
        container = await place.container(container_id)
        content_type = request.headers.get("content-type", "")
        if kind_of(content_type) == "application/json":
            named = await _named(service, place, request)
            written = await _copied(service, place, container, named)
            return reply(_file(written, container))
        check_form(content_type)
        async with request.form(max_files=1, max_fields=FIELDS) as form:
            file = form.get("file")
            id = form.get("file_id")
            if isinstance(id, str):
                named = _upload(service, place, id)
                written = await _copied(service, place, container, named)
            elif isinstance(file, UploadFile):
                name = file_name(file.filename or "")
                written = await _written(place.containers, container, name, file.file)
            else:
                raise bad("file is missing: it is a part of the form, with a name", "file")
        return reply(_file(written, container))

    @routes.get("/{container_id}/files", responses=documented(LIST_SCHEMA))
    async def list_files(
        request: Request, container_id: str, page: Annotated[Page, Depends(paging)]
    ) -> Response:
        place = Place(service, request)
        container = await place.container(container_id)
        files = await asyncio.to_thread(place.containers.files, container)
        files.sort(key=lambda file: (file.modified, file.path))
        listed = [_file(file, container) for file in files]
        return reply(page.of(listed))

    @routes.get("/{container_id}/files/{file_id}", responses=documented(FILE_SCHEMA))
    async def retrieve_file(request: Request, container_id: str, file_id: str) -> Response:
        place = Place(service, request)
        container = await place.container(container_id)
        file = place.file(container, file_id)
        return reply(_file(file, container))

    @routes.delete("/{container_id}/files/{file_id}", responses=documented(DELETED_SCHEMA))
    async def delete_file(request: Request, container_id: str, file_id: str) -> Response:
        place = Place(service, request)
        container = await place.container(container_id)
        file = place.file(container, file_id)
        try:
            container.area.remove(file.path)
        except ContainerError as error:
            raise refused(error) from error
        told = {"id": file_id, "object": "container.file.deleted", "deleted": True}
        return reply(told)


def _add_content(routes: APIRouter, service: Service) -> None:
    @routes.get("/{container_id}/files/{file_id}/content", responses=BYTES, response_class=Response)
    async def retrieve_content(request: Request, container_id: str, file_id: str) -> Response:
        """The bytes of a file."""
        place = Place(service, request)
        container = await place.container(container_id)
        file = place.file(container, file_id)
        try:
            opened = container.area.open(file.path)
        except ContainerError as error:
            raise refused(error) from error
        name = file.path.rpartition("/")[2]
        return StreamingResponse(pieces(opened), headers=saved_as(name))


async def _named(service: Service, place: Place, request: Request) -> Upload:
    """The upload that a JSON body names. Raises `ApiError`."""
    try:
        body = plain_json(await request.body())
    except json.JSONDecodeError as error:
        raise bad("the body is not JSON", "file_id") from error
    fields = At(body, "the body").object()
    id = At(fields["file_id"].value, "file_id")
    return _upload(service, place, id.word())


def _upload(service: Service, place: Place, id: str) -> Upload:
    assert service.uploads is not None, "where there are containers, files can be sent"
    try:
        return service.uploads.get(place.caller.name, id)
    except ContainerError as error:
        raise refused(error) from error


async def _copied(service: Service, place: Place, container: Container, upload: Upload) -> AreaFile:
    assert service.uploads is not None
    with service.uploads.open(upload) as content:
        return await _written(place.containers, container, upload.name, content)


async def _written(
    containers: Containers, container: Container, name: str, content: IO[bytes]
) -> AreaFile:
    try:
        return await asyncio.to_thread(containers.write, container, name, content)
    except ContainerError as error:
        raise refused(error) from error


def _file(file: AreaFile, container: Container) -> dict[str, Any]:
    is_sent = file.path in container.uploaded
    return {
        "id": container.file_id(file.path),
        "object": "container.file",
        "created_at": int(file.modified),
        "bytes": file.bytes,
        "container_id": container.id,
        "path": f"/mnt/data/{file.path}",
        "source": "user" if is_sent else "assistant",
    }
