"""docs/reinforcement.md: its example runs, and the step that it explains is as it says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from ossia.batch import Batch
from ossia.checkpoint import load
from ossia.commands.main import main
from ossia.harmony import Conversation, SystemContent, render_for_completion
from ossia.harmony.messages import Effort
from ossia.hub import find
from ossia.kernels.logprobs import logprobs
from ossia.tokenizer import Tokenizer
from ossia.train.rl.advantage import advantages

PAGE = (Path(__file__).parents[3] / "docs" / "reinforcement.md").read_text(encoding="utf-8")
# the run is the page's, but for its size
SMALLER = ["steps=2", "sampling.groups=2", "sampling.samples=2", "evaluating.every=0"]
SMALLER += ["evaluating.problems=1", "evaluating.samples=2"]


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    assert code[1].count("\n") <= 14
    (tmp_path / "products.py").write_text(code[1])
    monkeypatch.chdir(tmp_path)
    train, show, chat = re.findall(r"^    ossia (.*)$", PAGE, re.MULTILINE)[:3]
    given = [word for word in shlex.split(train) if word.split("=")[0] not in str(SMALLER)]
    assert main([*given, *SMALLER, "--quiet"]) == 0
    assert "held-out problems" in capsys.readouterr().out
    assert main(shlex.split(show)) == 0
    assert capsys.readouterr().out.count("What is") >= 2
    assert Path(shlex.split(chat)[1], "config.json").is_file()
    assert len((tmp_path / "runs/products/train/log.jsonl").read_text().splitlines()) == 2


def rows_of_the_group() -> list[list[str]]:
    table = PAGE.split("| answers | carry |")[1].split("\n\n")[0]
    lines = [line for line in table.splitlines()[2:] if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_step_that_is_explained() -> None:
    rows = rows_of_the_group()
    rewards = [0.0] * 8
    wanted = [0.0] * 8
    for numbers, _, _, reward, advantage, _ in rows:
        for number in map(int, numbers.split()):
            rewards[number] = float(reward)
            wanted[number] = float(advantage)
    found = advantages(rewards, "centered")
    assert found == wanted
    assert sum(value * 81 for value in wanted) / (8 * 81) == 0
    assert "(7 * 81 * 0.125 - 1 * 81 * 0.875) / 648" in PAGE
    folder = find("nano")
    model = load(folder, "float32")
    tokenizer = Tokenizer.from_pretrained(folder)
    for _, carry, final, _, _, log_p in rows:
        answer = _answer(carry, final)
        ids = tokenizer.encode_with_specials(answer)
        assert len(ids) == 81
        assert _log_p(model, _prompt(tokenizer), ids) == pytest.approx(float(log_p), abs=2e-3)


def _answer(carry: str, final: str) -> str:
    total, digits = carry.split("=")[1].split("->")
    carried = int(total) // 10
    hundreds = 3 + carried
    return (
        f"<|channel|>analysis<|message|>18 * 31: 8*1=8->8, 1*1=1, 8*3=24, {carry}, 1*3=3, "
        f"3+{carried}={hundreds}->{hundreds}{digits}<|end|><|start|>assistant<|channel|>final<|message|>{final}<|return|>"
    )


def _prompt(tokenizer: Tokenizer) -> list[int]:
    said = [{"role": "user", "content": "What is 18 * 31?"}]
    system = SystemContent(effort=Effort.MEDIUM)
    return render_for_completion(Conversation.from_chat(said, system=system), tokenizer)


@torch.no_grad()
def _log_p(model: torch.nn.Module, prompt: list[int], ids: list[int]) -> float:
    tokens = torch.tensor([*prompt, *ids[:-1]])
    rows = torch.arange(len(prompt) - 1, len(tokens))
    x = model.hidden(tokens, Batch.packed([len(tokens)], output_rows=rows))
    found: float = logprobs(x, model.unembedding.weight, torch.tensor(ids)).sum().item()
    return found


def test_keys_that_the_page_names_exist() -> None:
    from ossia.train import overrides
    from ossia.train.recipes import rl

    known = set(overrides.flat(rl.Config()))
    named = set(re.findall(r"`((?:sampling|objective|evaluating)\.[\w.]+)", PAGE))
    assert named
    assert named <= known, named - known
    assert json.dumps(sorted(named))
