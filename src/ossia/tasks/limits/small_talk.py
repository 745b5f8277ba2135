"""What people write to a model that cannot help with it: ordinary small talk, other languages, and
nonsense of every sort.

    kind, text = message(rng, "held_out")

Knows words; no tasks and no models. Templates, and five of the ways to write nonsense, are kept for
measuring.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from functools import partial
from random import Random

from ossia.tasks.problem import Split, split_of
from ossia.tasks.words import Words, sentence
from ossia.tasks.world.country import templates
from ossia.tasks.world.names import ANIMALS, FOODS, NAMES, ROOMS, made_up_word

HELD_OUT = 14  # templates of each list
WORDS = Words("limits")
_EMOJI = "😀😂🙏🔥🎉❤️👍😭🤔😎🐶🍕"
_SCRIPTS = "абвгдежзийклмнопрстуфхцчшщ一二三四五六七八九十あいうえおかきくけこαβγδεζηθشصضטע"
_LETTERS = f"{string.ascii_letters}{string.digits}{string.punctuation} "
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # of a keyboard
_UNITS = ("a", "ha", "no ", "la", "?", "!", ".", "0", "why ", "hello ", "1 ", "z")
_THINGS = (
    *NAMES,
    *ROOMS,
    *FOODS,
    *ANIMALS,
)
SHARES = {  # in percent
    "talk": 60,
    "nonsense": 25,
    "language": 15,
}


def message(rng: Random, split: Split) -> tuple[str, str]:
    """A kind and a text of the split."""
    kinds = tuple(SHARES)
    shares = tuple(SHARES.values())
    kind = rng.choices(kinds, shares)[0]
    # templates that are kept make texts that are
    is_kept = split == "held_out" and kind != "nonsense"
    while True:
        text = _MESSAGES[kind](rng, split)
        if is_kept or split_of(text) == split:
            return kind, text


# ---- small talk ----------------------------------------------------------------------------------

_COUNTS = (1, 1, 1, 2, 2, 3, 5)  # of sentences
_LISTS = ("told", "told", "asked")


def small_talk(rng: Random, split: Split) -> str:
    words = WORDS.table("talk")
    sentences = []
    for _ in range(rng.choice(_COUNTS)):
        chosen = rng.choice(_LISTS)
        template = templates(words[chosen], HELD_OUT, split, rng)
        filled = _filled(rng, template)
        sentences.append(filled)
    before = rng.choice(words["before"])
    after = rng.choice(words["after"])
    said = " ".join(sentences)
    return typed(rng, before + said + after)


def _filled(rng: Random, template: str) -> str:
    fill = WORDS.table("fill")
    for name, choices in fill.items():
        place = f"{{{name}}}"
        while place in template:
            chosen = rng.choice(choices)
            template = template.replace(place, chosen, 1)
    return sentence(template)


def typed(rng: Random, text: str) -> str:
    """As people type."""
    luck = rng.random()
    if luck < 0.15:
        text = text.lower()
    elif luck < 0.2:
        text = text.upper()
    elif luck < 0.3:
        text = text.rstrip(".")
    if rng.random() < 0.15:
        text = _slipped(rng, text)
    if rng.random() < 0.08:
        emoji = rng.choice(_EMOJI)
        text = f"{text} {emoji}"
    return text


def _slipped(rng: Random, text: str) -> str:
    """Two letters change places."""
    last = max(1, len(text) - 1)
    place = rng.randrange(last)
    letters = list(text)
    first = letters.pop(place)
    letters.insert(place + 1, first)
    return "".join(letters)


def other_language(rng: Random, split: Split) -> str:
    texts = WORDS.table("languages")["texts"]

    def one() -> str:
        return templates(texts, HELD_OUT, split, rng)

    return _some(rng, one, 1, 3)


# ---- nonsense ------------------------------------------------------------------------------------


def _some(rng: Random, one: Callable[[], str], least: int, most: int) -> str:
    """So many of them in a row."""
    count = rng.randint(least, most)
    found = [one() for _ in range(count)]
    return " ".join(found)


def _drawn(rng: Random, letters: str, most: int) -> str:
    """Up to so many of the letters, one at least."""
    count = rng.randint(1, most)
    found = rng.choices(letters, k=count)
    return "".join(found)


def _keys(rng: Random) -> str:
    def word() -> str:
        row = rng.choice(_ROWS)
        return _drawn(rng, row, 8)

    return _some(rng, word, 1, 7)


def _made_up_words(rng: Random) -> str:
    return _some(rng, partial(made_up_word, rng), 1, 11)


def _salad(rng: Random) -> str:
    return _some(rng, partial(rng.choice, _THINGS), 2, 19)


def _one_again(rng: Random) -> str:
    unit = rng.choice(_UNITS)
    return unit * rng.randint(2, 59)


def _runs_of_marks(rng: Random) -> str:
    """`???!!!!..`: each mark several times, a few of them."""
    runs = rng.randint(1, 5)
    marks = rng.choices(string.punctuation, k=runs)
    return "".join(mark * rng.randint(2, 9) for mark in marks)


def _faces(rng: Random) -> str:
    return _some(rng, partial(rng.choice, WORDS["faces"]), 1, 6)


def _marks(rng: Random) -> str:
    return _drawn(rng, string.punctuation, 40)


def _random(rng: Random) -> str:
    return _drawn(rng, _LETTERS, 120)


def _emoji(rng: Random) -> str:
    return _drawn(rng, _EMOJI, 16)


def _scripts(rng: Random) -> str:
    return _drawn(rng, _SCRIPTS, 40)


def _numbers(rng: Random) -> str:
    def number() -> str:
        digits = rng.randint(1, 11)
        return str(rng.randrange(10**digits))

    return _some(rng, number, 2, 9)


def _code(rng: Random) -> str:
    form = rng.choice(WORDS["code"])
    word = made_up_word(rng)
    return form.format(w=word, n=rng.randrange(1000))


Way = Callable[[Random], str]
_TRAINED: tuple[Way, ...] = (
    _keys,
    _made_up_words,
    _one_again,
    _runs_of_marks,
    _faces,
    _emoji,
    _numbers,
)
_MEASURED: tuple[Way, ...] = (
    *_TRAINED,
    _salad,
    _marks,
    _random,
    _scripts,
    _code,
)


def nonsense(rng: Random, split: Split) -> str:
    """Training shows some of the ways; all of them are measured."""
    ways = _TRAINED
    if split == "held_out":
        ways = _MEASURED
    way = rng.choice(ways)
    text = way(rng)
    return text.strip() or "?"


_MESSAGES: Mapping[str, Callable[[Random, Split], str]] = {
    "talk": small_talk,
    "nonsense": nonsense,
    "language": other_language,
}
