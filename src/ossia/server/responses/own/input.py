"""Input items of tools with items of a kind of their own, as messages: one reader a type of item.

Knows wire items; a reader gets what it adds to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ossia.errors import PatchError
from ossia.harmony.messages import FUNCTIONS
from ossia.server.wire.content import result_part, text_of
from ossia.server.wire.fields import At
from ossia.tools.mcp.config import label_of, recipient_name
from ossia.tools.mcp.tool import NOT_APPROVED
from ossia.tools.patch import patch_of
from ossia.tools.shell import shown
from ossia.tools.texts import clean

if TYPE_CHECKING:
    from ossia.server.responses.input import Reader

LONGEST_REASON = 1000  # characters
PATCH = f"{FUNCTIONS}.apply_patch"
SHELL = f"{FUNCTIONS}.shell"
LOCAL_SHELL = f"{FUNCTIONS}.local_shell"
LETTERS = {"create_file": "A", "update_file": "M", "delete_file": "D"}


@dataclass(frozen=True)
class Wanted:
    """A call that has been approved, and has not run. `place`: of its message."""

    request: str
    label: str
    name: str
    place: int


@dataclass
class Patch:
    """The items of one patch: its sections, and what came of them."""

    sections: list[At] = field(default_factory=list)
    outputs: list[At] = field(default_factory=list)


@dataclass
class Related:
    """Items that belong together, of a whole input. `ran`: ids of requests whose calls have been
    run; `answers`: by the request, whether it was approved, and why not.
    """

    patches: dict[str, Patch] = field(default_factory=dict)  # by the call_id of any section
    ran: set[str] = field(default_factory=set)
    answers: dict[str, At] = field(default_factory=dict)
    requests: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, items: Sequence[At]) -> Related:
        made = cls()
        for item in items:
            match item["type"].value:
                case "apply_patch_call":
                    made._section(item)
                case "apply_patch_call_output":
                    found = made.patches.get(str(item["call_id"].value))
                    if found is not None:
                        found.outputs.append(item)
                case "mcp_call" if "approval_request_id" in item:
                    made.ran.add(str(item["approval_request_id"].value))
                case "mcp_approval_request":
                    made.requests.add(str(item["id"].value))
                case "mcp_approval_response":
                    made.answers[item["approval_request_id"].word()] = item
        return made

    def _section(self, item: At) -> None:
        call_id = item["call_id"].word()
        base, _, number = call_id.rpartition("_")
        is_next = number.isdigit() and base in self.patches
        patch = self.patches[base] if is_next else Patch()
        patch.sections.append(item)
        self.patches[call_id] = patch


# ---- MCP ----


def _listed(reader: Reader, item: At) -> None:
    reader.listed.add(item["server_label"].word())


def _recipient(item: At) -> str:
    label = label_of(item["server_label"].word())
    return f"{label}.{recipient_name(item['name'].word(), ())}"


def _mcp_call(reader: Reader, item: At) -> None:
    """Without a result it did not come to its end."""
    error = item["error"]
    text = item["output"].value
    if not isinstance(text, str) and error.value is None:
        return
    if not isinstance(text, str):
        text = _error_text(error)
    request = item["approval_request_id"].value
    if request not in reader.related.requests:  # its call is there already, otherwise
        reader.called(_recipient(item), item["arguments"].text())
    reader.told(_recipient(item), text)


def _error_text(error: At) -> str:
    if isinstance(error.value, str):
        return error.value
    content = error["content"]
    if isinstance(content.value, str | list):
        return text_of(content, "\n", result_part)
    return error["message"].text("error: the call failed")


def _approval_request(reader: Reader, item: At) -> None:
    """The call, and what has become of it."""
    request = item["id"].word()
    recipient = _recipient(item)
    reader.called(recipient, item["arguments"].text())
    if request in reader.related.ran:
        return
    answer = reader.related.answers.get(request)
    if answer is not None and answer["approve"].flag():
        place = len(reader.messages) - 1
        name = item["name"].word()
        reader.wanted.append(Wanted(request, item["server_label"].word(), name, place))
        return
    reason = "" if answer is None else answer["reason"].text("")
    reader.told(recipient, f"{NOT_APPROVED} {clean(reason, LONGEST_REASON)}".strip())


def _approval_response(reader: Reader, item: At) -> None:
    request = item["approval_request_id"]
    item["approve"].flag()
    if request.value not in reader.related.requests:
        raise request.wrong(f"is {request.value!r:.80}: there is no such mcp_approval_request")


# ---- patches ----


def _patch_call(reader: Reader, item: At) -> None:
    """All sections are one call."""
    call_id = item["call_id"].word()
    patch = reader.related.patches[call_id]
    described = item["operation"].object()
    try:
        patch_of([described.value])
    except PatchError as error:
        raise described.wrong(f"is none: {error}") from error
    if patch.sections[0].value is item.value:
        text = patch_of([each["operation"].value for each in patch.sections])
        reader.called(PATCH, text, call_id, is_json=False)


def _patch_output(reader: Reader, item: At) -> None:
    """What came of all sections is one result, in the place of the last."""
    call_id = item["call_id"]
    patch = reader.related.patches.get(str(call_id.value))
    if patch is None:
        raise call_id.wrong(f"is {call_id.value!r:.80}: no apply_patch_call has this call_id")
    if patch.outputs[-1].value is item.value:
        reader.told(PATCH, _patched(patch))


def _patched(patch: Patch) -> str:
    outputs = {str(each["call_id"].value): each for each in patch.outputs}
    lines = []
    has_said = False
    for section in patch.sections:
        output = outputs.get(str(section["call_id"].value))
        if output is None:
            continue
        operation = section["operation"]
        title = f"{LETTERS[str(operation['type'].value)]} {operation['path'].value}"
        said = text_of(output["output"], "\n", result_part) if "output" in output else ""
        if output["status"].value == "failed":
            said = f"error: {said or 'it could not be applied'}"
        has_said = has_said or bool(said)
        lines.append(f"{title}: {said}" if said else title)
    if len(patch.sections) == 1 and has_said:
        return lines[0].partition(": ")[2]
    head = "" if has_said else "Success. Updated the following files:\n"
    return head + "\n".join(lines)


# ---- commands ----


def _shell_call(reader: Reader, item: At) -> None:
    call_id = item["call_id"].word()
    action = item["action"].object()
    commands = [each.text() for each in action["commands"].items("a list of commands")]
    limits = {key: action[key].value for key in ("timeout_ms", "max_output_length")}
    given = {key: value for key, value in limits.items() if value is not None}
    if item["status"].value == "incomplete" and call_id not in reader.answered:
        return
    reader.called(SHELL, json.dumps({"commands": commands, **given}), call_id)


def _shell_output(reader: Reader, item: At) -> None:
    output = item["output"]
    if isinstance(output.value, str):
        text = output.value
    else:
        text = "\n\n".join(shown(each.object().value) for each in output.items())
    reader.answer(item["call_id"], text)


def _local_shell_call(reader: Reader, item: At) -> None:
    """Of the tool before `shell`: one command, as a list of words."""
    action: Mapping[str, Any] = item["action"].object().value
    kept = {key: action[key] for key in ("command", "timeout_ms", "working_directory", "env")
            if action.get(key)}  # fmt: skip
    call_id = item["call_id"].word()
    reader.called(LOCAL_SHELL, json.dumps(kept, ensure_ascii=False), call_id)


def _local_shell_output(reader: Reader, item: At) -> None:
    """Some clients name the call by `id`, others by `call_id`."""
    call_id = item["call_id"] if "call_id" in item else item["id"]
    reader.answer(call_id, text_of(item["output"], "\n", result_part))


READERS: dict[str, Callable[[Reader, At], None]] = {
    "mcp_list_tools": _listed,
    "mcp_call": _mcp_call,
    "mcp_approval_request": _approval_request,
    "mcp_approval_response": _approval_response,
    "apply_patch_call": _patch_call,
    "apply_patch_call_output": _patch_output,
    "shell_call": _shell_call,
    "shell_call_output": _shell_output,
    "local_shell_call": _local_shell_call,
    "local_shell_call_output": _local_shell_output,
}
