"""The compiled kernels as a ctypes library: found, built if need be, its functions typed.

Calls release the interpreter's lock. Pointers come from torch or numpy; whoever calls keeps their owners alive. Knows
the C structures of weights.h, field by field, and nothing of models.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import Structure, c_char_p, c_float, c_int, c_int32, c_void_p
from functools import cache
from pathlib import Path

from ossia.kernels.cpu.build import HERE, BuildError, build, library_name

F, N, P = c_float, c_int, c_void_p


class DenseWeight(Structure):
    _fields_ = [("raw", P), ("packed", P), ("bias", P), ("rows", c_int32), ("cols", c_int32), ("kind", c_int32)]


class ExpertWeight(Structure):
    _fields_ = [
        *(("blocks", P), ("scales", P), ("packed", P), ("bias", P)),
        *(("experts", c_int32), ("rows", c_int32), ("cols", c_int32), ("interleaved", c_int32)),
    ]


class Step(Structure):
    _fields_ = [
        *(("tokens", c_int32), ("sequences", c_int32), ("begin", P), ("start", P)),
        *(("pages", P * 2), ("stride", c_int32 * 2), ("first_page", P * 2), ("cos", P), ("sin", P)),
    ]


class KvLayer(Structure):
    _fields_ = [("keys", P), ("values", P), ("kv_heads", c_int32), ("head_dim", c_int32)]


class AttentionHalf(Structure):
    _fields_ = [
        *(("norm", P), ("q", DenseWeight), ("k", DenseWeight), ("v", DenseWeight), ("out", DenseWeight)),
        *(("sinks", P), ("kv", KvLayer), ("eps", F), ("score_scale", F), ("heads", c_int32), ("window", c_int32)),
    ]


class MoeHalf(Structure):
    _fields_ = [
        *(("norm", P), ("router", P), ("router_bias", P), ("gate_up", ExpertWeight), ("down", ExpertWeight)),
        *(("eps", F), ("limit", F), ("top_k", c_int32), ("activations", c_int32)),
    ]


# name -> (result, arguments)
SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "ossia_offered": (c_char_p, [N]),
    "ossia_isa": (c_char_p, []),
    "ossia_choose": (N, [c_char_p]),
    "ossia_threads": (N, []),
    "ossia_set_threads": (None, [N]),
    "ossia_rms_norm": (None, [P, P, F, N, N, P]),
}


def open_library(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@cache
def library() -> ctypes.CDLL | str:
    """The kernels, or a sentence that says why there are none."""
    name = library_name()
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ossia", "kernels")
    for folder in (HERE, cached):
        if (folder / name).exists():
            return open_library(folder / name)
    reason = ""
    for folder in (HERE, cached):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return open_library(build(folder))
        except BuildError as error:
            return str(error)
        except OSError as error:  # not writable, or not loadable: try the next place
            reason = str(error)
    return f"the compiled kernels could not be stored or loaded: {reason}"


def offered(library: ctypes.CDLL) -> list[str]:
    """Instruction sets that this CPU has kernels for, best first."""
    names: list[str] = []
    while (name := library.ossia_offered(len(names))) is not None:
        names.append(name.decode())
    return names


__all__ = [
    "AttentionHalf",
    "DenseWeight",
    "ExpertWeight",
    "KvLayer",
    "MoeHalf",
    "Step",
    "library",
    "offered",
    "open_library",
]
