"""Where the weights of a run lie, and so where it is computed. The one place that looks for a GPU
to train on.
"""

from __future__ import annotations

import os

import torch

from ossia.errors import ConfigError
from ossia.train.run import Run


def device_of(run: Run) -> torch.device:
    """The device of `run` in this process: of several processes of a machine, each has the GPU of
    its number. Raises `ConfigError` if a GPU is asked for and torch sees none.
    """
    has_gpu = torch.cuda.is_available()
    if run.device == "cuda" and not has_gpu:
        raise ConfigError(
            "device=cuda, but torch sees no CUDA device: install a CUDA build of torch, or set "
            "device=cpu, or auto, which takes what there is"
        )
    # batches of a run's own may be sampled by an exact engine, whose bits only the CPU keeps
    wants_gpu = run.device == "cuda" or (run.device == "auto" and run.batches is None)
    if not wants_gpu or not has_gpu:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
