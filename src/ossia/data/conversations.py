"""Fine-tuning conversations: problems of every task, with system messages, developer messages and
efforts varied.

Knows the tasks and the chat's messages; no tokens. Example i is a pure function of (seed, split,
i), and the iterator yields the index to go on from, so a resumed run sees exactly the same
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
    "arithmetic": 39,
    "word problems": 12,
    "facts": 15,
    "multi-turn": 9,
    "calculator": 15,
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
    """Endless (conversation, state); `start=state` goes on with the next one. The last turn is the
    one to learn.
    """
    index = start
    while True:
        yield conversation(seed, split, index, mixture), index + 1
        index += 1


def conversation(
    seed: int, split: Split, index: int, mixture: Mapping[str, int] = MIXTURE
) -> Conversation:
    """Conversation `index`: system message (mostly), developer message (sometimes), the problem and
    its solution.
    """
    rng = example_random(seed, split, index)
    task = rng.choices(list(mixture), list(mixture.values()))[0]
    problem = surrounded(rng, TASKS[task](rng, split))
    system = draw_system(rng)
    effort = Effort(system.effort or Effort.MEDIUM) if system else Effort.MEDIUM
    return Conversation(problem.prompt(effort, system) + problem.solution(effort))


def drill(seed: int, split: Split, index: int) -> Conversation:
    """Drill `index`: several unrelated questions at one effort, each answered with its reasoning.

    No chat looks like this, because reasoning of finished turns is dropped; but all of it can be
    learned from, and the system message is read once for several answers.
    """
    rng = example_random(seed, f"{split}-drill", index)
    system = draw_system(rng)
    effort = Effort(system.effort or Effort.MEDIUM) if system else Effort.MEDIUM
    messages: tuple[Message, ...] = () if system is None else (Message(Role.SYSTEM, system),)
    if rng.random() < READING:
        return Conversation(messages + _reading(rng, split, effort))
    weights = [MIXTURE[task] for task in DRILLED]
    for task in rng.choices(DRILLED, weights, k=rng.randrange(2, 5)):
        problem = TASKS[task](rng, split)
        if problem.instructions is None:
            messages += problem.prompt(effort) + problem.solution(effort)
    return Conversation(messages)


def _reading(rng: Random, split: Split, effort: Effort) -> tuple[Message, ...]:
    """One text of facts, and a question about most of them in turn."""
    facts = draw_facts(rng, rng.randrange(3, 7), split)
    told = rng.choice(FACT_WORDS["before"]) + story_of(rng, facts)
    before = told + rng.choice(FACT_WORDS["between"])
    messages: tuple[Message, ...] = ()
    for fact in rng.sample(facts, rng.randrange(2, len(facts) + 1)):
        if rng.random() < 0.9:
            turn, _ = fact_turn(rng, fact, before)
        else:
            turn, _ = unknown_turn(rng, facts, before)
        messages += (Message(Role.USER, turn.user), *turn.reply(effort))
        before = ""
    return messages


def draw_system(rng: Random) -> SystemContent | None:
    """A system message with the default identity, a date mostly, and an effort at random; sometimes
    none at all.
    """
    if rng.random() < NO_SYSTEM:
        return None
    effort = rng.choices(list(EFFORTS), list(EFFORTS.values()))[0]
    if rng.random() < NO_DATE:
        return SystemContent(effort=effort)
    year = rng.randrange(2023, 2030)
    month = rng.randrange(1, 13)
    day = rng.randrange(1, 29)
    return SystemContent(current_date=f"{year}-{month:02}-{day:02}", effort=effort)


def surrounded(rng: Random, problem: Problem) -> Problem:
    """The problem, sometimes with a developer message that must not change the answer."""
    if problem.instructions is None and rng.random() < INSTRUCTIONS:
        problem = replace(problem, instructions=rng.choice(_WORDS["instructions"]))
    if not problem.tools and problem.task in ("facts", "scope") and rng.random() < 2 * IDLE_TOOLS:
        declared = declare(rng, two_steps=True)
        problem = replace(problem, tools=with_others(rng, Tool(declared.function, _unused)))
    return problem


def _unused(arguments: str) -> str:
    return "error: not needed"
