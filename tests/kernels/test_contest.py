"""Which way serves: chosen by times that are made up here, remembered by a machine, carried from a
run to its resumption.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from training_runs import losses, tiny_run

from ossia import kernels
from ossia.errors import TrainingError
from ossia.kernels import contest, products
from ossia.kernels.products import PRODUCTS, Serving, go_on_with, product, serving, stack_dtype, use
from ossia.model import Transformer
from ossia.train.loop import train
from ossia.train.optim import Optimizers

HERE = Serving(
    "this machine", "torch", "bfloat16", {"torch": 90, "oneDNN": 95, "bfloat16": 160, "float32": 90}
)
THERE = replace(HERE, product="oneDNN", stacks="float32")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    use(None)


@pytest.fixture
def multiplied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the ways that products went."""
    calls: list[str] = []

    def noting(name: str) -> products.Product:
        def multiply(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            calls.append(name)
            return a @ b if bias is None else a @ b + bias

        return multiply

    for name in ("torch", "oneDNN"):
        monkeypatch.setitem(PRODUCTS, name, noting(name))
    return calls


def anything(record: object) -> bool:
    return True


class Machine:
    """A clock that calls move: each takes the next of its `times`, the last one for ever."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, list[str]()

    def clock(self) -> float:
        return self.now

    def call(self, name: str, *times: float) -> Callable[[], None]:
        left = list(times)

        def run() -> None:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_the_fastest_of_several_rounds_counts_after_one_to_prepare() -> None:
    m = Machine()
    ways = {"a": [m.call("a1", 50, 3, 2, 9), m.call("a2", 1, 4, 4)], "b": [m.call("b1", 0.1, 5, 5)]}
    assert contest.seconds(ways, m.clock) == pytest.approx({"a": 2 + 4, "b": 5})
    rounds = m.calls[3:]
    assert rounds == ["a1", "a2", "b1"] * contest.ROUNDS, "in turns"


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"usual": 1.0}, "usual"),
        ({"usual": 1.0, "other": 0.95}, "usual"),
        ({"usual": 1.0, "other": 0.5}, "other"),
        ({"usual": 1.0, "other": 0.5, "third": 0.5}, "other"),
        ({"usual": 1.0, "other": 0.5, "third": 0.4}, "third"),
        ({"usual": 1.0, "other": 20.0}, "usual"),
    ],
)
def test_another_way_takes_over_by_a_clear_margin_only(
    seconds: dict[str, float], chosen: str
) -> None:
    assert contest.fastest(seconds) == chosen


def test_a_machine_remembers_what_it_measured_first(tmp_path: Path) -> None:
    file = tmp_path / "new" / "speeds.json"
    measured: list[int] = []

    def measure() -> dict[str, object]:
        measured.append(1)
        if not file.exists():  # another process is faster
            contest.remembered(file, lambda: {"first": 1}, anything)
        return {"second": 2}

    assert contest.remembered(file, measure, anything) == {"first": 1}
    assert contest.remembered(file, measure, anything) == {"first": 1} and len(measured) == 1
    file.write_text("damag")
    assert (
        contest.remembered(file, lambda: {"third": 3}, anything)
        == {"third": 3}
        == json.loads(file.read_text())
    )
    found = contest.remembered(file, lambda: {"fourth": 4}, lambda record: "fourth" in record)
    assert found == {"fourth": 4} == json.loads(file.read_text()), "the third is of no use"
    assert [path.name for path in file.parent.iterdir()] == ["speeds.json"]


def test_a_file_system_without_hard_links_remembers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    file = tmp_path / "speeds.json"
    for n in range(2):
        assert (
            contest.remembered(file, partial(dict, n=n), anything)
            == {"n": 0}
            == json.loads(file.read_text())
        )
    assert [path.name for path in tmp_path.iterdir()] == ["speeds.json"]


def test_where_nothing_can_be_written_it_is_measured_again(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for n in range(2):
        assert contest.remembered(
            tmp_path / "file" / "speeds.json", partial(dict, n=n), anything
        ) == {"n": n}


def test_a_memory_is_of_one_machine_torch_and_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    before = contest.machine()
    assert torch.__version__ in before and contest.machine() == before
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert contest.machine() != before and contest.memory(contest.machine()) != contest.memory(
        before
    )


def test_a_real_measurement_is_remembered_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    random = torch.random.get_rng_state()
    found = serving()
    assert torch.equal(random, torch.random.get_rng_state())
    assert found.product in PRODUCTS and found.machine == contest.machine()
    assert (
        found.rates.keys() == PRODUCTS.keys() | products.STACKS.keys()
        and min(found.rates.values()) > 0
    )
    use(None)
    monkeypatch.setattr(products, "measured", lambda machine: pytest.fail("measured again"))
    assert serving() == found
    file = contest.memory(found.machine)
    monkeypatch.setattr(products, "measured", lambda machine: HERE)
    for of_another_version in ({"product": "an abacus"}, {"a field": 1}):
        file.write_text(json.dumps(asdict(found) | of_another_version))
        use(None)
        assert serving() == HERE and json.loads(file.read_text()) == asdict(HERE)


@pytest.mark.slow
def test_measuring_leaves_the_threads_of_this_thread_and_of_new_ones_as_they_were() -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
import torch
from ossia.kernels import products
torch.set_num_threads(3)
products.measured("x")
with ThreadPoolExecutor(1) as pool:
    print(torch.get_num_threads(), pool.submit(torch.get_num_threads).result())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "3"]


def test_what_was_chosen_serves_products_and_stacks(multiplied: list[str]) -> None:
    x = torch.ones(128, 128)
    for chosen, dtype in ((HERE, torch.bfloat16), (THERE, torch.float32)):
        use(chosen)
        product(x, x)
        assert multiplied.pop() == chosen.product and stack_dtype(x.device) == dtype
    product(x[:8, :8], x[:8])
    product(x.double(), x.double())
    assert not multiplied, "too small, or of another dtype"
    assert stack_dtype(torch.device("meta")) == torch.bfloat16, "emulated on CPUs only"


def test_info_says_what_multiplies_and_why() -> None:
    use(THERE)
    rows = {row[0]: row[1:] for row in kernels.in_use()}
    assert "oneDNN" in rows["products"][0] and "torch 90, oneDNN 95 GFLOP/s" in rows["products"][1]
    assert "float32" in rows["Muon"][0] and "bfloat16 160" in rows["Muon"][1]


# ---- runs ----


@pytest.mark.parametrize("stacks", ["bfloat16", "float32"])
@pytest.mark.slow
def test_a_run_goes_on_with_what_it_began_with(tmp_path: Path, stacks: str) -> None:
    """Whatever this machine would choose by now: the same bits as if nothing had happened."""
    began = replace(serving(), stacks=stacks)
    other = replace(began, stacks="float32" if stacks == "bfloat16" else "bfloat16")
    use(began)
    train(tiny_run(tmp_path / "whole"))
    train(tiny_run(tmp_path / "stopped"), stop_after=3)
    use(other)
    train(tiny_run(tmp_path / "stopped"))
    assert serving() == began
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")
    a, b = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert a == b
    use(other)
    train(tiny_run(tmp_path / "other"))
    assert losses(tmp_path / "other") != losses(tmp_path / "whole")


def test_on_another_machine_what_is_fast_there_serves_and_it_says_so() -> None:
    use(HERE)
    with pytest.warns(
        UserWarning,
        match="oneDNN and float32 on that machine and continues with torch and bfloat16",
    ):
        go_on_with(asdict(replace(THERE, machine="that machine")))
    assert serving() == HERE
    go_on_with(asdict(replace(HERE, machine="that machine")))  # the same there as here
    with pytest.warns(UserWarning, match="an abacus"):
        go_on_with(asdict(replace(HERE, product="an abacus")))
    with pytest.warns(
        UserWarning, match="from another version of ossia: it continues with products by torch"
    ):
        go_on_with(asdict(HERE) | {"a field": 1})
    assert serving() == HERE


def test_a_state_of_other_optimizers_is_refused(tmp_path: Path) -> None:
    optimizers = Optimizers(
        Transformer(tiny_run(tmp_path).config), 1e-3, 0.1, (0.9, 0.95), optimizer="muon"
    )
    with pytest.raises(TrainingError, match="holds 3 optimizers, and this version of ossia has 2"):
        optimizers.load_state_dict([*optimizers.state_dict(), {}])


def test_a_state_of_torchs_muon_is_refused_before_anything_is_loaded() -> None:
    """Where a run had no stacks of matrices, an earlier version had as many optimizers as this one
    has.
    """
    model = torch.nn.Sequential(torch.nn.Linear(4, 8))
    optimizers = Optimizers(model, 1e-3, 0.1, (0.9, 0.95), optimizer="muon")
    theirs = torch.optim.Muon([model[0].weight], lr=1e-3)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    theirs.step()
    optimizers.step(1e-3)
    state = optimizers.state_dict()
    optimizers.load_state_dict(state)
    with pytest.raises(TrainingError, match="another Muon"):
        optimizers.load_state_dict([state[0], theirs.state_dict()])
