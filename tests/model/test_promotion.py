"""Weights move from the file to memory while answers flow, and no answer changes."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ossia
from ossia import checkpoint, kernels
from ossia.checkpoint.mapped import is_mapped
from ossia.config import ModelConfig
from ossia.model.native import Precision, make_native
from ossia.model.promotion import Promotion
from ossia.serving import Options

if kernels.not_compiled():
    pytest.skip(f"needs the compiled kernels: {kernels.not_compiled()}", allow_module_level=True)

SMALL = ModelConfig(
    num_hidden_layers=4, num_experts=8, hidden_size=576, intermediate_size=544, vocab_size=3000
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "model"
    checkpoint.write_random(SMALL, folder, seed=1)
    return folder


@pytest.mark.parametrize("precision", [Precision(), Precision("int8", "int8")], ids=str)
def test_answers_are_the_same_before_during_and_after(small: Path, precision: Precision) -> None:
    mapped = Options(precision.dense, precision.activations, loading="map")
    ids = torch.arange(50).tolist()
    want = ossia.load(small, options=mapped).logits(ids)
    llm = ossia.load(small, options=mapped)
    model = checkpoint.load(small)
    promotion = Promotion(make_native(model, precision), is_mapped)
    llm.model = model
    begin = threading.Event()
    promotion.start(after=begin)
    assert (llm.logits(ids) == want).all()
    begin.set()
    while not promotion.wait(0):
        assert (llm.logits(ids) == want).all()
    assert promotion.error is None and promotion.bytes_done == promotion.bytes_total
    assert (llm.logits(ids) == want).all()


def test_memory_holds_one_copy_and_a_weight(tmp_path: Path) -> None:
    """What the file's pages take is given back as the packed weights grow."""
    config = replace(SMALL, num_experts=24, hidden_size=1152, intermediate_size=1152)
    checkpoint.write_random(config, tmp_path / "model", seed=1)
    llm = ossia.load(tmp_path / "model", options=Options(loading="map"))
    llm.model = checkpoint.load(tmp_path / "model")
    weights = make_native(llm.model, Precision())
    llm.logits(list(range(200)))  # has read every expert from the file
    before, most = resident(), 0

    def watch(done: int, total: int) -> None:
        nonlocal most
        most = max(most, resident())

    promotion = Promotion(weights, is_mapped)
    promotion.run(progress=watch)
    rounding = len(weights) * (2 << 20)  # to huge pages
    largest = max(weight.packed_bytes for weight in weights)
    assert promotion.bytes_total > 2 * (largest + rounding), "too small a model to tell"
    assert most < before + largest + rounding


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_what_fails_is_told_and_answers_go_on(small: Path) -> None:
    model = checkpoint.load(small)
    weights = make_native(model, Precision())

    def broken(piece: int, memory: torch.Tensor) -> None:
        raise MemoryError("no room")

    weights[1].pack = broken  # type: ignore[method-assign]
    promotion, begin = Promotion(weights, is_mapped), threading.Event()
    begin.set()
    promotion.start(after=begin)
    assert promotion.wait(30) and isinstance(promotion.error, MemoryError)
    assert 0 < promotion.bytes_done < promotion.bytes_total
