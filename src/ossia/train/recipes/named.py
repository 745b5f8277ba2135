"""Recipes by name or path: a Python module with a frozen dataclass `Config` and `phases(config,
out)`.

Knows how to find and load one, not what it does.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ossia.errors import ConfigError
from ossia.train.pipeline import Phase

# name -> module
RECIPES = {
    "data": "ossia.train.recipes.data",
    "sft": "ossia.train.recipes.sft",
    "merge": "ossia.train.recipes.merge",
    "rl": "ossia.train.recipes.rl",
    "align": "ossia.train.recipes.align",
}


@dataclass(frozen=True)
class Recipe:
    name: str
    does: str  # the first sentence of the module
    config: Any  # an instance of the module's Config, its defaults
    phases: Callable[[Any, Path], Sequence[Phase]]


def load(name: str) -> Recipe:
    """A built-in recipe, or that in a Python file. Raises `ConfigError` if there is none, or if it
    is not a recipe.
    """
    if name in RECIPES:
        return _recipe(name, importlib.import_module(RECIPES[name]))
    path = Path(name).expanduser()
    if path.suffix == ".py" and path.is_file():
        return _recipe(path.stem, _module(path))
    here = [found.as_posix() for found in in_folder(Path("recipes"))]
    near = difflib.get_close_matches(name, [*RECIPES, *here], 1, 0.5)
    meant = f"; did you mean {near[0]}?" if near else "."
    raise ConfigError(
        f"there is no recipe {name!r}{meant} Recipes are {', '.join([*RECIPES, *here])}, or any "
        "Python file with Config and phases(config, out); `ossia train --list` says what they do"
    )


def listed() -> dict[str, str]:
    """What there is, and what it does: the built-in ones, and those in ./recipes. Runs none of
    them.
    """
    found = {}
    for name, module in RECIPES.items():
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is not None:
            found[name] = _about(Path(spec.origin))
    for path in in_folder(Path("recipes")):
        found[path.as_posix()] = _about(path)
    return found


def _about(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return _sentence(ast.get_docstring(tree))


def in_folder(folder: Path) -> list[Path]:
    """The Python files that have Config and phases."""
    found = []
    for path in sorted(folder.glob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # cannot be run; whoever names it is told why
        if {"Config", "phases"} <= _names(tree):
            found.append(path)
    return found


def _names(tree: ast.Module) -> set[str]:
    """Of classes and functions, defined there or imported from elsewhere."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found |= {name.asname or name.name for name in node.names}
    return found


def _module(path: Path) -> ModuleType:
    name = f"ossia_recipe_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: not Python: {error.msg}") from error
    return module


def _recipe(name: str, module: ModuleType) -> Recipe:
    kind = getattr(module, "Config", None)
    phases = getattr(module, "phases", None)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and callable(phases)):
        raise ConfigError(
            f"{module.__file__} is not a recipe: it needs a frozen dataclass Config and a function "
            "phases(config, out)"
        )
    try:
        config = kind()
    except TypeError as error:
        raise ConfigError(
            f"{module.__file__}: every field of Config needs a default ({error})"
        ) from error
    return Recipe(name, _sentence(module.__doc__), config, phases)


def _sentence(text: str | None) -> str:
    """The first one; all on one line."""
    first, stop, _ = " ".join((text or "").split()).partition(". ")
    return first + "." if stop else first
