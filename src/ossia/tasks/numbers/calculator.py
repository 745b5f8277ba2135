"""The calculator: a safe evaluator of expressions, and the task of calling it and using its result.

Knows expressions, JSON and the ways in which people declare such a tool. The final answer must use
the tool's result, also in the rare cases where that is, on purpose, not the true value, or an
error.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from ossia.errors import ToolError
from ossia.harmony import Effort, FunctionTool
from ossia.tasks.numbers.arithmetic import ask, draw_one_step, draw_two_steps
from ossia.tasks.numbers.expressions import Expr, Op, Sign, in_split, text, value
from ossia.tasks.numbers.stories import draw_story
from ossia.tasks.problem import Call, Expect, Problem, Split, Tool, Turn
from ossia.tasks.words import Words, pick

WORDS = Words("calculator")
LARGEST = 10**9  # of the results that problems ask for
MAX_CHARACTERS = 200
MAX_DIGITS = 200
MAX_EXPONENT = 64
MAX_DEPTH = 60
_RUN_TOGETHER = re.compile(r"\d(?![eE][+-]?\d)[^\W\d]")  # a number and a word: 12if

# ---- the tool itself -----------------------------------------------------------------------------


def evaluate(expression: str) -> int | float:
    """The value of an expression of numbers with + - * / // % ** and parentheses.

    A quotient that is whole is an int. Raises ToolError saying what is wrong: a name or a call in
    it, a division by zero, a number or power that is too large, an expression that is too long.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ToolError(f"the expression is longer than {MAX_CHARACTERS} characters")
    plain = expression.translate(_LIKE_SIGNS).strip().rstrip("=").strip()
    if _RUN_TOGETHER.search(plain):  # Python would warn of it, for everybody to see
        raise ToolError("this is not an arithmetic expression")
    try:
        tree = ast.parse(plain, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ToolError("this is not an arithmetic expression") from error
    return _value_of(tree.body, 0)


_SIGNS_OF_PEOPLE = {
    "\N{MULTIPLICATION SIGN}": "*",
    "\N{MIDDLE DOT}": "*",
    "\N{DIVISION SIGN}": "/",
    "\N{MINUS SIGN}": "-",
    "^": "**",
    ",": "",
}
_LIKE_SIGNS = str.maketrans(_SIGNS_OF_PEOPLE)


def _value_of(node: ast.expr, depth: int) -> int | float:
    if depth > MAX_DEPTH:
        raise ToolError("the expression is nested too deeply")
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            return _checked(number)
        case ast.UnaryOp(op=ast.USub()):
            return -_value_of(node.operand, depth + 1)
        case ast.UnaryOp(op=ast.UAdd()):
            return _value_of(node.operand, depth + 1)
        case ast.BinOp():
            left = _value_of(node.left, depth + 1)
            right = _value_of(node.right, depth + 1)
            return _checked(_combined(node.op, left, right))
    raise ToolError("only numbers, + - * / // % ** and parentheses are allowed")


def _combined(sign: ast.operator, a: int | float, b: int | float) -> int | float:
    try:
        match sign:
            case ast.Add():
                return a + b
            case ast.Sub():
                return a - b
            case ast.Mult():
                return a * b
            case ast.Div():
                return _quotient(a, b)
            case ast.FloorDiv():
                return a // b
            case ast.Mod():
                return a % b
            case ast.Pow():
                return _power(a, b)
    except ZeroDivisionError as error:
        raise ToolError("division by zero") from error
    except OverflowError as error:
        raise ToolError("the result is too large") from error
    raise ToolError("only + - * / // % ** are allowed")


def _quotient(a: int | float, b: int | float) -> int | float:
    """The quotient, as an int where it is whole."""
    if isinstance(a, int) and isinstance(b, int) and a % b == 0:
        return a // b
    return a / b


def _power(a: int | float, b: int | float) -> int | float:
    if abs(b) > MAX_EXPONENT:
        raise ToolError(f"exponents go up to {MAX_EXPONENT}")
    result = a**b
    if isinstance(result, complex):
        raise ToolError("the result is not a real number")
    assert isinstance(result, int | float)
    return result


def _checked(number: int | float) -> int | float:
    if isinstance(number, int) and abs(number) >= 10**MAX_DIGITS:
        raise ToolError("the number is too large")
    if isinstance(number, float) and not math.isfinite(number):
        raise ToolError("the result is not a finite number")
    return number


def calculate(arguments: str) -> str:
    """Run the calculator on the JSON text of a call's arguments.

    Every error comes back as text, `error: ...`.
    """
    try:
        expression = expression_of("calculator", arguments)
        return str(evaluate(expression))
    except ToolError as error:
        return f"error: {error}"


EXPRESSION_KEYS = ("expression", "expr", "input", "formula")
_SIGN_NAMES = {"+": "+", "-": "-", "*": "*", "/": "/"}
_WORD_NAMES = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}
_OPERAND_KEYS: dict[tuple[str, str, str], dict[str, str]] = {
    ("a", "b", "op"): _SIGN_NAMES,
    ("a", "b", "operation"): _WORD_NAMES,
    ("x", "y", "operator"): _SIGN_NAMES,
}


def expression_of(name: str, arguments: str) -> str:
    """The expression that a call asks for, whatever the shape of its arguments.

    Raises ToolError if there is none.
    """
    try:
        data = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise ToolError(f"the arguments of {name} are not JSON") from error
    if not isinstance(data, Mapping):
        raise ToolError(f"the arguments of {name} must be a JSON object")
    for key in EXPRESSION_KEYS:
        expression = data.get(key)
        if isinstance(expression, str):
            return expression
    for keys, names in _OPERAND_KEYS.items():
        if not set(keys) <= data.keys():
            continue
        first, second, sign = (data[key] for key in keys)
        for plain, theirs in names.items():
            if theirs == sign:
                return f"({first}) {plain} ({second})"
    raise ToolError(f"{name} needs an expression, such as 12*7")


CALCULATOR = FunctionTool(
    "calculator",
    "Evaluates an arithmetic expression.",
    {
        "type": "object",
        "properties": {"expression": {"type": "string", "description": "for example 12*7"}},
        "required": ["expression"],
    },
)

# ---- how it is declared --------------------------------------------------------------------------

# the only one: a model of this size that saw six names called the commonest, whichever was declared
_NAME = "calculator"


@dataclass(frozen=True)
class Declared:
    """A calculator as some application declares it: the function, and how its arguments and answers
    look.
    """

    function: FunctionTool
    keys: tuple[str, ...]  # ("expression",) or the names of two operands and the operator
    style: str  # of results: see `_shown`

    @property
    def takes_one_operation(self) -> bool:
        return len(self.keys) == 3

    def arguments(self, expr: Op, spaced: bool) -> str:
        """The JSON text of a call for `expr`."""
        if not self.takes_one_operation:
            space = " " if spaced else ""
            key = self.keys[0]
            return json.dumps({key: text(expr, space)})
        first, second, sign = self.keys
        names = _OPERAND_KEYS[first, second, sign]
        left = value(expr.left)
        right = value(expr.right)
        return json.dumps({first: left, second: right, sign: names[expr.sign]})


def declare(rng: Random, two_steps: bool) -> Declared:
    """One of many declarations of a calculator; one that takes whole expressions if `two_steps`."""
    description = rng.choice(WORDS["descriptions"])
    style = pick(rng, WORDS["styles"])
    if not two_steps and rng.random() < 0.08:
        properties = _operands(rng)
    else:
        properties = _whole_expression(rng)
    function = FunctionTool(_NAME, description, _object_schema(properties))
    return Declared(function, tuple(properties), style)


def _object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """An object whose properties are all required."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _operands(rng: Random) -> dict[str, Any]:
    """Properties of a calculator that takes one operation: two numbers and a sign."""
    shapes = tuple(_OPERAND_KEYS)
    shape = rng.choice(shapes)
    names = _OPERAND_KEYS[shape].values()
    number = {"type": "integer" if rng.random() < 0.5 else "number"}
    first, second, sign = shape
    return {first: number, second: number, sign: {"type": "string", "enum": list(names)}}


def _whole_expression(rng: Random) -> dict[str, Any]:
    """The one property of a calculator that takes a whole expression."""
    key, *others = EXPRESSION_KEYS
    if rng.random() >= 0.93:
        key = rng.choice(others)
    schema = {"type": "string"}
    note = rng.choice(WORDS["notes"])
    if note:
        schema["description"] = note
    return {key: schema}


def with_others(rng: Random, own: Tool) -> tuple[Tool, ...]:
    """The calculator alone, or among one or two tools that have nothing to do with arithmetic."""
    if rng.random() < 0.75:
        return (own,)
    count = 1 if rng.random() < 0.7 else 2
    tools = [own]
    for name, description, key in rng.sample(WORDS.rows("others"), count):
        schema = _object_schema({key: {"type": "string"}})
        function = FunctionTool(name, description, schema)
        tools.append(Tool(function, _unavailable))
    rng.shuffle(tools)
    return tuple(tools)


def _unavailable(arguments: str) -> str:
    return "error: not available"


# ---- how it answers ------------------------------------------------------------------------------

FAILED = "The calculator failed, so I have no result."


def _shown(number: int | float, style: str, expression: str) -> str:
    """A result as tools return it."""
    match style:
        case "float":
            return str(float(number))
        case "result" | "value" | "answer":
            return json.dumps({style: number})
        case "equation":
            return f"{expression} = {number}"
        case "words":
            return f"The result is {number}."
        case _:
            return str(number)


def _run(style: str, off_by: int, error: str, name: str, arguments: str) -> str:
    """The answer of a problem's tool: the value in its style, off by `off_by`, or an error."""
    if error:
        return error
    try:
        expression = expression_of(name, arguments)
        return _shown(evaluate(expression) + off_by, style, expression)
    except ToolError as problem:
        return f"error: {problem}"


def _asked_value(name: str, arguments: str) -> int | None:
    try:
        expression = expression_of(name, arguments)
        number = evaluate(expression)
    except ToolError:
        return None
    whole = int(number)
    return whole if number == whole else None


# ---- the task ------------------------------------------------------------------------------------

_LARGE_SIGNS: tuple[Sign, ...] = ("+", "-", "*", "*", "+", "-", "/")
_OFF_BY = (-30, -10, -7, -3, -2, -1, 1, 2, 3, 5, 10, 25, 100)


def draw_large(rng: Random, split: Split) -> Op:
    """One or two operations on numbers of up to six digits."""
    while True:
        expr = _large_operation(rng)
        if rng.random() < 0.3:
            sign = rng.choice(_LARGE_SIGNS[:3])
            before = rng.random() < 0.7
            number = _large(rng)
            if before:
                expr = Op(sign, expr, number)
            else:
                expr = Op(sign, number, expr)
        if abs(value(expr)) < LARGEST and in_split(expr, split):
            return expr


def _large_operation(rng: Random) -> Op:
    sign = rng.choice(_LARGE_SIGNS)
    a = _large(rng)
    b = _large(rng)
    if sign == "/":
        divisor = b % 100 + 2
        return Op("/", a * divisor, divisor)
    return Op(sign, a, b)


def _large(rng: Random) -> int:
    digits = rng.choice((1, 2, 2, 3, 3, 3, 4, 4, 5, 6))
    smallest = 10 ** (digits - 1)
    return rng.randrange(smallest, 10 * smallest)


def call_thoughts(expr: Expr, effort: Effort) -> str:
    said = text(expr)
    match effort:
        case Effort.LOW:
            return "I should use the calculator."
        case Effort.MEDIUM:
            return f"This is {said}. I should use the calculator."
        case Effort.HIGH:
            offered = "A calculator is offered, so I should use the calculator."
            return f"The user asks for {said}. {offered}"


def result_thoughts(seen: int | None, effort: Effort) -> str:
    said = "The calculator failed."
    if seen is not None:
        said = f"The calculator says {seen}."
    match effort:
        case Effort.LOW:
            return ""
        case Effort.MEDIUM:
            return said
        case Effort.HIGH:
            return f"{said} I answer with that."


def calculator_turn(
    expr: Op,
    user: str,
    declared: Declared,
    final: str = "",
    spaced: bool = False,
    off_by: int = 0,
    error: str = "",
) -> tuple[Turn, Expect, Callable[[str], str]]:
    """A turn that calls the calculator for `expr`, its expectation, and the tool to run.

    `final` is the sentence to answer with, {r} being the result; the equation by default.
    """
    name = declared.function.name
    run = partial(_run, declared.style, off_by, error, name)
    arguments = declared.arguments(expr, spaced)
    call = Call(name, arguments, run(arguments))
    true_value = value(expr)
    seen = None
    contains = None
    if error:
        contains = "calculator failed"
        said = FAILED
    else:
        seen = true_value + off_by
        frame = final or f"{text(expr)} = {{r}}"
        said = frame.format(r=seen)
    think = partial(call_thoughts, expr)
    review = partial(result_thoughts, seen)
    turn = Turn(user, said, think, call, review)
    expect = Expect(seen, contains, calls=True, value=true_value, evaluate=_asked_value)
    return turn, expect, run


def draw_error(rng: Random) -> str:
    """What a calculator that is down answers."""
    return rng.choice(WORDS["errors"])


def draw_for_calculator(rng: Random, split: Split, one_operation: bool = False) -> Op:
    while True:
        kind = rng.random()
        if kind < 0.45:
            expr = draw_one_step(rng, split)
        elif kind < 0.6:
            expr = draw_two_steps(rng, split)
        else:
            expr = draw_large(rng, split)
        if not one_operation or not _has_two_steps(expr):
            return expr


def _has_two_steps(expr: Op) -> bool:
    return isinstance(expr.left, Op) or isinstance(expr.right, Op)


def calculator_use(rng: Random, split: Split) -> Problem:
    """A question about arithmetic with a calculator on offer."""
    if rng.random() < 0.15:
        user, expr, final, _ = draw_story(rng, split)
    else:
        expr = draw_for_calculator(rng, split)
        user = ask(rng, expr)
        final = ""
    declared = declare(rng, _has_two_steps(expr))
    luck = rng.random()
    error = ""
    off_by = 0
    if luck < 0.03:
        error = draw_error(rng)
    elif luck < 0.08:
        off_by = rng.choice(_OFF_BY)
    spaced = rng.random() < 0.15
    turn, expect, run = calculator_turn(expr, user, declared, final, spaced, off_by, error)
    own = Tool(declared.function, run)
    tools = with_others(rng, own)
    return Problem("calculator", split, (turn,), expect, tools)
