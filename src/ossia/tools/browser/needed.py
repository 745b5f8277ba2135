"""Packages of the extra `tools`, imported when they are first used."""

from __future__ import annotations

import importlib
from typing import Any

from ossia.errors import ToolError


def needed(module: str) -> Any:
    """The module. Raises `ToolError` that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ToolError(
            f"the browser needs the package {name}, which is not installed: "
            "pip install 'ossia[tools]'"
        ) from error
