"""Whose state the tools of a response see: the thread that it goes on with, the container of its
code, and the pages that the browser showed before.

Knows items, containers and browsers; nothing of answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from ossia.errors import ContainerError
from ossia.server.access import Caller
from ossia.server.fleet.fleet import LOST
from ossia.server.hosted.containers import ContainerWishes, containers_for, refused
from ossia.server.hosted.told import show_again
from ossia.server.responses.prompt import Prompt
from ossia.server.service import Service
from ossia.server.wire.errors import ApiError, bad, path_of
from ossia.server.wire.fields import At
from ossia.tools import SessionKey
from ossia.tools.containers import MOVED
from ossia.tools.kinds import PYTHON, SHELL

Declared = Sequence[Mapping[str, Any]]


async def session_of(
    service: Service,
    caller: Caller,
    tools: Declared,
    prompt: Prompt,
    id: str,
) -> SessionKey:
    """`tools`: as the request declares them; `id`: of the response, which begins a thread if it
    goes on with none. The request's files are in the container then. Raises `ApiError`.
    """
    thread = prompt.thread or id
    kinds = {tool.kind for tool in prompt.tools.tools.builtin}
    container = ""
    if kinds & {PYTHON, SHELL} and service.containers is not None:
        container = await _container(service, caller, tools, prompt, thread)
    elif kinds & {PYTHON, SHELL}:
        _check_no_files(tools)
    key = SessionKey(caller.name, thread, container)
    show_again(service.builtin, key, prompt.pages)
    if service.containers is not None:
        try:
            await prompt.attached.fill(service.containers, key)
        except ContainerError as error:
            raise refused(error, "input") from error
    return key


async def _container(
    service: Service,
    caller: Caller,
    tools: Declared,
    prompt: Prompt,
    thread: str,
) -> str:
    """The id of the container that is asked for, or that was used last; empty for the one of the
    thread, which is made when code runs.
    """
    containers = containers_for(service, caller)
    wanted = At(None, "tools")
    for tool in At(tools, "tools").items():
        if tool["type"].value in PYTHON.wire_types:
            wanted = tool["container"]
        elif tool["type"].value in SHELL.wire_types:
            wanted = _of_shell(tool["environment"]) or wanted
    if isinstance(wanted.value, str):
        try:
            await service.fleet.check_mark(wanted.value)
            return containers.get(caller.name, wanted.value).id
        except ContainerError as error:
            raise refused(error, expired=400) from error
    wishes = _wishes(wanted)
    wishes.attach(prompt.attached, f"{wanted.path}.")
    for id in _used([*prompt.history, *prompt.input]):
        try:
            await service.fleet.check_mark(id)
            return containers.get(caller.name, id).id
        except ContainerError as error:  # it has expired, or is of a server that is gone
            if error.code == LOST:
                made = containers.of(caller.name, thread)
                containers.touch(made, MOVED)
                return made.id
    if wishes.memory_limit is None and wishes.expires_after is None:
        return ""
    return wishes.made(containers, caller, conversation=thread).id


def _check_no_files(tools: Declared) -> None:
    """Raises `ApiError` for files that are to be found by code which runs elsewhere."""
    for tool in At(tools, "tools").items():
        place = tool["container"]
        if isinstance(place.value, Mapping) and place["file_ids"].value:
            raise place["file_ids"].wrong("is not supported: code runs at another server")


def _of_shell(place: At) -> At | None:
    """The id, or the wishes; None where commands run at the client's."""
    match place["type"].value:
        case "container_reference":
            place["container_id"].word()
            return place["container_id"]
        case "container_auto":
            return place
    return None


def _wishes(wanted: At) -> ContainerWishes:
    """What a declaration with `"type": "auto"` asks for."""
    if wanted.value is None:
        return ContainerWishes()
    wanted.object("an id, or an object of type auto")["type"].one_of("auto", "container_auto")
    try:
        made = ContainerWishes.model_validate(dict(wanted.value))
    except ValidationError as error:
        raise _invalid(error, wanted.path) from error
    made.check_supported(f"{wanted.path}.")
    return made


def _invalid(error: ValidationError, path: str) -> ApiError:
    first = error.errors(include_input=False)[0]
    place = f"{path}.{path_of(first['loc'])}"
    return bad(f"{place}: {first['msg']}", place)


def _used(items: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The container of the last call that ran code, if an item tells it."""
    for item in reversed(items):
        place = item
        environment = item.get("environment")
        kind = item.get("type")
        if kind == SHELL.item and isinstance(environment, Mapping):
            place = environment
        elif kind != PYTHON.item:
            continue
        id = place.get("container_id")
        if isinstance(id, str) and id:
            yield id
        return
