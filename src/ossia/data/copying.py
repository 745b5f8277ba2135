"""Random tokens to be copied and looked up: the shortest way to attention that can find things in
its context.

Knows token ids; does not know text. Two kinds of example, over an alphabet that begins small and
grows:
`repetition`, a run of tokens said twice (Olsson et al., In-context Learning and Induction Heads,
arXiv 2209.11895), and `records`, facts of the form entity relation value that share entities and
relations, each asked for again. A repetition is copied by matching one token; a record's value is
found only by matching two things at once, as in a text where everybody lives somewhere. A model
that reads natural text from the start learns neither in millions of tokens (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from ossia.data.packing import Example

FEW = 0.3  # share of examples, or of values, made of few different tokens
Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Curriculum:
    """How the alphabet and the kinds of example change with the number of examples so far.

    A step of 4,096 tokens holds some 80 repetitions, or 40 records.
    """

    smallest: int = 64  # tokens of the alphabet at first
    records_after: int = 9_000  # examples; only repetitions before
    grow_after: int = 11_500
    double_every: int = 1_800
    records: float = 0.6  # share of examples, later

    def alphabet(self, index: int, vocabulary: int) -> int:
        """The number of different tokens in example `index`."""
        doublings = max(0, index - self.grow_after) / self.double_every
        return int(min(vocabulary, self.smallest * 2.0 ** min(doublings, 32)))


GROWN = Curriculum(records_after=0, grow_after=0, double_every=1, records=0.8)  # its end, for later


@dataclass(frozen=True)
class Marks:
    """The special tokens that hold an example together."""

    begin: int
    end: int
    stop: int  # ends a record; an ordinary token such as a full stop


def examples(
    seed: int, vocabulary: int, marks: Marks, curriculum: Curriculum, start: int | None = None
) -> Iterator[tuple[Example, int]]:
    """Endless (example, state) over the ordinary tokens 0..vocabulary-1.

    `start=state` continues after it.
    """
    index = start or 0
    order = list(range(vocabulary))
    Random(f"{seed}:alphabet").shuffle(order)  # so that the first tokens are not the rarest bytes
    while True:
        rng = Random(f"{seed}:copying:{index}")
        size = curriculum.alphabet(index, vocabulary)
        alphabet = order[:size]
        make = repetition
        if index >= curriculum.records_after and rng.random() < curriculum.records:
            make = records
        index += 1
        yield make(rng, alphabet, marks), index


def repetition(rng: Random, alphabet: list[int], marks: Marks) -> Example:
    """4 to 44 tokens twice; the second time is to be learned.

    Some have few different tokens, as numbers do: there, one token before is not enough to find the
    place.
    """
    if rng.random() < FEW:
        alphabet = _few(rng, alphabet)
    count = rng.randrange(4, 45)
    drawn = rng.choices(alphabet, k=count)
    first = [marks.begin, *drawn, marks.begin]
    again = [*drawn, marks.end]
    mask = [False] * len(first) + [True] * len(again)
    return Example(first + again, mask)


def _few(rng: Random, alphabet: list[int]) -> list[int]:
    return rng.choices(alphabet, k=10)


def records(rng: Random, alphabet: list[int], marks: Marks) -> Example:
    """Facts `entity relation value stop`, then each of them twice more in random order.

    The values are to be learned there. Entities and relations recur in several facts, and entities
    may share their first token; but no key (entity and relation) begins another, so that a key
    determines its value.
    """
    facts = _facts(rng, alphabet)
    ids = [marks.begin]
    for key, value in facts:
        ids += [*key, *value, marks.stop]
    mask = [False] * len(ids)
    for _ in range(2):
        for key, value in rng.sample(facts, len(facts)):
            ids += [*key, *value, marks.stop]
            mask += [False] * len(key)
            mask += [True] * len(value)
            mask.append(False)
    return Example(ids, mask)


def _facts(rng: Random, alphabet: list[int]) -> list[tuple[Tokens, Tokens]]:
    """Keys and their values."""
    stated = _draw_keys(rng, alphabet)
    few = _few(rng, alphabet)
    facts: list[tuple[Tokens, Tokens]] = []
    for key in stated:
        # (a b)(c) and (a)(b c) read alike; and where (a)(b) begins (a)(b c), the value could begin
        # with c
        if any(_begins_like(key, other) for other, _ in facts):
            continue
        if rng.random() < FEW:
            value = _word(rng, few, 5)
        else:
            value = _word(rng, alphabet, 3)
        facts.append((key, value))
    return facts


def _draw_keys(rng: Random, alphabet: list[int]) -> list[Tokens]:
    """Most pairs of a few entities and relations, in any order."""
    shared = rng.choice(alphabet)
    entities = set()
    for _ in range(rng.randrange(2, 6)):
        if rng.random() < 0.8:
            entities.add(_word(rng, alphabet, 2))
        else:
            entities.add((shared, rng.choice(alphabet)))
    relations = {_word(rng, alphabet, 2) for _ in range(rng.randrange(1, 4))}
    keys = []
    for entity in sorted(entities):
        keys += [entity + relation for relation in sorted(relations)]
    count = max(1, round(0.7 * len(keys)))
    return rng.sample(keys, count)


def _word(rng: Random, alphabet: list[int], longest: int) -> Tokens:
    count = rng.randrange(1, longest + 1)
    return tuple(rng.choices(alphabet, k=count))


def _begins_like(key: Tokens, other: Tokens) -> bool:
    """Whether one of the two begins the other."""
    shorter = min(len(key), len(other))
    return key[:shorter] == other[:shorter]
