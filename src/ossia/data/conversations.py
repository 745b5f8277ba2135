"""Fine-tuning conversations: problems of every task, with system messages, developer messages and
efforts varied.

Knows the tasks and the chat's messages; does not know tokens. Example i is a pure function of
(seed, split, i), and the iterator yields the next index, so a resumed run sees exactly the same
conversations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from random import Random

from ossia.harmony import Conversation, Effort, Message, Role, SystemContent
from ossia.tasks import TASKS, Problem, Split, example_random
from ossia.tasks.numbers.calculator import declare, with_others
from ossia.tasks.problem import Tool
from ossia.tasks.words import Words
from ossia.tasks.world.facts import draw_facts, fact_turn, story_of, unknown_turn
from ossia.tasks.world.relations import WORDS as FACT_WORDS

MIXTURE: Mapping[str, int] = {  # in percent
    "arithmetic": 35,
    "word problems": 12,
    "facts": 15,
    "multi-turn": 14,
    "calculator": 14,
    "scope": 10,
}
DRILLED = ("arithmetic", "word problems", "facts", "scope")  # tasks of one turn, without tools
EFFORTS: Mapping[Effort, int] = {Effort.LOW: 20, Effort.MEDIUM: 38, Effort.HIGH: 42}  # in percent
READING = 0.35  # share of drills that ask several questions about one text
# shares of conversations; without a system message the effort is medium
NO_SYSTEM = 0.06
NO_DATE = 0.2
INSTRUCTIONS = 0.12  # an instruction that changes nothing
IDLE_TOOLS = 0.05  # a calculator that is not needed

_WORDS = Words("conversations")


def conversations(
    seed: int, split: Split = "train", start: int = 0, mixture: Mapping[str, int] = MIXTURE
) -> Iterator[tuple[Conversation, int]]:
    """Endless (conversation, state); `start=state` continues after it. Learned is the last turn."""
    index = start
    while True:
        made = conversation(seed, split, index, mixture)
        index += 1
        yield made, index


def conversation(
    seed: int, split: Split, index: int, mixture: Mapping[str, int] = MIXTURE
) -> Conversation:
    """Conversation `index`: the problem and its solution after a system message, mostly, and a
    developer message, sometimes.
    """
    rng = example_random(seed, split, index)
    tasks = list(mixture)
    shares = list(mixture.values())
    task = rng.choices(tasks, shares)[0]
    problem = surrounded(rng, TASKS[task](rng, split))
    system = draw_system(rng)
    effort = _effort_of(system)
    messages = problem.prompt(effort, system)
    messages += problem.solution(effort)
    return Conversation(messages)


def _effort_of(system: SystemContent | None) -> Effort:
    if system is None or not system.effort:
        return Effort.MEDIUM
    return Effort(system.effort)


def drill(seed: int, split: Split, index: int) -> Conversation:
    """Drill `index`: several unrelated questions at one effort, each answered with its reasoning.

    No chat looks like this, because reasoning of finished turns is dropped; but all of it can be
    learned from, and the system message is read once for several answers.
    """
    rng = example_random(seed, f"{split}-drill", index)
    system = draw_system(rng)
    effort = _effort_of(system)
    messages: list[Message] = []
    if system is not None:
        messages.append(Message(Role.SYSTEM, system))
    if rng.random() < READING:
        messages += _reading(rng, split, effort)
        return Conversation(tuple(messages))
    weights = [MIXTURE[task] for task in DRILLED]
    count = rng.randrange(2, 5)
    for task in rng.choices(DRILLED, weights, k=count):
        problem = TASKS[task](rng, split)
        if problem.instructions is None:
            messages += problem.prompt(effort)
            messages += problem.solution(effort)
    return Conversation(tuple(messages))


def _reading(rng: Random, split: Split, effort: Effort) -> tuple[Message, ...]:
    """One text of facts, and a question about most of them in turn."""
    count = rng.randrange(3, 7)
    facts = draw_facts(rng, count, split)
    opening = rng.choice(FACT_WORDS["before"])
    told = opening + story_of(rng, facts)
    before = told + rng.choice(FACT_WORDS["between"])
    asked = rng.randrange(2, count + 1)
    messages: list[Message] = []
    for fact in rng.sample(facts, asked):
        if rng.random() < 0.9:
            turn, _ = fact_turn(rng, fact, before)
        else:
            turn, _ = unknown_turn(rng, facts, before)
        messages.append(Message(Role.USER, turn.user))
        messages += turn.reply(effort)
        before = ""
    return tuple(messages)


def draw_system(rng: Random) -> SystemContent | None:
    """A system message with the default identity, mostly a date, and a random effort; or none."""
    if rng.random() < NO_SYSTEM:
        return None
    efforts = list(EFFORTS)
    shares = list(EFFORTS.values())
    effort = rng.choices(efforts, shares)[0]
    if rng.random() < NO_DATE:
        return SystemContent(effort=effort)
    year = rng.randrange(2023, 2030)
    month = rng.randrange(1, 13)
    day = rng.randrange(1, 29)
    return SystemContent(current_date=f"{year}-{month:02}-{day:02}", effort=effort)


def surrounded(rng: Random, problem: Problem) -> Problem:
    """The problem, sometimes with a developer message that must not change the answer."""
    if problem.instructions is None and rng.random() < INSTRUCTIONS:
        instructions = rng.choice(_WORDS["instructions"])
        problem = replace(problem, instructions=instructions)
    if problem.tools or problem.task not in ("facts", "scope"):
        return problem
    if rng.random() < 2 * IDLE_TOOLS:
        declared = declare(rng, two_steps=True)
        idle = Tool(declared.function, _unused)
        problem = replace(problem, tools=with_others(rng, idle))
    return problem


def _unused(arguments: str) -> str:
    return "error: not needed"
