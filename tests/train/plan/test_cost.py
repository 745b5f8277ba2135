"""Costs against independent counts: torch's counter of operations, autograd's tensors, optimizers'
states, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ossia.batch import Batch
from ossia.config import FULL, SLIDING, ModelConfig, account
from ossia.kernels import cpu
from ossia.model import Transformer
from ossia.train.balance import Balancer
from ossia.train.losses import cross_entropy
from ossia.train.optim import Optimizers
from ossia.train.plan import cost
from ossia.train.settings import Balance, Hyperparameters, Lora, OptimizerName
from ossia.train.weights.lora import attach

TINY = ModelConfig(
    num_hidden_layers=3, hidden_size=24, intermediate_size=16, num_experts=5, experts_per_token=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=8, vocab_size=40, sliding_window=4,
    initial_context_length=64, max_context_length=64, rope_theta=100.0, rope_scaling="none",
    layer_types=(SLIDING, FULL, SLIDING),
)  # fmt: skip


def plain_model(config: ModelConfig, tokens: int) -> Tensor:
    """A loss with the shapes of this architecture and nothing else: every query by itself over the
    keys it sees, every chosen expert by itself. Values mean nothing; only products are counted.
    """
    c = config

    def weight(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, requires_grad=True)

    x = torch.randn(tokens, c.hidden_size, requires_grad=True)
    for layer in range(c.num_hidden_layers):
        q, k, v = (x @ weight(c.hidden_size, width) for width in (c.q_dim, c.kv_dim, c.kv_dim))
        groups = c.num_attention_heads // c.num_key_value_heads
        window = c.window(layer) or tokens
        rows = []
        for t in range(tokens):
            first = max(0, t + 1 - window)
            heads = []
            for head in range(c.num_attention_heads):
                at = slice(head // groups * c.head_dim, (head // groups + 1) * c.head_dim)
                one = q[t : t + 1, head * c.head_dim : (head + 1) * c.head_dim]
                heads.append((one @ k[first : t + 1, at].T) @ v[first : t + 1, at])
            rows.append(torch.cat(heads, 1))
        x = x + torch.cat(rows) @ weight(c.q_dim, c.hidden_size)
        experts, width = c.expert_shape(layer)
        for _ in range(c.experts_per_token if c.is_moe(layer) else 1):
            x = x + (x @ weight(c.hidden_size, 2 * width))[:, :width] @ weight(width, c.hidden_size)
        if c.is_moe(layer):
            x = x + (x @ weight(c.hidden_size, experts)).sum()
    return (x @ weight(c.hidden_size, c.vocab_size)).sum()


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("tokens", [3, 11])
def test_flops_are_those_torch_counts(tokens: int, stride: int) -> None:
    config = replace(TINY, moe_stride=stride)
    with FlopCounterMode(display=False) as counter:
        plain_model(config, tokens).backward()
    assert cost.flops_per_token(config, tokens) * tokens == pytest.approx(
        counter.get_total_flops(), rel=1e-9
    )


def test_flops_of_the_published_models() -> None:
    """6 for each active parameter is the usual rule, without attention's scores."""
    for name in ("gpt-oss-20b", "gpt-oss-120b"):
        config = ModelConfig.preset(name)
        assert cost.flops_per_token(config, 1) == pytest.approx(
            6 * account(config).active, rel=0.01
        )
    again = cost.flops_per_token(TINY, 8, checkpoint_layers=True) - cost.flops_per_token(TINY, 8)
    assert again == cost.layer_flops(TINY, 8)


@given(st.integers(1, 60), st.none() | st.integers(1, 80))
def test_mean_keys_by_counting(context: int, window: int | None) -> None:
    seen = [min(t + 1, window or context) for t in range(context)]
    assert cost.mean_keys(context, window) == pytest.approx(sum(seen) / context)


@pytest.mark.parametrize("rate", [1e8, 1e9, 1e10, 1e12, 1e13])
def test_the_peak_is_measured_quickly(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine of so many operations a second, by its clock, which nothing else moves."""
    now = 0.0

    def product_seconds(pool: Any, threads: int, size: int, dtype: torch.dtype) -> float:
        nonlocal now
        took = 2 * size**3 / rate
        now += took
        return took

    monkeypatch.setattr(cost, "_seconds", product_seconds)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now)
    assert cost.peak_flops.__wrapped__(torch.float32, 1) == pytest.approx(rate)
    assert now < 0.5


def test_the_peak_is_that_of_a_machine_and_measured_once() -> None:
    cost.peak_flops.cache_clear()
    peak = cost.peak_flops(torch.float32, 1)
    assert 1e8 < peak < 1e14
    assert cost.peak_flops(torch.float32, 1) == peak


# ---- bytes ---------------------------------------------------------------------------------------


def kept_by_autograd(config: ModelConfig, lengths: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes of the storages that a forward pass keeps for the backward one, without the weights
    themselves.
    """
    model = Transformer(config).train()
    model.init_weights(0)
    model.compute_dtype = dtype
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}
    alive = []

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(t)
        return t

    ids = torch.zeros(sum(lengths), dtype=torch.int64).random_(config.vocab_size)
    balancer = Balancer(model, Balance(), 10)
    balancer.begin(1, 0)
    logits: dict[int, Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        x_RD = model.hidden(ids, Batch.packed(lengths, router_logits=logits))
        loss = cross_entropy(x_RD, model.unembedding.weight, ids) + balancer.loss(
            0, logits, lengths, 1.0
        )
    assert loss.requires_grad
    return sum(found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("lengths", "experts", "width"), [([128] * 4, 16, 128), ([300, 84], 4, 256)]
)
@pytest.mark.parametrize("compiled", [False, True])
def test_activations_are_what_autograd_keeps(
    lengths: list[int],
    experts: int,
    width: int,
    dtype: torch.dtype,
    compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In torch's form; what is compiled keeps less."""
    if not compiled:
        monkeypatch.setenv("OSSIA_KERNELS", "reference")
    elif isinstance(cpu.compiled(), str):
        pytest.skip(str(cpu.compiled()))
    config = replace(
        ModelConfig.preset("nano"),
        num_hidden_layers=2,
        layer_types=(),
        num_experts=experts,
        intermediate_size=width,
    )
    size = dtype.itemsize
    kept = kept_by_autograd(config, lengths, dtype)
    # the unembedding's gradient, which is counted with gradients
    kept -= 4 * config.vocab_size * config.hidden_size
    if size < 4:  # converted matrices, counted as copies
        hyper = Hyperparameters(precision="bfloat16", shards=1)
        kept -= cost.memory(config, hyper).copies
    estimate = cost.all_activations(config, sum(lengths), size, False)
    assert 0.65 < kept / estimate < 1.0 if compiled else estimate == pytest.approx(kept, rel=0.1)


def test_checkpointing_keeps_far_less() -> None:
    config = ModelConfig.preset("gpt-oss-20b")
    whole = cost.all_activations(config, 4096, 2, False)
    less = cost.all_activations(config, 4096, 2, True)
    inputs = 24 * 4096 * 4 * 2880
    assert inputs < less < inputs + whole / 20 and less < whole / 4


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_weights_gradients_and_optimizer_are_those_of_a_real_step(name: OptimizerName) -> None:
    model = Transformer(TINY)
    model.init_weights(0)
    optimizer = Optimizers(model, 1e-3, 0.1, (0.9, 0.95), name)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step(1e-3)
    states = [state for one in optimizer.all for state in one.state.values()]
    held = sum(
        t.nbytes for state in states for t in state.values() if isinstance(t, Tensor) and t.ndim
    )
    found = cost.memory(TINY, Hyperparameters(optimizer=name, shards=1))
    assert found.optimizer == held
    assert found.weights == sum(p.nbytes for p in model.parameters()) == 4 * account(TINY).total
    assert found.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert (
        cost.memory(TINY, Hyperparameters(shards=3, accumulate=2)).gradients == 4 * found.gradients
    )


def test_low_rank_factors_are_those_that_are_attached() -> None:
    config = replace(TINY, hidden_size=32, intermediate_size=32, moe_stride=3)
    for lora in (Lora(rank=3), Lora(rank=5, experts=False), Lora(rank=2, attention=False)):
        model = attach(Transformer(config), lora)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert cost.lora_parameters(config, lora) == trained


def test_the_disk_is_what_a_run_leaves(tmp_path: Path) -> None:
    """The state and the weights of a real run; the state is there twice while it is replaced."""
    from pipeline_toy import toy_run

    from ossia.train.loop import train

    run = toy_run(tmp_path / "run", steps=2)
    train(run, stop_after=1)
    state = (run.out / "state.pt").stat().st_size
    train(run)
    weights = (run.out / "weights.safetensors").stat().st_size
    assert cost.disk(run.config, run.hyper) == pytest.approx(
        2 * state + weights, rel=0.1, abs=60_000
    )
