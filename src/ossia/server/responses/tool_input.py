"""What items say, as messages; and items of tools with items of a kind of their own: one reader a
type of item.

Knows wire items; a reader gets what it adds to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ossia.errors import PatchError
from ossia.harmony import CONSTRAIN, Message, Role
from ossia.harmony.messages import FUNCTIONS
from ossia.server.hosted.approvals import UNKNOWN, AskedFor
from ossia.server.hosted.told import told_by
from ossia.server.wire.content import result_part, text_of
from ossia.server.wire.fields import At
from ossia.tools.approval import NOT_APPROVED
from ossia.tools.mcp.config import label_of, recipient_name
from ossia.tools.patch import patch_of
from ossia.tools.shell import shown
from ossia.tools.texts import clean

LONGEST_REASON = 1000  # characters
PATCH = f"{FUNCTIONS}.apply_patch"
SHELL = f"{FUNCTIONS}.shell"
LOCAL_SHELL = f"{FUNCTIONS}.local_shell"
LOCAL_FIELDS = ("command", "timeout_ms", "working_directory", "env")
LETTERS = {"create_file": "A", "update_file": "M", "delete_file": "D"}


@dataclass(frozen=True)
class Wanted:
    """A call that has been approved, and has not run. `request`: the item. `place`: of the call's
    message.
    """

    request: At
    place: int


@dataclass
class Patch:
    """The items of one patch: its sections, and what came of them."""

    sections: list[At] = field(default_factory=list)
    outputs: list[At] = field(default_factory=list)


@dataclass
class Related:
    """Items that belong together, of a whole input. By the ids of requests for approval: `ran`, the
    calls that were approved and run; `answers`, whether they were approved, and why not.
    """

    patches: dict[str, Patch] = field(default_factory=dict)  # by the call_id of any section
    ran: dict[str, At] = field(default_factory=dict)
    answers: dict[str, At] = field(default_factory=dict)
    requests: set[str] = field(default_factory=set)
    shells: set[str] = field(default_factory=set)  # call_ids of commands with their results

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
                    made.ran[str(item["approval_request_id"].value)] = item
                case "mcp_approval_request":
                    made.requests.add(str(item["id"].value))
                case "mcp_approval_response":
                    made._answer(item)
        return made

    def _answer(self, item: At) -> None:
        """One that is given again counts once."""
        first = self.answers.setdefault(item["approval_request_id"].word(), item)
        if first["approve"].flag() != item["approve"].flag():
            raise item["approve"].wrong("is not what was answered to this request before")

    def _section(self, item: At) -> None:
        call_id = item["call_id"].word()
        base, _, number = call_id.rpartition("_")
        is_next = number.isdigit() and base in self.patches
        patch = self.patches[base] if is_next else Patch()
        patch.sections.append(item)
        self.patches[call_id] = patch


@dataclass
class Said:
    """What items say, so far. `open`: sealed reasoning, empty if it cannot be opened.
    `thoughts_before`: the remembered reasoning before a call, by its id. `first`: the index of the
    first item of this request's `input`; the items before it, from the field `before`, were checked
    when they came.
    """

    open: Callable[[str], str]
    thoughts_before: Callable[[str], tuple[Message, ...]]
    first: int = 0
    before: str = "previous_response_id"
    leading: list[str] = field(default_factory=list)  # instructions before anything else is said
    # that the browser showed, by cursor: URL and title, as far as the items tell
    pages: dict[int, tuple[str, str]] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)  # namespaces of MCP servers whose tools are known
    wanted: list[Wanted] = field(default_factory=list)  # approved calls
    related: Related = field(default_factory=Related)
    answered: set[str] = field(default_factory=set)  # call_ids
    callees: dict[str, str] = field(default_factory=dict)  # call_id -> recipient
    open_calls: dict[str, None] = field(default_factory=dict)  # call_ids without a result yet
    begin: int = 0  # of the messages that the model wrote last, without a break
    # whether calls of the server's tools, whose results items do not tell, belong to them
    hosted: bool = False
    has_call: bool = False  # whether a call that the client carries out is among them

    def add(self, message: Message) -> None:
        self.messages.append(message)
        if message.role is not Role.ASSISTANT:
            self.begin = len(self.messages)
            self.hosted = False
            self.has_call = False

    def called(
        self,
        recipient: str,
        body: str,
        call_id: str | None = None,
        *,
        is_json: bool = True,
    ) -> None:
        """A call. `call_id`: by which its result finds it."""
        if call_id is not None:
            self.callees[call_id] = recipient
            self.open_calls[call_id] = None
            if not self.has_call:
                self.remember(call_id)
            self.has_call = True
        content_type = f"{CONSTRAIN}json" if is_json else "code"
        self.add(Message(Role.ASSISTANT, body, None, "commentary", recipient, content_type))

    def told(self, recipient: str, text: str) -> None:
        """A result."""
        self.add(Message(Role.TOOL, text, recipient, "commentary", "assistant"))

    def answer(self, call_id: At, text: str) -> None:
        """The result of a call that came before. Raises `ApiError`."""
        recipient = self.callees.get(str(call_id.value))
        if recipient is None:
            raise call_id.wrong(f"is {call_id.value!r:.80}: no call before it has this call_id")
        self.open_calls.pop(str(call_id.value), None)
        self.told(recipient, text)

    def remember(self, call_id: str) -> None:
        """The reasoning before the call, if the client did not send it back."""
        sent = self.messages[self.begin :]
        has_thoughts = any(message.channel == "analysis" for message in sent)
        if has_thoughts and not self.hosted:
            return  # it is there
        calls = (message for message in sent if message.recipient)
        if any(message.channel == "commentary" for message in calls):
            return  # this is not the first call
        if remembered := self.thoughts_before(call_id):
            self.messages[self.begin :] = remembered


# ---- MCP ----


def _listed(said: Said, item: At) -> None:
    """A list that could not be had is tried again."""
    if item["error"].value is None:
        said.listed.add(label_of(item["server_label"].word()))


def _recipient(item: At) -> str:
    label = label_of(item["server_label"].word())
    return f"{label}.{recipient_name(item['name'].word(), ())}"


def _mcp_call(said: Said, item: At) -> None:
    """Without a result it did not come to its end."""
    recipient = _recipient(item)
    if str(item["approval_request_id"].value) in said.related.requests:
        return  # it stands where it was asked for
    sealed = told_by(item.value, said.open)
    text = _output_of(item)
    if sealed.messages:
        said.messages += sealed.messages
    elif text is not None:
        said.called(recipient, item["arguments"].text())
        said.told(recipient, text)


def _output_of(item: At) -> str | None:
    error = item["error"]
    text = item["output"].value
    if isinstance(text, str) or error.value is None:
        return text if isinstance(text, str) else None
    if isinstance(error.value, str):
        return error.value
    content = error["content"]
    if isinstance(content.value, str | list):
        return text_of(content, "\n", result_part)
    return error["message"].text("error: the call failed")


def _approval_request(said: Said, item: At) -> None:
    """The call, and what has become of it."""
    request = item["id"].word()
    recipient = _recipient(item)
    said.called(recipient, item["arguments"].text())
    ran = said.related.ran.get(request)
    answer = said.related.answers.get(request)
    if ran is not None:
        text = _output_of(ran)
        said.told(recipient, UNKNOWN if text is None else text)
    elif answer is not None and answer["approve"].flag():
        said.wanted.append(Wanted(item, len(said.messages) - 1))
    else:
        reason = "" if answer is None else answer["reason"].text("")
        said.told(recipient, f"{NOT_APPROVED} {clean(reason, LONGEST_REASON)}".strip())


def asked_for(item: At) -> AskedFor:
    """What a mcp_approval_request asks about."""
    label = item["server_label"].word()
    name = item["name"].word()
    arguments = item["arguments"].text()
    return AskedFor(label, name, arguments)


def _approval_response(said: Said, item: At) -> None:
    request = item["approval_request_id"]
    if request.word() not in said.related.requests:
        raise request.wrong(f"is {request.value!r:.80}: there is no such mcp_approval_request")


# ---- patches ----


def _patch_call(said: Said, item: At) -> None:
    """All sections are one call, in the place of the first."""
    call_id = item["call_id"].word()
    sections = said.related.patches[call_id].sections
    if sections[0].value is not item.value:
        return
    described = [_described(each["operation"]) for each in sections]
    said.called(PATCH, patch_of(described), call_id, is_json=False)


def _described(operation: At) -> Mapping[str, Any]:
    """Raises `ApiError` for what is no section of a patch."""
    given: Mapping[str, Any] = operation.object().value
    try:
        patch_of([given])
    except PatchError as error:
        raise operation.wrong(f"is none: {error}") from error
    return given


def _patch_output(said: Said, item: At) -> None:
    """What came of all sections is one result, in the place of the last."""
    call_id = item["call_id"]
    patch = said.related.patches.get(str(call_id.value))
    if patch is None or not patch.outputs:
        why = "no apply_patch_call before it has this call_id"
        raise call_id.wrong(f"is {call_id.value!r:.80}: {why}")
    if patch.outputs[-1].value is item.value:
        said.told(PATCH, _patched(patch))


def _patched(patch: Patch) -> str:
    """What the model reads: what each section's output says, or that all were applied."""
    said = list(_results(patch))
    if len(patch.sections) == 1 and any(text for _, text in said):
        return said[0][1]
    lines = [f"{title}: {text}" if text else title for title, text in said]
    if not any(text for _, text in said):
        lines.insert(0, "Success. Updated the following files:")
    return "\n".join(lines)


def _results(patch: Patch) -> Iterator[tuple[str, str]]:
    """Of each section that has an output, what it was to do and what came of it."""
    outputs = {str(each["call_id"].value): each for each in patch.outputs}
    for section in patch.sections:
        call_id = str(section["call_id"].value)
        output = outputs.get(call_id)
        if output is None:
            continue
        operation = section["operation"]
        letter = LETTERS[str(operation["type"].value)]
        text = ""
        if "output" in output:
            text = text_of(output["output"], "\n", result_part)
        if output["status"].value == "failed":
            text = f"error: {text or 'it could not be applied'}"
        yield f"{letter} {operation['path'].value}", text


# ---- commands ----


def _shell_call(said: Said, item: At) -> None:
    call_id = item["call_id"].word()
    action = item["action"].object()
    given: dict[str, Any] = {}
    commands = action["commands"].items("a list of commands")
    given["commands"] = [each.text() for each in commands]
    for key in ("timeout_ms", "max_output_length"):
        if key in action:
            given[key] = action[key].value
    if item["status"].value == "incomplete" and call_id not in said.answered:
        return
    sealed = told_by(item.value, said.open)
    if sealed.messages:
        said.messages += sealed.messages
        said.related.shells.add(call_id)
    else:
        said.called(SHELL, json.dumps(given), call_id)


def _shell_output(said: Said, item: At) -> None:
    """That of a sealed call stands there."""
    if str(item["call_id"].value) in said.related.shells:
        return
    output = item["output"]
    if isinstance(output.value, str):
        text = output.value
    else:
        outputs = [each.object().value for each in output.items()]
        text = "\n\n".join(map(shown, outputs))
    said.answer(item["call_id"], text)


def _local_shell_call(said: Said, item: At) -> None:
    """Of the tool before `shell`: one command, as a list of words."""
    action: Mapping[str, Any] = item["action"].object().value
    kept = {key: action[key] for key in LOCAL_FIELDS if action.get(key)}
    call_id = item["call_id"].word()
    said.called(LOCAL_SHELL, json.dumps(kept, ensure_ascii=False), call_id)


def _local_shell_output(said: Said, item: At) -> None:
    """Some clients name the call by `id`, others by `call_id`."""
    call_id = item["call_id"] if "call_id" in item else item["id"]
    said.answer(call_id, text_of(item["output"], "\n", result_part))


READERS: dict[str, Callable[[Said, At], None]] = {
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
