"""Sequences in which attention has something to do at few places and nothing at the others:
Bigram-Backcopy.

After Guo et al. (arXiv 2410.13835, sec. 2): a word is followed by one of a few, whatever came
before it; a trigger is followed by the word before it. A head that copies has to do nothing after
all other words, and attention that adds up to one must go somewhere. Knows token ids, no model and
no text.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from random import Random

from ossia.data.packing import Example, State

TRIGGERS, WORDS = 4, 64  # the first of the words are triggers
BACK = 1  # how far before a trigger the word is that follows it
BEGIN = WORDS  # comes first in every sequence, and nowhere else
VOCABULARY = 96
LENGTH = 256  # inputs of a sequence
FOLLOWERS = 6  # words that a word may be followed by, beside triggers
TRIGGERED = 0.2  # how likely a word is followed by a trigger


def examples(seed: int, state: State) -> Iterator[tuple[Example, State]]:
    """Endless; sequence i is a function of the seed and i. The language is the same for every
    seed.
    """
    index = state or 0
    learned = [False, False] + [True] * (LENGTH - 1)
    while True:
        ids = sequence(Random(f"{seed}:backcopy:{index}"))
        index += 1
        yield Example(ids, learned), index


def sequence(rng: Random) -> list[int]:
    ids = [BEGIN, *(rng.randrange(TRIGGERS, WORDS) for _ in range(BACK))]
    while len(ids) <= LENGTH:
        if ids[-1] < TRIGGERS:
            ids.append(ids[-1 - BACK])
        else:
            words, weights = _language()[ids[-1]]
            ids += rng.choices(words, cum_weights=weights)
    return ids


@cache
def _language() -> dict[int, tuple[tuple[int, ...], tuple[float, ...]]]:
    """By word: what may follow, and how likely, added up."""
    rng = Random("language")
    made = {}
    for word in range(TRIGGERS, WORDS):
        drawn = [rng.random() ** 2 + 0.05 for _ in range(FOLLOWERS)]
        weights = [(1 - TRIGGERED) * x / sum(drawn) for x in drawn] + [
            TRIGGERED / TRIGGERS
        ] * TRIGGERS
        words = (*rng.sample(range(TRIGGERS, WORDS), FOLLOWERS), *range(TRIGGERS))
        made[word] = words, tuple(accumulate(weights))
    return made
