"""The processes beside the first one, where a model is spread over several: they compute their part
of every step that the first one tells them of (leading.py), and decide nothing.
"""

from __future__ import annotations

import atexit
import signal
import threading

import torch
import torch.distributed as dist

from ossia.engine.leading import Computed, Copied, Dropped, Ended, Made
from ossia.engine.pages import PageTables
from ossia.engine.runner import Runner
from ossia.errors import ProcessLost
from ossia.model import Transformer
from ossia.model.processes import Spread


def begin(model: Transformer) -> None:
    """Comes back in the first process only, whose end ends the others. They compute until then, and
    leave by `SystemExit`; signals are for the first to answer. Raises `ProcessLost` there if the
    first one ended without a word.
    """
    spread = model.spread
    assert spread is not None
    if spread.leads:
        atexit.register(_end, spread)
        return
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    compute_beside(model)
    dist.destroy_process_group()
    raise SystemExit(0)


def _end(spread: Spread) -> None:
    if not dist.is_initialized():
        return
    with spread.lock:
        if spread.lost is None:
            try:
                spread.tell(Ended())
            except ProcessLost:  # who is gone already need not be told
                return
            dist.destroy_process_group()


@torch.inference_mode()
def compute_beside(model: Transformer) -> None:
    """In every process but the first: computes its part, until the first one ends. Raises
    `ProcessLost` if it ended without a word.
    """
    spread = model.spread
    assert spread is not None and not spread.leads
    runners: dict[int, Runner] = {}
    while True:
        match spread.hear():
            case Made(number, pages, same_bits):
                runners[number] = Runner(model, PageTables(pages), same_bits=same_bits)
            case Copied(number, copies):
                runners[number].copy(copies)
            case Computed(number, forward):
                runners[number].compute(forward)
            case Dropped(number):
                del runners[number]
            case Ended():
                return
