"""Training: packing, losses, schedule, optimizers, and a run that goes on exactly where it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ossia.config import ModelConfig
from ossia.data.packing import Example, pack, split
from ossia.errors import TrainingError
from ossia.train.loop import Hyperparameters, Run, Stage, train
from ossia.train.losses import cross_entropy, load_balance, router_z
from ossia.train.optim import Muon, orthogonalize
from ossia.train.schedule import Schedule

TINY = replace(
    ModelConfig.preset("nano"), num_hidden_layers=2, layer_types=(), hidden_size=32, intermediate_size=32,
    num_experts=4, num_attention_heads=2, num_key_value_heads=1, head_dim=16, vocab_size=64, sliding_window=8,
    rope_ntk_beta=4.0,
)  # fmt: skip


def random_examples(start: int) -> Iterator[tuple[Example, int]]:
    index = start
    while True:
        rng = Random(index)
        ids = [rng.randrange(64)] * rng.randrange(2, 30)
        yield Example(ids, [rng.random() < 0.6 for _ in ids]), index + 1
        index += 1


@given(st.integers(30, 200), st.integers(0, 50))
def test_packing_loses_nothing_and_resumes(tokens: int, start: int) -> None:
    batches = list(islice(pack(random_examples(start), tokens, 29, start), 6))
    begin = start
    for batch, state in batches:
        examples = [e for e, _ in islice(random_examples(begin), state - begin)]
        assert batch.tokens == [i for e in examples for i in e.ids[:-1]] and len(batch.tokens) <= tokens
        assert batch.lengths == [len(e.ids) - 1 for e in examples]
        assert batch.targets == [e.ids[n] for e in examples for n in range(1, len(e.ids)) if e.mask[n]]
        assert [i for i, _ in islice(pack(random_examples(begin), tokens, 29, begin), 1)] == [batch]
        begin = state


@given(st.integers(60, 300), st.integers(1, 4))
def test_split_keeps_every_target(tokens: int, parts: int) -> None:
    batch = next(pack(random_examples(0), tokens, 29))[0]
    shards = split(batch, parts)
    assert len(shards) <= parts
    assert [t for s in shards for t in s.targets] == batch.targets
    for s in shards:
        assert sum(s.lengths) == len(s.tokens) and len(s.rows) == len(s.targets)
    pairs = [(s.tokens[r], t) for s in shards for r, t in zip(s.rows, s.targets, strict=True)]
    assert pairs == [(batch.tokens[r], t) for r, t in zip(batch.rows, batch.targets, strict=True)]


def test_examples_that_are_too_long_are_left_out() -> None:
    long = (Example([1] * 50, [True] * 50), 1)
    short = (Example([2] * 5, [True] * 5), 2)
    batch, state = next(pack(iter([long, short, short, short]), 8, longest=20))
    assert batch.lengths == [4, 4] and state == 2


def test_cross_entropy_and_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ossia.train.losses.CHUNK_ELEMENTS", 64 * 3)
    x, w = torch.randn(10, 8, requires_grad=True), torch.randn(64, 8, requires_grad=True)
    target = torch.randint(0, 64, (10,))
    got, want = cross_entropy(x, w, target), torch.nn.functional.cross_entropy(x @ w.T, target)
    torch.testing.assert_close(got, want)
    for a, b in zip(torch.autograd.grad(got * 3, (x, w)), torch.autograd.grad(want * 3, (x, w)), strict=True):
        torch.testing.assert_close(a, b)


def test_auxiliary_losses_at_known_points() -> None:
    uniform = torch.zeros(64, 8)
    assert float(router_z(uniform)) == pytest.approx(torch.log(torch.tensor(8.0)).item() ** 2)
    one_sided = torch.zeros(64, 8)
    one_sided[:, :2] = 50.0
    assert float(load_balance(one_sided, 2)) == pytest.approx(8 / 2)
    balanced = torch.full((8, 8), -50.0).fill_diagonal_(50.0)
    assert float(load_balance(balanced, 1)) == pytest.approx(1.0)


def test_schedule_warms_up_stays_and_decays() -> None:
    s = Schedule(peak=1.0, steps=100, warmup=10, decay=0.5)
    rates = [s.at(n) for n in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:50] == [1.0] * 41
    assert all(a >= b for a, b in pairwise(rates[50:])) and rates[-1] < 0.01


def test_muon_steps_have_singular_values_near_one() -> None:
    for shape in ((3, 16, 40), (40, 16), (5, 24, 24)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
        assert float(values.min()) > 0.3 and float(values.max()) < 1.3
    p = torch.nn.Parameter(torch.randn(4, 8, 8))
    p.grad = torch.randn(4, 8, 8)
    before = p.detach().clone()
    Muon([p], lr=0.1, weight_decay=0.0).step()
    assert float((p.detach() - before).norm()) == pytest.approx(0.1 * 0.2 * 8**0.5 * 32**0.5, rel=0.3)


def tiny_run(out: Path, steps: int = 6, save_every: int = 2) -> Run:
    stages = (Stage("text", random_examples, steps), Stage("quantized", random_examples, 2, quantize=True))
    return Run(TINY, stages, Hyperparameters(tokens_per_step=200, longest=100, peak_lr=5e-3, warmup=2), out, save_every)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_run_learns_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = train(tiny_run(tmp_path / "a"))
    train(tiny_run(tmp_path / "b"), stop_after=3)
    resumed = train(tiny_run(tmp_path / "b"))
    assert losses(tmp_path / "a") == losses(tmp_path / "b") and len(losses(tmp_path / "a")) == 8
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


KILLED = """
import sys; sys.path[:0] = {path!r}
from pathlib import Path
from test_training import tiny_run
from ossia.train.loop import train
train(tiny_run(Path({out!r}), steps=400))
"""


def test_a_killed_run_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    script = KILLED.format(path=[str(Path(__file__).parent), *sys.path], out=str(out))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out / "state.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    train(tiny_run(out, steps=400), stop_after=12)
    train(tiny_run(tmp_path / "whole", steps=400), stop_after=12)
    assert losses(out)[:12] == losses(tmp_path / "whole")[:12]


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    train(tiny_run(tmp_path), stop_after=2)
    with pytest.raises(TrainingError, match="another run: hyper"):
        train(replace(tiny_run(tmp_path), hyper=Hyperparameters(peak_lr=1.0)))
    (tmp_path / "state.pt").write_bytes(b"PK not a state")
    with pytest.raises(TrainingError, match="delete it"):
        train(tiny_run(tmp_path))


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    with pytest.raises(TrainingError, match="step"):
        train(replace(run, hyper=replace(run.hyper, peak_lr=1e30, warmup=1)))


def test_a_stage_may_have_a_schedule_of_its_own(tmp_path: Path) -> None:
    text, own = Stage("text", random_examples, 60), Stage("own", random_examples, 40, restart=1e-3)
    alone = Run(TINY, (text,), Hyperparameters(peak_lr=5e-3, warmup=10), tmp_path)
    both = replace(alone, stages=(text, own))
    assert [both.lr(n) for n in range(60)] == [alone.lr(n) for n in range(60)]
    rates = [both.lr(n) for n in range(60, 100)]
    assert 5e-4 < max(rates) <= 1e-3 and rates[-1] < 1e-4


def test_examples_without_targets(tmp_path: Path) -> None:
    """A part of a step may have nothing to learn; a whole step is refused."""

    def examples(start: int, learned: int) -> Iterator[tuple[Example, int]]:
        for index, (example, state) in enumerate(random_examples(start)):
            yield Example(example.ids, [index < learned] * len(example.ids)), state

    hyper = Hyperparameters(tokens_per_step=200, shards=2, muon=False)
    train(Run(TINY, (Stage("some", lambda start: examples(start, 1), 1),), hyper, tmp_path / "some"))
    assert losses(tmp_path / "some")[0] > 1
    with pytest.raises(TrainingError, match="no token to learn"):
        train(Run(TINY, (Stage("none", lambda start: examples(start, 0), 1),), hyper, tmp_path / "none"))
