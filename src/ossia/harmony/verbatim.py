"""Going on with ids that a model has sampled, without writing any of them again.

Knows tokens and how they read as messages. What was sampled may be damaged, or spelled in other
tokens than `render.py` would choose; training needs it as it is. `incremental.py` is for histories
that are known as messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ossia.harmony.events import MessageEnd
from ossia.harmony.messages import Message, Role
from ossia.harmony.parse import END, RETURN, StreamParser
from ossia.harmony.reasoning import AnalysisCut
from ossia.harmony.render import Writer
from ossia.harmony.rules import FAITHFUL
from ossia.tokenizer import Tokenizer


@dataclass(frozen=True)
class Span:
    """A message and its place: the ids [begin, end)."""

    message: Message
    begin: int
    end: int


def continued(ids: Sequence[int], messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The prompt for the assistant's next message, when `messages` have followed `ids`.

    `ids` stay as they are, unless a user speaks after an answer: then the reasoning before it is
    dropped, as `RenderedHistory` drops it, and `<|return|>` reads `<|end|>`, as in any history.
    Raises the errors of `render_message`.
    """
    out = list(ids)
    if any(message.role is Role.USER for message in messages):
        out = _as_history(out, messages, tokenizer)
    writer = Writer(tokenizer, FAITHFUL)
    for message in messages:
        writer.write(message)
    return out + writer.ids + writer.invitation(Role.ASSISTANT)


def spans(ids: Sequence[int], tokenizer: Tokenizer) -> list[Span]:
    """The messages that ids read as, in order. What belongs to no message goes with the next one;
    at the end it has no span.
    """
    parser = StreamParser(tokenizer, None)
    found: list[Span] = []
    begin = 0
    for at, token in enumerate(ids):
        for event in parser.feed(token):
            if isinstance(event, MessageEnd):
                is_closed = event.closed_by is not None  # otherwise the next message ends it
                end = at + is_closed
                found.append(Span(event.message, begin, end))
                begin = end
    for event in parser.finish():
        if isinstance(event, MessageEnd):
            found.append(Span(event.message, begin, len(ids)))
    return found


def _as_history(ids: list[int], messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """What is shown of `ids` from now on."""
    returned = tokenizer.special(RETURN)
    end = tokenizer.special(END)
    read = spans(ids, tokenizer)
    cut = AnalysisCut().after([*(span.message for span in read), *messages])
    out: list[int] = []
    after = 0
    for index, span in enumerate(read):
        after = span.end
        if index < cut.index and span.message.channel == "analysis":
            continue
        out += ids[span.begin : span.end]
        if out[-1] == returned:
            out[-1] = end
    return out + ids[after:]
