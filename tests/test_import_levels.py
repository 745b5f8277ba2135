"""Who may import whom: the only enforcement of the levels that docs/architecture.md explains.

Reads the source; every `import` counts, also those inside functions and under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ossia

SOURCE = Path(ossia.__file__).parent

# level -> module -> what it may import besides level 0 and itself; None: everything up to its own
# level.
LEVELS: dict[int, dict[str, tuple[str, ...] | None]] = {
    0: {
        "errors": (),
        "files": (),
        "heap": (),
        "figures": (),
        "config": (),
        "parts": (),
        "batch": (),
        "mxfp4": (),
        "tokenizer": (),
        "hub": (),
        "remote": (),
    },
    1: {"kernels": (), "harmony": ()},
    2: {"model": ("kernels",)},
    3: {"checkpoint": ("model", "kernels")},
    4: {"engine": ("model", "kernels")},
    5: {"tools": ("harmony",), "tasks": ("harmony", "tools")},
    6: {
        "turn": ("harmony", "tools", "tasks", "engine"),
        "judges": ("harmony", "tools", "tasks"),
    },
    7: {
        "server": ("turn", "engine", "harmony", "tools"),
        "data": ("harmony", "tasks"),
        "evals": ("harmony", "tools", "tasks"),
        "train": (
            "kernels",
            "model",
            "checkpoint",
            "engine",
            "harmony",
            "turn",
            "tasks",
            "data",
            "judges",
        ),
    },
    8: {"llm": None, "serving": None},
    9: {"commands": None, "__main__": None, "lm_eval": None},
}
LEVEL_OF = {module: level for level, modules in LEVELS.items() for module in modules}

NO_TORCH = (
    "harmony",
    "tools",
    "tasks",
    "turn",
    "evals",
    "server",
    "tokenizer",
    "hub",
    "config",
    "errors",
)
PLAIN = ("request", "pages", "prefix", "turns", "scheduler", "budget", "speculate")
NO_TORCH_FILES = tuple(f"engine/{name}.py" for name in PLAIN)
# What must not even lead to torch.
NEVER_LOADS_TORCH = (
    "",
    "harmony",
    "tools",
    "tasks",
    "tasks.evals",
    "tasks.environment",
    "tokenizer",
    "hub",
    "config",
    "turn",
    "turn.many",
    "judges",
    "evals.run",
    "evals.suites",
    "commands.harmony",
    "commands.main",
    "commands.training",
    "server",
)


def top_level_modules() -> list[str]:
    """Packages and files of the package, without its own __init__."""
    found = [
        path for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    return sorted(path.stem for path in found if path.name != "__init__.py")


def files_of(module: str) -> list[Path]:
    file = SOURCE / f"{module}.py"
    return [file] if file.exists() else sorted((SOURCE / module).rglob("*.py"))


def imports_of(file: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported; `from ossia import x` is `ossia.x`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: imports are absolute here"
            if node.module == "ossia":
                yield from ((node.lineno, f"ossia.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, str(node.module)


def internal_imports(module: str) -> Iterator[tuple[str, str]]:
    """(where, imported top-level module). The package's own lazy names, as `ossia.load`, are
    llm's.
    """
    known = {*top_level_modules(), "__version__"}
    for file in files_of(module):
        for line, name in imports_of(file):
            package, _, rest = name.partition(".")
            if package == "ossia":
                target = rest.split(".")[0]
                yield f"{file.relative_to(SOURCE)}:{line}", target if target in known else "llm"


def allowed(module: str) -> set[str]:
    level = LEVEL_OF[module]
    named = LEVELS[level][module]
    up_to_here = [name for name, its in LEVEL_OF.items() if its <= level]
    return {module, "__version__", *LEVELS[0], *(up_to_here if named is None else named)}


def test_the_table_points_downwards() -> None:
    """Within a level, train knows data and tasks know tools, and not the other way round."""
    for level, modules in LEVELS.items():
        for module, named in modules.items():
            up = [name for name in named or () if LEVEL_OF[name] >= level]
            assert up in ([], ["data"], ["tools"]), (
                f"{module} is on level {level} and may not import {up}"
            )
    assert "server" not in allowed("train") and "train" not in allowed("server")


@pytest.mark.parametrize("module", top_level_modules())
def test_imports_keep_to_the_levels(module: str) -> None:
    assert module in LEVEL_OF, (
        f"ossia.{module} is new: give it a level in LEVELS, and in docs/architecture.md"
    )
    may = allowed(module)
    wrong = [
        f"{where} imports {name}" for where, name in internal_imports(module) if name not in may
    ]
    assert not wrong, f"{module} (level {LEVEL_OF[module]}) may not: {'; '.join(wrong)}"


def test_level_0_has_no_circles() -> None:
    """Within level 0 anything may use errors, and nothing else but what is below it in this
    order.
    """
    order = ["errors", "files", "heap", "figures", "config", "parts", "batch", "mxfp4"]
    order += ["tokenizer", "hub", "remote"]
    assert set(order) == set(LEVELS[0])
    for n, module in enumerate(order):
        for where, name in internal_imports(module):
            assert name in order[: n + 1], f"{where} imports {name}"


def test_no_torch_where_there_are_no_tensors() -> None:
    files = [
        file for module in NO_TORCH if module in top_level_modules() for file in files_of(module)
    ]
    files += [SOURCE / name for name in NO_TORCH_FILES]
    found = [
        (file, line)
        for file in files
        for line, name in imports_of(file)
        if name.split(".")[0] == "torch"
    ]
    assert not found


def test_torch_is_not_loaded_on_the_way() -> None:
    """In a fresh interpreter, one module after the other. Of the engine only the plain half,
    without its package's __init__, which brings the tensors in.
    """
    program = f"""
import importlib, sys, types
def check(name):
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(f"importing {{name}} loads torch")
for name in {NEVER_LOADS_TORCH!r}:
    check(f"ossia.{{name}}".rstrip("."))
engine = sys.modules["ossia.engine"] = types.ModuleType("ossia.engine")
engine.__path__ = [{str(SOURCE / "engine")!r}]
for name in ("request", "pages", "scheduler"):
    check(f"ossia.engine.{{name}}")
"""
    path = {"PYTHONPATH": str(SOURCE.parent)}
    run = subprocess.run([sys.executable, "-c", program], env=path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("module", ["new_idea", "data"])
def test_the_test_sees_wrong_imports(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown module and an upward import are both caught."""
    (tmp_path / "train.py").write_text("")
    (tmp_path / f"{module}.py").write_text("def late():\n    from ossia.train import loop\n")
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    message = "give it a level" if module == "new_idea" else "data.py:2 imports train"
    with pytest.raises(AssertionError, match=re.escape(message)):
        test_imports_keep_to_the_levels(module)


APIS = ("chat", "responses", "messages", "completions")


@pytest.mark.parametrize("folder", [*APIS, "wire"])
def test_apis_share_wire_and_nothing_of_each_other(folder: str) -> None:
    """wire/ knows no API, and no API another."""
    others = [f"ossia.server.{api}" for api in APIS if api != folder]
    found = [
        f"{file.relative_to(SOURCE)}:{line} imports {name}"
        for file in sorted((SOURCE / "server" / folder).rglob("*.py"))
        for line, name in imports_of(file)
        if any(name == other or name.startswith(f"{other}.") for other in others)
    ]
    assert not found
