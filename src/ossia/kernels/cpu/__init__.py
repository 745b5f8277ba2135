"""The compiled kernels for CPUs: one source per operation, several instruction sets, one chosen at start-up."""

from __future__ import annotations

from ossia.kernels.cpu.ceilings import ceilings
from ossia.kernels.cpu.leaves import Attention, Dense, Experts, KvLayer, Moe, Packable, Step, rms_norm
from ossia.kernels.cpu.library import isa, library, loaded, offered, set_threads, threads

__all__ = [
    "Attention",
    "Dense",
    "Experts",
    "KvLayer",
    "Moe",
    "Packable",
    "Step",
    "ceilings",
    "isa",
    "library",
    "loaded",
    "offered",
    "rms_norm",
    "set_threads",
    "threads",
]
