"""The tests make applications by the hundred, and for each of them FastAPI would read the
signatures of all endpoints again: three fifths of the time that an application takes. Here it reads
those of the same code once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from types import FunctionType
from typing import Any

import fastapi.dependencies.utils
import fastapi.routing
from fastapi.dependencies.models import Dependant

_read = fastapi.dependencies.utils.get_dependant
_known: dict[object, Dependant] = {}


def remember() -> None:
    """From now on."""
    # where it is called: for an endpoint, and for what one depends on
    fastapi.routing.get_dependant = _remembered
    fastapi.dependencies.utils.get_dependant = _remembered


def _remembered(*, path: str, call: Callable[..., Any], **more: Any) -> Dependant:
    if not isinstance(call, FunctionType):
        return _read(path=path, call=call, **more)
    # Each application has endpoints of its own, functions of the same code.
    key = (call.__code__, repr((call.__defaults__, call.__kwdefaults__, more)), path)
    if key not in _known:
        _known[key] = _read(path=path, call=call, **more)
    known = _known[key]
    values = {one.name: getattr(known, one.name) for one in fields(known)}
    lists = {name: list(value) for name, value in values.items() if isinstance(value, list)}
    return replace(known, call=call, **lists)
