"""Random JSON schemas in all that the grammar may be asked to enforce, and values that just miss
them.

Unlike those for rendering they are legal and mostly have values. All from a `random.Random`, so
that a failing case is named by its seed. Patterns never nest quantifiers: Python's `re`, which
judges, would take forever.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

NAMES = ("a", "b", "c", "city", "kind", "é", "x y", "", 'a"b', "n1", "x-1", "\\")
CONSTANTS = (
    *(None, True, False, 0, 1, -5, 42, 1.5, -0.25, 1.0, 2**53 - 1, 1e-7),
    *("a", "b", "", "x y", "é日👍", '\n"\\', "\x1b\x7f", "<|call|>", "12", "2024-01-01"),
)
NUMBERS = (
    0,
    1,
    -1,
    5,
    10,
    100,
    -10,
    0.5,
    -0.5,
    1.5,
    99.9,
    0.1,
    -0.01,
    1e-6,
    0.001,
    1000000,
    2**31 - 1,
    2**53 - 1,
)
PATTERNS = (
    *(
        r"^[a-z]+$",
        r"^\d{3}-\d{4}$",
        r"^\w+$",
        r"^\S+$",
        r"\D",
        r"^[^\s]+$",
        r"^(foo|bar)?$",
        r"^#[0-9a-fA-F]{6}$",
    ),
    *(
        r"a.c",
        r"^.{2,5}$",
        r"^\W$",
        r"[^\w]",
        r"^$",
        r"^a|b$",
        r"^[\D]{1,3}$",
        r"^\s*$",
        r"^[\[\](){}&~-]+$",
        r"^{x}$",
    ),
    *(
        r"^\u00e9\x41+?$",
        r"(?P<n>ab)+c",
        r"^[A-Z]{2}(?:-[A-Z0-9]{1,3})?$",
        r"^https?://",
        r"\.(png|jpg)$",
        r"^[^a]$",
    ),
    *(
        '^[^"]*$',
        r'^[^\\/:*?"<>|]+$',
        "^[^'\"]+$",
        r'^[^\x00-\x1f"]*$',
        r'[\\"]',
        r"[\x01-\x1f]",
        r"^\+?[1-9]\d{1,14}$",
    ),
)
FORMATS = (
    "date",
    "time",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
    "password",
)
REFERENCES = ("#/$defs/A", "#/$defs/B", "#", "#/definitions/C%20c")
TYPES: tuple[Any, ...] = (
    *(
        "object",
        "object",
        "object",
        "array",
        "array",
        "string",
        "string",
        "number",
        "integer",
        "boolean",
        None,
    ),
    *(
        ["string", "null"],
        ["integer", "string"],
        ["object", "null"],
        ["array", "object"],
        ["number", "integer"],
    ),
)


@dataclass(frozen=True)
class Schemas:
    rng: random.Random

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def name(self) -> str:
        return self.rng.choice(NAMES)

    def value(self, depth: int = 0) -> Any:
        kind = self.rng.randrange(9 if depth < 2 else 7)
        if kind == 7:
            return [self.value(depth + 1) for _ in range(self.rng.randrange(3))]
        if kind == 8:
            return {self.name(): self.value(depth + 1) for _ in range(self.rng.randrange(3))}
        return self.rng.choice(CONSTANTS)

    def number(self) -> float:
        return self.rng.choice(
            [*NUMBERS, self.rng.randrange(-300, 300), round(self.rng.uniform(-9, 9), 3)]
        )

    def pattern(self, depth: int = 0) -> str:
        choice = self.rng.choice
        if not depth and self.chance(0.5):
            return choice(PATTERNS)
        out = ""
        for _ in range(self.rng.randrange(1, 4)):
            kind = self.rng.randrange(6 if depth < 2 else 4)
            if kind == 0:
                members = (
                    choice(
                        (
                            "a-f",
                            "0-9",
                            r"\d",
                            r"\w",
                            r"\s",
                            r"\S",
                            r"\D",
                            r"\W",
                            "é",
                            '"',
                            r"\\",
                            "_",
                        )
                    )
                    for _ in "12"
                )
                atom = f"[{choice(('', '^'))}{''.join(members)}]"
            elif kind == 1:
                atom = choice(
                    (
                        r"\d",
                        r"\w",
                        r"\s",
                        r"\D",
                        r"\W",
                        r"\S",
                        ".",
                        r"\.",
                        r"\n",
                        r"\u00e9",
                        '"',
                        r"\\",
                        "👍",
                        "/",
                    )
                )
            elif kind < 4:
                atom = choice("abcXY09_ -")
            else:
                out += f"({choice(('', '?:'))}{self.pattern(depth + 1)}){choice(('', '', '?'))}"
                continue
            out += atom + choice(("", "", "", "*", "+", "?", "{2}", "{1,3}", "*?"))
        if depth:
            return out
        return choice(("^", "")) + out + choice(("$", "", "|b", "|b$"))

    def schema(self, depth: int = 0) -> Any:
        if self.chance(0.03):
            return self.rng.choice([True, {}, False])
        out: dict[str, Any] = {}
        types = self.rng.choice(TYPES if depth < 4 else ("string", "integer", "boolean", "null"))
        if types is not None:
            out["type"] = types
        some = (
            types
            if isinstance(types, list)
            else [types]
            if types
            else ["string", "number", "object", "array"]
        )
        if "string" in some:
            self._string(out)
        if "number" in some or "integer" in some:
            self._number(out)
        if "array" in some and (types or self.chance(0.3)):
            self._array(out, depth)
        if "object" in some and (types or self.chance(0.3)):
            self._object(out, depth)
        if self.chance(0.15):
            out["enum"] = [self.value() for _ in range(self.rng.randrange(1, 5))]
        if self.chance(0.05):
            out["const"] = self.value()
        for key, share in (("anyOf", 0.12), ("oneOf", 0.12), ("allOf", 0.06)):
            if depth < 3 and self.chance(share):
                out[key] = [self.schema(depth + 1) for _ in range(self.rng.randrange(1, 4))]
        if self.chance(0.07):
            out["$ref"] = self.rng.choice(REFERENCES)
        if self.chance(0.1):
            out |= {"title": "t", "x-unknown": {"not": {}}}
        items = list(out.items())
        self.rng.shuffle(items)
        return dict(items)

    def document(self) -> dict[str, Any]:
        root = self.schema()
        root = root if isinstance(root, dict) else {"anyOf": [root]}
        return {
            **root,
            "$defs": {"A": self.schema(2), "B": self.schema(1)},
            "definitions": {"C c": self.schema(2)},
        }

    def _string(self, out: dict[str, Any]) -> None:
        if self.chance(0.25):
            out["minLength"] = self.rng.choice((0, 1, 2, 5))
        if self.chance(0.25):
            out["maxLength"] = self.rng.choice((0, 1, 3, 10, 300))
        if self.chance(0.3):
            out["pattern"] = self.pattern()
        if self.chance(0.15):
            out["format"] = self.rng.choice(FORMATS)

    def _number(self, out: dict[str, Any]) -> None:
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            if self.chance(0.2):
                out[key] = self.number()
        if self.chance(0.12):
            out["multipleOf"] = self.rng.choice((1, 2, 3, 5, 7, 10, 0.5, 0.25, 2.5, 100, 1.0))

    def _array(self, out: dict[str, Any], depth: int) -> None:
        if self.chance(0.8):
            out["items"] = self.schema(depth + 1)
        if self.chance(0.2):
            out["prefixItems"] = [self.schema(depth + 1) for _ in range(self.rng.randrange(1, 3))]
        for key in ("minItems", "maxItems"):
            if self.chance(0.25):
                out[key] = self.rng.randrange(4)

    def _object(self, out: dict[str, Any], depth: int) -> None:
        properties = {self.name(): self.schema(depth + 1) for _ in range(self.rng.randrange(5))}
        if self.chance(0.85):
            out["properties"] = properties
        if self.chance(0.6):
            names = [name for name in properties if self.chance(0.6)] + [self.name()] * self.chance(
                0.1
            )
            out["required"] = list(dict.fromkeys(names))
        if self.chance(0.6):
            out["additionalProperties"] = (
                self.chance(0.3) if self.chance(0.7) else self.schema(depth + 1)
            )
        if self.chance(0.12):
            chosen = self.rng.sample(["^x-", "^[0-9]+$", "_id$", "^a", ".", "é", "^(a|b)$"], 1)
            out["patternProperties"] = {pattern: self.schema(depth + 1) for pattern in chosen}
        for key in ("minProperties", "maxProperties"):
            if self.chance(0.1):
                out[key] = self.rng.randrange(4)


@dataclass(frozen=True)
class Misses:
    """Changes to valid values, and unusual ways to write them: most are then invalid, and must not
    be accepted.
    """

    rng: random.Random

    def change(self, value: Any) -> Any:
        rng, new, kind = self.rng, Schemas(self.rng).value, self.rng.random()
        if isinstance(value, dict):
            key = rng.choice([*value, Schemas(rng).name()])
            if kind < 0.2:
                return {name: item for name, item in value.items() if name != key}
            return {**value, key: self.change(value[key]) if kind > 0.5 and key in value else new()}
        if isinstance(value, list):
            place = rng.randrange(len(value) + 1)
            return [*value[:place], *([new()] * (kind < 0.6)), *value[place + (kind > 0.3) :]]
        if isinstance(value, str) and kind < 0.8:
            place = rng.randrange(len(value) + 1)
            char = rng.choice('aé٣\x1f\x85\u2028\ufeff\r\n0_K\u017f🏽"\\\x00\x01 -/.')
            return value[:place] + char + value[place + (kind < 0.4) :]
        if isinstance(value, int | float) and not isinstance(value, bool) and kind < 0.8:
            return rng.choice(
                [value + 1, value - 1, -value, value + 0.5, value * 2, Schemas(rng).number()]
            )
        return new()

    def text(self, value: Any) -> str:
        """JSON, here and there with a \\u escape or with a key twice."""
        if isinstance(value, str):
            return "".join(map(self._char, json.dumps(value, ensure_ascii=False)))
        if isinstance(value, list):
            return f"[{','.join(map(self.text, value))}]"
        if not isinstance(value, dict):
            return json.dumps(value)
        items = [*value.items()]
        if items and self.rng.random() < 0.1:
            items.append((self.rng.choice(items)[0], Schemas(self.rng).value()))
        return "{" + ",".join(f"{self.text(key)}:{self.text(item)}" for key, item in items) + "}"

    def _char(self, char: str) -> str:
        plain = char not in '"\\nrtbfu' and ord(char) < 0x10000 and not char.isdigit()
        return (
            f"\\u{ord(char):04x}"
            if char == "\x7f" or (plain and self.rng.random() < 0.05)
            else char
        )
