"""`ossia train`: recipes, overrides, dry runs, resuming after a kill, plans, and errors in one
line.
"""

from __future__ import annotations

import builtins
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pipeline_toy
import pytest
import warm_python
from tiny_model import environment

from ossia.commands.main import main
from ossia.train.pipeline import training
from ossia.train.plan import estimate
from ossia.train.recipes import named as recipes
from ossia.train.settings import Parallel

TOY = str(Path(pipeline_toy.__file__))
PLAN = ["train", "--plan", "gpt-oss-120b", "--gpus", "64"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, with a peak that need not be measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ossia.train.plan.cost.peak_flops", lambda *_: 1e10)


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line on stderr."""
    assert main(["train", *args]) == 2
    err = capsys.readouterr().err
    line = err.splitlines()[-1]
    assert line.startswith("ossia: ")
    return line


# ---- runs ----------------------------------------------------------------------------------------


def test_a_run_from_beginning_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", TOY, "steps=2", "--out", "r", "number=5"]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["numbers", "pretrain", "in"]
    assert err.splitlines()[:2] == [
        "[1/2] numbers: Write a number.",
        "[2/2] pretrain: Learn repetitions.",
    ]
    assert err.splitlines()[-1].startswith("toy  2/2 100%  loss ") and "\x1b" not in err
    assert (tmp_path / "r" / "numbers" / "number").read_text() == "5\n"
    assert len((tmp_path / "r" / "pretrain" / "log.jsonl").read_text().splitlines()) == 2
    assert main(["train", TOY, "steps=2", "number=5", "--out", "r", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [phase["state"] for phase in json.loads(out)["phases"]] == ["done", "done"]
    assert err.count("(done before)") == 2
    assert "steps was 2 and is 3" in refused(capsys, TOY, "steps=3", "number=5", "--out", "r")
    assert main(["train", TOY, "steps=1", "--out", "r", "--fresh", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert (tmp_path / "r" / "numbers" / "number").read_text() == "7\n"


def test_killed_locked_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While a run goes on no other may have its folder; killed, it ends with the bits of an
    undisturbed one.
    """
    args = [TOY, "steps=12", "--quiet"]
    command = [sys.executable, "-m", "ossia", "train", *args, "--out", "killed"]
    env = environment() | {"OSSIA_TOY_DELAY": "0.05", "OMP_NUM_THREADS": "1"}
    log = tmp_path / "killed" / "pretrain" / "log.jsonl"
    with warm_python.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 120
        while not (log.exists() and log.read_text().count("\n") >= 3):
            assert process.poll() is None and time.monotonic() < until, (
                process.stderr and process.stderr.read()
            )
            time.sleep(0.02)
        assert f"in use by process {process.pid}" in refused(capsys, *args, "--out", "killed")
        process.send_signal(signal.SIGKILL)
    assert "1 of 2 phases are done, pretrain is next" in refused(capsys, *args, "--out", "killed")
    assert main(["train", *args, "--out", "killed", "--resume"]) == 0
    assert main(["train", *args, "--out", "whole"]) == 0
    kept = [
        (tmp_path / name / "pretrain" / "weights.safetensors").read_bytes()
        for name in ("killed", "whole")
    ]
    assert kept[0] == kept[1]
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / name / "pretrain" / "log.jsonl").read_text().splitlines()
        ]
        for name in ("killed", "whole")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 12
    assert (tmp_path / "killed" / "numbers" / "number").read_text() == "7\n"


def test_ctrl_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ossia.train.loop.train", stop)
    assert main(["train", TOY, "steps=3", "--out", "a run"]) == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"stopped; to go on: ossia train {TOY} steps=3 --out 'a run' --resume"


def test_tensorboard_beside_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard, of the extra `train`, is not installed")
    assert main(["train", TOY, "steps=1", "--out", "r", "--tensorboard", "--quiet"]) == 0
    assert list((tmp_path / "r" / "pretrain" / "tensorboard").glob("events.*"))
    assert (tmp_path / "r" / "pretrain" / "log.jsonl").exists()


def test_without_tensorboard_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imported = builtins.__import__

    def no_tensorboard(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("tensorboard"):
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_tensorboard)
    assert main(["train", TOY, "steps=1", "--out", "r", "--tensorboard", "--quiet"]) == 0
    err = capsys.readouterr().err
    assert err.count("pip install 'ossia[train]'") == 1 and err.startswith("ossia: ")
    assert (tmp_path / "r" / "pretrain" / "weights.safetensors").exists()


# ---- dry runs ------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_cost_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", TOY, "--dry-run", "--out", "r"]) == 0
    out = capsys.readouterr().out
    # the first of each
    rows = {line.split()[0]: line for line in reversed(out.splitlines()) if line}
    assert "to do" in rows["numbers"] and " 256 " in rows["pretrain"] and "/" in rows["pretrain"]
    assert (
        "at 25% (assumed) of 10 GFLOP/s, measured now" in rows["time"]
        and "are free for r" in rows["disk"]
    )
    assert "activations" in rows["memory"] and "Learn repetitions." in out
    assert max(map(len, out.splitlines())) <= 160 and not list(tmp_path.iterdir())
    assert main(["train", TOY, "--dry-run", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    trains = data["phases"][1]
    config = pipeline_toy.TOY
    from ossia.config import account
    from ossia.train.plan.cost import flops_per_token

    assert (
        trains["parameters"] == account(config).total and trains["active"] == account(config).active
    )
    assert trains["flops"] == 256 * flops_per_token(config, 10)
    assert trains["seconds"] == pytest.approx(trains["flops"] / (1e10 * estimate.MFU))
    assert data["seconds"] == trains["seconds"] and data["phases"][0]["flops"] is None


def test_a_dry_run_of_several_processes(tmp_path: Path) -> None:
    """Memory is that of one of them, by the planner; how fast other machines are is not known."""
    run = replace(pipeline_toy.toy_run(tmp_path / "train"), parallel=Parallel(fsdp=2, ep=2))
    found = estimate.estimate([training(run, "Learn.")], tmp_path)
    one, whole = (
        found.phases[0],
        estimate.estimate([training(replace(run, parallel=None), "Learn.")], tmp_path).phases[0],
    )
    assert (
        one.processes == 4
        and one.seconds is None
        and not found.problems()
        and one.memory
        and whole.memory
    )
    assert one.memory["weights, float32"] < whole.memory["weights"] / 3


def test_a_dry_run_of_an_unfinished_run_goes_by_its_own_speed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", TOY, "--out", "r", "--quiet"]) == 0
    folder = tmp_path / "r" / "pretrain"
    done = json.loads((folder / "done.json").read_text())
    (folder / "started.json").write_text(json.dumps(done | {"earlier_seconds": 1.0, "began": 0.0}))
    (folder / "done.json").unlink()
    lines = [{"step": n, "tokens": 50, "seconds": 10.0} for n in (1, 2)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    assert main(["train", TOY, "--out", "r", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["phases"]
    assert [phase["state"] for phase in found] == ["done", "unfinished"]
    assert found[1]["seconds"] == pytest.approx((256 - 100) / 5)  # 5 tokens a second


def test_a_full_disk_and_little_memory_are_said_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("usage", (), {"free": 1000}))
    assert "bytes of disk, 1,000 are free" in refused(capsys, TOY, "--out", "r")
    assert not Path("r").exists()
    assert "bytes of disk are needed and 1,000 are free" in refused(
        capsys, TOY, "--out", "r", "--dry-run"
    )
    monkeypatch.setattr(estimate, "_machine_memory", lambda: 10_000)
    assert "phase pretrain needs about" in refused(capsys, TOY, "--dry-run")


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_missing_file_is_named(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no such file: no.jsonl (for phase numbers)" in refused(
        capsys, TOY, "data=no.jsonl", *more
    )
    assert not Path("runs").exists()


# ---- recipes, keys, errors -----------------------------------------------------------------------


def test_recipes_are_listed_without_running_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.py").write_text(
        '"""Make mine. And more."""\nraise SystemExit\nclass Config: ...\ndef phases(c, o): ...\n'
    )
    (tmp_path / "recipes" / "part.py").write_text(
        '"""Of parts."""\nfrom elsewhere import Config\ndef phases(c, o): ...\n'
    )
    (tmp_path / "recipes" / "helper.py").write_text("def phases(): ...")
    (tmp_path / "recipes" / "broken.py").write_text("def")
    assert main(["train", "--list"]) == 0
    out = capsys.readouterr().out
    assert "recipes/mine.py  Make mine.\n" in out and "helper" not in out and "  sft " in out
    assert main(["train", "--list", "--json"]) == 0
    found = {"recipes/mine.py", "recipes/part.py"}
    assert set(json.loads(capsys.readouterr().out)) == {*recipes.RECIPES, *found}


@pytest.mark.parametrize("name", sorted(recipes.RECIPES))
def test_built_in_recipes_can_be_set_key_by_key(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", name, "--keys", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found and all(key["type"] for key in found)


def test_keys_are_listed_with_values_and_comments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", TOY, "--keys", "hyper.peak_lr=0.5"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["steps=4", "int; of the optimizer"] in lines
    assert ["hyper.peak_lr=0.5", "float"] in lines and [
        "data=none",
        "path or none; a file that must be there",
    ] in lines


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "nothing to train: give a recipe"), (["sfd"],
            "there is no recipe 'sfd'; did you mean sft?"),
        (["steps=3"], "the recipe comes first: ossia train RECIPE steps=3"),
        (["no.py"], "there is no recipe 'no.py'"),
        ([TOY, "stepz=3"], "there is no key 'stepz'; did you mean steps"),
        ([TOY, "steps"], "is not key=value"),
        ([TOY, "steps=few"], "steps must be int, found 'few'"),
        ([TOY, "hyper.shards=0"], "shards must be 1 or more"),
        ([TOY, "--gpus", "3"], "--gpus is for --plan MODEL"),
        ([TOY, "--checkpoint-layers"], "--checkpoint-layers is for --plan MODEL"),
        ([TOY, "--precision", "bfloat16"], "--precision is for --plan MODEL"),
        ([TOY, "--plan", "nano"], "give one of them"),
        (["empty.py"], "is not a recipe: it needs a frozen dataclass Config"),
        (["syntax.py"], "syntax.py:2: not Python"),
        (["needs.py"], "every field of Config needs a default"),
    ],
)  # fmt: skip
def test_errors_are_one_line(
    args: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "syntax.py").write_text("\ndef f(:\n")
    head = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Config:\n    x: int\n"
    (tmp_path / "needs.py").write_text(head + "def phases(config, out): return []\n")
    assert said in refused(capsys, *args)


@pytest.mark.parametrize("words", [["--frob"], [TOY, "--resume", "--fresh"]])
def test_words_that_are_no_overrides(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", *words])
    assert end.value.code == 2 and "usage: ossia" in capsys.readouterr().err


def test_a_stray_word_is_no_override(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'word' is not key=value" in refused(capsys, TOY, "--out", "r", "word")


def test_overrides_behind_options_are_for_train_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["info", "nano", "--json", "steps=3"])
    assert "unrecognized arguments: steps=3" in capsys.readouterr().err


def test_help_has_examples_and_fits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "examples:" in out and "  ossia train" in out
    assert max(map(len, out.splitlines())) <= 110


# ---- plans ---------------------------------------------------------------------------------------


def test_a_plan_as_text_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(PLAN) == 0
    out = capsys.readouterr().out
    for part in (
        "116.8B parameters",
        "64 GPUs of 80.0 GiB",
        "optimizer states",
        "all-to-all",
        "tokens/s",
        "(assumed)",
    ):
        assert part in out
    given = [
        "--fsdp",
        "8",
        "--ep",
        "8",
        "--checkpoint-layers",
        "--bandwidth",
        "900/100",
        "--peak",
        "500",
    ]
    assert main([*PLAN, "--json", *given]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["layout"] == {"replicate": 1, "fsdp": 8, "ep": 8, "tp": 1} and data["gpus"] == 64
    assert data["bytes"]["total"] <= data["bytes"]["usable"] and data["assumed"]["peak"] == 500e12


def test_a_plan_from_a_config_and_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ossia.config import ModelConfig

    (tmp_path / "config.json").write_text(json.dumps(ModelConfig.preset("nano").to_hf_json()))
    args = [
        "--nodes",
        "2",
        "--gpus-per-node",
        "2",
        "--context",
        "512",
        "--optimizer",
        "muon",
        "--json",
    ]
    assert main(["train", "--plan", str(tmp_path), *args]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["gpus"] == 4 and data["tokens_per_step"] == 4096 * 4 // data["layout"]["tp"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--tp", "3"], "3 does not divide 64"), (["--ep", "16", "--tp", "16"],
            "does not divide 64"),
        (["--tp", "16"], "does not divide num_key_value_heads (8): choose 1, 2, 4, 8"),
        (["--gpu-memory", "16GiB"], "out of memory: the smallest layout"),
        (["--lora", "8", "--tp", "2"], "leave --tp out"),
        (["--tokens-per-gpu", "1024", "--context", "2048"], "give --tokens-per-gpu 2048"),
        (["--nodes", "2"], "64 GPUs do not fit into 2 nodes of 8: give --nodes 8"),
        (["--dry-run"], "--dry-run is for a recipe"), (["--out", "r"], "--out is for a recipe"),
    ],
)  # fmt: skip
def test_plans_that_cannot_be(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, *PLAN[1:], *args)


def test_a_plan_for_one_h200_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """gpt-oss-20b, changes of rank 8, documents of 4,096 tokens."""
    words = ["--plan", "gpt-oss-20b", "--gpus", "1", "--gpu", "h200", "--lora", "8", "--json"]
    assert main(["train", *words, "--checkpoint-layers"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"]["memory"] == 139 * 2**30
    # rank x (inputs + outputs): q and out, k and v; both matrices of 32 experts
    attention = 2 * (2880 + 4096) + 2 * (2880 + 512)
    experts = 32 * (2880 + 5760 + 2880 + 2880)
    factors = 24 * 8 * (attention + experts)
    assert factors == 92_454_912
    assert found["bytes"]["low-rank factors, float32"] == 4 * factors
    assert found["bytes"]["optimizer states"] == 8 * factors
    # a multiplication and an addition for each weight that a token meets, and for keys and values
    weights = 2880 * (2 * 4096 + 2 * 512) + 32 * 2880 + 4 * 3 * 2880 * 2880
    full = 4097 / 2
    windowed = (128 * 129 / 2 + (4096 - 128) * 128) / 4096
    layers = 24 * 2 * weights + 12 * 4 * 4096 * (full + windowed)
    unembedding = 2 * 2880 * 201_088
    flops = 4 * layers + 3 * unembedding  # forward, twice that backward, forward again
    seconds = 4096 * flops / (0.35 * 989e12)
    assert found["seconds"]["step"] == pytest.approx(seconds)
    assert seconds == pytest.approx(0.348, abs=1e-3)


def test_the_plans_in_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    """The rows of the table in docs/gpu.md: options, model, bytes on each GPU, a step."""
    text = (Path(__file__).parents[2] / "docs/gpu.md").read_text()
    rows = re.findall(r"^\| `(--gpus .*?)` \| (gpt-oss-\d+b) \| (.*?) \| (.*?) \|$", text, re.M)
    assert len(rows) >= 8
    for options, model, memory, step in rows:
        code = main(["train", "--plan", model, *options.split()])
        printed = capsys.readouterr()
        if step == "does not fit":
            assert code == 2
            assert f"needs {memory} on each GPU" in printed.err
        else:
            assert re.search(rf"total +{re.escape(memory)} ", printed.out), (options, model)
            assert f"a step takes about {step}" in printed.out, (options, model)


def test_plans_of_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "neither a preset (gpt-oss-20b" in refused(capsys, "--plan", "gpt-5")
    (tmp_path / "config.json").write_text("{")
    assert "not valid JSON" in refused(capsys, "--plan", ".")
    for wrong in (
        ["--bandwidth", "fast"],
        ["--peak", "-1"],
        ["--gpus", "0"],
        ["--gpu-memory", "much"],
    ):
        with pytest.raises(SystemExit):
            main([*PLAN, *wrong])


def test_the_command_loads_no_torch() -> None:
    program = "import sys, ossia.commands.training.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=environment()).returncode == 0


def test_the_recipe_in_the_docs_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "training.md"
    program = re.search(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert program is not None
    (tmp_path / "first.py").write_text(program[1])
    small = ["steps=1", "model.num_hidden_layers=1", "hyper.tokens_per_step=160"]
    assert main(["train", "first.py", *small, "--quiet"]) == 0
    assert (tmp_path / "runs" / "first" / "repeat" / "weights.safetensors").exists()
    assert main(["train", "first.py", "--list"]) == 0


@pytest.mark.parametrize("kind", ["text", "json"])
def test_plans_in_the_docs_work(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line of docs/training.md that plans a preset."""
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    lines = re.findall(r"^ossia (train --plan gpt-.*)$", page, re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        assert (
            main([*line.split(), *(["--json"] if kind == "json" and "--json" not in line else [])])
            == 0
        ), line
