"""A user's chats, one JSON object a line, as examples to learn from: Harmony ids and which of them
count.

`shapes.py` makes what chat-completions clients send of every shape of line, with the answers in it:
messages, and perhaps tools and a reasoning effort. Or they are Harmony's own JSON, with channels.

Knows the one form of a line and the chat format; no tensors and no model. How training reads the
examples is `store.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from ossia.data.packing import Example
from ossia.errors import DataError, HarmonyError
from ossia.harmony import (
    Arguments,
    Conversation,
    Message,
    Role,
    SystemContent,
    read_arguments,
    render_for_training,
)
from ossia.harmony.messages import EffortName
from ossia.tokenizer import Tokenizer
from ossia.train.chats.lines import lines_of, object_of
from ossia.train.chats.markup import Markup, read_markup
from ossia.train.chats.shapes import Form, form_of, is_learned, kind_of

Turns = Literal["all", "last"]
PLACE = re.compile(r"^messages\[(\d+)\]")
CONTENT_KINDS = ("system_content", "developer_content")
SHOWN = 5  # bad lines that an error lists


@dataclass(frozen=True)
class Reading:
    """How lines become examples.

    `turns`: "all" makes an example of every turn that has something to learn, in the context in
    which the model would answer it: the reasoning of earlier turns is dropped, its own is there.
    "last" makes one of the last turn alone.
    """

    turns: Turns = "all"
    effort: EffortName = "medium"  # of lines that do not say
    date: str | None = None  # that the system message names; None for none
    longest: int = 1024  # tokens of an example; longer ones are left out
    held_out: float = 0.0  # share of the conversations that are kept for evaluation
    markup: Markup = "stop"  # what is done with markup inside texts
    documents: bool = False  # whether texts that are no conversations are learned whole


@dataclass(frozen=True)
class Chat:
    """A conversation and which of its messages (indices) are learned."""

    conversation: Conversation
    learned: frozenset[int]


@dataclass
class Unused:
    """How often a key occurs that means nothing here, and in which line first."""

    first: str
    count: int = 0


@dataclass
class Found:
    """What a file turned out to hold."""

    conversations: int = 0
    duplicates: int = 0  # conversations that stood in the data before, word for word
    examples: int = 0
    tokens: int = 0
    learned: int = 0  # tokens that count
    held_out: int = 0  # examples
    too_long: int = 0  # examples
    longest: int = 0  # tokens of the longest example, left out or not
    unlearned: int = 0  # conversations with nothing to learn, because their messages say so
    ignored: dict[str, Unused] = field(default_factory=dict)  # keys that mean nothing here
    bad: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.conversations:,} conversations ({self.duplicates:,} of them twice or more), "
            f"{self.examples:,} examples to train on and {self.held_out:,} held out, "
            f"{self.tokens:,} tokens, of which {self.learned:,} are learned"
        ]
        if self.too_long:
            lines.append(
                f"left out: {self.too_long:,} examples that are too long; "
                f"the longest has {self.longest:,}"
            )
        if self.unlearned:
            lines.append(
                f"left out: {self.unlearned:,} conversations in which no message is to be learned"
            )
        if self.ignored:
            lines.append("not used, because they mean nothing here:")
            lines += [
                f"  {key} ({unused.count:,}), first in {unused.first}"
                for key, unused in sorted(self.ignored.items())
            ]
        if self.bad:
            lines += [
                f"left out: {len(self.bad):,} lines that could not be read:",
                *self.bad[:SHOWN],
            ]
        return "\n".join(lines)


def examples_in(
    paths: Sequence[Path], tokenizer: Tokenizer, reading: Reading, found: Found, skip_bad: int = 0
) -> Iterator[tuple[Example, bool]]:
    """(example, whether it is held out) of every chat in the files, in their order; `found` is
    filled on the way.

    A conversation is held out by a hash of its content, so copies of it, and all its turns, are on
    one side. Raises `DataError` naming file, line and field: at the end, if more than `skip_bad`
    lines are bad, or if none is left.
    """
    seen: set[bytes] = set()
    for where, text in lines_of(paths):
        try:
            form = _form(object_of(text), reading)
            content = json.dumps(form.content, sort_keys=True)
            examples = _examples(form, tokenizer, reading)
        except (HarmonyError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else error
            found.bad.append(f"{where}: {why}")
            if len(found.bad) > skip_bad + SHOWN:
                break
            continue
        digest = blake2b(content.encode(), digest_size=16).digest()
        found.conversations += 1
        found.duplicates += digest in seen
        seen.add(digest)
        for key, count in form.unknown.items():
            found.ignored.setdefault(key, Unused(where)).count += count
        found.unlearned += not examples
        yield from _fitting(examples, is_held_out(digest, reading.held_out), reading.longest, found)
    _check(found, paths, reading, skip_bad)


def _examples(form: Form, tokenizer: Tokenizer, reading: Reading) -> list[Example]:
    if form.document is not None:
        return [document_of(form.document, tokenizer)] if form.learned else []
    return examples_of(_chat(form, reading), tokenizer, reading.turns)


def _fitting(
    examples: Sequence[Example], held_out: bool, longest: int, found: Found
) -> Iterator[tuple[Example, bool]]:  # fmt: skip
    for example in examples:
        length = len(example.ids) - 1  # the last id is only ever a target
        found.longest = max(found.longest, length)
        if length > longest:
            found.too_long += 1
            continue
        found.held_out += held_out
        found.examples += not held_out
        found.tokens += 0 if held_out else length
        found.learned += 0 if held_out else sum(example.mask)
        yield example, held_out


def _check(found: Found, paths: Sequence[Path], reading: Reading, skip_bad: int) -> None:
    if len(found.bad) > skip_bad:
        some = ";\n  ".join(found.bad[:SHOWN])
        rest = ";\n  and more" if len(found.bad) > SHOWN else ""
        raise DataError(
            f"lines that cannot be learned from:\n  {some}{rest}.\nMend them, or allow some to be "
            "left out with skip_bad=NUMBER"
        )
    names = ", ".join(map(str, paths))
    if not found.examples and found.too_long:
        raise DataError(
            f"{names}: all {found.too_long} examples are longer than {reading.longest} tokens, the "
            f"longest has {found.longest}: raise hyper.longest (and hyper.tokens_per_step, which "
            "must not be less)"
        )
    if not found.examples:
        what = "no conversation to learn from"
        if found.held_out:
            what = "all conversations are held out: lower held_out"
        raise DataError(f"{names}: {what}")


def is_held_out(digest: bytes, share: float) -> bool:
    """By the content alone, so that the same conversation is on the same side in every run."""
    return int.from_bytes(digest[:8], "little") < share * 2**64


def chat_of(data: Mapping[str, Any], reading: Reading) -> Chat:
    """The conversation of one line, of whatever shape. Raises HarmonyError naming the field that
    does not fit, or for a line that is no conversation.
    """
    return _chat(_form(data, reading), reading)


def _form(data: Mapping[str, Any], reading: Reading) -> Form:
    form = form_of(data)
    read_markup(form, reading.markup)
    if form.document is not None and not reading.documents:
        raise HarmonyError(
            "text: is neither a conversation nor Harmony's text; documents=true learns such lines "
            "whole"
        )
    return form


def _chat(form: Form, reading: Reading) -> Chat:
    try:
        wanted = [
            _is_learned(one.message, f"messages[{index}]") and one.may_learn and form.learned
            for index, one in enumerate(form.said)
        ]
        is_harmony = any(map(_is_harmony, form.messages))
        make = _from_harmony if is_harmony else _from_chat
        chat = make(form, wanted, reading)
        if not any(message.role is Role.ASSISTANT for message in chat.conversation.messages):
            raise HarmonyError(
                f"{form.shape}: none is the assistant's, so there is nothing to learn"
            )
    except HarmonyError as error:
        # in the words of the line
        def place_of(found: re.Match[str]) -> str:
            return form.said[int(found[1])].place

        raise HarmonyError(PLACE.sub(place_of, str(error))) from error
    return chat


def _is_learned(message: Mapping[str, Any], where: str) -> bool:
    """What the message itself says; else, whether it is the assistant's."""
    assistant = message.get("role") == "assistant"
    said = is_learned(message, where)
    if said and not assistant:
        raise HarmonyError(f"{where}: only the assistant's messages are learned")
    return assistant if said is None else said


def _is_harmony(message: Mapping[str, Any]) -> bool:
    """Whether a message is in Harmony's own JSON form, which names channels and structured
    contents.
    """
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    kinds = [part.get("type") for part in parts if isinstance(part, Mapping)]
    tagged = any(kind in CONTENT_KINDS for kind in kinds)
    return tagged or "channel" in message or "recipient" in message


def _from_harmony(form: Form, wanted: Sequence[bool], reading: Reading) -> Chat:
    for key, value in (("tools", form.tools), ("reasoning_effort", form.effort)):
        if value:
            raise HarmonyError(
                f"{key}: messages with channels are Harmony's own form, which says it in their "
                "contents"
            )
    conversation = Conversation.from_dict({"messages": form.messages})
    return Chat(conversation, frozenset(index for index, learned in enumerate(wanted) if learned))


def _from_chat(form: Form, wanted: Sequence[bool], reading: Reading) -> Chat:
    effort = reading.effort if form.effort is None else form.effort
    try:
        system = SystemContent(current_date=reading.date, effort=effort)
    except HarmonyError as error:
        raise HarmonyError(f"reasoning_effort: {error}") from error
    messages = form.messages
    conversation = Conversation.from_chat(messages, system=system, tools=form.tools)
    # an assistant's chat message becomes one Harmony message or several, always the same by itself
    # as among others
    learned = [
        wish
        for message, wish in zip(messages, wanted, strict=True)
        if message["role"] == "assistant"
        for _ in Conversation.from_chat([message], system=None).messages
    ]
    for index, (message, wish) in enumerate(zip(messages, wanted, strict=True)):
        if wish:
            _check_calls(message.get("tool_calls") or (), index)
    ours = [
        index
        for index, message in enumerate(conversation.messages)
        if message.role is Role.ASSISTANT
    ]
    return Chat(
        conversation, frozenset(index for index, wish in zip(ours, learned, strict=True) if wish)
    )


def _check_calls(calls: Sequence[Mapping[str, Any]], index: int) -> None:
    """Calls that are to be learned must be calls: the model would learn to write what no tool can
    read.
    """
    for number, call in enumerate(calls):
        given = call["function"].get("arguments")
        if isinstance(given, str):
            read = read_arguments(given)
        else:
            read = Arguments({} if given is None else given, "")
        if not isinstance(read.value, Mapping):
            why = read.diagnosis or f"it is {kind_of(read.value)}"
            where = f"messages[{index}].tool_calls[{number}].function.arguments"
            raise HarmonyError(
                f'{where}: must be a JSON object, {why}; a message with "train": false is read and '
                "not learned"
            )


# ---- examples ----


def document_of(text: str, tokenizer: Tokenizer) -> Example:
    """All of a text is learned, and that it ends."""
    begin = tokenizer.special("<|startoftext|>")
    ids = [begin, *tokenizer.encode(text), tokenizer.special("<|endoftext|>")]
    return Example(ids, [False] + [True] * (len(ids) - 1))


def examples_of(chat: Chat, tokenizer: Tokenizer, turns: Turns) -> list[Example]:
    """One example a turn with something to learn, or of the last turn alone; none if nothing is to
    be learned.

    Raises RenderError for a message that cannot be written.
    """
    messages = chat.conversation.messages
    learned = {id(messages[index]) for index in chat.learned}
    out = []
    wanted = _turns(messages)
    if turns == "last":
        wanted = wanted[-1:]
    for begin, end in wanted:
        if not any(id(message) in learned for message in messages[begin:end]):
            continue
        rendered = render_for_training(
            Conversation(messages[:end]),
            tokenizer,
            learn=lambda m: id(m) in learned,
            last_turn_only=True,
        )
        if any(rendered.mask[1:]):
            out.append(Example(rendered.ids, rendered.mask))
    return out


def _turns(messages: Sequence[Message]) -> list[tuple[int, int]]:
    """[begin, end) of every turn in which the assistant speaks: after a user's message, to its last
    own one.
    """
    out = []
    begin = 0
    end = 0  # after the assistant's last message
    for index, message in enumerate(messages):
        if message.role is Role.ASSISTANT:
            end = index + 1
        elif message.role is Role.USER:
            if end > begin:
                out.append((begin, end))
            begin = index + 1
    if end > begin:
        out.append((begin, end))
    return out
