"""What an MCP server answers, as a result for the model.

Knows the form of MCP's results, as plain JSON; no connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ossia.tools.protocol import ToolResult
from ossia.tools.texts import clean, cut

CHARACTERS = 32_768  # of a result that the model reads: about 8,192 tokens
Keep = Callable[[str, str], str | None]  # a name and a text; where the file lies for the model


def as_result(answer: Mapping[str, Any], name: str, keep: Keep | None = None) -> ToolResult:
    """`answer`: `{"content", "structuredContent"?, "isError"?}`. A text that is too long is cut;
    `keep` may put the whole of it where the model can read it.
    """
    content = answer.get("content")
    parts = list(_parts(content if isinstance(content, Sequence) else ()))
    texts = [text for text, is_text in parts if is_text]
    structured = answer.get("structuredContent")
    if not any(texts) and structured is not None:
        parts.append((json.dumps(structured, ensure_ascii=False), True))
    text = "\n".join(text for text, _ in parts)
    if len(text) > CHARACTERS:
        place = keep(f"{name}.txt", text) if keep else None
        text = cut(text, CHARACTERS)
        if place:
            text += f"\n[the whole result is in {place}]"
    return ToolResult(text, failed=answer.get("isError") is True)


def _parts(content: Sequence[Any]) -> Iterator[tuple[str, bool]]:
    """The texts, and notes of what is none."""
    for part in content:
        if not isinstance(part, Mapping):
            continue
        kind = str(part.get("type"))
        if kind == "text":
            yield str(part.get("text", "")), True
        elif kind in ("image", "audio"):
            size = len(str(part.get("data", ""))) * 3 // 4
            yield f"[{kind}: {_word(part.get('mimeType'))}, about {size:,} bytes]", False
        elif kind == "resource_link":
            yield f"[file: {_word(part.get('uri'))}]", False
        elif kind == "resource":
            yield _resource(part.get("resource"))
        else:
            yield f"[{_word(kind)}]", False


def _resource(resource: Any) -> tuple[str, bool]:
    if not isinstance(resource, Mapping):
        return "[file]", False
    if isinstance(resource.get("text"), str):
        return str(resource["text"]), True
    size = len(str(resource.get("blob", ""))) * 3 // 4
    return f"[file: {_word(resource.get('uri'))}, about {size:,} bytes]", False


def _word(value: Any) -> str:
    return clean(str(value), 200).replace("\n", " ")
