"""What a final text answers with: every way of writing it down, and every way of not answering.

The strings are those that graders have misread: the reports of lm-eval #3643 and #4188, marin #7527
and #9163, evalscope #1560, simple-evals #33 and #115, ds4 #319 and #321, NeMo-Skills #1526.
"""

from __future__ import annotations

from fractions import Fraction

import pytest
from steps import seconds

from ossia.evals.answers import Mark, grade_choice, grade_number, grade_words

TWENTY_FIVE = (
    "\\boxed{25.}",
    "25.0",
    "m+n=25",
    "25^\\circ",
    "25 \\text{ units}",
    "\\mathbf{25}",
    "\\dfrac{50}{2}",
    "**Answer: 25** (since 25 = 5^2)",
    "The answer is \\boxed{25}. Put it in boxed{answer}",
    "\\boxed{25} boxed{answer}",
    "Answer: 25",
    "answer\uff1a\uff12\uff15",
    "The answer is **25**.",
    "Final Answer\n\n25",
    "**Final answer:**\n\n\\boxed{25}",
    "The answer is not 24 but 25.",
    "Answer: 24 is wrong; so 25",
    "Therefore there are 25 such pairs.",
    "So m + n = 25.",
    "Thus, 25",
    "#### 25",
    "<answer>25</answer>",
    "Answer: $25$",
    "\\[25\\]",
    "Answer: \\(25\\)",
    "Answer: m+n = 5 + 20 = 25",
    "**25**",
    "025",
    "\\boxed{025}",
    "\\boxed{\\boxed{25}}",
    "\\boxed{m+n=25}",
    "\\boxed{\\textbf{25}}",
    "\\framebox{25}",
    "\\boxed 25",
    "\\boxed{25",
    "The final answer is 25!",
    "Answer: twenty-five",
    "The answer is approximately 25",
    "Answer: 25, because 5^2=25",
    "Answer: 25 cm²",
    "Answer: x = 25",
    "The answer is 24. Wait, I made a mistake. The answer is 25.",
    "The first answer is 24, but the final answer is 25.",
    "We get 24+1 = 25",
    "$\\boxed{25^{\\circ}}$",
    "\\boxed{25\\%}",
    "\\boxed{25\\text{ cm}^2}",
    "The area is 25 square units.",
    "25 units",
    "\\boxed{\\frac{50}{2}}",
    "Answer: 50/2",
    "$$m+n = 25.$$",
    "Answer: **25.**",
    "Answer: 25\nConfidence: 90%",
    '{"answer": 25}',
    "The answer is: 25.",
    "ANSWER: 25",
    "The answer to the problem is 25.",
    "The requested sum is $m+n=9+16=\\boxed{25}$.",
    "\\boxed{\\textbf{(D)}~25}",
    "\\textbf{Answer: } 25",
    "Hence the answer is $\\mathbf{25}$.",
    "Answer: [25]",
    "Answer — 25",
    "Answer: +25",
    "The answer, which is an integer, is 25.",
    "\\boxed{ 25 }\\",
    "Answer: 2.5 \\times 10^1",
    "The remainder is 25 when divided by 1000.",
    "So the answer is $p+q=22+3=25$, as desired.",
    "\\boxed{12} \\boxed{25}",
)

OTHER_NUMBERS = (
    ("\\boxed{\\text{204}}", 204),
    ("Answer: 1,024", 1024),
    ("\\boxed{1{,}024}", 1024),
    ("\\boxed{25} is wrong, so \\boxed{26}", 26),
    ("Answer: -25", -25),
    ("\\boxed{-25}", -25),
    ("answer: 711", 711),
    ("Answer: 0", 0),
)

NO_NUMBER = (
    "I ran out of tokens at step 17",
    "ran out of tokens at step 17",
    "Answer: 24 or 25",
    "The answer is 24. The answer is 25.",
    "It could be 25.",
    "Answer: between 24 and 26",
    "",
    "I checked 17 cases.",
    "Step 1: foo",
    "The answer is 24 and 25",
    "25, 26",
    "Answer: maybe 25",
    "I don't know.",
    "The answer is unknown, since 25 is small",
    "\\boxed{}",
)

SAYS_A = (
    "ANSWER: (A)",
    "**Answer: (A) She will consider his proposal inappropriate.**",
    "The calculated answer is 11.\n\nAnswer seems to be A.\n\nAnswer: A",
    "A",
    "A is the correct answer.",
    "The answer should be A, since B is too large.",
    "Respuesta: A",
)

SAYS_B = (
    "Among the options, B",
    "Not (A) but (B)",
    "Answer\uff1aB",
    "answer: b",
    "The answer is B. Note that A is a common distractor.",
    "ANSWER: [B]",
    "ANSWER: **B**\nLet me know if you need more.",
    "ANSWER: (B) 300",
    "The correct answer is (B).",
    "答案\uff1aB",
    "The answer is B because a car moves.",
    "I would pick B — a safe choice.",
    "b. 4",
    "**B**",
    "**B) red**",
    "Option B is correct.",
    "So the answer is $\\mathbf{B}$.",
    "Final Answer: \\boxed{B}",
    "\\boxed{A} ... \\boxed{B}",
    "Answer: Ⓑ",
    "The answer can't be A, so it is B",
    "Is the answer A? No, it is B.",
    "The correct option is B: the enzyme",
    'Answer: "B"',
    "answer is (b)",
    "The answer is\n\nB",
    "(B)\n\nExplanation: A is too small.",
    "\\text{Answer: B}",
    "The final answer is: $\\boxed{\\text{B}}$",
    "選択肢Bが正解",
)

SAYS_C = (
    "Answer: A is wrong... final answer is C",
    "Answer: I think it is C",
    "The answer is C because I computed the integral.",
    "Based on the above, the reference point is C",
    "Antwort:\n\nAntwort: C",
    "Antwort: C",
    "(C)",
    "\\boxed{C}",
    "\\boxed{\\text{(C)}}",
    "\\boxed{\\text{C) } 2.08\\times 10^{-6}\\,\\mathrm{m}}",
    "(A) is incorrect because x. (B) is incorrect. (C) is correct. (D) is wrong.",
    "A. foo\nB. bar\nC. baz\nD. qux\n\nAnswer: C",
    "\\boxed{B}. So the answer is C",
    "Option (C)",
    "**C**: because A is too small",
    "We eliminate A, B and D. C remains.",
    "Thus C.",
    "choose C",
    "I choose option C.",
    "Answer (C)",
    "Answer: C (though A is tempting)",
    "الإجابة: C",
    '{"answer": "C"}',
)

SAYS_D = (
    "The answer is D",
    "Answer: **A and B** are out, so D",
    "Answer: It is not B, the answer is D",
    "Answer: rules out C, leaving D",
    "Answer: D, not B",
    "ANSWER IS D. A is incorrect.",
    "...\\boxed{\\langle H\\rangle \\ll \\Delta E}... **Answer: D**",
    "d",
    "$\\boxed{\\textbf{D}}$",
    "I considered (A), but it is incorrect. Final answer: D.",
    "The correct answer is d.",
    "The best choice is option D, since A, B and C violate it.",
    "**Answer** – D",
    "*Answer:* D",
    "Answer: D) All of the above",
)

NO_CHOICE = (
    "Answer: E",
    "Answer: A or B",
    "It could be A or B.",
    "The answer is A. The answer is B.",
    "Answer: A\nAnswer: B",
    "Either (A) or (C)",
    "I'm torn between B and C",
    "maybe B?",
    "None of the above",
    "",
    "The answer is a tensor.",
    "Answer: A careful reading is needed.",
    "Vitamin C",
    "A. foo\nB. bar\nC. baz\nD. qux",
    "The answer is B. \\boxed{C}",
    "Answer: A/B",
    "Answer: both A and C",
    "The answer is not A.",
)
SAYS = {"A": SAYS_A, "B": SAYS_B, "C": SAYS_C, "D": SAYS_D}
WORDS = ("9 m/s", "11 m/s", "12 m/s", "30 m/s")


def number(text: str, gold: int | Fraction = 25) -> Mark:
    return grade_number(text, Fraction(gold))


@pytest.mark.parametrize("text", TWENTY_FIVE)
def test_it_says_25(text: str) -> None:
    assert number(text) == Mark("right", "25", 1.0)
    assert number(text, 26).kind == "wrong"


@pytest.mark.parametrize(("text", "value"), OTHER_NUMBERS)
def test_it_says_another_number(text: str, value: int | Fraction) -> None:
    assert number(text, value).kind == "right"
    assert number(text, value + 1).kind == "wrong"


@pytest.mark.parametrize("text", NO_NUMBER)
def test_it_says_no_number(text: str) -> None:
    mark = number(text)
    assert mark.kind == "unparsed" and mark.why and not mark.answer


@pytest.mark.parametrize("letter", "ABCD")
def test_it_says_a_letter(letter: str) -> None:
    for text in SAYS[letter]:
        assert grade_choice(text, letter, "ABCD") == Mark("right", letter, 1.0), text
        other = "ABCD"["BCDA".index(letter)]
        assert grade_choice(text, other, "ABCD").kind == "wrong", text


@pytest.mark.parametrize("text", NO_CHOICE)
def test_it_says_no_letter(text: str) -> None:
    for letter in "ABCD":
        assert grade_choice(text, letter, "ABCD").kind == "unparsed"


def test_more_choices() -> None:
    """Only the letters of the question count, and the pronoun is none of them."""
    ten = "ABCDEFGHIJ"
    assert grade_choice("Answer: J", "J", ten).kind == "right"
    assert grade_choice("The answer is I.", "I", ten).kind == "right"
    assert grade_choice("Answer: I think it is C", "C", ten).kind == "right"
    assert grade_choice("The answer is C because I computed it.", "C", ten).kind == "right"


def test_a_choice_by_its_words() -> None:
    def mark(text: str) -> str:
        return grade_choice(text, "B", "ABCD", WORDS).kind

    assert mark("The answer is 11 m/s.") == "right"
    assert mark("11 m/s") == mark("\\boxed{11\\text{ m/s}}") == "right"
    assert mark("It is 12 m/s.") == "wrong"
    assert mark("It is 11 m/s or 12 m/s.") == "unparsed"
    assert mark("Answer: B (11 m/s)") == "right"
    assert grade_choice("2", "A", "AB", ("2", "22")).kind == "right"
    assert grade_choice("22", "B", "AB", ("2", "22")).kind == "right"


def test_words() -> None:
    assert grade_words("Answer: Paris", "paris").kind == "right"
    assert grade_words("Because of x.\n\nAnswer: Paris.\nConfidence: 90%", "Paris").kind == "right"
    assert grade_words("So \\boxed{x^2 + 1}.", "$x^2+1$").kind == "right"
    assert grade_words("Answer: \\frac{1}{2}", "0.5").kind == "right"
    assert grade_words("Answer: 3", "0.5").kind == "wrong"
    other = grade_words("Answer: the French capital", "Paris")
    assert other.kind == "unparsed" and other.answer == "the French capital"
    assert grade_words("", "Paris").kind == grade_words("a\nb\nc", "Paris").kind == "unparsed"


HOSTILE = (
    *("(", "{", "\\boxed{", "boxed{", "**", "__", "A ", "A and ", "Answer: ", "answer is ", "1,"),
    *("\\frac", "\\frac{", "<b>", "- ", "not ", "or ", "is ", "= ", "\ue000", ". ", "\n", "√", "^"),
    *("2^", "A, ", "so ", "twenty ", "½", "²", "\\", "*  ", "1*", "(A) ", "maybe A ", "answer ("),
)


@pytest.mark.slow
@pytest.mark.parametrize("piece", HOSTILE)
def test_no_text_takes_long(piece: str) -> None:
    """20 kB; what is quadratic takes seconds."""
    for text in (piece * (20_000 // len(piece)), f"Answer: {piece * (20_000 // len(piece))} 25"):
        assert seconds(lambda text=text: number(text), 1) < 2
        assert seconds(lambda text=text: grade_choice(text, "A", "ABCD", WORDS), 1) < 2


@pytest.mark.parametrize(
    "tower",
    [
        r"\boxed{\dfrac{5^{\left(5^{\left(5^{\left(5^5\right)}\right)} - 4\right)} - 5}{16}}",
        "\\boxed{10^{10^{10}}}",
        f"\\boxed{{{'9' * 10_000}}}",
        f"Answer: {'2^' * 5000}2",
        f"Answer: {'(' * 5000}2",
    ],
)
def test_what_is_too_large_has_no_value(tower: str) -> None:
    assert number(tower).kind == "unparsed"
