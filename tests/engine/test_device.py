"""A whole model through the engine by the kernels of a GPU: the logits are the reference's, however
prompts are cut and batched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import device_kernels
import pytest
import torch
from device_kernels import needs_triton
from tiny_model import tiny_config, tiny_tokenizer
from torch import Tensor

from ossia import checkpoint
from ossia.config import ModelConfig
from ossia.engine import Engine, SamplingParams
from ossia.engine.device import graphs as graphs_module
from ossia.engine.device.graphs import MOST_ROWS, Compute, DecodeGraphs, captured, rounded
from ossia.engine.forward import forward_of
from ossia.engine.kv import DeviceCache
from ossia.engine.pages import PageTables
from ossia.engine.request import Request
from ossia.engine.runner import not_whole
from ossia.engine.scheduler import Work
from ossia.errors import ConfigError
from ossia.model import Transformer


class Spy(Engine):
    """Keeps the logits of every token that was sampled, by request."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.seen: dict[int, list[Tensor]] = {}
        assert isinstance(self._runner.cache, DeviceCache)
        run = self._runner.run

        def spied(scheduled, *unread):  # type: ignore[no-untyped-def]
            logits = run(scheduled, *unread)
            n = 0
            for work in scheduled:
                if work.samples:
                    rows = logits[n : n + 1 + work.drafts].cpu().clone()
                    self.seen.setdefault(work.request.id, []).append(rows[0])
                    n += 1 + work.drafts
            return logits

        self._runner.run = spied  # type: ignore[method-assign]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    return device_kernels.prepared(monkeypatch)


def made(folder: Path, config: ModelConfig) -> Path:
    checkpoint.write_random(config, folder / "model", seed=1)
    return folder / "model"


def drained(engine: Engine) -> dict[int, list[int]]:
    ids: dict[int, list[int]] = {}
    while engine.has_work():
        for token in engine.step():
            ids.setdefault(token.request_id, []).append(token.token_id)
    assert not engine.failed
    return ids


def check_against_reference(
    folder: Path, device: torch.device, prompts: list[list[int]], tokens: int, at_once: int
) -> None:
    """Every sampled token's logits, against a forward over the whole sequence without a cache."""
    model = checkpoint.load(folder, "float32", device)
    engine = Spy(model, max_batch_tokens=at_once, capacity=4096, latency_target=None)
    greedy = SamplingParams(temperature=0, max_tokens=tokens)
    requests = [engine.submit(prompt, greedy) for prompt in prompts]
    answers = drained(engine)
    for prompt, request in zip(prompts, requests, strict=True):
        whole = reference_logits(folder, [*prompt, *answers[request]])
        for n, logits in enumerate(engine.seen[request]):
            wanted = whole[len(prompt) - 1 + n]
            error = float((logits - wanted).abs().max())
            assert error <= 1e-4 * float(wanted.abs().max()), (request, n, error)


def reference_logits(folder: Path, ids: list[int]) -> Tensor:
    from ossia.batch import Batch

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setenv("OSSIA_KERNELS", "reference")
        reference: Transformer = checkpoint.load(folder, "float32")
        return reference(torch.tensor(ids), Batch.packed([len(ids)]))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@needs_triton
def test_a_tiny_model_through_the_engine(tmp_path: Path, device: torch.device) -> None:
    """Two layers, one of them windowed; a prompt in chunks beside one that decodes already."""
    folder = made(tmp_path, replace(tiny_config(tiny_tokenizer()), vocab_size=300))
    prompts = [[(7 * n) % 300 for n in range(20)], [5, 6, 7]]
    check_against_reference(folder, device, prompts, tokens=3, at_once=12)


@needs_triton
@pytest.mark.slow
def test_a_deeper_model_with_many_requests(tmp_path: Path, device: torch.device) -> None:
    tiny = tiny_config(tiny_tokenizer())
    config = replace(
        tiny,
        num_hidden_layers=4,
        layer_types=2 * tiny.layer_types,
        num_attention_heads=8,
        num_experts=8,
        experts_per_token=4,
        hidden_size=96,
        vocab_size=300,
    )
    prompts = [[(11 * n + m) % 300 for n in range(5 + 13 * m)] for m in range(6)]
    check_against_reference(made(tmp_path, config), device, prompts, tokens=6, at_once=32)


def replayed(compute: Compute, pool: object) -> Callable[[], object]:
    """As `captured` of graphs.py, without a device: computes again, into the same memory."""
    compute()
    return compute


def seen(
    folder: Path,
    device: torch.device,
    prompts: list[list[int]],
    at_once: int,
    graphs: bool,
    ahead: bool = False,
) -> list[list[Tensor]]:
    """The logits of every prompt's answer, from an engine whose bits do not depend on the batch."""
    model = checkpoint.load(folder, "float32", device)
    engine = Spy(
        model,
        max_batch_tokens=at_once,
        capacity=4096,
        latency_target=None,
        same_bits=True,
        graphs=False,
        ahead=ahead,
        speculate=False,
    )
    if graphs:
        cache = engine._runner.cache
        assert isinstance(cache, DeviceCache)
        how = captured if device.type == "cuda" else replayed
        engine._runner.graphs = DecodeGraphs(model, cache, len(prompts) + 1, how)
    greedy = SamplingParams(temperature=0, max_tokens=4)
    requests = [engine.submit(prompt, greedy) for prompt in prompts]
    drained(engine)
    if graphs:
        assert engine._runner.graphs is not None
        captured_rows = [rows for rows, *_ in engine._runner.graphs.graphs]
        assert len(captured_rows) > 1
        assert captured_rows[0] == max(captured_rows)  # its memory serves the smaller ones
    return [engine.seen[request] for request in requests]


def same(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return len(found) == len(wanted) and all(map(torch.equal, found, wanted))


@needs_triton
@pytest.mark.slow
def test_the_same_bits_alone_among_others_in_chunks_and_from_a_graph(
    tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device.type == "cpu":
        device_kernels.rows_alike(monkeypatch)
    config = replace(tiny_config(tiny_tokenizer()), vocab_size=300)
    folder = made(tmp_path, config)
    prompt = [(7 * n) % 300 for n in range(21)]
    others = [[3, 1, 4, 1, 5], [9] * 11]
    (alone,) = seen(folder, device, [prompt], at_once=64, graphs=False)
    assert same(seen(folder, device, [prompt], at_once=5, graphs=False)[0], alone)
    assert same(seen(folder, device, [*others, prompt], at_once=64, graphs=False)[2], alone)
    # three rows fill up four; their tokens are on the device before anybody reads them
    for ahead in (False, True):
        found = seen(folder, device, [prompt, *others], 64, graphs=True, ahead=ahead)
        assert same(found[0], alone)


@pytest.mark.gpu
def test_bfloat16_on_a_device_is_near_the_reference(tmp_path: Path, device: torch.device) -> None:
    """Through the engine, in graphs, against the reference in float32 on the CPU."""
    folder = made(tmp_path, replace(tiny_config(tiny_tokenizer()), vocab_size=300))
    model = checkpoint.load(folder, "bfloat16", device)
    engine = Spy(model, capacity=4096, speculate=False)
    prompts = [[(7 * n + m) % 300 for n in range(30)] for m in range(5)]
    greedy = SamplingParams(temperature=0, max_tokens=8)
    requests = [engine.submit(prompt, greedy) for prompt in prompts]
    answers = drained(engine)
    for prompt, request in zip(prompts, requests, strict=True):
        whole = reference_logits(folder, [*prompt, *answers[request]])
        for n, logits in enumerate(engine.seen[request]):
            wanted = whole[len(prompt) - 1 + n]
            assert float((logits - wanted).abs().max()) <= 5e-2 * float(wanted.abs().max())


@pytest.mark.gpu
def test_steps_by_graphs_and_begun_early_are_the_plain_ones(
    tmp_path: Path, device: torch.device
) -> None:
    folder = made(tmp_path, replace(tiny_config(tiny_tokenizer()), vocab_size=300))
    model = checkpoint.load(folder, "bfloat16", device)
    found = []
    for graphs, ahead in ((False, False), (True, False), (True, True), (False, True)):
        how = {"graphs": graphs, "ahead": ahead, "same_bits": True, "speculate": False}
        engine = Engine(model, capacity=4096, max_batch_tokens=32, latency_target=None, **how)
        for m in range(9):
            params = SamplingParams(temperature=1, seed=m, top_p=0.9, max_tokens=5 + 3 * m)
            engine.submit([(7 * n + m) % 300 for n in range(10 + 5 * m)], params)
        found.append(drained(engine))
    assert all(answers == found[0] for answers in found)


def test_graphs_are_for_steps_that_only_decode() -> None:
    model = Transformer(tiny_config(tiny_tokenizer()))
    tables = PageTables({None: 300, 8: 300})
    cache = DeviceCache(model.config, tables, torch.float32, torch.device("cpu"))
    graphs = DecodeGraphs(model, cache, 500, replayed)

    def serves(*works: tuple[int, int]) -> bool:
        """Of requests by length of the prompt and of the chunk."""
        scheduled = []
        for owner, (prompt, count) in enumerate(works):
            request = Request(owner, (1,) * prompt, SamplingParams(), limit=9)
            scheduled.append(Work(request, count))
            if owner not in tables.owners:
                tables.grow(owner, 0, 1)
        return graphs.serve(forward_of(tables, scheduled))

    assert serves((1, 1))
    assert not serves((1, 1), (5, 3))  # a chunk of a prompt
    assert not serves((2, 1))  # nothing is sampled
    assert serves(*[(1, 1)] * MOST_ROWS)
    assert not serves(*[(1, 1)] * (MOST_ROWS + 1))
    assert [rounded(n) for n in (0, 1, 2, 3, 200)] == [1, 1, 2, 4, 256]


def test_the_graph_that_was_not_used_for_longest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs_module, "MOST_GRAPHS", 2)
    model = Transformer(tiny_config(tiny_tokenizer()))
    tables = PageTables({None: 4, 8: 4})
    cache = DeviceCache(model.config, tables, torch.float32, torch.device("cpu"))
    captured_rows = []

    def capture(compute: Compute, pool: object) -> Callable[[], object]:
        captured_rows.append(1)
        return lambda: None

    graphs = DecodeGraphs(model, cache, 8, capture)
    for rows in (1, 2, 1, 4, 1, 2):
        graphs._graph(graphs._described(graphs._nothing(), rows))
    assert [rows for rows, *_ in graphs.graphs] == [1, 2]
    assert len(captured_rows) == 4  # 1, 2, 4, and 2 again


@needs_triton
def test_same_bits_are_refused_where_torch_has_a_part(device: torch.device) -> None:
    """Experts that are not packed are torch's, which can be in no graph either."""
    config = tiny_config(tiny_tokenizer())
    trainable = Transformer(config).to(device)
    assert not_whole(trainable) is not None
    assert not_whole(Transformer(config, "packed").to(device)) is None
    with pytest.raises(ConfigError, match="not in MXFP4"):
        Engine(trainable, capacity=64, same_bits=True)
    assert Engine(trainable, capacity=64)._runner.graphs is None
