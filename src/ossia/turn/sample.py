"""One sample of a turn: its tokens become events, messages, and calls to carry out.

The only class that feeds `StreamParser`. Knows Harmony and a toolbox; nothing of engines or of the
samples before and after.
"""

from __future__ import annotations

import codecs
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ossia.errors import TokenizerError
from ossia.harmony import (
    CallReady,
    Event,
    Message,
    MessageEnd,
    MessageStart,
    Repair,
    RepairKind,
    Role,
    StreamParser,
    TextDelta,
    UnknownTool,
)
from ossia.harmony.calls import NOT_A_CALL
from ossia.tokenizer import Tokenizer
from ossia.tools import Sessions, Tool, Toolbox, ToolTarget
from ossia.tools.kinds import ToolKind
from ossia.tools.protocol import AskingSession
from ossia.turn.events import (
    ApprovalItem,
    BuiltinCallItem,
    Item,
    ItemDelta,
    ItemEnd,
    ItemStart,
    MessageItem,
    ReasoningItem,
    Sampled,
    TokenLogprob,
    ToolCallItem,
    TurnEvent,
    new_id,
)
from ossia.turn.open_item import OpenItem, Piece
from ossia.turn.targets import ReadCall, read_call

log = logging.getLogger("ossia.turn")


@dataclass(frozen=True)
class Rules:
    """What holds of every sample of a turn.

    `stop`: strings that end the final answer, and are left out of it; the turn's first `min_tokens`
    are not searched for them. `stop_ids`: tokens that end the turn, wherever they come. `logprobs`:
    whether messages carry those of their tokens. `is_enforced`: whether sampling is held to the
    toolbox's grammar: then the caller's calls are right as they come, and are shown so; otherwise a
    call is shown when it is complete and understood. `checked`: recipients whose schema the grammar
    enforces in part only. Their calls are shown when they are complete, and fit the whole schema.
    """

    toolbox: Toolbox = field(default_factory=Toolbox)
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    is_enforced: bool = False
    checked: frozenset[str] = frozenset()
    stop_ids: frozenset[int] = frozenset()
    min_tokens: int = 0


@dataclass(frozen=True)
class BuiltinCall:
    """A call that we carry out. `item`, at `index`, is complete but for the result."""

    index: int
    item: BuiltinCallItem
    tool: Tool
    message: Message

    @property
    def request(self) -> tuple[Tool, str, str]:
        """What `Sessions.call` takes."""
        return self.tool, self.item.function, self.message.text


@dataclass(frozen=True)
class Mistake:
    """A call that could not be understood, and what the model is told of it."""

    call: Message
    text: str


@dataclass
class Gathered:
    """What a sample adds to its turn. `calls`: how many the caller has to carry out."""

    messages: list[Message] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    calls: int = 0
    approvals: int = 0  # calls that have to be approved
    builtin: list[BuiltinCall] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    stopped_by: str | int | None = None


class SampleReader:
    """`feed` every token, then `finish`. `is_over`: nothing that could follow is wanted.

    `index`: of the next item. `before`: tokens of the turn's other samples. `retries`: whether
    another sample may follow a call that cannot be understood. `header`: of the message that the
    prompt has begun.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        rules: Rules,
        sessions: Sessions,
        index: int,
        *,
        before: int,
        retries: bool,
        header: Sequence[int] = (),
    ) -> None:
        self.index = index
        self.is_over = False
        self.outcome = Gathered()
        self.is_reasoning = False  # whether the last token was one of reasoning
        self._tokenizer = tokenizer
        self._rules = rules
        self._sessions = sessions
        self._retries = retries
        self._count = before  # of tokens of the turn
        self._parser = StreamParser(tokenizer)
        self._parser.feed(header)
        self._open: OpenItem | None = None
        self._target: ToolTarget | None = None  # of the call of ours that is open
        self._logprobs: list[TokenLogprob] = []  # of tokens whose text has not come yet
        self._finishing = False
        self._events: list[TurnEvent] = []

    def feed(self, token: Sampled) -> list[TurnEvent]:
        self._count += 1
        header = self._parser.current
        self.is_reasoning = header is not None and header.channel == "analysis"
        is_named = token.token_id in self._rules.stop_ids
        if is_named and not self._tokenizer.is_special(token.token_id):  # no part of the text
            parsed = self._parser.finish()
        else:
            parsed = self._parser.feed(token.token_id)
            if self._rules.logprobs:
                self._note_logprob(token, header)
        self._read(parsed)
        if is_named and self.outcome.stopped_by is None:
            self.is_over = True
            self.outcome.stopped_by = token.token_id
        return self._taken()

    def finish(self) -> list[TurnEvent]:
        """There are no more tokens."""
        self._finishing = True
        if not self.is_over:
            self._read(self._parser.finish())
        self.outcome.repairs += self._parser.repairs
        return self._taken()

    def _taken(self) -> list[TurnEvent]:
        events = self._events
        self._events = []
        return events

    def _note_logprob(self, token: Sampled, header: MessageStart | None) -> None:
        if header is None:
            self._logprobs = []
        elif not self._tokenizer.is_special(token.token_id):
            top = (token_logprob(self._tokenizer, *each) for each in token.top_logprobs)
            one = token_logprob(self._tokenizer, token.token_id, token.logprob)
            self._logprobs.append(replace(one, top=tuple(top)))

    # Parsed events

    def _read(self, events: Sequence[Event]) -> None:
        for place, event in enumerate(events):
            if isinstance(event, TextDelta):
                if self._open is not None:
                    self._say(event.text)
            elif isinstance(event, MessageStart):
                self._begin(event)
            elif isinstance(event, MessageEnd):
                self._end(event, is_ready=isinstance(_next(events, place), CallReady))
            if self.is_over:
                return

    def _begin(self, header: MessageStart) -> None:
        self._open = None
        self._target = None
        is_call = header.role is Role.ASSISTANT and header.recipient not in NOT_A_CALL
        if (self.outcome.builtin or self.outcome.approvals) and not is_call:
            self.is_over = True  # results come before whatever the model goes on to say
        elif is_call:
            self._begin_call(header)
        elif header.role is Role.ASSISTANT:  # when the model speaks for others, no one is told
            match header.channel:
                case "analysis":
                    self._start(ReasoningItem(new_id("rs")))
                case "commentary":
                    self._start(MessageItem(new_id("msg"), "commentary"))
                case "final":
                    self._start(MessageItem(new_id("msg"), "final_answer"), self._rules.stop)

    def _begin_call(self, header: MessageStart) -> None:
        if not self._rules.is_enforced:
            return
        target = self._rules.toolbox.resolve(header.recipient)
        if isinstance(target, UnknownTool) or target.recipient in self._rules.checked:
            return
        if target.check is not None:
            return
        if target.tool is None:
            self._start(_call_item(target))
        elif target.tool.kind.streams and not self._asks(target.tool, target.name):
            self._target = target
            self._start(self._ours(target, target.tool, ""))

    def _start(self, item: Item, stop: tuple[str, ...] = ()) -> OpenItem:
        self._open = OpenItem(self.index, item, stop)
        self.index += 1
        self._events.append(ItemStart(self._open.index, item))
        return self._open

    def _say(self, text: str) -> None:
        assert self._open is not None
        logprobs = self._logprobs
        if logprobs:
            self._logprobs = []
        search = self._count > self._rules.min_tokens
        self._show(self._open, self._open.add(text, logprobs, search=search))

    def _show(self, item: OpenItem, piece: Piece) -> None:
        text, logprobs = piece
        if text or logprobs:
            self._events.append(ItemDelta(item.index, text, logprobs))
        if item.found is not None:  # a stop string: the answer ends before it
            self.is_over = True
            self.outcome.stopped_by = item.found
            self.outcome.messages.append(Message(Role.ASSISTANT, item.text, channel="final"))
            self._close(item)

    def _close(self, item: OpenItem, *, is_complete: bool = True) -> None:
        self._open = None
        self._events.append(ItemEnd(item.index, item.ended(), is_complete))

    def _end(self, end: MessageEnd, *, is_ready: bool) -> None:
        message = end.message
        if message.role is not Role.ASSISTANT:
            return
        if message.recipient not in NOT_A_CALL:
            self._end_call(end, is_ready=is_ready)
        elif self._open is not None:
            self._end_text(self._open, message)
            # said, though not with <|return|>: what would follow is someone else's turn
            self.is_over |= message.channel == "final" and end.closed_by == "<|end|>"
        elif message.text:
            self._end_without_channel(end)

    def _end_text(self, item: OpenItem, message: Message) -> None:
        self.outcome.messages.append(message)
        self._show(item, item.rest())
        self._close(item, is_complete=not self._finishing)

    def _end_without_channel(self, end: MessageEnd) -> None:
        """A message without a known channel. It is held back until it ends, because only then is
        its kind known: one that ends with `<|return|>` is the answer, any other is reasoning.
        """
        if end.closed_by == "<|return|>":
            channel = "final"
            item = self._start(MessageItem(new_id("msg"), "final_answer"), self._rules.stop)
        else:
            channel = "analysis"
            item = self._start(ReasoningItem(new_id("rs")))
        message = replace(end.message, channel=channel)
        self._say(message.text)
        if not self.is_over:
            self._end_text(item, message)

    # Calls

    def _end_call(self, end: MessageEnd, *, is_ready: bool) -> None:
        if self._open is not None and self._target is not None:
            self._end_ours(self._open, self._target, end, is_ready)
        elif self._open is not None:  # it has been shown as it came
            self.outcome.messages.append(end.message)
            self.outcome.calls += is_ready
            self._close(self._open, is_complete=is_ready)
        else:
            self._end_unshown(end, is_ready)

    def _end_unshown(self, end: MessageEnd, is_ready: bool) -> None:
        call = read_call(self._rules.toolbox, end, is_ready=is_ready, checked=self._rules.checked)
        if call.repaired:
            seen = Repair(self._parser.position, RepairKind.ARGUMENTS, end.message.text)
            self.outcome.repairs.append(seen)
        if call.wrong is not None and is_ready and self._is_hidden(call):
            log.info("a call was not understood, and the model is told why")
            log.debug("it was not understood: %s", call.wrong)
            self.outcome.messages.append(call.message)
            self.outcome.mistakes.append(Mistake(call.message, call.wrong))
            self.is_over = True  # the model has to be told, whatever it goes on to say
        elif call.target is not None:  # otherwise it was cut, and is addressed to no one
            self.outcome.messages.append(call.message)
            self._show_call(call.target, call.message, is_ready)

    def _is_hidden(self, call: ReadCall) -> bool:
        """Whether a call that cannot be understood stays between us and the model. Only a caller
        whose tool is meant gets to see it, when the model may not try again: no retries are left,
        or the turn ends with the caller's calls that come before it. One that only does not fit its
        schema goes to the tool then, whoever carries it out.
        """
        may_try_again = self._retries and not self.outcome.calls
        if may_try_again or call.target is None:
            return True
        return call.target.tool is not None and not call.is_misfit

    def _show_call(self, target: ToolTarget, message: Message, is_ready: bool) -> None:
        if target.tool is None:
            item = self._start(_call_item(target))
            self._show(item, item.add(message.text))
            self._close(item, is_complete=is_ready)
            self.outcome.calls += is_ready
            return
        if is_ready and self._asks(target.tool, target.name):
            action = self._sessions.of(target.tool).action(target.name, message.text)
            self._ask(target.tool.kind, action, message.text)
            return
        item = self._start(self._ours(target, target.tool, message.text))
        self._show(item, item.add(message.text))
        self._called(item, target.tool, message, is_ready)

    def _asks(self, tool: Tool, function: str) -> bool:
        session = self._sessions.of(tool)
        return isinstance(session, AskingSession) and session.asks(function)

    def _ask(self, kind: ToolKind, action: dict[str, Any] | None, text: str) -> None:
        """A call that somebody has to approve first. It is in the messages, without a result."""
        item = self._start(ApprovalItem(new_id("mcpr"), kind, action or {}))
        self._show(item, item.add(text))
        self._close(item)
        self.outcome.approvals += 1

    def _ours(self, target: ToolTarget, tool: Tool, text: str) -> Item:
        """A call that we carry out, without its `text`, which says what it does."""
        action = self._sessions.of(tool).action(target.name, text)
        return BuiltinCallItem(
            new_id(tool.kind.id_prefix),
            tool.kind,
            target.namespace or "",
            target.name,
            action=action,
        )

    def _end_ours(
        self, item: OpenItem, target: ToolTarget, end: MessageEnd, is_ready: bool
    ) -> None:
        """A call that we carry out, and that has been shown as it came."""
        assert target.tool is not None
        self._target = None
        message = replace(end.message, recipient=target.recipient)
        self.outcome.messages.append(message)
        self._called(item, target.tool, message, is_ready)

    def _called(self, item: OpenItem, tool: Tool, message: Message, is_ready: bool) -> None:
        if not is_ready:
            self._close(item, is_complete=False)
            return
        self._open = None
        assert isinstance(item.item, BuiltinCallItem)
        whole = replace(item.item, text=message.text, message=message)
        self.outcome.builtin.append(BuiltinCall(item.index, whole, tool, message))


def _next(events: Sequence[Event], place: int) -> Event | None:
    return events[place + 1] if place + 1 < len(events) else None


def _call_item(target: ToolTarget) -> ToolCallItem:
    kind: Literal["function", "custom"] = "custom" if target.takes_text else "function"
    prefix = "ctc" if target.takes_text else "fc"
    return ToolCallItem(new_id(prefix), new_id("call"), kind, target.name, target.namespace)


def token_logprob(tokenizer: Tokenizer, token: int, logprob: float) -> TokenLogprob:
    try:
        data = tokenizer.token_bytes(token)
    except TokenizerError:  # an id without text
        data = b""
    return TokenLogprob(token, codecs.decode(data, "utf-8", "replace"), data, logprob)
