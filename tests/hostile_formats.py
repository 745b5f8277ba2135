"""Schemas, patterns and Lark grammars meant to overturn the compiler, by seed; and a program that
compiles a batch of them in a process of its own, where a native crash is seen and not suffered.

    python tests/hostile_formats.py schema|lark FIRST COUNT

Each is compiled with an eighth of the stack that the package gives the compiler, and walked for a
few tokens with half a megabyte. Prints the seed before each case, and at the end what was slowest.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SMALLER = 8
WALKED = 6  # tokens
WALK_STACK = 512 << 10

Make = Callable[[Any], Any]


def chosen(rng: random.Random, makers: list[Callable[[], Any]]) -> Any:
    """What one of them makes: the others' work would be most of a case."""
    return rng.choice(makers)()


def size(rng: random.Random, most: int) -> int:
    """Mostly small; now and then as large as it may be, or a little larger."""
    if rng.random() < 0.02:
        return int(most * rng.choice([0.5, 0.97, 1, 1.1]))
    return int(min(most, 60) ** rng.random())


# ---- regular expressions ----


def pattern(rng: random.Random, depth: int = 3) -> str:
    """Legal more often than not."""
    if rng.random() < 0.03:
        return large_pattern(rng)
    parts = []
    for _ in range(rng.randint(1, 4)):
        kind = rng.random()
        if kind < 0.5 or not depth:
            part = rng.choice(
                ["a", "xyz", ".", r"\d", r"\w", "[a-f]", "[^x]", r"\s", "é", r"\.", ""]
            )
        else:
            options = [pattern(rng, depth - 1) for _ in range(rng.randint(1, 3))]
            part = f"({'|'.join(options)})"
        repeat = rng.choice(["", "", "*", "+", "?", "n", "*?"])
        parts.append(part + (count(rng) if repeat == "n" else repeat))
    whole = "".join(parts)
    return f"^{whole}$" if rng.random() < 0.4 and depth == 3 else whole


def count(rng: random.Random) -> str:
    low = rng.choice([0, 1, 2, size(rng, 1000), 1_000_000])
    return rng.choice([f"{{{low}}}", f"{{{low},}}", f"{{{low},{low + size(rng, 10**6)}}}"])


def large_pattern(rng: random.Random) -> str:
    n = size(rng, 4000)
    return chosen(
        rng,
        [
            lambda: "a?" * n,
            lambda: "(.*a)" * n,
            lambda: "[ab]?[cd]*" * n,
            lambda: "(" * n + "a" + ")" * n,
            lambda: "(" * n + "a" + ")?" * n,
            lambda: "|".join(f"k{i}.{{{i}}}" for i in range(min(n, 800))),
            lambda: f"(((a{{1,{n}}}b){{1,{n}}}c){{1,{n}}}d){{1,{n}}}",
            lambda: f"({'|'.join(f'.*{chr(97 + i % 26)}.{{{i}}}' for i in range(min(n, 40)))})*",
        ],
    )


# ---- schemas ----


def schema(rng: random.Random) -> Any:
    return rng.choice([mixed, mixed, chained, wide, nested, combined])(rng)


def leaf(rng: random.Random) -> Any:
    big = size(rng, 10**6)
    return chosen(
        rng,
        [
            lambda: {"type": "string"},
            lambda: {"type": "integer", "minimum": -big, "maximum": big},
            lambda: {"type": ["number", "null"]},
            lambda: {"const": rng.choice([1, "a" * size(rng, 10**5), None, [1, {"b": 2}]])},
            lambda: {"enum": [f"{rng.random()}" for _ in range(1 + size(rng, 20_000))]},
            lambda: {"type": "string", "pattern": pattern(rng)},
            lambda: {
                "type": "string",
                "minLength": big,
                "maxLength": 2 * big,
                "pattern": pattern(rng),
            },
            lambda: {"type": "array", "minItems": big, "items": {"const": 1}},
            lambda: {
                "type": "string",
                "format": rng.choice(["date-time", "uri", "email", "ipv6", "odd"]),
            },
            lambda: {"type": "number", "multipleOf": rng.choice([1, 0.25, 3, 0.1])},
            lambda: {
                "patternProperties": {pattern(rng): {"type": "integer"}},
                "additionalProperties": False,
            },
            lambda: rng.choice([True, {}, {}, {"type": "text"}]),
        ],
    )


STEPS: tuple[Make, ...] = (
    lambda s: {"type": "object", "properties": {"a": s}, "required": ["a"]},
    lambda s: {"type": "object", "properties": {"a": s}, "additionalProperties": False},
    lambda s: {"type": "object", "additionalProperties": s},
    lambda s: {"type": "object", "patternProperties": {"^a": s}, "additionalProperties": False},
    lambda s: {"type": "array", "items": s},
    lambda s: {"prefixItems": [s, {"type": "null"}], "items": False, "minItems": 2},
    lambda s: {"anyOf": [s, {"type": "null"}]},
    lambda s: {"oneOf": [{"type": "null"}, s]},
    lambda s: {"allOf": [s]},
    lambda s: {"allOf": [s, {"type": "object"}]},
    lambda s: {**s, "title": "t"} if isinstance(s, dict) else s,
)


def chained(rng: random.Random) -> Any:
    """A chain of references, which the root may see all at once, so that each seems near."""
    n = 1 + size(rng, 999)
    steps = [rng.choice(STEPS)] if rng.random() < 0.6 else list(STEPS)
    at = "#/$defs/d{}".format
    defined = {f"d{i}": rng.choice(steps)({"$ref": at(i + 1)}) for i in range(n)}
    if rng.random() < 0.3:  # and a ring
        ends: Any = {"anyOf": [{"type": "null"}, rng.choice(steps)({"$ref": at(0)})]}
    else:
        ends = leaf(rng)
    root = {"$defs": {**defined, f"d{n}": ends}, "$ref": at(0)}
    if rng.random() < 0.5:
        names = {f"p{i}": {"$ref": at(i)} for i in range(n)}
        root = {"$defs": root["$defs"], "type": "object", "properties": names}
    return root


def wide(rng: random.Random) -> Any:
    n = 1 + size(rng, 2000)
    many = {f"key {i}": leaf(rng) if n < 100 else {"type": "string"} for i in range(n)}
    return chosen(
        rng,
        [
            lambda: {"type": "object", "properties": many},
            lambda: {"type": "object", "properties": many, "required": list(many)},
            lambda: {
                "type": "object",
                "properties": many,
                "additionalProperties": {"type": "integer"},
            },
            lambda: {"anyOf": [STEPS[i % 9]({"const": i}) for i in range(n)]},
            lambda: {"oneOf": [STEPS[0]({"const": i}) for i in range(min(n, 300))]},
            lambda: {"prefixItems": list(many.values())},
            lambda: {"properties": {"k" * n: {}}, "additionalProperties": {"type": "null"}},
        ],
    )


def nested(rng: random.Random) -> Any:
    whole = leaf(rng)
    for _ in range(size(rng, 100)):
        whole = rng.choice(STEPS)(whole)
    return whole


def combined(rng: random.Random) -> Any:
    """Alternatives multiplied by each other."""
    n = 1 + size(rng, 300) % 30
    return {
        "allOf": [
            {"anyOf": [rng.choice(STEPS)(leaf(rng)) for _ in range(rng.randint(1, 3))]}
            for _ in range(n)
        ]
    }


def mixed(rng: random.Random) -> Any:
    """A small graph of definitions."""
    n = rng.randint(1, 8)
    refs = [{"$ref": f"#/$defs/d{i}"} for i in range(n)]

    def inner(depth: int) -> Any:
        if depth == 0 or rng.random() < 0.3:
            return rng.choice(refs) if rng.random() < 0.4 else leaf(rng)
        kind = rng.random()
        if kind < 0.6:
            return rng.choice(STEPS)(inner(depth - 1))
        keys = "abcdef"[: rng.randint(1, 6)]
        return {"type": "object", "properties": {key: inner(depth - 1) for key in keys}}

    return {"$defs": {f"d{i}": inner(3) for i in range(n)}, **STEPS[0](inner(3))}


# ---- Lark ----


def lark(rng: random.Random) -> str:
    whole = rng.choice([lark_chain, lark_chain, lark_mixed, lark_mixed, lark_large])(rng)
    if rng.random() < 0.05:  # damaged
        cut = rng.randrange(len(whole) + 1)
        whole = whole[:cut] + rng.choice(["", '"', "/", "(", "~", "%json {"]) + whole[cut + 3 :]
    return whole


def lark_chain(rng: random.Random) -> str:
    n = 1 + size(rng, 1990)
    name = rng.choice(["A", "a"])
    form = rng.choice(
        ["{0}{1}", '{0}{1} "x"', '"x" {0}{1}', "({0}{1})*", "{0}{1} | /y/", "{0}{1}~2"]
    )
    lines = [f"{name}{i}: {form.format(name, i + 1)}" for i in range(n)] + [f'{name}{n}: "y"']
    rng.random() < 0.3 and rng.shuffle(lines)
    start = f"start: {name}0"
    if rng.random() < 0.5:
        start = "start: " + " | ".join(f"{name}{i}" for i in range(n + 1))
    return "\n".join([start, *lines])


def lark_mixed(rng: random.Random) -> str:
    n = rng.randint(1, 8)
    names = [rng.choice(["R", "r"]) + str(i) for i in range(n)]

    def atom(depth: int) -> str:
        kind = rng.random()
        if kind < 0.3:
            return rng.choice(names)
        if kind < 0.4:
            return f"/{pattern(rng).replace('/', '')}/"
        if kind < 0.6 or depth == 0:
            return rng.choice(['"a"', '"bc"i', '"a".."z"', '""'])
        if kind < 0.66:
            return f"%json {json.dumps(schema(rng))}"
        if kind < 0.7:
            return '%regex {"substring_words": "one two three"}'
        options = " | ".join(sequence(depth - 1) for _ in range(rng.randint(1, 3)))
        return rng.choice(["({})", "[{}]", "({})", "~({})"]).format(options)

    def sequence(depth: int) -> str:
        parts = []
        for _ in range(rng.randint(1, 3)):
            repeat = rng.choice(["", "", "*", "+", "?", f"~{size(rng, 10**6)}", "~0..1000000"])
            parts.append(atom(depth) + repeat)
        return rng.choice([" ", " ", " & "]).join(parts)

    lines = [f"{name}: {sequence(3)}" for name in names]
    extra = rng.choice(["", "%ignore /x?/", "%import common.INT", "%llguidance {}"])
    return "\n".join([f"start: {sequence(2)}", *lines, extra])


def lark_large(rng: random.Random) -> str:
    n = 1 + size(rng, 2500)
    return chosen(
        rng,
        [
            lambda: "start: " + '"x"? ' * n,
            lambda: "start: " + " ".join(f'"{i}"' for i in range(n)),
            lambda: "start: " + " | ".join(f'"{i}"' for i in range(n)),
            lambda: "start: A\nA: " + '"x"? ' * n,
            lambda: f"start: /{large_pattern(rng)}/",
            lambda: "start: " + "(" * n + '"x"' + ")" * n,
            lambda: "start: " + "[" * n + '"x"' + "]" * n,
            lambda: f'start: "{"k" * 50 * n}"',
            lambda: f'start: ("x"~{n} "y"~{n * 1000})~{n}',
            lambda: f"start: %json {json.dumps(schema(rng))}",
            lambda: (
                "start: A0\n"
                + "\n".join(f"A{i}: A{i + 1} A{i + 1}" for i in range(n))
                + f'\nA{n}: "x"?'
            ),
        ],
    )


# ---- the program ----


def outcome(body: Any, vocabulary: Any, rng: random.Random) -> str:
    import numpy as np

    from ossia.errors import GrammarError
    from ossia.harmony.grammar.bodies import compile_body, next_mask

    try:
        matcher = compile_body(body, vocabulary, "it").start()
        for _ in range(WALKED):
            mask = next_mask(matcher, vocabulary, [vocabulary.end])
            ids = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            token = int(rng.choice(ids))
            if token == vocabulary.end:
                break
            matcher.consume_token(token)
    except GrammarError as error:
        return type(error).__name__
    return "compiled"


def main(kind: str, first: int, number: int) -> None:
    import ossia
    from ossia.harmony.grammar import bodies, compiling, kept

    nano = Path(ossia.__file__).parent / "assets/nano/tokenizer.json"
    vocabulary = bodies.vocabulary(bodies.Tokenizer.from_file(nano))
    compiling.STACK //= SMALLER
    bodies._CACHE = kept.FormatCache(16 << 20)
    counts: dict[str, int] = {}
    slowest = (0.0, -1)
    for seed in range(first, first + number):
        print(f"seed {seed}", flush=True)
        rng = random.Random(seed)
        body: Any = bodies.LarkFormat(lark(rng)) if kind == "lark" else None
        body = body or (
            bodies.JsonFormat(schema(rng))
            if rng.random() < 0.85
            else bodies.RegexFormat(pattern(rng))
        )
        began = time.process_time()
        found = outcome(body, vocabulary, rng)
        slowest = max(slowest, (time.process_time() - began, seed))
        counts[found] = counts.get(found, 0) + 1
    print(json.dumps({"counts": counts, "slowest": slowest, "peak_mb": peak()}))


def peak() -> int:
    """Of this process; what `getrusage` tells is at least what the parent had taken."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["VmHWM"].split()[0]) >> 10


if __name__ == "__main__":
    failed = []

    def run() -> None:
        try:
            main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
        except BaseException as error:
            failed.append(error)

    threading.stack_size(WALK_STACK)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    threading.stack_size(0)
    if failed:
        raise failed[0]
