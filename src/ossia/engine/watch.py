"""What an engine tells of its steps to whoever counts them. Plain numbers; no tensors."""

from __future__ import annotations

from typing import Literal, get_args

from ossia.engine.scheduler import Step

Phase = Literal["prefill", "decode", "mixed"]
PHASES: tuple[Phase, ...] = get_args(Phase)


class Watch:
    """Nobody listens. Another class overrides what it wants to hear; the engine's thread calls."""

    def step(self, phase: Phase, seconds: float) -> None:
        """One forward pass with its sampling. `prefill`: it only read prompts; `decode`: it only
        went on with answers.
        """

    def began(self, waited: float) -> None:
        """First tokens of a request have been computed, so many seconds after it came."""


def report(watch: Watch, step: Step, began: float, seconds: float) -> None:
    """`began`: on the clock of time.perf_counter."""
    watch.step(phase_of(step), seconds)
    for work in step.scheduled:
        request = work.request
        if not request.has_begun:
            request.has_begun = True
            watch.began(began - request.arrived)


def phase_of(step: Step) -> Phase:
    if step.decodes == len(step.scheduled):
        return "decode"
    return "mixed" if step.decodes else "prefill"
