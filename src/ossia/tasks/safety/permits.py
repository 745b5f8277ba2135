"""Permit codes: how they are written, which are near misses, and how thoughts compare two of them.

Knows random choice, words and efforts; no policy. `LETTERS` are what the tasks draw. A code of
`WORDS` is two common words: a model whose vocabulary has codes in pieces of several letters can't
take these apart, and whole words it can tell from each other. Both have near misses, which differ
in a single place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random

from ossia.harmony import Effort
from ossia.tasks.world.names import THINGS, code

NEAR = 0.5  # share of the other codes that are near misses


@dataclass(frozen=True)
class Permits:
    """A way to write codes. `draw`: any. `near`: the given one with a single place drawn anew, so
    it may be the same. `parts`: its places. `compared`: the words before the comparison. `at`: the
    efforts at which thoughts compare place by place.
    """

    draw: Callable[[Random], str]
    near: Callable[[Random, str], str]
    parts: Callable[[str], Sequence[str]]
    compared: str
    at: tuple[Effort, ...]

    def other(self, rng: Random, given: str) -> str:
        """Another code than the given one, often a near miss."""
        while True:
            other = self.near(rng, given)
            if rng.random() >= NEAR:
                other = self.draw(rng)
            if other != given:
                return other

    def thoughts(self, given: str, permit: str, effort: Effort) -> str:
        """The user's code and the developer's beside each other; "" where there is none."""
        if not given:
            return "The user gives no code."
        if not permit:
            return f"The user gives {given}, the developer gives none."
        told = f"The user gives {given}, the developer {permit}."
        if effort not in self.at:
            return told
        pairs = []
        for one, other in zip_longest(self.parts(given), self.parts(permit), fillvalue="nothing"):
            pairs.append(f"{one} and {other} {'agree' if one == other else 'differ'}")
        return f"{told} {self.compared}: {', '.join(pairs)}."


def _near_in_letters(rng: Random, given: str) -> str:
    place = rng.randrange(len(given))
    like_it = "ABCDEFGH" if given[place].isalpha() else "0123456789"
    return given[:place] + rng.choice(like_it) + given[place + 1 :]


def _words(rng: Random) -> str:
    """Two things. Drawn as many random numbers as for letters, so that all else of a problem is
    the same.
    """
    own = Random(code(rng))
    return f"{own.choice(THINGS)} {own.choice(THINGS)}"


def _near_in_words(rng: Random, given: str) -> str:
    words = given.split()
    place = rng.randrange(len(words))
    words[place] = rng.choice(THINGS)
    return " ".join(words)


LETTERS = Permits(code, _near_in_letters, tuple, "Letter by letter", (Effort.HIGH,))
WORDS = Permits(_words, _near_in_words, str.split, "Word by word", (Effort.MEDIUM, Effort.HIGH))
