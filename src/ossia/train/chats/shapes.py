"""The shapes in which people keep training data, as one: chat-completions messages.

`SHAPES` is the table: which keys make a line which shape, and how it is read. Then come the
differences that any of them may have: lists written as JSON strings, the nulls that Arrow fills in
for keys that a line does not have, the keys by which trainers say what is not learned, keys that
mean nothing here. Knows lines and messages; what a chat looks like to the model is `encode.py`, and
markup inside texts is `markup.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ossia.errors import HarmonyError
from ossia.harmony.chat_messages import REASONING_KEYS
from ossia.train.chats.lines import from_json

Object = Mapping[str, Any]

# How trainers say whether a message, or a whole line, is learned, and the values that they write.
# A bool and a number are read in either.
LEARN = {
    "train": "true or false",
    "loss": "true or false",
    "trainable": "true or false",
    "training": "true or false",
    "train_on_turn": "true or false",
    "loss_mask": "0 or 1",
    "weight": "0 or 1",
}
# Keys that cannot be ignored, and what to write instead.
REFUSED = {
    "functions": "is the old form; use tools",
    "function_call": "is the old form; use tool_calls",
    "train_detail": "parts of a message cannot be learned; use train for the whole message",
    "training_detail": "parts of a message cannot be learned; use train for the whole message",
}
USED = ("tools", "reasoning_effort", "system", *LEARN)
MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "refusal", *LEARN)
HARMONY_KEYS = ("channel", "recipient", "content_type")
CALL_KEYS = {"id", "type", "index", "function"}
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
}
OTHER_NAMES = {  # that people give to keys of the shapes
    "messages": ("conversation", "dialogue", "dialog", "chat"),
    "prompt": ("question", "query"),
    "completion": ("response", "answer", "chosen"),
    "instruction": ("input",),
    "output": ("response", "answer"),
    "text": ("content",),
}
CALLS = "function_call"  # of a ShareGPT message: its value is a call, or a list of them
MAY_BE_NULL = ("default", "const")  # of a schema


@dataclass(frozen=True)
class Said:
    """A message of chat completions, and what the line calls it. `may_learn`: whether its place
    allows it.
    """

    place: str
    message: dict[str, Any]
    may_learn: bool = True


@dataclass
class Form:
    """A line in the one form. `document`: a text that is no conversation, in place of messages."""

    said: list[Said] = field(default_factory=list)
    tools: Any = None
    effort: Any = None
    document: str | None = None
    shape: str = ""  # the first key of its shape
    learned: bool = True  # whether the line may be learned at all
    unknown: Counter[str] = field(default_factory=Counter)  # keys that mean nothing here

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [one.message for one in self.said]

    @property
    def content(self) -> list[Any]:
        """What makes two lines the same conversation."""
        return [self.messages, self.tools, self.effort, self.document]


@dataclass(frozen=True)
class Shape:
    """Lines that have all the keys in `needs`; `more` are others that have a meaning there."""

    name: str
    needs: tuple[str, ...]
    read: Callable[[Object, Form], None]
    more: tuple[str, ...] = ()


def _messages(line: Object, form: Form) -> None:
    form.said += _list_of_messages(line["messages"], "messages")


def _share_gpt(line: Object, form: Form) -> None:
    form.said += _list_of_messages(line["conversations"], "conversations")


def _prompt(line: Object, form: Form) -> None:
    """Of what the prompt holds nothing is learned."""
    for one in _either(line["prompt"], "prompt", "user"):
        form.said.append(replace(one, may_learn=False))
    form.said += _either(line["completion"], "completion", "assistant")


def _instruction(line: Object, form: Form) -> None:
    for index, pair in enumerate(_unpacked(line.get("history"), "history") or ()):
        place = f"history[{index}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise HarmonyError(f"{place}: must be [question, answer], found {kind_of(pair)}")
        form.said.append(_spoken("user", pair[0], place))
        form.said.append(_spoken("assistant", pair[1], place))
    asked = [_text(line, "instruction"), _text(line, "input")]
    question = "\n\n".join(filter(str.strip, asked))
    form.said.append(_spoken("user", question, "instruction"))
    form.said.append(_spoken("assistant", _text(line, "output"), "output"))


def _document(line: Object, form: Form) -> None:
    form.document = _text(line, "text")


SHAPES = (
    Shape("chat", ("messages",), _messages),
    Shape("ShareGPT", ("conversations",), _share_gpt),
    Shape("prompt", ("prompt", "completion"), _prompt),
    Shape("instruction", ("instruction", "output"), _instruction, ("input", "history")),
    Shape("text", ("text",), _document),
)


def form_of(line: Object) -> Form:
    """One line in the one form. Raises HarmonyError naming the key that does not fit."""
    line = without_nulls(line)
    _refuse(line, "")
    shape = _shape_of(line)
    tools = _tools(line.get("tools"))
    effort = line.get("reasoning_effort")
    form = Form(shape=shape.needs[0], tools=tools, effort=effort)
    shape.read(line, form)
    if instructions := _text(line, "system"):
        first = _spoken("system", instructions, "system")
        if first.message not in form.messages[:1]:
            form.said.insert(0, first)
    form.learned = is_learned(line, "") is not False
    known = {*shape.needs, *shape.more, *USED}
    for key, value in line.items():
        if key not in known or (key in LEARN and not _is_yes_or_no(value)):
            form.unknown[key] += 1
    for message in form.messages:
        form.unknown.update(_unknown_keys(message))
    _fill_arguments(form)
    return form


def _shape_of(line: Object) -> Shape:
    for shape in SHAPES:
        if line.keys() >= set(shape.needs):
            return shape
    known = "; ".join(" and ".join(shape.needs) for shape in SHAPES)
    found = ", ".join(line) or "nothing"
    hint = next(filter(None, (_renaming(line, shape) for shape in SHAPES)), "")
    raise HarmonyError(f"expected the keys of a known shape ({known}), found {found}{hint}")


def _renaming(line: Object, shape: Shape) -> str:
    """What to rename for a line to have a shape; "" if that does not do."""
    words = []
    for key in shape.needs:
        others = [other for other in OTHER_NAMES.get(key, ()) if other in line]
        if key not in line and not others:
            return ""
        if key not in line:
            words.append(f"{others[0]} to {key}")
    return f"; rename {' and '.join(words)}"


# ---- messages ------------------------------------------------------------------------------------


def _list_of_messages(value: Any, where: str) -> list[Said]:
    value = _unpacked(value, where)
    if not isinstance(value, list) or not value:
        raise HarmonyError(f"{where}: must be a list of messages, found {kind_of(value)}")
    said = []
    waiting: list[str] = []  # ids of ShareGPT's calls that have no result yet
    for index, message in enumerate(value):
        place = f"{where}[{index}]"
        if not isinstance(message, Mapping):
            raise HarmonyError(f"{place}: must be an object, found {kind_of(message)}")
        message = without_nulls(message)
        _refuse(message, f"{place}.")
        said.append(Said(place, _message(message, place, waiting)))
    return said


def _either(value: Any, where: str, role: str) -> list[Said]:
    """A text, or messages."""
    if isinstance(value, str):
        return [_spoken(role, value, where)]
    return _list_of_messages(value, where)


def _message(message: dict[str, Any], place: str, waiting: list[str]) -> dict[str, Any]:
    """In the keys and roles of chat completions."""
    if "role" not in message and "from" in message:
        message["role"] = message.pop("from")
        if "content" not in message:
            message["content"] = message.pop("value", None)
        if message["role"] == CALLS:
            calls = _unpacked(message["content"], place)
            return message | {"role": "assistant", "content": None} | _made(calls, place, waiting)
    role = message.get("role")
    message["role"] = ROLES.get(role, role) if isinstance(role, str) else role
    if "tool_calls" in message:
        calls = _unpacked(message["tool_calls"], f"{place}.tool_calls")
        calls = [] if calls is None else calls
        if not isinstance(calls, list):
            raise HarmonyError(f"{place}.tool_calls: must be a list, found {kind_of(calls)}")
        message["tool_calls"] = [_call(_unpacked(call, place)) for call in calls]
    is_named = "tool_call_id" in message or "name" in message
    if message["role"] == "tool" and waiting and not is_named:
        message["tool_call_id"] = waiting.pop(0)
    return message


def _made(calls: Any, place: str, waiting: list[str]) -> dict[str, Any]:
    """ShareGPT's calls, with ids."""
    made = []
    for number, call in enumerate(calls if isinstance(calls, list) else [calls]):
        if not isinstance(call, Mapping):
            raise HarmonyError(f"{place}: must be a call, found {kind_of(call)}")
        id = f"{place}.{number}"
        waiting.append(id)
        function = without_nulls(call)
        made.append({"id": id, "type": "function", "function": function})
    return {"tool_calls": made}


def _call(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    call = without_nulls(call)
    if isinstance(call.get("function"), Mapping):
        call["function"] = without_nulls(call["function"])
    return call


def _spoken(role: str, text: Any, place: str) -> Said:
    return Said(place, {"role": role, "content": text})


def is_learned(item: Object, where: str) -> bool | None:
    """What the keys of a message, or of a line ("" is where), say; None if they say nothing."""
    yes = None
    no = None
    for key, words in LEARN.items():
        value = item.get(key)
        if _is_yes_or_no(value):
            yes = key if value else yes
            no = no if value else key
        elif value is not None and where:
            raise HarmonyError(f"{where}.{key}: must be {words}, found {value!r}")
    if yes and no:
        raise HarmonyError(
            f"{where or 'the line'}: {yes} is {item[yes]} and {no} is {item[no]}; give one of them"
        )
    return bool(yes) if yes or no else None


def _is_yes_or_no(value: Any) -> bool:
    return value in (True, False)  # 1, 0 and 1.0 too


# ---- what any shape may have ---------------------------------------------------------------------


def without_nulls(item: Object) -> dict[str, Any]:
    """Without the keys that are null: Arrow fills in every key that another line has."""
    return {key: value for key, value in item.items() if value is not None}


def _tools(value: Any) -> list[Any] | None:
    """The tools, out of JSON strings, without Arrow's nulls."""
    value = _unpacked(value, "tools")
    if value is None:
        return None
    if not isinstance(value, list):
        raise HarmonyError(f"tools: must be a list, found {kind_of(value)}")
    tools = [_unpacked(tool, f"tools[{index}]") for index, tool in enumerate(value)]
    for tool in tools:
        for part in _functions(tool):
            part["parameters"] = _unpacked(part.get("parameters"), "tools: parameters")
    # a null default means something, unless nulls stand where none can
    filled = set(_null_keys(tools)) - {"parameters", *MAY_BE_NULL}
    keep = () if filled else MAY_BE_NULL
    return [_cleaned(tool, keep) for tool in tools]


def _functions(tool: Any) -> Iterator[dict[str, Any]]:
    """The objects of a tool that may have `parameters`."""
    if isinstance(tool, dict):
        for part in (tool, tool.get("function")):
            if isinstance(part, dict) and "parameters" in part:
                yield part


def _null_keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if inner is None:
                yield key
            yield from _null_keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _null_keys(inner)


def _cleaned(value: Any, keep: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_cleaned(inner, keep) for inner in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: _cleaned(inner, keep)
        for key, inner in value.items()
        if inner is not None or key in keep
    }


def _fill_arguments(form: Form) -> None:
    """Take Arrow's nulls out of arguments that are objects: a null stays where the tool requires
    the key. Arguments in a string stay as they are.
    """
    schemas: dict[str, Any] = {}
    for tool in form.tools or ():
        for declared in _functions(tool):
            schemas[str(declared.get("name"))] = declared["parameters"]
    for message in form.messages:
        for call in message.get("tool_calls") or ():
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                schema = schemas.get(str(function.get("name")))
                function["arguments"] = _given(function.get("arguments"), schema)


def _given(value: Any, schema: Any) -> Any:
    known = schema if isinstance(schema, Mapping) else {}
    if isinstance(value, list):
        return [_given(inner, known.get("items")) for inner in value]
    if not isinstance(value, Mapping):
        return value
    required = known.get("required")
    if not isinstance(required, list):  # true of one property, in JSON Schema's draft 3
        required = ()
    types = known.get("properties")
    types = types if isinstance(types, Mapping) else {}
    return {
        key: _given(inner, types.get(key))
        for key, inner in value.items()
        if inner is not None or key in required
    }


def _unpacked(value: Any, where: str) -> Any:
    """A value that may be written as a JSON string; a blank one is none."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return from_json(value)
    except HarmonyError as error:
        raise HarmonyError(f"{where}: a string that is {error}") from error


def _text(line: Object, key: str) -> str:
    value = line.get(key, "")
    if not isinstance(value, str):
        raise HarmonyError(f"{key}: must be a string, found {kind_of(value)}")
    return value


def _refuse(item: Object, where: str) -> None:
    for key, why in REFUSED.items():
        if key in item:
            raise HarmonyError(f"{where}{key}: {why}")


def _unknown_keys(message: Object) -> Iterator[str]:
    known = {*MESSAGE_KEYS, *REASONING_KEYS, *HARMONY_KEYS}
    for key in message:
        if key not in known:
            yield f"messages[].{key}"
    for call in message.get("tool_calls") or ():
        if isinstance(call, Mapping):
            for key in call.keys() - CALL_KEYS:
                yield f"messages[].tool_calls[].{key}"


def kind_of(value: Any) -> str:
    if value in (None, []):
        return "nothing"
    return "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}"
