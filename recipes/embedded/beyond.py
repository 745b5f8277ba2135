"""What nano is fine-tuned on beside its own tasks: what is beyond it, answers in a format, the
policy on the fictional hazard with the rule that applies in its thoughts, whom to obey, tools under
other names.

Knows tasks; no models. Held out are the same problems as for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from ossia.data.conversations import surrounded
from ossia.tasks import REGISTRY, Problem

# In percent. More than half of the problems about levels have no conflict, and two thirds of those
# about the policy have nothing to refuse: what a model over-learns are refusals.
MIXTURE: Mapping[str, int] = {
    "limits": 34,
    "response formats": 9,
    "policy": 22,
    "jailbreaks seen": 5,
    "hierarchy": 14,
    "protection": 7,
    "calling": 9,
}
ORDINARY = "limits"  # the task that any developer message may stand before


def drawn(rng: Random) -> Problem:
    """A problem to learn from."""
    tasks = list(MIXTURE)
    shares = list(MIXTURE.values())
    task = rng.choices(tasks, shares)[0]
    problem = REGISTRY[task].generator(rng, "train")
    return surrounded(rng, problem) if task == ORDINARY else problem
