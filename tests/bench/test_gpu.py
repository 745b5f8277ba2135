"""The arithmetic of a GPU's bounds against the published numbers, and the bench's clock, table and
calls as far as they go without a device.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import device_kernels
import gpu
import gpu_bounds
import pytest
import torch
from device_kernels import needs_triton
from tiny_model import tiny_config, tiny_tokenizer

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
        read = config.num_hidden_layers * gpu_bounds.experts(config, 1)[0]
        assert read == pytest.approx(experts, rel=0.01)
        assert gpu_bounds.dense_bytes(config) == pytest.approx(rest, rel=0.01)
        deep = gpu_bounds.decode(config, 1, 10_001)[0] - gpu_bounds.decode(config, 1, 10_000)[0]
        assert deep == pytest.approx(context, rel=0.01)


def test_streams_read_more_and_more_experts() -> None:
    assert gpu_bounds.experts_read(SMALL, 1) == pytest.approx(4)
    assert gpu_bounds.experts_read(SMALL, 30) > 31
    assert gpu_bounds.experts_read(LARGE, 64) == pytest.approx(111, abs=0.5)


def test_a_bound_is_the_slower_of_memory_and_arithmetic() -> None:
    ceilings = gpu_bounds.Ceilings(bandwidth=4.8e12, operations=1e15)
    moved, operations = gpu_bounds.decode(SMALL, 1, 0)
    assert 1 / ceilings.seconds(moved, operations) == pytest.approx(1290, rel=0.01)
    assert ceilings.seconds(1.0, 1e15) == 1.0


def test_time_is_counted_and_what_is_left_out_is_named() -> None:
    ticks = itertools.count()
    allowance = gpu_bounds.Allowance(3, lambda: float(next(ticks)))
    assert [allowance.allows(name) for name in "abcd"] == [True, True, False, False]
    assert allowance.left_out == ["c", "d"]
    calls = []
    times = iter([0.0, 5.0, 5.0, 6.0, 6.0, 8.0])
    found = gpu_bounds.median_seconds(
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
@torch.inference_mode()
def test_everything_is_measured_on_a_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter: what is timed computes what it says."""
    device = device_kernels.prepared(monkeypatch)
    config = tiny_config(tiny_tokenizer())
    bench = gpu.Bench(device, quick=True, allowance=gpu_bounds.Allowance(1e9, lambda: 0.0))
    bench.repeat = 1
    bench.ceilings = gpu.ceilings(bench, size=1 << 12, width=16)
    gpu.measure_experts(bench, "tiny", config, rows=3)
    gpu.measure_attention(bench, "tiny", config, rows=2, depth=20, window=8)
    model = gpu.random_model(config, device)
    gpu.measure_model(bench, "tiny", model, rows=2, depth=5)
    gpu.measure_prompt(bench, "tiny", model, tokens=6)
    assert [row["rows"] for row in bench.rows] == [3, 2, 2, 6]
    assert bench.rows[0]["error"] < 1e-2
    assert all(row["seconds"] > 0 for row in bench.rows)
    assert len(gpu.table(bench.rows).splitlines()) == 5
