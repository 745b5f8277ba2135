"""Every error that ossia raises because of what a user gave it.

    OssiaError
    ├── ConfigError             a configuration that describes no model we can run
    ├── CheckpointError         files that are missing, damaged or contradict each other
    │   └── TensorMismatchError   a tensor's name, shape or dtype is not what the config implies
    ├── TokenizerError          a tokenizer.json we cannot honour, a missing special, an unknown id
    ├── HarmonyError            the chat format
    │   ├── RenderError           messages that cannot be written as Harmony
    │   ├── ParseError            tokens that are not well-formed Harmony (strict parsing only)
    │   └── GrammarError          a schema or pattern that sampling cannot be held to
    │       ├── GrammarSizeError    one that is too large to be compiled safely
    │       └── ToolChoiceError     a choice of tools that the declared ones do not allow
    ├── RequestError            a request that cannot be run: a bad sampling value
    │   └── PromptTooLong         a prompt that leaves no room for an answer
    ├── ToolError               a tool that was declared or called wrongly
    │   ├── SandboxError          code cannot be confined, or the sandbox does not start
    │   └── ContainerError        a container that is unknown, expired, full or one too many
    ├── ModelNotFoundError      a name that is not a preset, a path or a model we can download now
    ├── JudgeError              a model that is no judge, or a damaged file of verdicts
    ├── DataError               training data that is damaged, missing or of another vocabulary
    ├── EngineFailed            what a server answers with has ended, and the server with it
    ├── ProcessLost             one of several processes that compute together has ended
    └── TrainingError           a run that cannot go on: bad resume state, loss that is not a number

Knows nothing of the rest of the package. Messages say what was expected, what was found and what to
do next; they are for people. Programs read `field` and `code`. Our own bugs are `assert`s, not
these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

CONTEXT_EXCEEDED = "context_length_exceeded"  # the code of a prompt that does not fit
DISK_FULL = "disk_full"  # the code of what could not be written
STORE_FULL = "store_full"  # the code of what is more than may be kept
STORE_UNREACHABLE = "store_unreachable"  # the code of a database that does not answer now


class OssiaError(Exception):
    """Base of every error that a user's input can cause.

    `field`: the input at fault, by the name that the function which raises it has for it, such as
    "temperature" or "messages[2]". `code`: a word that programs compare.
    """

    code: str | None = None

    def __init__(self, message: str = "", field: str | None = None, code: str | None = None):
        super().__init__(message)
        self.field = field
        if code is not None:
            self.code = code


@contextmanager
def blaming(field: str) -> Iterator[None]:
    """Errors raised inside are about `field`, unless they name a field themselves."""
    try:
        yield
    except OssiaError as error:
        error.field = error.field or field
        raise


class ConfigError(OssiaError, ValueError):
    """A configuration that describes no model we can run."""


class CheckpointError(OssiaError):
    """Checkpoint files that are missing, damaged or contradict each other."""


class TensorMismatchError(CheckpointError):
    """A tensor whose name, shape or dtype is not what the config implies."""


class TokenizerError(OssiaError, ValueError):
    """A tokenizer file we cannot honour, a special token that is missing, an id that does not
    exist.
    """


class HarmonyError(OssiaError, ValueError):
    """A problem with the Harmony chat format."""


class RenderError(HarmonyError):
    """Messages that cannot be written as Harmony."""


class ParseError(HarmonyError):
    """Tokens that are not well-formed Harmony; only strict parsing raises it."""


class GrammarError(HarmonyError):
    """What the sampling should be held to cannot be enforced, or contradicts itself."""

    code: str | None = "invalid_schema"


class GrammarSizeError(GrammarError):
    """A schema, pattern or grammar over a bound; never one that may be left out instead."""

    code = "grammar_too_large"


class ToolChoiceError(GrammarError):
    """A tool choice that names no declared tool, or asks for a call where there are no tools."""

    code = None


class RequestError(OssiaError, ValueError):
    """A generation request that cannot be run."""


class PromptTooLong(RequestError):
    """A prompt that leaves no room for an answer. `tokens`: it has; `most`: prompt and answer may
    have together.
    """

    def __init__(self, tokens: int, most: int, field: str = "prompt") -> None:
        message = f"the prompt has {tokens} tokens; the context holds {most}"
        super().__init__(message, field, CONTEXT_EXCEEDED)
        self.tokens = tokens
        self.most = most


class ToolError(OssiaError):
    """A tool that was declared or called wrongly."""


class SandboxError(ToolError):
    """Code that cannot be confined on this machine, or a sandbox that does not start."""


class ContainerError(ToolError):
    """A container or a file in one that is unknown, expired, too large or one too many."""


class PatchError(ToolError):
    """A patch that cannot be read or does not fit the files. Nothing was written."""


class McpError(ToolError):
    """An MCP server, or what is configured of one, that cannot be used."""


class ModelNotFoundError(OssiaError):
    """A model name that is neither a preset, a path nor something that can be downloaded now."""


class JudgeError(OssiaError):
    """A model that cannot be trusted with verdicts, or a file of them that is damaged."""


class DataError(OssiaError):
    """Training data, or a filter of it, that is damaged, missing, of another vocabulary or of no
    use.
    """


class ProcessLost(OssiaError):
    """One of the processes that a model is spread over has ended, so the others cannot go on."""


class EngineFailed(OssiaError):
    """The engine of a server failed: the server ends, so that whoever watches it starts another."""


class TrainingError(OssiaError):
    """A training run that cannot start or go on."""
