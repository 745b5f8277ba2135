"""The tool `shell`: runs commands in whatever place it is given a runner for.

Knows the declaration, the arguments and what the model reads. Where commands run, and that they
cannot leave it, is the runner's: without one there is no shell.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ossia.errors import ToolError
from ossia.harmony import FunctionTool, ToolNamespace
from ossia.harmony.messages import FUNCTIONS
from ossia.tools.approval import Approvals, Approve
from ossia.tools.kinds import SHELL, ToolKind
from ossia.tools.protocol import MaybeAwaitable, SessionKey, ToolResult
from ossia.tools.texts import cut, read_json

SECONDS = 120.0  # of a command, unless it is given another limit
MOST_SECONDS = 600.0
CHARACTERS = 16_384  # of a command's output, unless it is given another limit
MOST_CHARACTERS = 131_072
MOST_COMMANDS = 32
LARGEST = 2**53  # of numbers: clients and replies cannot have any
PARAMETERS = {
    "type": "object",
    "properties": {
        "commands": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": MOST_COMMANDS,
            "description": "run one after the other, each in a shell of its own",
        },
        "timeout_ms": {"type": "integer", "minimum": 1, "description": "of each command"},
        "max_output_length": {
            "type": "integer",
            "minimum": 0,
            "description": "characters that are shown of each command's output",
        },
    },
    "required": ["commands"],
    "additionalProperties": False,
}
DECLARED = FunctionTool("shell", "Runs commands and shows what they print.", PARAMETERS)


class Ran(NamedTuple):
    """What a command printed, and its exit code; None: its time was over."""

    stdout: str
    stderr: str
    outcome: int | None


class Runner(Protocol):
    """Runs one command, confined. `cwd`: where it starts; "": the runner's own choice. At most
    `limit` characters of each stream are kept, head and tail; the rest is read and dropped. A
    command that takes more than `seconds` is ended with all that it started.
    """

    def __call__(
        self, argv: Sequence[str], cwd: str, seconds: float, limit: int
    ) -> MaybeAwaitable[Ran]: ...


@runtime_checkable
class Placed(Protocol):
    """A runner whose files clients know by a name."""

    @property
    def container_id(self) -> str | None: ...


@dataclass(frozen=True)
class Arguments:
    commands: tuple[str, ...]
    seconds: float = SECONDS
    limit: int = CHARACTERS

    @classmethod
    def of(cls, text: str) -> Arguments:
        """Raises ToolError, for the model to read."""
        try:
            value = read_json(text)
        except ValueError as error:
            raise ToolError(f"the arguments of shell are no JSON: {error}") from None
        if not isinstance(value, dict):
            raise ToolError('the arguments of shell are an object: {"commands": ["ls"]}')
        commands = value.get("commands")
        if not isinstance(commands, list):
            commands = []
        are_texts = all(isinstance(each, str) and "\0" not in each for each in commands)
        if not 0 < len(commands) <= MOST_COMMANDS or not are_texts:
            raise ToolError(f"`commands` must be a list of 1 to {MOST_COMMANDS} strings")
        seconds = _number(value, "timeout_ms", SECONDS * 1000) / 1000
        limit = _number(value, "max_output_length", CHARACTERS)
        return cls(tuple(commands), min(seconds, MOST_SECONDS), int(min(limit, MOST_CHARACTERS)))


def _number(value: dict[str, Any], key: str, default: float) -> float:
    found = value.get(key)
    if found is None:
        return default
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    if not is_number or not 0 <= found <= LARGEST:
        raise ToolError(f"`{key}` must be a number from 0 to {LARGEST}")
    return float(found)


class Shell:
    """`runner_of`: the place where commands of a conversation run. `argv`: what runs a command,
    which comes last. `approve`: asked before each call; None: none needs approval.
    """

    kind: ToolKind = SHELL
    namespace = ToolNamespace(FUNCTIONS, None, (DECLARED,))

    def __init__(
        self,
        runner_of: Callable[[SessionKey], Runner],
        *,
        cwd: str = "",
        argv: Sequence[str] = ("/bin/sh", "-c"),
        approve: Approve | None = None,
    ) -> None:
        self.approvals = Approvals(approve)
        self.runner_of = runner_of
        self.cwd = cwd
        self.argv = tuple(argv)

    def session(self, key: SessionKey) -> ShellSession:
        return ShellSession(self, self.runner_of(key))


class ShellSession:
    def __init__(self, shell: Shell, runner: Runner) -> None:
        self._shell = shell
        self._run = runner

    def action(self, function: str, text: str) -> dict[str, Any] | None:
        """`{"commands": [...], "timeout_ms", "max_output_length"}`, and the `container_id`, if the
        runner tells it; None if it cannot be read.
        """
        try:
            read = Arguments.of(text)
        except ToolError:
            return None
        made: dict[str, Any] = {
            "commands": list(read.commands),
            "timeout_ms": round(read.seconds * 1000),
            "max_output_length": read.limit,
        }
        if isinstance(self._run, Placed):
            made["container_id"] = self._run.container_id
        return made

    async def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
        """One output for each command: `{"stdout", "stderr", "outcome"}`. Commands after one whose
        time was over still run, as long as the deadline leaves time.
        """
        read = Arguments.of(text)
        asked = {"commands": list(read.commands)}
        refused = await self._shell.approvals.refused("shell", asked)
        if refused is not None:
            return refused
        outputs = []
        for command in read.commands:
            seconds = read.seconds
            if deadline is not None:
                seconds = min(seconds, deadline - time.monotonic())
            if seconds <= 0:
                outputs.append(Ran("", "not run: no time was left", None))
                continue
            argv = (*self._shell.argv, command)
            ran = self._run(argv, self._shell.cwd, seconds, read.limit)
            outputs.append(await _value(ran))
        cut = [_within(ran, read.limit) for ran in outputs]
        shown = [_shown(ran) for ran in cut]
        failed = any(ran.outcome != 0 for ran in cut)
        return ToolResult("\n\n".join(shown), tuple(map(_output, cut)), failed)

    def close(self) -> None:
        return None


async def _value(given: MaybeAwaitable[Ran]) -> Ran:
    return await given if isinstance(given, Awaitable) else given


def _within(ran: Ran, limit: int) -> Ran:
    """Whatever the runner says. The error stream may take half."""
    of_stderr = min(len(ran.stderr), max(limit // 2, limit - len(ran.stdout)))
    stdout = cut(ran.stdout, limit - of_stderr)
    return Ran(stdout, cut(ran.stderr, of_stderr), ran.outcome)


def _output(ran: Ran) -> dict[str, Any]:
    outcome: dict[str, Any] = {"type": "timeout"}
    if ran.outcome is not None:
        outcome = {"type": "exit", "exit_code": ran.outcome}
    return {"stdout": ran.stdout, "stderr": ran.stderr, "outcome": outcome}


def shown(output: Mapping[str, Any]) -> str:
    """What the model reads of an output in the form that clients have."""
    outcome = output.get("outcome")
    code = outcome.get("exit_code") if isinstance(outcome, Mapping) else 0
    streams = [str(output.get(name) or "") for name in ("stdout", "stderr")]
    return _shown(Ran(streams[0], streams[1], code if isinstance(code, int) else None))


def _shown(ran: Ran) -> str:
    parts = [part.removesuffix("\n") for part in (ran.stdout, ran.stderr) if part]
    if ran.outcome is None:
        parts.append("[the time limit was reached]")
    elif ran.outcome:
        parts.append(f"[exit code {ran.outcome}]")
    return "\n".join(parts) or "[no output]"
