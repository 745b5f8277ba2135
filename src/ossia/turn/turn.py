"""One turn of a conversation: render, sample, parse, run tools, and again until it is answered.

The loop under `llm.chat`, the terminal, evals, rollouts and the server. It is synchronous and does
no I/O: whoever has an engine samples, whoever has an event loop (or none) runs the calls.

    turn = Turn(conversation, tokenizer, Rules(toolbox))
    events = turn.begin_calls()                     # those of earlier turns, approved by now
    ...                                             # run, as below
    while (prompt := turn.begin_sample()) is not None:
        for token in sample(prompt):                # the stop token included
            events = turn.feed(token)
            if turn.sample_is_over: break           # what would follow is not wanted
        events = turn.end_sample()
        for call in turn.calls:                     # of our own tools
            event = turn.start_call(call)
            event = turn.end_call(call, result)
    turn.end                                        # how it ended, and what it adds

`run_turn` is this loop for one conversation. The policy, for every user of it:

- A call of an **unknown tool**, or with **arguments that cannot be read**, never reaches a tool.
  The model is told what is wrong, by a tool message whose author is the recipient that it wrote
  (or `functions`), and may try again while `retries` last; no event shows it. Without retries left
  the turn ends; but the caller is given what the model wrote to a tool of the caller's.
- A call that **does not fit its schema**, where the grammar could enforce only a part of it, is
  told the model too, and shown only when it is complete; without retries left it is passed on.
- **After a call of the caller's** in the same sample there are no retries, because the turn ends
  with it. Both kinds are then treated as without retries left. What no caller can be given, such as
  a call of an unknown tool, is in the end's messages with what is wrong, and ends the sample.
- **Arguments are mended** only as `harmony/calls.py` says, and only in calls that the model closed.
  History, events and tools see the mended call; a repair is noted.
- **Budgets**: `max_tokens` counts all samples of the turn. A sample with calls of our tools takes a
  round; with no rounds left, its calls are not run and the turn ends. The same holds where no
  tokens are left to read a result with, or the sample was cut. With `max_calls` used up, a call is
  answered by an error, and the turn goes on. A call that is not run is shown as one that failed.
- **Stop strings** end the final answer only, and are left out of it.
- A call that **somebody has to approve** is not run: the turn ends with it. A later turn is given
  it as `Approved`, and runs it before its first sample.
- **Log-probabilities** are those of the tokens of messages to the user; `samples` has every token.
- What follows **`<|end|>` of a final message** is someone else's turn: the answer is over. What
  follows a call of one of our tools, but for other calls, waits for its result.
- A message **without a known channel** is the answer if `<|return|>` closed it, else reasoning.
- Text that the model writes **in another's name** is not shown and not kept.
- A **tool choice** that requires a call binds up to the first call (`targets.Grammars`).
- **History** is rendered from the messages as they were understood, so an answer reads the same to
  the model whether our tools ran in it or a client sends it again. For training it is
  **verbatim**: what was sampled stays, stop token and damage included, and only what
  a tool or a user says is rendered. Repairs then serve the tools alone (docs/decisions/0023).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ossia.harmony import Conversation, Message, RenderedHistory, Repair, Role
from ossia.harmony.render import header_of, opened
from ossia.harmony.verbatim import continued
from ossia.tokenizer import Tokenizer
from ossia.tools import SessionKey, Sessions, Tool, ToolResult
from ossia.turn.events import (
    BuiltinCallItem,
    CallStart,
    ItemDelta,
    ItemEnd,
    ItemStart,
    Reason,
    Sampled,
    TurnEnd,
    TurnEvent,
    Usage,
    new_id,
)
from ossia.turn.record import Recorder
from ossia.turn.results import within
from ossia.turn.sample import BuiltinCall, Gathered, Rules, SampleReader

Generate = Callable[[list[int]], Iterable[Sampled]]
NO_CALLS_LEFT = "error: no more calls are allowed in this answer; answer with what is known"
NO_TOKENS_LEFT = "error: the call was not run, because the tokens of this answer ran out"
RESULT_CHANNELS = ("analysis", "commentary")  # a result stands on its call's channel


@dataclass(frozen=True)
class Limits:
    """`max_tokens`: of all samples together. `rounds`: samples that call our tools; `max_calls`:
    such calls. `retries`: samples that may follow one whose call could not be understood.
    `max_result_tokens`: of each result of our tools; of what has more, the model reads head and
    tail.
    """

    max_tokens: int | None = None
    rounds: int = 8
    retries: int = 2
    max_calls: int | None = None
    max_result_tokens: int | None = 8192


@dataclass(frozen=True)
class Approved:
    """A call of an earlier turn, for this one to run. `message`: the one of the conversation;
    `tool` carries it out; `request`: the id under which it was approved.
    """

    message: Message
    tool: Tool
    function: str
    request: str


class Turn:
    """A turn being answered; the module's docstring shows the order of calls.

    `calls` are those to run after `end_sample`; `record` has every token so far; `end` is set when
    the turn is over. The conversation must already declare the tools to the model.
    """

    def __init__(
        self,
        conversation: Conversation,
        tokenizer: Tokenizer,
        rules: Rules | None = None,
        limits: Limits | None = None,
        sessions: Sessions | None = None,
        opening: Message | None = None,
        approved: Sequence[Approved] = (),
        record: Recorder | None = None,
        *,
        verbatim: bool = False,
    ) -> None:
        """`sessions`: in which our tools are called; None: in new ones. `opening`: the beginning of
        a message of the assistant, after the conversation, that the first sample goes on with.
        `approved`: calls in the conversation that have no result yet. `record`: to go on with; if
        history is `verbatim`, `conversation` is what has been said after what is in it.
        """
        self.limits = limits or Limits()
        self.sessions = sessions or Sessions(SessionKey())
        self.record = record or Recorder()
        self.samples = 0  # begun so far
        self.mistakes = 0  # calls that could not be understood
        self.calls: list[BuiltinCall] = []
        self.has_called = False  # whether a call has been understood
        self.end: TurnEnd | None = None
        self._tokenizer = tokenizer
        self._rules = rules or Rules()
        self._stop_ids = stop_ids(tokenizer) | self._rules.stop_ids
        self._opening = opening
        self._approved = approved
        self._is_verbatim = verbatim
        self._history = RenderedHistory(tokenizer)
        self._unrendered: list[Message] = list(conversation.messages)
        self._messages: list[Message] = []  # that the turn adds
        self._repairs: list[Repair] = []
        self._prompt = 0  # tokens, as are the next three
        self._cached = 0
        self._completion = 0
        self._reasoning = 0
        self._retries = self.limits.retries
        self._rounds = self.limits.rounds
        self._calls_left = self.limits.max_calls
        self._index = 0  # of the next item
        self._sample: SampleReader | None = None
        self._outcome: Gathered | None = None  # of the last sample
        self._results: dict[int, ToolResult] = {}  # by the item's index
        self._stopped = False  # whether the last sample came to its own end
        self._is_fresh = True  # whether the next token is the first of its sample

    # What a driver asks

    @property
    def usage(self) -> Usage:
        return Usage(self._prompt, self._cached, self._completion, self._reasoning)

    @property
    def messages(self) -> tuple[Message, ...]:
        """Those that the turn has added so far."""
        return tuple(self._messages)

    @property
    def repairs(self) -> int:
        return len(self._repairs)

    @property
    def tokens_left(self) -> int | None:
        """For the next sample; None: as many as the engine gives."""
        most = self.limits.max_tokens
        return None if most is None else most - self._completion

    @property
    def has_no_tokens(self) -> bool:
        left = self.tokens_left
        return left is not None and left <= 0

    @property
    def was_cut(self) -> bool:
        """Whether the last sample did not come to its own end."""
        return not self._stopped

    @property
    def calls_are_spent(self) -> bool:
        """Whether calls of our own tools would not be run any more."""
        return self._rounds <= 0 or self._calls_left == 0

    @property
    def opening_ids(self) -> list[int]:
        """Those that the next sample's prompt has after `<|start|>assistant`."""
        return [] if self._opening is None else opened(self._opening, self._tokenizer)

    @property
    def sample_is_over(self) -> bool:
        """Whether nothing more of this sample is wanted."""
        return self._sample is not None and self._sample.is_over

    @property
    def unrendered(self) -> list[Message]:
        """The messages that `begin_sample` will render. It takes a while for long ones."""
        return [*self._unrendered, *self._results_told()]

    # What a driver tells

    def begin_calls(self) -> list[TurnEvent]:
        """The events of the approved calls, which are in `calls` then, to be run."""
        events: list[TurnEvent] = []
        for given in self._approved:
            text = given.message.text
            kind = given.tool.kind
            action = self.sessions.of(given.tool).action(given.function, text)
            name = given.tool.namespace.name
            item = BuiltinCallItem(
                new_id(kind.id_prefix),
                kind,
                name,
                given.function,
                action=action,
                approval=given.request,
            )
            events += [ItemStart(self._index, item), ItemDelta(self._index, text)]
            whole = replace(item, text=text, message=given.message)
            self.calls.append(BuiltinCall(self._index, whole, given.tool, given.message))
            self._index += 1
        return events

    def begin_sample(self) -> list[int] | None:
        """The prompt of the next sample. None: the turn is over, and `end` says how."""
        if self.end is not None:
            return None
        if self._outcome is None:
            self._tell_approved()
        else:
            self._tell_results()
        reason = self._over()
        if reason is not None:
            self.end = self._ended(reason)
            return None
        opening = self.opening_ids
        prompt = self._next_prompt() + opening
        self._prompt += len(prompt)
        self.samples += 1
        self.record.begin(prompt)
        self._is_fresh = True
        self._sample = SampleReader(
            self._tokenizer,
            self._rules,
            self.sessions,
            self._index,
            before=self._completion,
            retries=self._retries > 0,
            header=header_of(opening, self._tokenizer),
        )
        self._outcome = None
        self._stopped = False
        return prompt

    def feed(self, token: Sampled) -> list[TurnEvent]:
        """The events of one sampled token."""
        sample = self._sample
        assert sample is not None
        if self._is_fresh:
            self._cached += token.cached_tokens
        self._is_fresh = False
        self.record.add(token.token_id, token.logprob, token.experts)
        self._completion += 1
        self._stopped = token.finish_reason == "stop"
        if token.finish_reason is None:  # the engine goes on, or does not say
            self._stopped = token.token_id in self._stop_ids
        events = sample.feed(token)
        self._reasoning += sample.is_reasoning
        return events

    def end_sample(self) -> list[TurnEvent]:
        """The sample is over; its tokens ran out if the engine says so, or if there was no stop
        token. `calls` are to be run.
        """
        sample = self._sample
        assert sample is not None
        events = sample.finish()
        self._stopped |= sample.is_over
        self._sample = None
        self._index = sample.index
        self._outcome = outcome = sample.outcome
        self._complete_opening(outcome.messages)
        self._messages += outcome.messages
        if not self._is_verbatim:
            self._unrendered += outcome.messages
        self._repairs += outcome.repairs
        self.mistakes += len(outcome.mistakes)
        self.has_called |= bool(outcome.calls or outcome.builtin)
        self.calls = []
        for call in outcome.builtin:
            refusal = self._refusal(outcome)
            if refusal is None:
                self.calls.append(call)
            else:
                events += [self.start_call(call), self.end_call(call, refusal)]
        return events

    def start_call(self, call: BuiltinCall) -> TurnEvent:
        """The call is complete, and its result comes next."""
        return CallStart(call.index, call.item)

    def end_call(self, call: BuiltinCall, result: ToolResult) -> TurnEvent:
        """The result of a call, in any order."""
        text = within(result.text, self._tokenizer, self.limits.max_result_tokens)
        result = replace(result, text=text)
        self._results[call.index] = result
        item = replace(call.item, outputs=result.outputs, result=result.text, failed=result.failed)
        return ItemEnd(call.index, item)

    # How it goes on

    def _refusal(self, outcome: Gathered) -> ToolResult | None:
        """The result of a call that may not be run. None: it may, and is counted."""
        # a caller that has calls to carry out, too, goes on with a new turn, which reads the result
        if not self._stopped or (self.has_no_tokens and not outcome.calls):
            return ToolResult(NO_TOKENS_LEFT, failed=True)
        if self._rounds > 0 and self._calls_left is None:
            return None
        if self._rounds > 0 and self._calls_left:
            self._calls_left -= 1
            return None
        return ToolResult(NO_CALLS_LEFT, failed=True)

    def _over(self) -> Reason | None:
        """How the turn has ended; None if a sample has to follow."""
        outcome = self._outcome
        if outcome is None:
            return None
        if not self._stopped:
            return "length"
        if outcome.calls:
            return "calls"
        if outcome.approvals:
            return "approval"
        if not (outcome.builtin or outcome.mistakes):
            return "stop"
        if self.has_no_tokens:
            return "length"
        if outcome.builtin:
            self._rounds -= 1
            return "tool_rounds" if self._rounds < 0 else None
        self._retries -= 1
        return "stop" if self._retries < 0 else None

    def _ended(self, reason: Reason) -> TurnEnd:
        stopped_by = None if self._outcome is None else self._outcome.stopped_by
        return TurnEnd(
            reason,
            self.usage,
            tuple(self._messages),
            stopped_by=stopped_by,
            repairs=tuple(self._repairs),
        )

    def _complete_opening(self, messages: list[Message]) -> None:
        """Puts the beginning that was given before what the model went on with."""
        opening = self._opening
        self._opening = None
        if opening is None:
            return
        if messages:
            opening = replace(messages[0], content=opening.text + messages[0].text)
        messages[:1] = [opening]

    def _next_prompt(self) -> list[int]:
        """Without the opening."""
        told = self._unrendered
        self._unrendered = []
        if self._is_verbatim and self.record.ids:
            return continued(self.record.ids, told, self._tokenizer)
        self._history.append(told)
        return self._history.ids_for_completion()

    def _tell_approved(self) -> None:
        """Puts each result behind its call."""
        for call in self.calls:
            place = [message is call.message for message in self._unrendered].index(True)
            self._unrendered.insert(place + 1, _told(call, self._results[call.index]))
        self._results = {}
        self.calls = []

    def _tell_results(self) -> None:
        told = list(self._results_told())
        self._messages += told
        self._unrendered += told
        self._results = {}
        self.calls = []

    def _results_told(self) -> Iterator[Message]:
        """What the model reads of its calls, in their order."""
        if self._outcome is None or not (self._results or self._outcome.mistakes):
            return
        for call in self._outcome.builtin:
            yield _told(call, self._results[call.index])
        for mistake in self._outcome.mistakes:
            author = mistake.call.recipient or "functions"
            text = f"error: {mistake.text}"
            yield Message(Role.TOOL, text, author, "commentary", "assistant")


def _told(call: BuiltinCall, result: ToolResult) -> Message:
    channel = call.message.channel
    if channel not in RESULT_CHANNELS:
        channel = "commentary"
    return Message(Role.TOOL, result.text, call.message.recipient, channel, "assistant")


def run_turn(turn: Turn, generate: Generate) -> Iterator[TurnEvent]:
    """The whole turn: its events as they come, a `TurnEnd` at last.

    `generate` maps a prompt to sampled tokens, the stop token included; if it ends without one, the
    tokens ran out. Its iterator is closed where no more is wanted. Calls are run as
    `Sessions.call_all` says.
    """
    try:
        yield from turn.begin_calls()
        yield from run_calls(turn)
        while (prompt := turn.begin_sample()) is not None:
            tokens = iter(generate(prompt))
            try:
                for token in tokens:
                    yield from turn.feed(token)
                    if turn.sample_is_over:
                        break
            finally:
                if isinstance(tokens, Generator):
                    tokens.close()
            yield from turn.end_sample()
            yield from run_calls(turn)
    finally:
        turn.sessions.close_now()
    assert turn.end is not None
    yield turn.end


def run_calls(turn: Turn) -> Iterator[TurnEvent]:
    """Runs `turn.calls`, without an event loop."""
    calls = turn.calls
    for call in calls:
        yield turn.start_call(call)
    results = turn.sessions.call_all([call.request for call in calls])
    for call, result in zip(calls, results, strict=True):
        yield turn.end_call(call, result)


def stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end a sample: the answer is complete, or a tool is called, or the text is
    over. Those of them that the vocabulary has: one without Harmony's can still continue texts.
    """
    ids = (tokenizer.specials.get(name) for name in ("<|return|>", "<|call|>", "<|endoftext|>"))
    return frozenset(id for id in ids if id is not None)
