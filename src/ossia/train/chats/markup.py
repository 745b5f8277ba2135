"""Markup inside the texts of training data: Harmony's control words, those of other formats,
`<think>`.

As text it would teach the model to write words where its tokens belong. So it is found, or made
what it stands for. Knows the one form of a line (`shapes.py`) and Harmony's parser.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from ossia.errors import HarmonyError
from ossia.harmony import Message, Role, parse_completion
from ossia.harmony.chat_messages import REASONING_KEYS, split_thought
from ossia.tokenizer import Tokenizer
from ossia.train.chats.shapes import Form, Said

Markup = Literal["stop", "convert", "keep"]
ADVICE = {
    "stop": "take it out, or let markup=convert make reasoning, channels and calls of what the "
    "assistant's texts hold",
    "convert": "it is not whole, or stands where it means nothing, so that markup=convert cannot "
    "make reasoning, channels or calls of it; put it right or take it out",
}
START = "<|start|>"
WORD = re.compile(r"<\|[a-z][a-z0-9_]*\|>|</?think(?:ing)?>|</?tool_(?:call|response)>")
CONTROL = re.compile(r"<\|(?:start|channel|constrain|message|end|call|return)\|>")
END = re.compile(r"<\|(?:end|call|return)\|>")
BETWEEN = re.compile(r"(<\|(?:end|call|return)\|>)\s+(?=<\|start\|>)")


def read_markup(form: Form, markup: Markup) -> None:
    """Do with the markup in a line what is wanted. A `text` that is Harmony is read as such.

    Raises HarmonyError naming the text that holds markup, or cannot be converted, or the key that
    has no place beside a text.
    """
    if form.document is not None:
        _refuse_beside(form)
    if form.document is not None and form.document.lstrip().startswith(START):
        form.said = _from_text("text", form.document)
        form.document = None
    elif markup == "convert":
        form.said = _converted(form.said)
    if markup == "keep":
        return
    for place, text, assistants in _texts(form):
        found = WORD.search(text)
        if found is not None and (markup == "stop" or assistants):
            raise HarmonyError(
                f"{place}: holds {found[0]!r}, which would be learned as text: {ADVICE[markup]}, "
                "or let markup=keep learn it as it is"
            )


def _refuse_beside(form: Form) -> None:
    beside = {"system": form.said, "tools": form.tools, "reasoning_effort": form.effort}
    for key, value in beside.items():
        if value:
            raise HarmonyError(f"{key}: has no place beside text: write it into the text")


def _texts(form: Form) -> Iterator[tuple[str, str, bool]]:
    """(place, text, whether it is the assistant's)."""
    if form.document is not None:
        yield "text", form.document, True
    for one in form.said:
        assistants = one.message.get("role") == Role.ASSISTANT
        for text in _parts(one.message.get("content")):
            yield one.place, text, assistants
        for key in REASONING_KEYS:
            for text in _parts(one.message.get(key)):
                yield f"{one.place}.{key}", text, assistants
        for number, call in enumerate(one.message.get("tool_calls") or ()):
            function = call.get("function") if isinstance(call, Mapping) else None
            given = function.get("arguments") if isinstance(function, Mapping) else None
            text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
            yield f"{one.place}.tool_calls[{number}].function.arguments", text, assistants


def _parts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else ():
        text = part.get("text") if isinstance(part, Mapping) else None
        if isinstance(text, str):
            yield text


# ---- what it stands for --------------------------------------------------------------------------


def _converted(said: list[Said]) -> list[Said]:
    texts = {one.place: one.message.get("content") for one in said}
    prompt = texts.get("prompt")
    if isinstance(prompt, str) and prompt.lstrip().startswith(START):
        if [*texts] != ["prompt", "completion"]:
            raise HarmonyError(
                "prompt: is Harmony's text, which the text of completion must go on, and nothing "
                f"else; found {', '.join(texts)}: write all of it into the two texts"
            )
        learn_from = len(END.findall(prompt))
        return _from_text("prompt", f"{prompt}{texts['completion']}", learn_from)
    out = []
    for one in said:
        parts = [one.message]
        if one.message.get("role") == Role.ASSISTANT:
            try:
                parts = _meant(one.message)
            except HarmonyError as error:
                why = f"its markup cannot be converted: {error}"
                raise HarmonyError(f"{one.place}: {why}") from error
        out += [replace(one, message=part) for part in parts]
    return out


def _from_text(place: str, text: str, learn_from: int = 0) -> list[Said]:
    """The messages that Harmony's text stands for; those from number `learn_from` on may be
    learned.
    """
    try:
        messages = _parsed(text)
    except HarmonyError as error:
        raise HarmonyError(f"{place}: begins as Harmony, and is not: {error}") from error
    return [
        Said(place, message.to_dict(), may_learn=index >= learn_from)
        for index, message in enumerate(messages)
    ]


def _parsed(text: str, role: Role | None = None) -> list[Message]:
    """The messages of a text in which the names of special tokens are those tokens."""
    text = BETWEEN.sub(r"\1", text.strip())
    tokenizer = Tokenizer.o200k_harmony()  # any would do: the tokens are read again at once
    ids = tokenizer.encode_with_specials(text)
    return list(parse_completion(ids, tokenizer, role, strict=True))


def _meant(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages that an assistant's message with markup in it stands for."""
    content = "".join(_parts(message.get("content")))
    if CONTROL.search(content) is not None:
        return _from_harmony(message, content)
    parted = split_thought(content)
    if parted is None:
        return [message]
    if any(message.get(key) for key in REASONING_KEYS):
        raise HarmonyError("it has reasoning of its own besides that of its content")
    thought, answer = parted
    return [message | {"reasoning": thought, "content": answer}]


def _from_harmony(message: dict[str, Any], content: str) -> list[dict[str, Any]]:
    parts = []
    for key in (*REASONING_KEYS, "tool_calls"):  # what stands beside the content
        if value := message.get(key):
            parts.append({key: value})
    calls = [part for part in parts if "tool_calls" in part]
    thoughts = [part for part in parts if part not in calls]
    begins = content.lstrip().startswith(START)
    meant = _as_chat(_parsed(content, None if begins else Role.ASSISTANT))
    base = dict(message)
    for part in parts:
        for key in part:
            del base[key]
    said = (*thoughts, *meant, *calls)
    return [base | {"content": None} | part for part in said]


def _as_chat(messages: list[Message]) -> Iterator[dict[str, Any]]:
    """What each message is in chat completions; a preamble is the content of its call."""
    preamble: dict[str, Any] = {}
    for message in messages:
        recipient = message.recipient or ""
        name = recipient.removeprefix("functions.")
        if name != recipient:
            call = {"type": "function", "function": {"name": name, "arguments": message.text}}
            yield preamble | {"tool_calls": [call]}
            preamble = {}
        elif message.role is not Role.ASSISTANT or recipient or preamble:
            raise HarmonyError(f"a message of {message.role} to {recipient or 'nobody'}")
        elif message.channel == "analysis":
            yield {"reasoning": message.text}
        elif message.channel == "final":
            yield {"content": message.text}
        else:
            preamble = {"content": message.text}
    if preamble:
        raise HarmonyError("a message that is neither reasoning, nor an answer, nor before a call")
