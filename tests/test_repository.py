"""What the repository says of itself is true: version, targets, dependencies, links, names in docs,
wheel.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import ossia

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "ossia"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHON_FILES = [
    p for folder in ("src", "recipes", "tests") for p in sorted((ROOT / folder).rglob("*.py"))
]
PROSE = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MAX_FILE, MAX_FUNCTION, MAX_DECISION = 600, 100, 40  # lines
MODULES_OF = {  # where a distribution's module is called something else
    "lm-eval": "lm_eval",
    "mcp-types": "mcp_types",
    "oss-harmony": "openai_harmony",
    "prometheus-client": "prometheus_client",
    "pydantic-core": "pydantic_core",
    "annotated-types": "annotated_types",
    "scikit-learn": "sklearn",
    "opentelemetry-sdk": "opentelemetry",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry",
}


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_changelog_knows_the_version() -> None:
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == ossia.__version__


def test_the_makefile_has_what_the_docs_tell_to_type() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", text_of(ROOT / "Makefile"), re.MULTILINE))
    assert {"help", "chat", "test", "format", "nano", "bench-cpu", "clean"} <= targets
    for page in PROSE:
        code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text_of(page), re.DOTALL))
        told = set(re.findall(r"\bmake ([a-z-]+)", code))
        assert told <= targets, f"{name_of(page)} tells to make {sorted(told - targets)}"


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert text_of(script).splitlines()[-1] == "make test"


@pytest.mark.parametrize("page", PROSE, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text_of(page)):
        assert "://" in target or (page.parent / target).exists(), f"{target} does not exist"


@pytest.mark.parametrize("page", PROSE, ids=name_of)
def test_names_in_the_docs_exist(page: Path) -> None:
    """`engine/engine.py:Engine.step` in a text stands for a definition in that file of the
    package.
    """
    for file, dotted in re.findall(r"`([\w/]+\.py):([\w.]+)`", text_of(page)):
        path = SOURCE / file if (SOURCE / file).exists() else ROOT / file
        assert path.exists(), f"there is no {file}"
        assert dotted in set(definitions(ast.parse(text_of(path)))), (
            f"{file} does not define {dotted}"
        )


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[str]:
    """Dotted names of functions, classes and what classes hold."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from definitions(node, f"{prefix}{node.name}.")


@pytest.mark.parametrize("record", sorted((ROOT / "docs" / "decisions").glob("*.md")), ids=name_of)
def test_decision_records_are_short(record: Path) -> None:
    assert len(text_of(record).splitlines()) <= MAX_DECISION
    assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", record.name)


@pytest.mark.parametrize("file", PYTHON_FILES, ids=name_of)
def test_files_have_a_docstring_and_a_size_to_hold(file: Path) -> None:
    tree = ast.parse(text_of(file))
    assert ast.get_docstring(tree), "has no docstring that says what the file knows"
    if file.is_relative_to(SOURCE):
        assert len(text_of(file).splitlines()) <= MAX_FILE
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION, node.name


EXTRAS = ("train", "tools", "fleet", "otel", "lm-eval", "gpu-test", "ray")


def test_dependencies_are_those_imported() -> None:
    """Nothing undeclared, nothing unused; what the extras bring may be imported too, late, and by
    the recipes, which are run with them.
    """
    required = {distribution(line) for line in PROJECT["dependencies"]}
    extras = PROJECT["optional-dependencies"]
    optional = {distribution(line) for extra in EXTRAS for line in extras[extra]}
    imported = set()
    for file in sorted([*SOURCE.rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]):
        for node in ast.walk(ast.parse(text_of(file))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
    third_party = imported - set(sys.stdlib_module_names) - {"ossia", "recipes"}
    assert third_party == required | optional


def distribution(requirement: str) -> str:
    """The module that a requirement brings."""
    name = re.split(r"[^\w-]", requirement)[0]
    return MODULES_OF.get(name, name)


def test_the_wheel_holds_the_embedded_model(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling, of the extra `dev`, is not installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    # that kernels are compiled into it, the installation shows with which `make test` begins
    quick = os.environ | {"OSSIA_WITHOUT_KERNELS": "1"}
    run = subprocess.run(build, cwd=ROOT, env=quick, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    with zipfile.ZipFile(next(tmp_path.glob("ossia-*.whl"))) as wheel:
        names = set(wheel.namelist())
    assets = [
        p.relative_to(SOURCE.parent).as_posix()
        for p in (SOURCE / "assets").rglob("*")
        if p.is_file()
    ]
    assert set(assets) <= names
    assert {
        f"ossia/assets/nano/{f}" for f in ("config.json", "model.safetensors", "tokenizer.json")
    } <= names
    words = [p.name for p in (SOURCE / "tasks" / "texts").glob("*.toml")]
    assert words and {f"ossia/tasks/texts/{name}" for name in words} <= names
    page = [p.name for p in (SOURCE / "server" / "page").iterdir() if p.is_file()]
    assert {"index.html", "style.css", "app.js", "markdown.js", "tools.js"} <= set(page)
    assert {f"ossia/server/page/{name}" for name in page} <= names
    assert not [name for name in names if "cache" in name or name.startswith(("tests", "recipes"))]
