"""How dense the source may be, and which constructs it does without. Limits only ever go down.

Reads the source. What ruff can say is in pyproject.toml; who may import whom in
test_import_levels.py.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import ossia

SOURCE = Path(ossia.__file__).parent
FOLDERS = sorted({path.parent for path in SOURCE.rglob("*.py")})
FILES_IN_A_FOLDER = 20
LINES_OF_A_FUNCTION = 60
CHARACTERS_OF_A_LINE = 100

# Tokens on a code line: the goal is 8.5, or 9.5 in the folders named here. Lower a number when a
# folder has come below it; take the row out when it has reached its goal.
GOAL = 8.5
TODAY = {
    "engine": 9.2,
    "engine/device": 10.3,
    "kernels": 10.5,
    "kernels/cpu": 9.2,
    "kernels/triton": 9.8,  # places of elements in memory
    "model": 10.3,
    "tasks/long": 8.6,
    "tools/browser": 8.8,
    "train/rl": 9.2,  # formulas
}
# How often each construct occurs in the whole package.
NESTED_CONDITIONALS = 0  # a conditional expression inside a conditional expression
CHAINED_ASSIGNMENTS = 7  # a = b = 0
LONG_TUPLE_ASSIGNMENTS = 19  # a, b, c = x, y, z: three or more values

NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def name_of(folder: Path) -> str:
    return folder.relative_to(SOURCE).as_posix()


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
KINDS = (*FUNCTIONS, ast.Module, ast.ClassDef, ast.IfExp, ast.Assign, ast.Import, ast.ImportFrom)


@cache
def parsed(path: Path) -> list[ast.AST]:
    """The nodes that are looked at here. Parsing and walking is most of the work: once a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, KINDS)]


def every_file() -> Iterator[tuple[Path, list[ast.AST]]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path, parsed(path)


def docstring_lines(path: Path) -> set[int]:
    """The lines of every docstring."""
    lines: set[int] = set()
    for node in parsed(path):
        holders = (ast.Module, ast.ClassDef, *FUNCTIONS)
        if isinstance(node, holders) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            lines.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def tokens_and_lines(path: Path) -> tuple[int, int]:
    """Tokens of the code, and the lines that hold any. Comments and docstrings are not code."""
    prose = docstring_lines(path)
    source = path.read_text(encoding="utf-8")
    tokens = 0
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in NOT_CODE or token.start[0] in prose:
            continue
        tokens += 1
        lines.update(range(token.start[0], token.end[0] + 1))
    return tokens, len(lines)


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_lines_are_not_packed(folder: Path) -> None:
    counts = [tokens_and_lines(path) for path in folder.glob("*.py")]
    tokens = sum(count for count, _ in counts)
    lines = sum(count for _, count in counts)
    if lines < 60:
        return
    limit = TODAY.get(name_of(folder), GOAL)
    found = tokens / lines
    assert found <= limit, (
        f"{name_of(folder)} has {found:.2f} tokens a code line, the limit is {limit}"
    )


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_folder_can_be_surveyed(folder: Path) -> None:
    files = [path for path in folder.iterdir() if path.suffix == ".py"]
    assert len(files) <= FILES_IN_A_FOLDER


def test_functions_are_short() -> None:
    long = []
    for path, nodes in every_file():
        for node in nodes:
            if isinstance(node, FUNCTIONS):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LINES_OF_A_FUNCTION:
                    long.append(f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}: {length}")
    assert not long, f"over {LINES_OF_A_FUNCTION} lines: {'; '.join(long)}"


def test_lines_are_short() -> None:
    """Also those without a blank, such as patterns, which ruff lets pass."""
    assert [
        f"{path.relative_to(SOURCE)}:{number}"
        for path in sorted(SOURCE.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > CHARACTERS_OF_A_LINE
    ] == []


def is_nested_conditional(node: ast.AST) -> bool:
    if not isinstance(node, ast.IfExp):
        return False
    parts = (node.test, node.body, node.orelse)
    return any(isinstance(inner, ast.IfExp) for part in parts for inner in ast.walk(part))


def is_chained_assignment(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and len(node.targets) > 1


def is_long_tuple_assignment(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)):
        return False
    return isinstance(node.targets[0], ast.Tuple) and len(node.value.elts) > 2


def test_constructs_that_the_source_does_without() -> None:
    limits = {
        is_nested_conditional: NESTED_CONDITIONALS,
        is_chained_assignment: CHAINED_ASSIGNMENTS,
        is_long_tuple_assignment: LONG_TUPLE_ASSIGNMENTS,
    }
    found: dict[str, list[str]] = {is_it.__name__: [] for is_it in limits}
    for path, nodes in every_file():
        for node in nodes:
            for is_it in limits:
                if is_it(node):
                    found[is_it.__name__].append(f"{path.relative_to(SOURCE)}:{node.lineno}")  # type: ignore[attr-defined]
    for is_it, limit in limits.items():
        places = found[is_it.__name__]
        assert len(places) <= limit, f"{is_it.__name__}, the limit is {limit}: {places}"


def test_no_circle_of_imports() -> None:
    """Lazy imports count too: a module must be readable without the ones that need it."""
    arrows = imports_by_module()
    finished: set[str] = set()
    path: list[str] = []

    def visit(module: str) -> None:
        if module in finished:
            return
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        path.append(module)
        for target in sorted(arrows[module]):
            visit(target)
        path.pop()
        finished.add(module)

    for module in arrows:
        visit(module)


def imports_by_module() -> dict[str, set[str]]:
    """Every module of the package and the modules of the package that it imports."""
    files = {module_of(path): nodes for path, nodes in every_file()}
    arrows: dict[str, set[str]] = {}
    for module, nodes in files.items():
        found: set[str] = set()
        for node in nodes:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found.update(name if name in files else str(node.module) for name in names)
        arrows[module] = {name for name in found if name in files and name != module}
    return arrows


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
