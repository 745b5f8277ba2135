"""The arithmetic of a GPU's bounds against the published numbers, and the bench's clock, table and
calls as far as they go without a device.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import device_kernels
import gpu
import pytest
import torch
from device_kernels import needs_triton
from gpu_parts import bounds
from gpu_parts.peers import vllm_alone

from ossia.config import ModelConfig

SMALL = ModelConfig.preset("gpt-oss-20b")
LARGE = ModelConfig.preset("gpt-oss-120b")


def test_bytes_of_a_decoded_token() -> None:
    """20b: 1.27 GB of experts and 2.44 GB of the rest; 120b: 1.90 and 3.1; keys and values of full
    layers 24.6 and 36.9 KB a token of context.
    """
    for config, experts, rest, context in (
        (SMALL, 1.27e9, 2.44e9, 24.6e3),
        (LARGE, 1.90e9, 3.10e9, 36.9e3),
    ):
        read = config.num_hidden_layers * bounds.experts(config, 1)[0]
        assert read == pytest.approx(experts, rel=0.01)
        assert bounds.dense_bytes(config) == pytest.approx(rest, rel=0.01)
        deep = bounds.decode(config, 1, 10_001)[0] - bounds.decode(config, 1, 10_000)[0]
        assert deep == pytest.approx(context, rel=0.01)


def test_streams_read_more_and_more_experts() -> None:
    assert bounds.experts_read(SMALL, 1) == pytest.approx(4)
    assert bounds.experts_read(SMALL, 30) > 31
    assert bounds.experts_read(LARGE, 64) == pytest.approx(111, abs=0.5)


def test_a_bound_is_the_slower_of_memory_and_arithmetic() -> None:
    ceilings = bounds.Ceilings(bandwidth=4.8e12, operations=1e15)
    moved, operations = bounds.decode(SMALL, 1, 0)
    assert 1 / ceilings.seconds(moved, operations) == pytest.approx(1290, rel=0.01)
    assert ceilings.seconds(1.0, 1e15) == 1.0


def test_time_is_counted_and_what_is_left_out_is_named() -> None:
    ticks = itertools.count()
    allowance = bounds.Allowance(3, lambda: float(next(ticks)))
    assert [allowance.allows(name) for name in "abcd"] == [True, True, False, False]
    assert allowance.left_out == ["c", "d"]
    calls = []
    times = iter([0.0, 5.0, 5.0, 6.0, 6.0, 8.0])
    found = bounds.median_seconds(
        lambda: calls.append("call"), lambda: calls.append("wait"), lambda: next(times), 3, warm=1
    )
    assert found == 2.0
    assert calls == ["call", "wait"] * 4


def test_a_line_a_measurement() -> None:
    row = {"what": "decode x", "seconds": 0.002, "bound": 0.001, "share": 0.5, "rows": 8}
    lines = gpu.table([row | {"depth": 4096, "graphs": True}, row | {"error": 1e-3}]).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["decode", "x", "8", "4096", "2.000", "1.000", "50%", "graphs"]
    assert lines[2].endswith("1.0e-03")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "gpu.json")])
    with pytest.raises(SystemExit, match="no CUDA device"):
        gpu.main()
    assert not list(tmp_path.iterdir())


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
@torch.inference_mode()
def test_everything_is_measured_on_a_tiny_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of a full run, in the interpreter: what is timed computes what it says."""
    device_kernels.rows_alike(monkeypatch)
    monkeypatch.setenv("OSSIA_KERNELS", "interpret")  # and not beyond this test
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--dry", "--out", str(out)])
    gpu.main()
    found = json.loads(out.read_text())
    assert {row["what"].split()[0] for row in found["rows"]} == {
        "experts", "router", "norm", "product", "draw", "attention", "decode", "prompt", "first",
        "engine", "transformers",
    }  # fmt: skip
    assert all(row["seconds"] > 0 for row in found["rows"])
    errors = [row["error"] for row in found["rows"] if row.get("error") is not None]
    assert len(errors) == 6 and max(errors) < 1e-2
    assert set(found["same_bits"].values()) == {True} and len(found["same_bits"]) == 3
    assert {entry["table"] for entry in found["tiles"]} == {"EXPERTS", "ATTENTION", "LINEAR"}
    assert found["left_out"] == [] and found["peers"]["vllm"] == "not installed"
    printed = capsys.readouterr().out
    assert "ATTENTION 64 rows: Tile(" in printed and "same bits: {" in printed


def test_vllm_is_asked_for_random_weights_and_long_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the words of its own documentation; it is not installed here."""
    vllm = MagicMock(__version__="1")
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    vllm_alone("folder", [1, 3])
    found = json.loads(capsys.readouterr().out)
    assert found["vllm"] == "1" and len(found["seconds"]) == 2
    assert vllm.LLM.call_args.kwargs["load_format"] == "dummy"
    prompts = [call.args[0] for call in vllm.LLM.return_value.generate.call_args_list]
    assert [len(each) for each in prompts] == [1, 1, 1, 3, 3, 3]
    assert all(call.kwargs["ignore_eos"] for call in vllm.SamplingParams.call_args_list)
