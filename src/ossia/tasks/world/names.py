"""Word lists of the little world (people, places, things) and made-up words, codes and numbers.

Knows nothing but random choice. The words are in texts/names.toml.
"""

from __future__ import annotations

from random import Random

from ossia.tasks.words import Words

WORDS = Words("names")
WOMEN = WORDS["women"]
MEN = WORDS["men"]
NAMES = WOMEN + MEN
CITIES = WORDS["cities"]
THINGS = WORDS["things"]
COLORS = WORDS["colors"]
CONTAINERS = WORDS["containers"]
ROOMS = WORDS["rooms"]
FOODS = WORDS["foods"]
JOBS = WORDS["jobs"]
ANIMALS = WORDS["animals"]
DAYS = WORDS["days"]
COUNTABLE = WORDS["countable"]

_CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def made_up_word(rng: Random) -> str:
    """Two or three random syllables in lower case, such as `drimok`."""
    count = 2 if rng.random() < 0.7 else 3
    syllables = [_syllable(rng) for _ in range(count)]
    return "".join(syllables)


def _syllable(rng: Random) -> str:
    onset = rng.choice(WORDS["onsets"])
    vowel = rng.choice(WORDS["vowels"])
    coda = rng.choice(WORDS["codas"])
    return onset + vowel + coda


def made_up_name(rng: Random) -> str:
    return made_up_word(rng).capitalize()


def code(rng: Random) -> str:
    """A random string to be copied: digits, letters, or both, such as `4815` or `K7Q-20`."""
    kind = rng.random()
    if kind < 0.4:
        return str(rng.randrange(100, 100000))
    count = rng.randrange(2, 4)
    drawn = [rng.choice(_CODE_LETTERS) for _ in range(count)]
    letters = "".join(drawn)
    digits = str(rng.randrange(1, 1000))
    if kind < 0.7:
        return letters + digits
    if kind < 0.85:
        return f"{letters}-{digits}"
    return digits + letters


def person(rng: Random, made_up: float = 0.2) -> str:
    if rng.random() < made_up:
        return made_up_name(rng)
    return rng.choice(NAMES)
