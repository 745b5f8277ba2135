"""Needles in a haystack: numbers to be found again in a long text about the fictional country, of
any length in tokens.

Knows how the country's facts are told and a function that counts tokens, not a tokenizer. Kinds of
needles: `one` number to find, `several` of which one is asked for, `all` of several, and
`variables` that are set to one another (the first three as in the needle and multi-needle tests,
the last as variable tracking in RULER, arXiv 2404.06654).

Keys have three syllables and values five digits; names in the filler have two and an ending, and
its numbers at most four digits. So neither a key nor a value can stand in the filler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import itemgetter
from random import Random
from typing import Literal, get_args

from ossia.errors import ConfigError
from ossia.harmony import Effort
from ossia.tasks.problem import Expect, Problem, Split, Turn, split_of
from ossia.tasks.words import Words, below, pick, sentence
from ossia.tasks.world.country import World, world
from ossia.tasks.world.texts import SYLLABLES

Kind = Literal["one", "several", "all", "variables"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SHORT = 256  # tokens of a document for pre-training
WORDS = Words("needles")
Pair = tuple[str, str]  # key and value


@dataclass(frozen=True)
class Needle:
    """A text with something hidden in it.

    `depth` is the place of the first sentence that the answer needs: 0.0 at the beginning of the
    filler, 1.0 at its end. `hidden` are the sentences that the answer needs, that one first;
    `others` the values that would be wrong.
    """

    kind: Kind
    text: str
    question: str
    answer: str
    depth: float
    hidden: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def document(self) -> str:
        """Everything, as pre-training reads it and as its length is counted."""
        return f"{self.text}\n\n{self.question}\n{self.answer}."


@dataclass(frozen=True)
class _Hay:
    """The parts of a needle: sentences, their places (0 to 1) in the filler, question, answer."""

    kind: Kind
    sentences: tuple[str, ...]
    needed: int  # the first ones of the sentences
    places: tuple[float, ...]
    question: str
    answer: str
    others: tuple[str, ...]

    def among(self, filler: Sequence[str]) -> Needle:
        """The sentences laid out among others."""
        slots = [round(place * len(filler)) for place in self.places]
        text = _laid_out(slots, self.sentences, filler)
        first = min(slots[: self.needed])
        depth = first / max(1, len(filler))
        hidden = self.sentences[: self.needed]
        return Needle(self.kind, text, self.question, self.answer, depth, hidden, self.others)


def _laid_out(slots: Sequence[int], sentences: Sequence[str], filler: Sequence[str]) -> str:
    """Each sentence before the sentence of the filler that its slot numbers."""
    parts: list[str] = []
    done = 0
    pairs = zip(slots, sentences, strict=True)
    for slot, hidden in sorted(pairs, key=itemgetter(0)):
        parts += filler[done:slot]
        parts.append(hidden)
        done = slot
    parts += filler[done:]
    return " ".join(parts)


def estimate_tokens(text: str) -> int:
    """Two characters a token: more than any vocabulary of 1,000 or more needs for these texts."""
    return (len(text) + 1) // 2


def needle(
    rng: Random,
    count_tokens: Callable[[str], int],
    length: int,
    *,
    kind: Kind | None = None,
    depth: float | None = None,
    split: Split = "train",
    of: World | None = None,
) -> Needle:
    """A needle whose `document` has at most `length` tokens, and hardly fewer.

    Everything that is not given is drawn. depth: 0 to 1, uniform if it is not given; it is moved to
    the nearest end of a sentence. split: of the pair (key, value) that the text states and the
    question needs; no training text states a held-out one. Of variables that is the first of the
    chain, not the one that the question names.
    Raises ConfigError if `length` is too short for the needle alone, or `depth` is not from 0 to 1.
    """
    if depth is not None and not 0 <= depth <= 1:
        raise ConfigError(f"a needle's depth is from 0 (the beginning) to 1 (the end), not {depth}")
    if of is None:
        of = world()
    # the simplest kind where another does not fit
    kinds: list[Kind] = [kind] if kind else [pick(rng, KINDS), "one"]
    for this in kinds:
        make = _HAYS[this]
        place = rng.random() if depth is None else depth
        hay = make(rng, split, place)
        alone = hay.among([])
        needed = count_tokens(alone.document)
        if needed <= length:
            return _filled(rng, hay, of, count_tokens, length)
    raise ConfigError(
        f"{length} tokens are too few for a needle of kind {this!r}: it alone needs {needed}"
    )


def _filled(
    rng: Random, hay: _Hay, of: World, count_tokens: Callable[[str], int], length: int
) -> Needle:
    """With as much filler as fits.

    The whole is counted, as the tokens of sentences need not add up to those of a text.
    """

    def spare() -> int:
        whole = hay.among(filler)
        return length - count_tokens(whole.document)

    filler: list[str] = []
    while True:
        more = _filler(rng, of, count_tokens, spare())
        if not more:
            break
        filler += more
    while filler:
        excess = -spare()
        if excess <= 0:
            break
        count = max(1, excess * len(filler) // length)
        del filler[-count:]
    return hay.among(filler)


def _filler(rng: Random, of: World, count_tokens: Callable[[str], int], tokens: int) -> list[str]:
    """Sentences about the country, about `tokens` long together."""
    found: list[str] = []
    while True:
        entity = pick(rng, of.names)
        facts = list(of.about(entity).values())
        if rng.random() >= 0.3:
            only = pick(rng, facts)
            facts = [only]
        for fact in facts:
            told = sentence(fact.tell(rng))
            tokens -= max(1, count_tokens(f" {told}"))
            if tokens < 0:
                return found
            found.append(told)


# ---- kinds ---------------------------------------------------------------------------------------


def _pairs(rng: Random, count: int, split: Split) -> list[Pair]:
    """Different keys with different numbers, all of a split."""
    found: dict[str, str] = {}
    while len(found) < count:
        syllables = [pick(rng, SYLLABLES) for _ in range(3)]
        key = "".join(syllables).capitalize()
        number = 10_000 + below(rng, 90_000)
        value = str(number)
        if key in found or value in found.values():
            continue
        if split_of(f"{key}|{value}") == split:
            found[key] = value
    return list(found.items())


def _new_pairs(rng: Random, asked: int, others: int, split: Split) -> tuple[list[Pair], list[Pair]]:
    """Pairs to ask for, of the split, and others of training. No key or value occurs twice."""
    while True:
        first = _pairs(rng, asked, split)
        rest = _pairs(rng, others, "train")
        words = {word for pair in first + rest for word in pair}
        if len(words) == 2 * (asked + others):
            return first, rest


def _hidden(rng: Random, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Sentences that state the pairs."""
    found = []
    for key, value in pairs:
        template = pick(rng, WORDS["hidden"])
        found.append(template.format(k=key, v=value))
    return tuple(found)


def _one(rng: Random, split: Split, depth: float) -> _Hay:
    return _one_of(rng, split, depth, "one", 0)


def _several(rng: Random, split: Split, depth: float) -> _Hay:
    others = 2 + below(rng, 3)
    return _one_of(rng, split, depth, "several", others)


def _one_of(rng: Random, split: Split, depth: float, kind: Kind, others: int) -> _Hay:
    asked, rest = _new_pairs(rng, 1, others, split)
    key, value = asked[0]
    hidden = _hidden(rng, asked + rest)
    places = [depth]
    places += [rng.random() for _ in rest]
    question = f"What is the secret number of {key}?"
    wrong = tuple(number for _, number in rest)
    return _Hay(kind, hidden, 1, tuple(places), question, value, wrong)


def _all(rng: Random, split: Split, depth: float) -> _Hay:
    """Two or three numbers, asked for in another order than the text's."""
    count = 3 if rng.random() < 0.4 else 2
    asked, rest = _new_pairs(rng, count, 1, split)
    hidden = _hidden(rng, asked + rest)
    places = [depth]
    places += _places_after(rng, depth, count - 1)
    places.append(rng.random())
    order = rng.sample(asked, count)
    keys = _listed([key for key, _ in order])
    question = f"What are the secret numbers of {keys}?"
    answer = _listed([value for _, value in order])
    _, wrong = rest[0]
    return _Hay("all", hidden, count, tuple(places), question, answer, (wrong,))


def _places_after(rng: Random, depth: float, count: int) -> list[float]:
    return [depth + rng.random() * (1 - depth) for _ in range(count)]


def _listed(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}"


def _variables(rng: Random, split: Split, depth: float) -> _Hay:
    """Two chains of variables, each set to the one before it.

    One begins at `depth`, and its last variable is asked for.
    """
    said = WORDS.phrases("variables")
    set_to = said["set"]
    copied = said["copied"]
    steps = 1 + below(rng, 3)
    asked, rest = _new_pairs(rng, 1, steps + 2, split)
    first, value = asked[0]
    other, wrong = rest[0]
    names = [first]
    names += [key for key, _ in rest[1 : steps + 1]]
    chain = [set_to.format(k=first, v=value)]
    for old, new in pairwise(names):
        chain.append(copied.format(k=new, v=old))
    last, _ = rest[-1]
    others = [set_to.format(k=other, v=wrong), copied.format(k=last, v=other)]
    places = [depth]
    places += sorted(_places_after(rng, depth, steps))
    places += sorted([rng.random() for _ in others])
    sentences = tuple(chain + others)
    question = f"What is the value of {names[-1]}?"
    return _Hay("variables", sentences, len(chain), tuple(places), question, value, (wrong,))


_HAYS: Mapping[Kind, Callable[[Random, Split, float], _Hay]] = {
    "one": _one,
    "several": _several,
    "all": _all,
    "variables": _variables,
}


# ---- documents and problems ----------------------------------------------------------------------


def needle_document(
    rng: Random,
    count_tokens: Callable[[str], int] = estimate_tokens,
    length: int = SHORT,
    of: World | None = None,
) -> str:
    """A needle of any kind for pre-training, between half of `length` tokens and the whole."""
    shorter = int(rng.random() * 0.5 * length)
    most = length - shorter
    found = needle(rng, count_tokens, most, of=of)
    return found.document


def needles_document(
    rng: Random,
    count_tokens: Callable[[str], int] = estimate_tokens,
    length: int = SHORT,
    of: World | None = None,
) -> str:
    """At most `length` tokens with a number hidden about every 60 of them, all of them asked for at
    the end: much more to learn from than one needle in as many tokens. Pairs are of the training
    split.

    Raises ConfigError if `length` is too short for two needles.
    """
    most = min(24, length // 60)
    count = max(2, most)
    pairs = _pairs(rng, count, "train")
    order = rng.sample(pairs, count)
    questions = [f"What is the secret number of {key}?\n{value}." for key, value in order]
    asked = "\n".join(questions)
    hidden = _hidden(rng, pairs)
    places = [rng.random() for _ in pairs]
    alone = f"{' '.join(hidden)}\n\n{asked}"
    room = length - count_tokens(alone)
    filler = _filler(rng, of or world(), count_tokens, room)
    while True:
        slots = [round(place * len(filler)) for place in places]
        told = _laid_out(slots, hidden, filler)
        text = f"{told}\n\n{asked}"
        needed = count_tokens(text)
        if needed <= length:
            return text
        if not filler:
            raise ConfigError(
                f"{length} tokens are too few for {count} needles: they alone need {needed}"
            )
        excess = max(1, len(filler) // 50)
        del filler[-excess:]


def needle_thoughts(found: Needle, effort: Effort) -> str:
    said = " ".join(found.hidden)
    match effort:
        case Effort.LOW:
            return found.answer
        case Effort.MEDIUM:
            return said
        case Effort.HIGH:
            told = f"The text says: {said}"
            return f"{told} So the answer is {found.answer}."


def needle_problem(found: Needle, split: Split) -> Problem:
    user = f"{found.text}\n\n{found.question}"
    answer = f"{found.answer}."
    think = partial(needle_thoughts, found)
    turn = Turn(user, answer, think)
    expect = Expect(contains=found.answer, excludes=found.others)
    return Problem(f"needle {found.kind}", split, (turn,), expect)


def _asked(
    count_tokens: Callable[[str], int], length: int, kind: Kind, rng: Random, split: Split
) -> Problem:
    found = needle(rng, count_tokens, length, kind=kind, split=split)
    return needle_problem(found, split)


def needle_task(
    kind: Kind, count_tokens: Callable[[str], int] = estimate_tokens, length: int = SHORT
) -> Callable[[Random, Split], Problem]:
    """The task at one length: of text, question and answer, without the marks of a chat."""
    return partial(_asked, count_tokens, length, kind)
