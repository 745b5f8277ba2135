"""Reading a final text: which number, words or choices it commits itself to.

Knows texts; nothing of problems. What an answer may not do, whatever it says, is `commits`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

SLACK = 20  # characters of an answer beyond `TIMES` the gold one's
TIMES = 3
SHORTEST = 6  # characters of an earlier message whose repetition says something
# One that groups its digits by threes (or, in India, by twos), and any other; `...5` is a 5.
_NUMBER = re.compile(
    r"(?<![\w)])(?<!\d\.)-?(?:\d{1,3}(?:[,\u00a0\u2009\u202f]\d{3})+(?!\d)(?:\.\d+)?"
    r"|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)(?:\.\d+)?"
    r"|(?:\d+(?:\.\d+)?|(?<!\.)\.\d+)(?:[eE][+-]?\d{1,3}(?!\w))?)"
)
_BETWEEN_DIGITS = str.maketrans("", "", ",\u00a0\u2009\u202f")
# What models write for a minus: the sign itself, hyphens, a dash.
_MINUS = str.maketrans(dict.fromkeys("\u2212\u2010\u2011\u2013\ufe63\uff0d", "-"))
# What stands between numbers of a list, and a line of a list.
_LISTED = re.compile(r"(?:[^\w=:≈→]|\b(?:and|or|maybe|perhaps|either|not|no)\b)++", re.IGNORECASE)
_ALONE = re.compile(r"[^\w=]*+-?\d[\d,.]*+[^\w=]*+")
_SENTENCE = re.compile(r"[^\W\d_]{4,}")  # a word that is more than `and`
_SPACES = re.compile(r"\s+")
_BEFORE_ANSWER = re.compile(r"(?:[:=]|\bis)\s")
# A only where it is not the article
_LETTER = re.compile(r"(?<!\w)(A(?=[).:,*]|\W*$| [B-H]\b)|[B-H](?!\w))")
# Markdown around words, and LaTeX's box.
_DRESS = re.compile(r"(\*{1,3}|__?|`)(?=\S)([^*_`\n]{1,200}?)(?<=\S)\1(?!\w)|\\boxed\{([^{}]*)\}")
# What is bold, code or quoted; the mark in `2*3` is none.
_AROUND = re.compile(r"(?<!\w)(\*{1,3}|[`\"\u201c])(?=\S)([^\n]{1,200}?)(?<=\S)(?:\1|\u201d)(?!\w)")
_MARKS = re.compile(r"'s(?=\s|$)|(?<![.,;:!?])[.,;:!?]++(?=\s|$)")


def last_integer(text: str) -> int | None:
    """The last number of a text if it is whole: `9 - 5 = 4.` -> 4, `85.0` -> 85, `-22` -> -22."""
    number = last_number(text)
    if number is None or number != number.to_integral_value():
        return None
    return int(number)


def last_number(text: str) -> Decimal | None:
    found = numbers(text)
    return found[-1] if found else None


def numbers(text: str) -> list[Decimal]:
    """In order: `1,234`, `-5` with any minus, `.5`, `3.2e5`."""
    found = _NUMBER.findall(text.translate(_MINUS))
    return [Decimal(one.translate(_BETWEEN_DIGITS)) for one in found]


def last_answer(text: str) -> str:
    """The text after the last `:`, `=` or `is`, or the whole text: `Sorted: 2, 5` -> `2, 5`."""
    text = _AROUND.sub(r"\2", text)
    last = deque(_BEFORE_ANSWER.finditer(text), 1)
    return text[last[0].end() :] if last else text


def chosen(final_text: str, choices: Sequence[str]) -> set[int]:
    """Indices of the choices that a text names.

    By letter (`B`, `(B)`, `B) red`, `it is B.`) or by their text.
    """
    plain = plain_words(final_text)
    letters = {ord(letter) - ord("A") for letter in _LETTER.findall(final_text)}
    found = set()
    for number, choice in enumerate(choices):
        if number in letters or plain_words(choice) in plain:
            found.add(number)
    return found


def answers_with(final_text: str, answer: str) -> bool:
    """Whether a text commits itself to an answer: a number by its value, wherever it stands as the
    last one, but not as the last of a list; a text as all of it, or all that follows the last `:`,
    `=` or `is`, also in bold or in a box.
    """
    if _NUMBER.fullmatch(answer.strip().translate(_MINUS)):
        is_last = last_number(final_text) == last_number(answer)
        return is_last and not ends_in_list(final_text)
    wanted = plain_words(answer)
    for said in (final_text, _DRESS.sub(r"\2\3", final_text)):
        if wanted in (plain_words(said), plain_words(last_answer(said))):
            return True
    return False


def ends_in_list(text: str) -> bool:
    """Whether the last number is one of several that differ, with nothing said between them:
    `3, 4 or 5`, `3 / 4`, or a line each. `3 + 4 = 7` is no list.
    """
    text = text.translate(_MINUS)
    lines = [line for line in text.splitlines() if _NUMBER.search(line)]
    if not lines:
        return False
    found = list(_NUMBER.finditer(lines[-1]))
    if len(found) > 1:
        before, last = found[-2:]
        between = lines[-1][before.end() : last.start()]
        same = numbers(before[0]) == numbers(last[0])
        return not same and _LISTED.fullmatch(between) is not None
    if len(lines) == 1 or not _ALONE.fullmatch(lines[-1]) or not _ALONE.fullmatch(lines[-2]):
        return False
    return numbers(lines[-1]) != numbers(lines[-2])


# ---- what an answer may not be -------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """What answers to a prompt are compared with. `asked`: the last message of the user; `before`:
    those before it; `lines`: everything that anybody says before the answer. `told`: the values
    that could be meant, one of which is in the `gold` answer. `longest`: characters of an answer;
    None: by the gold one.
    """

    gold: str
    asked: str
    lines: tuple[str, ...] = ()
    told: Sequence[str] = ()
    longest: int | None = None
    before: tuple[str, ...] = ()


def commits(final_text: str, prompt: Prompt) -> bool:
    """Whether a text is an answer of its own that could be held to. It is not, if it is much longer
    than the gold one, says the question or an earlier one again, is but a line of the prompt, or
    holds a value that the gold answer does not: whoever lists everything has answered nothing.
    """
    if final_text.strip() == prompt.gold.strip():
        return True
    plain = plain_words(final_text)
    gold = plain_words(prompt.gold)
    longest = prompt.longest
    if longest is None:
        longest = TIMES * len(prompt.gold) + SLACK
    if len(final_text) > longest:
        return False
    asked = plain_words(prompt.asked)
    if plain == asked or (asked in plain and asked not in gold):
        return False
    earlier = [plain_words(text) for text in prompt.before if len(text) >= SHORTEST]
    if any(words in plain and words not in gold for words in earlier):
        return False
    if plain != gold and any(plain == plain_words(line) for line in prompt.lines):
        return False
    for value in map(_plain_value, prompt.told):
        if value in plain and value not in gold:
            return False
    return True


def has_one_number(final_text: str, right: int, prompt: Prompt) -> bool:
    """Whether the place of the answer holds no number besides `right`, but for those of the
    question and of the gold answer, in a sentence: `5 apples and 7 make 12` is one answer,
    `1, 2, 3` is not.
    """
    place = last_answer(final_text)
    found = numbers(place)
    if len(found) > 1 and not _SENTENCE.search(place):
        return False
    allowed = {right, *numbers(prompt.asked), *numbers(prompt.gold)}
    return allowed.issuperset(found)


def plain_words(text: str) -> str:
    """The text to compare: lower case, single spaces, also around it, and neither sentence marks
    nor what makes words bold or quotes them.
    """
    unmarked = _MARKS.sub("", _AROUND.sub(r"\2", text))
    spaced = _SPACES.sub(" ", unmarked)
    return f" {spaced.strip().lower()} "


_plain_value = lru_cache(8192)(plain_words)  # values are few, and compared again and again
