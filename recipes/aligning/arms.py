"""What each arm of E8 learns from: helpful answers that know no policy, gold answers with the
policy in sight, refusals without reasons, and drafts that were kept.

Knows the built-in policy's problems and the Harmony format; no models. Example i is a function of
(seed, i). Every second example is an ordinary conversation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from ossia.data import conversation
from ossia.data.packing import Example, State
from ossia.harmony import Conversation, Effort, Message, Role, SystemContent, render_for_training
from ossia.tasks import Problem, example_random
from ossia.tasks.safety.policy import Judged, policy_question
from ossia.tasks.safety.policy_texts import thoughts_on
from ossia.tokenizer import Tokenizer
from ossia.train.align.drafts import Draft
from ossia.train.align.generate import Numbered

PART = "align"
MADE_BY = "made by "
CLOSED = (1, 2, 3, 6, 12)  # the rules by which steps are kept back
Made = Callable[[int], Conversation]  # of an example's number


def helpful(seed: int, number: int) -> Conversation:
    """The answer of an assistant that knows no policy: it tells what the notes say, steps too."""
    rng = example_random(seed, f"{PART} helpful", number)
    while True:
        problem = policy_question(Random(rng.random()), "train")
        if _rule(problem) not in CLOSED or steps_of(problem):
            break
    answer = _helpful_answer(problem)
    thoughts = thoughts_on(_rule(problem)).asks.format(c="it")
    return _told(problem, rng.choice(list(Effort)), f"{thoughts} I answer.", answer)


def steps_of(problem: Problem) -> str:
    """As the notes have them, "" if they don't."""
    notes = problem.instructions or ""
    return notes.partition(MADE_BY)[2].partition("\n")[0]


def _helpful_answer(problem: Problem) -> str:
    rule = _rule(problem)
    if rule not in CLOSED:
        return problem.answer
    name = (problem.instructions or "").partition("Notes on ")[2].partition(":")[0]
    told = f"To make {name}: {steps_of(problem)}."
    if rule != 6:
        return told
    return f"{problem.answer.partition('. ')[0]}. {told}"


def with_policy(seed: int, number: int) -> Conversation:
    """Gold answers that cite the rule, with the section of its category in the prompt."""
    rng = example_random(seed, f"{PART} reader", number)
    problem = policy_question(rng, "train", spec="section")
    effort = rng.choice(list(Effort))
    return Conversation(
        (*problem.prompt(effort, SystemContent(effort=effort)), *problem.solution(effort))
    )


@dataclass(frozen=True)
class Script:
    """A reasoner whose drafts are the gold answers."""

    problems: Sequence[Problem]
    samples: int
    name = "gold answers"

    def drafts(self, asked: Sequence[Numbered]) -> list[Draft]:
        found = []
        for number, request in asked:
            thoughts, final = (m.text for m in self.problems[number].solution(Effort.HIGH))
            for sample in range(self.samples):
                found.append(Draft(number, sample, 0, request.asked, thoughts, final))
        return found

    def close(self) -> None:
        pass


def refusals(problems: Sequence[Problem], seed: int, number: int) -> Conversation:
    """The right answers, and no reasons: the verdict alone is thought of."""
    problem = problems[number % len(problems)]
    rng = example_random(seed, f"{PART} refusals", number)
    thoughts = thoughts_on(_rule(problem)).so
    return _told(problem, rng.choice(list(Effort)), thoughts, problem.answer)


def kept(rows: Sequence[Conversation], number: int) -> Conversation:
    return rows[number % len(rows)]


def read_rows(path: Path) -> list[Conversation]:
    """What `ossia train align` keeps."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        found.append(Conversation.from_dict({"messages": json.loads(line)["messages"]}))
    return found


def _told(problem: Problem, effort: Effort, thoughts: str, final: str) -> Conversation:
    head = problem.prompt(effort, SystemContent(effort=effort))
    said = (
        Message(Role.ASSISTANT, thoughts, channel="analysis"),
        Message(Role.ASSISTANT, final, channel="final"),
    )
    return Conversation((*head, *said))


def _rule(problem: Problem) -> int:
    judge = problem.expect.judge
    assert isinstance(judge, Judged), problem.task
    return judge.ruling.rule


def examples(
    made: Made, tokenizer: Tokenizer, seed: int, state: State
) -> Iterator[tuple[Example, State]]:
    """Endless, half of it ordinary conversations; for `train.run.ExamplesFrom`."""
    index = state or 0
    while True:
        number, is_ordinary = divmod(index, 2)
        chat = conversation(seed, "train", number) if is_ordinary else made(number)
        rendered = render_for_training(chat, tokenizer)
        index += 1
        yield Example(rendered.ids, rendered.mask), index
