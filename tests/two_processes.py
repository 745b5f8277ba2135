"""What two processes do for the tests, in one go, for starting them takes longer than the tests;
and how processes are started. What each of them does is in distributed_worker.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import warm_python
from amounts import thorough
from shared_folders import made_once
from spread_answers import VOCABULARY
from tiny_model import tiny_config, tiny_tokenizer

from ossia import checkpoint
from ossia.checkpoint.names import Layout

WORKER = Path(__file__).with_name("distributed_worker.py")
Task = dict[str, Any]

STEPS = 20 if thorough() else 3
RUNS: dict[str, Task] = {
    "fsdp": {"parallel": {"fsdp": 2}},
    "ep": {"parallel": {"ep": 2}},
    "tp": {"parallel": {"tp": 2}},
    # few examples a step, half of them without a target: in many steps a process has nothing to do
    "idle ep": {
        "parallel": {"ep": 2},
        "source": "every second",
        "hyper": {"tokens_per_step": 60},
        "steps": 20,
    },
    "muon": {"parallel": {"fsdp": 2}, "hyper": {"optimizer": "muon", "clip": 0.0}, "steps": 4},
}
BASIC = {name: {"steps": STEPS} | task for name, task in RUNS.items()}
RESHARDED: Task = {
    "steps": 6,
    "save_every": 2,
    "hyper": {"ema": 0.9, "optimizer": "muon", "clip": 0.0},
}
# One way of being parallel tries them all: where a mask ends is the same in each.
NORMALIZERS = {"fsdp": ("tokens", "samples", "constant"), "ep": ("samples",), "tp": ("samples",)}
OBJECTIVE: Task = {"do": "objective", "hyper": {"balance": {"mode": "none", "router_z": 0.0}}}
LOW_RANK: Task = {
    "parallel": {"replicate": 2},
    "lora": {"rank": 2},
    "steps": STEPS,
    "save_every": 2,
}
CONTINUED: Task = {"parallel": {"tp": 2}, "steps": 3}
SPREAD: dict[str, Task] = {
    "experts in two": {"parts": "ep=2"},
    "heads in two": {"parts": "tp=2"},
}
DIVERGED: Task = {
    "parallel": {"ep": 2},
    "steps": 8,
    "hyper": {"peak_lr": 1e30, "warmup": 1},
    "fails": True,
}


def launch(folder: Path, processes: int, tasks: list[Task], timeout: float = 600) -> list[int]:
    """Exit codes of the processes, which meet at a store of this one. Raises what they printed,
    unless killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        Path(task["out"]).mkdir(parents=True, exist_ok=True)
    (folder / "tasks.json").write_text(json.dumps(tasks))
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    there = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    there |= {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(processes)}
    there["PYTHONPATH"] = os.pathsep.join([str(WORKER.parent), *sys.path])
    started = []
    for rank in range(processes):
        environment = os.environ | there | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        output = (folder / f"output-{rank}").open("w")
        command = [sys.executable, str(WORKER), str(folder / "tasks.json")]
        started.append(
            warm_python.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        )
        output.close()
    try:
        codes = [process.wait(timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    if any(codes) and not any("kill_at" in task for task in tasks):
        raise AssertionError(
            "\n".join((folder / f"output-{n}").read_text()[-3000:] for n in range(processes))
        )
    return codes


def write_spread_model(folder: Path, layout: Layout = "hf", **changes: Any) -> Path:
    """A small model that two or four processes can share, with random weights."""
    tiny = tiny_config(tiny_tokenizer())
    sizes = {"intermediate_size": 128, "vocab_size": VOCABULARY} | changes
    config = replace(tiny, **sizes)
    checkpoint.write_random(config, folder / "spread model", seed=3, layout=layout)
    return folder / "spread model"


def do_all(folder: Path) -> None:
    """A folder in it for each task that two processes have done."""
    tasks = [task | {"out": str(folder / name)} for name, task in BASIC.items()]
    tasks += [CONTINUED | {"start_from": str(folder / "fsdp"), "out": str(folder / "continued")}]
    low_rank = LOW_RANK | {"start_from": str(folder / "fsdp"), "out": str(folder / "low rank")}
    tasks += [low_rank | {"stop_after": 2}, low_rank]
    tasks += [DIVERGED | {"out": str(folder / "diverged")}]
    tasks += [BASIC["tp"] | {"do": "again", "out": str(folder / "tp")}]
    tasks += [{"do": "muon", "parallel": {"tp": 2}, "out": str(folder / "muon tp")}]
    tasks += [{"do": "muon", "parallel": {"ep": 2}, "out": str(folder / "muon ep")}]
    tasks += [{"do": "dispatch", "out": str(folder / "dispatch")}]
    tasks += [{"do": "balance", "out": str(folder / "balance")}]
    model = write_spread_model(folder)
    for name, parts in SPREAD.items():
        how = {"do": "answers", "model": str(model), "short": True}
        tasks += [how | parts | {"out": str(folder / name)}]
    for name, normalizers in NORMALIZERS.items():
        how = {"parallel": {name: 2}, "normalizers": normalizers}
        tasks += [OBJECTIVE | how | {"out": str(folder / f"objective {name}")}]
    launch(folder, 2, tasks)


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each task that two processes have done."""
    return made_once(tmp_path_factory, "two", do_all)


def cut_in_other_ways(folder: Path) -> None:
    """A run whose state is carried from one way of being parallel to the next, in `folder`."""
    task = RESHARDED | {"out": str(folder)}
    tasks = [task | {"parallel": {"fsdp": 2}, "stop_after": 3}]
    tasks += [task | {"do": "carry", "parallel": {"fsdp": 2}, "whole": "fsdp.pt"}]
    tasks += [task | {"do": "carry", "parallel": {"tp": 2}, "whole": "tp.pt"}]
    tasks += [task | {"do": "carry", "parallel": {"ep": 2}, "whole": "ep.pt"}]
    tasks += [task | {"parallel": {"fsdp": 2}}, task | {"parallel": {"ep": 2}}]
    launch(folder / "started", 2, tasks)
