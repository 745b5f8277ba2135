"""Text in messages: a string, or a list of parts, under the names that the APIs have for parts of
text. What is not text is refused in the same words everywhere: the model could not see it.

Knows types of parts; nothing of messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ossia.server.wire.errors import ApiError
from ossia.server.wire.fields import At

UNSUPPORTED = "unsupported_content"  # the code of content that is not text
UNREADABLE = "error: this part of the result is of type {}, and the model reads text only"
RESULTS = ("tool", "function")  # roles of messages that are the results of tools
# the field that a part's text is in
TEXT_PARTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "summary_text": "text",
    "reasoning_text": "text",
    "refusal": "refusal",
}


def part_text(part: At) -> str:
    if isinstance(part.value, str):
        return part.value
    kind = part["type"].value
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        raise not_text(part)
    return part[TEXT_PARTS[kind]].text()


def result_part(part: At) -> str:
    """Of a tool's result. For an image or a file it is UNREADABLE: the tool has run, and to refuse
    what it gave would end the conversation for good.
    """
    kind = part["type"].value
    if isinstance(kind, str) and kind not in TEXT_PARTS:
        return UNREADABLE.format(kind)
    return part_text(part)


def text_of(content: At, between: str = "", read: Callable[[At], str] = part_text) -> str:
    """The text of a message or a result. Raises `ApiError` naming a part that is not text."""
    if isinstance(content.value, str):
        return content.value
    parts = content.items("a string or a list of parts")
    return between.join(read(part) for part in parts)


def not_text(part: At) -> ApiError:
    if not isinstance(part.value, Mapping):
        return part.wrong('must be an object such as {"type": "text", "text": ...}')
    kind = part["type"].value
    return part.wrong(f"is of type {kind!r:.80}: this model reads text only", UNSUPPORTED)
