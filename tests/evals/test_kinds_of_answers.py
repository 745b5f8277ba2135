"""Kinds of answers that were once credited and must not be, or were misread: in groups by what
makes them so, each text read as a careful person reads it.
"""

from __future__ import annotations

from fractions import Fraction

import pytest

from ossia.evals.answers import grade_choice, grade_number, grade_words

NEVER_25 = {
    "two answers": (
        "\\boxed{24} or \\boxed{25}",
        "\\boxed{24}, \\boxed{25}",
        "\\boxed{24} \\text{ or } \\boxed{25}",
        "\\boxed{25;30}",
        "25 (26)",
        "548, 24, 25",
        "Answer: 25, maybe 26",
        "Case 1: 24. Case 2: 25.",
        "The answer is 25 if n is even, 24 if n is odd",
        "Answer: 25 if n is even and 24 otherwise",
    ),
    "bounds and intervals": (
        "(24, 25]",
        "x ∈ [0, 25]",
        "Answer: >25",
        "Answer: 25 at most",
        "Answer: 25, at least",
        "The answer is 25 or more",
    ),
    "denied": (
        "It is not true that the answer is 25.",
        "Anything but 25.",
        "Answer: ~~25~~",
        "Answer: <del>25</del> 24",
        "Answer: $\\cancel{25}$ 24",
        "I doubt that it is 25.",
        "25 does not work.",
        "Suppose x = 25. Then it fails.",
        "There are many; 25 is one of them.",
    ),
    "a part of something else": (
        "the answer is 25 more than 7",
        "the answer is 25 less than 100",
        "25% of 80",
        "25 percent of 8",
        "Answer: 25 hours 5 minutes",
        "Answer: 25'6\"",
        "Answer: 25 by 8",
        "Answer: 25 remainder 1",
        "Answer: 25 fewer than needed",
        "Answer: 25 | 26",
        "Answer: 25 and a half",
        "Answer: $25!$",
        "Answer: |-25| - 1",
    ),
    "in other languages": (
        "答案不是25, 而是26",
        "La respuesta no es 25 sino 26",
        "Die Antwort ist 25 oder 26.",
        "La réponse n'est pas 25",
        "答えは25ではない",
        "정답은 25가 아니라 26",
    ),
}
NEVER_B = {
    "two answers": (
        "\\boxed{A} or \\boxed{B}",
        "B, maybe C",
        "Answer: B C",
        "If it rains, B",
        "B... or C",
        "B, but C is also correct.",
        "If x then B, else C.",
        "B if x, C otherwise",
        "The choices are A, B, C and D.",
    ),
    "denied": (
        "Anything but B.",
        "All but B.",
        "It is not true that the answer is B.",
        "I doubt that it is B.",
        "Answer: ~~B~~",
        "<s>B</s>",
        "B ❌",
        "B isn't it",
        "B is partly true",
    ),
    "in other languages": (
        "答案不是B, 而是C",
        "答案是B或C",
        "不选B",
        "答えはBではない",
        "答えはBかC",
        "정답은 B가 아니라 C",
        "정답은 B 또는 C",
        "La respuesta no es B.",
        "La respuesta es B o C",
        "Die Antwort ist nicht B, sondern C",
        "Die Antwort ist B oder C.",
        "La réponse n'est pas B.",
        "La réponse est B ou C",
        "La risposta non è B",
        "La risposta è B o C",
        "A resposta não é B",
        "A resposta é B ou C",
        "Jawabannya bukan B",
        "Jibu si B",
        "الإجابة ليست B",
        "الإجابة B أو C",
        "उत्तर B नहीं है",
        "Ответ: не B",
        "Ответ: B или C",
    ),
}
OTHER_SIGNS = (
    ("[0, 1)", ("[0, 1]", "(0, 1)", "(0,1]", "0 1")),
    ("n!", ("n", "n?")),
    ("A \\cup B", ("A \\cap B", "A B", "AB")),
    ("|x|", ("x", "-x")),
    ("12", ("1 2", "1, 2")),
    ("f'(x)", ("f(x)", "f''(x)")),
    ("Paris", ("Paris?", "Paris or London", "not Paris", "~~Paris~~ London", "Paris, Texas")),
    ("no one", ("noone else", "one")),
    ("1:05", ("105", "1")),
)
SAME_SIGNS = (
    ("[0, 1)", ("[0,1)", "$[0, 1)$")),
    ("x^2 + 1", ("x^{2}+1", "x²+1")),
    ("O(n log n)", ("$O(n \\log n)$",)),
    ("H2O", ("$H_2O$", "H₂O", "h2o")),
    ("10^6", ("one million", "1,000,000", "1 million")),
    ("Paris", ("paris.", "**Paris**", '"Paris"')),
)
SAYS_B = (
    "Answer: 'B'",
    "✅ B",
    "A ✗, B ✓, C ✗, D ✗",
    "La opción correcta es B.",
    "故选: B",
    "👉 B",
    "正确选项是B",
    "Ответ: B",
    "Odpowiedź: B",
    "Die Antwort ist nicht A, sondern B.",
    "La respuesta no es A sino B",
    "答案不是A, 而是B",
    "No doubt the answer is B.",
)
NUMBERS = (
    ("One third", Fraction(1, 3)),
    ("three quarters", Fraction(3, 4)),
    ("1/3 ≈ 0.333", Fraction(1, 3)),
    ("\\frac{1}{3}, or about 33.3%", Fraction(1, 3)),
    ("{1 \\over 3}", Fraction(1, 3)),
    ("Answer: $3\\,\\frac12$", Fraction(7, 2)),
    ("1.234.567", Fraction(1234567)),
    ("5%", Fraction(1, 20)),
    ("5 percent", Fraction(1, 20)),
    ("25%", Fraction(25)),
    ("|-3|", Fraction(3)),
    ("Answer: $3!$", Fraction(6)),
    ("25 (25.0)", Fraction(25)),
    ("This gives us 25", Fraction(25)),
    ("Answer: ~~24~~ 25", Fraction(25)),
    ("I first thought the answer was 24, but the answer is 25.", Fraction(25)),
    ("$\\boxed{9}+\\boxed{16}=\\boxed{25}$", Fraction(25)),
)


@pytest.mark.parametrize("kind", NEVER_25)
def test_no_credit_for_a_number(kind: str) -> None:
    credited = [text for text in NEVER_25[kind] if grade_number(text, Fraction(25)).score]
    assert credited == []


@pytest.mark.parametrize("kind", NEVER_B)
def test_no_credit_for_a_letter(kind: str) -> None:
    credited = [text for text in NEVER_B[kind] if grade_choice(text, "B", "ABCD").score]
    assert credited == []


def test_letters_that_are_there() -> None:
    missed = [text for text in SAYS_B if grade_choice(text, "B", "ABCD").kind != "right"]
    assert missed == []


def test_numbers_that_are_there() -> None:
    missed = [text for text, gold in NUMBERS if grade_number(text, gold).kind != "right"]
    assert missed == []


@pytest.mark.parametrize(("gold", "others"), OTHER_SIGNS)
def test_signs_count(gold: str, others: tuple[str, ...]) -> None:
    assert grade_words(f"Answer: {gold}", gold).kind == "right"
    credited = [text for text in others if grade_words(f"Answer: {text}", gold).score]
    assert credited == []


@pytest.mark.parametrize(("gold", "others"), SAME_SIGNS)
def test_signs_are_written_in_several_ways(gold: str, others: tuple[str, ...]) -> None:
    for text in others:
        assert grade_words(f"The answer is {text}", gold).kind == "right", text


def test_percent_of_a_share() -> None:
    assert grade_number("0.05%", Fraction(1, 20)).kind == "wrong"
    assert grade_number("5", Fraction(1, 20)).kind == "wrong"
