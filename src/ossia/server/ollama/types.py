"""What a client may send to /api/chat and /api/generate: the wire types, and what they ask for
besides messages.

Knows field names; nothing of HTTP or of answers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic import Field

from ossia.engine.request import Repetition, SamplingParams, TopLogprobs
from ossia.server.service import EFFORTS, Effort, Service
from ossia.server.wire.content import UNSUPPORTED
from ossia.server.wire.errors import bad
from ossia.server.wire.fields import STRING, ApiRequest, At, ListOf, Part, StringOrObject, either
from ossia.server.wire.format import AnswerFormat, answer_format
from ossia.server.wire.sampling import SamplingFields, StopStrings

# options that would change the answer, and the values of them that do not
OTHER_SAMPLERS: dict[str, tuple[Any, ...]] = {
    "mirostat": (0,),
    "tfs_z": (1,),
    "typical_p": (1,),
}


class Options(SamplingFields):
    """Those about memory and threads are the operator's here, and change nothing."""

    num_predict: Annotated[int, Ge(-2)] | None = Field(None, description="-1 and -2: no limit.")
    repeat_penalty: Repetition | None = None
    stop: StopStrings = ()

    def check_supported(self) -> None:
        for name, harmless in OTHER_SAMPLERS.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and value not in harmless:
                field = f"options.{name}"
                raise bad(f"{field} is not supported; leave it out", field, "unsupported_parameter")


class OllamaRequest(ApiRequest):
    """What both ways to ask have in common. `keep_alive`: the model is always there."""

    stream: bool | None = None
    format: StringOrObject = None
    options: Options | None = None
    think: Annotated[Any, either({"type": "boolean"}, STRING)] = None
    keep_alive: Any = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None

    @property
    def wishes(self) -> Options:
        return self.options or Options.model_validate({})

    @property
    def is_streamed(self) -> bool:
        return self.stream is not False

    def effort(self, service: Service, instructions: str | None) -> Effort:
        match self.think:
            case None | True:
                return service.effort(None, instructions)
            case False:
                return service.effort("none")
        word: Any = At(self.think, "think").one_of(*EFFORTS)
        return service.effort(word)

    def wanted_format(self) -> AnswerFormat:
        """`json`, or a schema. Raises `ApiError`."""
        at = At(self.format, "format")
        if self.format in (None, ""):
            return answer_format(At(None, "format"))
        if isinstance(self.format, str):
            at.one_of("json")
            return answer_format(At({"type": "json_object"}, "format"))
        wanted = {"type": "json_schema", "schema": at.object().value}
        return answer_format(At(wanted, "format"))

    def sampling(self, service: Service) -> SamplingParams:
        """Raises `ApiError`."""
        wishes = self.wishes
        self.check_supported()
        wishes.check_supported()
        limit = wishes.num_predict
        if limit == 0:
            raise bad("options.num_predict must not be 0", "options.num_predict")
        return service.sampling(
            wishes,
            max_tokens=limit if limit is not None and limit > 0 else None,
            repetition_penalty=wishes.repeat_penalty or wishes.repetition_penalty,
            top_logprobs=self.top_logprobs if self.logprobs else None,
        )


class OllamaMessage(Part):
    """`tool_name`: whose result it is."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: ListOf[Any] | None = None
    tool_calls: ListOf[dict[str, Any]] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ChatRequest(OllamaRequest):
    """POST /api/chat. Without messages the model is only to be loaded, which it is."""

    messages: ListOf[OllamaMessage] | None = None
    tools: ListOf[dict[str, Any]] | None = None


class GenerateRequest(OllamaRequest):
    """POST /api/generate."""

    prompt: str | None = None
    system: str | None = None
    images: ListOf[Any] | None = None
    template: str | None = None
    context: ListOf[int] | None = None
    raw: bool | None = None

    def check_supported(self) -> None:
        super().check_supported()
        instead = {
            "template": "messages are always written as Harmony",
            "context": "send the conversation to /api/chat",
            "raw": "send a prompt of your own to /v1/completions",
        }
        for name, why in instead.items():
            if getattr(self, name):
                raise bad(f"{name} is not supported: {why}", name, "unsupported_parameter")


class ShowRequest(Part):
    """`name`: what `model` was called once."""

    model: str | None = None
    name: str | None = None


def refuse_images(images: Any, field: str) -> None:
    if images:
        raise bad(f"{field}: this model reads text only", field, UNSUPPORTED)
