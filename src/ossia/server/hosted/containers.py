"""/v1/containers: the folders that code runs in, and their files, in OpenAI's form.

A caller sees its own, also those that answers made. Files come from hostile code: they are sent as
bytes to be saved, never as a page. Knows containers and the wire; nothing of answers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from ossia.errors import ContainerError
from ossia.server.access import Caller, caller_of
from ossia.server.hosted.attached import Attached
from ossia.server.service import Service
from ossia.server.wire.errors import ApiError, bad
from ossia.server.wire.fields import ListOf, Part, api_router
from ossia.server.wire.lists import DELETED_SCHEMA, LIST_SCHEMA, Page, paging
from ossia.server.wire.replies import documented, reply
from ossia.tools import SessionKey, Toolbox
from ossia.tools.area import AreaFile
from ossia.tools.containers import Container, Containers
from ossia.tools.kinds import PYTHON, SHELL

STATUSES = {"not_found": 404, "expired": 404, "lost": 404, "too_many": 429, "too_large": 413}
SIZES = {"1g": 1 << 30, "4g": 4 << 30, "16g": 16 << 30, "64g": 64 << 30}
MINUTE = 60.0
MOST_MINUTES = 2**53  # that can be counted; fewer are given
CHUNK = 1 << 18
CONTAINER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id", "object", "created_at", "status", "name"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "container"},
        "created_at": {"type": "integer"},
        "status": {"type": "string"},
        "name": {"type": "string"},
    },
}


class ExpiresAfter(Part):
    anchor: Literal["last_active_at"]
    minutes: Annotated[int, Ge(1), Le(MOST_MINUTES)]


class NetworkPolicy(Part):
    type: str


class ContainerWishes(Part):
    """What may be asked of a container, by its own route and by a tool's declaration."""

    expires_after: ExpiresAfter | None = None
    file_ids: ListOf[str] | None = None
    memory_limit: Literal["1g", "4g", "16g", "64g"] | None = None
    network_policy: NetworkPolicy | None = None

    def check_supported(self, path: str = "") -> None:
        """Raises `ApiError` for what cannot be had here."""
        policy = self.network_policy
        if policy is not None and policy.type != "disabled":
            why = "must be disabled: code has no network here"
            raise bad(f"{path}network_policy.type {why}", f"{path}network_policy.type")

    def attach(self, attached: Attached, path: str = "") -> None:
        """Raises `ApiError` for a file that is not the caller's."""
        try:
            attached.put_uploads(self.file_ids or ())
        except ContainerError as error:
            raise refused(error, f"{path}file_ids", not_found=400) from error

    def made(self, containers: Containers, caller: Caller, **more: str) -> Container:
        """Raises `ApiError`. What is more than the operator gives becomes what there is."""
        wanted = self.expires_after
        seconds = None
        if wanted is not None:
            seconds = wanted.minutes * MINUTE
        memory = None
        if self.memory_limit is not None:
            asked = SIZES[self.memory_limit]
            memory = min(asked, containers.rules.memory)
        try:
            return containers.create(
                caller.name,
                expires_after=seconds,
                memory=memory,
                **more,
            )
        except ContainerError as error:
            raise refused(error) from error


class NewContainer(ContainerWishes):
    name: str


def refused(error: ContainerError, field: str | None = None, **status: int) -> ApiError:
    """`field`: that names the container. `status`: of a code, where it is not the usual one."""
    code = error.code or "invalid"
    number = STATUSES.get(code, 400)
    number = status.get(code, number)
    return ApiError(
        number,
        str(error),
        param=field or error.field,
        code=f"container_{code}",
    )


def containers_for(service: Service, caller: Caller) -> Containers:
    """Raises `ApiError` for a caller that may not run code here."""
    found = service.containers
    if found is None:
        raise ApiError(
            404, "no code runs here: see `ossia serve --help`, --tools", code="not_supported"
        )
    kinds = {tool.kind for tool in service.tools_for(caller).values()}
    if not kinds & {PYTHON, SHELL}:
        raise ApiError(403, "this key may not run code", code="tool_not_allowed")
    return found


def attached_to(service: Service, caller: Caller, tools: Toolbox | None = None) -> Attached:
    """Nothing yet. Files go into a container if `tools`, the request's, run code there."""
    kinds = {tool.kind for tool in service.tools_for(caller).values()}
    uploads = service.uploads if kinds & {PYTHON, SHELL} else None
    runs_code = tools is not None and any(tool.kind in (PYTHON, SHELL) for tool in tools.builtin)
    return Attached(caller.name, uploads, files=runs_code and service.containers is not None)


def router(service: Service) -> APIRouter:
    routes = api_router("containers", prefix="/v1/containers")
    _add_containers(routes, service)
    return routes


class Place:
    """What a request may see: the containers of its caller."""

    def __init__(self, service: Service, request: Request) -> None:
        caller = caller_of(request)
        self.containers = containers_for(service, caller)
        self.caller = caller
        self._fleet = service.fleet

    async def container(self, id: str) -> Container:
        """Raises `ApiError`, and `Elsewhere` for one that another server has."""
        try:
            await self._fleet.check_mark(id)
            return self.containers.get(self.caller.name, id)
        except ContainerError as error:
            raise refused(error) from error

    def file(self, container: Container, id: str) -> AreaFile:
        try:
            return self.containers.find(container, id)
        except ContainerError as error:
            raise refused(error) from error


def _add_containers(routes: APIRouter, service: Service) -> None:
    @routes.post("", responses=documented(CONTAINER_SCHEMA))
    async def create_container(request: Request, body: NewContainer) -> Response:
        """A new, empty container."""
        place = Place(service, request)
        body.check_supported()
        attached = Attached(place.caller.name, service.uploads, files=True)
        body.attach(attached)
        made = body.made(place.containers, place.caller, name=body.name[:256])
        try:
            await attached.fill(place.containers, SessionKey(place.caller.name, made.id, made.id))
        except ContainerError as error:
            place.containers.delete(place.caller.name, made.id)
            raise refused(error) from error
        return reply(_container(made, place.containers))

    @routes.get("", responses=documented(LIST_SCHEMA))
    async def list_containers(request: Request, page: Annotated[Page, Depends(paging)]) -> Response:
        place = Place(service, request)
        own = place.containers.of_caller(place.caller.name)
        oldest_first = reversed(own)
        listed = [_container(each, place.containers) for each in oldest_first]
        return reply(page.of(await service.fleet.with_others(request, listed)))

    @routes.get("/{container_id}", responses=documented(CONTAINER_SCHEMA))
    async def retrieve_container(request: Request, container_id: str) -> Response:
        place = Place(service, request)
        container = await place.container(container_id)
        return reply(_container(container, place.containers))

    @routes.delete("/{container_id}", responses=documented(DELETED_SCHEMA))
    async def delete_container(request: Request, container_id: str) -> Response:
        """Ends what runs in it, and deletes its files."""
        place = Place(service, request)
        await place.container(container_id)
        place.containers.delete(place.caller.name, container_id)
        told = {"id": container_id, "object": "container.deleted", "deleted": True}
        return reply(told)


def _container(container: Container, containers: Containers) -> dict[str, Any]:
    memory = container.memory or containers.rules.memory
    limit = f"{memory >> 20}m"
    if memory >= SIZES["1g"]:
        limit = f"{memory >> 30}g"
    minutes = int(container.expires_after // MINUTE)
    return {
        "id": container.id,
        "object": "container",
        "created_at": int(container.created),
        "status": "running",
        "last_active_at": int(container.active),
        "name": container.name or "auto",
        "expires_after": {
            "anchor": "last_active_at",
            "minutes": minutes,
        },
        "memory_limit": limit,
    }
