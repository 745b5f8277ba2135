"""Messages -> token ids, for the next completion, as history, or for training with a loss mask.

Knows messages and a tokenizer that has the Harmony specials (any vocabulary); nothing of models or
clients.

Safety: a special token only ever comes from this file. Every text (contents, names, recipients,
channels, content types, tool texts) passes through `tokenizer.encode`, which never yields specials;
each piece named below is encoded by itself, so nothing merges across pieces. One prefix is
structure: a content type that begins with exactly `<|constrain|>`.

A message is, in this order:
  START · author: the role, or a tool's name, with `:name` behind a named role · ` to=recipient` unless it
  comes after the channel · CHANNEL, channel · ` to=recipient` · content type · MESSAGE · content · CALL if an
  assistant addresses a recipient, else END.
A recipient "all" is not written, but still closes with CALL. `style` settles what is open:
  "faithful"  as the models write and the format document shows. The recipient follows the channel of an
              assistant's message (`assistant<|channel|>commentary to=functions.f`) and the author of any other
              (`functions.f to=assistant<|channel|>commentary`). A content type with the prefix is " ", CONSTRAIN
              and the rest, another is plain text (`analysis to=python code`). Parts of a content are one text.
  "compat"    as the official package (oss-harmony 0.0.11) does, token for token. The recipient follows the
              channel if that is exactly `commentary`, else the author; every content type gets the CONSTRAIN
              token, whether it was written with it or not. Parts of a content are encoded one by one.
The style also chooses which reasoning is dropped (conversation.py) and how tools are written
(schema.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ossia.errors import RenderError
from ossia.harmony.content import developer_text, system_text
from ossia.harmony.conversation import Conversation, kept_messages, last_turn_start
from ossia.harmony.messages import (
    CONSTRAIN,
    DeveloperContent,
    Message,
    Part,
    Role,
    RoleName,
    Style,
    SystemContent,
    check_style,
    known_role,
)
from ossia.tokenizer import Tokenizer

Learn = Callable[[Message], bool] | Collection[str]


@dataclass(frozen=True)
class Rendered:
    """Token ids and whether each is a target: `mask[i]` says that the loss of predicting `ids[i]`
    counts.
    """

    ids: list[int]
    mask: list[bool]


def render_message(
    message: Message,
    tokenizer: Tokenizer,
    *,
    function_tools: bool = False,
    style: Style = "faithful",
) -> list[int]:
    """One message. `function_tools`: the conversation declares some, which a system message
    mentions.

    Raises RenderError for a message that cannot be written, TokenizerError if a special is missing.
    """
    writer = Writer(tokenizer, function_tools, style)
    writer.write(message)
    return writer.ids


def render_conversation(
    conversation: Conversation,
    tokenizer: Tokenizer,
    *,
    style: Style = "faithful",
    drop_analysis: bool = True,
) -> list[int]:
    """All messages, without an invitation to go on.

    `drop_analysis`: without the reasoning that `kept_messages` drops; False keeps everything.
    Raises RenderError for a message that cannot be written, TokenizerError if a special is missing.
    """
    return _written(conversation, tokenizer, style, drop_analysis).ids


def render_for_completion(
    conversation: Conversation,
    tokenizer: Tokenizer,
    role: RoleName = Role.ASSISTANT,
    *,
    style: Style = "faithful",
    drop_analysis: bool = True,
) -> list[int]:
    """The prompt for the next message of `role`: all messages, then START and the role."""
    writer = _written(conversation, tokenizer, style, drop_analysis)
    return writer.ids + writer.invitation(role)


def render_for_training(
    conversation: Conversation,
    tokenizer: Tokenizer,
    *,
    learn: Learn | None = None,
    last_turn_only: bool = False,
    style: Style = "faithful",
    drop_analysis: bool = True,
) -> Rendered:
    """All messages with a loss mask; a final answer at the very end closes with RETURN instead of
    END.

    `learn` chooses the messages to be learned: a predicate, or a collection of "role" and
    "role/channel" words; by default every assistant message. `last_turn_only` further requires that
    the message stands after the last user message: earlier answers, whose reasoning has been
    dropped, would teach to answer without.

    Of a learned message the targets are the tokens the model itself has to produce: all after START
    and the author, through the closing END, CALL or RETURN. START and author are targets too where
    the message goes on from an assistant's own END (an answer after reasoning: there is no prompt
    in between). Not a target is the END of an earlier final answer: it was sampled as RETURN, and
    END would teach the model not to stop. Of any other message nothing is a target.
    """
    chosen = _learner(learn)
    kept = _kept(conversation, style, drop_analysis, teaching=True)
    first_learned = last_turn_start(kept) if last_turn_only else 0
    writer = Writer(tokenizer, conversation.has_function_tools, style)
    mask: list[bool] = []
    goes_on = False  # whether the message before is an assistant's and closed with END
    for index, message in enumerate(kept):
        begin = len(writer.ids)
        after_author = writer.write(message)
        learned = index >= first_learned and chosen(message)
        mask += [learned and goes_on and message.role is Role.ASSISTANT] * (after_author - begin)
        mask += [learned] * (len(writer.ids) - after_author)
        goes_on = message.role is Role.ASSISTANT and writer.ids[-1] == writer.end
        next_role = kept[index + 1].role if index + 1 < len(kept) else None
        if goes_on and message.channel == "final" and next_role not in (Role.ASSISTANT, None):
            mask[-1] = False
    if kept and kept[-1].role is Role.ASSISTANT and kept[-1].channel == "final":
        writer.ids[-1] = tokenizer.special("<|return|>")
    return Rendered(writer.ids, mask)


def _learner(learn: Learn | None) -> Callable[[Message], bool]:
    if learn is None:
        return lambda message: message.role is Role.ASSISTANT
    if callable(learn):
        return learn
    if isinstance(learn, str):
        raise RenderError(
            f"learn must be a predicate or a collection of words, such as {{{learn!r}}}"
        )
    words = frozenset(learn)
    for word in words:
        if word.split("/")[0] not in list(Role):
            raise RenderError(
                f"learn: {word!r} is not a role or role/channel, such as 'assistant/final'"
            )
    return lambda message: (
        str(message.role) in words or f"{message.role}/{message.channel}" in words
    )


def _written(
    conversation: Conversation, tokenizer: Tokenizer, style: Style, drop_analysis: bool
) -> Writer:
    writer = Writer(tokenizer, conversation.has_function_tools, style)
    for message in _kept(conversation, style, drop_analysis):
        writer.write(message)
    return writer


def _kept(
    conversation: Conversation, style: Style, drop_analysis: bool, *, teaching: bool = False
) -> Sequence[Message]:
    check_drop(drop_analysis)
    return (
        kept_messages(conversation.messages, style, teaching=teaching)
        if drop_analysis
        else conversation.messages
    )


def check_drop(drop_analysis: object) -> None:
    """Raises RenderError unless `drop_analysis` is a bool."""
    if not isinstance(drop_analysis, bool):
        raise RenderError(
            f"drop_analysis must be True or False, not {drop_analysis!r}; `style` names the rule"
        )


class Writer:
    """Appends messages to `ids`. Remembers the encoded words of headers: they repeat a lot."""

    def __init__(self, tokenizer: Tokenizer, function_tools: bool, style: Style) -> None:
        check_style(style)
        self.ids: list[int] = []
        self.start, self.end = tokenizer.special("<|start|>"), tokenizer.special("<|end|>")
        self._channel, self._message = (
            tokenizer.special("<|channel|>"),
            tokenizer.special("<|message|>"),
        )
        self._constrain, self._call = (
            tokenizer.special("<|constrain|>"),
            tokenizer.special("<|call|>"),
        )
        self._encode = tokenizer.encode
        self._words: dict[str, list[int]] = {}
        self.function_tools = function_tools
        self._style: Style = style

    def invitation(self, role: RoleName) -> list[int]:
        """What stands between a conversation and the next message of `role`. Raises RenderError."""
        return [self.start, *self.word(str(known_role(role, RenderError)))]

    def word(self, text: str) -> list[int]:
        """The ids of a piece of a header."""
        ids = self._words.get(text)
        if ids is None:
            ids = self._words[text] = self._encode(text)
        return ids

    def write(self, message: Message) -> int:
        """Appends a message and returns the position behind its author."""
        ids, word = self.ids, self.word
        ids.append(self.start)
        ids += word(_author(message))
        after_author = len(ids)
        recipient, channel = message.recipient, message.channel
        to = word(f" to={recipient}") if recipient is not None and recipient != "all" else []
        faithful = self._style == "faithful"
        late = channel is not None and (
            message.role is Role.ASSISTANT if faithful else channel == "commentary"
        )
        if not late:
            ids += to
        if channel is not None:
            ids.append(self._channel)
            ids += word(channel)
        if late:
            ids += to
        if message.content_type is not None:
            self._write_content_type(message.content_type)
        ids.append(self._message)
        if isinstance(message.content, str):
            ids += self._encode(message.content)
        else:
            self._write_parts(message)
        called = message.role is Role.ASSISTANT and recipient is not None
        ids.append(self._call if called else self.end)
        return after_author

    def _write_content_type(self, content_type: str) -> None:
        if self._style == "faithful" and not content_type.startswith(CONSTRAIN):
            self.ids += self.word(f" {content_type}")
            return
        self.ids += self.word(" ")
        self.ids.append(self._constrain)
        self.ids += self.word(content_type.removeprefix(CONSTRAIN))

    def _write_parts(self, message: Message) -> None:
        texts = [self._text(part, message.role) for part in message.parts]
        for text in ["".join(texts)] if self._style == "faithful" else texts:
            self.ids += self._encode(text)

    def _text(self, part: Part, role: RoleName) -> str:
        if isinstance(part, str):
            return part
        if isinstance(part, SystemContent):
            if role is not Role.SYSTEM:
                raise RenderError(
                    f"SystemContent may only appear in system messages, found in {role}"
                )
            return system_text(part, function_tools=self.function_tools, style=self._style)
        if isinstance(part, DeveloperContent):
            if role is not Role.DEVELOPER:
                raise RenderError(
                    f"DeveloperContent may only appear in developer messages, found in {role}"
                )
            return developer_text(part, style=self._style)
        raise RenderError(
            f"content must be text, SystemContent or DeveloperContent, not {type(part)}"
        )


def _author(message: Message) -> str:
    if message.role is Role.TOOL:
        if message.name is None:
            raise RenderError(
                "a tool message needs the tool's name, such as name='functions.get_weather'"
            )
        return message.name
    return str(message.role) if message.name is None else f"{message.role}:{message.name}"
