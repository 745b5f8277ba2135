"""Messages -> token ids, for the next completion, as history, or for training with a loss mask.

Knows messages and a tokenizer that has the Harmony specials (any vocabulary); does not know
models or clients.

Safety: a special token only ever comes from this file. Every text (contents, names, recipients,
channels, content types, tool texts) passes through `tokenizer.encode`, which never yields specials;
each piece named below is encoded by itself, so nothing merges across pieces. One prefix is
structure: a content type that begins with exactly `<|constrain|>`.

A message is, in this order:
  START
  author: the role, or a tool's name; a role with a name is followed by `:name`
  ` to=recipient`, unless it comes after the channel
  CHANNEL, channel
  ` to=recipient`, if it did not come before
  content type: " ", CONSTRAIN and the word if it is constrained, else plain text (`python code`)
  MESSAGE
  content
  CALL if an assistant addresses a recipient, else END
A recipient "all" is not written, but still closes with CALL. A word that would not read back, such
as one with a blank, is quoted (header.py). The choices that this leaves are made
in rules.py, or, in style "compat", as the official package makes them (official/rules.py). So is
the choice of the reasoning that is dropped, and how tools are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ossia.errors import RenderError
from ossia.harmony.content import developer_text, system_text
from ossia.harmony.conversation import Conversation, kept_messages, last_turn_start
from ossia.harmony.header import Field
from ossia.harmony.messages import (
    CONSTRAIN,
    DeveloperContent,
    Message,
    Part,
    Role,
    RoleName,
    Style,
    SystemContent,
    known_role,
)
from ossia.harmony.official.rules import rules_for
from ossia.harmony.rules import Rules
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
    writer = Writer(tokenizer, rules_for(style), function_tools)
    writer.write(message)
    return writer.ids


def opened(message: Message, tokenizer: Tokenizer) -> list[int]:
    """A message of the assistant that may go on: what the renderer writes after the author, without
    the end. Raises as `render_message`.
    """
    author = 1 + len(tokenizer.encode(Role.ASSISTANT))
    ids = render_message(message, tokenizer)
    return ids[author:-1]


def header_of(opened: Sequence[int], tokenizer: Tokenizer) -> Sequence[int]:
    """The part of an opened message before its text."""
    if not opened:
        return ()
    body = opened.index(tokenizer.special("<|message|>")) + 1
    return opened[:body]


def render_conversation(
    conversation: Conversation,
    tokenizer: Tokenizer,
    *,
    style: Style = "faithful",
    drop_analysis: bool = True,
) -> list[int]:
    """All messages, without the invitation to write the next one.

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
    """The prompt for the next message of `role`: all messages, then START and the role.

    `drop_analysis` and errors as in `render_conversation`; RenderError for an unknown role too.
    """
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
    "role/channel" words; by default every assistant message. With `last_turn_only` they must also
    come after the last user message: earlier answers, whose reasoning has been dropped, would teach
    the model to answer without reasoning.

    The targets in a learned message are the tokens the model itself has to produce: everything
    after START and the author, through the closing END, CALL or RETURN. START and author are
    targets too if the message before is an assistant's that closed with END (an answer after
    reasoning: there is no prompt in between). The END of an earlier final answer is not a target:
    it was sampled as RETURN, and END would teach the model not to stop. Other messages have no
    targets.
    """
    is_learned = _learner(learn)
    kept = _kept(conversation, style, drop_analysis, teaching=True)
    first_learned = last_turn_start(kept) if last_turn_only else 0
    writer = Writer(tokenizer, rules_for(style), conversation.has_function_tools)
    mask: list[bool] = []
    continues = False  # whether the message before is an assistant's and closed with END
    for index, message in enumerate(kept):
        begin = len(writer.ids)
        after_author = writer.write(message)
        end = len(writer.ids)
        is_answer = message.role is Role.ASSISTANT
        learned = index >= first_learned and is_learned(message)
        mask += [learned and continues and is_answer] * (after_author - begin)
        mask += [learned] * (end - after_author)
        continues = is_answer and writer.ids[-1] == writer.end
        if continues and _was_returned(kept, index):
            mask[-1] = False
    if kept and _is_final_answer(kept[-1]):
        writer.ids[-1] = tokenizer.special("<|return|>")
    return Rendered(writer.ids, mask)


def _is_final_answer(message: Message) -> bool:
    return message.role is Role.ASSISTANT and message.channel == "final"


def _was_returned(messages: Sequence[Message], index: int) -> bool:
    """Whether this is a final answer that another role's message follows: it ended with RETURN."""
    if index + 1 == len(messages) or not _is_final_answer(messages[index]):
        return False
    return messages[index + 1].role is not Role.ASSISTANT


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

    def is_named(message: Message) -> bool:
        return not words.isdisjoint((str(message.role), f"{message.role}/{message.channel}"))

    return is_named


def _written(
    conversation: Conversation, tokenizer: Tokenizer, style: Style, drop_analysis: bool
) -> Writer:
    writer = Writer(tokenizer, rules_for(style), conversation.has_function_tools)
    for message in _kept(conversation, style, drop_analysis):
        writer.write(message)
    return writer


def _kept(
    conversation: Conversation, style: Style, drop_analysis: bool, *, teaching: bool = False
) -> Sequence[Message]:
    check_drop(drop_analysis)
    if not drop_analysis:
        return conversation.messages
    return kept_messages(conversation.messages, style, teaching=teaching)


def check_drop(drop_analysis: object) -> None:
    """Raises RenderError unless `drop_analysis` is a bool."""
    if not isinstance(drop_analysis, bool):
        raise RenderError(
            f"drop_analysis must be True or False, not {drop_analysis!r}; `style` names the rule"
        )


class Writer:
    """Appends messages to `ids`. Remembers the encoded words of headers: they repeat a lot.

    `function_tools`: whether the conversation declares some. Raises TokenizerError if a special is
    missing.
    """

    def __init__(self, tokenizer: Tokenizer, rules: Rules, function_tools: bool = False) -> None:
        self.ids: list[int] = []
        self.start = tokenizer.special("<|start|>")
        self.end = tokenizer.special("<|end|>")
        self.function_tools = function_tools
        self._channel = tokenizer.special("<|channel|>")
        self._message = tokenizer.special("<|message|>")
        self._constrain = tokenizer.special("<|constrain|>")
        self._call = tokenizer.special("<|call|>")
        self._encode = tokenizer.encode
        self._words: dict[str, list[int]] = {}
        self._fields: dict[tuple[Field, str, str], list[int]] = {}
        self._rules = rules

    def invitation(self, role: RoleName) -> list[int]:
        """The ids between a conversation and the next message of `role`. Raises RenderError."""
        return [self.start, *self.word(str(known_role(role, RenderError)))]

    def word(self, text: str) -> list[int]:
        """The ids of a piece of a header."""
        ids = self._words.get(text)
        if ids is None:
            ids = self._encode(text)
            self._words[text] = ids
        return ids

    def write(self, message: Message) -> int:
        """Appends a message and returns the position after its author."""
        ids = self.ids
        ids.append(self.start)
        ids += self._author(message)
        after_author = len(ids)
        to = self._recipient(message)
        if message.channel is None:
            ids += to
        elif self._rules.recipient_follows_channel(message):
            ids += [self._channel, *self._field("channel", message.channel), *to]
        else:
            ids += [*to, self._channel, *self._field("channel", message.channel)]
        if message.content_type is not None:
            self._write_content_type(message.content_type)
        ids.append(self._message)
        if isinstance(message.content, str):
            ids += self._encode(message.content)
        else:
            self._write_parts(message)
        is_call = message.role is Role.ASSISTANT and message.recipient is not None
        ids.append(self._call if is_call else self.end)
        return after_author

    def _field(self, field: Field, text: str, before: str = "") -> list[int]:
        """The ids of a word of a header, and of what stands before it."""
        key = (field, before, text)
        ids = self._fields.get(key)
        if ids is None:
            ids = self._encode(before + self._rules.word(field, text))
            self._fields[key] = ids
        return ids

    def _author(self, message: Message) -> list[int]:
        if message.role is Role.TOOL:
            if message.name is None:
                raise RenderError(
                    "a tool message needs the tool's name, such as name='functions.get_weather'"
                )
            return self._field("author", message.name)
        if message.name is None:
            return self.word(str(message.role))
        return self._field("name", message.name, f"{message.role}:")

    def _recipient(self, message: Message) -> list[int]:
        if message.recipient is None or message.recipient == "all":
            return []
        return self._field("recipient", message.recipient, " to=")

    def _write_content_type(self, content_type: str) -> None:
        if not self._rules.is_constrained(content_type):
            self.ids += self._field("content_type", content_type, " ")
            return
        self.ids += self.word(" ")
        self.ids.append(self._constrain)
        self.ids += self._field("constrained", content_type.removeprefix(CONSTRAIN))

    def _write_parts(self, message: Message) -> None:
        texts = [self._text(part, message.role) for part in message.parts]
        for piece in self._rules.encoded_pieces(texts):
            self.ids += self._encode(piece)

    def _text(self, part: Part, role: RoleName) -> str:
        if isinstance(part, str):
            return part
        if isinstance(part, SystemContent):
            if role is not Role.SYSTEM:
                raise RenderError(
                    f"SystemContent may only appear in system messages, found in {role}"
                )
            return system_text(part, function_tools=self.function_tools, rules=self._rules)
        if isinstance(part, DeveloperContent):
            if role is not Role.DEVELOPER:
                raise RenderError(
                    f"DeveloperContent may only appear in developer messages, found in {role}"
                )
            return developer_text(part, rules=self._rules)
        raise RenderError(
            f"content must be text, SystemContent or DeveloperContent, not {type(part)}"
        )
