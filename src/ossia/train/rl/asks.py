"""Where problems come from: ossia's own tasks, or a user's. Each at every effort is an arm of the
curriculum.

A problem is a function of (seed, step, group) and of its arm, and nothing else: a step that is done
again asks the same, and so does another process that is told these numbers (`Problems.again`).
Knows tasks; no models, no tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from random import Random
from typing import Protocol

from ossia.errors import ConfigError
from ossia.harmony import Effort
from ossia.tasks import REGISTRY, Split
from ossia.tasks.environment import Ask, ask_problem
from ossia.tasks.external import ExternalTask, Row
from ossia.train.rl.curriculum import Curriculum

LOOK = "conditions look like [k=4..8;kind=cups]"
TRIES = 2_000  # draws until a problem is as it is wanted
HELD_OUT = 10  # one row of a user's in so many
FEW_ROWS = 2 * HELD_OUT  # of fewer, all are trained on
REPORTED = ("id", "about")  # keys of a row that neither what is asked nor what is right depends on
FOLLOWED, ANY = "followed", "any"  # how an arm was drawn: by a curriculum, or evenly


class Source(Protocol):
    """Problems of one task."""

    @property
    def name(self) -> str: ...
    def ask(self, rng: Random, effort: Effort, split: Split) -> Ask:
        """A problem, a function of `rng`'s state."""
        ...

    def held_out(self, number: int, rng: Random, effort: Effort) -> Ask | None:
        """The `number`-th that is measured, the same whenever it is asked; None after the last."""
        ...


@dataclass(frozen=True)
class Own:
    """A task of ossia's; `only` keeps problems for which `about` says these things. A number stands
    for itself, or a range: 4..8.
    """

    task: str
    only: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        if not self.only:
            return self.task
        return self.task + "[" + ",".join(f"{key}={value}" for key, value in self.only) + "]"

    def ask(self, rng: Random, effort: Effort, split: Split) -> Ask:
        generator = REGISTRY[self.task].generator
        for _ in range(TRIES):
            problem = generator(Random(rng.random()), split)
            if all(_fits(problem.about.get(key), value) for key, value in self.only):
                return ask_problem(problem, effort)
        raise ConfigError(
            f"{self.name}: none of {TRIES:,} problems was like that; "
            f"one says of itself {dict(problem.about)}"
        )

    def held_out(self, number: int, rng: Random, effort: Effort) -> Ask:
        return self.ask(rng, effort, "held_out")


@dataclass(frozen=True)
class Rows:
    """A user's task. Every tenth row is held out, and its copies are left out, if there are 20 or
    more that differ; otherwise all of them are both trained on and measured.
    """

    task: ExternalTask

    @property
    def name(self) -> str:
        return self.task.name

    def ask(self, rng: Random, effort: Effort, split: Split) -> Ask:
        numbers = self.trained if split == "train" else self.measured
        return self.task.ask(rng.choice(numbers), effort)

    def held_out(self, number: int, rng: Random, effort: Effort) -> Ask | None:
        numbers = self.measured
        return self.task.ask(numbers[number], effort) if number < len(numbers) else None

    @property
    def has_too_few(self) -> bool:
        """To hold any out."""
        return self._different < FEW_ROWS

    @property
    def trained(self) -> Sequence[int]:
        """The numbers of the rows that are trained on."""
        return self._every if self.has_too_few else self._sides["train"]

    @property
    def measured(self) -> Sequence[int]:
        return self._every if self.has_too_few else self._sides["held_out"]

    @cached_property
    def _every(self) -> Sequence[int]:
        return range(len(self.task.rows))

    @cached_property
    def _places(self) -> list[int]:
        """Of each row its number among those that differ."""
        found: dict[str, int] = {}
        return [found.setdefault(_said(row), len(found)) for row in self.task.rows]

    @cached_property
    def _different(self) -> int:
        return max(self._places, default=-1) + 1

    @cached_property
    def _sides(self) -> Mapping[Split, Sequence[int]]:
        """A copy of what is trained on is drawn as often; one of what is measured, not at all."""
        trained = []
        measured: dict[int, int] = {}
        for number, place in enumerate(self._places):
            if place % HELD_OUT == HELD_OUT - 1:
                measured.setdefault(place, number)
            else:
                trained.append(number)
        return {"train": trained, "held_out": list(measured.values())}


def _said(row: Row) -> str:
    """All of a row but what is only for reports: with the same words it is the same problem."""
    return repr({key: row[key] for key in row if key not in REPORTED})


def own(text: str) -> Own:
    """Of `task` or `task[key=value,key=low..high]`, with commas or semicolons. Raises `ConfigError`
    for an unknown task, and for conditions that cannot be read.
    """
    name, bracket, rest = text.partition("[")
    name = name.strip()
    if name not in REGISTRY:
        raise ConfigError(f"there is no task {name!r}; tasks are {', '.join(REGISTRY)}")
    if "rl" not in REGISTRY[name].kinds:
        raise ConfigError(f"the task {name!r} has no problems to train on")
    if not bracket:
        return Own(name)
    if not rest.rstrip().endswith("]"):
        raise ConfigError(f"{text}: the conditions must end with ]; {LOOK}")
    conditions = re.split("[,;]", rest.rstrip().removesuffix("]"))
    return Own(name, tuple(_condition(text, each) for each in conditions))


def _condition(text: str, condition: str) -> tuple[str, str]:
    key, equals, value = condition.partition("=")
    key = key.strip()
    value = value.strip()
    if not (equals and key and value):
        raise ConfigError(f"{text}: {condition.strip()!r} is no condition; {LOOK}")
    if ".." in value:
        ends = _ends(value)
        if ends is None or ends[0] > ends[1]:
            raise ConfigError(
                f"{text}: a range has two whole numbers, the smaller one first, found {value!r}; "
                f"{LOOK}"
            )
    return key, value


def _ends(wanted: str) -> tuple[int, int] | None:
    """Of `low..high`; None for what is no range."""
    low, _, high = wanted.partition("..")
    try:
        return int(low), int(high)
    except ValueError:
        return None


def _fits(found: str | int | bool | None, wanted: str) -> bool:
    ends = _ends(wanted)
    if ends is not None and isinstance(found, int):
        return ends[0] <= found <= ends[1]
    return str(found) == wanted


@dataclass(frozen=True)
class Problems:
    """What a run asks. `sides`: how many of the sources belong together, one number a side; groups
    are dealt to the sides in turn, so that each gets as many. None: all are one side.
    """

    sources: tuple[Source, ...]
    efforts: tuple[Effort, ...]
    seed: int
    sides: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"two tasks are called {', '.join(twice)}, so their numbers could not be told "
                "apart: give each once, and rename a file of yours"
            )
        assert self.sides is None or sum(self.sides) == len(self.sources), self.sides

    def warnings(self) -> list[str]:
        """What a measurement will not mean."""
        return [
            f"{source.name} has fewer than {FEW_ROWS} rows that differ: none is held out, so what "
            "is measured on the way is what was trained on"
            for source in self.sources
            if isinstance(source, Rows) and source.has_too_few
        ]

    @property
    def arms(self) -> list[str]:
        return list(self._arms())

    def step(self, step: int, groups: range, curriculum: Curriculum | None) -> list[Ask]:
        """The groups of a step, by number."""
        return [self._group(step, group, curriculum) for group in groups]

    def held_out(self, problems: int) -> list[Ask]:
        """The same problems whenever it is asked: so many of each arm, or as many as there are,
        each at every effort.
        """
        found: list[Ask] = []
        for place in range(len(self.sources)):
            for effort in self.efforts:
                for number in range(problems):
                    ask = self._held_out(place, effort, number, len(found))
                    if ask is None:
                        break
                    found.append(ask)
        return found

    def again(self, origin: tuple[str | int, ...]) -> Ask:
        """The ask with this `origin`, as `step` or `held_out` made it, here or elsewhere."""
        match origin:
            case ("step", int(step), int(group), str(arm), str(drawn)) if arm in self.arms:
                return self._of_arm_again(step, group, arm, drawn)
            case ("held out", int(place), str(effort), int(number), int(group)):
                ask = self._held_out(place, Effort(effort), number, group)
                if ask is not None:
                    return ask
        raise ConfigError(
            f"no problem of this run is {origin}: actors must read the same files and have the "
            "same version of ossia as the process that asks them"
        )

    def _held_out(self, place: int, effort: Effort, number: int, group: int) -> Ask | None:
        source = self.sources[place]
        # every effort is asked the same
        rng = Random(f"{self.seed}:held out:{source.name}:{number}")
        seed = Random(f"{self.seed}:held out:{group}").getrandbits(31)
        ask = source.held_out(number, rng, effort)
        if ask is None:
            return None
        origin = ("held out", place, str(effort), number, group)
        arm = f"{source.name}/{effort}"
        return replace(ask, group=group, seed=seed, arm=arm, origin=origin)

    def _group(self, step: int, group: int, curriculum: Curriculum | None) -> Ask:
        rng = Random(f"{self.seed}:{step}:{group}")
        side = self._side(group)
        if curriculum is None:
            return self._of_arm(step, group, rng.choice(side), ANY, rng)
        return self._of_arm(step, group, curriculum.draw(rng, side), FOLLOWED, rng)

    def _of_arm_again(self, step: int, group: int, arm: str, drawn: str) -> Ask:
        """Whatever arm is drawn, that takes as many numbers from the generator."""
        rng = Random(f"{self.seed}:{step}:{group}")
        side = self._side(group)
        if drawn == FOLLOWED:
            Curriculum(side).draw(rng, side)
        else:
            rng.choice(side)
        return self._of_arm(step, group, arm, drawn, rng)

    def _of_arm(self, step: int, group: int, arm: str, drawn: str, rng: Random) -> Ask:
        ask = self._arms()[arm](rng)
        origin = ("step", step, group, arm, drawn)
        return replace(ask, group=group, seed=rng.getrandbits(31), arm=arm, origin=origin)

    def _side(self, group: int) -> list[str]:
        """The arms that a group is drawn from."""
        arms = self.arms
        if self.sides is None:
            return arms
        number = group % len(self.sides)
        first = sum(self.sides[:number]) * len(self.efforts)
        return arms[first : first + self.sides[number] * len(self.efforts)]

    def _arms(self) -> dict[str, Callable[[Random], Ask]]:
        found: dict[str, Callable[[Random], Ask]] = {}
        for source in self.sources:
            for effort in self.efforts:
                found[f"{source.name}/{effort}"] = partial(source.ask, effort=effort, split="train")
        return found
