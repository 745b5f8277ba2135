"""Which device serves, and what is asked of it: without one, by what torch would say of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib.machinery import ModuleSpec
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from tiny_model import tiny_config, tiny_tokenizer

import ossia
from ossia import checkpoint
from ossia.engine import Engine, SamplingParams, kv
from ossia.engine.device.graphs import captured
from ossia.errors import ConfigError, ModelNotFoundError, RequestError
from ossia.kernels import triton
from ossia.model.processes import begin_processes

GPU = torch.device("cuda", 1)
GIB = 1 << 30


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Two of them, with triton and a compiler."""
    monkeypatch.delenv("OSSIA_KERNELS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(triton, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    triton._missing_of_gpu.cache_clear()
    yield monkeypatch
    triton._missing_of_gpu.cache_clear()


def test_a_gpu_without_bfloat16_tensor_cores_is_refused_with_words(
    gpu: pytest.MonkeyPatch,
) -> None:
    assert triton.why_not(GPU) is None
    triton._missing_of_gpu.cache_clear()
    gpu.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    reason = triton.why_not(GPU)
    assert reason is not None and "capability 7.5" in reason and "begins at 8.0" in reason


def test_triton_needs_a_compiler_of_c(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(shutil, "which", lambda name: None)
    assert "install gcc" in (triton.why_not(GPU) or "")
    triton._missing_of_gpu.cache_clear()
    gpu.setenv("CC", "/opt/cc")
    gpu.setattr(shutil, "which", lambda name: name if name == "/opt/cc" else None)
    assert triton.why_not(GPU) is None


def test_the_cache_is_sized_by_what_a_gpu_has_free(gpu: pytest.MonkeyPatch) -> None:
    """Not by the memory of the machine, and not for one context only."""
    gpu.setattr(torch.cuda, "mem_get_info", lambda device: (20 * GIB, 80 * GIB))
    assert triton.free_for_cache(GPU) == 17 * GIB
    gpu.setattr(torch.cuda, "mem_get_info", lambda device: (GIB // 2, 80 * GIB))
    assert triton.free_for_cache(GPU) == triton.LEAST_CACHE
    assert triton.free_for_cache(torch.device("cpu")) is None


def test_steps_run_on_the_device_of_the_model(gpu: pytest.MonkeyPatch) -> None:
    """Triton starts kernels on the current device of the thread, wherever tensors are."""
    entered: list[object] = []

    def device(wanted: object) -> AbstractContextManager[None]:
        entered.append(wanted)
        return nullcontext()

    gpu.setattr(torch.cuda, "device", device)
    with triton.current(GPU), triton.current(torch.device("cpu")):
        assert entered == [GPU]
    model = ossia.load("nano").model
    gpu.setattr(triton, "current", device)
    entered.clear()
    engine = Engine(model, capacity=64)
    assert len(list(engine.generate([5, 6], SamplingParams(temperature=0, max_tokens=2)))) == 2
    assert len(entered) >= 2 and set(entered) == {model.device}


def test_devices_that_are_not_there_are_named(gpu: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFoundError, match="cuda:0 to cuda:1"):
        ossia.load("nano", device="cuda:5")
    gpu.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="torch sees 2"):
        begin_processes("cuda")


def full(*_: object, **__: object) -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_what_does_not_fit_is_said(gpu: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkpoint.write_random(tiny_config(tiny_tokenizer()), tmp_path / "model", seed=0)
    model = checkpoint.load(tmp_path / "model", "float32")
    gpu.setattr(kv.TorchCache, "__init__", full)
    with pytest.raises(RequestError, match="give less"):
        Engine(model, capacity=64)
    gpu.setattr(type(model), "to", full)
    with pytest.raises(ConfigError, match=r"0\.0 GB do not fit .* --parallel"):
        checkpoint.load(tmp_path / "model", "float32", "cuda")


def test_a_capture_that_fails_names_the_way_around(gpu: pytest.MonkeyPatch) -> None:
    stream = MagicMock()
    for name in ("current_stream", "Stream", "stream", "CUDAGraph"):
        gpu.setattr(torch.cuda, name, MagicMock(return_value=stream))
    graph = MagicMock()
    graph.return_value.__exit__.return_value = False
    gpu.setattr(torch.cuda, "graph", graph)
    calls = []

    def compute() -> None:
        calls.append(1)
        if len(calls) == 3:  # twice before the capture
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(ConfigError, match="--gpu-steps plain"):
        captured(compute, None)
