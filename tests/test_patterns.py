"""No regular expression of the package takes more than linear time, whatever text it is given:
while one runs, nothing else in the process does.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import cast

import pytest
import regex
from amounts import thorough
from steps import seconds

import ossia

ROOT = Path(ossia.__file__).parent
SIZE = 10_000 if thorough() else 4_000
# Processor seconds for twice as much: of 20 kB a quadratic pattern takes hundreds of milliseconds,
# a linear one 5; of 8 kB a sixth, and two.
SUSPICIOUS = 0.02 if thorough() else 0.006
PARTS = 2  # tests: each finds all patterns, and that takes a second
METHODS = ("match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer")
AT_ONE_PLACE = {"match", "fullmatch"}  # the others begin anew at every character
Pattern = re.Pattern[str] | re.Pattern[bytes]


@dataclass(frozen=True)
class Found:
    where: str
    pattern: Pattern
    methods: frozenset[str]  # with which the package uses it


@cache
def calls() -> tuple[tuple[str, ast.Call | ast.Attribute], ...]:
    """Of every file that names a method of patterns, by its path, what may be a use of one."""
    wanted = re.compile(rf"\.({'|'.join(METHODS)})\b")
    return tuple(
        (str(path.relative_to(ROOT)), node)
        for path in sorted(ROOT.rglob("*.py"))
        if wanted.search(source := path.read_text())
        for node in ast.walk(ast.parse(source))
        if _method(node.func if isinstance(node, ast.Call) else node) is not None
    )


def _method(node: ast.AST) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) and node.attr in METHODS else None


@cache
def uses() -> dict[str, frozenset[str]]:
    """By the name of what holds a pattern, the methods of it that are mentioned anywhere."""
    found: dict[str, set[str]] = {}
    for _, node in calls():
        if isinstance(node, ast.Attribute):
            holder = node.value.value if isinstance(node.value, ast.Subscript) else node.value
            name = ast.unparse(holder).rpartition(".")[2]
            found.setdefault(name, set()).add(node.attr)
    return {name: frozenset(methods) for name, methods in found.items()}


def written() -> Iterator[Found]:
    """Every pattern that stands in the source whole, with its flags."""
    for path, node in calls():
        if not isinstance(node, ast.Call) or not node.args:
            continue
        owner, _, method = ast.unparse(node.func).rpartition(".")
        if owner == "re" and isinstance(node.args[0], ast.Constant):
            names = re.findall(r"re\.([A-Z]+)", ast.unparse(node))
            flags = sum(getattr(re, name) for name in names)
            pattern = re.compile(node.args[0].value, flags)
            yield Found(f"{path}:{node.lineno}", pattern, frozenset({method}))


def compiled() -> Iterator[Found]:
    """Every pattern that modules and classes hold, put together from parts or not."""
    for module in pkgutil.walk_packages([str(ROOT)], "ossia."):
        if module.name.endswith("__main__"):
            continue
        try:
            loaded = importlib.import_module(module.name)
        except ImportError:  # an extra that is not installed
            continue
        for name, value in vars(loaded).items():
            if isinstance(value, type) and value.__module__ == module.name:
                yield from _held(f"{module.name}.{name}", dict(vars(value)))
        yield from _held(module.name, vars(loaded))


def _held(where: str, names: dict[str, object]) -> Iterator[Found]:
    for name, value in names.items():
        for each in value.values() if isinstance(value, dict) else [value]:
            if isinstance(each, re.Pattern):
                methods = uses().get(name, frozenset()) or frozenset({"finditer"})
                yield Found(f"{where}.{name}", each, methods)


# In JavaScript, where a regular expression may begin, and its flags
IN_SCRIPTS = re.compile(
    r"""(?<![\w)\]/*"'`.])(?<![\w)\]] )/(?![*/ ])"""
    r"""((?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+)/([dgimsuy]*)"""
)
# The first is used on a table of ours, the second on 1,000 characters.
OF_SHORT_TEXTS = {r"(\S+) (\S+)", r"\s*=\s*$"}


def in_scripts() -> Iterator[Found]:
    """Those of the page, as Python has them; a few need the syntax of `regex`."""
    for path in sorted(ROOT.rglob("*.js")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for source, flags in IN_SCRIPTS.findall(line):
                if source not in OF_SHORT_TEXTS:
                    pattern = _translated(source, flags)
                    is_at_one_place = "y" in flags or (source[0] == "^" and "m" not in flags)
                    methods = frozenset({"match" if is_at_one_place else "finditer"})
                    yield Found(f"{path.relative_to(ROOT)}:{number}", pattern, methods)


def _translated(source: str, flags: str) -> Pattern:
    source = re.sub(r"\(\?<(?![=!])", "(?P<", source).replace("[^]", "(?s:.)")
    words = "".join(flag for flag in flags if flag in "ims")
    try:
        return re.compile(f"(?{words}:{source})" if words else source)
    except re.error:
        return cast(Pattern, regex.compile(f"(?{words}:{source})" if words else source))


@cache
def patterns() -> tuple[Found, ...]:
    found: dict[object, Found] = {}
    for each in [*written(), *compiled(), *in_scripts()]:
        found.setdefault((each.pattern.pattern, each.methods), each)
    return tuple(found.values())


ALWAYS = "a 0\n\t\"'\\/<>(){}[].,:;=-_#|*!é"


def hostile(pattern: Pattern) -> Iterator[tuple[str, str, str]]:
    """Texts that go on for ever: a beginning, what repeats, and an end that spoils it."""
    source = pattern.pattern
    source = source if isinstance(source, str) else source.decode("latin1")
    words = re.findall(r"\w{2,}", source)[:12]
    own = list(dict.fromkeys(char for char in source if char.isprintable()))
    few = own[: 12 if thorough() else 3]
    pairs = (
        "".join(pair) for pair in product(["a", "0", " ", '"', "\\", ".", "/", *few], repeat=2)
    )
    rounds = dict.fromkeys([*ALWAYS, *own, *words, *pairs, *(f"{word} " for word in words)])
    if not thorough():
        return product(["", "a"], rounds, ["!"])
    return product(["", "a", *words, '"', "/", "1", "<"], rounds, ["", "!"])


def made(parts: tuple[str, str, str], size: int, like: Pattern) -> str | bytes:
    start, again, end = parts
    text = start + again * (size // len(again)) + end
    return text if isinstance(like.pattern, str) else text.encode()


def run(found: Found, text: str | bytes) -> None:
    if found.methods & AT_ONE_PLACE:
        found.pattern.match(text)
        found.pattern.fullmatch(text)
    if found.methods - AT_ONE_PLACE:
        for _ in found.pattern.finditer(text):
            pass


def grows(found: Found, parts: tuple[str, str, str]) -> bool:
    """Whether twice the text takes about four times the time, and it is long."""
    twice = made(parts, 2 * SIZE, found.pattern)
    if seconds(lambda: run(found, twice), 1) < SUSPICIOUS:
        return False
    once = made(parts, SIZE, found.pattern)
    return seconds(lambda: run(found, twice)) > 2.8 * seconds(lambda: run(found, once))


def worst(found: Found) -> tuple[str, str, str] | None:
    return next((parts for parts in hostile(found.pattern) if grows(found, parts)), None)


def test_there_are_patterns_and_their_uses_are_known() -> None:
    places = {found.where for found in patterns()}
    assert "ossia.harmony.calls._PIECE" in places and len(places) > 50
    assert any(place.startswith("server/keys.py:") for place in places)


@pytest.mark.parametrize("part", range(PARTS))
def test_take_linear_time(part: int) -> None:
    assert {one.where: bad for one in patterns()[part::PARTS] if (bad := worst(one))} == {}


# The cheapest first, which stands for all: any other takes seconds until it is found.
BAD = (r"<.*>", r'"(?:[^"\\]|\\.)*"', r"\s*\d", r"(?:a|b)*?c", r"x+$")


@pytest.mark.parametrize("bad", BAD if thorough() else BAD[:1])
def test_quadratic_ones_are_found(bad: str) -> None:
    assert worst(Found("", re.compile(bad, re.DOTALL), frozenset({"search"}))) is not None
