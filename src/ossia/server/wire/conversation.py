"""The messages that every conversation begins with. Knows Harmony and declared tools; no API."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from ossia.harmony import Conversation, Message, Role, SystemContent
from ossia.harmony.messages import EffortName
from ossia.server.wire.format import AnswerFormat
from ossia.tools.toolbox import Toolbox


def conversation_of(
    messages: Iterable[Message],
    *,
    effort: EffortName,
    instructions: str | None,
    tools: Toolbox,
    format: AnswerFormat,
) -> Conversation:
    """The system message, the developer message if it has something to say, and `messages`."""
    system = SystemContent(
        current_date=date.today().isoformat(),
        effort=effort,
        namespaces=tools.system_namespaces,
    )
    first = [Message(Role.SYSTEM, system)]
    developer = tools.developer(instructions, format.declared)
    if developer is not None:
        first.append(Message(Role.DEVELOPER, developer))
    return Conversation((*first, *messages))
