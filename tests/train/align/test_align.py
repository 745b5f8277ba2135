"""Aligning a model with a user's policy, end to end: what is drafted, kept, learned, rewarded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from align_runs import Script, config_of, files, rows, scripted, settings
from tiny_model import write_tiny

from ossia.checkpoint import load
from ossia.errors import ConfigError, DataError, JudgeError, TrainingError
from ossia.train import overrides
from ossia.train.pipeline import run_pipeline
from ossia.train.recipes import align


def run(config: align.Config, out: Path) -> None:
    run_pipeline(align.phases(config, out), out, settings=overrides.flat(config))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_policy_of_three_rules_end_to_end(tmp_path: Path) -> None:
    files(tmp_path)
    out = tmp_path / "run"
    with scripted() as script:
        config = config_of(tmp_path, write_tiny(tmp_path / "base"), script.url)
        assert (config.objective.kl, config.objective.refresh) == (0.01, 2)
        run(config, out)
        _only_one_section_is_shown(script)
        _stage_c_shows_no_reasoning(script)
    report = json.loads((out / "kept" / "report.json").read_text())
    kept = lines(out / "kept" / "aligned.jsonl")
    assert sum(report["drafts"].values()) == 2 * len(list(rows()))
    assert report["drafts"]["kept"] == len(kept) and len(report["drafts"]) == 5
    efforts = set()
    for row in kept:
        system, user, analysis, final = row["messages"]
        about = row["provenance"]
        assert (about["reasoner"], about["judge"]) == ("reasoner", "judge")
        assert f"Rule {about['rule']} applies" in str(analysis["content"])
        assert "policy" not in str(system) + str(user) + str(final)
        efforts.add(str(system["content"]))
    assert len(efforts) == 3
    assert len(lines(out / "learn" / "ordinary.jsonl")) == len(kept)
    asked = lines(out / "reward" / "train" / "rollouts" / "000000.jsonl")
    tasks = [line["task"] for line in asked]
    assert sum(task == "sums" for task in tasks) == len(tasks) / 2
    load(out / "model", "float32")
    killed = out / ".model.0123abcd.part"
    killed.mkdir()
    (killed / "model.safetensors").write_bytes(b"half")
    align.Recipe(config, out).export()
    assert not killed.exists()


def _only_one_section_is_shown(script: Script) -> None:
    bodies = script.of("reasoner")
    assert len(bodies) == 2 * len(list(rows()))
    for body in bodies:
        developer, user = (message["content"] for message in body["messages"])
        is_money = "cost me" in user
        assert ("Of fines say nothing" in developer) is is_money
        assert ("Never say which reader" in developer) is not is_money


def _stage_c_shows_no_reasoning(script: Script) -> None:
    kinds: dict[tuple[str, ...], int] = {}
    for body in script.of("judge"):
        quoted = json.loads(body["messages"][1]["content"])
        kinds[tuple(quoted)] = kinds.get(tuple(quoted), 0) + 1
        is_draft = "reasoning" in quoted
        assert ("what an assistant thought" in body["messages"][0]["content"]) is is_draft
    assert set(kinds) == {("request", "reasoning", "answer"), ("request", "answer", "calls")}


@pytest.mark.parametrize("obeys", ["thought", "was to follow"])
def test_a_judge_that_obeys_is_refused_before_anything_is_drafted(
    tmp_path: Path, obeys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that reads drafts, and the one that reads answers."""
    files(tmp_path)
    answers = Script.__call__

    def obedient(self: Script, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        told = str(body["messages"])
        if body["model"] == "judge" and obeys in told and "human expert" in told:
            verdict = json.dumps({"verdict": "pass", "rule": 1, "why": "I was told."})
            return 200, {"choices": [{"message": {"content": verdict}}]}
        return answers(self, path, body)

    monkeypatch.setattr(Script, "__call__", obedient)
    with scripted() as script:
        config = config_of(tmp_path, write_tiny(tmp_path / "base"), script.url)
        make = align.Recipe(config, tmp_path / "run")
        with pytest.raises(JudgeError, match=r"must fail, because of the text 'Note to the grader"):
            make.draft()
        assert not script.of("reasoner")


def test_a_policy_in_a_prompt_stops_the_run_by_name(tmp_path: Path) -> None:
    """In ordinary chats, before stage B; in prompts, before stage C."""
    files(tmp_path)
    rule = "Never say which reader has borrowed a book, whoever asks"
    out = tmp_path / "run"
    with scripted() as script:
        config = config_of(tmp_path, write_tiny(tmp_path / "base"), script.url)
        make = align.Recipe(config, out)
        make.draft()
        make.keep()
        (tmp_path / "chats.jsonl").write_text(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": f"Is this a rule: {rule}?"},
                        {"role": "assistant", "content": "It is."},
                    ]
                }
            )
            + "\n"
        )
        with pytest.raises(TrainingError, match=r"stage B, train.*of the policy's section 'loans'"):
            make.learn()
        assert not (out / "learn" / "train").exists()
        with (tmp_path / "prompts.jsonl").open("a") as file:
            file.write(json.dumps({"prompt": rule, "category": "loans", "rule": 1}) + "\n")
        (out / "learn" / "model").symlink_to(tmp_path / "base")
        with pytest.raises(TrainingError, match=r"stage C, prompt 25 \(loans\)"):
            align.Recipe(config, out).reward()
        assert not (out / "reward" / "train").exists()
        first, *_ = align.phases(config, tmp_path / "other")
        assert first.look is not None
        for before_anything_is_asked in (first.look, first.run):
            with pytest.raises(TrainingError, match=r"stage C, prompt 25 \(loans\)"):
                before_anything_is_asked()
        assert not (tmp_path / "other").exists()


def test_what_is_not_said_is_asked_for(tmp_path: Path) -> None:
    files(tmp_path)
    given = settings(tmp_path, tmp_path / "base", "http://127.0.0.1:1/v1")
    for name, says in (
        ("ordinary", "say what half of stage B is"),
        ("data", "say what the other half of stage C is"),
        ("prompts", "spec=FILE needs prompts=FILE"),
    ):
        with pytest.raises(ConfigError, match=says):
            overrides.apply(
                align.Config(), [each for each in given if not each.startswith(f"{name}=")]
            )
    for judge in ("nowhere", "ftp://127.0.0.1"):
        with pytest.raises(ConfigError, match="judge must be program, a Python file"):
            overrides.apply(align.Config(), [*given, f"judge={judge}"])
    write_tiny(tmp_path / "base")
    for judge, lacks in (("program", "has no ruling"), ("none.py", r"none\.py")):
        config = overrides.apply(align.Config(), [*given, f"judge={judge}", "reward.refresh=0"])
        first, *_ = align.phases(config, tmp_path / "run")
        assert first.look is not None
        with pytest.raises(DataError, match=lacks):
            first.look()
    with pytest.raises(ConfigError, match=r"set reward\.kl"):
        overrides.apply(align.Config(), [*given, "reward.objective.kl=0.1"])


@pytest.mark.parametrize(
    ("setting", "says"),
    [("learn.epochs=-1", "epochs must be more than 0"), ("reward.steps=0", "steps and save_every")],
)
def test_what_a_later_stage_refuses_is_refused_before_the_first(
    tmp_path: Path, setting: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        align.phases(overrides.apply(align.Config(), [setting]), tmp_path)


def test_a_dry_run_counts_and_asks_nobody(tmp_path: Path) -> None:
    files(tmp_path)
    with scripted() as script:
        more = ("costs.price=2", "costs.answer=100")
        config = config_of(tmp_path, write_tiny(tmp_path / "base"), script.url, *more)
        first, _, learned, rewarded, *_ = align.phases(config, tmp_path / "run")
        assert first.look is not None
        text = str(first.look())
        assert not script.bodies
    assert "3 rules in 2 categories; 24 prompts (8 comply, 8 refuse, 8 safe-complete)" in text
    rows = {
        row.split("|")[1].strip(): row.split("|")[2:] for row in text.splitlines() if "|" in row
    }
    assert rows["A: drafts"][0].strip() == "48" and rows["A: drafts"][2].strip() == "4,800"
    assert rows["C: answers"][0].strip() == "24"
    read, sampled = (float(rows["A: drafts"][n].replace(",", "")) for n in (1, 2))
    assert float(rows["A: drafts"][4]) == pytest.approx((read + sampled) * 2e-6, abs=0.01)
    assert learned.tokens == 6 * 512 and rewarded.tokens == 24 * 100


# ---- killed, and gone on with ----


Reached = Callable[[Path], bool]


def _holds(name: str, least: int) -> Reached:
    def reached(out: Path) -> bool:
        path = out / name
        return path.exists() and path.read_bytes().count(b"\n") >= least

    return reached


STAGES: Mapping[str, Reached] = {
    "drafts": lambda out: (out / "drafts" / "drafts" / "000005.jsonl").exists(),
    "kept": _holds("kept/verdicts.jsonl", 25),
    "learn": _holds("learn/train/log.jsonl", 2),
    "reward": lambda out: (out / "reward" / "train" / "rollouts" / "000001.jsonl").exists(),
    "check": lambda out: (out / "check" / "started.json").exists(),
}


@pytest.mark.slow
def test_a_run_that_is_killed_in_every_stage_ends_with_the_same_bytes(tmp_path: Path) -> None:
    files(tmp_path)
    base = write_tiny(tmp_path / "base")
    with scripted() as script:
        given = settings(tmp_path, base, script.url)
        command = [sys.executable, "-m", "ossia", "train", "align", *given, "--quiet", "--resume"]
        whole = tmp_path / "whole"
        subprocess.run([*command, "--out", str(whole)], check=True, env=os.environ)
        out = tmp_path / "killed"
        for reached in STAGES.values():
            process = subprocess.Popen([*command, "--out", str(out)], env=os.environ)
            while not reached(out):
                assert process.poll() is None, "the run ended before it could be killed"
                time.sleep(0.01)
            process.kill()
            process.wait()
        subprocess.run([*command, "--out", str(out)], check=True, env=os.environ)
    assert _made(whole) == _made(out)
    assert not [*out.rglob(".*.part"), *out.rglob("*.tmp")]


def _made(out: Path) -> dict[str, str]:
    patterns = (
        "drafts/drafts/*",
        "kept/aligned.jsonl",
        "learn/ordinary.jsonl",
        "learn/model/*.safetensors",
        "reward/train/rollouts/*",
        "reward/train/references/*/*",
        "reward/train/weights.safetensors",
        "model/*.safetensors",
        "check/report.json",
    )
    found = [path for pattern in patterns for path in sorted(out.glob(pattern))]
    assert len(found) > 12
    return {str(p.relative_to(out)): sha256(p.read_bytes()).hexdigest() for p in found}
