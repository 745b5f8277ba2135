"""Errors on the wire: one exception with a status, one map from every other error to it, and its
form in each API.

Knows status codes, the packages' error types and the error objects of OpenAI, Anthropic and Ollama.
It never reads a message: field and code come with the error.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ossia import errors
from ossia.errors import HarmonyError, OssiaError, PromptTooLong, RequestError
from ossia.server.worker import EngineStopped

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "invalid_request_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
NO_THREADS = "thread_unsupported_request"  # Anthropic's code
NO_QUOTA = "insufficient_quota"  # OpenAI's code, and type
FAILED = "the server failed; its log says more"
NO_SPACE = "the server's disk is full: ask again when there is room on it"
CLIENT_GONE = 499  # the status in the log of a request whose client did not wait for the response
PLACES = ("body", "query", "path", "header")  # FastAPI puts these before the name of a field
# pydantic's words for what is wrong, in the words of `SamplingParams` and of our own readers
PYDANTIC = {
    "missing": "is missing",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a string",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "literal_error": "must be {expected}",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
}


class ApiError(Exception):
    """`param`: the field that is wrong, such as "messages[2].content". `code`: a word that programs
    compare.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        self.anthropic_message: str | None = None  # where it has to be another

    @classmethod
    def of(cls, error: Exception, **names: str) -> ApiError:
        """The answer to any error. `names`: what this API calls a field, by the name that the
        error has for it, as in `prompt="messages"`.
        """
        match error:
            case ApiError():
                return error
            case PromptTooLong():
                return cls._too_long(error, names.get("prompt"))
            case RequestError() | HarmonyError():
                field = error.field and names.get(error.field, error.field)
                return cls(400, str(error), param=field, code=error.code)
            case RequestValidationError():
                return _invalid(error.errors()[0])
            case EngineStopped():
                return cls(503, str(error), headers={"Retry-After": "5"})
            case ClientGone():
                return cls(CLIENT_GONE, "the client went away")
            case HTTPException():
                return cls(error.status_code, str(error.detail), headers=error.headers)
            case OssiaError(code=errors.DISK_FULL | errors.STORE_FULL):
                return cls(507, str(error), code=error.code)
            case OssiaError(code=errors.STORE_UNREACHABLE):
                headers = {"Retry-After": "5"}
                return cls(503, str(error), code=error.code, headers=headers)
            case OSError(errno=errno.ENOSPC | errno.EDQUOT):
                return cls(507, NO_SPACE, code=errors.DISK_FULL)
            case OssiaError():
                return cls(500, str(error), param=error.field, code=error.code)
        return cls(500, FAILED)

    @classmethod
    def _too_long(cls, error: PromptTooLong, field: str | None) -> ApiError:
        """In the words by which clients know that they must shorten the conversation."""
        most = error.most
        message = (
            f"this model's maximum context length is {most} tokens, but the prompt has "
            f"{error.tokens}: reduce the length of the messages"
        )
        made = cls(400, message, param=field or error.field, code=error.code)
        limit = min(most, error.tokens - 1)  # a prompt as long as the context is too long
        made.anthropic_message = f"prompt is too long: {error.tokens} tokens > {limit} maximum"
        return made

    @property
    def type(self) -> str:
        kind = "invalid_request_error" if 400 <= self.status < 500 else "server_error"
        return TYPES.get(self.status, kind)

    def openai(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": NO_QUOTA if self.code == NO_QUOTA else self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def anthropic(self) -> dict[str, Any]:
        is_failure = self.status >= 500 and self.status != 503
        kind = "api_error" if is_failure else self.type
        message = self.anthropic_message or self.message
        if (
            self.anthropic_message is None and self.param is not None and self.param not in message
        ):  # there is no field for it
            message = f"{self.param}: {message}"
        error: dict[str, Any] = {"type": kind, "message": message}
        if self.code == NO_THREADS:  # the SDKs look for it, and go on without
            error["details"] = {"error_code": self.code}
        return {"type": "error", "error": error}

    def ollama(self) -> dict[str, Any]:
        return {"error": self.message}


class ClientGone(Exception):
    """The client has closed its connection: there is no one to answer."""


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400."""
    return ApiError(400, message, param=param, code=code)


def _invalid(first: Mapping[str, Any]) -> ApiError:
    """The first of pydantic's errors about a body, a query or a path."""
    kind = first["type"]
    facts = first.get("ctx") or {}
    if kind == "json_invalid":
        return bad(f"the body is not valid JSON: {facts.get('error', first['msg'])}")
    loc = first["loc"]
    field = path_of(loc[1:] if loc[0] in PLACES else loc)
    if kind in PYDANTIC:
        what = PYDANTIC[kind].format(**{name: _plain(fact) for name, fact in facts.items()})
        if isinstance(first.get("input"), str | int | float):
            what += f", found {first['input']!r:.60}"
        return bad(f"{field or 'the body'} {what}", field)
    if kind in ("wrong", "value_error"):  # raised by a validator of ours, in its own words
        return bad(f"{field or 'the body'} {facts.get('why') or facts.get('error')}", field)
    return bad(f"{field or 'the body'}: {first['msg']}", field)


def _plain(fact: Any) -> Any:
    """pydantic makes floats of the bounds of a float: 0.0 as 0."""
    return int(fact) if isinstance(fact, float) and fact.is_integer() else fact


def path_of(parts: Sequence[str | int]) -> str | None:
    """`("messages", 2, "content")` as "messages[2].content"; None if there are no parts."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else part
    return path or None
