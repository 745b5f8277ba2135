"""The pre-training mixture: documents of every corpus of the little world, endless and labelled.

Knows the corpora; does not know tokens. Document i is a pure function of (seed, i). Restricted
documents are among them, as they would be among text from the web: removing them is the filter's
work (data/filter.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random

from ossia.data import text, world
from ossia.errors import DataError
from ossia.tasks import example_random
from ossia.tasks.long.needles import needle_document, needles_document
from ossia.tasks.long.state import state_text
from ossia.tasks.machine.programs import machine_text
from ossia.tasks.machine.tool_use import tools_text
from ossia.tasks.puzzles.all import puzzle_text
from ossia.tasks.safety.hazard import hazard_document
from ossia.tasks.world.country import World

SHARES: Mapping[str, int] = {  # of the documents, in percent
    "village": 62,
    "world": 10,
    "needles": 10,
    "puzzles": 4,
    "state": 4,
    "hazard": 5,
    "tools": 3,
    "machine": 2,
}


@dataclass(frozen=True)
class Document:
    corpus: str
    text: str
    label: str = "benign"


def documents(
    seed: int, of: World, shares: Mapping[str, int] = SHARES, start: int | None = None
) -> Iterator[tuple[Document, int]]:
    """Endless (document, state) about the country `of`; `start=state` continues after it.

    Raises `DataError` for shares of a corpus that does not exist.
    """
    index = start or 0
    names = list(shares)
    weights = list(shares.values())
    makers = _makers(of)
    unknown = set(names) - set(makers)
    if unknown:
        raise DataError(
            f"there is no corpus {', '.join(sorted(unknown))}: use some of {', '.join(makers)}"
        )
    while True:
        rng = example_random(seed, "corpus", index)
        name = rng.choices(names, weights)[0]
        made, label = makers[name](rng)
        index += 1
        yield Document(name, made, label), index


def _makers(of: World) -> dict[str, Callable[[Random], tuple[str, str]]]:
    harmless: dict[str, Callable[[Random], str]] = {
        "village": text.draw,
        "world": partial(_world, of),
        "puzzles": puzzle_text,
        "state": state_text,
        "needles": partial(_needle, of),
        "tools": partial(tools_text, of=of),
        "machine": machine_text,
    }
    makers = {name: partial(_benign, make) for name, make in harmless.items()}
    return {**makers, "hazard": hazard_document}


def _world(of: World, rng: Random) -> str:
    return world.world_document(rng, of)


def _needle(of: World, rng: Random) -> str:
    make = needles_document if rng.random() < 0.7 else needle_document
    return make(rng, of=of)


def _benign(make: Callable[[Random], str], rng: Random) -> tuple[str, str]:
    return make(rng), "benign"
