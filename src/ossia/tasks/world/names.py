"""Word lists of the little world (people, places, things) and made-up words, codes and numbers.

Knows nothing but random choice. Lists are tuples, so that an example stays a pure function of its
seed.
"""

from __future__ import annotations

from random import Random

WOMEN = (
    "Anna", "Clara", "Emma", "Greta", "Julia", "Lena", "Maria", "Olga", "Rosa", "Tina", "Uma", "Wendy",
    "Yara", "Zoe", "Alice", "Carol", "Eva", "Grace", "Hannah", "Kate", "Mia", "Nina", "Rita", "Ursula",
    "Vera", "Bella", "Elena", "Fatima", "Gina", "Ines", "Lucia", "Mei", "Nadia", "Priya", "Sofia", "Aiko",
    "Cleo", "Dora", "Fiona", "Ida", "Lily", "Nora", "Ruth", "Sara", "Lucy", "Mary", "Lisa", "Jane",
)  # fmt: skip
MEN = (
    "Ben", "David", "Felix", "Hugo", "Ivan", "Karl", "Noah", "Paul", "Quinn", "Sam", "Victor", "Xavier",
    "Bob", "Dan", "Frank", "Isaac", "Jack", "Leo", "Oscar", "Peter", "Simon", "Tom", "Will", "Amir",
    "Chen", "Diego", "Hiro", "Jamal", "Kofi", "Omar", "Raj", "Tariq", "Bruno", "Erik", "Gus", "Jonas",
    "Max", "Otto", "Theo", "Adam", "John", "Mark", "Henry",
)  # fmt: skip
NAMES = WOMEN + MEN
CITIES = (
    "Oslo", "Paris", "London", "Berlin", "Rome", "Madrid", "Vienna", "Lisbon", "Athens", "Dublin",
    "Prague", "Warsaw", "Helsinki", "Cairo", "Tokyo", "Delhi", "Lima", "Quito", "Boston", "Chicago",
    "Denver", "Toronto", "Sydney", "Nairobi", "Lagos", "Accra", "Hanoi", "Seoul", "Manila", "Zurich",
    "Bern", "Geneva", "Milan", "Turin", "Naples", "Porto", "Seville", "Lyon", "Nice", "Bergen", "Malmo",
    "Riga", "Vilnius", "Tallinn", "Budapest", "Sofia", "Ankara", "Beirut", "Tunis", "Dakar",
)  # fmt: skip
THINGS = (
    "key", "ring", "book", "lamp", "coin", "letter", "map", "phone", "watch", "hat", "scarf", "glove",
    "ball", "doll", "kite", "drum", "cup", "plate", "spoon", "knife", "pen", "brush", "rope", "candle",
    "mirror", "ticket", "passport", "camera", "umbrella", "wallet", "toy", "radio", "bottle", "apple",
    "stone", "shell", "feather", "flag", "bell", "clock",
)  # fmt: skip
COLORS = (
    "red", "blue", "green", "yellow", "white", "black", "brown", "pink", "violet", "purple", "grey",
    "golden",
)  # fmt: skip
CONTAINERS = (
    "box", "bag", "drawer", "basket", "jar", "chest", "cupboard", "bucket", "case", "tin", "suitcase",
    "pocket",
)  # fmt: skip
ROOMS = (
    "kitchen", "garden", "cellar", "attic", "garage", "bedroom", "bathroom", "hall", "office", "library",
    "shed", "barn",
)  # fmt: skip
FOODS = (
    "pizza", "soup", "rice", "bread", "cheese", "cake", "pasta", "salad", "fish", "honey", "nuts",
    "grapes", "plums", "beans", "tea", "milk",
)  # fmt: skip
JOBS = (
    "teacher", "doctor", "baker", "farmer", "painter", "pilot", "nurse", "singer", "writer", "driver",
    "cook", "lawyer", "gardener",
)  # fmt: skip
ANIMALS = (
    "dog", "cat", "horse", "rabbit", "parrot", "goat", "hamster", "turtle", "pony", "duck", "fish",
    "snake",
)  # fmt: skip
DAYS = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
)  # fmt: skip
COUNTABLE = (
    "apples", "pears", "oranges", "coins", "stamps", "books", "cards", "marbles", "pencils", "cookies",
    "eggs", "shells", "stones", "balloons", "stickers", "plums", "nuts", "flowers", "cakes", "sweets",
    "toys", "tickets", "buttons", "cups", "plates", "lemons", "candles", "bottles", "boxes", "keys",
)  # fmt: skip

_ONSETS = (
    "b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "bl", "br",
    "dr", "fl", "gr", "kl", "pr", "sk", "st", "tr", "sh", "ch", "th", "qu",
)  # fmt: skip
_VOWELS = (
    "a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ea", "oo", "ou",
)  # fmt: skip
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
