"""Word lists of the little world (people, places, things) and made-up words, codes and numbers.

Knows nothing but random choice. Lists are tuples, so that an example stays a pure function of its seed.
"""

from __future__ import annotations

from random import Random

NAMES = tuple(
    """Anna Ben Clara David Emma Felix Greta Hugo Ivan Julia Karl Lena Maria Noah Olga Paul Quinn Rosa Sam Tina Uma
    Victor Wendy Xavier Yara Zoe Alice Bob Carol Dan Eva Frank Grace Hannah Isaac Jack Kate Leo Mia Nina Oscar Peter
    Rita Simon Tom Ursula Vera Will Amir Bella Chen Diego Elena Fatima Gina Hiro Ines Jamal Kofi Lucia Mei Nadia Omar
    Priya Raj Sofia Tariq Aiko Bruno Cleo Dora Erik Fiona Gus Ida Jonas Lily Max Nora Otto Ruth Sara Theo Lucy Adam
    Mary John Lisa Mark Jane Henry""".split()
)
CITIES = tuple(
    """Oslo Paris London Berlin Rome Madrid Vienna Lisbon Athens Dublin Prague Warsaw Helsinki Cairo Tokyo Delhi Lima
    Quito Boston Chicago Denver Toronto Sydney Nairobi Lagos Accra Hanoi Seoul Manila Zurich Bern Geneva Milan Turin
    Naples Porto Seville Lyon Nice Bergen Malmo Riga Vilnius Tallinn Budapest Sofia Ankara Beirut Tunis Dakar""".split()
)
THINGS = tuple(
    """key ring book lamp coin letter map phone watch hat scarf glove ball doll kite drum cup plate spoon knife pen
    brush rope candle mirror ticket passport camera umbrella wallet toy radio bottle apple stone shell feather flag
    bell clock""".split()
)
COLORS = tuple("red blue green yellow white black brown pink orange purple grey golden".split())
CONTAINERS = tuple("box bag drawer basket jar chest cupboard bucket case tin suitcase pocket".split())
ROOMS = tuple("kitchen garden cellar attic garage bedroom bathroom hall office library shed barn".split())
FOODS = tuple("pizza soup rice bread cheese cake pasta salad fish honey nuts grapes plums beans tea milk".split())
JOBS = tuple("teacher doctor baker farmer painter pilot nurse singer writer driver cook lawyer gardener".split())
ANIMALS = tuple("dog cat horse rabbit parrot goat hamster turtle pony duck fish snake".split())
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
COUNTABLE = tuple(
    """apples pears oranges coins stamps books cards marbles pencils cookies eggs shells stones balloons stickers
    plums nuts flowers cakes sweets toys tickets buttons cups plates lemons candles bottles boxes keys""".split()
)

_ONSETS = tuple("b c d f g h j k l m n p r s t v w z bl br dr fl gr kl pr sk st tr sh ch th qu".split())
_VOWELS = tuple("a e i o u a e i o u ai ea oo ou".split())
_CODAS = ("", "", "", "", "n", "r", "l", "s", "m", "t", "k", "x", "nd", "sh")
_CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def made_up_word(rng: Random) -> str:
    """Two or three random syllables in lower case, such as `drimok`."""
    pick = rng.choice
    count = 2 if rng.random() < 0.7 else 3
    return "".join([pick(_ONSETS) + pick(_VOWELS) + pick(_CODAS) for _ in range(count)])


def made_up_name(rng: Random) -> str:
    return made_up_word(rng).capitalize()


def code(rng: Random) -> str:
    """A random string to be copied: digits, letters, or both, such as `4815` or `K7Q-20`."""
    kind = rng.random()
    if kind < 0.4:
        return str(rng.randrange(100, 100000))
    letters = [rng.choice(_CODE_LETTERS) for _ in range(rng.randrange(2, 4))]
    digits = str(rng.randrange(1, 1000))
    if kind < 0.7:
        return "".join(letters) + digits
    if kind < 0.85:
        return "".join(letters) + "-" + digits
    return digits + "".join(letters)


def person(rng: Random, made_up: float = 0.2) -> str:
    return made_up_name(rng) if rng.random() < made_up else rng.choice(NAMES)


def distinct(rng: Random, draw: list[str] | tuple[str, ...], count: int) -> list[str]:
    return rng.sample(draw, count)
