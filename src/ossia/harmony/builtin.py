"""The tools that gpt-oss was trained with, `browser` and `python`, as the official package declares
them.

Knows where their texts come from; nothing of what the tools do. They belong into the system
message.
"""

from __future__ import annotations

import functools

from ossia.errors import HarmonyError
from ossia.harmony.messages import ToolNamespace

BUILTIN_TOOLS = ("browser", "python")


@functools.cache
def builtin_tools(name: str) -> ToolNamespace:
    """The official declaration of a built-in tool, for `SystemContent(namespaces=...)`.

    Raises HarmonyError for an unknown name, or if the official package is not installed.
    """
    if name not in BUILTIN_TOOLS:
        raise HarmonyError(
            f"there is no built-in tool {name!r}: use one of {', '.join(BUILTIN_TOOLS)}"
        )
    try:
        import openai_harmony  # type: ignore[import-untyped]  # late: it takes a while to load
    except ImportError as error:
        raise HarmonyError(
            "the texts of the built-in tools are in oss-harmony: pip install oss-harmony"
        ) from error
    config = getattr(openai_harmony.ToolNamespaceConfig, name)()
    return ToolNamespace.from_dict(config.model_dump())
