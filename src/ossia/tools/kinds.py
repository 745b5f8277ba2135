"""The kinds of tools that we run ourselves: one row each, read by the renderer, the turn and the
wire.

Knows names; nothing of what the tools do. A new kind is a row here, a file beside this one that
implements `protocol.Tool`, and, if clients see more of its calls than beginning and end, a writer
in `server/responses/hosted.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ToolKind:
    """What all tools of one kind have in common.

    `item`: the type of the item that clients see of a call; `id_prefix`: that of the item's id.
    `wire_types`: what requests call it when they ask for it. `in_system`: whether the model reads
    its declaration in the system message; otherwise in the developer message. `is_strict`: its
    schemas are ours, and what cannot be enforced of them is an error; others' are relaxed.
    `streams`: what a call is asked to do is shown while it is sampled, if the call is certain.
    """

    name: str
    item: str
    id_prefix: str
    wire_types: frozenset[str] = frozenset()
    in_system: bool = True
    is_strict: bool = True
    streams: bool = False


FUNCTION = ToolKind("function", "function_call", "fc", in_system=False)
BROWSER = ToolKind(
    "browser",
    "web_search_call",
    "ws",
    frozenset(
        {
            "web_search",
            "web_search_2025_08_26",
            "web_search_preview",
            "web_search_preview_2025_03_11",
            "browser_search",
            "browser",
        }
    ),
)
PYTHON = ToolKind(
    "python", "code_interpreter_call", "ci", frozenset({"code_interpreter", "python"}), streams=True
)
APPLY_PATCH = ToolKind(
    "apply_patch", "apply_patch_call", "apc", frozenset({"apply_patch"}), in_system=False
)
SHELL = ToolKind("shell", "shell_call", "sh", frozenset({"shell"}), in_system=False)
MCP = ToolKind(
    "mcp", "mcp_call", "mcp", frozenset({"mcp"}), in_system=False, is_strict=False, streams=True
)
KINDS = (FUNCTION, BROWSER, PYTHON, APPLY_PATCH, SHELL, MCP)
ITEMS = tuple(kind.item for kind in KINDS if kind is not FUNCTION)  # of calls that we run
WIRE_TYPES = frozenset().union(*(kind.wire_types for kind in KINDS))
