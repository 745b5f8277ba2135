"""What other languages say with other words: denials, alternatives and verbs, put in English.

An answer in another language is read by the rules for English, so the few words that decide what a
text commits itself to are translated before: "Die Antwort ist nicht B, sondern C" -> "Die Antwort
ist not B, but C". All other words stay. The languages are those of MMMLU and a few more. Knows
words; what they do is for `statements`.
"""

from __future__ import annotations

import re

# One thing that can be an answer: what makes a short word between two of them "or", or "and".
_BEFORE = r"(?<=[A-Za-z0-9.)\]}'\"*])\s+"
_AFTER = r"\s+(?=[(\[\"'*]{0,3}(?:[A-Z](?![\w'])|[-\d\\√]|opci|opt|opz|opç))"

# Whole words, which no English sentence has.
_WORDS: dict[str, str] = {
    " is wrong ": (
        "ist falsch|es falso|es falsa|est faux|est fausse|est incorrecte?|es incorrect[ao]|è "
        "sbagliat[ao]|è errat[ao]|è fals[ao]|está errad[ao]|é fals[ao]|é incorret[ao]|salah|"
        "неверен|неверна|неверно|неправильно|неправильный|गलत है|गलत|ভুল|خطأ|خاطئة|"
        "si sahihi|sio sahihi"
    ),
    " not ": (
        "nicht|kein|keine|bukan|bukanlah|tidak|siyo|sio|не|niet|nie|inte|değil|không phải|ليس|ليست|"
        "لا|ليس هو"
    ),
    " is not ": (
        "n'est pas|ne est pas|no es|no son|non è|non e'|não é|não e|kì í ṣe|kii ṣe|kii se|nije|"
        "nie jest|is niet|är inte|er ikke"
    ),
    " or ": "oder|ou|atau|или|eller|ya da|veya|lub|albo|hoặc|أو|या|অথবা|বা|tàbí|tabi",
    " and ": "und|এবং|और",
    " but ": "sondern|aber|sino|pero|bensì|mais plutôt|mais|mas sim|melainkan|bali",
    " is not right ": "नहीं है|नहीं|नही|নয়|নয়|না",
    " is ": "هي|هو|lautet|ist|является",
    " maybe ": (
        "vielleicht|möglicherweise|quizás|quizá|tal vez|peut-être|forse|talvez|mungkin|labda|"
        "возможно|может быть|ربما|शायद"
    ),
}
# Where words are not parted by blanks.
_PARTS: dict[str, str] = {
    " is not right ": (
        "(?:で|じゃ)は?(?:ない|ありません)(?:です)?|[이가] 아니(?:다|에요)|[이가] 아닙니다|아니다|"
        "是不(?:对|正确)的?|不(?:正确|对)"
    ),
    " is wrong ": "是错误?的|是錯誤?的|错误|錯誤|[이가은는] 틀렸\\w*",
    " is not ": "不是|并不是|并非|不为|不應為|不应为",
    " not ": "不选|不選|不应选",
    " is not right, but ": "[이가] 아니라|(?:では|じゃ)なく(?:て)?",
    " but ": "而是|而应为",
    " or ": "或者|或是|或|又は|または|もしくは|か(?=\\s*[A-Z\\d])|또는|혹은|이?거나",
    " maybe ": "可能是|也许|也許|或许|かもしれない|아마도?",
}


def _between(word: str) -> str:
    return f"{_BEFORE}(?:{word}){_AFTER}"


def _table() -> list[tuple[re.Pattern[str], str]]:
    rows = [(re.compile(parts), english) for english, parts in _PARTS.items()]
    for english, words in _WORDS.items():
        # A letter with a sign of its own after it goes on in some scripts, where `\b` ends a word.
        whole = rf"(?<![\w\u0900-\u09ff])(?:{words})(?![\w\u0900-\u09ff])"
        rows.append((re.compile(whole), english))
    # Short words that mean something else elsewhere: "e" is a number, "y" a variable.
    rows.append((re.compile(_between("o|u|au|ou")), " or "))
    rows.append((re.compile(_between("e|y|et|na|dan|и|و")), " and "))
    rows.append((re.compile(r"(?<=,)\s*(?:\u0430|ma|mas)\s+(?=\S)"), " but "))
    rows.append((re.compile(r"(?<=[A-Z\d])\s*(?:和|与|與|と|및|과|와)\s*(?=[A-Z\d])"), " and "))
    rows.append((re.compile(r"\bjibu(?:\s+sahihi)?\s+si\b", re.IGNORECASE), "answer is not"))
    return rows


_TABLE = _table()


def in_english(text: str) -> str:
    """The text with its denials and alternatives in English. Takes linear time."""
    for pattern, english in _TABLE:
        text = pattern.sub(english, text)
    return text
