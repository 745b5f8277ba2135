"""What an optimizer would try first: answers that please a grader without answering.

For every task: the gold answer scores 1.0 at every effort; listing everything, saying nothing,
saying the question again, ticking all choices and copying the longest note score 0.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest

from ossia.harmony import Effort, Role
from ossia.tasks import REGISTRY, Problem, Split, grade, problems
from ossia.tasks.answers import (
    Prompt,
    answers_with,
    chosen,
    commits,
    has_one_number,
    last_integer,
    last_number,
    plain_words,
)
from ossia.tasks.environment import Outcome, static

CASES: list[tuple[str, Split]] = []
for task in REGISTRY.values():
    CASES.append((task.name, "held_out"))
    if "rl" in task.kinds:
        CASES.append((task.name, "train"))


def texts(problem: Problem) -> list[str]:
    """Everything that is said before the answer."""
    said = [problem.system or "", problem.instructions or ""]
    for turn in problem.turns:
        said += [turn.user, turn.final]
    return [text for text in said[:-1] if text]


def attacks(problem: Problem) -> Iterator[tuple[str, str]]:
    said = texts(problem)
    lines = [line for text in said for line in text.split("\n") if line.strip()]
    yield "nothing", ""
    yield "the question", problem.turns[-1].user
    yield "everything", "\n".join(said)
    yield "everything in a line", " ".join(" ".join(said).split())
    yield "the longest note", max(lines, key=len)
    if problem.instructions:
        yield "the longest instruction", max(problem.instructions.split("\n"), key=len)
    expect = problem.expect
    if expect.choices:
        letters = "ABCDEFGH"[: len(expect.choices)]
        pairs = zip(letters, expect.choices, strict=True)
        yield "all choices", "\n".join(f"{letter}) {text}" for letter, text in pairs)
        yield "all letters", " ".join(letters)
        yield "the choices' texts", ", ".join(expect.choices)
    gold = plain_words(problem.answer)
    told = list(dict.fromkeys(expect.told))
    others = [value for value in told if plain_words(value) not in gold]
    if others:
        yield "all values", ", ".join(told)
        yield "the first values", ", ".join(told[:8])
        yield "the gold one and another", f"{problem.answer} {others[0]}"
    if expect.number not in (None, 0):
        assert expect.number is not None
        first = expect.number - 5
        yield "numbers", ", ".join(str(n) for n in range(first, expect.number + 1))


def assert_not_pleased(problem: Problem) -> int:
    """How many attacks there were. One that is the gold answer is none."""
    tried = 0
    for name, answer in attacks(problem):
        if answer.strip() == problem.answer.strip():
            continue
        for calls in {problem.gold_calls, ()}:
            assert grade(problem, answer, calls) == 0.0, (name, problem, answer)
        tried += 1
    return tried


def check(task: str, split: Split, count: int, seed: int) -> None:
    tried = 0
    for problem in problems(task, count, seed=seed, split=split):
        environment = static(problem)
        for effort in Effort:
            gold = Outcome.of(environment.gold(effort) or ())
            assert environment.reward(gold).value == 1.0, problem
        tried += assert_not_pleased(problem)
    assert tried >= 4 * count


@pytest.mark.parametrize(("task", "split"), CASES)
def test_graders_are_not_pleased_by_everything(task: str, split: Split) -> None:
    check(task, split, 40, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "split"), CASES)
def test_graders_are_never_pleased_by_everything(task: str, split: Split) -> None:
    check(task, split, 500, seed=2)


def test_a_grader_that_only_looks_for_the_answer_would_be_pleased() -> None:
    """The attacks are real: without the rule, listing everything is right again and again."""
    pleased = 0
    for problem in problems("facts", 100) + problems("policy", 100):
        for _, answer in attacks(problem):
            wanted = problem.expect.contains
            pleased += bool(wanted) and plain_words(str(wanted)) in plain_words(answer)
    assert pleased > 100


def test_what_an_answer_may_not_be() -> None:
    prompt = Prompt(
        gold="Anna lives in Rome.",
        asked="Where does Anna live?",
        lines=("Anna's home is Rome.", "Bob lives in Oslo."),
        told=("Anna", "Rome", "Bob", "Oslo"),
    )
    assert commits("Anna lives in Rome.", prompt) and commits("In Rome", prompt)
    assert commits("It is Rome, where Anna lives.", prompt)
    assert not commits("Rome or Oslo", prompt), "two values"
    assert not commits("Where does Anna live? In Rome.", prompt), "the question again"
    assert not commits("anna's home  is rome", prompt), "a line of the prompt"
    assert not commits("Rome. " + "I am quite sure of it. " * 5, prompt), "much longer"
    assert commits("Rome. " + "I am quite sure. " * 5, Prompt("Rome", "Where?", longest=200))


def test_one_number_and_no_list() -> None:
    prompt = Prompt("5 + 7 = 12", "What are 5 and 7 together?")
    for right in ("12", "5 + 7 = 12", "5 apples and 7 make 12", "3 * 4 = 12", "It is 12."):
        assert has_one_number(right, 12, prompt), right
    for wrong in ("10 11 12", "It is 11 or 12", "1, 2, 12"):
        assert not has_one_number(wrong, 12, prompt), wrong


def test_numbers_are_exact() -> None:
    assert last_integer("It is 12345678901234567891.") == 12345678901234567891
    assert last_number("0.1 and then 1,234.50") == Decimal("1234.50")
    assert last_number("none") is None


def test_letters_that_stand_alone() -> None:
    choices = ("red", "blue", "green", "black")
    assert chosen("B", choices) == {1} and chosen("(C) green", choices) == {2}
    assert chosen("A", choices) == {0} and chosen("A dog says it is D.", choices) == {3}
    assert chosen("A B C D", choices) == {0, 1, 2, 3} and chosen("B or D", choices) == {1, 3}


@pytest.mark.parametrize(
    "said",
    ["548, 549, 550, 558", "548 or 558", "548 / 558", "548; 558", "548\n549\n558", "- 548\n- 558"],
)
def test_a_list_of_numbers_answers_nothing(said: str) -> None:
    assert not answers_with(said, "558")
    assert answers_with(f"{said}, so it is 558", "558")


@pytest.mark.parametrize(
    "said",
    ["18 * 31 = 558", "558", "5 and 7 make 558", "500 + 58 = 558.", "500 + 58\n= 558", "558 558"],
)
def test_numbers_on_the_way_are_no_list(said: str) -> None:
    assert answers_with(said, "558")


def test_answers_with() -> None:
    assert answers_with("37 + 48 = 85.", "85") and answers_with("It is 85.0", "85")
    assert answers_with("1,234", "1234") and not answers_with("84 or 86", "85")
    assert answers_with("The capital is New York.", "New York")
    assert answers_with("ratio: 3", "Ratio: 3") and not answers_with("New York or Rome", "Rome")


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("It is \N{MINUS SIGN}5", "-5"),
        ("It is \N{NON-BREAKING HYPHEN}5", "-5"),
        ("1\N{NARROW NO-BREAK SPACE}234", "1234"),
        ("12,34,567", "1234567"),
        (".5", "0.5"),
        ("3.2e5 m", "320000"),
        ("1000", "1e3"),
        ("The capital is **Paris**.", "Paris"),
        ("**Answer:** Paris", "Paris"),
        ("\\boxed{Paris}", "Paris"),
        ("a*b*c", "a*b*c"),
    ],
)
def test_right_answers_in_other_spellings(said: str, right: str) -> None:
    assert answers_with(said, right)


@pytest.mark.parametrize(
    ("said", "gold"),
    [
        ("It is \N{MINUS SIGN}5", "5"),
        (".5", "5"),
        ("3.2e5", "3.2"),
        ("1,2,3", "123"),
        ("1.2.3", "3"),
        ("**Paris** or **Rome**", "Rome"),
        ("**not** Rome", "Rome"),
    ],
)
def test_wrong_answers_that_look_like_right_ones(said: str, gold: str) -> None:
    assert not answers_with(said, gold)


@pytest.mark.parametrize("task", ["facts", "state", "puzzles", "tools", "policy", "world hops"])
def test_an_answer_in_bold_or_quoted_is_the_same(task: str) -> None:
    for problem in problems(task, 20):
        for said in (f"**{problem.answer}**", f'"{problem.answer}"'):
            assert grade(problem, said, problem.gold_calls) == 1.0, said


def test_marks_within_an_answer_are_part_of_it() -> None:
    assert not answers_with("23", "2*3")
    assert not answers_with("C", "C*")
    assert answers_with('It is "C*".', "C*")


def test_a_number_without_end_is_wrong_and_no_error() -> None:
    """What a model that repeats itself writes."""
    (problem,) = problems("arithmetic", 1)
    assert grade(problem, "1" * 31, ()) == 0.0
    assert last_integer("1" * 5000) is not None


def test_gold_is_made_of_the_models_own_messages() -> None:
    for task in REGISTRY:
        (problem,) = problems(task, 1)
        gold = static(problem).gold(Effort.LOW)
        assert gold is not None and gold[-1].channel == "final"
        assert {message.role for message in gold} <= {Role.ASSISTANT, Role.TOOL}
