"""What a client is told when its request cannot be served: one exception, and its form on the wire.

Knows status codes and OpenAI's and Anthropic's error objects; nothing of what went wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ossia.errors import GrammarError, HarmonyError, OssiaError, RequestError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
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
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def type(self) -> str:
        return TYPES.get(self.status, "server_error")

    def openai(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def anthropic(self) -> dict[str, Any]:
        kind = "api_error" if self.status >= 500 and self.status != 503 else self.type
        return {"type": "error", "error": {"type": kind, "message": self.message}}


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400."""
    return ApiError(400, message, param=param, code=code)


def from_ossia(error: OssiaError, param: str | None = None) -> ApiError:
    """What a user's input can cause anywhere in ossia is a 400."""
    if isinstance(error, GrammarError):
        return bad(str(error), param or "tools", "invalid_schema")
    if isinstance(error, RequestError | HarmonyError):
        return bad(str(error), param)
    return ApiError(500, str(error))
