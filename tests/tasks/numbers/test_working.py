"""The written methods: everything they state is true, they end in the right result, and they stay
short.
"""

from __future__ import annotations

import re
from random import Random

import pytest

from ossia.harmony import Effort
from ossia.tasks.numbers.arithmetic import (
    draw_number,
    draw_one_step,
    draw_operation,
    draw_two_steps,
)
from ossia.tasks.numbers.calculator import evaluate
from ossia.tasks.numbers.expressions import (
    Op,
    Sign,
    apply,
    in_split,
    is_held_out,
    is_trained,
    magnitudes,
    operation_split,
    text,
    value,
)
from ossia.tasks.numbers.working import PLACES, working

SIGNS: tuple[Sign, ...] = ("+", "-", "*")
NAMED = re.compile(rf"^({'|'.join(PLACES)}) ")
RESULT = re.compile(r"(?:->|so |=)(-?\d+)$")


def statements(written: str) -> list[str]:
    """The single statements of a working, without the names of places, results so far and
    carries.
    """
    parts = [
        part for line in written.split("\n") for part in re.split(r", |: |->\d+", line.rstrip(":"))
    ]
    parts = [NAMED.sub("", part.strip().removeprefix("check ")) for part in parts]
    return [part for part in parts if re.search("[=<>]", part) or " rest " in part]


def assert_true(statement: str) -> None:
    if rest := re.fullmatch(r"(\d+)\*(\d+)=(\d+) rest (\d+)", statement):
        q, b, product, _ = map(int, rest.groups())
        assert q * b == product, statement
    elif compared := re.fullmatch(r"([\d-]+)([<>])0", statement):
        left = evaluate(compared[1])
        assert left != 0 and (left < 0) == (compared[2] == "<"), statement
    else:
        values = {evaluate(side) for side in statement.split("=")}
        assert len(values) == 1, statement


def samples(count: int) -> list[Op]:
    rng = Random(1)
    ones = [draw_operation(rng, rng.choice((*SIGNS, "/"))) for _ in range(count)]
    twos = [draw_two_steps(rng, "train") for _ in range(count)]
    negatives = [
        Op(rng.choice(SIGNS[:2]), -draw_number(rng), draw_number(rng)) for _ in range(count // 4)
    ]
    return ones + twos + negatives


@pytest.mark.parametrize("effort", list(Effort))
def test_every_statement_is_true_and_the_last_gives_the_result(effort: Effort) -> None:
    for expr in samples(1500):
        written = working(expr, effort)
        for statement in statements(written):
            assert_true(statement)
        lines = [line for line in written.split("\n") if not line.startswith("check ")]
        last = RESULT.search(lines[-1])
        assert last is not None and int(last[1]) == value(expr), written


def test_long_division_rests_are_true() -> None:
    rng = Random(2)
    for _ in range(300):
        expr = draw_operation(rng, "/")
        for line in working(expr, Effort.HIGH).split("\n")[1:]:
            if found := re.fullmatch(
                r"\w+ (\d+) in (\d+): (\d+)\*(\d+)=(\d+) rest (\d+)->\d+", line
            ):
                divisor, current, q, b, product, rest = map(int, found.groups())
                assert (
                    current == product + rest
                    and rest < b == divisor
                    and q < 10
                    and product == q * b
                ), line


def test_columns_hand_on_what_the_next_one_uses() -> None:
    written = working(Op("+", 348, 75), Effort.HIGH)
    assert written.split("\n") == [
        "348 + 75:",
        "ones 8+5=13->3 carry 1",
        "tens 4+7+1=12->23 carry 1",
        "hundreds 3+0+1=4->423",
        "check 423-75=348",
    ]
    assert working(Op("-", 352, 374), Effort.MEDIUM) == (
        "352 - 374: 3-3=0, 5-7<0, so -(374 - 352): 4-2=2->2, 7-5-0=2->22, 3-3-0=0->022, so -22"
    )
    assert working(Op("*", 34, 57), Effort.MEDIUM) == (
        "34 * 57: 4*7=28->8, 3*7=21, 4*5=20, 21+20=41, 41+2=43->38, 3*5=15, 15+4=19->938, 1->1938"
    )
    assert working(Op("/", 268, 4), Effort.HIGH).split("\n")[1] == "tens 4 in 26: 6*4=24 rest 2->6"
    assert working(Op("+", 37, 48), Effort.LOW) == "37+48=85"


def test_efforts_differ_in_length_and_stay_short() -> None:
    rng = Random(3)
    exprs = [draw_one_step(rng, "train") for _ in range(500)]
    lengths = {effort: [len(working(expr, effort)) for expr in exprs] for effort in Effort}
    means = [sum(lengths[effort]) / 500 for effort in Effort]
    assert means[0] * 2 < means[1] < means[2]
    assert max(lengths[Effort.HIGH]) < 230 and max(lengths[Effort.MEDIUM]) < 150


def test_magnitudes_keep_the_value() -> None:
    for a in range(-25, 26):
        for b in range(-25, 26):
            for sign in SIGNS:
                minus, x, plain, y = magnitudes(sign, a, b)
                assert x >= 0 and y >= 0 and not (plain == "-" and x < y)
                assert apply(plain, x, y) * (-1 if minus else 1) == apply(sign, a, b)


def test_text_and_value_agree_with_python() -> None:
    for expr in samples(300):
        assert evaluate(text(expr)) == value(expr) == evaluate(text(expr, ""))


def test_fact_families_share_a_split() -> None:
    rng = Random(4)
    held_out = 0
    for _ in range(2000):
        a, b = rng.randrange(1, 1000), rng.randrange(1, 1000)
        splits = {
            operation_split("+", a, b),
            operation_split("+", b, a),
            operation_split("-", a + b, b),
        }
        splits |= {
            operation_split("-", a + b, a),
            operation_split("-", a, a + b),
            operation_split("+", -a, -b),
        }
        assert len(splits) == 1
        held_out += splits == {"held_out"}
        assert (
            operation_split("*", a, b)
            == operation_split("*", b, a)
            == operation_split("/", a * b, b)
        )
    assert 120 < held_out < 280


def test_small_facts_are_always_trained_and_no_expression_is_in_both_splits() -> None:
    assert all(operation_split("*", a, b) == "train" for a in range(13) for b in range(13))
    assert all(operation_split("+", a, b) == "train" for a in range(100) for b in range(10))
    rng = Random(5)
    for _ in range(3000):
        expr = Op("+", Op("-", rng.randrange(100), rng.randrange(100)), rng.randrange(100))
        assert not (is_trained(expr) and is_held_out(expr))
    assert in_split(Op("+", 4, 5), "train")
