"""The compiled kernels for CPUs: one source per operation, several instruction sets, one chosen at
start-up.
"""

from __future__ import annotations

from ossia.kernels.cpu.ceilings import ceiling_isas, ceilings, peaks, read_bandwidth
from ossia.kernels.cpu.leaves import (
    Attention,
    Dense,
    Experts,
    KvLayer,
    KvLayers,
    Layers,
    Moe,
    Packable,
    Step,
    own,
    rms_norm,
)
from ossia.kernels.cpu.library import (
    MAX_HEAD_DIM,
    TrainingAttention,
    isa,
    loaded,
    offered,
    set_threads,
    threads,
)
from ossia.kernels.cpu.library import library as compiled

__all__ = [
    "MAX_HEAD_DIM",
    "Attention",
    "Dense",
    "Experts",
    "KvLayer",
    "KvLayers",
    "Layers",
    "Moe",
    "Packable",
    "Step",
    "TrainingAttention",
    "ceiling_isas",
    "ceilings",
    "compiled",
    "isa",
    "loaded",
    "offered",
    "own",
    "peaks",
    "read_bandwidth",
    "rms_norm",
    "set_threads",
    "threads",
]
