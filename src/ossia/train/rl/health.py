"""What a step of samples looked like in numbers, and when that is an alarm. No tensors.

An alarm says which setting to change. Some warn once and go on; those that mean that nothing can be
learned any more stop the run. Settings are part of what a run is: with others it begins again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, quantiles
from typing import Any

from ossia.errors import TrainingError
from ossia.tasks.environment import CUT, RAISED, Ask, Reason
from ossia.train.rl.worth import Valued, is_live

CUT_WARNS = 0.2
UNGRADED_WARNS = 0.1
ALL_CUT_STOPS = 3  # steps
NONE_LIVE_STOPS = 5
LONGER: dict[Reason, str] = {
    "length": "raise sampling.max_tokens",
    "budget": "raise sampling.max_tokens, or sampling.turns where the user goes on asking",
    "context": "the context was full: ask for less, or let tools say less",
    "tool_rounds": "they kept calling tools: say in the prompt, or in what tools return, when it "
    "is enough",
}
Numbers = dict[str, float]


def numbers(asks: Sequence[Ask], groups: Sequence[Sequence[Valued]]) -> Numbers:
    """Of a step, for the log: flat names and floats."""
    every = [each for group in groups for each in group]
    found = _rewards(every) | _of_groups(groups)
    for effort, chosen in _by(every, lambda each: str(each.sample.effort)).items():
        found[f"correct/{effort}"] = _correct(chosen)
        found |= _lengths(f"analysis/{effort}", [each.sample.counts.analysis for each in chosen])
    of_task = {ask.group: ask.task for ask in asks}
    for task, chosen in _by(every, lambda each: of_task[each.sample.group]).items():
        found[f"correct/{task}"] = _correct(chosen)
    for reason, count in Counter(each.sample.reason for each in every).items():
        found[f"reason/{reason}"] = count / len(every)
    for name in ("calls", "failures", "mistakes", "repairs"):
        found[name] = float(sum(getattr(each.sample.counts, name) for each in every))
    found["sampled"] = float(sum(each.sample.counts.sampled for each in every))
    return found


def _rewards(every: Sequence[Valued]) -> Numbers:
    rewards = [each.reward for each in every if each.reward is not None]
    return {
        "reward": fmean(rewards) if rewards else 0.0,
        "correct": _correct(every),
        "ungraded": sum(each.reward is None for each in every) / len(every),
        "cut": sum(each.is_cut for each in every) / len(every),
        "unpaid": _unpaid(every),
    }


def _unpaid(every: Sequence[Valued]) -> float:
    """Of the right answers, the share whose thoughts cost all that they are worth, or more; 0 if
    none is right.
    """
    right = [each for each in every if each.sample.reward.correct and each.sample.reward.value]
    return fmean((each.reward or 0.0) <= 0 for each in right) if right else 0.0


def _of_groups(groups: Sequence[Sequence[Valued]]) -> Numbers:
    right = [[each.sample.reward.correct is True for each in group] for group in groups]
    return {
        "live": sum(is_live(group) for group in groups) / len(groups),
        "all_right": sum(all(group) for group in right) / len(groups),
        "all_wrong": sum(not any(group) for group in right) / len(groups),
    }


def _correct(every: Sequence[Valued]) -> float:
    """The share of those that were graded."""
    graded = [each.sample.reward.correct for each in every]
    known = [value for value in graded if value is not None]
    return fmean(known) if known else 0.0


def _lengths(name: str, lengths: Sequence[int]) -> Numbers:
    tenths = quantiles(lengths, n=10) if len(lengths) > 1 else [float(lengths[0])] * 9
    return {f"{name}/median": tenths[4], f"{name}/p90": tenths[8], f"{name}/mean": fmean(lengths)}


def _by(every: Sequence[Valued], key: Callable[[Valued], str]) -> dict[str, list[Valued]]:
    found: dict[str, list[Valued]] = {}
    for each in every:
        found.setdefault(key(each), []).append(each)
    return found


def stop_if_broken(step: int, groups: Sequence[Sequence[Valued]]) -> None:
    """Raises `TrainingError` if the reward raised an error for every answer of a step: it has a
    mistake in it, and no step will learn anything.
    """
    whys = Counter(each.sample.reward.why or "" for group in groups for each in group)
    if not whys or not all(why.startswith(RAISED) for why in whys):
        return
    (commonest, _), *_ = whys.most_common(1)
    raise TrainingError(
        f"step {step}: none of the answers could be graded: {commonest}. Mend the reward, and "
        "begin again with --fresh"
    )


@dataclass
class Alarms:
    """Fed with each step's numbers; its counts are part of a run's state."""

    all_cut: int = 0  # steps in a row
    none_live: int = 0
    warned: set[str] = field(default_factory=set)

    def look(self, step: int, found: Mapping[str, float]) -> list[str]:
        """Warnings that are new. Raises `TrainingError` for what stops the run."""
        self.all_cut = self.all_cut + 1 if found["cut"] == 1 else 0
        is_lost = found["live"] == 0 and (found["all_right"] < 1 or found["unpaid"] == 1)
        self.none_live = self.none_live + 1 if is_lost else 0
        if self.all_cut >= ALL_CUT_STOPS:
            raise TrainingError(
                f"step {step}: every answer of {ALL_CUT_STOPS} steps was cut off before it ended; "
                f"{_longer(found)}"
            )
        if self.none_live >= NONE_LIVE_STOPS:
            raise TrainingError(
                f"step {step}: in {NONE_LIVE_STOPS} steps no group had answers of different worth, "
                f"so there is nothing to learn from; {_why_dead(found)}"
            )
        new = dict(_warnings(found))
        fresh = [text for name, text in new.items() if name not in self.warned]
        self.warned |= new.keys()
        return fresh

    def state_dict(self) -> dict[str, Any]:
        return {
            "all_cut": self.all_cut,
            "none_live": self.none_live,
            "warned": sorted(self.warned),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.all_cut = state["all_cut"]
        self.none_live = state["none_live"]
        self.warned = set(state["warned"])


def _longer(found: Mapping[str, float]) -> str:
    """What helps, by the commonest way in which answers were cut."""
    commonest = max(CUT, key=lambda reason: found.get(f"reason/{reason}", 0.0))
    return LONGER[commonest]


def _why_dead(found: Mapping[str, float]) -> str:
    if found["ungraded"] == 1:
        return "nothing could be graded: see `why` in the rollouts, and mend the reward"
    if found["unpaid"] == 1:
        return (
            "right answers think for so long that they are worth 0: raise `most` and `budget` of "
            "sampling.prices, or set sampling.price=false"
        )
    if found["all_right"] > found["all_wrong"]:
        return "many are always right: ask for harder problems"
    return (
        "nearly all are wrong: ask for easier problems, raise sampling.samples, or fine-tune on "
        "examples first (ossia train sft)"
    )


def _warnings(found: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    if found["all_right"] == 1 and found["unpaid"] < 1:
        yield (
            "all right",
            "every answer is right: there is nothing left to learn from such problems",
        )
    if found["cut"] > CUT_WARNS:
        yield (
            "cut",
            f"{found['cut']:.0%} of the answers were cut off: {_longer(found)}",
        )
    if found["ungraded"] > UNGRADED_WARNS:
        yield (
            "ungraded",
            f"{found['ungraded']:.0%} of the answers could not be graded: see `why` in the "
            "rollouts; if tools take long, raise sampling.seconds",
        )
