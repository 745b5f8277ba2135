"""Where a run is computed: the choice, what a GPU would refuse, and a GPU where there is one.

No GPU is needed but for the tests marked `gpu`: a whole run is computed on a device that is
pretended (`pretended_device.py`), which refuses tensors that were forgotten on the CPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretended_device import ELSEWHERE, ForgottenError, pretending
from training_runs import TINY, examples, losses, tiny_run

from ossia.batch import Batch
from ossia.checkpoint import export
from ossia.data.packing import SAMPLE, PackedBatch
from ossia.data.samples import Answer, Group, packed_groups
from ossia.errors import ConfigError
from ossia.kernels import attention_flex
from ossia.model import Transformer
from ossia.train import optim, step
from ossia.train.align.settings import Rewarding
from ossia.train.loop import train
from ossia.train.recipes import align, rl, sft
from ossia.train.rl.distill import logprobs_of
from ossia.train.rl.policy import Policy
from ossia.train.rl.settings import Objective, Sampling
from ossia.train.run import Run
from ossia.train.settings import Balance, Device, Lora
from ossia.train.step import Worker
from ossia.train.weights import export as weights
from ossia.train.weights.device import device_of

flex = importlib.import_module("torch.nn.attention.flex_attention")


class Inline(Executor):
    """In the caller's thread, which alone pretends."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def plain_adamw(others: Any, matrices: Any, lr: float, betas: Any) -> optim.All:
    """torch has fused steps for devices that it knows only."""
    return [torch.optim.AdamW([others, matrices], lr=lr, betas=betas, foreach=False)]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs go to the device that is pretended."""
    with pretending():
        go_elsewhere(monkeypatch)
        yield


def go_elsewhere(patches: pytest.MonkeyPatch) -> None:
    row = replace(optim.OPTIMIZERS["adamw"], make=plain_adamw)
    patches.setitem(optim.OPTIMIZERS, "adamw", row)
    patches.setattr(step, "ThreadPoolExecutor", Inline)
    patches.setattr(weights, "device_of", lambda run: ELSEWHERE)


def full(out: Path, device: Device = "auto") -> Run:
    """All kinds of tensors: an average, selection biases, parts, activations computed again."""
    run = tiny_run(
        out, 4, 2, shards=1, optimizer="adamw", accumulate=2, ema=0.9, checkpoint_layers=True,
        balance=Balance(mode="bias"),
    )  # fmt: skip
    return replace(run, device=device)


def pretraining(out: Path, device: Device = "auto") -> Run:
    run = tiny_run(out, 3, 2, shards=1, optimizer="adamw", balance=Balance(statistics="sequence"))
    return replace(run, quantize=True, device=device)


def lora(out: Path, device: Device = "auto") -> Run:
    """On packed experts."""
    base = out.parent / "base"
    if not base.exists():
        model = Transformer(TINY)
        model.init_weights(3)
        export(model, base)
    run = tiny_run(out, 3, 2, shards=1, optimizer="adamw")
    return replace(run, start_from=base, lora=Lora(4), device=device)


def rewards(out: Path, device: Device = "auto") -> Run:
    """Batches from the weights as they are; held to a reference, taught by a teacher."""
    settings = Objective(kl=0.1, entropy=0.01, echo=0.1, distill="full", correction="tis")
    balance = Balance("none", router_z=0.0)
    run = tiny_run(out, 3, 2, shards=1, optimizer="adamw", balance=balance)
    run = replace(run, device=device)
    teacher = weights.start(replace(run, hyper=replace(run.hyper, seed=7))).eval()
    policy = Policy(settings, Sampling(sampler="float32"), teacher.requires_grad_(False))

    def batches(worker: Worker, state: Any) -> Iterator[tuple[PackedBatch, int]]:
        index = state or 0
        while True:
            index += 1
            batch = packed_groups([Group((1, index), [_answer(n, index) for n in range(3)])])
            found = logprobs_of(worker.model, batch, 1.0)
            other = logprobs_of(teacher, batch, 1.0)
            yield batch.with_streams(behaviour=found, reference=other), index

    return replace(run, examples=None, batches=batches, objective=policy)


def _answer(number: int, index: int) -> Answer:
    ids = [2 + number, 3 + index, 5, 7][: 2 + number]
    ones = np.ones(len(ids), np.float32)
    streams = {"advantage": ones - number, "keep": ones, "echo": 0 * ones, SAMPLE: number * ones}
    return Answer(ids, streams)


RUNS = {"full": full, "pretraining": pretraining, "lora": lora, "rewards": rewards}


@pytest.mark.parametrize("kind", RUNS)
def test_nothing_is_forgotten_on_the_cpu(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A run elsewhere has the CPU's losses; its result is on the CPU."""
    train(RUNS[kind](tmp_path / "cpu", "cpu"))
    request.getfixturevalue("elsewhere")
    model = train(RUNS[kind](tmp_path / "there"))
    assert losses(tmp_path / "there") == pytest.approx(losses(tmp_path / "cpu"), abs=1e-4)
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_nothing_is_forgotten_by_the_ways_of_gpus(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FlexAttention takes only tensors that torch knows: here its masks alone, on a CPU all of it
    (tests/kernels/test_training_on_gpus.py).
    """
    train(pretraining(tmp_path / "cpu", "cpu"))
    monkeypatch.setenv("OSSIA_TRAIN_KERNELS", "gpu")
    monkeypatch.setattr(attention_flex, "serves", lambda _: False)
    request.getfixturevalue("elsewhere")
    train(pretraining(tmp_path / "there"))
    assert losses(tmp_path / "there") == pytest.approx(losses(tmp_path / "cpu"), abs=1e-3)
    blocks = attention_flex._blocks(Batch.packed([200, 90], ELSEWHERE).spans(100), 290)
    assert blocks.kv_num_blocks.device == ELSEWHERE


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_low_rank_changes_are_learned_by_the_ways_of_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(lora(tmp_path / "cpu", "cpu"))
    monkeypatch.setenv("OSSIA_TRAIN_KERNELS", "gpu")
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    train(lora(tmp_path / "gpu", "cpu"))
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), abs=1e-3)


def test_what_is_forgotten_is_found(
    elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu = torch.device("cpu")
    monkeypatch.setattr(step, "_ids", lambda numbers, device: torch.tensor(numbers, device=on_cpu))
    with pytest.raises(ForgottenError, match="of the CPU"):
        train(full(tmp_path / "run"))


def test_a_run_goes_on_elsewhere_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half on a device, half on the CPU: the same numbers, and a state that names no device."""
    train(full(tmp_path / "cpu", "cpu"))
    with monkeypatch.context() as patches, pretending():
        go_elsewhere(patches)
        train(full(tmp_path / "both"), stop_after=2)
    path = tmp_path / "both" / "state.pt"
    state = torch.load(path, weights_only=True)
    assert {p.device.type for p in state["worker"]["model"].values()} == {"cpu"}
    assert not {"device", "cuda", "meta"} & {*state["identity"], *state["worker"]}
    train(full(tmp_path / "both", "cpu"))
    assert losses(tmp_path / "both") == pytest.approx(losses(tmp_path / "cpu"), abs=1e-4)


# ---- the choice ----


def test_who_gets_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(tiny_run(tmp_path), device="auto")
    sampling = replace(run, examples=None, batches=lambda worker, state: iter(()))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(run) == device_of(replace(run, device="cpu")) == torch.device("cpu")
    with pytest.raises(ConfigError, match="device=cpu, or auto"):
        train(replace(run, device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(run) == torch.device("cuda", 0)
    assert device_of(replace(run, device="cpu")) == device_of(sampling) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device_of(replace(sampling, device="cuda")) == torch.device("cuda", 3)
    with pytest.raises(ConfigError, match="device must be one of auto, cpu, cuda"):
        replace(run, device="gpu")  # type: ignore[arg-type]


def test_no_identity_has_the_device(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    assert run.identity() == replace(run, device="cuda").identity()
    chats = sft.Config(data=(tmp_path / "chats.jsonl",))
    assert sft._settings(chats) == sft._settings(replace(chats, device="cuda"))
    rewards = rl.Config(sampling=Sampling(sampler="float32"), task=("copy",))
    assert rl._settings(rewards) == rl._settings(replace(rewards, device="cuda"))


def test_recipes_pass_it_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft, "ChatExamples", lambda *_: examples)
    chats = sft.Config(data=(tmp_path / "chats.jsonl",), steps=5, device="cuda")
    assert sft.run_of(chats, tmp_path).device == "cuda"
    sampling = Sampling(sampler="float32")
    rewards = rl.Config(sampling=sampling, task=("copy",), device="cuda")
    assert rl._model_of_run(rewards, tmp_path).device == "cuda"
    stages = align.Recipe(align.Config(device="cuda"), tmp_path)
    assert stages.sft.device == "cuda"
    assert stages.rl.device == "cpu"  # its sampler is exact
    stages = align.Recipe(
        align.Config(device="cuda", reward=Rewarding(sampling=sampling)), tmp_path
    )
    assert stages.rl.device == "cuda"


def test_what_is_exact_stays_on_the_cpu() -> None:
    with pytest.raises(ConfigError, match=r"sampler=float32 .* or device=cpu"):
        rl.Config(device="cuda")


# ---- a GPU ----


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", RUNS)
def test_losses_on_a_gpu_are_those_of_the_cpu(kind: str, precision: Any, tmp_path: Path) -> None:
    devices: tuple[Device, ...] = ("cpu", "cuda")
    for device in devices:
        run = RUNS[kind](tmp_path / device, device)
        train(replace(run, steps=5, hyper=replace(run.hyper, precision=precision)))
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), abs=0.02)


@pytest.mark.gpu
def test_parts_that_wait_for_each_other_and_muon_on_a_gpu(tmp_path: Path) -> None:
    """Two threads on one device, by the default balancing."""
    run = tiny_run(tmp_path / "cpu", 5, 2, shards=2)
    train(replace(run, device="cpu"))
    train(replace(run, out=tmp_path / "gpu", device="cuda"), stop_after=3)
    train(replace(run, out=tmp_path / "gpu", device="cpu"))
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), abs=0.02)
