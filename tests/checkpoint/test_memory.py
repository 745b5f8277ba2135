"""How much memory loading, running and converting take, each measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from amounts import thorough

from ossia.checkpoint import write_random
from ossia.config import ModelConfig, account

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")

MB = 1 << 20
LAYERS = 4 if thorough() else 1
CONFIG = replace(
    ModelConfig.preset("nano"), num_hidden_layers=LAYERS, layer_types=(), hidden_size=512,
    intermediate_size=512,
    num_experts=128, vocab_size=1000,
)  # fmt: skip
PRELUDE = """
import json, sys, torch
from pathlib import Path
from ossia.batch import Batch
from ossia.checkpoint import convert, load, open_checkpoint

torch.nn.functional.linear(torch.ones(8, 8), torch.ones(8, 8)).exp()  # what torch itself needs once
torch.nn.Embedding(1, 1, device="meta")

def memory(key):
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[key].split()[0]) * 1024

path, before = sys.argv[1], memory("VmRSS")
anonymous = memory("RssAnon")
def report():
    taken = [memory("VmRSS") - before, memory("RssAnon") - anonymous, memory("VmHWM") - before]
    print(json.dumps(taken))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("memory") / "model"
    write_random(CONFIG, directory, 0)
    return directory


def measure(body: str, path: Path) -> list[tuple[int, int, int]]:
    """Growth in bytes: of what is resident, of the part that is no view of a file, of the highest
    ever. For every `report()` in `body`, and at its end.
    """
    command = [sys.executable, "-W", "error", "-c", PRELUDE + body + "\nreport()", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_the_sizes_that_the_others_speak_of(checkpoint: Path) -> None:
    stored = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    assert stored > LAYERS * 50 * MB
    assert 2 * account(CONFIG).total > 3 * stored  # in bfloat16


def test_loading_reads_headers_only_and_running_keeps_experts_packed(checkpoint: Path) -> None:
    """Every page of the file may then be resident, and little else: one expert is decoded at a
    time.
    """
    body = """
model = load(path)
report()
tokens = torch.arange(400) % 1000
with torch.no_grad():
    model(tokens, Batch.packed([400]))
"""
    (_, _, peak), (resident, anonymous, _) = measure(body, checkpoint)
    assert peak < 30 * MB
    stored = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    assert anonymous < 120 * MB
    assert resident < stored + 120 * MB


@pytest.mark.slow
def test_decoding_never_holds_the_model(checkpoint: Path, tmp_path: Path) -> None:
    """An eighth of what the decoded model takes, the mapped pages of the source apart."""
    body = f"convert(path, {str(tmp_path / 'plain')!r}, 'hf-bf16')"
    ((_, anonymous, peak),) = measure(body, checkpoint)
    assert anonymous < 60 * MB
    assert peak < account(CONFIG).checkpoint_bytes + 2 * account(CONFIG).total // 8


@pytest.mark.slow
def test_quantizing_never_holds_the_model(tmp_path: Path) -> None:
    write_random(CONFIG, tmp_path / "plain", 0, "hf-bf16")
    ((_, anonymous, peak),) = measure(
        f"convert(path, {str(tmp_path / 'packed')!r}, 'hf')", tmp_path / "plain"
    )
    assert anonymous < 150 * MB
    assert peak < 2 * account(CONFIG).total + account(CONFIG).checkpoint_bytes
