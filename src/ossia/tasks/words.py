"""Words, templates and names: what the generators write with, kept as data in `texts/*.toml`.

Knows how such a file is read; nothing of what is in it. Lists come as tuples, so that an example
stays a pure function of its seed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, TypeVar

Item = TypeVar("Item")
FOLDER = Path(__file__).with_name("texts")


class Words:
    """One file of `texts/`, read once, when something of it is first asked for."""

    def __init__(self, name: str) -> None:
        self.name = name

    @cached_property
    def _data(self) -> Mapping[str, Any]:
        path = FOLDER / f"{self.name}.toml"
        found: Mapping[str, Any] = _frozen(tomllib.loads(path.read_text(encoding="utf-8")))
        return found

    def __getitem__(self, key: str) -> tuple[str, ...]:
        """A list of words or templates."""
        found: tuple[str, ...] = self._data[key]
        return found

    def table(self, key: str) -> Mapping[str, tuple[str, ...]]:
        """Lists by name: `[key]` of the file."""
        found: Mapping[str, tuple[str, ...]] = self._data[key]
        return found

    def phrases(self, key: str) -> Mapping[str, str]:
        """Single texts by name."""
        found: Mapping[str, str] = self._data[key]
        return found

    def rows(self, key: str) -> tuple[Any, ...]:
        """`[[key]]` of the file: a mapping a row; or a list of lists: a tuple a row."""
        found: tuple[Any, ...] = self._data[key]
        return found


def below(rng: Random, count: int) -> int:
    """0 to `count` - 1: `rng.randrange`, three times as fast, by other random numbers."""
    return int(rng.random() * count)


def pick(rng: Random, items: Sequence[Item]) -> Item:
    """`rng.choice`, three times as fast, by other random numbers."""
    return items[below(rng, len(items))]


def sentence(clause: str) -> str:
    """The clause with a capital first letter."""
    return clause[0].upper() + clause[1:]


def _frozen(value: Any) -> Any:
    """The value with tuples for lists."""
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return {key: _frozen(one) for key, one in value.items()}
    return value
