"""Random tokens to be copied and looked up: the shortest way to attention that can find things in
its context.

Knows token ids, no text. Two kinds of example, over an alphabet that begins small and grows:
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


@dataclass(frozen=True)
class Curriculum:
    """How the alphabet and the kinds of example change with the number of examples that have gone
    by.

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
    """Endless (example, state) over the ordinary tokens 0..vocabulary-1; `start=state` goes on with
    the next one.
    """
    index = start or 0
    order = list(range(vocabulary))
    Random(f"{seed}:alphabet").shuffle(order)  # so that the first tokens are not the rarest bytes
    while True:
        rng = Random(f"{seed}:copying:{index}")
        size = curriculum.alphabet(index, vocabulary)
        if index >= curriculum.records_after and rng.random() < curriculum.records:
            yield records(rng, order[:size], marks), index + 1
        else:
            yield repetition(rng, order[:size], marks), index + 1
        index += 1


def repetition(rng: Random, alphabet: list[int], marks: Marks) -> Example:
    """4 to 44 tokens twice; the second time is to be learned. Some have few different tokens, as
    numbers have: there one token before does not tell the place.
    """
    drawn = rng.choices(
        _few(rng, alphabet) if rng.random() < FEW else alphabet, k=rng.randrange(4, 45)
    )
    ids = [marks.begin, *drawn, marks.begin, *drawn, marks.end]
    return Example(ids, [False] * (len(drawn) + 2) + [True] * (len(drawn) + 1))


def _few(rng: Random, alphabet: list[int]) -> list[int]:
    return rng.choices(alphabet, k=10)


def records(rng: Random, alphabet: list[int], marks: Marks) -> Example:
    """Facts `entity relation value stop`, then each of them twice more in random order; there the
    values are to be learned. Entities and relations recur in several facts, and entities may share
    their first token; but no key (entity and relation) begins another, so that a key tells its
    value.
    """
    facts = _facts(rng, alphabet)
    ids, mask = [marks.begin], [False]
    for entity, relation, value in facts:
        ids += [*entity, *relation, *value, marks.stop]
    mask += [False] * (len(ids) - 1)
    for _ in range(2):
        for entity, relation, value in rng.sample(facts, len(facts)):
            ids += [*entity, *relation, *value, marks.stop]
            mask += [False] * (len(entity) + len(relation)) + [True] * len(value) + [False]
    return Example(ids, mask)


def _facts(
    rng: Random, alphabet: list[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    def word(longest: int, of: list[int] = alphabet) -> tuple[int, ...]:
        return tuple(rng.choices(of, k=rng.randrange(1, longest + 1)))

    shared = rng.choice(alphabet)
    entities = {
        word(2) if rng.random() < 0.8 else (shared, rng.choice(alphabet))
        for _ in range(rng.randrange(2, 6))
    }
    relations = {word(2) for _ in range(rng.randrange(1, 4))}
    pairs = [(entity, relation) for entity in sorted(entities) for relation in sorted(relations)]
    stated = rng.sample(pairs, max(1, round(0.7 * len(pairs))))
    facts, keys = [], list[tuple[int, ...]]()
    few = _few(rng, alphabet)
    for entity, relation in stated:
        key = entity + relation
        # (a b)(c) and (a)(b c) read alike; and where (a)(b) begins (a)(b c), the value could begin
        # with c
        if not any(key[: len(other)] == other[: len(key)] for other in keys):
            keys.append(key)
            facts.append((entity, relation, word(5, few) if rng.random() < FEW else word(3)))
    return facts
