"""What a sentence commits itself to: it is cut into clauses, and what each does there is known by
the word that begins it.

    "not A but B"           A is denied, B concluded
    "B, because A fails"    A is an explanation
    "A or B"                leaves it open
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Why = Literal["", "nothing", "hedged", "several", "broken"]
Find = Callable[[str, bool], Sequence[Any]]


@dataclass(frozen=True)
class Said:
    """What a piece of text commits itself to. `why`: "" if it does."""

    value: Any = None
    why: Why = "nothing"


NOTHING = Said()

HEDGES = re.compile(
    r"\b(?:might|may|could|maybe|perhaps|possibly|probably|unsure|uncertain|not (?:sure|certain)|"
    r"guess\w*|torn|either|unclear|undecided|between|toss-up|depends|for (?:example|instance)|"
    r"such as|one of (?:them|many|several))\b",
    re.IGNORECASE,
)
DENIES = re.compile(
    r"\b(?:wrong|incorrect|false|(?:is|are|was|were) out|eliminat\w+|exclud\w+|rul(?:e|es|ed|ing) "
    r"out|reject\w*|discard\w*|dismiss\w*|impossible|invalid|never|cannot|fails?|failed|violat\w+|"
    r"contradict\w+|unlikely|distractors?|tempting|doesn't|don't|isn't|aren't|wasn't|can't|"
    r"couldn't|won't|wouldn't|shouldn't|(?<!no )(?<!without )(?<!a )doubt(?:s|ful)?|not|"
    r"neither|nor|falsch|incorrecta?|faux|fausse)\b",
    re.IGNORECASE,
)
# These leave open what is said after them, too.
_GUESSES = re.compile(
    r"\b(?:guess\w*|maybe|perhaps|possibly|probably|unsure|uncertain|not (?:sure|certain))\b",
    re.IGNORECASE,
)
_BOUND = re.compile(r"\s*(?:or\s+)?at\s+(?:least|most)\b", re.IGNORECASE)
_OR_MORE = re.compile(r"\s*(?:more|less|fewer|greater|higher|lower|above|below|so)\b", re.I)
# Other answers in other cases: "24 if n is even, 25 otherwise".
_BY_CASES = re.compile(
    r"\b(?:if|when|unless)\b.{1,200}\b(?:otherwise|else)\b|"
    r"\b(?:if|when|for)\b[^,;]{1,100}[,;]\s*(?:and\s+|but\s+)?\S{1,20}\s+"
    r"(?:if|when|for|otherwise)\b",
    re.IGNORECASE,
)
_ALSO = re.compile(r"\b(?:also|too|as\s+well|equally)\b", re.IGNORECASE)

Role = Literal["", "concludes", "explains", "aside", "denies", "refuses", "alternative"]
_WORDS: dict[Role, tuple[str, ...]] = {
    "concludes": (
        *("so", "therefore", "thus", "hence", "leaving", "leaves", "but", "actually", "then"),
    ),
    "explains": (
        *("because", "since", "as", "although", "though", "while", "whereas", "which", "where"),
        *("given", "unlike", "note", "noting", "if", "when", "due"),
    ),
    "denies": (
        *("not", "rather than", "instead of", "neither", "nor", "except", "excluding", "over"),
        *("anything but", "anyone but", "everything but", "all but", "any but"),
    ),
    # these deny what stands before them: "C isn't it"
    "refuses": ("isn't", "aren't", "wasn't", "doesn't", "didn't", "does not", "is not", "did not"),
    "alternative": ("or", "alternatively"),
}
_ROLES: dict[str, Role] = {word: role for role, words in _WORDS.items() for word in words}
_BREAK = re.compile(
    r"[,;](?=\s|$)|\s[–—](?=\s)|\s-(?=\s)(?!\s+(?:[\d(√π\\.]|(?-i:[b-z])\b|[A-Za-z]\s*(?:$|"
    r"[-+*/^=])))|\((?=[A-Za-z]{2})|=>|\b(?:"
    + "|".join(sorted(map(re.escape, _ROLES), key=len, reverse=True))
    # "when divided by 7" is a part of the sentence
    + r")\b(?<!when(?=\s+(?:\S+\s+is\s+)?divided\b))",
    re.IGNORECASE,
)


def decide(text: str, find: Find) -> Said:
    """What a sentence, or what follows a cue, commits itself to."""
    value: Any = None
    why: Why = "nothing"
    wonders = False  # whether a clause without an answer was in doubt
    explains = False
    just_said = False  # whether the clause before had an answer
    for role, clause in clauses(text):
        if role in ("explains", "aside"):
            wonders |= value is None and "guess" in clause.lower()
            explains |= role == "explains"
            just_said = False
            continue
        explains = explains and role != "concludes"
        if explains and value is not None:
            continue
        is_more = value is not None and role == ""
        doubts = HEDGES.search(clause) is not None
        if (is_more or role == "alternative") and (other := _OR_ELSE.match(clause)):
            clause = clause[other.end() :]
        found = list(dict.fromkeys(find(clause, is_more)))
        if role in ("denies", "refuses") or DENIES.search(clause):
            if found == [] and (_takes_back(clause, role) or (role == "refuses" and just_said)):
                value, why = None, "nothing"
            just_said = False
            continue
        just_said = bool(found)
        if not found:
            wonders |= _GUESSES.search(clause) is not None
            if role == "alternative" and _OR_MORE.match(clause):
                return Said(why="hedged")
            if value is not None and _BOUND.match(clause):
                return Said(why="hedged")
            continue
        explains = False
        if role == "alternative" and value is None:
            return Said(why="several")  # "either ... or 25"
        if value is None or (role == "concludes" and not _ALSO.search(clause)):
            value = found[0]
            why = "hedged" if doubts or wonders else ""
        elif found[0] != value:
            why = "several"
        if len(found) > 1:
            why = "several"
        wonders = False
    if not why and _BY_CASES.search(text):
        why = "several"
    return Said(None if why in ("several", "nothing") else value, why)


def _takes_back(clause: str, role: Role) -> bool:
    """Whether what was said just before is denied: "A is wrong" is one clause, "A, which is wrong"
    two.
    """
    return role in ("denies", "refuses") and clause.strip(" .").lower() in (
        "correct",
        "right",
        "the answer",
        "the correct answer",
        "the right answer",
        "possible",
        "valid",
        "true",
    )


def clauses(text: str) -> Iterator[tuple[Role, str]]:
    """A sentence in pieces, and what each does there. What stands in parentheses is one piece."""
    role: Role = ""
    begin = 0
    inside = _parentheses(text)
    for found in _BREAK.finditer(text):
        at = found.start()
        if at < begin or inside[at]:
            continue
        yield role, text[begin:at]
        word = found[0].lower()
        begin = found.end()
        role = _ROLES.get(word, "")
        if word == "(":
            end = begin
            while end < len(text) and inside[end]:
                end += 1
            note = text[begin:end]
            if other := _OR_ELSE.match(note):
                yield "alternative", note[other.end() :]
            else:
                yield "aside", note
            begin = min(end + 1, len(text))
    yield role, text[begin:]


_OR_ELSE = re.compile(r"\s*(?:(?:or|maybe|perhaps|possibly|probably|could be|might be)\s+)+", re.I)


def _parentheses(text: str) -> list[bool]:
    """Of every character whether it stands between a parenthesis or bracket and the one that
    closes it; in an interval one may close the other.
    """
    out = [False] * len(text)
    opened: list[int] = []
    for at, char in enumerate(text):
        if char in "([":
            opened.append(at)
        elif char in ")]" and opened:
            begin = opened.pop()
            if not opened:
                out[begin + 1 : at] = [True] * (at - begin - 1)
    return out
