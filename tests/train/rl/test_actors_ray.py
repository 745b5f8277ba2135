"""Rollouts by Ray's actors: the same bytes as without them, also when processes are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from amounts import thorough
from rl_runs import SMALL, config_of, files_of, learned, log_of, task

from ossia.errors import DataError

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'ossia[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # Ray's own warnings

# The first process to grade something here ends itself, once: an actor, in the middle of a step.
ENDS_ITSELF = """
import os, signal
from pathlib import Path

MARK = Path(__file__).with_name("mark")

def reward(row, outcome):
    if not MARK.exists():
        MARK.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(outcome.final == row["answer"])
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Started once for all tests that do not kill it."""
    from ossia.train.rl import actors
    from ossia.train.rl.settings import Actors

    found = actors._ray()
    assert actors._begin(found, Actors(count=3))
    yield found
    found.shutdown()


def result_of(config: Any, out: Path) -> dict[str, str]:
    learned(config, out)
    return files_of(out) | files_of(out, "weights.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return task(tmp_path_factory.mktemp("data"), "gold")


@pytest.fixture(scope="module")
def alone(four: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run without actors leaves."""
    out = tmp_path_factory.mktemp("alone")
    found = result_of(config_of(four, f"data={data}", "sampling.groups=3"), out)
    assert len(found) == 7
    return found


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("how", ["store", "folder", "broadcast"])
def test_with_actors_a_run_has_the_same_bytes(
    count: int,
    how: str,
    cluster: Any,
    four: Path,
    data: Path,
    alone: dict[str, str],
    tmp_path: Path,
) -> None:
    settings = ("sampling.groups=3", f"actors.count={count}", f"actors.sync={how}")
    found = result_of(config_of(four, f"data={data}", *settings), tmp_path)
    assert found == alone
    log = log_of(tmp_path)
    assert all(line["rechecked"] > 0 for line in log)
    assert all(line["mismatch_largest"] == 0 for line in log if "mismatch_largest" in line)


def test_low_rank_changes_reach_the_actors(cluster: Any, four: Path, tmp_path: Path) -> None:
    lora = ("method=lora", "lora.rank=4", "hyper.peak_lr=2e-2")
    data = task(tmp_path, "gold")
    without = result_of(config_of(four, f"data={data}", *lora), tmp_path / "0")
    found = result_of(config_of(four, f"data={data}", *lora, "actors.count=2"), tmp_path / "2")
    assert found == without


def test_an_actor_that_is_killed_changes_nothing(cluster: Any, four: Path, tmp_path: Path) -> None:
    data = task(tmp_path, "gold")
    reward = tmp_path / "reward.py"
    reward.write_text(ENDS_ITSELF)
    given = (f"data={data}", f"reward={reward}", "sampling.groups=3", "steps=3")
    found = result_of(config_of(four, *given, "actors.count=2"), tmp_path / "killed")
    assert (tmp_path / "mark").exists()
    assert found == result_of(config_of(four, *given), tmp_path / "whole")


def test_what_a_task_raises_in_an_actor_is_said(cluster: Any, four: Path, tmp_path: Path) -> None:
    broken = tmp_path / "reward.py"
    broken.write_text(
        "import os\n"
        "def rows():\n"
        f"    if os.getpid() != {os.getpid()}:\n"
        "        raise ValueError('not on this machine')\n"
        "    return [{'prompt': 'Which?', 'answer': 'gold'}]\n"
        "def reward(row, outcome):\n    return 1.0\n"
    )
    with pytest.raises(DataError, match="line 4: ValueError: not on this machine"):
        learned(config_of(four, f"reward={broken}", "actors.count=1"), tmp_path)


def test_a_run_with_actors_that_is_killed_ends_with_the_same_bytes(
    four: Path, data: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    """The process that learns, at any moment: while Ray starts, too."""
    command = [sys.executable, "-m", "ossia", "train", "rl", f"model={four}", f"data={data}"]
    command += [*SMALL, "sampling.groups=3", "actors.count=2", "evaluating.every=3"]
    command += ["evaluating.problems=1", "--out", str(tmp_path), "--resume", "--quiet"]
    rng = random.Random(0)
    for _ in range(20 if thorough() else 5):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            time.sleep(6 + rng.random() * 16)
            process.send_signal(signal.SIGKILL)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert files_of(tmp_path) | files_of(tmp_path, "weights.safetensors") == alone
