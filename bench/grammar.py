"""How long the Harmony grammar takes for a mask, at gpt-oss's vocabulary of 201,088 tokens.

    python bench/grammar.py [--repeat 20] [--random 300]

Completions are walked token by token, and every call of `mask()` is timed in the same thread,
without the engine's head start: a fixed mix as a model writes it (reasoning, calls with JSON of
several schemas, answers in text and in JSON), its very first walk, when the matchers are cold,
apart; and uniformly random completions under the same grammars, which no cache has seen before.
Prints microseconds a token.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterable, Iterator
from statistics import mean, quantiles
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossia.engine.sampling import unpacked
from ossia.harmony import FunctionTool, StreamParser, builtin_tools
from ossia.harmony.grammar.bodies import vocabulary
from ossia.harmony.grammar.completion import CustomTool, harmony_grammar
from ossia.harmony.grammar.constraint import HarmonyGrammar
from ossia.tokenizer import Tokenizer

Mask = NDArray[np.uint32]

THOUGHT = (
    "The user wants to know what the weather will be like tomorrow in Lisbon and whether it is "
    "worth taking the tram "
    "up to the castle. I should look up the forecast first; then, if it does not rain, check "
    "opening hours. "
) * 3
ANSWER = (
    "Tomorrow will be sunny in Lisbon, with up to 24 °C in the afternoon and a light wind from the "
    "north-west. The "
    "castle is open from 9:00 to 21:00; tram 28 leaves from Martim Moniz every ten minutes.\n\n- "
    "Bring water.\n"
) * 2
PATCH = "*** Begin Patch\n*** Update File: src/a.py\n@@\n-print('a')\n+print('b')\n*** End Patch\n"
CALLS = {
    "get_weather": '{"location": "Lisbon, Portugal", "unit": "celsius", "days": 3, "hourly": '
    "false}",
    "search": '{"query":"tram 28 Lisbon opening hours","filters":[{"field":"year","op":">=",'
    '"value":2024},'
    '{"field":"lang","op":"=","value":"pt"}],"limit":10,"since":"2024-05-01","id":"PT-0042"}',
    "write_file": '{"path": "notes/day.md", "content": "# Day 1\\n\\nTake the tram, \\"28\\".\\n'
    + "More. " * 40
    + '"}',
    "anything": '{"a": [1, 2.5, -3e-2, null, true], "b": {"c": "d", "e": {"f": []}}}',
}
FILTER = {
    "type": "object",
    "properties": {
        "field": {"type": "string", "pattern": "^[a-z_]+$"},
        "op": {"enum": ["=", "!=", ">=", "<="]},
        "value": {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 64}]},
    },
    "required": ["field", "op", "value"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "city and country"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "hourly": {"type": ["boolean", "null"]},
        },
        "required": ["location"],
    },
    "search": {
        "type": "object",
        "properties": {
            "query": {"type": "string", "minLength": 1, "maxLength": 200},
            "filters": {"type": "array", "items": FILTER, "maxItems": 8},
            "limit": {"type": "integer", "multipleOf": 5},
            "since": {"type": "string", "format": "date"},
            "id": {"type": "string", "pattern": r"^[A-Z]{2}-\d{4}$"},
        },
        "required": ["query"],
        "additionalProperties": False,
    },
    "write_file": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
    },
    "anything": {},
}
REPLY = {
    "type": "object",
    "properties": {
        "answer": {"type": "string"},
        "sure": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "required": ["answer", "sure"],
    "additionalProperties": False,
}


def completions() -> Iterator[tuple[bool, str]]:
    """(whether the answer must be JSON, text): each kind of call once, and as many answers."""
    thought = f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant"
    for name, body in CALLS.items():
        yield (
            False,
            f"{thought}<|channel|>commentary to=functions.{name} "
            f"<|constrain|>json<|message|>{body}<|call|>",
        )
    yield False, f"{thought}<|channel|>commentary to=functions.patch code<|message|>{PATCH}<|call|>"
    yield False, f"{thought}<|channel|>analysis to=python code<|message|>print(1 + 1)<|call|>"
    for _ in range(3):
        yield False, f"{thought}<|channel|>final<|message|>{ANSWER}<|return|>"
        reply = '{"answer": "' + ANSWER.replace("\n", "\\n") + '", "sure": 0.875}'
        yield True, f"{thought}<|channel|>final<|message|>{reply}<|return|>"


def grammars(tokenizer: Tokenizer) -> dict[bool, HarmonyGrammar]:
    """By whether the answer must be JSON."""
    tools = [FunctionTool(name, "", schema) for name, schema in SCHEMAS.items()]
    custom, builtin = [CustomTool("patch")], [builtin_tools("python"), builtin_tools("browser")]
    reply = {"type": "json_schema", "schema": REPLY}
    more = {"tools": tools, "custom": custom, "namespaces": builtin, "reasoning_budget": 4096}
    return {
        json: harmony_grammar(tokenizer, response_format=reply if json else None, **more)
        for json in (False, True)
    }


def walk(
    grammar: HarmonyGrammar,
    tokenizer: Tokenizer,
    choose: Callable[[Mask, int], int],
    most: int = 10_000,
) -> Iterator[tuple[str, float]]:
    """For each token (where it stands, microseconds for the mask in front of it)."""
    constraint, parser = grammar.start(), StreamParser(tokenizer)
    for n in range(most):
        began = time.perf_counter()
        mask = constraint.mask()
        took = (time.perf_counter() - began) * 1e6
        formed = constraint._matcher is not None
        yield (
            "header" if parser.current is None else "body with a format" if formed else "free text",
            took,
        )
        token = choose(mask, n)
        parser.feed(token)
        constraint.advance(token)
        if constraint.is_done:
            return


def at_random(tokenizer: Tokenizer, rng: random.Random) -> Callable[[Mask, int], int]:
    """Uniform draws from the allowed tokens, except that free text ends soon."""
    end = tokenizer.special("<|end|>")

    def draw(mask: Mask, _: int) -> int:
        if rng.random() < 0.1 and int(mask[end >> 5]) >> (end & 31) & 1:
            return end
        for _ in range(50):
            token = rng.randrange(32 * len(mask))
            if int(mask[token >> 5]) >> (token & 31) & 1:
                return token
        return int(
            rng.choice(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")))
        )

    return draw


def report(title: str, times: Iterable[tuple[str, float]]) -> None:
    """Mean, median, 99th percentile and worst, for each place and over all."""
    by_kind: dict[str, list[float]] = {}
    for kind, took in times:
        by_kind.setdefault(kind, []).append(took)
    print(f"{title:32}{'tokens':>8}{'mean':>8}{'median':>8}{'p99':>8}{'max':>8}")
    by_kind["all"] = [took for values in by_kind.values() for took in values]
    for kind, values in by_kind.items():
        cuts = quantiles(values, n=100)
        print(
            "  "
            f"{kind:30}{len(values):8}{mean(values):8.1f}{cuts[49]:8.1f}{cuts[98]:8.1f}{max(values):8.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=20, help="walks of the mix (default: 20)")
    parser.add_argument("--random", type=int, default=300, help="random completions (default: 300)")
    args = parser.parse_args()
    tokenizer = Tokenizer.o200k_harmony()
    began = time.perf_counter()
    vocabulary(tokenizer)
    print(f"vocabulary: {time.perf_counter() - began:.2f} s, once in a process")
    began = time.perf_counter()
    made = grammars(tokenizer)
    print(
        f"two grammars of {len(SCHEMAS)} functions and four other tools: "
        f"{(time.perf_counter() - began) * 1e3:.0f} ms"
    )
    mix = [(made[json], tokenizer.encode_with_specials(text)) for json, text in completions()]

    def walks() -> Iterator[tuple[str, float]]:
        for grammar, ids in mix:
            yield from walk(grammar, tokenizer, lambda _, n, ids=ids: ids[n])

    report("first walk, microseconds", walks())
    report("the mix", (each for _ in range(args.repeat) for each in walks()))
    draw = at_random(tokenizer, random.Random(0))
    report(
        "at random",
        (each for _ in range(args.random) for each in walk(made[True], tokenizer, draw, 300)),
    )
    mask = made[False].start().mask()
    took = []
    for _ in range(200):
        began = time.perf_counter()
        unpacked(mask, 201_088)
        took.append((time.perf_counter() - began) * 1e6)
    print(f"the engine's unpacking of a mask: {mean(took):.0f}")


if __name__ == "__main__":
    main()
