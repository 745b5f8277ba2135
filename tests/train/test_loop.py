"""A run from its first step to its folder: learning, watchers, the log, where it starts from, and
what stops it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from training_runs import TINY, examples, losses, tiny_run

from ossia.checkpoint import export
from ossia.config import ModelConfig
from ossia.data.packing import Example, PackedBatch, pack
from ossia.errors import CheckpointError, ConfigError, DataError, TrainingError
from ossia.model import TrainableExperts, Transformer
from ossia.train import objective as objective_module
from ossia.train import step as step_module
from ossia.train.log import read_log
from ossia.train.loop import train
from ossia.train.objective import PartLoss
from ossia.train.run import Run, StepReport
from ossia.train.settings import Lora
from ossia.train.step import ThreadedStep
from ossia.train.weights.export import WEIGHTS, load_weights, save_weights, start

FILES = ["config.json", "log.jsonl", "state.pt", "weights.safetensors"]


def same(a: Transformer, b: Transformer) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(m == n and torch.equal(x, y) for (m, x), (n, y) in pairs)


# ---- a whole run ----


def test_a_run_learns_reports_and_leaves_its_folder(tmp_path: Path) -> None:
    reports: list[StepReport] = []
    model = train(tiny_run(tmp_path, steps=40), watchers=[reports.append])
    assert not model.training and sorted(p.name for p in tmp_path.iterdir()) == FILES
    entries = read_log(tmp_path)
    assert [e["step"] for e in entries] == [r.step for r in reports] == list(range(1, 41))
    assert sum(losses(tmp_path)[-5:]) / 5 < losses(tmp_path)[0] - 1
    for entry, report in zip(entries, reports, strict=True):
        assert (entry["loss"], entry["lr"], entry["tokens"]) == (
            report.loss,
            report.lr,
            report.tokens,
        )
        assert report.steps == 40 and report.seconds > 0 and 0 < report.tokens <= 200
        assert entry["tokens_per_s"] > 0 and entry["gradient_norm"] > 0
        assert entry.keys() >= {
            "balance",
            "router_z",
            "max_violation",
            "entropy",
            "dropped",
            "dead",
            "seconds",
        }
        assert len(report.load) == 2 and all(sum(row) == pytest.approx(1) for row in report.load)
    assert same(model, load_weights(TINY, tmp_path))
    assert ModelConfig.from_json(json.loads((tmp_path / "config.json").read_text())) == TINY


@pytest.mark.parametrize("stops", [True, False])
def test_batches_are_closed_however_a_run_ends(tmp_path: Path, stops: bool) -> None:
    """What samples from the weights holds an engine. An error about what comes next loses no step:
    the state after the last one is there.
    """
    closed = []
    run = tiny_run(tmp_path, steps=3)
    assert run.examples is not None
    batch, state = next(pack(run.examples(None), 200, 100))

    def batches(worker: Any, begun: Any) -> Iterator[tuple[PackedBatch, Any]]:
        try:
            for _ in range(2 if stops else 9):
                yield batch, state
            raise TrainingError("an alarm")
        finally:
            closed.append(True)

    sampled = replace(run, examples=None, batches=batches, save_every=2)
    if stops:
        with pytest.raises(TrainingError, match="an alarm"):
            train(sampled)
        assert torch.load(tmp_path / "state.pt", weights_only=False)["step"] == 2
    else:
        train(sampled)
    assert closed == [True]


def test_a_finished_run_is_only_read(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, ema=0.9)
    first = train(run)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def none(state: Any) -> Iterator[tuple[Example, Any]]:
        raise AssertionError("a finished run asks for no examples")

    again = train(
        replace(run, examples=none), watchers=[lambda report: pytest.fail("a step was taken")]
    )
    assert same(first, again) and not again.training
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_the_averaged_weights_are_what_a_run_ends_with(tmp_path: Path) -> None:
    averaged = train(tiny_run(tmp_path / "average", steps=4, ema=0.5))
    train(tiny_run(tmp_path / "plain", steps=4))
    assert losses(tmp_path / "average") == losses(tmp_path / "plain")
    seen = []
    for n in range(
        1, 5
    ):  # the weights after every step, from states of a run that was stopped there
        train(tiny_run(tmp_path / "stopped", steps=4), stop_after=n)
        path = tmp_path / "stopped" / ("state.pt" if n < 4 else WEIGHTS)
        loaded = torch.load(path)["worker"]["model"] if n < 4 else safetensors.torch.load_file(path)
        seen.append(loaded["layers.0.attn.q.weight"])
    expected = sum(w * 0.5 ** (3 - n) for n, w in enumerate(seen)) / sum(0.5**n for n in range(4))
    torch.testing.assert_close(averaged.layers[0].attn.q.weight.detach(), expected)


def test_examples_without_targets(tmp_path: Path) -> None:
    """A part of a step may have nothing to learn; a whole step is refused."""

    def some(state: Any, learned: int) -> Iterator[tuple[Example, Any]]:
        for index, (example, following) in enumerate(examples(state)):
            yield Example(example.ids, [index < learned] * len(example.ids)), following

    run = tiny_run(tmp_path / "some", steps=1, optimizer="adamw")
    train(replace(run, examples=lambda state: some(state, 1)))
    assert losses(tmp_path / "some")[0] > 1
    with pytest.raises(TrainingError, match="no token to learn"):
        train(replace(run, examples=lambda state: some(state, 0), out=tmp_path / "none"))


def test_examples_that_run_out(tmp_path: Path) -> None:
    run = replace(tiny_run(tmp_path, steps=50), examples=lambda state: islice(examples(state), 60))
    with pytest.raises(TrainingError, match=r"ran out after \d of 50 steps"):
        train(run)
    assert len(losses(tmp_path)) > 2


def test_no_steps_are_no_steps(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    model = train(run, stop_after=0)
    assert same(model, start(run)) and not model.training and not losses(tmp_path)


def test_examples_that_cannot_begin_leave_the_log_alone(tmp_path: Path) -> None:
    train(tiny_run(tmp_path, steps=6), stop_after=3)
    before = (tmp_path / "log.jsonl").read_bytes() + b'{"step": 4}\n'
    (tmp_path / "log.jsonl").write_bytes(before)

    def refuse(state: Any) -> Iterator[tuple[Example, Any]]:
        raise DataError("not the state of these shards")

    with pytest.raises(DataError, match="these shards"):
        train(replace(tiny_run(tmp_path, steps=6), examples=refuse))
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_a_failing_part_raises_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not that of the parts that wait for it."""
    real = objective_module.cross_entropy

    def fail(x: Tensor, w: Tensor, targets: Tensor) -> Tensor:
        if x.shape[0] % 2:
            raise MemoryError("too much")
        return real(x, w, targets)

    monkeypatch.setattr(objective_module, "cross_entropy", fail)
    with pytest.raises(MemoryError, match="too much"):
        train(tiny_run(tmp_path, steps=30, shards=4))


# ---- where it starts from ----


def test_a_run_starts_from_the_one_before(tmp_path: Path) -> None:
    first = train(tiny_run(tmp_path / "a", steps=30))
    longer = replace(TINY, rope_scaling_factor=16.0)  # the same tensors, read otherwise
    second = replace(tiny_run(tmp_path / "b", steps=1), start_from=tmp_path / "a", config=longer)
    train(second, stop_after=1)
    assert losses(tmp_path / "b")[0] < losses(tmp_path / "a")[0] - 1
    assert load_weights(longer, tmp_path / "a").config == longer
    assert same(first, load_weights(TINY, tmp_path / "a"))


@pytest.mark.parametrize("layout", ["hf", "original", "hf-bf16"])
def test_a_run_starts_from_a_released_checkpoint(tmp_path: Path, layout: Any) -> None:
    model = Transformer(TINY)
    model.init_weights(3)
    export(model, tmp_path / "released", layout, floats="float32")
    loaded = load_weights(TINY, tmp_path / "released")
    for (name, x), y in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        if "experts" not in name or name.endswith("bias") or layout == "hf-bf16":
            torch.testing.assert_close(x, y, msg=name)
        else:
            assert 0 < float((x - y).norm() / x.norm()) < 0.2, name  # 4 bits
    out = tmp_path / "run"
    train(replace(tiny_run(out, steps=2), start_from=tmp_path / "released"))
    assert len(losses(out)) == 2


def test_what_a_run_cannot_start_from(tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "a", steps=1))
    run = replace(tiny_run(tmp_path / "b"), start_from=tmp_path / "a")
    with pytest.raises(
        CheckpointError, match=r"tensors differ, among them layers\.0\.attn\.k\.bias: expected"
    ):
        train(replace(run, config=replace(TINY, num_key_value_heads=2)))
    with pytest.raises(CheckpointError, match="no weights to start from"):
        train(replace(run, start_from=tmp_path))
    (tmp_path / "a" / WEIGHTS).write_bytes(b"short")
    with pytest.raises(CheckpointError, match="cannot be read"):
        train(run)
    with pytest.raises(ConfigError, match="give start_from"):
        replace(run, start_from=None, lora=Lora())


def test_quantize_trains_the_values_that_will_be_stored(tmp_path: Path) -> None:
    model = train(replace(tiny_run(tmp_path / "a", steps=2), quantize=True))
    experts = [m for m in model.modules() if isinstance(m, TrainableExperts)]
    assert experts and all(m.fake_quantize for m in experts)
    train(tiny_run(tmp_path / "b", steps=2))
    assert losses(tmp_path / "a")[0] != losses(tmp_path / "b")[0]


def test_low_rank_changes_begin_as_the_seed_says(tmp_path: Path) -> None:
    base = Transformer(TINY)
    base.init_weights(3)
    export(base, tmp_path / "base", "hf")

    def begins(seed: int) -> Tensor:
        plain = tiny_run(tmp_path / "lora", steps=1, seed=seed)
        model = start(replace(plain, start_from=tmp_path / "base", lora=Lora(rank=4)))
        return dict(model.named_parameters())["layers.0.attn.q.lora_a"].detach()

    assert torch.equal(begins(1), begins(1)) and not torch.equal(begins(1), begins(2))
    assert not torch.equal(begins((1 << 32) - 1), begins(0))


@pytest.mark.parametrize("base", ["run", "hf"])
def test_lora_trains_and_leaves_nothing_but_its_changes(tmp_path: Path, base: str) -> None:
    if base == "run":
        train(tiny_run(tmp_path / "base", steps=1))
    else:
        model = Transformer(TINY)
        model.init_weights(3)
        export(model, tmp_path / "base", "hf")
    run = replace(
        tiny_run(tmp_path / "lora", steps=20, peak_lr=2e-2),
        start_from=tmp_path / "base",
        lora=Lora(rank=4),
    )
    model = train(run, stop_after=7)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    model = train(run)
    stored = safetensors.torch.load_file(tmp_path / "lora" / WEIGHTS)
    assert stored and all(name.endswith(("lora_a", "lora_b")) for name in stored)
    assert all(
        torch.equal(p, frozen[n]) for n, p in model.named_parameters() if not p.requires_grad
    )
    assert losses(tmp_path / "lora")[-1] < losses(tmp_path / "lora")[0] - 0.2
    assert same(model, train(run))


# ---- values that are not finite ----


def poisoned(tmp_path: Path, name: str, value: float) -> Run:
    """A run that starts from weights of which one is `value`."""
    model = Transformer(TINY)
    model.init_weights(0)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1] = value
    save_weights(model, tmp_path / "bad")
    return replace(tiny_run(tmp_path / "out"), start_from=tmp_path / "bad")


NAN, HUGE = float("nan"), 3e38


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        (
            "layers.1.moe.experts.down.weight",
            NAN,
            "layer 1, experts: weight layers.1.moe.experts.down.weight",
        ),
        ("layers.0.moe.router.bias", NAN, "layer 0, router: weight layers.0.moe.router.bias"),
        ("layers.1.attn.sinks", NAN, "layer 1, attention: weight layers.1.attn.sinks"),
        (
            "layers.1.moe.norm.scale",
            NAN,
            "layer 1, norm before the experts: weight layers.1.moe.norm.scale",
        ),
        ("unembedding.weight", float("inf"), "unembedding: weight unembedding.weight"),
        (
            "layers.0.attn.v.weight",
            HUGE,
            "layer 0, attention: activation, the output of layers.0.attn",
        ),
        (
            "layers.1.moe.router.weight",
            HUGE,
            "layer 1, router: activation, the output of layers.1.moe.router",
        ),
        (
            "layers.1.attn.norm.scale",
            HUGE,
            "layer 1, attention: activation, the output of layers.1.attn",
        ),
        ("layers.0.moe.experts.down.weight", HUGE, "layer 0, experts: activation"),
    ],
)
def test_the_first_bad_value_is_named(tmp_path: Path, name: str, value: float, place: str) -> None:
    with pytest.raises(
        TrainingError, match=r"step [12]; the first value that is not finite: "
    ) as caught:
        train(poisoned(tmp_path, name, value))
    assert place in str(caught.value), caught.value
    assert (
        "No state had been saved" in str(caught.value)
        and not (tmp_path / "out" / "state.pt").exists()
    )


def test_a_bad_gradient_is_named_though_the_loss_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = step_module.part_loss

    def steep(model: Transformer, *args: Any) -> PartLoss:
        found = real(model, *args)
        weight = model.get_parameter("layers.1.moe.experts.gate_up.weight")
        return replace(found, total=found.total + (weight - weight.detach()).abs().sum().sqrt())

    monkeypatch.setattr(step_module, "part_loss", steep)
    place = (
        r"norm of the gradients is nan.*layer 1, experts: gradient of "
        r"layers\.1\.moe\.experts\.gate_up\.weight"
    )
    with pytest.raises(TrainingError, match=place):
        train(tiny_run(tmp_path))


def test_bad_weights_never_replace_a_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight goes bad between two steps: the state from before stays, and the run can go on from
    it.
    """
    real = ThreadedStep.step

    def step(self: ThreadedStep, *args: Any) -> Any:
        result = real(self, *args)
        if self.taken == 6:
            self.model.get_parameter("layers.1.attn.q.weight").data[0, 0] = torch.nan
        return result

    whole = train(tiny_run(tmp_path / "whole", steps=12))
    run = tiny_run(tmp_path / "run", steps=12)
    with monkeypatch.context() as patch:
        patch.setattr(ThreadedStep, "step", step)
        with pytest.raises(
            TrainingError,
            match=r"layer 1, attention: weight.*last good state is .*state\.pt \(step 4\)",
        ):
            train(run)
    assert torch.load(run.out / "state.pt")["step"] == 4
    assert same(whole, train(run)) and losses(run.out) == losses(tmp_path / "whole")


def test_a_step_that_ruins_the_weights_is_not_what_a_run_resumes_from(tmp_path: Path) -> None:
    """Finite weights whose next loss is not: with a state at every step, the last one is of
    before.
    """
    run = tiny_run(tmp_path, steps=6, save_every=1, warmup=4, peak_lr=1e30, optimizer="adamw")
    with pytest.raises(TrainingError, match=r"step 2; .*No state had been saved"):
        train(run)
