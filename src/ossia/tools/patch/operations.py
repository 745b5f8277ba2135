"""A patch section by section, as items of the Responses API describe it, and back.

Knows the format and these descriptions; nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ossia.errors import PatchError
from ossia.tools.patch.reading import (
    ADD,
    BEGIN,
    DELETE,
    END,
    MOVE,
    UPDATE,
    AddFile,
    DeleteFile,
    Patch,
    Section,
)

HEADER = {"create_file": ADD, "update_file": UPDATE, "delete_file": DELETE}


def operations(patch: Patch) -> list[dict[str, Any]]:
    """One for each section: `{"type": "create_file" | "update_file", "path", "diff"}`, with
    `move_to` if it has one, or `{"type": "delete_file", "path"}`.
    """
    pairs = zip(patch.sections, patch.bodies, strict=True)
    return [_operation(section, body) for section, body in pairs]


def _operation(section: Section, body: Sequence[str]) -> dict[str, Any]:
    match section:
        case DeleteFile():
            return {"type": "delete_file", "path": section.path}
        case AddFile():
            lines = ["+" + line for line in section.lines]
            return {"type": "create_file", "path": section.path, "diff": _joined(lines)}
    made: dict[str, Any] = {"type": "update_file", "path": section.path}
    if section.move_to is not None:
        made["move_to"] = section.move_to
        body = body[1:]
    return made | {"diff": _joined(body)}


def _joined(lines: Sequence[str]) -> str:
    return "".join(line + "\n" for line in lines)


def patch_of(described: Sequence[Mapping[str, Any]]) -> str:
    """The patch that such descriptions are of: what the model is shown of its own earlier call.

    Raises PatchError for a description of another form.
    """
    lines = [line for each in described for line in _section(each)]
    return _joined([BEGIN, *lines]) + END


def _section(described: Mapping[str, Any]) -> Iterator[str]:
    header = HEADER.get(str(described.get("type")))
    path = described.get("path")
    diff = described.get("diff", "")
    move_to = described.get("move_to")
    texts = [path, diff, move_to or ""]
    if header is None or not all(isinstance(text, str) for text in texts):
        raise PatchError(
            "an operation has a type (create_file, update_file, delete_file), a path and, unless "
            "it deletes, a diff"
        )
    if any("\n" in text for text in (str(path), str(move_to))):
        raise PatchError("the path of an operation is one line")
    yield f"{header} {path}"
    if header == DELETE:
        return
    if move_to:
        yield f"{MOVE} {move_to}"
    body = str(diff).removesuffix("\n")
    yield from body.split("\n") if body else ()
