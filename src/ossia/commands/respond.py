"""Many conversations answered at once on one engine: what an eval or a batch of prompts needs.

Knows the engine; a turn, with its parsing and its tools, is `chat.Turn`, as it is for one
conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ossia.engine import Engine, SamplingParams
from ossia.harmony import Conversation
from ossia.llm import LLM
from ossia.tasks import Call
from ossia.tasks.evals import Case, Report, Result, judge
from ossia.tools import Tool
from ossia.turn.turn import ToolCalled, ToolReturned, Turn, TurnEnd

TOKENS_EACH = 2048  # cache space per conversation that runs, unless the context is shorter


@dataclass(frozen=True)
class Answer:
    """How a turn ended, and the tool calls that were made in it."""

    end: TurnEnd
    calls: tuple[Call, ...]


@dataclass
class _Running:
    index: int
    turn: Turn
    calls: list[Call]


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
    running: dict[int, _Running] = {}  # by request
    while True:
        while len(running) < at_once and (item := next(waiting, None)) is not None:
            index, (conversation, tools) = item
            started = _Running(index, Turn(conversation, llm.tokenizer, tools), [])
            running[_submit(engine, started, params)] = started
        if not running:
            return
        for token in engine.step():
            one = running[token.request_id]
            one.turn.feed(token.token_id)
            if token.finish_reason is None:
                continue
            del running[token.request_id]
            one.calls += _calls(one.turn)
            if one.turn.end is None:
                running[_submit(engine, one, params)] = one
            else:
                yield one.index, Answer(one.turn.end, tuple(one.calls))


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
    prompts = ((case.prompt, case.problem.tools) for case in cases)
    for index, answer in answer_all(llm, prompts, params, at_once=at_once):
        results[index] = judge(
            cases[index], answer.end.text, answer.calls, answer.end.completion_tokens
        )
        cut += answer.end.reason == "length"
        progress(len(results), len(cases))
    return Report(tuple(results[index] for index in range(len(cases)))), cut


def _submit(engine: Engine, one: _Running, params: SamplingParams) -> int:
    assert one.turn.prompt is not None
    return engine.submit(one.turn.prompt, params)


def _calls(turn: Turn) -> Iterator[Call]:
    """End the sample, which runs the tools it called; those calls."""
    arguments = ""
    for event in turn.end_sample():
        if isinstance(event, ToolCalled):
            arguments = event.arguments
        elif isinstance(event, ToolReturned):
            yield Call(event.name, arguments, event.result)
