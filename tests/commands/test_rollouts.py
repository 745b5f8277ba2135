"""`ossia rollouts` on the files of a small run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ossia.commands.main import main
from ossia.train.rl.record import write


def sample(step: int, group: int, index: int, **changes: Any) -> dict[str, Any]:
    text = f"<|channel|>final<|message|>answer {index}<|return|>"
    piece = {"text": text, "sampled": True, "tokens": [1, 2], "logprobs": [-0.5, -0.1]}
    told = {"text": "told by a tool", "sampled": False, "tokens": [3], "logprobs": None}
    line: dict[str, Any] = {
        "step": step,
        "group": group,
        "index": index,
        "task": "sums",
        "about": {},
        "arm": "sums/low",
        "effort": "low",
        "version": step,
        "seed": 1,
        "segments": [{"prompt": "asked", "prompt_tokens": [9], "pieces": [piece, told]}],
        "analysis": f"thought {index}",
        "final": f"answer {index}",
        "calls": [],
        "reason": "stop",
        "reward": index / 4,
        "graded": index / 4,
        "parts": {},
        "correct": index == 3,
        "why": "",
        "advantage": index / 4 - 0.375,
        "counts": {"sampled": 2, "analysis": 1, "calls": 0},
    }
    return line | changes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in range(2):
        lines = [sample(step, group, index) for group in range(2) for index in range(4)]
        lines[1] |= {"reward": None, "graded": None, "why": "the tool died", "reason": "failed"}
        write(tmp_path / "run" / "train", step, lines)
    return tmp_path / "run"


def out_of(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["rollouts", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_show_prints_samples_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = out_of(capsys, "show", run)
    assert shown.count("asked<|channel|>final<|message|>answer") == 3
    assert "told by a tool" in shown
    assert "1.0.0  sums (low)  reward 0" in shown
    assert "why: the tool died" in shown
    best = out_of(capsys, "show", run, "--best", "--count", 1, "--json")
    assert json.loads(best)["index"] == 3
    one = out_of(capsys, "show", run, "--step", 0, "--group", 1, "--count", 9, "--json")
    assert [json.loads(line)["group"] for line in one.splitlines()] == [1] * 4


def test_stats_are_means(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in out_of(capsys, "stats", run, "--json").splitlines()]
    assert [row["step"] for row in rows] == ["0", "1"]
    assert rows[0]["samples"] == 8
    assert rows[0]["reward"] == pytest.approx((0 + 0.5 + 0.75 + 1.5) / 7)
    assert rows[0]["ungraded"] == 1 / 8
    table = out_of(capsys, "stats", run, "--by", "reason").splitlines()
    assert table[0].split()[:3] == ["reason", "samples", "reward"]
    assert {line.split()[0] for line in table[1:]} == {"stop", "failed"}


def test_grep_says_where(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = out_of(capsys, "grep", "ANSWER 3", run, "--ignore-case")
    assert [line.split()[0] for line in found.splitlines()] == ["0.0.3", "0.1.3", "1.0.3", "1.1.3"]
    with pytest.raises(SystemExit):
        main(["rollouts", "grep", "answer", str(run), "--where", "analysis"])
    assert main(["rollouts", "grep", "(", str(run)]) == 2


def test_diff_names_the_first_difference(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "the same in all 16 samples" in out_of(capsys, "diff", run, run)
    other = tmp_path / "other" / "train"
    lines = [sample(0, group, index) for group in range(2) for index in range(4)]
    lines[1] |= {"reward": 0.0}
    write(other, 0, lines)
    with pytest.raises(SystemExit):
        main(["rollouts", "diff", str(run), str(other)])
    told = capsys.readouterr().out
    assert "the same in 1 samples; then 0.0.1 and 0.0.1 differ" in told
    assert "reward: null" in told


def test_what_has_no_rollouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollouts", "show", str(tmp_path)]) == 2
    assert "has no rollouts" in capsys.readouterr().err
    (tmp_path / "x.jsonl").write_text("{}\n")
    assert main(["rollouts", "show", str(tmp_path / "x.jsonl")]) == 2
    assert "x.jsonl:1" in capsys.readouterr().err


def test_a_file_of_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.jsonl"
    lines = [sample(step, 0, 0, final=f"of step {step}") for step in (3, 4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = out_of(capsys, "show", path, "--json")
    assert [json.loads(line)["step"] for line in shown.splitlines()] == [4]
    shown = out_of(capsys, "show", path, "--json", "--step", 3)
    assert json.loads(shown)["final"] == "of step 3"


@pytest.mark.parametrize("name", ["task", "reward", "advantage", "counts", "final", "segments"])
def test_a_line_that_lacks_something_is_named(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = sample(0, 0, 0)
    del line[name]
    path = tmp_path / "000000.jsonl"
    path.write_text(json.dumps(line) + "\n")
    assert main(["rollouts", "show", str(path)]) == 2
    assert f"000000.jsonl:1: not a sample of `ossia train rl`: it has no {name}" in (
        capsys.readouterr().err
    )


def test_what_a_model_said_does_not_steer_a_terminal(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run / "train" / "rollouts" / "000001.jsonl"
    line = sample(1, 0, 0)
    line["segments"][0]["prompt"] = "red \x1b[31m"
    path.write_text(json.dumps(line) + "\n")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" in out_of(capsys, "show", run)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "\x1b" not in out_of(capsys, "show", run)
