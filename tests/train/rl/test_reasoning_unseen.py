"""No reward and no gradient depends on what reasoning says.

Of a sample, training knows its tokens and one number. The number is a function of the final text,
the calls and how many tokens there were: by type, and measured with noise in place of reasoning.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch

import ossia
from ossia.evals.questions import Answered
from ossia.harmony import Effort, Message, is_call
from ossia.judges import Judge, Material
from ossia.tasks import REGISTRY, problems
from ossia.tasks.effort import PRICES
from ossia.tasks.environment import Counts, Environment, Outcome, Reward, static
from ossia.tasks.external import read_task
from ossia.tasks.problem import Call
from ossia.train.rl.batches import packed
from ossia.train.rl.objectives import Sampled, token_losses
from ossia.train.rl.policy import Policy
from ossia.train.rl.settings import Loss, Objective, Sampling
from ossia.train.rl.worth import lessons, valued
from ossia.turn.record import Piece, Segment
from ossia.turn.rollout import Sample

SAMPLES = 1_000
COUNTS = Counts(prompt=40, sampled=30, analysis=20, turns=1)


def noise(rng: Random, count: int = 60) -> str:
    return "".join(chr(rng.randrange(32, 0x2FA0)) for _ in range(count))


def with_noise(rng: Random, messages: Sequence[Message]) -> list[Message]:
    """Every thought is another text; a call, wherever it stands, is what the model did."""
    return [
        replace(m, content=noise(rng)) if m.channel == "analysis" and not is_call(m) else m
        for m in messages
        if m.channel is not None
    ]


def mangled(rng: Random, messages: Sequence[Message]) -> list[Message]:
    """The right answer, or one that is not."""
    last = messages[-1]
    wrong = (last.text, f"{last.text} 17", "I can't help with that.", last.text[::-1], "")
    return [*messages[:-1], replace(last, content=rng.choice(wrong))]


# ---- rewards -------------------------------------------------------------------------------------


def environments(folder: Path) -> list[tuple[Environment, Effort]]:
    each = SAMPLES // len(REGISTRY) + 1
    found: list[tuple[Environment, Effort]] = []
    for task in REGISTRY:
        for number, problem in enumerate(problems(task, each, seed=11)):
            found.append((static(problem), list(Effort)[number % 3]))
    rows = folder / "rows.jsonl"
    rows.write_text('{"prompt": "What is 17 + 25?", "answer": 42}\n' * 40)
    code = folder / "reward.py"
    code.write_text("def reward(row, outcome):\n    return str(row['answer']) in outcome.final\n")
    for task in (read_task(rows), read_task(rows, code)):
        for number in range(40):
            found.append((task.ask(number, Effort.HIGH).environment(), Effort.HIGH))
    return found


def test_noise_in_place_of_reasoning_changes_no_reward(tmp_path: Path) -> None:
    rng = Random(3)
    rewards: list[Reward] = []
    thoughts = 0
    for environment, effort in environments(tmp_path):
        gold = environment.gold(effort)
        assert gold is not None
        answer = mangled(rng, gold)
        thoughts += sum(m.channel == "analysis" and not is_call(m) for m in answer)
        reward = environment.reward(Outcome.of(answer, "stop", COUNTS))
        for _ in range(2):
            noisy = with_noise(rng, answer)
            assert environment.reward(Outcome.of(noisy, "stop", COUNTS)) == reward
        without = [m for m in answer if m.channel != "analysis" or is_call(m)]
        if not any(is_call(m) and m.channel == "analysis" for m in answer):
            assert environment.reward(Outcome.of(without, "stop", COUNTS)) == reward
        rewards.append(reward)
    assert len(rewards) >= SAMPLES and thoughts >= SAMPLES
    right = sum(reward.correct is True for reward in rewards)
    assert 100 < right < len(rewards) - 100  # both kinds of answers were graded


# ---- types ---------------------------------------------------------------------------------------

PLAIN = {str, int, float, bool, bytes, type(None), Any}
SEEN = (Outcome, Call, Counts, Material, Answered)


def kinds_in(hint: Any) -> set[Any]:
    """The types that a hint is made of."""
    if get_origin(hint) is Literal:
        return {str}
    inner = [one for one in get_args(hint) if one is not Ellipsis]
    if inner:
        return set().union(*map(kinds_in, inner))
    return set() if hint is UnionType else {hint}


@pytest.mark.parametrize("seen", SEEN)
def test_what_graders_see_has_no_place_for_reasoning(seen: type) -> None:
    """Plain values, and each other: no message, no conversation, no sample, no tokens."""
    hints = get_type_hints(seen)
    for field in dataclasses.fields(seen):
        assert kinds_in(hints[field.name]) <= PLAIN | set(SEEN), field.name
        assert "analysis" not in field.name or seen is Counts
    assert get_type_hints(Counts)["analysis"] is int


@pytest.mark.parametrize(
    ("grader", "sees"),
    [
        (Environment.reward, {Outcome}),
        (Environment.next, {Outcome}),
        (Judge.reward, {str, Outcome}),
        (Judge.verdict, {Material}),
    ],
)
def test_graders_are_given_nothing_else(grader: Callable[..., Any], sees: set[type]) -> None:
    hints = get_type_hints(grader)
    names = [name for name in inspect.signature(grader).parameters if name != "self"]
    assert set().union(*(kinds_in(hints[name]) for name in names)) == sees


LEAKS = """
from ossia.harmony import Message
from ossia.judges import Judge, Material
from ossia.tasks.environment import Environment, Outcome
from ossia.turn.rollout import Sample

def leak(judge: Judge, environment: Environment, sample: Sample, messages: list[Message]) -> None:
    judge.reward("asked", sample)
    judge.reward("asked", messages)
    environment.reward(sample)
    Material("asked", messages)
    Outcome("final", analysis="thoughts")
    sample.outcome.analysis
    judge.reward("asked", sample.outcome)
"""


@pytest.mark.slow
def test_mypy_refuses_to_show_reasoning(tmp_path: Path) -> None:
    """Every line but the last is an error."""
    file = tmp_path / "leaks.py"
    file.write_text(LEAKS)
    words = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", str(file)]
    where = {"MYPYPATH": str(Path(ossia.__file__).parent.parent), "PATH": os.environ["PATH"]}
    found = subprocess.run(words, capture_output=True, text=True, env=where)
    lines = LEAKS.split("\n")
    wrong = {int(line.split(":")[1]) for line in found.stdout.splitlines() if "leaks.py:" in line}
    first = lines.index('    judge.reward("asked", sample)') + 1
    assert wrong == set(range(first, first + 6)), found.stdout


def test_nothing_but_a_report_reads_what_the_monitor_finds() -> None:
    source = Path(ossia.__file__).parent
    readers = set()
    for path in source.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "monitors" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and "monitors" in (node.module or ""):
                readers.add(path.relative_to(source).as_posix())
    assert readers == {"commands/training/rollouts.py"}


# ---- gradients -----------------------------------------------------------------------------------


def group(rewards: Sequence[float], think: Mapping[int, Sequence[int]]) -> list[Sample]:
    """Samples with 12 tokens of thought and 4 of answer; `think`: of each, its thoughts."""
    found = []
    for index, worth in enumerate(rewards):
        ids = (*think[index], 201, 202, 203, 204)
        piece = Piece(ids, tuple(-0.5 for _ in ids))
        counts = Counts(prompt=3, sampled=16, analysis=12, turns=1)
        outcome = Outcome(f"answer {worth}", (), "stop", counts)
        segments = (Segment((1, 2, 3), (piece,)),)
        reward = Reward(worth, {}, worth == 1.0)
        found.append(Sample(0, index, 0, Effort.LOW, segments, outcome, reward))
    return found


def slopes(samples: Sequence[Sample], loss: Loss, now: np.ndarray) -> np.ndarray:
    """Of the step's loss by each token's log-probability."""
    objective = Objective(loss=loss)
    batch = packed(lessons([valued(samples, objective, PRICES)]))
    assert batch is not None
    ready = Policy(objective, Sampling()).prepare(batch)
    assert ready is not None
    streams = {name: torch.tensor(values) for name, values in ready.streams.items()}
    now_R = torch.tensor(now, requires_grad=True)
    ones_R = torch.ones_like(now_R)
    sampled = Sampled(
        now_R,
        streams["behaviour"],
        streams["advantage"],
        streams["keep"],
        ones_R,
        torch.tensor(ready.streams["sequence"]),
    )
    (streams["weight"] * token_losses(loss, sampled)).sum().backward()
    assert now_R.grad is not None
    return now_R.grad.numpy()


@pytest.mark.parametrize("loss", ["reinforce", "clip", "gspo", "cispo"])
def test_other_thoughts_of_the_same_length_have_the_same_gradient(loss: Loss) -> None:
    """By the log-probabilities of the tokens: which tokens they are makes no difference."""
    rng = Random(1)
    rewards = (1.0, 0.0, 1.0, 0.0, 0.0)
    now = np.asarray([-0.5 + 0.01 * rng.random() for _ in range(16 * len(rewards))], np.float32)
    found = []
    for _ in range(10):
        think = {n: [rng.randrange(4, 200) for _ in range(12)] for n in range(len(rewards))}
        found.append(slopes(group(rewards, think), loss, now))
    assert all(np.array_equal(found[0], other) for other in found[1:])
    assert np.abs(found[0]).max() > 0


def test_only_how_much_was_thought_is_paid_for() -> None:
    rng = Random(2)
    think = {n: [rng.randrange(4, 200) for _ in range(12)] for n in range(2)}
    samples = group((1.0, 0.0), think)
    counts = replace(samples[0].counts, analysis=40)
    longer = replace(samples[0], outcome=replace(samples[0].outcome, counts=counts))
    short, _ = valued(samples, Objective(), PRICES)
    long, _ = valued([longer, samples[1]], Objective(), PRICES)
    assert short.reward is not None and long.reward is not None and short.reward > long.reward
