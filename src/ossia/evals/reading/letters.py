"""Which of a question's choices a text names: by its letter, else by its words.

A letter that stands alone is not always a choice: the article in "a tensor", the pronoun in "I
think", the name in "vitamin C". Knows letters in clauses; what a text does with them is for
`statements`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ossia.evals.reading.clauses import Said
from ossia.evals.reading.languages import in_english
from ossia.evals.reading.plain import marked, without_marks
from ossia.evals.reading.statements import commitment

OUTSIDE = "?"  # a letter that is none of the choices
_LATIN = r"A-Za-z0-9_À-ɏ"  # beside which a letter is a part of a word
_LETTER = re.compile(rf"(?<![{_LATIN}\\'=+/.-])([(\[]?)([A-Za-z])([)\]]?)(?![{_LATIN}'=+^(\\])")
_JOINED = re.compile(
    r"(?:\s*(?:,\s*)?(?:and|&|/|\+|und|et|y|e|,)\s*|\s+(?=[A-Z](?:\s+[A-Z]){0,6}\W{0,8}$))"
    r"[(\[]?([A-Za-z])[)\]]?(?![\w'])"
)
# What may stand between a cue and its letter.
_FILLER = re.compile(
    r"(?:[\s\"'*_:=.,~#>|]+|\b(?:option|choice|letter|statement|alternative|answer|the|is|it's|it|"
    r"only|that|be|would|should|must|will|correct|right|best|final|therefore|thus|hence|so|"
    r"simply|just|"
    r"clearly|definitely|indeed|i|we|think|believe|choose|chose|select|pick|go|with|to|likely|"
    r"say|most|number|no|yes|opci[oó]n|opzione|op[cç][aã]o|réponse|antwort|buchstabe|lettre|letra|"
    r"among|options|choices)\b(?!\s*\)))",
    re.IGNORECASE,
)
_INTRODUCES = re.compile(
    r"\b(?:it's|say|vote for|option|choice|letter|choose|chose|select|pick|statement|"
    r"is|answer|leaving|leaves|with|be|alternative)\s*:?\s*[\"']?$|(?:选项|選択肢|选)\s*$",
    re.IGNORECASE,
)
# After a letter, these words show that it was one, and not an article or a name.
_GOES_ON = re.compile(
    r"\s+(?:is|are|was|and|or|because|since|as|but|due|for|with|which|by|has|can|cannot|seems|"
    r"satisf\w+|gives|holds|being|would|will|must|should|only|alone|not|rather|over|instead|in|"
    r"from|the|it|this|that|they|we|there|so|then|match\w*|fits?|remains|works|from|among|of)\b"
)
_IS_RIGHT = re.compile(
    r"\s*(?:is|=)\s+(?:(?!part|near|hard|rare|bare)\w+ly\s+|also\s+)?(?:most\s+likely\s+)?"
    r"(?:the\s+|our\s+|my\s+)?"
    r"(?:only\s+|single\s+|final\s+)?(?:correct|right|best|true|answer)\b|\s+(?:remains|works|"
    r"fits|holds)\b|\s+is\s+the\s+only\s+one\b|"
    r"\s*[が是]?(?:正解|正确)",
    re.IGNORECASE,
)
# A clause about a choice: "B is for acids".
_IS_ABOUT = re.compile(
    r"\s+(?:is|are|was|were|has|have|can|could|does|gives?|may|might)\b(?!.*\b(?:correct|right|"
    r"true|answer)\b)",
    re.IGNORECASE,
)
_NO_MORE = re.compile(r"[\s.:;!?\"'*_)]*$")
_IS = re.compile(r"\s+is\b")
_LOWER = re.compile(r"\s+[a-z]")
_LABEL_ENDS = (":", ".", ")")
# "vitamin C" is not a choice.
_NAMES = re.compile(
    r"\b(?:vitamin|hepatitis|point|type|group|class|figure|fig|table|part|section|appendix|curve|"
    r"line|phase|plan|case|step|protein|factor|set|matrix|vector|particle|compound|planet|star|"
    r"reaction|product|reagent|gene|box|stage|row|column|event|city|person|player|node|theorem)"
    r"\s+$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Seen:
    letter: str
    begin: int
    end: int
    enclosed: bool


class LetterReader:
    """`letters`: those that the question has. See `statements.Reader`."""

    def __init__(self, letters: str) -> None:
        self.letters = letters

    def stated(self, clause: str, strict: bool) -> Sequence[str]:
        head = self._head(clause)
        if head is not None:
            if strict and _IS_ABOUT.match(clause, head.end):
                return []
            return self._with_joined(clause, head)
        if strict:
            return []
        return [seen.letter for seen in self._seen(clause) if seen.letter != OUTSIDE]

    def lone(self, clause: str, strict: bool) -> Sequence[str]:
        found: list[str] = []
        filler_ends = _past_filler(clause)
        for seen in self._seen(clause) or self._label(clause):
            if seen.letter == OUTSIDE:
                continue
            begins = seen.begin <= filler_ends
            ends = _NO_MORE.match(clause, seen.end) is not None
            introduced = _INTRODUCES.search(clause, max(0, seen.begin - 24), seen.begin)
            is_label = clause[seen.end : seen.end + 1] in _LABEL_ENDS and begins
            is_right = _IS_RIGHT.match(clause, seen.end) is not None
            goes_on = ends or _GOES_ON.match(clause, seen.end) is not None
            stands_out = seen.enclosed or (begins and ends) or is_label or is_right
            if stands_out or (introduced and goes_on):
                found += self._with_joined(clause, seen)
        return found

    def whole(self, text: str) -> Sequence[str]:
        """Of a box or a bold word: a letter, alone or before the text of its choice."""
        head = self._head(text)
        if head is None:
            return []
        rest = text[head.end :]
        is_label = head.enclosed or rest[:1] in (")", ".", ":")
        if is_label or not rest.strip(" .,;:!?)\"'") or _IS_RIGHT.match(rest):
            return self._with_joined(text, head)
        joined = self._with_joined(text, head)
        return joined if len(joined) > 1 else []

    def speaks(self, sentence: str) -> bool:
        return True

    def is_lone(self, sentence: str, is_last: bool) -> bool:
        return True

    def _head(self, clause: str) -> _Seen | None:
        """The letter with which a clause begins, whatever its case."""
        at = _past_filler(clause)
        for begin in _starts(clause, at):
            found = _LETTER.match(clause, begin)
            if found is not None and self._is_choice(clause, found, at_head=True):
                return self._as_seen(found)
        return None

    def _seen(self, clause: str) -> list[_Seen]:
        """Every letter that may be meant as a choice."""
        found = []
        for match in _LETTER.finditer(clause):
            if self._is_choice(clause, match, at_head=False):
                found.append(self._as_seen(match))
        return found

    def _label(self, clause: str) -> list[_Seen]:
        """A small letter that is all, or stands before the words of its choice: "b. red"."""
        found = _LETTER.match(clause.strip())
        if found is None:
            return []
        after = clause.strip()[found.end(2) :]
        if after[:1] not in ("", ".", ")", ":"):
            return []
        begin = len(clause) - len(clause.lstrip())
        seen = self._as_seen(found)
        return [_Seen(seen.letter, begin, begin + seen.end, seen.enclosed)]

    def _as_seen(self, found: re.Match[str]) -> _Seen:
        letter = found[2].upper()
        enclosed = bool(found[1] and found[3])
        end = found.end() if enclosed else found.end(2)
        kept = letter if letter in self.letters else OUTSIDE
        return _Seen(kept, found.start(), end, enclosed)

    def _is_choice(
        self,
        clause: str,
        found: re.Match[str],
        at_head: bool,
    ) -> bool:
        if found[1] and found[3]:
            return True
        letter = found[2]
        end = found.end(2)
        after = clause[end : end + 2]
        if after[:1] in (".", "-") and after[1:].isalnum():
            return False  # i.e., A-level
        ends = after[:1] in (")", ".", ":", ",", ";", "]") or _NO_MORE.match(clause, end)
        goes_on = _GOES_ON.match(clause, end)
        if letter.islower():
            return at_head and bool(ends or (letter not in "ai" and goes_on))
        if letter == "I" and not ends:
            return _IS.match(clause, end) is not None
        if letter == "A" and _LOWER.match(clause, end) and not goes_on:
            return False
        return at_head or _NAMES.search(clause, max(0, found.start() - 24), found.start()) is None

    def _with_joined(self, clause: str, head: _Seen) -> list[str]:
        """With the letters that are named in the same breath: "A and B", "A/B"."""
        out = [head.letter]
        at = head.end
        while (more := _JOINED.match(clause, at)) is not None:
            letter = more[1].upper()
            is_article = more[1] in ("a", "A") and _LOWER.match(clause, more.end())
            if letter not in self.letters or is_article:
                break
            out.append(letter)
            at = more.end()
        return out

    def _is_filler(self, text: str) -> bool:
        return _past_filler(text) >= len(text)


def _past_filler(text: str) -> int:
    at = 0
    while (found := _FILLER.match(text, at)) is not None and found.end() > at:
        at = found.end()
    return at


def _starts(clause: str, at: int) -> list[int]:
    """Where a letter may stand: behind the filler, or, as "a" and "I" are words too, before it."""
    first = len(clause) - len(clause.lstrip(" \t\"'*_:=.,~#>|"))
    return [first, at] if first != at else [at]


# ---- by their words ------------------------------------------------------------------------------

_NOT_WORDS = re.compile(r"[^\w.%/+<>=≤≥≠-]+")
_RELATIONS = re.compile(r"([<>=≤≥≠])")
_QUOTED = re.compile(r"(?<!\w)'(\(?[A-Za-z]\)?)'(?!\w)")


def plain_words(text: str) -> str:
    """Lower case, single blanks, also around it, and no punctuation but signs of relations."""
    spread = _RELATIONS.sub(r" \1 ", without_marks(text).lower())
    words = _NOT_WORDS.sub(" ", spread).split()
    kept = [word.strip(".") for word in words]
    return f" {' '.join(word for word in kept if word)} "


class WordsReader:
    """Finds choices by their texts. See `statements.Reader`."""

    def __init__(self, letters: str, choices: Sequence[str]) -> None:
        texts = [plain_words(marked(choice)) for choice in choices]
        self.by_words = {
            text: letter
            for letter, text in zip(letters, texts, strict=True)
            if texts.count(text) == 1  # what two choices share names neither
        }

    def stated(self, clause: str, strict: bool) -> Sequence[str]:
        return self._named(plain_words(clause))

    def lone(self, clause: str, strict: bool) -> Sequence[str]:
        return self._named(plain_words(clause))

    def whole(self, text: str) -> Sequence[str]:
        return self._named(plain_words(text))

    def speaks(self, sentence: str) -> bool:
        return True

    def is_lone(self, sentence: str, is_last: bool) -> bool:
        return is_last

    def _named(self, words: str) -> list[str]:
        """Choices whose words all stand here; not those that are a part of another that does."""
        there = [own for own in self.by_words if own.strip() and own in words]
        longest = [own for own in there if not any(own in other != own for other in there)]
        return [self.by_words[own] for own in longest]


def read_choice(
    text: str,
    letters: str,
    choices: Sequence[str] = (),
) -> Said:
    """The letter that a text answers with; `OUTSIDE` for one that the question doesn't have."""
    plain = _QUOTED.sub(r'"\1"', in_english(marked(text)))
    said = commitment(plain, LetterReader(letters))
    if said.why == "nothing" and choices:
        return commitment(plain, WordsReader(letters, choices))
    return said
