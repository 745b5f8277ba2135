"""E12's conversations and answers: gold ones with a calculator under several names, and what models
do on held-out problems with a calculator that they know, that is renamed, fails, lies or gives
orders.

Knows the task `calling` and the sampler of reinforcement learning; no statistics.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

from ossia.data.packing import Example, State
from ossia.files import replace_file
from ossia.harmony import Conversation, Effort, SystemContent, render_for_training
from ossia.model import Transformer
from ossia.tasks import Problem, example_random
from ossia.tasks.environment import Ask, ask_problem
from ossia.tasks.numbers.calling import WORDS, Manner, calling, calling_problem, obeys
from ossia.tokenizer import Tokenizer
from ossia.train.rl.sampler import Sampler
from ossia.train.rl.settings import Sampling
from ossia.turn import stop_ids
from ossia.turn.rollout import Sample

PART = "tools"
ALONE = "no tool"
KNOWN = "calculator"
RENAMED = "compute"  # one of several names that are trained on
UNSEEN = WORDS.table("names")["held_out"]
# condition -> the calculator's manner, its names, and how many times as many problems
CONDITIONS: dict[str, tuple[Manner, tuple[str, ...], int]] = {
    ALONE: ("works", (KNOWN,), 1),
    "known": ("works", (KNOWN,), 1),
    "renamed": ("works", (RENAMED,), 1),
    "unseen names": ("works", UNSEEN, 1),
    "fails": ("fails", (KNOWN, RENAMED), 1),
    "lies": ("lies", (KNOWN, RENAMED), 1),
    "orders": ("orders", (KNOWN, RENAMED), 5),  # what is rare needs many
}


@dataclass(frozen=True)
class Row:
    """One answer. `called`: whether the calculator was, by its name."""

    condition: str
    problem: int
    effort: str
    index: int
    right: bool
    called: bool
    obeyed: bool
    sampled: int
    reason: str


def conversation(rng: Random) -> Conversation:
    """A system message with an effort, a question and the gold answer to it."""
    effort = rng.choice(list(Effort))
    problem = calling(rng, "train")
    prompt = problem.prompt(effort, SystemContent(effort=effort))
    return Conversation((*prompt, *problem.solution(effort)))


def examples(tokenizer: Tokenizer, seed: int, state: State) -> Iterator[tuple[Example, State]]:
    """Endless, for `train.run.ExamplesFrom`."""
    index = state or 0
    while True:
        made = conversation(example_random(seed, PART, index))
        rendered = render_for_training(made, tokenizer, drop_analysis=False)
        index += 1
        yield Example(rendered.ids, rendered.mask), index


def held_out(condition: str, each: int) -> list[Problem]:
    manner, names, times = CONDITIONS[condition]
    found = []
    for number in range(each * times):
        rng = Random(f"measured:{condition}:{number}")
        problem = calling_problem(rng, "held_out", manner, names[number % len(names)])
        found.append(without_tool(problem) if condition == ALONE else problem)
    return found


def without_tool(problem: Problem) -> Problem:
    expect = replace(problem.expect, calls=False, value=None, evaluate=None)
    return replace(problem, tools=(), expect=expect)


def measure(
    model: Transformer,
    tokenizer: Tokenizer,
    conditions: Sequence[str],
    each: int,
    answers: int,
    settings: Sampling,
) -> Iterator[Row]:
    """Rows in the order of conditions, problems, efforts and answers."""
    asks: list[Ask] = []
    asked: list[tuple[str, int, Problem]] = []
    for condition in conditions:
        for number, problem in enumerate(held_out(condition, each)):
            for effort in Effort:
                seed = Random(f"draws:{condition}:{number}:{effort}").getrandbits(31)
                asks.append(ask_problem(problem, effort, group=len(asks), seed=seed))
                asked.append((condition, number, problem))
    sampler = Sampler(model, tokenizer, stop_ids(tokenizer), settings)
    try:
        groups = sampler.draw(asks, answers, version=0)
    finally:
        sampler.close()
    for (condition, number, problem), group in zip(asked, groups, strict=True):
        for sample in group:
            yield row_of(condition, number, problem, sample)


def row_of(condition: str, number: int, problem: Problem, sample: Sample) -> Row:
    outcome = sample.outcome
    name = problem.about["name"]
    wanted = int(problem.about["wanted"])
    return Row(
        condition=condition,
        problem=number,
        effort=str(sample.effort),
        index=sample.index,
        right=sample.reward.correct is True,
        called=any(call.name == name for call in outcome.calls),
        obeyed=wanted > 0 and obeys(wanted, outcome.final, outcome.calls),
        sampled=sample.counts.sampled,
        reason=sample.reason,
    )


def write(rows: Sequence[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def read(path: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
