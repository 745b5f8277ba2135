"""The Harmony chat format: messages, their rendering to token ids, and a parser that survives any tokens.

Imports only `ossia.errors` and `ossia.tokenizer`; never torch, an engine or a server.
"""

from __future__ import annotations

from ossia.harmony.conversation import Conversation, DropAnalysis, kept_messages
from ossia.harmony.header import MessageStart
from ossia.harmony.messages import (
    CONSTRAIN,
    DEFAULT_CHANNELS,
    DEFAULT_IDENTITY,
    DeveloperContent,
    Effort,
    FunctionTool,
    Message,
    Role,
    SystemContent,
    ToolNamespace,
)
from ossia.harmony.parse import (
    Event,
    MessageEnd,
    Repair,
    StreamParser,
    TextDelta,
    parse_completion,
    resolve_recipient,
)
from ossia.harmony.render import (
    Headers,
    Learn,
    Rendered,
    render_conversation,
    render_for_completion,
    render_for_training,
    render_message,
)
from ossia.harmony.schema import schema_to_typescript

__all__ = [
    "CONSTRAIN",
    "DEFAULT_CHANNELS",
    "DEFAULT_IDENTITY",
    "Conversation",
    "DeveloperContent",
    "DropAnalysis",
    "Effort",
    "Event",
    "FunctionTool",
    "Headers",
    "Learn",
    "Message",
    "MessageEnd",
    "MessageStart",
    "Rendered",
    "Repair",
    "Role",
    "StreamParser",
    "SystemContent",
    "TextDelta",
    "ToolNamespace",
    "kept_messages",
    "parse_completion",
    "render_conversation",
    "render_for_completion",
    "render_for_training",
    "render_message",
    "resolve_recipient",
    "schema_to_typescript",
]
