"""A weights file that changes while its weights are in use: what was copied is not read again, what
is mapped is watched, and what is gone ends the process with the file's name.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import warm_python
from safetensors.torch import load_file, save_file
from tiny_model import environment, write_tiny

import ossia
from ossia.checkpoint import convert, write_gguf
from ossia.checkpoint.mapped import SINGLE, MappedFile, changed_file
from ossia.kernels import not_compiled
from ossia.serving import Loading, Options

MODES: tuple[Loading, ...] = ("map", "promote", "copy")
PROMPT = list(range(3, 40))
# A process for each mode, of one that has imported everything: that takes longer than all the rest.
ASK = """
import os, sys, ossia, ossia.llm

def ask(folder, mode):
    llm = ossia.load(folder, options=ossia.serving.Options(loading=mode, threads=1))
    prompt = list(range(3, 40))
    print([*llm.generate(prompt, temperature=0, max_tokens=8)], flush=True)
    os.truncate(os.path.join(folder, "model.safetensors"), 0)
    print([*llm.generate(prompt, temperature=0, max_tokens=8)], flush=True)

base = sys.argv[1]
for mode in sys.argv[2:]:
    if not (child := os.fork()):
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{base}/{mode}.{name}", os.O_WRONLY | os.O_CREAT), number)
        ask(f"{base}/{mode}", mode)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(mode, os.waitstatus_to_exitcode(status))
"""
compiled = pytest.mark.skipif(not_compiled() is not None, reason="there are no compiled kernels")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "model")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Other tests' files may have been removed while something still holds them."""
    gc.collect()
    yield
    gc.collect()


# ---- the copy ------------------------------------------------------------------------------------


def is_in_use(folder: Path) -> bool:
    gc.collect()
    return str(folder) in Path("/proc/self/maps").read_text()


def as_float32(folder: Path) -> None:
    """The same weights, all of those that are not MXFP4 in float32."""
    tensors = load_file(folder / SINGLE)
    wide = {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}
    save_file(wide, folder / SINGLE)


def rewritten(folder: Path, form: str) -> Path:
    to = folder.parent / "to"
    match form:
        case "hf":
            return folder
        case "hf, float32":
            as_float32(folder)
            return folder
        case "gguf":
            to = folder.parent / "to.gguf"
            write_gguf(folder, to)
        case "original" | "hf-bf16":
            convert(folder, to, form)
    return to


FORMS = ("hf", "hf, float32", "original", "hf-bf16", "gguf")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/maps is Linux's")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_copied_needs_no_file(folder: Path, form: str, dtype: ossia.llm.DType) -> None:
    """Embeddings, norms, sinks, biases and routers too, whatever dtype they are stored in."""
    made = rewritten(folder, form)
    mapped = ossia.load(made, dtype=dtype, options=Options(loading="map"))
    assert is_in_use(made)
    right = [*mapped.generate(PROMPT, temperature=0, max_tokens=6)]
    del mapped
    assert not is_in_use(made), "what is mapped is let go"
    llm = ossia.load(made, dtype=dtype, options=Options(loading="copy"))
    assert not is_in_use(made)
    for file in [made] if made.is_file() else [*made.glob("*.safetensors")]:
        os.truncate(file, 0)
    assert changed_file() is None
    assert [*llm.generate(PROMPT, temperature=0, max_tokens=6)] == right


# ---- what changes --------------------------------------------------------------------------------


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x01\x02\x03\x04")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def replaced(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    os.utime(new, ns=(0, path.stat().st_mtime_ns))
    new.replace(path)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: os.truncate(path, 100), "its size was"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "its size was"),
    "overwritten": (overwritten, "its time of the last write was"),
    "replaced": (replaced, "its inode was"),
    "removed": (Path.unlink, "is gone"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_as_long_as_the_file_is_in_use(tmp_path: Path, change: str) -> None:
    path = tmp_path / SINGLE
    save_file({"a": torch.ones(1000)}, path)
    tensor = MappedFile(path).tensor("a")
    assert changed_file() is None
    happens, words = CHANGES[change]
    happens(path)
    told = changed_file()
    assert told is not None and str(path) in told and words in told
    del tensor
    gc.collect()
    assert changed_file() is None


def test_reading_is_no_change(folder: Path) -> None:
    llm = ossia.load(folder, options=Options(loading="map"))
    [*llm.generate(PROMPT, temperature=0, max_tokens=2)]
    (folder / SINGLE).read_bytes()
    (folder / "other").write_text("x")
    assert changed_file() is None


# ---- what is gone --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A folder with a model and what was printed for each mode, and how its process ended."""
    base = tmp_path_factory.mktemp("asked")
    for mode in MODES:
        write_tiny(base / mode)
    done = warm_python.run(
        [sys.executable, "-c", ASK, str(base), *MODES],
        capture_output=True, text=True, env=environment() | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ended = dict(line.split() for line in done.stdout.splitlines())
    return base, {mode: int(code) for mode, code in ended.items()}


@compiled
@pytest.mark.parametrize("mode", MODES)
def test_a_truncated_file_is_named_or_not_needed(
    asked: tuple[Path, dict[str, int]], mode: Loading
) -> None:
    """Never another answer, and no silent end."""
    base, ended = asked
    answers = (base / f"{mode}.out").read_text().splitlines()
    told = (base / f"{mode}.err").read_text()
    if mode == "copy":
        assert ended[mode] == 0 and len(answers) == 2 and answers[0] == answers[1]
        return
    assert ended[mode] == -signal.SIGBUS, told
    assert len(answers) == 1
    assert f"ossia: {base / mode / SINGLE}: this weights file was truncated" in told
    assert "--load copy" in told


@compiled
def test_another_bus_error_is_somebody_elses(folder: Path) -> None:
    """Python's own handler, if there is one, still says what it has to say."""
    code = (
        "import faulthandler, os, signal, sys, ossia; faulthandler.enable(); "
        "llm = ossia.load(sys.argv[1]); os.kill(os.getpid(), signal.SIGBUS)"
    )
    done = warm_python.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGBUS
    assert "weights file" not in done.stderr and "Fatal Python error: Bus error" in done.stderr
