"""Weights that are sent, asks that are made again, and actors that are lost: with a stand-in for
Ray that runs in this process. What Ray itself does is in test_actors_ray.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rl_runs import config_of, files_of, learned, task
from torch import Tensor

from ossia.errors import ConfigError, TrainingError
from ossia.harmony import Effort
from ossia.tasks.environment import Ask
from ossia.tasks.external import ExternalTask, RowEnvironment, compare
from ossia.train.rl import actors, sync
from ossia.train.rl.asks import Problems, Rows, own
from ossia.train.rl.curriculum import Curriculum

# ---- weights ----


def weights(seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "b": torch.randn(3, 5, generator=rng),
        "a": torch.randn(7, generator=rng).bfloat16(),
        "c": torch.randn((), generator=rng),
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_weights_as_bytes_and_in_a_folder(tmp_path: Path) -> None:
    for seed in (0, 1):  # a newer version lies where the older one did
        sent = weights(seed)
        by_bytes, by_folder = weights(8), weights(9)
        sync.receive(sync.Parcel(seed), by_bytes, sync.packed(sent))
        sync.write(sent, tmp_path / "weights")
        sync.receive(sync.Parcel(seed, tmp_path / "weights"), by_folder)
        assert same(by_bytes, sent)
        assert same(by_folder, sent)


def test_weights_from_memory_to_memory() -> None:
    """Again and again, by whoever is there at the time."""
    meeting = sync.Meeting("127.0.0.1")
    for receivers in (2, 1, 2):
        sent = weights(receivers)
        found = [weights(10 + n) for n in range(receivers)]
        threads = []
        for group, into in zip(meeting.groups(receivers), found, strict=True):
            parcel = sync.Parcel(1, group=group)
            threads.append(Thread(target=sync.receive, args=(parcel, into)))
            threads[-1].start()
        meeting.send(sent, receivers)
        for thread in threads:
            thread.join()
        assert all(same(each, sent) for each in found)


def test_weights_of_another_model_are_refused() -> None:
    other = {"a": torch.zeros(7, dtype=torch.bfloat16), "b": torch.zeros(3, 6)}
    with pytest.raises(TrainingError, match=r"b is \(3, 6\) there and \(3, 5\) here"):
        sync.receive(sync.Parcel(1), {**weights(), **other}, sync.packed(weights()))
    with pytest.raises(TrainingError, match="c is None there"):
        sync.receive(sync.Parcel(1), other | {"b": torch.zeros(3, 5)}, sync.packed(weights()))


def test_a_checksum_is_of_names_shapes_and_bits() -> None:
    found = {sync.checksum(weights())}
    assert sync.checksum(weights()) in found
    for name in weights():
        changed = weights()
        changed[name].view(-1)[0] += 2**-6
        found.add(sync.checksum(changed))
    moved = weights()
    found.add(sync.checksum(moved | {"b": moved["b"].view(5, 3)}))
    moved["d"] = moved.pop("c")
    found.add(sync.checksum(moved))
    assert len(found) == 6


# ---- problems ----


def rows(count: int) -> Rows:
    found = tuple({"prompt": f"Question {n}?", "answer": n} for n in range(count))
    return Rows(ExternalTask("mine", found, lambda row: RowEnvironment(row, compare)))


def seen(ask: Ask) -> tuple[Any, ...]:
    prompt = [message.text for message in ask.environment().prompt(ask.effort)]
    return (prompt, ask.effort, ask.group, ask.seed, ask.arm, ask.task, dict(ask.about))


@pytest.mark.parametrize("followed", [False, True])
def test_an_ask_is_made_again_from_its_origin(followed: bool) -> None:
    def problems() -> Problems:
        sources = (own("state[k=4..6]"), rows(40))
        return Problems(sources, (Effort.LOW, Effort.HIGH), seed=3)

    here, there = problems(), problems()
    curriculum = Curriculum(here.arms) if followed else None
    if curriculum is not None:
        curriculum.learn(here.arms[0], 1.0)
    asked = here.step(5, range(12), curriculum) + here.held_out(3)
    assert len({ask.arm for ask in asked}) > 2
    for ask in asked:
        assert seen(there.again(ask.origin)) == seen(ask)
    with pytest.raises(ConfigError, match="must read the same files"):
        there.again(("step", 0, 0, "another/low", "any"))


# ---- a stand-in for Ray ----


class Died(Exception):
    pass


class Raised(Exception):
    def __init__(self, cause: BaseException) -> None:
        self.cause = cause


class StandIn:
    """Actors in this process; `lose` says of each call of `draw` whether its actor dies of it."""

    def __init__(self, lose: Callable[[int], bool] = lambda call: False) -> None:
        self.exceptions = SimpleNamespace(RayActorError=Died, RayTaskError=Raised)
        self.lose = lose
        self.made = 0
        self.drawn = 0

    def is_initialized(self) -> bool:
        return True

    def put(self, value: Any) -> Any:
        return value

    def remote(self, num_cpus: int) -> Any:
        return lambda kind: SimpleNamespace(remote=lambda *given: self._make(kind, given))

    def _make(self, kind: Any, given: Any) -> Any:
        self.made += 1
        return Handle(self, kind(*given))

    def get(self, call: Callable[[], Any]) -> Any:
        return call()

    def kill(self, actor: Any) -> None:
        actor.is_dead = True


class Handle:
    def __init__(self, ray: StandIn, actor: actors.Actor) -> None:
        self.ray = ray
        self.actor = actor
        self.is_dead = False

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any) -> Any:
            return lambda: self._do(name, given)

        return SimpleNamespace(remote=call)

    def _do(self, name: str, given: Any) -> Any:
        if name == "draw":
            self.ray.drawn += 1
            self.is_dead |= self.ray.lose(self.ray.drawn)
        if self.is_dead:
            raise Died("the process is gone")
        try:
            return getattr(self.actor, name)(*given)
        except TrainingError as error:
            raise Raised(error) from error


def with_actors(
    ray: StandIn, monkeypatch: pytest.MonkeyPatch, four: Path, out: Path, *settings: str
) -> dict[str, str]:
    monkeypatch.setattr(actors, "_ray", lambda: ray)
    data = task(four.parents[1], "gold")
    usual = (f"data={data}", "sampling.groups=3", "sampling.samples=3", "steps=2")
    learned(config_of(four, *usual, *settings), out)
    return files_of(out) | files_of(out, "weights.safetensors")


def test_groups_of_actors_that_die_are_asked_again(
    four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = with_actors(StandIn(), monkeypatch, four, tmp_path / "0")
    losing = StandIn(lambda call: call in (1, 4))
    lost = with_actors(losing, monkeypatch, four, tmp_path / "l", "actors.count=2")
    assert losing.made == 3  # the first was replaced for the second step
    both = StandIn(lambda call: call in (1, 2))
    nobody = with_actors(both, monkeypatch, four, tmp_path / "n", "actors.count=2")
    assert alone == lost == nobody
    assert len(alone) == 3


@pytest.mark.slow
def test_compiled_samplers_may_be_elsewhere_too(
    four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, an actor has the same neighbours in every batch, and so the same bits."""
    settings = ("sampling.sampler=int8", "objective.correction=tis")
    alone = with_actors(StandIn(), monkeypatch, four, tmp_path / "0", *settings)
    one = with_actors(StandIn(), monkeypatch, four, tmp_path / "1", "actors.count=1", *settings)
    assert alone == one


def test_a_group_that_kills_again_and_again_stops_the_run(
    four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = StandIn(lambda call: True)
    with pytest.raises(TrainingError, match=r"group 0 died 3 times.*the process is gone"):
        with_actors(ray, monkeypatch, four, tmp_path, "actors.count=1")


def test_weights_that_do_not_arrive_are_an_error(
    four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an adapter that nobody put in place, while the run went on."""
    arrives = sync.receive

    def lost(parcel: sync.Parcel, into: Any, data: Any = None) -> None:
        if parcel.version == 0:
            arrives(parcel, into, data)

    monkeypatch.setattr(sync, "receive", lost)
    with pytest.raises(TrainingError, match=r"of version 1 were sent: they did not arrive"):
        with_actors(StandIn(), monkeypatch, four, tmp_path, "actors.count=1")


@pytest.mark.slow
def test_low_rank_changes_travel_alone(
    four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[set[str]] = []
    packs = sync.packed

    def packed(named: sync.Named) -> bytes:
        sent.append(set(named))
        return packs(named)

    monkeypatch.setattr(sync, "packed", packed)
    settings = ("method=lora", "lora.rank=2", "hyper.peak_lr=2e-2")
    alone = with_actors(StandIn(), monkeypatch, four, tmp_path / "0", *settings)
    one = with_actors(StandIn(), monkeypatch, four, tmp_path / "1", "actors.count=1", *settings)
    assert alone == one
    assert len(sent) == 2
    assert all("lora" in name for names in sent for name in names)


# ---- without Ray ----


def test_nothing_of_ray_is_needed_where_there_are_no_actors(
    four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it raises
    data = task(tmp_path, "gold")
    learned(config_of(four, f"data={data}", "steps=1"), tmp_path / "none")
    with pytest.raises(ConfigError, match=r"pip install 'ossia\[ray\]', or leave it at 0"):
        learned(config_of(four, f"data={data}", "actors.count=1"), tmp_path / "one")
