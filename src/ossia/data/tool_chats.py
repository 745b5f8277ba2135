"""Fine-tuning conversations with the built-in `python` tool on offer.

Knows the tasks and the chat's messages; does not know tokens. They are apart from `conversations`,
whose texts the vocabulary is learned from: a new tool must not change what those are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from ossia.data.conversations import DRILLED, MIXTURE, draw_system, effort_of
from ossia.harmony import Conversation, Message, Role, SystemContent
from ossia.tasks import TASKS, Split, example_random
from ossia.tasks.numbers.python_use import PRINTING, is_beyond, python_use
from ossia.tasks.problem import Turn

IDLE = 0.3  # share of questions that need no Python
COUNTS = (1, 2, 3, 4, 5)  # questions of a conversation


def python_chats(
    seed: int, split: Split = "train", start: int = 0
) -> Iterator[tuple[Conversation, int]]:
    """Endless (conversation, state); `start=state` continues after it."""
    index = start
    while True:
        made = python_chat(seed, split, index)
        index += 1
        yield made, index


def python_chat(seed: int, split: Split, index: int) -> Conversation:
    """Conversation `index`: large numbers, for which Python is used, and among them questions that
    are answered as always. Its reasoning is all there, as in a drill.
    """
    rng = example_random(seed, f"{split}-python", index)
    system = draw_system(rng) or SystemContent()
    declared = replace(system, namespaces=(PRINTING.namespace,))
    messages = [Message(Role.SYSTEM, declared)]
    effort = effort_of(system)
    for _ in range(rng.choice(COUNTS)):
        turn = _question(rng, split)
        asked = Message(Role.USER, turn.user)
        messages.append(asked)
        messages += turn.reply(effort)
    return Conversation(tuple(messages))


def _question(rng: Random, split: Split) -> Turn:
    """One that needs Python; or one that is answered out of one's head, or of its text."""
    if rng.random() >= IDLE:
        problem = python_use(rng, split)
        return problem.turns[-1]
    weights = [MIXTURE[task] for task in DRILLED]
    while True:
        task = rng.choices(DRILLED, weights)[0]
        problem = TASKS[task](rng, split)
        turn = problem.turns[-1]
        if is_beyond(turn.user):
            continue
        if problem.instructions is None:
            return turn
