"""A conversation: its messages, its JSON form, and what of it is shown to the model.

Knows messages; does not know tokens. The conversion of OpenAI-style chat messages is in
chat_messages.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date as calendar_date
from typing import Any, TypeVar

from ossia.errors import HarmonyError
from ossia.harmony.chat_messages import DEFAULT_SYSTEM, messages_from_chat
from ossia.harmony.messages import (
    FUNCTIONS,
    DeveloperContent,
    FunctionTool,
    Message,
    Role,
    Style,
    SystemContent,
)
from ossia.harmony.official.rules import rules_for

Part = TypeVar("Part", SystemContent, DeveloperContent)


@dataclass(frozen=True)
class Conversation:
    """Messages in the order in which they were written."""

    messages: tuple[Message, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.messages, tuple):
            object.__setattr__(self, "messages", tuple(self.messages))

    @property
    def has_function_tools(self) -> bool:
        """Whether a developer message declares functions; the system text then names their
        channel.
        """
        return any(map(declares_functions, self.messages))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Conversation:
        """From `{"messages": [...]}`, each in the JSON form of a message.

        Raises HarmonyError for another shape, naming the message that has it.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("messages"), list | tuple):
            raise HarmonyError(
                "a conversation is an object with a list of messages under the key 'messages'"
            )
        messages = []
        for index, message in enumerate(data["messages"]):
            try:
                messages.append(Message.from_dict(message))
            except HarmonyError as error:
                raise HarmonyError(f"messages[{index}]: {error}") from error
        return cls(tuple(messages))

    def to_dict(self) -> dict[str, Any]:
        return {"messages": [message.to_dict() for message in self.messages]}

    @classmethod
    def from_chat(
        cls,
        messages: Sequence[Mapping[str, Any]],
        *,
        system: SystemContent | None = DEFAULT_SYSTEM,
        tools: Sequence[FunctionTool | Mapping[str, Any]] | None = (),
    ) -> Conversation:
        """From the messages of a chat-completions client; see `messages_from_chat` for how each
        role maps.

        `system` is the Harmony system message put first (None: none); `tools` are FunctionTools or
        OpenAI tool objects. Raises HarmonyError naming the message that cannot be converted.
        """
        return cls(messages_from_chat(messages, system=system, tools=tools))

    def with_date(self, date: str | None = None) -> Conversation:
        """The conversation with a current date in its system text: `date`, or today's as
        YYYY-MM-DD.

        A date that is already there stays, so the first call pins it: a conversation that is stored
        after its first turn is rendered the same on the next day, and the prefix that an engine has
        cached for it remains valid. Only the first system content gets a date; a conversation
        without one is returned unchanged.
        """
        today = calendar_date.today().isoformat() if date is None else date

        def dated(system: SystemContent) -> SystemContent:
            return replace(system, current_date=today) if system.current_date is None else system

        return self.with_first(SystemContent, dated)

    def contents(self, kind: type[Part]) -> list[Part]:
        """All contents of a kind, in their order."""
        return [
            part for message in self.messages for part in message.parts if isinstance(part, kind)
        ]

    def with_first(self, kind: type[Part], change: Callable[[Part], Part]) -> Conversation:
        """The conversation with its first content of a kind changed; itself if there is none, or
        no change.
        """
        found = self.contents(kind)
        if not found:
            return self
        changed = change(found[0])
        return self if changed is found[0] else self._with(changed, found[0])

    def _with(self, changed: Any, content: object) -> Conversation:
        """The conversation with `changed` in place of the first content that is this object."""
        for at, message in enumerate(self.messages):
            for n, part in enumerate(message.parts):
                if part is content:
                    parts = (*message.parts[:n], changed, *message.parts[n + 1 :])
                    new = replace(message, content=parts)
                    return Conversation((*self.messages[:at], new, *self.messages[at + 1 :]))
        return self


def declares_functions(message: Message) -> bool:
    """Whether the message declares tools in the namespace whose place is `functions`."""
    return any(
        namespace.place == FUNCTIONS and namespace.tools
        for part in message.parts
        if isinstance(part, DeveloperContent)
        for namespace in part.all_namespaces
    )


def kept_messages(
    messages: Sequence[Message], style: Style = "faithful", *, teaching: bool = False
) -> list[Message]:
    """The messages without the dropped reasoning: messages on channel `analysis` (of any role,
    calls too) that the model is no longer shown.

    The rule of "faithful" is reasoning.py:AnalysisCut's, that of "compat"
    official/rules.py:OfficialCut's. `teaching`: for training, where the last turn keeps its
    reasoning (in "faithful").
    """
    cut = rules_for(style).cut.after(messages)
    first_shown = cut.taught_index if teaching else cut.index
    return [
        message
        for index, message in enumerate(messages)
        if index >= first_shown or message.channel != "analysis"
    ]


def last_turn_start(messages: Sequence[Message]) -> int:
    """Index of the first message after the last user message; 0 if no user speaks."""
    for index in reversed(range(len(messages))):
        if messages[index].role is Role.USER:
            return index + 1
    return 0
