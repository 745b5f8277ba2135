"""The tests make applications by the hundred, and for each of them FastAPI would read the
signatures of all endpoints again: three fifths of the time that an application takes. Here it reads
those of the same code once.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import fields
from types import FunctionType
from typing import Any

import fastapi.dependencies.utils
import fastapi.routing
from fastapi.dependencies.models import Dependant

_read = fastapi.dependencies.utils.get_dependant
_read_return = fastapi.dependencies.utils.get_typed_return_annotation
_known: dict[object, tuple[Dependant, list[str]]] = {}  # and which of its fields are lists
_known_returns: dict[object, Any] = {}


def remember() -> None:
    """From now on."""
    # where it is called: for an endpoint, and for what one depends on
    fastapi.routing.get_dependant = _remembered
    fastapi.dependencies.utils.get_dependant = _remembered
    fastapi.routing.get_typed_return_annotation = _remembered_return


def _remembered(*, path: str, call: Callable[..., Any], **more: Any) -> Dependant:
    if not isinstance(call, FunctionType):
        return _read(path=path, call=call, **more)
    # Each application has endpoints of its own, functions of the same code.
    key = (call.__code__, repr((call.__defaults__, call.__kwdefaults__, more)), path)
    if key not in _known:
        read = _read(path=path, call=call, **more)
        _known[key] = read, [f.name for f in fields(read) if type(getattr(read, f.name)) is list]
    known, lists = _known[key]
    found = copy(known)
    found.call = call
    for name in lists:
        setattr(found, name, list(getattr(known, name)))
    return found


def _remembered_return(call: Callable[..., Any]) -> Any:
    if not isinstance(call, FunctionType):
        return _read_return(call)
    key = (call.__code__, repr(call.__annotations__.get("return")))
    if key not in _known_returns:
        _known_returns[key] = _read_return(call)
    return _known_returns[key]
