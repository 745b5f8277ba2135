"""Packages of the extra `tools`, imported when they are first used.

with extra():
    from lxml import etree
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from ossia.errors import ToolError


@contextmanager
def extra() -> Iterator[None]:
    """Raises `ToolError` that says how to install what is missing."""
    try:
        yield
    except ImportError as error:
        raise _missing(str(error.name)) from error


def check_installed(package: str) -> None:
    """For what another process will import. Raises as `extra` does."""
    if find_spec(package) is None:
        raise _missing(package)


def _missing(package: str) -> ToolError:
    return ToolError(
        f"this tool needs the package {package}, which is not installed: pip install 'ossia[tools]'"
    )
