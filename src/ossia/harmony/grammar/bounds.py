"""How large a schema, pattern or Lark grammar may be.

Knows their texts only; everything that is to be compiled passes here first (bodies.py), whichever
door it came through. The compiler is native code that recurses along references and nesting: beyond
its stack it does not fail but ends the process. tests/harmony/grammar/test_hostile.py shows that
what these bounds let through compiles in an eighth of the stack that compiling.py gives it.

What real servers declare is far below: hundreds of definitions, enums of thousands of values.
"""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal
from urllib.parse import unquote

from ossia.errors import GrammarSizeError

FORMATS = 1024  # of one request: tools and answer
TOTAL = 4 << 20  # characters of all formats of one request
SCHEMA = 1 << 20  # characters of a schema's JSON
GRAMMAR = 128 << 10  # characters of a Lark grammar
PATTERN = 16 << 10  # characters of a regular expression
# What memory grows with the square of: parts of a text that may be missing, as in `a?b?c?`.
PIECES = 2000
ALL_PIECES = 10_000
DEPTH = 400  # levels of JSON along references, by the shortest way; an object's property is two
DEFINITIONS = 1000  # that `$ref`s lead to
OBJECTS = 20_000  # JSON objects in a schema, and so schemas
PROPERTIES = 2000  # of one object
VALUES = 20_000  # of one `enum`
OPTIONS = {"anyOf": 2000, "oneOf": 300, "allOf": 300, "prefixItems": 1000}
DEFINED_IN = ("$defs", "definitions")
TABLES = (*DEFINED_IN, "properties", "patternProperties", "dependentSchemas")  # name to schema
DATA = ("enum", "const", "default", "examples", "example")
RULES = 2000  # of a Lark grammar, its terminals included
RULES_DEEP = 200  # by the shortest way from `start`
SCHEMAS_IN_LARK = 16

# Comments, strings and regexes of Lark, whole or broken off: in them nothing is syntax. Possessive,
# and with a text that is not closed as one match, so that no character is looked at twice.
LARK_LITERAL = re.compile(
    r"""//[^\n]*+|\#[^\n]*+|"(?:\\.|[^"\\\n])*+"?|/(?:\\.|[^/\\])++/?""", re.DOTALL
)
_LARK_DEFINITION = re.compile(r"^[ \t]*+[?!]?([A-Za-z_]\w*+)[^:\n]*+:", re.MULTILINE)
_Holds = Literal["schema", "table", "data"]  # what an object or list is; keywords are in schemas
_PIECE = re.compile(r"[?*+{(~\[]")
_NAME = re.compile(r"\w++")
_JSON_IN_LARK = re.compile(r"%json\s*+")


def check_number(formats: int) -> None:
    """Raises GrammarSizeError, as everything here."""
    _check("the request", "tools and formats", formats, FORMATS)


def check_total(characters: int) -> None:
    _check("the request", "characters of schemas and grammars", characters, TOTAL)


def check_schema(schema: Any, text: str, what: str) -> None:
    """`schema`: plain JSON values, `text`: their JSON."""
    _check(what, "characters", len(text), SCHEMA)
    at = partial(_check, what)
    objects = 0
    pieces = 0
    for node, depth in _walk(schema, at):
        at("levels along references", depth, DEPTH)
        if isinstance(node, dict):
            objects += 1
            at("objects", objects, OBJECTS)
            _check_keywords(node, at)
            pieces += sum(check_pattern(each, what) for each in _patterns(node))
            at("groups, classes and repetitions in all patterns", pieces, ALL_PIECES)


def check_pattern(pattern: str, what: str) -> int:
    """The number of its pieces."""
    _check(what, "characters in a pattern", len(pattern), PATTERN)
    pieces = len(_PIECE.findall(pattern))
    _check(what, "groups, classes and repetitions in a pattern", pieces, PIECES)
    return pieces


def check_lark(grammar: str, what: str) -> None:
    _check(what, "characters", len(grammar), GRAMMAR)
    _check_lark_schemas(grammar, what)
    bare = LARK_LITERAL.sub(lambda found: " " * len(found[0]), grammar)
    definitions = list(_LARK_DEFINITION.finditer(bare))
    _check(what, "rules and terminals", len(definitions), RULES)
    first, *ends = [*(each.start() for each in definitions), len(bare)]
    uses: dict[str, Counter[str]] = {}
    pieces = {"": len(_PIECE.findall(grammar, 0, first))}  # of what is ignored
    for each, end in zip(definitions, ends, strict=True):
        name = each[1]
        uses[name] = Counter(_NAME.findall(bare, each.end(), end))
        pieces[name] = max(1, len(_PIECE.findall(grammar, each.end(), end)))
    _check(what, "rules from the start to a terminal", _rules_deep(uses), RULES_DEEP)
    most, total = _expanded(uses, pieces)
    _check(what, "groups, classes and repetitions in a rule or terminal", most, PIECES)
    _check(what, "groups, classes and repetitions in all", total, ALL_PIECES)


def _check(what: str, unit: str, found: int, most: int) -> None:
    if found > most:
        raise GrammarSizeError(
            f"{what}: has {found:,} {unit}, and {most:,} are allowed: make it smaller"
        )


def _check_keywords(node: dict[str, Any], at: Callable[[str, int, int], None]) -> None:
    for key, most in OPTIONS.items():
        if isinstance(node.get(key), list):
            at(f"options in one {key}", len(node[key]), most)
    if isinstance(node.get("enum"), list):
        at("values in one enum", len(node["enum"]), VALUES)
    for key in ("properties", "patternProperties"):
        if isinstance(node.get(key), dict):
            at(f"keys in one {key}", len(node[key]), PROPERTIES)
    if isinstance(node.get("required"), list):
        at("keys in one required", len(node["required"]), PROPERTIES)


def _patterns(node: dict[str, Any]) -> list[str]:
    named = node.get("patternProperties")
    patterns = [node.get("pattern"), *(named if isinstance(named, dict) else ())]
    return [each for each in patterns if isinstance(each, str)]


def _walk(root: Any, at: Callable[[str, int, int], None]) -> Iterator[tuple[Any, int]]:
    """Every object and list of the document, with its depth by the shortest way from the root:
    through what it holds and through references. What only a table of definitions holds comes last,
    and begins again; a property or value of that name is no such table. Once, or again where a
    reference takes a table for a schema.
    """
    seen: set[tuple[int, _Holds]] = set()
    targets: set[str] = set()
    waiting: deque[tuple[Any, int, _Holds]] = deque([(root, 0, "schema")])
    tables: list[Any] = []
    while waiting or tables:
        if not waiting:
            waiting.append((tables.pop(), 0, "table"))
        node, depth, holds = waiting.popleft()
        place = (id(node), holds)
        if place in seen or not isinstance(node, dict | list):
            continue
        seen.add(place)
        yield node, depth
        if isinstance(node, list):
            waiting.extend((each, depth + 1, holds) for each in node)
            continue
        for key, each in node.items():
            if holds == "schema" and key in DEFINED_IN:
                tables.append(each)
            else:
                waiting.append((each, depth + 1, _held(holds, key)))
        reference = node.get("$ref")
        if isinstance(reference, str) and reference not in targets:
            targets.add(reference)
            at("definitions", len(targets), DEFINITIONS)
            waiting.append((target(root, reference), depth + 1, "schema"))


def _held(holder: _Holds, key: str) -> _Holds:
    """What an object has under a key. A keyword that is not known may hold schemas."""
    if holder == "data":
        return "data"
    if holder == "table":
        return "schema"
    if key in DATA:
        return "data"
    return "table" if key in TABLES else "schema"


def target(root: Any, reference: str) -> Any:
    """What a JSON pointer names; None if it leads nowhere."""
    place = root
    for part in unquote(reference).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        key = int(name) if isinstance(place, list) and name.isdecimal() else name
        try:
            place = place[key]
        except (KeyError, IndexError, TypeError):
            return None
    return place


def _check_lark_schemas(grammar: str, what: str) -> None:
    """Of `%json {...}`, which the compiler reads as it stands."""
    decoder = json.JSONDecoder()
    end = 0
    for number, found in enumerate(_JSON_IN_LARK.finditer(grammar), 1):
        _check(what, "schemas in a grammar", number, SCHEMAS_IN_LARK)
        if found.end() < end:
            continue
        try:
            schema, end = decoder.raw_decode(grammar, found.end())
        except ValueError:  # the compiler says so, too
            continue
        except RecursionError:
            _check(what, "levels in a schema, or more", DEPTH + 1, DEPTH)
        check_schema(schema, grammar[found.end() : end], what)


def _expanded(uses: Mapping[str, Counter[str]], pieces: Mapping[str, int]) -> tuple[int, int]:
    """Of the largest rule or terminal, and of all. The compiler puts a terminal wherever it is
    named in another.
    """
    terminals = {
        name: [each for each in used if each in uses]
        for name, used in uses.items()
        if name.isupper()
    }
    whole = dict(pieces)
    with suppress(CycleError):  # which the compiler refuses
        for name in TopologicalSorter(terminals).static_order():
            for each in terminals.get(name, ()):
                whole[name] += uses[name][each] * whole[each]
    return max(whole.values()), sum(whole.values())


def _rules_deep(uses: Mapping[str, Counter[str]]) -> int:
    """How many rules lie on the shortest way to the one that is farthest from where one begins: the
    rules that no other uses.
    """
    seen: set[str] = set()
    used: set[str] = set().union(*uses.values())
    level = {name for name in uses if name == "start" or name not in used}
    depth = 0
    while level:
        seen |= level
        level = set().union(*(uses[name] for name in level)) & uses.keys() - seen
        depth += 1
    return depth
