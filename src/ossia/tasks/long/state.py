"""Following a state through k steps: a number that is added to and multiplied, balls under cups
that change places.

Knows names of colours; does not know models. Low effort writes the answer alone, medium the state
after every third step, high every step and a check. Training tracks are closed under prefixes: no
beginning of one is a held-out track, so no training text contains a held-out track, not even as
part of a longer one. All sums and products are small facts that arithmetic never holds out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Generic, TypeVar

from ossia.errors import ConfigError
from ossia.harmony import Effort
from ossia.tasks.problem import Expect, Problem, Split, Turn, split_of
from ossia.tasks.world.names import COLORS

LONGEST = 16  # steps, unless a caller asks for more
EVERY = 3  # medium effort writes every third state
TRIES = 20  # draws of a step of the wanted split
State = TypeVar("State")


@dataclass(frozen=True)
class Step(Generic[State]):
    """One step: its name, the state after it, how it is worked out."""

    name: str
    after: State
    worked: str


@dataclass(frozen=True)
class Track:
    """k steps from a beginning, and a question about the end.

    `states` and `worked` have one entry per step.
    """

    kind: str
    told: str
    question: str
    final: str
    expect: Expect
    names: tuple[str, ...]
    states: tuple[str, ...]
    worked: tuple[str, ...]
    check: str

    @property
    def k(self) -> int:
        return len(self.names)

    def working(self, effort: Effort) -> str:
        """The analysis at an effort."""
        match effort:
            case Effort.LOW:
                return self.final
            case Effort.MEDIUM:
                shown = []
                for number, state in enumerate(self.states, 1):
                    if number % EVERY == 0 or number == self.k:
                        shown.append(f"after {number}: {state}")
                return ", ".join(shown)
            case Effort.HIGH:
                lines = []
                rows = zip(self.names, self.worked, strict=True)
                for number, (name, worked) in enumerate(rows, 1):
                    lines.append(f"{number} {name}: {worked}")
                lines.append(f"check {self.k} of {self.k} steps, {self.check}")
                return "\n".join(lines)


def _walk(
    rng: Random,
    split: Split,
    k: int,
    begin: Callable[[Random], tuple[str, State]],
    step: Callable[[Random, State], Step[State]],
) -> tuple[str, State, list[Step[State]]]:
    """(the beginning's text, its state, k steps) of the split; the file's docstring defines it."""
    while True:
        told, start = begin(rng)
        key = told
        state = start
        steps: list[Step[State]] = []
        while len(steps) < k:
            last = len(steps) == k - 1
            wanted = split if last or split == "train" else None
            found = _next(rng, key, wanted, state, step)
            if found is None:
                break
            steps.append(found)
            key = f"{key}; {found.name}"
            state = found.after
        else:
            return told, start, steps


def _next(
    rng: Random,
    key: str,
    wanted: Split | None,
    state: State,
    step: Callable[[Random, State], Step[State]],
) -> Step[State] | None:
    """A step after which the track is of the wanted split; None if a few tries found none."""
    for _ in range(TRIES):
        found = step(rng, state)
        if wanted is None or split_of(f"{key}; {found.name}") == wanted:
            return found
    return None


# ---- a number: x = 3; +4; *2; mod 10 -------------------------------------------------------------


def _begin_number(rng: Random) -> tuple[str, int]:
    x = rng.randrange(10)
    return f"x = {x}", x


def _number_step(rng: Random, x: int) -> Step[int]:
    """Adding, subtracting, multiplying what is small, reducing what has become large."""
    luck = rng.random()
    if x > 12 and (luck < 0.5 or x > 90):
        m = rng.randrange(5, 13)
        return Step(f"mod {m}", x % m, f"{x} mod {m} is {x % m}")
    if 0 < x <= 12 and luck < 0.35:
        n = rng.randrange(2, 10)
        return Step(f"*{n}", x * n, f"{x}*{n}={x * n}")
    if x > 1 and luck < 0.65:
        n = rng.randrange(1, min(x, 9) + 1)
        return Step(f"-{n}", x - n, f"{x}-{n}={x - n}")
    n = rng.randrange(1, 10)
    return Step(f"+{n}", x + n, f"{x}+{n}={x + n}")


def _undone_number(before: int, last: Step[int]) -> str:
    """A line that takes the last step back, or does it again where that is not possible."""
    n = last.name[1:]
    match last.name[0]:
        case "+":
            return f"{last.after}-{n}={before}"
        case "-":
            return f"{last.after}+{n}={before}"
        case "*":
            return f"{n}*{before}={last.after}"
        case _:
            return f"again {last.worked}"


def _number_track(rng: Random, split: Split, k: int) -> Track:
    told, start, steps = _walk(rng, split, k, _begin_number, _number_step)
    before = steps[-2].after if k > 1 else start
    check = _undone_number(before, steps[-1])
    return _track_of_number("number", told, steps, check)


def _track_of_number(kind: str, told: str, steps: list[Step[int]], check: str) -> Track:
    x = steps[-1].after
    names = [step.name for step in steps]
    states = [str(step.after) for step in steps]
    worked = [step.worked for step in steps]
    return Track(
        kind=kind,
        told=told,
        question="What is x?",
        final=f"x = {x}",
        expect=Expect(number=x),
        names=tuple(names),
        states=tuple(states),
        worked=tuple(worked),
        check=check,
    )


# ---- a number modulo a prime: every step counts --------------------------------------------------

# multiplying by 2 to 6 can be undone modulo each, so no step forgets what came before
PRIMES = (7, 11, 13)


def _modular_step(p: int, rng: Random, x: int) -> Step[int]:
    luck = rng.random()
    if luck < 0.4:
        n = rng.randrange(2, 7)
        product = x * n
        worked = _reduced(f"{x}*{n}={product}", product, p)
        return Step(f"*{n}", product % p, worked)
    n = rng.randrange(1, 7)
    if luck < 0.7:
        total = x + n
        worked = _reduced(f"{x}+{n}={total}", total, p)
        return Step(f"+{n}", total % p, worked)
    if x >= n:
        return Step(f"-{n}", x - n, f"{x}-{n}={x - n}")
    raised = x + p
    rest = raised - n
    worked = f"{x}-{n}<0, {x}+{p}={raised}, {raised}-{n}={rest}"
    return Step(f"-{n}", rest, worked)


def _reduced(worked: str, value: int, p: int) -> str:
    if value < p:
        return worked
    return f"{worked}, {value} mod {p} is {value % p}"


def _modular_track(rng: Random, split: Split, k: int) -> Track:
    p = rng.choice(PRIMES)

    def begin(rng: Random) -> tuple[str, int]:
        x = rng.randrange(p)
        return f"modulo {p}: x = {x}", x

    step = partial(_modular_step, p)
    told, start, steps = _walk(rng, split, k, begin, step)
    before = steps[-2].after if k > 1 else start
    check = _undone_modular(p, before, steps[-1])
    return _track_of_number("modular", told, steps, check)


def _undone_modular(p: int, before: int, last: Step[int]) -> str:
    x = last.after
    n = int(last.name[1:])
    match last.name[0]:
        case "*":  # done again, from the other side
            product = n * before
            return _reduced(f"{n}*{before}={product}", product, p)
        case "+" if x < n:
            raised = x + p
            return f"{x}+{p}={raised}, {raised}-{n}={before}"
        case "+":
            return f"{x}-{n}={before}"
        case _:
            total = x + n
            return _reduced(f"{x}+{n}={total}", total, p)


# ---- balls under cups: the permutations of 3 or 5 ------------------------------------------------

Cups = tuple[str, ...]


def _cup_step(rng: Random, cups: Cups) -> Step[Cups]:
    """Two cups change places; now and then every ball moves one cup on, the last to the first."""
    moved = list(cups)
    if rng.random() < 0.15:
        last = moved.pop()
        moved.insert(0, last)
        name = "rotate"
    else:
        a, b = sorted(rng.sample(range(len(cups)), 2))
        moved[a] = cups[b]
        moved[b] = cups[a]
        name = f"swap {a + 1} {b + 1}"
    return Step(name, tuple(moved), " ".join(moved))


def _cups_track(count: int, rng: Random, split: Split, k: int) -> Track:
    def begin(rng: Random) -> tuple[str, Cups]:
        balls = tuple(rng.sample(COLORS, count))
        return f"cups: {' '.join(balls)}", balls

    told, start, steps = _walk(rng, split, k, begin, _cup_step)
    end = steps[-1].after
    place = rng.randrange(count)
    ball = end[place]
    if rng.random() < 0.5:
        question = f"What is in cup {place + 1}?"
        final = f"In cup {place + 1} is {ball}"
        expect = Expect(equals=ball, told=end)
    else:
        question = f"Where is {ball}?"
        final = f"{ball} is in cup {place + 1}"
        cups = [str(cup) for cup in range(1, count + 1)]
        expect = Expect(number=place + 1, told=cups)
    path = [str(start.index(ball) + 1)]
    for one in steps:
        path.append(str(one.after.index(ball) + 1))
    states = tuple([one.worked for one in steps])
    return Track(
        kind=f"cups{count}",
        told=told,
        question=question,
        final=final,
        expect=expect,
        names=tuple([one.name for one in steps]),
        states=states,
        worked=states,
        check=f"{ball} goes {' '.join(path)}",
    )


KINDS: dict[str, Callable[[Random, Split, int], Track]] = {
    "number": _number_track,
    "modular": _modular_track,
    "cups3": partial(_cups_track, 3),
    "cups5": partial(_cups_track, 5),
}
_NAMES = tuple(KINDS)
_EFFORTS = tuple(Effort)

# ---- the task ------------------------------------------------------------------------------------


def draw_track(rng: Random, split: Split, k: int, kind: str | None = None) -> Track:
    """A track of k steps, of any kind or of `kind`.

    Raises ConfigError for k < 1 or an unknown kind.
    """
    if k < 1:
        raise ConfigError(f"a track needs at least one step, not {k}: choose k from 1 up")
    if kind is None:
        kind = rng.choice(_NAMES)
    if kind not in KINDS:
        raise ConfigError(f"there are no tracks of kind {kind!r}: use one of {', '.join(KINDS)}")
    draw = KINDS[kind]
    return draw(rng, split, k)


def state_tracking(
    rng: Random, split: Split, k: int | None = None, kind: str | None = None
) -> Problem:
    """k steps, 1 to 16 if it is not given, and a question about the state after the last."""
    if k is None:
        k = rng.randrange(1, LONGEST + 1)
    track = draw_track(rng, split, k, kind)
    steps = "; ".join(track.names)
    user = f"{track.told}; {steps}. {track.question}"
    turn = Turn(user, track.final, track.working)
    about: dict[str, str | int] = {"k": track.k, "kind": track.kind}
    return Problem("state", split, (turn,), track.expect, about=about)


def state_text(rng: Random) -> str:
    """A document: tracks with their working at one effort and their answers. Half are short."""
    effort = rng.choice(_EFFORTS)
    short = rng.random() < 0.5
    longest = 6 if short else LONGEST
    count = 1
    if short or effort is Effort.LOW:
        count = rng.randrange(1, 4)
    parts = []
    for _ in range(count):
        k = rng.randrange(1, longest + 1)
        problem = state_tracking(rng, "train", k)
        parts.append(problem.turns[0].as_text(effort))
    return "\n\n".join(parts)
