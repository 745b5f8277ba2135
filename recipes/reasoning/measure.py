"""What weights can do on held-out problems: several answers to each at every effort, as plain rows.

Knows the sampler of reinforcement learning and the task; no statistics.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from ossia.files import replace_file
from ossia.harmony import Effort
from ossia.model import Transformer
from ossia.tasks.answers import last_integer
from ossia.tasks.environment import Ask, ask_problem
from ossia.tasks.long.state import state_tracking
from ossia.tasks.problem import Problem
from ossia.tokenizer import Tokenizer
from ossia.train.rl.sampler import Sampler
from ossia.train.rl.settings import Sampling
from ossia.turn import stop_ids
from ossia.turn.rollout import Sample


@dataclass(frozen=True)
class Row:
    """One answer. `problem` is the same number at every effort and for every model. `thoughts`:
    tokens of analysis. `grain`: how finely it was worked out, "" for none that is known.
    """

    problem: int
    k: int
    effort: str
    index: int
    right: bool
    answer: int | None
    thoughts: int
    sampled: int
    grain: str
    reason: str


def grain_of(analysis: str) -> str:
    """Of an analysis, by how it begins: the answer, every third state, or every step."""
    if analysis.startswith("x = "):
        return Effort.LOW.value
    if analysis.startswith("after "):
        return Effort.MEDIUM.value
    return Effort.HIGH.value if analysis.startswith("1 ") else ""


def held_out(kind: str, ks: Sequence[int], each: int, seed: int = 0) -> list[Problem]:
    """`each` tracks of every length."""
    found = []
    for k in ks:
        for number in range(each):
            rng = Random(f"{seed}:measured:{kind}:{k}:{number}")
            found.append(state_tracking(rng, "held_out", k, kind))
    return found


def asks_of(problems: Sequence[Problem], seed: int = 0) -> list[Ask]:
    """Each at every effort."""
    found: list[Ask] = []
    for problem in problems:
        for effort in Effort:
            draws = Random(f"{seed}:draws:{len(found)}").getrandbits(31)
            found.append(ask_problem(problem, effort, group=len(found), seed=draws))
    return found


def measure(
    model: Transformer,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    samples: int,
    settings: Sampling,
) -> Iterator[Row]:
    """Rows in the order of problems, efforts and samples."""
    asks = asks_of(problems)
    sampler = Sampler(model, tokenizer, stop_ids(tokenizer), settings)
    try:
        groups = sampler.draw(asks, samples, version=0)
    finally:
        sampler.close()
    efforts = len(Effort)
    for ask, group in zip(asks, groups, strict=True):
        for sample in group:
            yield row_of(ask.group // efforts, int(ask.about["k"]), sample)


def row_of(problem: int, k: int, sample: Sample) -> Row:
    thoughts = [m.text for m in sample.messages if m.channel == "analysis"]
    return Row(
        problem=problem,
        k=k,
        effort=str(sample.effort),
        index=sample.index,
        right=sample.reward.correct is True,
        answer=last_integer(sample.outcome.final),
        thoughts=sample.counts.analysis,
        sampled=sample.counts.sampled,
        grain=grain_of(thoughts[0] if thoughts else ""),
        reason=sample.reason,
    )


def write(rows: Sequence[Row], path: Path) -> None:
    text = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text)


def read(path: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
