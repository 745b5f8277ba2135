"""Evaluating a loaded model: its answers to cases, and the report.

How many conversations are answered at once is `turn/many.py`'s, what is right the tasks'. The
answers are those that are served: history is rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ossia.engine import Engine, SamplingParams
from ossia.evals.questions import Answered, Trial
from ossia.evals.run import Answer
from ossia.harmony import render_for_completion
from ossia.llm import LLM
from ossia.tasks.environment import CUT, Ask, Given
from ossia.tasks.evals import Case, Report, Result, judge
from ossia.turn import Limits
from ossia.turn.many import AT_ONCE, sample_many
from ossia.turn.rollout import Manner, Sample

TOKENS_EACH = 2048  # cache space per conversation that runs, unless the context is shorter


def engine_for(llm: LLM, at_once: int = AT_ONCE) -> Engine:
    """An engine of its own for so many conversations at a time. One alone may fill the context."""
    longest = llm.config.max_context_length
    capacity = max(longest, at_once * min(TOKENS_EACH, longest))
    return llm.new_engine(capacity=capacity, max_running=at_once)


def answer_all(
    llm: LLM, asks: Sequence[Ask], params: SamplingParams, at_once: int = AT_ONCE
) -> Iterator[Sample]:
    """The answers as they are finished; `params.max_tokens` is of each. Raises as `sample_many`."""
    manner = Manner(Limits(params.max_tokens), verbatim=False)
    engine = engine_for(llm, at_once)
    return sample_many(engine, llm.tokenizer, asks, params, at_once=at_once, manner=manner)


def evaluate(
    llm: LLM,
    cases: Sequence[Case],
    params: SamplingParams,
    *,
    at_once: int = AT_ONCE,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[Report, int]:
    """Answer every case and grade it: the report, and how many answers were cut because their
    tokens ran out.

    `progress` is told (answers so far, answers in all).
    """
    results: dict[int, Result] = {}
    cut = 0
    asks = [
        Ask(partial(Given, case.prompt, case.problem.offered), case.effort, group=number)
        for number, case in enumerate(cases)
    ]
    for answer in answer_all(llm, asks, params, at_once):
        case = cases[answer.group]
        outcome = answer.outcome
        result = judge(case, outcome.final, outcome.calls, outcome.counts.sampled)
        results[answer.group] = result
        cut += outcome.reason in CUT
        progress(len(results), len(cases))
    return Report(tuple(results[number] for number in range(len(cases)))), cut


def answers(llm: LLM, params: SamplingParams, at_once: int = AT_ONCE) -> Answer:
    """What `evals.run` asks: answers to trials, each drawn with its own seed. A question that does
    not fit the context has none, which is said.
    """

    def answer(trials: Sequence[Trial]) -> Iterator[tuple[int, Answered]]:
        asks = []
        lengths = {}
        most = llm.config.max_context_length
        for index, trial in enumerate(trials):
            conversation = trial.question.conversation(trial.effort)
            length = len(render_for_completion(conversation, llm.tokenizer))
            if length >= most:
                yield index, Answered(error=f"its prompt has {length} tokens of {most}")
                continue
            lengths[index] = length
            given = partial(Given, conversation, trial.question.offered)
            asks.append(Ask(given, trial.effort, group=index, seed=trial.seed))
        for sample in answer_all(llm, asks, params, at_once):
            outcome = sample.outcome
            counts = outcome.counts
            answered = Answered(
                outcome.final,
                outcome.calls,
                outcome.reason,
                counts.sampled,
                counts.analysis,
                lengths[sample.group],
                "a tool failed" if outcome.reason == "failed" else "",
            )
            yield sample.group, answered

    return answer
