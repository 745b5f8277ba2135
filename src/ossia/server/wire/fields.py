"""Reading a request's body: JSON that every program would read the same, pydantic types without
conversions, and a cursor for values that are checked by hand.

Knows field names that all APIs share, and paths such as "tools[2].name"; nothing of what fields
mean to a model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ossia.server.wire.errors import ApiError, bad
from ossia.tools.texts import without_halves

PAIRS = 16  # of metadata, at most
KEY = 64  # characters of a key in it
VALUE = 512  # characters of a value in it
# Of a body. Each list or object takes some microseconds in which nobody else is answered: this is
# several times what the longest conversation has. Other values are cheaper, as are token ids.
MOST_PARTS = 1 << 16
MOST_STRINGS = 1 << 20
MOST_VALUES = 1 << 22

STRINGS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
HALF = re.compile("[\ud800-\udfff]")
STRING: dict[str, Any] = {"type": "string"}
OBJECT: dict[str, Any] = {"type": "object"}
NULL: dict[str, Any] = {"type": "null"}
# Fields that would change the answer if they were honoured, and the values that ask for nothing.
# An API that honours one declares it, and is not asked here.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "container": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "json_schema": (),
    "mcp_servers": ([],),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"], []),
    "moderation": (),
    "n": (1,),
    "prompt": (),
    "prompt_embeds": (),
    "prompt_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "structured_outputs": (),
    "suffix": ("",),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
}


# ---- bodies ----


def check_amount(text: str) -> None:
    """Raises `HTTPException` for a body that holds too much to be read while others wait."""
    marks = text.count('"') - text.count('\\"')  # as many as begin and end strings, or fewer
    is_much = marks > 2 * MOST_STRINGS or not (
        _holds_little(text) or _holds_little(STRINGS.sub("", text))
    )
    if is_much:
        most = f"{MOST_PARTS} lists and objects, {MOST_STRINGS} strings or {MOST_VALUES} values"
        raise HTTPException(400, f"the body has more than {most}: send less at a time")


def _holds_little(text: str) -> bool:
    parts = text.count("[") + text.count("{")
    return parts <= MOST_PARTS and parts + text.count(",") <= MOST_VALUES


def plain_json(raw: bytes) -> Any:
    """The value of a body. Half a surrogate pair, left by a client that cut a text in the middle of
    a character, is U+FFFD: in a history it would come again with every request. Raises
    `json.JSONDecodeError` also for what Python's reader accepts and other programs do not: NaN and
    infinite numbers, and `HTTPException` as `check_amount`.
    """
    try:
        text = raw.decode(json.detect_encoding(raw), "surrogatepass")
        check_amount(text)
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\ud" in text or "\\uD" in text or HALF.search(text):
            value = without_halves(value)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise json.JSONDecodeError(str(error) or "nested too deeply", "", 0) from error
    return value


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is beyond the range of a number")
    return number


class _Request(Request):
    async def json(self) -> Any:
        return plain_json(await self.body())


class _Route(APIRoute):
    """FastAPI's way to read bodies differently: a route with a request class of its own."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_Request(request.scope, request.receive))

        return handle


def api_router(*tags: str, **options: Any) -> APIRouter:
    """A router whose bodies are read by `plain_json`."""
    return APIRouter(tags=list(tags), route_class=_Route, **options)


# ---- types ----

T = TypeVar("T")
# The first wrong item is told, and no others are looked for: there may be a million.
ListOf = Annotated[list[T], Field(fail_fast=True)]


class Part(BaseModel):
    """An object on the wire. Unknown fields are accepted and ignored; known ones must have their
    type: nothing is converted.
    """

    model_config = ConfigDict(
        extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class ApiRequest(Part):
    """The fields that the requests of all APIs have."""

    model: str | None = None
    service_tier: str | None = None  # there is one: "default"
    user: str | None = None

    def check_supported(self) -> None:
        """Raises `ApiError` for a field that would change the answer and is not supported."""
        for name, value in (self.model_extra or {}).items():
            harmless = UNSUPPORTED.get(name)
            if harmless is not None and value is not None and value not in harmless:
                raise bad(
                    f"{name} is not supported here; leave it out", name, "unsupported_parameter"
                )


class StreamOptions(Part):
    """`continuous_usage_stats`: the usage so far on every chunk."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class StreamFields(Part):
    """The fields of Chat Completions and Completions that concern the stream."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def check_stream(self) -> None:
        """Raises `ApiError` for options without a stream."""
        if self.stream_options is not None and not self.stream:
            raise bad("stream_options needs stream: true", "stream_options")


EffortWord = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def wrong(why: str) -> PydanticCustomError:
    """What a validator raises; the error on the wire is the field's path and `why`."""
    return PydanticCustomError("wrong", "{why}", {"why": why})


def either(*schemas: dict[str, Any]) -> WithJsonSchema:
    """The description of a value that is checked by hand: pydantic's errors about a choice of types
    name no field.
    """
    return WithJsonSchema({"anyOf": [*schemas, NULL]})


StringOrObject = Annotated[Any, either(STRING, OBJECT)]
StringOrObjects = Annotated[Any, either(STRING, {"type": "array", "items": OBJECT})]


def _few(pairs: Any) -> Any:
    if isinstance(pairs, dict) and len(pairs) > PAIRS:
        raise wrong(f"must have at most {PAIRS} pairs, found {len(pairs)}")
    return pairs


def _small(pairs: dict[str, str]) -> dict[str, str]:
    for key, text in pairs.items():
        if len(key) > KEY:
            raise wrong(f"must have keys of at most {KEY} characters, found {key[:KEY]!r}...")
        if len(text) > VALUE:
            raise wrong(f"must have values of at most {VALUE} characters; see {key!r}")
    return pairs


Metadata = Annotated[
    dict[str, str],
    BeforeValidator(_few),
    AfterValidator(_small),
    Field(json_schema_extra={"maxProperties": PAIRS}),
]


# ---- values that are checked by hand ----


@dataclass(frozen=True)
class At:
    """A value in a request's body and its path. Every reader raises `ApiError` naming the path."""

    value: Any
    path: str

    def __getitem__(self, key: str) -> At:
        """A field; None if the object does not have it."""
        value = self.value.get(key) if isinstance(self.value, Mapping) else None
        return At(value, f"{self.path}.{key}")

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, Mapping) and self.value.get(key) is not None

    def wrong(self, what: str, code: str | None = None) -> ApiError:
        """The error: this value `what`, as in "must be a string"."""
        return bad(f"{self.path} {what}", self.path, code)

    def items(self, what: str = "a list") -> Iterator[At]:
        if not isinstance(self.value, list | tuple):
            raise self.wrong(f"must be {what}")
        return (At(value, f"{self.path}[{n}]") for n, value in enumerate(self.value))

    def object(self, what: str = "an object") -> At:
        if not isinstance(self.value, Mapping):
            raise self.wrong(f"must be {what}")
        return self

    def text(self, default: str | None = None) -> str:
        """A string; `default` if the field is missing."""
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, str):
            raise self.wrong("must be a string")
        return self.value

    def word(self) -> str:
        """A string that is not empty."""
        if not self.text():
            raise self.wrong("must not be empty")
        return str(self.value)

    def flag(self) -> bool:
        """False if the field is missing."""
        if not isinstance(self.value, bool | None):
            raise self.wrong("must be true or false")
        return self.value is True

    def one_of(self, *words: str) -> str:
        if self.value not in words:
            raise self.wrong(f"must be {_listed(words)}, not {self.value!r:.80}")
        return str(self.value)


def _listed(words: tuple[str, ...]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
