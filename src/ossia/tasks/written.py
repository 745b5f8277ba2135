"""Which text may be trained on: no equation in it may be one that the arithmetic task holds out.

Knows the splits of single operations. Every generator of training text that writes equations asks
here, so that the held-out equations stay unseen whatever the text is about.
"""

from __future__ import annotations

import re

from ossia.tasks.numbers.expressions import Sign, operation_split

_EQUATION = re.compile(r"(-?\d+) ?([+*/-]) ?(\d+) ?=")


def equations(text: str) -> list[tuple[Sign, int, int]]:
    """(sign, a, b) of everything in a text that looks like `a sign b =`."""
    return [(sign, int(a), int(b)) for a, sign, b in _EQUATION.findall(text)]


def may_be_trained(*texts: str) -> bool:
    """Whether none of the texts writes an equation of the held-out split."""
    return all(
        operation_split(*equation) == "train" for text in texts for equation in equations(text)
    )
