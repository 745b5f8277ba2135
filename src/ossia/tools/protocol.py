"""What a tool is to the rest of ossia: a declaration for the model, and sessions that carry out its
calls.

The renderer, the grammar, the turn and the wire read the same object. Python functions, the tools
of tasks, and tools that a server runs are all `Tool`s. Knows Harmony's declarations; nothing of
tokens, turns or clients.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from ossia.harmony import ToolNamespace
from ossia.tools.kinds import ToolKind

Value = TypeVar("Value")
MaybeAwaitable: TypeAlias = Value | Awaitable[Value]


@dataclass(frozen=True)
class ToolResult:
    """`text` is what the model reads, `outputs` what the client sees, in the form of the wire.

    `failed`: the tool could not do what it was asked for. `ended`: the session is gone, and its
    state with it; the next call begins a new one. `broke`: the tool itself is at fault, or did not
    answer in time: the text says nothing about what it was asked for.
    """

    text: str
    outputs: tuple[dict[str, Any], ...] = ()
    failed: bool = False
    ended: bool = False
    broke: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class SessionKey:
    """Whose state a session sees. Sessions with different keys never share any.

    `conversation` "": nobody can come back for the state. `container`: the one that code runs in;
    "": the conversation's own.
    """

    caller: str = ""
    conversation: str = ""
    container: str = ""


class ToolSession(Protocol):
    """A tool in use by one answer. State that outlives the answer is the tool's to keep, by key."""

    def action(self, function: str, text: str) -> dict[str, Any] | None:
        """What a call asks for, in the form that clients see: {"type": "search", "query": ...}.

        Raises nothing, whatever the model wrote.
        """
        ...

    def call(self, function: str, text: str, deadline: float | None) -> MaybeAwaitable[ToolResult]:
        """Carry out a call. `function` is "" for a tool without functions, `text` what the model
        wrote: JSON, or free text for such a tool.

        `deadline` is a time on the clock of `time.monotonic`. A tool that never waits returns its
        result at once, and so runs in the caller's thread. A `ToolError` is told to the model.
        """
        ...

    def close(self) -> MaybeAwaitable[None]:
        """The answer is over. What takes longer than `sessions.CLOSE_SECONDS` is broken off."""
        ...


@runtime_checkable
class Citable(Protocol):
    """A session whose results answers may cite."""

    def citable(self, cursor: int) -> Mapping[str, str] | None:
        """URL and title of what the mark 【cursor†...】 stands for; None if that is nothing."""
        ...


@runtime_checkable
class Filing(Protocol):
    """A session that keeps files which answers may link to."""

    def filed(self, path: str) -> Mapping[str, str] | None:
        """`container_id`, `file_id` and `filename` of a file in /mnt/data; None without one."""
        ...


@runtime_checkable
class AskingSession(Protocol):
    """A session that runs some calls only when somebody approves of them. Such a call ends the
    answer; what carries it out, if it is approved, need not be this session.
    """

    def asks(self, function: str) -> bool: ...


@runtime_checkable
class Interruptible(Protocol):
    """A session whose call can be ended early with a result, and without loss of its state."""

    def interrupt(self) -> bool:
        """Whether there is a call that will end now. Called by the handler of a signal: it takes
        no lock, and does not wait.
        """
        ...


class Tool(Protocol):
    """Something that the model may call and that we carry out."""

    @property
    def kind(self) -> ToolKind: ...

    @property
    def namespace(self) -> ToolNamespace:
        """The declaration. A namespace without functions is called itself, with free text."""
        ...

    def session(self, key: SessionKey) -> ToolSession: ...


def by_wire_type(tools: Iterable[Tool]) -> dict[str, Tool]:
    """Each of the types under which requests may ask for one of the tools."""
    return {name: tool for tool in tools for name in tool.kind.wire_types}
