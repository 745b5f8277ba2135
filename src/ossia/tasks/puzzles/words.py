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


def _word(rng: Random) -> str:
    return rng.choice(REAL_WORDS) if rng.random() < 0.3 else made_up_word(rng)


def _draw_word(rng: Random) -> tuple[str, str]:
    word = _word(rng)
    return f"word {word}", word


def _spelled(word: str) -> str:
    return " ".join(word)


def _numbered(word: str) -> tuple[str, ...]:
    return tuple([f"{place} {letter}" for place, letter in enumerate(word, 1)])


def _build_reverse(rng: Random, word: str) -> Puzzle:
    question, mark = asked(
        rng,
        ("what is {w} backwards", "what is {w} reversed", "how do you write {w} backwards"),
        ("reverse {w}", "write {w} backwards", "spell {w} from the end"),
        w=word,
    )
    lines = [f"letters {_spelled(word)}"]
    for place in range(len(word), 0, -1):
        lines.append(f"{place} {word[place - 1]} -> {word[place - 1 :][::-1]}")
    back = word[::-1]
    steps = (_spelled(word), _spelled(back), f"so {back}")
    check = f"{len(back)} of {len(word)} letters, {_spelled(back)} from the end {word}"
    return Puzzle(
        question,
        mark,
        f"{word} backwards is {back}",
        Expect(equals=back),
        steps,
        tuple(lines),
        check,
    )


def _build_count(rng: Random, word: str) -> Puzzle:
    letter = rng.choice(word) if rng.random() < 0.8 else rng.choice("abcdefghiklmnoprstuw")
    count, lines = 0, []
    for place, other in enumerate(word, 1):
        count += other == letter
        lines.append(f"{place} {other} {'yes' if other == letter else 'no'} {count}")
    question, mark = asked(
        rng,
        (
            "how many times is the letter {c} in {w}",
            "how often does {c} occur in {w}",
            "how many {c} are in {w}",
        ),
        ("count the letter {c} in {w}", "count how often {c} is in {w}"),
        c=letter,
        w=word,
    )
    places = [str(place) for place, other in enumerate(word, 1) if other == letter]
    steps = (_spelled(word), f"{letter} at {' '.join(places) or 'no place'}", f"so {count}")
    others = len(word) - count
    check = f"other letters {others}, {count}+{others}={len(word)} letters"
    final = f"The count of {letter} in {word} is {count}"
    return Puzzle(question, mark, final, Expect(number=count), steps, tuple(lines), check)


def _build_vowels(rng: Random, word: str) -> Puzzle:
    found = [letter for letter in word if letter in VOWELS]
    question, mark = asked(
        rng,
        ("how many vowels are in {w}", "how many vowels has {w}"),
        ("count the vowels in {w}", "count the vowels of {w}"),
        w=word,
    )
    count, lines = 0, []
    for place, letter in enumerate(word, 1):
        count += letter in VOWELS
        lines.append(f"{place} {letter} {'vowel' if letter in VOWELS else 'no'} {count}")
    others = len(word) - count
    check = f"other letters {others}, {count}+{others}={len(word)} letters"
    steps = (_spelled(word), f"vowels {' '.join(found) or 'none'}", f"so {count}")
    final = f"The count of vowels in {word} is {count}"
    return Puzzle(question, mark, final, Expect(number=count), steps, tuple(lines), check)


def _build_length(rng: Random, word: str) -> Puzzle:
    question, mark = asked(
        rng,
        ("how many letters has {w}", "how long is the word {w}", "how many letters are in {w}"),
        ("count the letters of {w}", "find the length of {w}"),
        w=word,
    )
    count = len(word)
    half = (count + 1) // 2
    check = (
        f"{word[:half]} has {half}, {word[half:]} has {count - half}, {half}+{count - half}={count}"
    )
    steps = (", ".join(_numbered(word)), f"so {count}")
    final = f"The length of {word} is {count}"
    return Puzzle(question, mark, final, Expect(number=count), steps, _numbered(word), check)


ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth",
)  # fmt: skip


def _build_nth(rng: Random, word: str) -> Puzzle:
    place = rng.randrange(min(len(word), len(ORDINALS)))
    backwards = rng.random() < 0.25
    letters = word[::-1] if backwards else word
    which = "last" if backwards and not place else ORDINALS[place]
    where = " from the end" if backwards and place else ""
    question, mark = asked(
        rng,
        ("what is the {o} letter of {w}{e}", "which letter of {w} is the {o}{e}"),
        ("name the {o} letter of {w}{e}", "give me the {o} letter of {w}{e}"),
        o=which,
        w=word,
        e=where,
    )
    letter = letters[place]
    lines = (f"letters {_spelled(letters)}", *_numbered(letters))
    check = f"{letters[:place] or 'nothing'} before {letter}, {letters[place + 1 :] or 'nothing'} behind"
    steps = (*_numbered(letters[: place + 1]), f"so {letter}")
    final = f"The {which} letter of {word}{where} is {letter}"
    return Puzzle(question, mark, final, Expect(equals=letter), steps, lines, check)


def _build_without(rng: Random, word: str) -> Puzzle:
    letter = rng.choice(word)
    kept = word.replace(letter, "")
    question, mark = asked(
        rng,
        ("what is {w} without the letter {c}", "what is left of {w} if you take out every {c}"),
        (
            "write {w} without the letter {c}",
            "remove every {c} from {w}",
            "take the letter {c} out of {w}",
        ),
        w=word,
        c=letter,
    )
    so_far, lines = "", []
    for place, other in enumerate(word, 1):
        so_far += "" if other == letter else other
        lines.append(
            f"{place} {other} {'drop' if other == letter else 'keep'} {so_far or 'nothing'}"
        )
    dropped = len(word) - len(kept)
    check = f"dropped {dropped}, kept {len(kept)}, {dropped}+{len(kept)}={len(word)} letters"
    left = kept or "nothing"
    steps = (_spelled(word), _spelled(kept) or "nothing", f"so {left}")
    final = f"{word} without {letter} is {left}"
    return Puzzle(question, mark, final, Expect(equals=left), steps, tuple(lines), check)


def _draw_words(rng: Random) -> tuple[str, list[str]]:
    count = rng.randrange(3, 6)
    words: list[str] = []
    while len(words) < count:
        word = _word(rng)
        if word not in words:
            words.append(word)
    return f"words {sorted(words)}", words


def _build_sorted(rng: Random, words: list[str]) -> Puzzle:
    question, mark = asked(
        rng,
        ("what is the order of {w} in the alphabet", "how do you sort {w} by the alphabet"),
        (
            "sort {w} by the alphabet",
            "put {w} in the order of the alphabet",
            "sort these words: {w}",
        ),
        w=", ".join(words),
    )
    wanted, left, lines = sorted(words), list(words), []
    for word in wanted:
        lines.append(f"left {' '.join(left)}: first {word}")
        left.remove(word)
    listed = ", ".join(wanted)
    check = f"{' < '.join(wanted)}, {len(wanted)} of {len(words)} words"
    steps = (f"first {wanted[0]}", *[f"then {word}" for word in wanted[1:]])
    return Puzzle(
        question, mark, f"Sorted: {listed}", Expect(equals=listed), steps, tuple(lines), check
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
