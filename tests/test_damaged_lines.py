"""Files of lines that we write and read again, damaged: each is read, or refused with its name."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from amounts import seeds
from hostile_bodies import mutate

from ossia.commands.main import main
from ossia.errors import DataError
from ossia.harmony import Effort
from ossia.tasks.environment import Outcome
from ossia.tasks.external import read_task

Lines = list[dict[str, Any]]
ODD_BYTES = (b"", b"\xff", b"}", b"[" * 5000, b"\x00", b"\n", b"NaN", b"1e999", b"\xef\xbb\xbf")


def sample(index: int) -> dict[str, Any]:
    piece = {"text": "Hi", "sampled": True, "tokens": [1, 2], "logprobs": [-0.5, -0.1]}
    return {
        "step": 0,
        "group": 0,
        "index": index,
        "task": "sums",
        "about": {"size": 3},
        "arm": "sums/low",
        "effort": "low",
        "version": 0,
        "seed": 1,
        "segments": [{"prompt": "asked", "prompt_tokens": [9], "pieces": [piece]}],
        "analysis": "thought",
        "final": "answer",
        "calls": [],
        "reason": "stop",
        "reward": index / 4,
        "graded": index / 4,
        "parts": {"right": 1.0},
        "correct": index == 1,
        "why": "",
        "advantage": index / 4,
        "counts": {"sampled": 2, "analysis": 1, "calls": 0},
    }


def answer(question: int, repeat: int) -> dict[str, Any]:
    return {
        "question": str(question),
        "digest": "abc",
        "group": "",
        "effort": "low",
        "repeat": repeat,
        "kind": "right",
        "score": 1.0,
        "answer": "3",
        "why": "",
        "reason": "stop",
        "tokens": 5,
        "reasoning": 2,
        "prompt": 9,
        "calls": [{"recipient": "python", "arguments": "1", "result": "1"}],
        "final": "3",
    }


HEADER = {
    "ossia_eval": 1,
    "suite": "aime",
    "model": "nano",
    "settings": {"seed": 0, "temperature": 1.0},
    "left_out": {"a": 1},
}
ROLLOUTS: Lines = [sample(index) for index in range(3)]
ANSWERS: Lines = [HEADER, *(answer(n, repeat) for n in range(2) for repeat in range(2))]
TASKS: Lines = [
    {"prompt": "What is 1+1?", "answer": "2", "about": {"size": 1}},
    {"prompt": [{"role": "user", "content": "Hi"}], "answer": [3, "4"], "instructions": "Be."},
]


def damaged(lines: Lines, rng: random.Random) -> bytes:
    lines = copy.deepcopy(lines)
    for _ in range(rng.choice((1, 1, 2, 3))):
        line = rng.choice(lines)
        if line:
            mutate(line, rng)
    data = written(lines)
    if rng.random() < 0.25:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.choice(ODD_BYTES) + data[at + 1 :]
    return data


def written(lines: Lines) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def told(capsys: pytest.CaptureFixture[str], path: Path, *words: str) -> int:
    """The status; where it is that of a wrong file, the file is named."""
    try:
        status = main([*words])
    except SystemExit as nothing_found:
        status = 0 if nothing_found.code == 1 else 99
    said = capsys.readouterr().err
    assert status == 0 or (status == 2 and path.name in said and "Traceback" not in said), said
    return status


def read_by(kind: str, path: Path, capsys: pytest.CaptureFixture[str]) -> list[int]:
    if kind == "rollouts":
        ways = (
            ["show", str(path)],
            ["stats", str(path), "--by", "effort"],
            ["grep", "a", str(path)],
        )
        return [told(capsys, path, "rollouts", *way) for way in ways]
    ways = (["--failures", "2"], ["--json"])
    return [told(capsys, path, "eval", "--results", str(path), *way) for way in ways]


@pytest.mark.parametrize(("kind", "lines"), [("rollouts", ROLLOUTS), ("answers", ANSWERS)])
def test_files_of_runs(
    kind: str, lines: Lines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(written(lines))
    assert set(read_by(kind, path, capsys)) == {0}
    refused = 0
    for seed in seeds(80):
        path.write_bytes(damaged(lines, random.Random(seed)))
        refused += 2 in read_by(kind, path, capsys)
    assert refused > 5


def test_files_of_tasks(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    refused = 0
    for seed in seeds(200):
        path.write_bytes(damaged(TASKS, random.Random(seed)))
        try:
            task = read_task(rows=path)
        except DataError as error:
            assert path.name in str(error)
            refused += 1
            continue
        for number in range(len(task.rows)):
            ask = task.ask(number, Effort.LOW)
            environment = ask.environment()
            assert environment.prompt(Effort.LOW)
            environment.reward(Outcome("2"))
            json.dumps(dict(ask.about))
    assert refused > 10
