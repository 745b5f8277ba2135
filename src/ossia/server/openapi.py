"""/openapi.json: what FastAPI finds out by itself, and the statuses that every operation can answer
with.

Knows the form of that document; nothing of what the operations do.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

REFUSALS = {
    "400": "A field of the request is wrong; the error names it.",
    "401": "No API key, or an unknown one.",
    "403": "The server does not answer to this host name, or to a page of another site.",
    "404": "There is no such thing, or it belongs to somebody else.",
    "405": "The path has no such method.",
    "408": "The body was not complete in time.",
    "413": "The request is too large.",
    "429": "Too many requests or tokens; Retry-After says when to try again.",
    "500": "The server failed; its log says more.",
    "503": "The server is about to stop, or its engine has failed.",
    "507": "The server's disk is full.",
}
OPENAI_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
ANTHROPIC_ERROR = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}
OLLAMA_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
OPEN = ("/health", "/ready")


def complete(app: FastAPI, *, has_keys: bool) -> None:
    """Adds what FastAPI cannot find out to the application's description of itself."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes)
            app.openapi_schema = _completed(made, has_keys)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _completed(made: dict[str, Any], has_keys: bool) -> dict[str, Any]:
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas |= {
        "OpenAIError": OPENAI_ERROR,
        "AnthropicError": ANTHROPIC_ERROR,
        "OllamaError": OLLAMA_ERROR,
    }
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    if has_keys:
        components["securitySchemes"] = SCHEMES
    for path, operations in made["paths"].items():
        name = _error_of(path)
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
        for operation in operations.values():
            responses = operation["responses"]
            responses.pop("422", None)  # FastAPI's own; what is invalid is a 400 here
            for status, about in REFUSALS.items():
                responses.setdefault(status, {"description": about}).setdefault("content", content)
            if has_keys and path not in OPEN:
                operation["security"] = [{"bearer": []}, {"x-api-key": []}]
    return made


def _error_of(path: str) -> str:
    if path.startswith("/v1/messages"):
        return "AnthropicError"
    return "OllamaError" if path.startswith("/api/") else "OpenAIError"
