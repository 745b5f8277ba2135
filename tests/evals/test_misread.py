"""Texts that were once counted as right, or not read: each stands for its kind."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ossia.evals.answers import grade_choice, grade_number, grade_words

SAME_BEGINNING = (
    ("2-methylpropane", "2-methylbutane"),
    ("12 Angry Men", "12 Monkeys"),
    ("3-sphere", "3-torus"),
    ("4\\alpha", "4\\beta"),
    ("3 \\ln 2", "3 \\ln 5"),
    ("4 kg", "4 s"),
    ("2 (mod 3)", "2 (mod 5)"),
    ("4 (S,S)", "4 (R,R)"),
    ("x < 2", "x > 2"),
    ("6×10⁻³", "6×10⁻⁵"),
)

NOT_TWENTY_FIVE = (
    "25 \\ln 2",
    "25\\cos\\theta",
    "25\\sqrt{x}",
    "25\\binom{5}{2}",
    "25 - x",
    "25/x",
    "25ab",
    "25\\pm 1",
    "25...",
    "25 sqrt 2",
    "25 choose 2",
    "25 mod 7",
    "25 or maybe 26",
    "25:30",
    "25θ",
    "25(x+1)",
)

STILL_TWENTY_FIVE = (
    "25 min",
    "25 sec.",
    "25 percent",
    "25 \\; \\Omega",
    "25 N·m",
    "25 -- that is all",
    "25 - that is all",
    "25/hour",
    "25 kg/m^3",
    "25 $\\blacksquare$",
    "25, 26 is wrong",
    "25 → ok",
)

NUMBERS = (
    ("5! = 120", 120),
    ("\\boxed{5!}", 120),
    ("Answer: 1\u2019024", 1024),
    ("Answer: 1'024", 1024),
    ("Answer: \u20133", -3),
    ("Answer: \u20143", -3),
    ("Answer: minus 3", -3),
    ("The answer is negative 3.", -3),
    ("The answer is negative three.", -3),
    ("Answer: 12,34,567", 1234567),
    ("Answer: 1\uff0c024", 1024),
    ("\\boxed{0.\\overline{3}}", Fraction(1, 3)),
    ("Answer: $0.1\\overline{6}$", Fraction(1, 6)),
    ("The answer is\n\\[\n25\n\\]", 25),
    ("Answer: €25", 25),
    ("Answer: US$25", 25),
    ("The remainder when divided by 1000 is 25.", 25),
    ("Answer: 5 - 3 = 2", 2),
    ("The answer is 25; 26 is too large.", 25),
    ("Answer: 25. Wait, it should be 26.", 26),
)

CHOICES = (
    ("The answer is C: A and B fail, D is too large.", "C"),
    ("The answer is C: A fails and D fails.", "C"),
    ("The answer is A; B is for acids.", "A"),
    ("Answer: C. Wait, it should be D.", "D"),
    ("Answer: A. Actually, B.", "B"),
    ("Students often answer A. Correct: C", "C"),
    ("The incorrect answer is A. The correct answer is B.", "B"),
    ("Answer: D) None of A, B or C", "D"),
    ("Answer: A: wrong. So the answer is B", "B"),
)


@pytest.mark.parametrize(("gold", "said"), SAME_BEGINNING)
def test_words_after_a_number_count(gold: str, said: str) -> None:
    assert grade_words(f"Answer: {said}", gold).kind != "right"
    assert grade_words(f"Answer: {gold}", gold).kind == "right"


@pytest.mark.parametrize("said", NOT_TWENTY_FIVE)
@pytest.mark.parametrize("form", ["{}", "Answer: {}", "The answer is ${}$.", "\\boxed{{{}}}"])
def test_what_follows_a_number_is_not_always_a_unit(said: str, form: str) -> None:
    assert grade_number(form.format(said), Fraction(25)).kind != "right"


@pytest.mark.parametrize("said", STILL_TWENTY_FIVE)
def test_units_and_remarks_after_a_number(said: str) -> None:
    assert grade_number(f"Answer: {said}", Fraction(25)).kind == "right"


@pytest.mark.parametrize(("text", "gold"), NUMBERS)
def test_numbers(text: str, gold: Fraction) -> None:
    assert grade_number(text, Fraction(gold)).kind == "right"


@pytest.mark.parametrize(("text", "gold"), CHOICES)
def test_choices(text: str, gold: str) -> None:
    found = grade_choice(text, gold, "ABCD")
    assert (found.kind, found.answer) == ("right", gold)


def test_a_second_choice_in_doubt() -> None:
    assert grade_choice("Answer: B (maybe C)", "B", "ABCD").kind == "unparsed"


def test_choices_that_differ_by_a_sign() -> None:
    choices = ("x < 2", "x > 2", "7 volts", "7 volts.")
    assert grade_choice("It is x<2.", "A", "ABCD", choices).kind == "right"
    assert grade_choice("It is x > 2.", "B", "ABCD", choices).kind == "right"
    assert grade_choice("It is 7 volts.", "D", "ABCD", choices).kind == "unparsed"
