"""Weights move from the file to memory while answers flow, and no answer changes."""

from __future__ import annotations

import atexit
import ctypes
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ossia.model.promotion
from ossia import checkpoint, kernels, serving
from ossia.checkpoint.mapped import is_mapped
from ossia.config import ModelConfig, account
from ossia.kernels.cpu import memory
from ossia.kernels.cpu.leaves import PIECE_ROWS, Dense
from ossia.kernels.cpu.library import loaded
from ossia.kernels.cpu.memory import SCARCE, huge
from ossia.model.native import MappedEmbedding, Precision, make_native
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


def test_a_process_that_ends_before_all_is_packed_says_nothing(
    small: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does it go on in a thread of which Python knows nothing any more."""
    at_exit: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    weights = make_native(checkpoint.load(small), Precision())
    reached, pack = threading.Event(), weights[1].pack

    def second(piece: int, memory: torch.Tensor) -> None:
        reached.set()
        while not promotion._is_ending:
            pass
        pack(piece, memory)

    weights[1].pack = second  # type: ignore[method-assign]
    promotion, begin = Promotion(weights, is_mapped), threading.Event()
    begin.set()
    promotion.start(after=begin)
    (end,) = at_exit
    assert reached.wait(30)
    end()
    assert promotion._thread is not None and not promotion._thread.is_alive()
    assert 0 < promotion.bytes_done < promotion.bytes_total
    assert (promotion.error, caplog.messages) == (None, [])


def test_a_process_that_ends_at_once_does_not_wait_for_the_first_answer(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_exit: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    monkeypatch.setattr(ossia.model.promotion, "PATIENCE", None)  # for ever
    weights = make_native(checkpoint.load(small), Precision())
    promotion = Promotion(weights, is_mapped)
    promotion.start(after=threading.Event())
    at_exit[0]()
    assert not promotion.bytes_done and promotion.error is None


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_a_weight_packed_in_pieces_is_the_one_packed_at_once(kind: str) -> None:
    rows = 2 * PIECE_ROWS + 77
    weight_NK = torch.randn(rows, 40, generator=torch.Generator().manual_seed(1)).bfloat16()
    dense = Dense(weight_NK, None, kind)
    memory, at_once = huge(dense.packed_bytes), huge(dense.packed_bytes)
    for piece in (2, 0, 1):
        dense.pack(piece, memory)
    loaded().ossia_pack_dense(ctypes.byref(dense.c), at_once.data_ptr())
    assert dense.pieces == 3 and torch.equal(memory, at_once)
    assert torch.equal(
        torch.cat([source for n in range(3) for source in dense.sources(n)]), weight_NK
    )


def test_what_is_packed_of_a_weight_is_given_back_before_the_next_piece(tmp_path: Path) -> None:
    config = replace(SMALL, vocab_size=4 * PIECE_ROWS)
    checkpoint.write_random(config, tmp_path / "model", seed=1)
    weights = make_native(checkpoint.load(tmp_path / "model"), Precision())
    unembedding = max(weights, key=lambda weight: weight.packed_bytes)
    assert unembedding.pieces == 4
    (published,) = unembedding.published
    left: list[int] = []

    def watched(piece: int, memory: torch.Tensor) -> None:
        left.append(resident_pages(published))
        Dense.pack(unembedding, piece, memory)  # type: ignore[arg-type]

    published.sum()  # all of it is resident
    unembedding.pack = watched  # type: ignore[method-assign]
    Promotion(weights, is_mapped).run()
    quarter = published.nbytes // 4096 / 4
    near = 32  # pages: a fault brings its neighbours along; the system may take others away
    assert len(left) == 4
    assert all(found <= (4 - n) * quarter + near for n, found in enumerate(left))


@pytest.mark.parametrize(("spare", "goes"), [(1 << 20, False), (-(1 << 20), True)])
def test_the_file_leaves_the_cache_only_where_memory_is_scarce(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: int, goes: bool
) -> None:
    """Available is what counts: on a machine that has run for a while next to nothing is free."""
    weights = make_native(checkpoint.load(small), Precision())
    promotion = Promotion(weights, is_mapped)
    available = (SCARCE + 2 * promotion.bytes_total + spare) // 1024
    info = tmp_path / "meminfo"
    info.write_text(f"MemFree: 100 kB\nMemAvailable: {available} kB\n")
    advised: set[int] = set()
    monkeypatch.setattr(memory, "MEMORY_INFO", info)
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(memory, "_advise", lambda view, advice: advised.add(advice))
    weight, mapped = promotion._weights[0]
    assert mapped
    promotion._move(weight, mapped, map)
    assert (memory._PAGEOUT in advised) == goes
    assert memory._DONTNEED in advised


def test_what_is_available_ends_with_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemFree: 100 kB\nMemAvailable: 5000 kB\n")
    monkeypatch.setattr(memory, "MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    assert memory.available_memory() == 5000 * 1024
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert memory.available_memory() == 2_000_000
    (tmp_path / "memory.stat").write_text("anon 300000\ninactive_file 500000\nactive_file 20000\n")
    assert memory.available_memory() == 2_520_000, "files leave the cache where memory is wanted"
    (tmp_path / "memory.stat").write_text("anon 300000\n")
    assert memory.available_memory() == 2_000_000


def test_weights_that_are_memory_already_count_once(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "available_memory", lambda: 1 << 30)
    mapped = checkpoint.load(small)
    taken = sum(p.nbytes for p in (*mapped.parameters(), *mapped.buffers()) if is_mapped(p))
    assert taken > 0.9 * account(mapped.config).checkpoint_bytes
    options = serving.Options(loading="map")
    assert serving.prepare(mapped, options).kv_memory == ((1 << 30) - taken) // 2
    copied = checkpoint.load(small)
    serving._leave_file(copied)
    assert serving.prepare(copied, options).kv_memory == (1 << 30) // 2


def test_a_copy_leaves_no_page_of_the_file_resident(small: Path) -> None:
    weight = checkpoint.load(small).embedding.weight.detach()
    expected = weight.clone()
    assert is_mapped(weight)
    assert resident_pages(weight) > 0
    copied = memory.copy_from_file(weight)
    assert not is_mapped(copied)
    assert torch.equal(copied, expected)
    assert resident_pages(weight) == 0


def test_a_long_prompt_does_not_make_the_embedding_resident(tmp_path: Path) -> None:
    """Each row brings its neighbours along."""
    config = replace(SMALL, vocab_size=1 << 15)
    checkpoint.write_random(config, tmp_path / "model", seed=1)
    weight = checkpoint.load(tmp_path / "model").embedding.weight
    looked_up: list[int] = []

    class Watched(MappedEmbedding):
        def _rows(self, tokens_T: torch.Tensor) -> torch.Tensor:
            looked_up.append(len(tokens_T))
            return super()._rows(tokens_T)

    embedding = Watched(weight)
    tokens = torch.arange(0, config.vocab_size, 7)
    assert torch.equal(embedding(tokens), weight[tokens])
    assert max(looked_up) == MappedEmbedding.EVERY, "no more rows before the pages are given back"
    embedding(tokens[:1])
    embedding(tokens[: MappedEmbedding.EVERY])
    assert resident_pages(weight) == 0


def resident_pages(view: torch.Tensor) -> int:
    """How many of the pages that lie wholly within it this process has."""
    begin, end = -(-view.data_ptr() // 4096), (view.data_ptr() + view.nbytes) // 4096
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(8 * begin)
        entries = np.frombuffer(file.read(8 * (end - begin)), np.uint64)
    return int((entries >> np.uint64(63)).sum())
