"""There is one loop from tokens to events: one class in the package feeds the parser."""

from __future__ import annotations

import ast
from pathlib import Path

import ossia

SOURCE = Path(ossia.__file__).parent


def parsers() -> list[str]:
    """The classes that make a `StreamParser`."""
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for owner in ast.walk(tree):
            if isinstance(owner, ast.ClassDef) and any(map(makes_parser, ast.walk(owner))):
                found.append(f"{file.relative_to(SOURCE)}:{owner.name}")
    return found


def makes_parser(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "StreamParser"
    )


def test_one_class_feeds_the_parser() -> None:
    assert parsers() == ["turn/sample.py:SampleReader"]
