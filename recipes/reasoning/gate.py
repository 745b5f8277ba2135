"""The gate before rewards: whether there is something to learn on a task at a knob. Printed before
any reinforcement, and decided by numbers alone.

Knows rows of answers to held-out problems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from ossia.figures import markdown_table, pass_at
from ossia.harmony import Effort
from ossia.tasks import Split
from ossia.tasks.long.state import state_tracking
from recipes.reasoning.measure import Row

MOST_GUESSED = 0.05
PASS_1 = (0.25, 0.65)
ROOM = 0.25  # of pass@8 above pass@1 and above 8 guesses
FULL = 0.2  # of answers that write every step, above pass@1
TRIES = 8
DRAWN = 2_000  # problems of each split whose answers are counted


@dataclass(frozen=True)
class Gate:
    """A knob's numbers, all shares. `guess`, `guess_k`: right answers of somebody who always says
    the commonest answers of training, one or `TRIES` of them.
    """

    name: str
    guess: float
    guess_k: float
    pass_1: float
    pass_k: float
    full: float

    @property
    def verdicts(self) -> Mapping[str, bool]:
        low, high = PASS_1
        return {
            "guess": self.guess <= MOST_GUESSED,
            "pass@1": low <= self.pass_1 <= high,
            "room": self.pass_k - max(self.pass_1, self.guess_k) >= ROOM,
            "full grain": self.full - self.pass_1 >= FULL,
        }

    @property
    def is_open(self) -> bool:
        return all(self.verdicts.values())


def guesses(kind: str, ks: Sequence[int]) -> tuple[float, float]:
    """Shares of held-out answers that the commonest answer of training, and the `TRIES` commonest,
    would hit.
    """
    trained = Counter(_answers(kind, ks, "train"))
    common = [answer for answer, _ in trained.most_common(TRIES)]
    wanted = _answers(kind, ks, "held_out")
    return fmean(x == common[0] for x in wanted), fmean(x in common for x in wanted)


def _answers(kind: str, ks: Sequence[int], split: Split) -> list[int | None]:
    found = []
    for number in range(DRAWN):
        rng = Random(f"guess:{kind}:{number}")
        found.append(state_tracking(rng, split, rng.choice(ks), kind).expect.number)
    return found


def gate(name: str, rows: Sequence[Row], kind: str) -> Gate:
    """Of the rows of some lengths."""
    ks = sorted({row.k for row in rows})
    guess, guess_k = guesses(kind, ks)
    full = [row.right for row in rows if row.grain == Effort.HIGH.value]
    return Gate(
        name=name,
        guess=guess,
        guess_k=guess_k,
        pass_1=fmean(row.right for row in rows),
        pass_k=passed(rows, TRIES),
        full=fmean(full) if full else 0.0,
    )


def passed(rows: Sequence[Row], k: int) -> float:
    """Mean pass@k over problems and efforts; of fewer samples, of as many as there are."""
    groups: dict[tuple[int, str], list[bool]] = {}
    for row in rows:
        groups.setdefault((row.problem, row.effort), []).append(row.right)
    return fmean(pass_at(min(k, len(of)), sum(of), len(of)) for of in groups.values())


def table(gates: Sequence[Gate], full: str = "every step written") -> str:
    """Markdown; a number that does not pass has a ! behind it. `full`: what those answers did."""
    rows = []
    for each in gates:
        cells = [each.name]
        shown = {
            "guess": f"{each.guess:.0%}",
            "pass@1": f"{each.pass_1:.0%}",
            "room": f"{each.pass_k:.0%} against {max(each.pass_1, each.guess_k):.0%}",
            "full grain": f"{each.full:.0%}",
        }
        for what, text in shown.items():
            cells.append(text if each.verdicts[what] else f"{text} !")
        rows.append([*cells, "open" if each.is_open else "shut"])
    head = ["task and knob", "guess", "pass@1", f"pass@{TRIES}", full, "gate"]
    return markdown_table(head, rows)
