"""A conversation, and which of its reasoning is still shown to the model.

Knows messages; nothing of tokens. The conversion of OpenAI-style chat messages lives in
chat_messages.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    check_style,
)

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
        """Whether some developer content declares functions; the system text then names their
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
        cached for it stays good. Only the first system content gets a date; without any the
        conversation is returned as it is.
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
        """The conversation with its first content of a kind changed; as it is if there is none, or
        no change.
        """
        found = self.contents(kind)
        if not found or (changed := change(found[0])) is found[0]:
            return self
        # by place: the same message, or content, may stand in a conversation twice
        at: int = next(
            n
            for n, message in enumerate(self.messages)
            if any(part is found[0] for part in message.parts)
        )
        parts: list[Any] = list(self.messages[at].parts)
        parts[next(n for n, part in enumerate(parts) if part is found[0])] = changed
        new = replace(self.messages[at], content=tuple(parts))
        return Conversation((*self.messages[:at], new, *self.messages[at + 1 :]))


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
    """The messages without those on channel `analysis` (of any role, calls too) that are no longer
    shown.

    "faithful", the intended rule. A turn begins at a user message and lasts to the next one. It is
    *finished* if its last assistant message is on `final`. Everything on `analysis` before the end
    of the last finished turn is dropped, everything after it is kept: so the turn in progress keeps
    its reasoning between tool calls, and so does a turn that the user interrupted before it was
    answered. With `teaching` (rendering for training) the last turn counts as in progress, because
    its reasoning is to be learned.

    "compat", the official package's: if the last assistant message of all is on `final`, drop what
    stands before the *first* message (of any role) on `final`; otherwise nothing. It differs from
    the intended rule
    - with two or more finished turns: reasoning after the first `final` is kept for ever;
    - in a turn in progress after a finished one: all the old reasoning comes back;
    - in training, if the first `final` is in the last turn: the reasoning to be learned is dropped;
    - where a `final` is followed by more assistant messages in the same turn, or is not an assistant's.
    """
    shown = AnalysisCut(style).after(messages)
    cut = shown.finished if teaching and style == "faithful" else shown.index
    return [m for index, m in enumerate(messages) if index >= cut or m.channel != "analysis"]


@dataclass(frozen=True)
class AnalysisCut:
    """Where the reasoning that is still shown begins, by the rules of `kept_messages`: at `index`.

    It is known message by message, so a conversation that grows is not read again.
    """

    style: Style
    count: int = 0  # messages so far
    finished: int = 0  # where the last finished turn ends that a user has followed
    first_final: int | None = None  # the first message on `final`
    answered: bool = False  # the last assistant message (faithful: of this turn) is on `final`

    def __post_init__(self) -> None:
        check_style(self.style)

    def after(self, messages: Iterable[Message]) -> AnalysisCut:
        """What it is once these messages have followed."""
        count, finished, first_final, answered = (
            self.count,
            self.finished,
            self.first_final,
            self.answered,
        )
        for count, message in enumerate(messages, self.count + 1):
            if message.role is Role.ASSISTANT:
                answered = message.channel == "final"
            elif message.role is Role.USER and self.style == "faithful":
                finished = count - 1 if answered else finished
                answered = False
            if first_final is None and message.channel == "final":
                first_final = count - 1
        return AnalysisCut(self.style, count, finished, first_final, answered)

    @property
    def index(self) -> int:
        if self.style == "faithful":
            return self.count if self.answered else self.finished
        return self.first_final if self.answered and self.first_final is not None else 0


def last_turn_start(messages: Sequence[Message]) -> int:
    """Index of the first message after the last user message; 0 if no user speaks."""
    users = (index for index in reversed(range(len(messages))) if messages[index].role is Role.USER)
    return next(users, -1) + 1
