"""The stack machine: what each operation does, every error, nothing a program can do but compute;
and its programs.
"""

from __future__ import annotations

import json
import math
import re
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ossia.harmony import Effort
from ossia.tasks import problems
from ossia.tasks.machine.machine import MAX_STEP_LIMIT, STEP_LIMIT, TAKES, run, run_tool
from ossia.tasks.machine.programs import (
    MAX_TRACE,
    broken,
    compiled,
    draw_expression,
    draw_program,
    machine_text,
)
from ossia.tasks.numbers.calculator import evaluate
from ossia.tasks.numbers.expressions import is_trained, operation_split, text, value
from ossia.tasks.problem import example_random, split_of


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        ("push 3; push 4; add; print", "7"),
        ("push 3; push 4; sub; print", "-1"),
        ("push -3; push 4; mul; print", "-12"),
        ("push 9; push 4; div; print", "2"),
        ("push 9; push 4; mod; print", "1"),
        (
            "push 3; push 4; lt; print; push 4; push 3; lt; print; push 3; push 3; lt; print",
            "1 0 0",
        ),
        ("push 3; push 3; eq; print; push 3; push 4; eq; print", "1 0"),
        ("push 1; dup; print; print", "1 1"),
        ("push 1; push 2; swap; print; print", "1 2"),
        ("push 1; push 2; over; print; print; print", "1 2 1"),
        ("push 1; push 2; drop; print", "1"),
        ("push 5; store a; load a; load a; add; print", "10"),
        ("push 0; jz end; push 1; print; label end; push 2; print", "2"),
        ("push 7; jz end; push 1; print; label end; push 2; print", "1 2"),
        ("jmp end; push 1; print; label end; push 2; print", "2"),
        ("push 1; print; halt; push 2; print", "1"),
        ("# nothing\npush 1 # one\n\nprint", "1"),
        ("push 1", "nothing was printed"),
    ],
)
def test_operations(program: str, printed: str) -> None:
    assert run(program).result == printed


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("push 1\nadd", "line 2: add needs 2 values, the stack has 1"),
        ("print", "line 1: print needs 1 value, the stack has 0"),
        ("push 1\nplus", "line 2: there is no operation plus"),
        ("push", "line 1: push is followed by a number"),
        ("push x", "line 1: x is not a whole number"),
        ("push 1 2", "line 1: push is followed by a number"),
        ("load", "line 1: load is followed by a name"),
        ("add 1", "line 1: add is followed by nothing"),
        ("load a", "line 1: there is no variable a"),
        ("jmp a", "line 1: there is no label a"),
        ("push 1; push 0; div", "line 3: division by zero"),
        ("push 1; push 0; mod", "line 3: division by zero"),
        ("label a; jmp a", f"not finished after {STEP_LIMIT} steps"),
        ("label a; push 1; jmp a", "line 2: the stack is full"),
        ("push 9999999; dup; mul; dup; mul", "line 3: the number is too large"),
        ("# only a remark", "the program is empty"),
        ("push 1\n" * 2000, "the program is longer than 4000 characters"),
    ],
)
def test_errors_say_what_is_wrong_and_where(program: str, error: str) -> None:
    assert run(program).result == f"error: {error}"


@given(
    st.lists(
        st.sampled_from(
            [*TAKES, "push 2", "push 0", "store a", "load a", "label a", "jmp a", "jz a", ";"]
        )
    )
)
def test_no_program_gets_out(lines: list[str]) -> None:
    outcome = run("\n".join(lines), limit=50)
    assert outcome.steps <= 50 and (outcome.error or outcome.result)
    assert run("\n".join(lines), limit=50).result == outcome.result


@given(st.text())
@example("[" * 100_000)
def test_no_arguments_raise(arguments: str) -> None:
    assert run_tool(arguments).startswith("error: ")
    assert isinstance(run_tool(json.dumps({"program": arguments})), str)


@pytest.mark.parametrize("arguments", ["[]", "3", "{}", '{"program": 3}',
    '{"program": "print", "limit": true}',
                                       f'{{"program": "print", "limit": '
                                       f'{MAX_STEP_LIMIT + 1}}}'])  # fmt: skip
def test_wrong_arguments_are_named(arguments: str) -> None:
    assert re.match("error: (run needs a program|the limit must be)", run_tool(arguments))


def test_the_limit_is_the_callers() -> None:
    program = "push 60; label a; dup; jz end; push 1; sub; jmp a; label end; push 5; print"
    assert (
        run_tool(json.dumps({"program": program}))
        == f"error: not finished after {STEP_LIMIT} steps"
    )
    assert run_tool(json.dumps({"program": program, "limit": 1000})) == "5"


def test_compiled_expressions_have_their_value() -> None:
    rng = Random(1)
    for _ in range(300):
        expr = draw_expression(rng)
        assert is_trained(expr)
        assert (
            run("\n".join([*compiled(expr), "print"])).result
            == str(value(expr))
            == str(evaluate(text(expr)))
        )


def test_programs_do_what_their_purpose_says() -> None:
    """Against Python."""
    seen = set()
    for i in range(1200):
        program = draw_program(example_random(2, "", i), "train")
        numbers = [int(number) for number in re.findall(r"\d+", program.purpose)]
        printed = program.outcome.printed
        match re.sub(r"\d+", "n", program.purpose):
            case "the sum of n to n":
                right = [sum(range(numbers[0], numbers[1] + 1))]
            case "the numbers from n down to n":
                right = list(range(numbers[0], 0, -1))
            case "n to the power of n":
                right = [numbers[0] ** numbers[1]]
            case "the larger of n and n":
                right = [max(numbers)]
            case "the greatest common divisor of n and n":
                right = [math.gcd(*numbers)]
            case "n mod n":
                right = [numbers[0] % numbers[1]]
            case "the upper values of the stack":
                continue
            case other:
                right, seen = [evaluate(program.purpose)], seen | {"expression"}
                assert "+" in other or "-" in other or "*" in other
        seen.add(re.sub(r"\d+", "n", program.purpose))
        assert printed == right, program
    assert (
        len([kind for kind in seen if kind.startswith("the") or "power" in kind]) == 5
        and "expression" in seen
    )


def test_the_trace_is_the_run() -> None:
    """Each step of the trace follows from the one before, by a second look at the operations that
    need no place.
    """
    for problem in problems("machine", 300, split="train"):
        *steps, _ = problem.solution(Effort.HIGH)[0].text.split("\n")
        before: list[int] = []
        for line in steps:
            op, shown = line.split(" | ")
            after = [int(word) for word in shown.split()] if shown != "empty" else []
            assert len(after) - len(before) == {
                "push": 1, "dup": 1, "over": 1, "load": 1, "swap": 0, "label": 0, "jmp": 0
            }.get(op.split()[0], -1), line  # fmt: skip
            if op.split()[0] in ("add", "sub", "mul"):
                a, b = before[-2:]
                assert after[-1] == {"add": a + b, "sub": a - b, "mul": a * b}[op]
            before = after
        assert len(steps) == problem.about["steps"] <= MAX_TRACE


def test_the_splits_of_programs() -> None:
    for i in range(400):
        train, held_out = (draw_program(example_random(3, s, i), s) for s in ("train", "held_out"))
        assert split_of(train.short) == "train" and split_of(held_out.short) == "held_out"
        assert all(operation_split(*done) == "train" for done in train.outcome.operations)


def test_broken_programs_fail() -> None:
    rng = Random(4)
    errors = set()
    for _ in range(300):
        result = run(broken(rng, draw_program(rng, "train"))).result
        assert result.startswith("error: ")
        errors.add(re.sub(r"\d+|(?<=operation )\w+|\w+ (?=is followed|needs)", "_", result))
    assert len(errors) >= 5


def test_documents_say_what_running_them_prints() -> None:
    for i in range(400):
        source = machine_text(example_random(5, "", i))
        body, last = source.rsplit("\n", 1)
        assert run(body.split("\ntrace\n")[0]).result == last.removeprefix("prints ")
