"""The Harmony chat format: messages, their rendering to token ids, and a parser that accepts any
tokens.

Imports only `ossia.errors` and `ossia.tokenizer`; never torch, an engine or a server.
"""

from __future__ import annotations

from ossia.harmony.calls import Arguments, UnknownTool, is_call, read_arguments, resolve_recipient
from ossia.harmony.content import BUILTIN_TOOLS, builtin_tools, schema_to_typescript
from ossia.harmony.conversation import Conversation, kept_messages
from ossia.harmony.events import (
    CallReady,
    Event,
    MessageEnd,
    MessageStart,
    Repair,
    RepairKind,
    TextDelta,
    TurnClosed,
)
from ossia.harmony.grammar.bodies import JsonFormat, LarkFormat, RegexFormat, body_format
from ossia.harmony.grammar.completion import CustomTool, harmony_grammar
from ossia.harmony.grammar.constraint import HarmonyConstraint, HarmonyGrammar
from ossia.harmony.incremental import RenderedHistory
from ossia.harmony.messages import (
    CONSTRAIN,
    DEFAULT_CHANNELS,
    DEFAULT_IDENTITY,
    DeveloperContent,
    Effort,
    FunctionTool,
    Message,
    ResponseFormat,
    Role,
    Style,
    SystemContent,
    ToolNamespace,
)
from ossia.harmony.parse import StreamParser, parse_completion
from ossia.harmony.render import (
    Learn,
    Rendered,
    render_conversation,
    render_for_completion,
    render_for_training,
    render_message,
)

__all__ = [
    "BUILTIN_TOOLS",
    "CONSTRAIN",
    "DEFAULT_CHANNELS",
    "DEFAULT_IDENTITY",
    "Arguments",
    "CallReady",
    "Conversation",
    "CustomTool",
    "DeveloperContent",
    "Effort",
    "Event",
    "FunctionTool",
    "HarmonyConstraint",
    "HarmonyGrammar",
    "JsonFormat",
    "LarkFormat",
    "Learn",
    "Message",
    "MessageEnd",
    "MessageStart",
    "RegexFormat",
    "Rendered",
    "RenderedHistory",
    "Repair",
    "RepairKind",
    "ResponseFormat",
    "Role",
    "StreamParser",
    "Style",
    "SystemContent",
    "TextDelta",
    "ToolNamespace",
    "TurnClosed",
    "UnknownTool",
    "body_format",
    "builtin_tools",
    "harmony_grammar",
    "is_call",
    "kept_messages",
    "parse_completion",
    "read_arguments",
    "render_conversation",
    "render_for_completion",
    "render_for_training",
    "render_message",
    "resolve_recipient",
    "schema_to_typescript",
]
