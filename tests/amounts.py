"""How much the tests try. By default an eighth of what a test asks for, and the same every time;
with --thorough all of it, and what chance has not shown before.

conftest.py says which by the environment, which the workers and the children inherit. Imports
nothing of the package.
"""

from __future__ import annotations

import os
import random

VARIABLE = "OSSIA_TESTS_THOROUGH"  # holds the first of the fresh seeds
LEAST = 20


def thorough() -> bool:
    return VARIABLE in os.environ


def examples(amount: int) -> int:
    """How many of `amount` examples are tried: all, or an eighth but not fewer than LEAST."""
    if thorough():
        return amount
    return min(amount, max(LEAST, amount // 8))


def seeds(amount: int) -> list[int]:
    """The first seeds of so many, always the same ones; when thorough all, and as many fresh ones.
    A test that takes them names the seed with which it fails.
    """
    known = list(range(examples(amount)))
    if not thorough():
        return known
    first = int(os.environ[VARIABLE])
    return known + list(range(first, first + amount))


def begin_thorough() -> None:
    """From now on, and in the children; who has set the variable gets the same seeds again."""
    os.environ.setdefault(VARIABLE, str(random.SystemRandom().randrange(10**6, 10**9)))


def described() -> str:
    if thorough():
        return f"amounts: all of them, and fresh seeds from {VARIABLE}={os.environ[VARIABLE]}"
    return "amounts: an eighth; --thorough for all of them"
