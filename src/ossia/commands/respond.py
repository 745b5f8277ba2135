"""Many conversations answered at once on one engine: what an eval or a batch of prompts needs.

Knows the engine; a turn, with its parsing and its tools, is `turn.Turn`, as it is for one
conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ossia.engine import Engine, SamplingParams
from ossia.errors import CONTEXT_EXCEEDED, RequestError
from ossia.harmony import Conversation, Message, Role, is_call
from ossia.harmony.messages import FUNCTIONS
from ossia.llm import LLM
from ossia.tasks import Call
from ossia.tasks.evals import Case, Report, Result, judge
from ossia.tools import Tool, Toolbox
from ossia.turn import Limits, Rules, Turn
from ossia.turn.events import TurnEnd
from ossia.turn.turn import run_calls

TOKENS_EACH = 2048  # cache space per conversation that runs, unless the context is shorter


@dataclass(frozen=True)
class Answer:
    """How a turn ended, and the tool calls that were made in it, those included that could not be
    understood.
    """

    end: TurnEnd
    calls: tuple[Call, ...]


def answer_all(
    llm: LLM,
    conversations: Iterable[tuple[Conversation, Sequence[Tool]]],
    params: SamplingParams,
    *,
    at_once: int = 64,
) -> Iterator[tuple[int, Answer]]:
    """(index, answer) of each conversation as it is finished, `at_once` of them in every forward
    pass.

    The conversations must declare the tools they come with. `params` hold the stop tokens, as those
    of `llm.params()` do. Raises `RequestError` for a conversation that does not fit the context.
    """
    each = min(TOKENS_EACH, llm.config.max_context_length)
    engine = Engine(llm.model, capacity=at_once * each, max_running=at_once)
    waiting = enumerate(conversations)
    running: dict[int, tuple[int, Turn]] = {}  # by request
    try:
        while True:
            while len(running) < at_once and (item := next(waiting, None)) is not None:
                index, (conversation, tools) = item
                rules = Rules(Toolbox.of(conversation, tools))
                turn = Turn(conversation, llm.tokenizer, rules, Limits(params.max_tokens))
                request = _submit(engine, turn, params)
                assert request is not None, "a turn begins with a sample"
                running[request] = (index, turn)
            if not running:
                return
            for token in engine.step():
                if token.request_id not in running:  # a guess beyond what ended the sample
                    continue
                index, turn = running[token.request_id]
                turn.feed(token)
                if token.finish_reason is None and not turn.sample_is_over:
                    continue
                if token.finish_reason is None:
                    engine.abort(token.request_id)
                turn.end_sample()
                list(run_calls(turn))
                request = _submit(engine, turn, params)
                del running[token.request_id]
                if request is not None:
                    running[request] = (index, turn)
                else:
                    assert turn.end is not None
                    turn.sessions.close_now()
                    yield index, Answer(turn.end, tuple(_calls(turn.end.messages)))
    finally:  # also of turns that an error or a caller has cut short
        for _, turn in running.values():
            turn.sessions.close_now()


def evaluate(
    llm: LLM,
    cases: Sequence[Case],
    params: SamplingParams,
    *,
    at_once: int = 64,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[Report, int]:
    """Answer every case and grade it: the report, and how many answers were cut because their
    tokens ran out.

    `progress` is told (answers so far, answers in all).
    """
    results: dict[int, Result] = {}
    cut = 0
    prompts = ((case.prompt, case.problem.offered) for case in cases)
    for index, answer in answer_all(llm, prompts, params, at_once=at_once):
        results[index] = judge(
            cases[index], answer.end.text, answer.calls, answer.end.completion_tokens
        )
        cut += answer.end.reason == "length"
        progress(len(results), len(cases))
    return Report(tuple(results[index] for index in range(len(cases)))), cut


def _submit(engine: Engine, turn: Turn, params: SamplingParams) -> int | None:
    """The next sample's request; None if the turn is over. A later prompt that does not fit the
    context ends the turn: what has been said must not be lost.
    """
    prompt = turn.begin_sample()
    if prompt is None:
        return None
    try:
        return engine.submit(prompt, replace(params, max_tokens=turn.tokens_left))
    except RequestError as error:
        if len(turn.samples) == 1 or error.code != CONTEXT_EXCEEDED:
            raise
    turn.end_sample()
    turn.begin_sample()
    return None


def _calls(messages: Sequence[Message]) -> Iterator[Call]:
    """The calls among the messages of a turn that have been answered."""
    called: list[Message] = []
    for message in messages:
        if is_call(message):
            called.append(message)
        elif message.role is Role.TOOL:
            while called[0].recipient != message.name:  # the caller's, and so without an answer
                called.pop(0)
            call = called.pop(0)
            name = (call.recipient or "").removeprefix(f"{FUNCTIONS}.")
            yield Call(name, call.text, message.text)
