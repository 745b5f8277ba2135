"""The compiled kernels as a ctypes library: found, built if necessary, its functions typed.

Calls release the interpreter's lock. Pointers come from torch or numpy; the caller keeps their
owners alive. Knows the C structures of weights.h, field by field; does not know models.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from ctypes import Structure, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

from ossia.errors import RequestError
from ossia.kernels.cpu.build import HERE, BuildError, build, library_name, sources_name

F = c_float
N = c_int
P = c_void_p
MAX_HEAD_DIM = 512  # KV_MAX_HEAD of weights.h


class DenseWeight(Structure):
    _fields_ = [
        ("raw", P),
        ("packed", P),
        ("bias", P),
        ("rows", c_int32),
        ("cols", c_int32),
        ("kind", c_int32),
    ]


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
    _fields_ = [("pages", P), ("kv_heads", c_int32), ("head_dim", c_int32), ("kind", c_int32)]


class AttentionHalf(Structure):
    _fields_ = [
        *(
            ("norm", P),
            ("q", DenseWeight),
            ("k", DenseWeight),
            ("v", DenseWeight),
            ("out", DenseWeight),
        ),
        *(("sinks", P), ("eps", F), ("score_scale", F), ("heads", c_int32), ("window", c_int32)),
    ]


class MoeHalf(Structure):
    _fields_ = [
        *(
            ("norm", P),
            ("router", P),
            ("router_bias", P),
            ("gate_up", ExpertWeight),
            ("down", ExpertWeight),
        ),
        *(("eps", F), ("limit", F), ("top_k", c_int32), ("activations", c_int32)),
    ]


class Layer(Structure):
    _fields_ = [("attention", P), ("moe", P)]


class TrainingAttention(Structure):
    _fields_ = [
        *(("q", P), ("k", P), ("v", P), ("sink", P), ("lo", P), ("hi", P), ("scale", F)),
        *(
            ("queries", c_int32),
            ("keys", c_int32),
            ("heads", c_int32),
            ("kv_heads", c_int32),
            ("width", c_int32),
        ),
    ]


class SampleRow(Structure):
    _fields_ = [
        *(
            ("logits", P),
            ("mask", P),
            ("ids", P),
            ("counts", P),
            ("seen", P),
            ("bias", P),
            ("top_ids", P),
        ),
        *(("top_logprobs", P), ("uniform", c_double), ("top_p", c_double), ("logprob", c_double)),
        *(
            ("inverse_temperature", F),
            ("log_min_p", F),
            ("repetition", F),
            ("presence", F),
            ("frequency", F),
        ),
        *(("mask_words", c_int32), ("edits", c_int32), ("top_k", c_int32), ("top", c_int32)),
        *(("token", c_int32), ("status", c_int32)),
    ]


Signature = tuple[object, list[object]]  # result, arguments
# a row of kernel_list.inc: result, name, parameters
ROW = re.compile(r"^KERNEL\(\w+, (\w+), (\w+),\s*\(([^)]*)\)", re.M)
TYPES: dict[str, object] = {"void": None, "int": N, "int64_t": c_int64, "float": F}


def _kernel_signatures() -> Iterator[tuple[str, Signature]]:
    """Those of kernel_list.inc, under the names in the library."""
    for result, name, text in ROW.findall((HERE / "kernel_list.inc").read_text(encoding="utf-8")):
        parameters = [parameter.split() for parameter in text.split(",")]
        arguments = [P if "*" in last else TYPES[kind] for kind, *_, last in parameters]
        yield f"ossia_{name}", (TYPES[result], arguments)


SIGNATURES: dict[str, Signature] = {
    "ossia_offered": (c_char_p, [N]),
    "ossia_isa": (c_char_p, []),
    "ossia_choose": (N, [c_char_p]),
    "ossia_threads": (N, []),
    "ossia_set_threads": (None, [N]),
    "ossia_fence": (None, []),
    "ossia_ceiling_isa": (c_char_p, [N]),
    "ossia_ceiling_operations": (c_double, [c_char_p, N, N, c_double]),
    "ossia_ceiling_read": (c_double, [P, c_int64, N, c_double]),
    "ossia_watch_map": (None, [P, c_int64, c_char_p]),
    "ossia_forget_map": (None, [P]),
    "ossia_layers": (None, [P, P, N, P, P]),
    **dict(_kernel_signatures()),
}


def open_library(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@cache
def library() -> ctypes.CDLL | str:
    """The kernels, or a sentence that says why there are none. With OSSIA_ISA in the environment
    they use that instruction set instead of the best one; raises `RequestError` if this CPU does
    not offer it.
    """
    found = _library()
    wanted = os.environ.get("OSSIA_ISA")
    if wanted and not isinstance(found, str) and not found.ossia_choose(wanted.encode()):
        known = ", ".join(offered(found))
        raise RequestError(
            f"OSSIA_ISA={wanted}: there are no kernels of that name for this CPU; it has {known}"
        )
    return found


def _library() -> ctypes.CDLL | str:
    name = library_name()
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ossia", "kernels")
    reason = ""
    for folder in (HERE, cached):
        if (folder / name).exists():
            with suppress(OSError):  # damaged, or made on another system: build it anew
                return open_library(folder / name)
    if not os.environ.get("CXX") and (other := _of_another_compiler(cached)):
        return other
    for folder in (HERE, cached):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return open_library(build(folder))
        except BuildError as error:
            return _of_another_compiler(cached) or str(error)
        except OSError as error:  # not writable, or not loadable: try the next place
            reason = str(error)
    return f"the compiled kernels could not be stored or loaded: {reason}"


def _of_another_compiler(cached: Path) -> ctypes.CDLL | None:
    """A library of the same sources: the package's own, made with $CXX set, or any where $CXX
    cannot build.
    """
    for path in (
        path for folder in (HERE, cached) for path in sorted(folder.glob(f"{sources_name()}*.so"))
    ):
        with suppress(OSError):
            return open_library(path)
    return None


def loaded() -> ctypes.CDLL:
    """The kernels, where it is known that there are some."""
    found = library()
    assert isinstance(found, ctypes.CDLL), found
    return found


def offered(library: ctypes.CDLL) -> list[str]:
    """Instruction sets that this CPU has kernels for, best first."""
    names: list[str] = []
    while (name := library.ossia_offered(len(names))) is not None:
        names.append(name.decode())
    return names


def isa() -> str:
    """The instruction set in use."""
    return str(loaded().ossia_isa().decode())


def threads() -> int:
    """Threads that a call uses, the caller's among them."""
    return int(loaded().ossia_threads())


def set_threads(count: int) -> None:
    """For all calls from now on; more than there are cores makes everything slower."""
    loaded().ossia_set_threads(count)


__all__ = [
    "MAX_HEAD_DIM",
    "AttentionHalf",
    "DenseWeight",
    "ExpertWeight",
    "KvLayer",
    "Layer",
    "MoeHalf",
    "SampleRow",
    "Step",
    "isa",
    "library",
    "loaded",
    "offered",
    "open_library",
    "set_threads",
    "threads",
]
