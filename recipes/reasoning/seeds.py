"""Seeds: conversations that show a way to think at each effort, and now and then another one, so
that rewards have something to choose from.

Knows a task's gold answers at three grains, and the Harmony format; no models. Example i is a
function of (seed, i).
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from ossia.data.packing import Example, State
from ossia.harmony import (
    Conversation,
    Effort,
    Message,
    Role,
    SystemContent,
    render_for_training,
)
from ossia.tasks import Problem, example_random
from ossia.tasks.long.state import state_tracking
from ossia.tokenizer import Tokenizer

TIED = 0.7  # share of the answers whose grain is that of the effort; the others are of another
DRILLS = 0.5  # share of the examples with several questions after one system message
PART = "reason"


def grain_for(effort: Effort, rng: Random, tied: float = TIED) -> Effort:
    """How finely an answer at this effort is worked out."""
    if rng.random() < tied:
        return effort
    return rng.choice([other for other in Effort if other is not effort])


def question(rng: Random, kind: str, longest: int) -> Problem:
    """A track to learn from, of 1 to `longest` steps."""
    return state_tracking(rng, "train", rng.randrange(1, longest + 1), kind)


def conversation(rng: Random, kind: str, longest: int) -> Conversation:
    """A system message with an effort, then one question or several, each with a gold answer."""
    effort = rng.choice(list(Effort))
    messages: list[Message] = [Message(Role.SYSTEM, SystemContent(effort=effort))]
    count = rng.randrange(3, 6) if rng.random() < DRILLS else 1
    for _ in range(count):
        problem = question(rng, kind, longest)
        messages += problem.prompt(effort)
        messages += problem.solution(grain_for(effort, rng))
    return Conversation(tuple(messages))


def examples(
    tokenizer: Tokenizer, kind: str, longest: int, seed: int, state: State
) -> Iterator[tuple[Example, State]]:
    """Endless, for `train.run.ExamplesFrom`."""
    index = state or 0
    while True:
        made = conversation(example_random(seed, PART, index), kind, longest)
        rendered = render_for_training(made, tokenizer, drop_analysis=False)
        index += 1
        yield Example(rendered.ids, rendered.mask), index
