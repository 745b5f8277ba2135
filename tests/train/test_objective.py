"""Objectives of a run's own: the weights of targets by every normalizer, however a step is cut, and
batches that come from the model that is being trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from objective_cases import Weighted, a_batch_of_groups
from torch import Tensor
from training_runs import tiny_run

from ossia.data.packing import PackedBatch, split
from ossia.errors import ConfigError, TrainingError
from ossia.model import Transformer
from ossia.train.balance import Balancer
from ossia.train.log import read_log
from ossia.train.loop import train
from ossia.train.objective import Normalizer, weights
from ossia.train.run import Run
from ossia.train.settings import Balance
from ossia.train.step import ThreadedStep, Worker
from ossia.train.weights.export import start

NORMALIZERS: list[Normalizer] = ["tokens", "samples", "constant"]
NO_BALANCE = Balance(mode="none", router_z=0.0)


def grouped_run(out: Path, normalizer: Normalizer = "tokens", **hyper: Any) -> Run:
    usual: dict[str, Any] = {"balance": NO_BALANCE, "optimizer": "adamw", "clip": 0.0}
    run = tiny_run(out, **usual | hyper)
    return replace(run, examples=None, batches=grouped, objective=Weighted(normalizer))


def grouped(worker: Worker, state: Any) -> Iterator[tuple[PackedBatch, int]]:
    index = state or 0
    while True:
        index += 1
        yield a_batch_of_groups(index), index


def worker_of(run: Run, double: bool = False) -> ThreadedStep:
    model = start(run)
    if double:
        model.double()
        model.compute_dtype = model.residual_dtype = torch.float64
    return ThreadedStep(model, run, Balancer(model, run.hyper.balance, run.steps))


# ---- weights ----


def test_weights_of_each_normalizer() -> None:
    """The third sequence keeps nothing: it is in no numerator and no denominator."""
    keep = np.array([1, 1, 0, 1, 0, 0], np.float32)
    sequence = np.array([4, 4, 4, 7, 7, 9], np.int32)
    third, quarter = 1 / 3, 1 / 4
    cases = {
        "tokens": [third, third, 0, third, 0, 0],
        "samples": [quarter, quarter, 0, 2 * quarter, 0, 0],
        "constant": [0.1, 0.1, 0, 0.1, 0, 0],
    }
    for normalizer, wanted in cases.items():
        found = weights(keep, sequence, normalizer, constant=10)  # type: ignore[arg-type]
        assert found is not None and found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    for normalizer in NORMALIZERS:
        assert weights(keep * 0, sequence, normalizer) is None


# ---- a step, however it is cut ----


def plain(model: Transformer, batch: PackedBatch, normalizer: Normalizer) -> Tensor:
    """The formula, one sample after the other."""
    prepared = Weighted(normalizer).prepare(batch)
    assert prepared is not None
    return Weighted.of_whole_samples(model, prepared)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_gradients_are_those_of_the_formula_in_any_number_of_parts(
    tmp_path: Path, normalizer: Normalizer
) -> None:
    """In float64, with some samples masked."""
    batch = a_batch_of_groups(1)
    assert 0 < (batch.streams["keep"] == 0).sum() < len(batch.targets)
    found: list[list[Tensor]] = []
    for shards, accumulate in ((1, 1), (2, 1), (1, 5)):
        run = grouped_run(tmp_path, normalizer, shards=shards, accumulate=accumulate)
        worker = worker_of(run, double=True)
        wanted = plain(worker.model, batch, normalizer)
        gradients = torch.autograd.grad(wanted, worker.params)
        loss, _ = worker.step(batch, 1e-3)
        assert loss == pytest.approx(wanted.item(), rel=1e-6)
        for p, gradient in zip(worker.params, gradients, strict=True):
            torch.testing.assert_close(p.grad, gradient, rtol=1e-6, atol=1e-7)
        found.append([p.grad for p in worker.params if p.grad is not None])
        worker.close()
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_metrics_of_parts_come_together(tmp_path: Path) -> None:
    logs = []
    for shards, accumulate in ((1, 1), (2, 3)):
        out = tmp_path / str(shards)
        train(grouped_run(out, shards=shards, accumulate=accumulate))
        logs.append(read_log(out))
    for one, other in zip(*logs, strict=True):
        assert one["kept"] == other["kept"] > 0
        assert one["largest"] == pytest.approx(other["largest"], rel=1e-5)
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4, abs=1e-6)


def test_halves_are_compared_by_the_gradients_of_each(tmp_path: Path) -> None:
    """In float64, by the formula, for each half of the groups as the step cuts them."""
    run = replace(grouped_run(tmp_path, shards=1), halves=True)
    worker = worker_of(run, double=True)
    batch = a_batch_of_groups(3)
    prepared = worker.objective.prepare(batch)
    assert prepared is not None
    found = []
    for half in split(prepared, 2):
        loss = Weighted.of_whole_samples(worker.model, half)
        gradients = torch.autograd.grad(loss, worker.params)
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    wanted = torch.cosine_similarity(found[0], found[1], dim=0).item()
    _, metrics = worker.step(batch, 1e-3)
    assert metrics["halves_cosine"] == pytest.approx(wanted, abs=1e-6)
    assert abs(wanted) < 0.99
    _, metrics = worker.step(a_batch_of_groups(2, groups=1), 1e-3)
    assert "halves_cosine" not in metrics  # a group is not cut
    worker.close()


def test_fewer_threads_than_parts_make_the_same_bits(tmp_path: Path) -> None:
    many = train(grouped_run(tmp_path / "many", shards=3))
    few = train(replace(grouped_run(tmp_path / "few", shards=3), threads=1))
    assert all(map(torch.equal, many.state_dict().values(), few.state_dict().values()))


def test_parts_that_wait_for_each_other_need_their_threads(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"statistics=micro, or as many threads"):
        replace(tiny_run(tmp_path, shards=2, balance=Balance()), threads=1)


# ---- runs ----


def test_several_updates_on_each_batch(tmp_path: Path) -> None:
    """As many steps with the same batch as a run would make that has it so often."""
    run = replace(grouped_run(tmp_path / "updates", warmup=0, decay=0.0), steps=2, updates=2)

    def twice(worker: Worker, state: Any) -> Iterator[tuple[PackedBatch, int]]:
        for batch, following in grouped(worker, state):
            yield batch, following
            yield batch, following

    single = replace(run, out=tmp_path / "single", steps=4, updates=1, batches=twice)
    of_both = (train(run).state_dict().values(), train(single).state_dict().values())
    assert all(map(torch.equal, *of_both))
    lines = read_log(run.out)
    theirs = read_log(single.out)
    assert [line["gradient_norm"] for line in lines] == [
        line["gradient_norm"] for line in theirs[::2]
    ]
    assert [line["last_gradient_norm"] for line in lines] == [
        line["gradient_norm"] for line in theirs[1::2]
    ]


def test_batches_may_come_from_the_model_as_it_is(tmp_path: Path) -> None:
    """Asked for one by one, between steps: each sees the weights that the last step has made."""
    seen: list[tuple[int, Tensor]] = []

    def batches(worker: Worker, state: Any) -> Iterator[tuple[PackedBatch, int]]:
        for batch, following in grouped(worker, state):
            seen.append((worker.taken, worker.model.unembedding.weight.detach().clone()))
            yield batch, following

    run = replace(grouped_run(tmp_path), batches=batches)
    model = train(run)
    assert [taken for taken, _ in seen] == [*range(run.steps)]
    tables = [table for _, table in seen] + [model.unembedding.weight.detach()]
    assert all(not torch.equal(a, b) for a, b in pairwise(tables))


def test_a_run_of_batches_resumes_to_the_bit(tmp_path: Path) -> None:
    whole = train(grouped_run(tmp_path / "whole"))
    train(grouped_run(tmp_path / "cut"), stop_after=3)
    resumed = train(grouped_run(tmp_path / "cut"))
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))


def test_nothing_to_learn_changes_no_bit(tmp_path: Path) -> None:
    """Neither by a gradient of zero, nor by what the optimizer remembers of earlier steps."""
    worker = worker_of(grouped_run(tmp_path, weight_decay=0.1))
    batch = a_batch_of_groups(1)
    worker.step(batch, 1e-2)
    before = [p.detach().clone() for p in worker.params]
    nothing = batch.with_streams(keep=np.zeros_like(batch.streams["keep"]))
    loss, metrics = worker.step(nothing, 1e-2)
    assert (loss, metrics["gradient_norm"]) == (0.0, 0.0)
    assert worker.taken == 2
    assert all(map(torch.equal, before, worker.params))
    worker.close()


def test_the_objective_is_part_of_the_identity(tmp_path: Path) -> None:
    train(grouped_run(tmp_path, "tokens"), stop_after=2)
    with pytest.raises(TrainingError, match=r"objective\.normalizer"):
        train(grouped_run(tmp_path, "samples"))
    assert not any(key.startswith("objective") for key in tiny_run(tmp_path).identity())


def test_examples_or_batches(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    with pytest.raises(ConfigError, match="examples or from batches"):
        replace(run, batches=grouped)
    with pytest.raises(ConfigError, match="examples or from batches"):
        replace(run, examples=None)
