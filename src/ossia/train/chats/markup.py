"""Markup inside the texts of training data: Harmony's control words, those of other formats,
`<think>`.

As text it would teach the model to write words where its tokens belong. So it is found, or made
what it stands for. Knows the one form of a line (`shapes.py`) and Harmony's parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from ossia.errors import HarmonyError
from ossia.harmony import Message, Role, parse_completion
from ossia.harmony.chat_messages import REASONING_KEYS
from ossia.tokenizer import Tokenizer
from ossia.train.chats.shapes import Form

Markup = Literal["stop", "convert", "keep"]
START = "<|start|>"
WORD = re.compile(r"<\|[a-z][a-z0-9_]*\|>|</?think(?:ing)?>|</?tool_(?:call|response)>")
CONTROL = re.compile(r"<\|(?:start|channel|constrain|message|end|call|return)\|>")
# the first tag is in the prompt of models that always think
THOUGHT = re.compile(r"\s*(?:<think(?:ing)?>)?(.*?)</think(?:ing)?>\s*", re.DOTALL)
BETWEEN = re.compile(r"(<\|(?:end|call|return)\|>)\s+(?=<\|start\|>)")


def read_markup(form: Form, markup: Markup) -> None:
    """Do with the markup in a line what is wanted. A `text` that is Harmony is read as such.

    Raises HarmonyError naming the text that holds markup, or cannot be converted.
    """
    if form.document is not None and form.document.lstrip().startswith(START):
        _replace(form, "text", form.document, learn_from=0)
        form.document = None
    elif markup == "convert":
        _convert(form)
    if markup == "keep":
        return
    for place, text, role in _texts(form):
        found = WORD.search(text)
        if found is not None and (markup == "stop" or role != Role.USER):
            raise HarmonyError(
                f"{place}: holds {found[0]!r}, which would be learned as text: take it out, or let "
                "markup=convert make reasoning, channels and calls of what the assistant's texts "
                "hold, or markup=keep learn it as it is"
            )


def _texts(form: Form) -> Iterator[tuple[str, str, str]]:
    """(place, text, whose: the assistant's, or anybody else's as the user's)."""
    if form.document is not None:
        yield "text", form.document, Role.ASSISTANT
    for place, message in zip(form.places, form.messages, strict=True):
        role = Role.ASSISTANT if message.get("role") == Role.ASSISTANT else Role.USER
        for key in ("content", *REASONING_KEYS):
            for text in _parts(message.get(key)):
                yield place if key == "content" else f"{place}.{key}", text, role


def _parts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else ():
        text = part.get("text") if isinstance(part, Mapping) else None
        if isinstance(text, str):
            yield text


# ---- what it stands for --------------------------------------------------------------------------


def _convert(form: Form) -> None:
    if form.places == ["prompt", "completion"]:
        prompt = form.messages[0]["content"]
        if prompt.lstrip().startswith(START):
            whole = prompt + form.messages[1]["content"]
            _replace(form, "prompt", whole, learn_from=len(_parsed(prompt, unfinished=True)))
            return
    before = list(zip(form.places, form.messages, form.may_learn, strict=True))
    form.places, form.messages, form.may_learn = [], [], []
    for place, message, may_learn in before:
        parts = [message]
        if message.get("role") == Role.ASSISTANT:
            try:
                parts = _meant(message)
            except HarmonyError as error:
                raise HarmonyError(f"{place}: its markup cannot be converted: {error}") from error
        form.add([(place, part) for part in parts], may_learn)


def _replace(form: Form, place: str, text: str, learn_from: int) -> None:
    """Put the messages that Harmony's text stands for in place of all."""
    try:
        messages = _parsed(text)
    except HarmonyError as error:
        raise HarmonyError(f"{place}: begins as Harmony, and is not: {error}") from error
    form.places, form.messages, form.may_learn = [], [], []
    for index, message in enumerate(messages):
        form.add([(place, message.to_dict())], index >= learn_from)


def _parsed(text: str, role: Role | None = None, *, unfinished: bool = False) -> list[Message]:
    """The messages of a text in which the names of special tokens are those tokens.

    `unfinished`: without the message that the text breaks off in.
    """
    text = BETWEEN.sub(r"\1", text.strip())
    if unfinished:
        ends = [found.end() for found in re.finditer(r"<\|(?:end|call|return)\|>", text)]
        text = text[: ends[-1]] if ends else ""
    tokenizer = Tokenizer.o200k_harmony()  # any would do: the tokens are read again at once
    ids = tokenizer.encode_with_specials(text)
    return list(parse_completion(ids, tokenizer, role, strict=True))


def _meant(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages that an assistant's message with markup in it stands for."""
    content = "".join(_parts(message.get("content")))
    if CONTROL.search(content) is not None:
        return _from_harmony(message, content)
    found = THOUGHT.match(content)
    if found is None:
        return [message]
    if any(message.get(key) for key in REASONING_KEYS):
        raise HarmonyError("it has reasoning of its own besides that of its content")
    return [message | {"reasoning": found[1].strip(), "content": content[found.end() :]}]


def _from_harmony(message: dict[str, Any], content: str) -> list[dict[str, Any]]:
    own = {key: message[key] for key in (*REASONING_KEYS, "tool_calls") if message.get(key)}
    base = {key: value for key, value in message.items() if key not in own} | {"content": None}
    begins = content.lstrip().startswith(START)
    parts = [{key: value} for key, value in own.items() if key != "tool_calls"]
    for part in _parsed(content, None if begins else Role.ASSISTANT):
        if part.role is not Role.ASSISTANT:
            raise HarmonyError(f"it holds a message of role {part.role}")
        parts.append(_as_chat(part))
    if "tool_calls" in own:
        parts.append({"tool_calls": own["tool_calls"]})
    return [base | part for part in _with_preambles(parts)]


def _as_chat(message: Message) -> dict[str, Any]:
    recipient = message.recipient or ""
    if recipient.startswith("functions."):
        name = recipient.removeprefix("functions.")
        call = {"type": "function", "function": {"name": name, "arguments": message.text}}
        return {"tool_calls": [call]}
    if recipient or message.channel is None:
        raise HarmonyError("only messages on a channel and calls of functions can be converted")
    return {"reasoning" if message.channel == "analysis" else message.channel: message.text}


def _with_preambles(parts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """`final` as content; `commentary` as the content of the call that follows it."""
    preamble: dict[str, Any] = {}
    for part in parts:
        if preamble and "tool_calls" not in part:
            break
        if "commentary" in part:
            preamble = {"content": part["commentary"]}
            continue
        final = {"content": part.pop("final")} if "final" in part else {}
        yield part | final | preamble
        preamble = {}
    if preamble:
        raise HarmonyError("a preamble on commentary is followed by no call")
