"""What people write to a model that cannot help with it: ordinary small talk, other languages, and
nonsense of every sort.

    kind, text = message(rng, "held_out")

Knows words; no tasks and no models. Templates, and half of the ways to write nonsense, are kept for
measuring.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from random import Random

from ossia.tasks.problem import Split, split_of
from ossia.tasks.words import Words
from ossia.tasks.world.country import templates
from ossia.tasks.world.names import ANIMALS, FOODS, NAMES, ROOMS, made_up_word

HELD_OUT = 14  # templates of each list
WORDS = Words("limits")
_EMOJI = "😀😂🙏🔥🎉❤️👍😭🤔😎🐶🍕"
_SCRIPTS = "абвгдежзийклмнопрстуфхцчшщ一二三四五六七八九十あいうえおかきくけこαβγδεζηθشصضטע"
_LETTERS = string.ascii_letters + string.digits
SHARES = {"talk": 60, "nonsense": 25, "language": 15}  # in percent


def message(rng: Random, split: Split) -> tuple[str, str]:
    """A kind and a text of the split."""
    kinds = tuple(SHARES)
    kind = rng.choices(kinds, tuple(SHARES.values()))[0]
    while True:
        text = _MESSAGES[kind](rng, split)
        if (split == "held_out" and kind != "nonsense") or split_of(text) == split:
            return kind, text  # templates that are kept make texts that are


# ---- small talk ----------------------------------------------------------------------------------


def small_talk(rng: Random, split: Split) -> str:
    words = WORDS.table("talk")
    sentences = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        forms = words[rng.choice(("told", "told", "asked"))]
        sentences.append(_filled(rng, templates(forms, HELD_OUT, split, rng)))
    text = rng.choice(words["before"]) + " ".join(sentences) + rng.choice(words["after"])
    return _typed(rng, text)


def _filled(rng: Random, template: str) -> str:
    fill = WORDS.table("fill")
    for name, choices in fill.items():
        while f"{{{name}}}" in template:
            template = template.replace(f"{{{name}}}", rng.choice(choices), 1)
    return template[0].upper() + template[1:]


def _typed(rng: Random, text: str) -> str:
    """As people type."""
    luck = rng.random()
    if luck < 0.15:
        text = text.lower()
    elif luck < 0.2:
        text = text.upper()
    elif luck < 0.3:
        text = text.rstrip(".")
    if rng.random() < 0.15:  # two letters change places
        place = rng.randrange(max(1, len(text) - 1))
        text = text[:place] + text[place + 1 : place + 2] + text[place] + text[place + 2 :]
    if rng.random() < 0.08:
        text += f" {rng.choice(_EMOJI)}"
    return text


def other_language(rng: Random, split: Split) -> str:
    texts = WORDS.table("languages")["texts"]
    count = rng.choice((1, 1, 2, 3))
    return " ".join(templates(texts, HELD_OUT, split, rng) for _ in range(count))


# ---- nonsense ------------------------------------------------------------------------------------


def _drawn(rng: Random, letters: str, most: int) -> str:
    count = rng.randrange(1, most)
    return "".join(rng.choice(letters) for _ in range(count))


def _keys(rng: Random) -> str:
    rows = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    words = [_drawn(rng, rng.choice(rows), 9) for _ in range(rng.randrange(1, 8))]
    return " ".join(words)


def _made_up_words(rng: Random) -> str:
    return " ".join(made_up_word(rng) for _ in range(rng.randrange(1, 12)))


def _salad(rng: Random) -> str:
    words = (*NAMES, *ROOMS, *FOODS, *ANIMALS)
    return " ".join(rng.choice(words) for _ in range(rng.randrange(2, 20)))


def _one_again(rng: Random) -> str:
    unit = rng.choice(("a", "ha", "no ", "la", "?", "!", ".", "0", "why ", "hello ", "1 ", "z"))
    return unit * rng.randrange(2, 60)


def _marks(rng: Random) -> str:
    return _drawn(rng, string.punctuation, 40)


def _random(rng: Random) -> str:
    return _drawn(rng, f"{_LETTERS}{string.punctuation} ", 120)


def _emoji(rng: Random) -> str:
    return _drawn(rng, _EMOJI, 16)


def _scripts(rng: Random) -> str:
    return _drawn(rng, f"{_SCRIPTS} ", 40)


def _numbers(rng: Random) -> str:
    return " ".join(str(rng.randrange(10 ** rng.randrange(1, 12))) for _ in range(rng.randrange(9)))


def _code(rng: Random) -> str:
    forms = WORDS["code"]
    return rng.choice(forms).format(w=made_up_word(rng), n=rng.randrange(1000))


_TRAINED = (_keys, _made_up_words, _one_again, _emoji, _numbers)
_MEASURED = (_salad, _marks, _random, _scripts, _code)


def nonsense(rng: Random, split: Split) -> str:
    """Training shows half of the ways; all of them are measured."""
    ways = _TRAINED if split == "train" else (*_TRAINED, *_MEASURED)
    text = rng.choice(ways)(rng)
    return text.strip() or "?"


_MESSAGES: Mapping[str, Callable[[Random, Split], str]] = {
    "talk": small_talk,
    "nonsense": nonsense,
    "language": other_language,
}
