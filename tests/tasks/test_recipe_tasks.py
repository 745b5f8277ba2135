"""The full recipe's tasks: what holds for each of them, whatever it is about."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

import pytest

from ossia.harmony import (
    Conversation,
    DeveloperContent,
    Effort,
    Message,
    Role,
    SystemContent,
    render_for_training,
)
from ossia.tasks import (
    Call,
    Problem,
    Split,
    example_random,
    grade,
    of_kind,
    problems,
)
from ossia.tasks.long.state import state_text
from ossia.tasks.machine.programs import machine_text
from ossia.tasks.machine.tool_use import tools_text
from ossia.tasks.numbers.expressions import Expr, Op, Sign, is_trained, operation_split
from ossia.tasks.problem import call_is_valid
from ossia.tasks.puzzles.all import puzzle_text
from ossia.tokenizer import HARMONY_WORDS, Tokenizer, train_tokenizer

RECIPE_TASKS = of_kind("recipe")
EVAL_TASKS = ["policy jailbreak"]  # never to be trained on
RECIPE_TEXTS = {
    "puzzles": puzzle_text,
    "state": state_text,
    "machine": machine_text,
    "tools": tools_text,
}
BOTH: tuple[Split, ...] = ("train", "held_out")
HELD_OUT_TOO = [(task, split) for task in RECIPE_TASKS for split in BOTH] + [
    (task, "held_out") for task in EVAL_TASKS
]
EQUATION = re.compile(
    r"(?<![\d+\-*/.] )(?<![\d+\-*/).])(-?\d+) ?([+*/-]) ?(\d+) ?= ?-?\d+(?![\d.])"
)
SIGNED = r"\(?-?\d+\)? ?[+*/-] ?\(?-?\d+\)?"
THREE_TERMS = re.compile(rf"(?<![\d+*/)-] )(?<![\d+*/()-])({SIGNED} ?[+*/-] ?\(?\d+\)?) ?= ?-?\d")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(
        [text(example_random(0, "t", 0)) for text in RECIPE_TEXTS.values()],
        400,
        words=HARMONY_WORDS,
    )


def written(problem: Problem, effort: Effort = Effort.HIGH) -> list[str]:
    """Everything that a model reads or writes in a problem, each message apart."""
    texts = []
    for message in problem.prompt(effort) + problem.solution(effort):
        for part in message.parts:
            if isinstance(part, DeveloperContent):
                texts.append(part.instructions or "")
            elif isinstance(part, SystemContent):
                texts.append(part.identity or "")
            else:
                texts.append(part)
    return texts


@pytest.mark.parametrize(("task", "split"), HELD_OUT_TOO)
def test_gold_scores_one_at_every_effort(task: str, split: Split) -> None:
    for problem in problems(task, 120, seed=1, split=split):
        assert problem.split == split and problem.task == task
        for effort in Effort:
            messages = problem.solution(effort)
            assert messages[-1].channel == "final" and messages[-1].text == problem.answer
            assert messages[0].channel == "analysis" and messages[0].text
            assert grade(problem, messages[-1].text, problem.gold_calls) == 1.0


@pytest.mark.parametrize("task", list(RECIPE_TASKS))
def test_running_the_tools_again_gives_the_recorded_results(task: str) -> None:
    """From the messages, as a rollout would."""
    for problem in problems(task, 120, seed=2, split="train"):
        tools = {tool.function.name: tool for tool in problem.tools}
        messages = problem.solution(Effort.MEDIUM)
        made = [
            message for message in messages if message.role is Role.ASSISTANT and message.recipient
        ]
        results = [message.text for message in messages if message.role is Role.TOOL]
        names = [str(message.recipient).removeprefix("functions.") for message in made]
        calls = [Call(n, m.text, tools[n].run(m.text)) for n, m in zip(names, made, strict=True)]
        assert [call.result for call in calls] == results
        assert tuple(calls) == problem.gold_calls and all(
            call_is_valid(problem, call) for call in calls
        )
        assert grade(problem, problem.answer, calls) == 1.0


@pytest.mark.parametrize("task", [*RECIPE_TASKS, *EVAL_TASKS])
def test_wrong_answers_score_zero(task: str) -> None:
    for problem in problems(task, 120, seed=3):
        wrong = ["", "I do not know.", "The answer is 123456789.", "That is wrong."]
        if problem.expect.number is not None:
            wrong.append(
                problem.answer.replace(str(problem.expect.number), str(problem.expect.number + 1))
            )
        if problem.expect.equals is not None:
            wrong += [f"{problem.answer}x", f"{problem.answer} {problem.answer.split()[-1]}"]
        if problem.expect.contains is not None:
            wrong.append(
                re.sub(
                    re.escape(problem.expect.contains), "something else", problem.answer, flags=re.I
                )
            )
        for answer in wrong:
            assert grade(problem, answer, problem.gold_calls) == 0.0, (problem, answer)


@pytest.mark.parametrize("task", list(RECIPE_TASKS))
def test_wrong_calls_score_zero(task: str) -> None:
    for problem in problems(task, 100, seed=4):
        calls = problem.gold_calls
        if not calls:
            assert (
                grade(problem, problem.answer, (Call("run", '{"program": "push 1; print"}', "1"),))
                == 0.0
            )
            continue
        assert grade(problem, problem.answer, ()) == 0.0
        assert grade(problem, problem.answer, calls[:-1]) == 0.0
        broken = replace(calls[-1], arguments=calls[-1].arguments[:-1])
        assert grade(problem, problem.answer, (*calls[:-1], broken)) == 0.0
        other = replace(calls[-1], name="send_mail")
        assert grade(problem, problem.answer, (*calls[:-1], other)) == 0.0
        if len(set(calls)) > 1 and len(problem.expect.values) > 1:
            assert grade(problem, problem.answer, calls[::-1]) == 0.0


@pytest.mark.parametrize("task", list(RECIPE_TASKS))
def test_examples_are_pure_functions_of_their_index(task: str) -> None:
    first = [p.prompt() + p.solution(Effort.HIGH) for p in problems(task, 40, seed=5)]
    again = [p.prompt() + p.solution(Effort.HIGH) for p in problems(task, 20, seed=5, start=20)]
    assert first[20:] == again
    assert first != [p.prompt() + p.solution(Effort.HIGH) for p in problems(task, 40, seed=6)]


@pytest.mark.parametrize("name", list(RECIPE_TEXTS))
def test_documents_are_pure_functions_of_their_seed(name: str) -> None:
    make = RECIPE_TEXTS[name]
    texts = [make(example_random(7, name, i)) for i in range(60)]
    assert texts == [make(example_random(7, name, i)) for i in range(60)]
    assert len(set(texts)) > 50 and all(text.strip() and text.isascii() for text in texts)


@pytest.mark.parametrize("task", list(RECIPE_TASKS))
def test_prompts_of_the_splits_do_not_meet(task: str) -> None:
    train, held_out = (
        {
            " | ".join(written(p)[: -len(p.solution(Effort.HIGH))])
            for p in problems(task, 500, split=split)
        }
        for split in BOTH
    )
    assert not train & held_out
    assert len(train) > 300 and len(held_out) > 200


@pytest.mark.parametrize("name", list(RECIPE_TEXTS))
def test_documents_hold_no_held_out_question(name: str) -> None:
    asked = {problem.turns[-1].user for problem in problems(name, 300, split="held_out")}
    for i in range(300):
        text = RECIPE_TEXTS[name](example_random(8, name, i))
        assert not asked & set(text.split("\n"))


def parsed(node: ast.expr) -> Expr:
    if isinstance(node, ast.Constant):
        return int(node.value)
    if isinstance(node, ast.UnaryOp):
        return -int(ast.unparse(node.operand))
    assert isinstance(node, ast.BinOp)
    signs: dict[type, Sign] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
    return Op(signs[type(node.op)], parsed(node.left), parsed(node.right))


def assert_only_trained_equations(texts: list[str]) -> None:
    """Single operations, and expressions of two, which the arithmetic task asks for as well."""
    for text in texts:
        for expr in THREE_TERMS.findall(text):
            assert is_trained(parsed(ast.parse(expr, mode="eval").body)), text
        for a, sign, b in EQUATION.findall(text):
            assert operation_split(sign, int(a), int(b)) == "train", text


@pytest.mark.parametrize("task", list(RECIPE_TASKS))
def test_training_problems_write_no_equation_that_arithmetic_holds_out(task: str) -> None:
    for problem in problems(task, 150, split="train"):
        for effort in Effort:
            answers = [
                message.text
                for message in problem.solution(effort)
                if message.role is Role.ASSISTANT
            ]
            # its final text is a chain, longer than any held-out one
            chain = problem.about.get("form") == "chain"
            assert_only_trained_equations(
                [text for text in answers if not chain or text != problem.answer]
            )


@pytest.mark.parametrize("name", ["state", "machine", "tools"])
def test_documents_write_no_equation_that_arithmetic_holds_out(name: str) -> None:
    for i in range(150):
        assert_only_trained_equations([RECIPE_TEXTS[name](example_random(9, name, i))])


def test_puzzle_documents_write_no_equation_that_arithmetic_holds_out() -> None:
    for i in range(150):
        for line in RECIPE_TEXTS["puzzles"](example_random(9, "puzzles", i)).split("\n"):
            if (
                len(re.findall(r"\d [+-] \d", line)) < 3
            ):  # chains of four terms and more are no arithmetic questions
                assert_only_trained_equations([line])


@pytest.mark.parametrize("task", [*RECIPE_TASKS, *EVAL_TASKS])
def test_conversations_render_for_training(task: str, tokenizer: Tokenizer) -> None:
    for problem in problems(task, 10):
        for effort in Effort:
            system = SystemContent(effort=effort)
            messages: tuple[Message, ...] = problem.prompt(effort, system) + problem.solution(
                effort
            )
            rendered = render_for_training(Conversation(messages), tokenizer, last_turn_only=True)
            text = tokenizer.decode(rendered.ids)
            learned = tokenizer.decode(
                [i for i, is_target in zip(rendered.ids, rendered.mask, strict=True) if is_target]
            )
            assert (
                learned.endswith(f"{problem.answer}<|return|>") and f"Reasoning: {effort}" in text
            )
            for call in problem.gold_calls:
                assert call.arguments in learned and call.result in text
            if problem.system:
                assert f"\n{problem.system}\n" in text.split("<|message|>")[1]  # the system message


def test_a_system_instruction_needs_no_system_message_of_the_caller() -> None:
    problem = replace(problems("puzzles", 1)[0], system="Be brief.")
    alone, given = (
        problem.prompt(Effort.HIGH)[0],
        problem.prompt(Effort.HIGH, SystemContent(identity=None))[0],
    )
    assert isinstance(alone.content, SystemContent) and alone.content.effort is Effort.HIGH
    assert alone.content.identity is not None and alone.content.identity.endswith("\nBe brief.")
    assert isinstance(given.content, SystemContent) and given.content.identity == "Be brief."


@pytest.mark.parametrize("task", list(RECIPE_TASKS))
def test_what_reports_group_by_is_not_shown(task: str) -> None:
    """`about` is a side note: two problems that differ in it alone have the same prompt and the
    same grade.
    """
    problem = problems(task, 1)[0]
    other = replace(problem, about={"note": "zzz"})
    assert problem.about and other.prompt() == problem.prompt()
    assert grade(other, other.answer, other.gold_calls) == 1.0
