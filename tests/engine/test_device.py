"""A whole model through the engine by the kernels of a GPU: the logits are the reference's, however
prompts are cut and batched.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from ossia.engine.kv import DeviceCache
from ossia.model import Transformer


class Spy(Engine):
    """Keeps the logits of every token that was sampled, by request."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.seen: dict[int, list[Tensor]] = {}
        assert isinstance(self._runner.cache, DeviceCache)
        run = self._runner.run

        def spied(scheduled):  # type: ignore[no-untyped-def]
            logits = run(scheduled)
            n = 0
            for work in scheduled:
                if work.samples:
                    rows = logits[n : n + 1 + work.drafts].float().cpu()
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
