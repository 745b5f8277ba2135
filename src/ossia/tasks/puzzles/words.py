"""Puzzles about words: reversing, counting and finding letters, taking letters out, sorting words.

Knows words, made up or real; nothing of arithmetic. All puzzles about one word share its split.
"""

from __future__ import annotations

from random import Random

from ossia.tasks.problem import Expect
from ossia.tasks.puzzles.puzzle import Form, Puzzle, asked
from ossia.tasks.world.names import ANIMALS, COLORS, FOODS, THINGS, made_up_word

REAL_WORDS = tuple(dict.fromkeys((*THINGS, *FOODS, *ANIMALS, *COLORS)))
VOWELS = "aeiou"
ORDINALS = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
)


def _word(rng: Random) -> str:
    return rng.choice(REAL_WORDS) if rng.random() < 0.3 else made_up_word(rng)


def _draw_word(rng: Random) -> tuple[str, str]:
    word = _word(rng)
    return f"word {word}", word


def _spelled(word: str) -> str:
    return " ".join(word)


def _numbered(word: str) -> tuple[str, ...]:
    return tuple([f"{place} {letter}" for place, letter in enumerate(word, 1)])


def _letter_check(word: str, counted: int) -> str:
    """How counted letters and the others make up the word."""
    others = len(word) - counted
    return f"other letters {others}, {counted}+{others}={len(word)} letters"


def _build_reverse(rng: Random, word: str) -> Puzzle:
    lines = [f"letters {_spelled(word)}"]
    for place in range(len(word), 0, -1):
        letter = word[place - 1]
        so_far = word[place - 1 :][::-1]
        lines.append(f"{place} {letter} -> {so_far}")
    back = word[::-1]
    return Puzzle(
        asked(rng, "reverse", w=word),
        final=f"{word} backwards is {back}",
        expect=Expect(equals=back),
        steps=(_spelled(word), _spelled(back), f"so {back}"),
        lines=tuple(lines),
        check=f"{len(back)} of {len(word)} letters, {_spelled(back)} from the end {word}",
    )


def _build_count(rng: Random, word: str) -> Puzzle:
    common = rng.random() < 0.8
    letter = rng.choice(word if common else "abcdefghiklmnoprstuw")
    places: list[str] = []
    lines = []
    for place, other in enumerate(word, 1):
        found = other == letter
        if found:
            places.append(str(place))
        lines.append(f"{place} {other} {'yes' if found else 'no'} {len(places)}")
    count = len(places)
    where = " ".join(places) or "no place"
    return Puzzle(
        asked(rng, "count letter", c=letter, w=word),
        final=f"The count of {letter} in {word} is {count}",
        expect=Expect(number=count),
        steps=(_spelled(word), f"{letter} at {where}", f"so {count}"),
        lines=tuple(lines),
        check=_letter_check(word, count),
    )


def _build_vowels(rng: Random, word: str) -> Puzzle:
    found: list[str] = []
    lines = []
    for place, letter in enumerate(word, 1):
        if letter in VOWELS:
            found.append(letter)
        what = "vowel" if letter in VOWELS else "no"
        lines.append(f"{place} {letter} {what} {len(found)}")
    count = len(found)
    listed = " ".join(found) or "none"
    return Puzzle(
        asked(rng, "count vowels", w=word),
        final=f"The count of vowels in {word} is {count}",
        expect=Expect(number=count),
        steps=(_spelled(word), f"vowels {listed}", f"so {count}"),
        lines=tuple(lines),
        check=_letter_check(word, count),
    )


def _build_length(rng: Random, word: str) -> Puzzle:
    count = len(word)
    half = (count + 1) // 2
    rest = count - half
    return Puzzle(
        asked(rng, "length", w=word),
        final=f"The length of {word} is {count}",
        expect=Expect(number=count),
        steps=(", ".join(_numbered(word)), f"so {count}"),
        lines=_numbered(word),
        check=f"{word[:half]} has {half}, {word[half:]} has {rest}, {half}+{rest}={count}",
    )


def _build_nth(rng: Random, word: str) -> Puzzle:
    place = rng.randrange(min(len(word), len(ORDINALS)))
    backwards = rng.random() < 0.25
    letters = word[::-1] if backwards else word
    which = ORDINALS[place]
    where = " from the end" if backwards else ""
    if backwards and place == 0:
        which = "last"
        where = ""
    letter = letters[place]
    before = letters[:place] or "nothing"
    behind = letters[place + 1 :] or "nothing"
    return Puzzle(
        asked(rng, "nth letter", o=which, w=word, e=where),
        final=f"The {which} letter of {word}{where} is {letter}",
        expect=Expect(equals=letter),
        steps=(*_numbered(letters[: place + 1]), f"so {letter}"),
        lines=(f"letters {_spelled(letters)}", *_numbered(letters)),
        check=f"{before} before {letter}, {behind} behind",
    )


def _build_without(rng: Random, word: str) -> Puzzle:
    letter = rng.choice(word)
    kept = ""
    lines = []
    for place, other in enumerate(word, 1):
        drops = other == letter
        if not drops:
            kept += other
        lines.append(f"{place} {other} {'drop' if drops else 'keep'} {kept or 'nothing'}")
    left = kept or "nothing"
    dropped = len(word) - len(kept)
    return Puzzle(
        asked(rng, "without letter", w=word, c=letter),
        final=f"{word} without {letter} is {left}",
        expect=Expect(equals=left),
        steps=(_spelled(word), _spelled(kept) or "nothing", f"so {left}"),
        lines=tuple(lines),
        check=f"dropped {dropped}, kept {len(kept)}, {dropped}+{len(kept)}={len(word)} letters",
    )


def _draw_words(rng: Random) -> tuple[str, list[str]]:
    count = rng.randrange(3, 6)
    words: list[str] = []
    while len(words) < count:
        word = _word(rng)
        if word not in words:
            words.append(word)
    return f"words {sorted(words)}", words


def _build_sorted(rng: Random, words: list[str]) -> Puzzle:
    wanted = sorted(words)
    left = list(words)
    lines = []
    for word in wanted:
        lines.append(f"left {' '.join(left)}: first {word}")
        left.remove(word)
    listed = ", ".join(wanted)
    return Puzzle(
        asked(rng, "sort words", w=", ".join(words)),
        final=f"Sorted: {listed}",
        expect=Expect(equals=listed),
        steps=(f"first {wanted[0]}", *[f"then {word}" for word in wanted[1:]]),
        lines=tuple(lines),
        check=f"{' < '.join(wanted)}, {len(wanted)} of {len(words)} words",
    )


WORD_FORMS = {
    "reverse": Form(_draw_word, _build_reverse),
    "count letter": Form(_draw_word, _build_count),
    "count vowels": Form(_draw_word, _build_vowels),
    "length": Form(_draw_word, _build_length),
    "nth letter": Form(_draw_word, _build_nth),
    "without letter": Form(_draw_word, _build_without),
    "sort words": Form(_draw_words, _build_sorted),
}
