"""The messages that every conversation begins with. Knows Harmony and declared tools; no API."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date

from ossia.harmony import Conversation, Message, Role, SystemContent
from ossia.harmony.messages import DEFAULT_IDENTITY, Effort, EffortName
from ossia.server.wire.errors import bad
from ossia.server.wire.format import AnswerFormat
from ossia.tools.toolbox import Toolbox

CONTINUES = "continue_final_message"
EFFORT_LINE = re.compile(r"^Reasoning: ?(low|medium|high)\r?$", re.IGNORECASE | re.MULTILINE)


def effort_in(instructions: str | None) -> EffortName | None:
    """The effort that a system message sets by a line of its own, `Reasoning: high`, as the model
    cards of gpt-oss tell people to.
    """
    found = EFFORT_LINE.search(instructions or "")
    return None if found is None else Effort(found[1].lower())


def conversation_of(
    messages: Iterable[Message],
    *,
    effort: EffortName,
    instructions: str | None,
    tools: Toolbox,
    format: AnswerFormat,
    identity: str | None = None,
) -> Conversation:
    """The system message, the developer message if it has something to say, and `messages`."""
    system = SystemContent(
        identity=DEFAULT_IDENTITY if identity is None else identity,
        current_date=date.today().isoformat(),
        effort=effort,
        namespaces=tools.system_namespaces,
    )
    first = [Message(Role.SYSTEM, system)]
    developer = tools.developer(instructions, format.declared)
    if developer is not None:
        first.append(Message(Role.DEVELOPER, developer))
    return Conversation((*first, *messages))


def continued(
    messages: Sequence[Message],
) -> tuple[tuple[Message, ...], Message]:
    """The messages before the last one, and the last, which the answer goes on with. Raises
    `ApiError`.
    """
    before = tuple(messages[:-1])
    for last in messages[-1:]:
        is_said = last.role is Role.ASSISTANT
        if is_said and last.recipient is None:
            return before, last
    why = "needs a text of the assistant as the last message"
    raise bad(f"{CONTINUES} {why}", CONTINUES)
