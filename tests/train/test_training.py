"""What a step is made of: schedules, optimizers, averages, clipping, accumulation, checkpointing,
precision.
"""

from __future__ import annotations

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import amounts
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from training_runs import TINY, examples, tiny_run

from ossia.batch import Batch
from ossia.config import ModelConfig
from ossia.data.packing import PackedBatch, pack, split
from ossia.errors import ConfigError
from ossia.model import Transformer
from ossia.train.balance import Balancer
from ossia.train.checkpointing import checkpoint_layers, plain
from ossia.train.optim import OPTIMIZERS, Average, Muon, Optimizers, orthogonalize
from ossia.train.run import Schedule
from ossia.train.settings import Balance, Hyperparameters, Lora, OptimizerName, Parallel
from ossia.train.step import ThreadedStep, part_loss
from ossia.train.weights.export import start

NO_BALANCE = Balance(mode="none", router_z=0.0)

# ---- schedules ----


def test_schedule_warms_up_stays_and_decays() -> None:
    s = Schedule(peak=1.0, steps=100, warmup=10, decay=0.5)
    rates = [s.at(n) for n in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:51] == [1.0] * 42
    assert all(a > b for a, b in pairwise(rates[50:])) and rates[-1] < 0.01
    assert rates[75] == pytest.approx(0.5)


def test_shapes_and_floors() -> None:
    linear = Schedule(peak=2.0, steps=100, warmup=0, decay=0.4, floor=0.25, shape="linear")
    assert [linear.at(n) for n in (0, 60, 80, 100)] == pytest.approx([2.0, 2.0, 2 * 0.625, 0.5])
    assert Schedule(1.0, 100, warmup=0, decay=0.0).at(99) == 1.0
    cosine = Schedule(peak=1.0, steps=100, warmup=0, decay=1.0, floor=0.1)
    assert [cosine.at(n) for n in (0, 50, 100)] == pytest.approx([1.0, 0.55, 0.1])


@given(
    st.integers(1, 300),
    st.integers(0, 400),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["cosine", "linear"]),
)
def test_rates_stay_between_zero_and_the_peak(
    steps: int, warmup: int, decay: float, floor: float, shape: Any
) -> None:
    s = Schedule(3e-3, steps, warmup, decay, floor, shape)
    assert all(0 <= s.at(n) <= 3e-3 for n in range(steps))


# ---- optimizers ----


def test_muon_steps_have_singular_values_near_one() -> None:
    for shape in ((3, 16, 40), (40, 16), (5, 24, 24)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
        assert float(values.min()) > 0.3 and float(values.max()) < 1.3
    p = torch.nn.Parameter(torch.randn(4, 8, 8))
    p.grad = torch.randn(4, 8, 8)
    before = p.detach().clone()
    Muon([p], lr=0.1, weight_decay=0.0).step()
    assert float((p.detach() - before).norm()) == pytest.approx(
        0.1 * 0.2 * 8**0.5 * 32**0.5, rel=0.3
    )


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (3, 32, 16), (2, 24, 24)])
def test_the_iteration_is_the_same_in_either_dtype(
    shape: tuple[int, ...], dtype: torch.dtype, error: float
) -> None:
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact, got = orthogonalize(g.double(), torch.float64), orthogonalize(g, dtype)
    assert got.dtype == torch.float32 and got.shape == shape
    assert float((got - exact).norm() / exact.norm()) < error


def test_a_stack_of_matrices_steps_like_each_of_them_in_torch() -> None:
    stack = torch.nn.Parameter(torch.randn(3, 16, 40))
    singles = [torch.nn.Parameter(matrix.clone()) for matrix in stack.detach()]
    ours = Muon([stack], lr=0.02, weight_decay=0.1)
    theirs = torch.optim.Muon(
        singles, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    before = stack.detach().clone()
    for _ in range(5):
        stack.grad = torch.randn(3, 16, 40)
        for p, g in zip(singles, stack.grad.clone(), strict=True):
            p.grad = g
        ours.step()
        theirs.step()
    moved, expected = stack.detach() - before, torch.stack([p.detach() for p in singles]) - before
    assert float((moved - expected).norm() / expected.norm()) < 0.02  # theirs iterates in bfloat16


def test_who_gets_which_optimizer_and_weight_decay() -> None:
    model = Transformer(TINY)
    model.layers[0].attn.q.weight.requires_grad_(False)
    groups = [
        (type(o).__name__, g)
        for o in Optimizers(model, 1e-3, 0.1, (0.9, 0.95), optimizer="muon").all
        for g in o.param_groups
    ]
    names = {id(p): n for n, p in model.named_parameters()}
    found = {names[id(p)]: (kind, g["weight_decay"]) for kind, g in groups for p in g["params"]}
    assert found.keys() == set(names.values()) - {"layers.0.attn.q.weight"}
    assert found["layers.1.attn.q.weight"] == ("Muon", 0.1)
    assert found["layers.1.moe.experts.down.weight"] == ("Muon", 0.1)
    for name in (
        "embedding.weight",
        "unembedding.weight",
        "layers.0.moe.experts.down.bias",
        "layers.0.attn.sinks",
    ):
        assert found[name] == ("AdamW", 0.0)
    adamw = Optimizers(model, 1e-3, 0.1, (0.9, 0.95), optimizer="adamw")
    assert [g["weight_decay"] for g in adamw.all[0].param_groups] == [0.0, 0.1] and len(
        adamw.all
    ) == 1


@given(st.integers(1, 12), st.floats(0.0, 0.99))
@settings(max_examples=amounts.examples(30), deadline=None)
def test_the_average_is_the_weighted_mean_of_what_was_seen(updates: int, decay: float) -> None:
    p = torch.randn(5, dtype=torch.float64)
    average, seen = Average([p], decay), []
    for _ in range(updates):
        p.normal_()
        seen.append(p.clone())
        average.update()
    weights = torch.tensor(
        [decay ** (updates - 1 - n) for n in range(updates)], dtype=torch.float64
    )
    expected = (torch.stack(seen) * weights[:, None]).sum(0) / weights.sum()
    average.put()
    torch.testing.assert_close(p, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_averaged_routers_take_over_the_whole_selection_bias(tmp_path: Path, decay: float) -> None:
    """At a rate of next to nothing all that changes is what is handed over, and the averaged biases
    get it too.
    """
    worker = worker_of(
        tmp_path, steps=20, ema=decay, balance=Balance(mode="bias", bias_rate=0.2, router_z=0.0)
    )
    routers = [layer.moe.router for layer in worker.model.layers]
    with torch.no_grad():
        for router in routers:  # sends everything to two experts
            router.bias[:2] += 3
    before = [router.bias.detach().clone() for router in routers]
    for _ in range(20):
        worker.step(a_batch(), 1e-30)
    trained = [router.bias.detach().clone() for router in routers]
    worker.finish()
    worker.close()
    for router, bias, old in zip(routers, trained, before, strict=True):
        assert float((bias - old).abs().max()) > 1
        torch.testing.assert_close(router.bias.detach(), bias, rtol=1e-5, atol=1e-5)


# ---- a step ----


def a_batch(tokens: int = 200) -> PackedBatch:
    return next(pack(examples(None), tokens, 100))[0]


def worker_of(out: Path, double: bool = False, **hyper: Any) -> ThreadedStep:
    run = tiny_run(out, **hyper)
    model = start(run)
    if double:
        model.double()
        model.compute_dtype = model.residual_dtype = torch.float64
    return ThreadedStep(model, run, Balancer(model, run.hyper.balance, run.steps))


def plain_loss(model: Transformer, batch: PackedBatch) -> Tensor:
    """The formula, of full logits, one document after the other."""
    losses, begin = [], 0
    for length in batch.lengths:
        tokens = torch.as_tensor(batch.tokens[begin : begin + length])
        logits = model(tokens, Batch.packed([length]))
        here = [n for n, row in enumerate(batch.rows) if begin <= row < begin + length]
        rows = torch.tensor([int(batch.rows[n]) - begin for n in here], dtype=torch.int64)
        targets = torch.tensor([int(batch.targets[n]) for n in here], dtype=torch.int64)
        losses.append(torch.nn.functional.cross_entropy(logits[rows], targets, reduction="sum"))
        begin += length
    return torch.stack(losses).sum() / len(batch.targets)


@pytest.mark.parametrize(("shards", "accumulate"), [(1, 1), (3, 2)])
def test_a_step_follows_the_clipped_gradient_of_the_plain_formula(
    tmp_path: Path, shards: int, accumulate: int
) -> None:
    """In float64: the loss, the norm and the gradients after clipping, however the step is cut."""
    worker = worker_of(
        tmp_path,
        True,
        shards=shards,
        accumulate=accumulate,
        balance=NO_BALANCE,
        clip=0.5,
        optimizer="adamw",
    )
    batch = a_batch()
    expected = plain_loss(worker.model, batch)
    gradients = torch.autograd.grad(expected, worker.params)
    norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt().item()
    assert norm > 0.5
    loss, metrics = worker.step(batch, 1e-3)
    assert loss == pytest.approx(expected.item(), rel=1e-9) and metrics[
        "gradient_norm"
    ] == pytest.approx(norm, rel=1e-6)
    for p, g in zip(worker.params, gradients, strict=True):
        torch.testing.assert_close(p.grad, g * (0.5 / (norm + 1e-6)), rtol=1e-5, atol=1e-9)
    worker.close()


def test_without_clipping_gradients_stay(tmp_path: Path) -> None:
    worker = worker_of(tmp_path, clip=0.0)
    _, metrics = worker.step(a_batch(), 1e-3)
    norm = (
        torch.stack([p.grad.square().sum() for p in worker.params if p.grad is not None])
        .sum()
        .sqrt()
        .item()
    )
    assert norm == pytest.approx(metrics["gradient_norm"], rel=1e-4) and norm > 1.0
    worker.close()


def test_accumulated_parts_are_the_same_bits_as_parts_side_by_side(tmp_path: Path) -> None:
    """Without statistics over the whole step, which cannot know the parts to come."""
    ways, balance = [(4, 1), (2, 2), (1, 4)], Balance(statistics="micro")
    workers = [worker_of(tmp_path, shards=s, accumulate=a, balance=balance) for s, a in ways]
    assert len(split(a_batch(), 4)) == 4
    results = [[worker.step(a_batch(), 1e-3)[0] for _ in range(3)] for worker in workers]
    assert results[0] == results[1] == results[2]
    for other in workers[1:]:
        assert all(map(torch.equal, workers[0].params, other.params))
    for worker in workers:
        worker.close()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("statistics", ["global", "sequence"])
def test_forgetting_activations_changes_no_bit(
    tmp_path: Path, precision: Any, statistics: Any
) -> None:
    hyper = {"precision": precision, "balance": Balance(statistics=statistics), "accumulate": 2}
    workers = [worker_of(tmp_path, checkpoint_layers=on, **hyper) for on in (False, True)]
    found = [[worker.step(a_batch(), 1e-3) for _ in range(3)] for worker in workers]
    assert found[0] == found[1]
    assert all(map(torch.equal, workers[0].params, workers[1].params))
    for worker in workers:
        worker.close()


def test_forgetting_keeps_less_and_can_be_taken_off() -> None:
    model = Transformer(TINY).train()
    model.init_weights(0)

    def kept() -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (sizes.append(t.nbytes), t)[1], lambda t: t
        ):
            part_loss(model, a_batch(), None, 0, 1.0, 1.0)
        return sum(sizes)

    before = kept()
    checkpoint_layers(model)
    assert kept() < before / 2
    plain(model)
    assert kept() == before


@pytest.mark.slow
def test_compiled_parts_compute_the_same(tmp_path: Path) -> None:
    workers = [worker_of(tmp_path, compile=on, shards=2) for on in (False, True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        found = [
            [worker.step(a_batch(tokens), 1e-3)[0] for tokens in (200, 150, 230)]
            for worker in workers
        ]
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    for worker in workers:
        worker.close()


def test_router_and_loss_stay_float32_under_bfloat16(tmp_path: Path) -> None:
    worker = worker_of(tmp_path, precision="bfloat16")
    seen: dict[str, torch.dtype] = {}
    router, attention = worker.model.layers[0].moe.router, worker.model.layers[0].attn
    router.register_forward_hook(
        lambda m, args, out: seen.update(logits=out[2].dtype, weights=out[1].dtype)
    )
    attention.q.register_forward_hook(lambda m, args, out: seen.update(query=out.dtype))
    attention.register_forward_hook(lambda m, args, out: seen.update(residual=out.dtype))
    found = part_loss(worker.model, a_batch(), None, 0, 1.0, 1.0)
    rough, exact = torch.bfloat16, torch.float32
    assert seen == {"logits": exact, "weights": exact, "query": rough, "residual": exact}
    assert found.total.dtype == found.loss.dtype == exact and all(
        p.dtype == exact for p in worker.params
    )
    worker.close()


# ---- settings ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hyperparameters(decay_shape="wavy"), "decay_shape must be one of cosine, linear"),  # type: ignore[arg-type]
        (lambda: Hyperparameters(precision="float16"), "precision must be one of"),  # type: ignore[arg-type]
        (lambda: Hyperparameters(ema=1.0), "ema must be at least 0 and less than 1"),
        (lambda: Hyperparameters(accumulate=0), "accumulate must be 1 or more"),
        (lambda: Hyperparameters(clip=-1.0), "clip must be 0 or more"),
        (lambda: Hyperparameters(decay=1.5), "decay must be between 0 and 1"),
        (lambda: Hyperparameters(peak_lr=0.0), "peak_lr must be more than 0"),
        (lambda: Hyperparameters(betas=(0.9, 1.0)), "betas must be at least 0 and less than 1"),
        (lambda: Hyperparameters(seed=-1), "seed must be at least 0"),
        (lambda: Lora(alpha=math.nan), "lora.alpha must be a number"),
        (lambda: Balance(mode="auto"), "balance.mode must be one of none, aux, bias"),  # type: ignore[arg-type]
        (lambda: Balance(capacity=0.0), "balance.capacity must be more than 0"),
        (lambda: Lora(rank=0), "lora.rank must be 1 or more"),
        (lambda: Lora(attention=False, experts=False), "lora.attention or lora.experts"),
        (lambda: Parallel(tp=0), "parallel.tp must be 1 or more"),
        (lambda: tiny_run(Path(), steps=0), "steps and save_every must be 1 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_every_optimizer_that_settings_can_name_has_a_row() -> None:
    assert tuple(OPTIMIZERS) == get_args(OptimizerName)


def test_pieces_of_a_step_on_threads_give_the_same_bits() -> None:
    def trained(pool: ThreadPoolExecutor | None) -> list[Tensor]:
        model = Transformer(
            replace(ModelConfig.preset("micro"), num_hidden_layers=2, layer_types=())
        )
        model.init_weights(0)
        optimizers = Optimizers(model, 1e-2, 0.1, (0.9, 0.95), "muon")
        rng = torch.Generator().manual_seed(1)
        for _ in range(2):
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=rng)
            optimizers.step(1e-2, pool)
        return [p.detach() for p in model.parameters()]

    with ThreadPoolExecutor(2) as pool:
        assert all(torch.equal(a, b) for a, b in zip(trained(pool), trained(None), strict=True))
