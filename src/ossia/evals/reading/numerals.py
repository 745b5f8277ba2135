"""Which number a text names as its answer. Knows numbers in clauses; what a text does with them is
for `statements`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from ossia.evals.reading.clauses import Said, decide
from ossia.evals.reading.languages import in_english
from ossia.evals.reading.plain import marked
from ossia.evals.reading.statements import commitment
from ossia.evals.reading.values import SIZES, Number, Read, read_chain, shown, value_of

OTHER = Fraction(-1, 7)  # stands for a second number that was named in the same breath
_FILLER = re.compile(
    r"(?:=>|\|(?=\s)|[\s\"'*_:=~#\[≈.,€£¥₹]+|\bUS(?=\d)|\b(?:USD|EUR|GBP)(?=\s*\d)|"
    r"\b(?:the|is|it's|it|"
    r"that|be|are|was|would|should|must|will|correct|us|gives|give|"
    r"final|answer|therefore|thus|hence|so|simply|just|exactly|precisely|equal|equals|to|indeed|"
    r"clearly|definitely|i|we|think|believe|get|have|obtain|value|number|result|sum|total|of|"
    r"approximately|about|around|integer|also|equivalently|likely|most|a|an|option|yes|only|"
    r"namely|ie|and|finally|in)\b(?!\s*\))|\((?:[A-Ja-j])\))",
    re.IGNORECASE,
)
_BEFORE_VALUE = re.compile(
    r"\b(?:is|are|be|was|equals?|equal to|gives?|get|gets|obtain|obtains|yields?|makes|have|has|"
    r"total of|amounts to|comes to|out to|there are|sum to|sums to|add up to|giving|yielding|"
    r"total to|(?:simplif|evaluat|reduc)\w+ to|comes out as|remainder of)\b|[:=≈]|=>",
    re.IGNORECASE,
)
_LABEL = re.compile(r"\s*\(?(?:step|case|part|page|line|problem|question|equation|section)\b", re.I)
_IS_ANSWER = re.compile(
    r"\W*(?:is|are)\s+(?:\w+\s+){0,3}(?:answer|correct|right|solution|result)\b", re.IGNORECASE
)
_SIGNS = re.compile(r"(?:=>|\|(?=\s)|[ \t\"'*_:=~#\[≈€£¥₹])*")
_ONE_OF_SOME = re.compile(
    r"\W*(?:case|part|scenario|possibility|candidate|attempt)\s*\(?(?:\d+|[a-z])\)?\s*[:.)–—-]",
    re.I,
)
# An approximation beside an exact value.
_ROUNDED = re.compile(
    r"(?:≈|\bor\s{1,5}(?:about|approximately|roughly)\b)\s{0,5}-?\d[\d.,]{0,40}(?<![.,])\s*[%°]?"
)
_NEGATIVE = re.compile(r"\s*(?:minus|negative)\s+", re.IGNORECASE)
_FACTORIAL = re.compile(r"(\d+)!\s*$")
# A clause about a number: "26 is too large".
_IS_ABOUT = re.compile(r"\s+(?:is|was|has|would|gives)\b(?!.*\b(?:correct|right|answer)\b)", re.I)
_UNIT_WORDS = 4  # that may follow a number which is the whole of a clause
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORD_VALUES = {word: n for n, word in enumerate(_ONES.split())} | {
    word: 10 * (n + 2) for n, word in enumerate(_TENS.split())
}
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8}
_PARTS |= {"ninth": 9, "tenth": 10, "seventh": 7, "hundredth": 100}
_BELOW = re.compile(rf"[ -](?:of\s+a\s+)?({'|'.join(_PARTS)})s?\b", re.IGNORECASE)
_SPELLED_IN = re.compile(r"\b(?:" + "|".join(_WORD_VALUES) + r")\b", re.IGNORECASE)
_SPELLED = re.compile(r"[A-Za-z]+(?:[ -]+[A-Za-z]+){0,8}")


class NumberReader:
    """See `statements.Reader`."""

    def stated(self, clause: str, strict: bool) -> Sequence[Number]:
        at_start = self._at_start(clause, strict)
        if at_start or strict:
            return at_start
        return self._after_last_sign(clause)

    def lone(self, clause: str, strict: bool) -> Sequence[Number]:
        """A clause that is a number, or says that something is one."""
        at = _past_filler(clause)
        read = _read(clause[at:])
        if read is not None and _is_all(clause[at:], read):
            return _values(clause[at:], read)
        return [] if strict else self._after_last_sign(clause)

    def whole(self, text: str) -> Sequence[Number]:
        # In a box a `!` is no exclamation mark.
        said = decide(_FACTORIAL.sub(r"(\1!)", text), self.stated)
        if said.why == "nothing":
            return []
        return [OTHER, OTHER / 2] if said.why else [said.value]

    def speaks(self, sentence: str) -> bool:
        return any(char.isdigit() for char in sentence) or _SPELLED_IN.search(sentence) is not None

    def is_lone(self, sentence: str, is_last: bool) -> bool:
        """The last one, or a line that is a number and nothing else."""
        if _ONE_OF_SOME.match(sentence):
            return False
        return is_last or (sentence.strip()[-1:].isalnum() and value_of(sentence) is not None)

    def _at_start(self, clause: str, strict: bool) -> Sequence[Number]:
        for at in (_past_signs(clause), _past_filler(clause)):
            read = _read(clause[at:])
            if read is None:
                continue
            if strict and _IS_ABOUT.match(clause, at + read.end):
                return []
            return _values(clause[at:], read)
        return []

    def _after_last_sign(self, clause: str) -> Sequence[Number]:
        """What comes after the last word or sign that announces a value and is followed by one."""
        ends = [found.end() for found in _BEFORE_VALUE.finditer(clause)]
        for end in reversed(ends[-4:]):
            rest = clause[end:]
            at = _past_filler(rest)
            read = _read(rest[at:])
            if read is not None:
                return _values(rest[at:], read)
        return []


def _read(text: str) -> Read | None:
    if _LABEL.match(text):
        return None
    if sign := _NEGATIVE.match(text):
        read = read_chain(text[sign.end() :]) or _read_words(text[sign.end() :])
        return None if read is None else Read(-read.value, sign.end() + read.end, read.clean)
    return read_chain(text) or _read_words(text)


def _values(text: str, read: Read) -> list[Number]:
    """Nothing for a number that is a part of something else."""
    if read.clean:
        return [read.value]
    after = text[read.end :].split()
    follows = text[read.end : read.end + 1]
    if after[:1] in (["and"], ["or"], ["to"]) or follows in (",", ";"):
        return [read.value, OTHER]
    return []


def _is_all(text: str, read: Read) -> bool:
    """Whether a clause is a number with its unit, or says that it is the answer."""
    after = text[read.end :]
    return len(after.split()) <= _UNIT_WORDS or _IS_ANSWER.match(after) is not None


def _past_signs(text: str) -> int:
    found = _SIGNS.match(text)
    assert found is not None
    return found.end()


def _past_filler(text: str) -> int:
    at = 0
    while (found := _FILLER.match(text, at)) is not None and found.end() > at:
        end = found.end()
        if text[end : end + 1].isdigit() and text[end - 1] == ".":
            end -= 1  # .5
        if end == at:
            return at
        at = end
    return at


def _read_words(text: str) -> Read | None:
    """ "twenty-five", "one hundred and four", "two million"."""
    found = _SPELLED.match(text)
    if found is None:
        return None
    total = 0
    part: int | None = None
    end = 0
    for word in re.finditer(r"[A-Za-z]+", found[0]):
        name = word[0].lower()
        if name in _WORD_VALUES:
            part = (part or 0) + _WORD_VALUES[name]
        elif name == "hundred" and part is not None:
            part *= 100
        elif name in SIZES and part is not None:
            total += part * SIZES[name]
            part = 0
        elif name == "and" and part is not None:
            continue
        else:
            break
        end = word.end()
    if part is None:
        return None
    value = Fraction(total + part)
    if below := _BELOW.match(text, end):
        value /= _PARTS[below[1].lower()]
        end = below.end()
    return Read(value, end, not text[end : end + 1].isalnum())


def read_number(text: str, exact: bool = False) -> Said:
    """The number that a text answers with. `exact`: of a value and its approximation the value."""
    plain = in_english(marked(text))
    if exact:
        plain = _ROUNDED.sub(" ", plain)
    said = commitment(plain, NumberReader())
    if not said.why and said.value == OTHER:
        return Said(why="several")
    return said


__all__ = ["OTHER", "NumberReader", "read_number", "shown"]
