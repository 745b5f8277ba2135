"""Into how many parts a model is cut, if it answers from several processes: `--parallel ep=2,tp=2`.
What that means is model/spread.py's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ossia.errors import ConfigError


@dataclass(frozen=True)
class Parts:
    """`ep` parts of the experts, each of them, with the heads of attention, cut into `tp`: a
    process for every part.
    """

    ep: int = 1
    tp: int = 1

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value < 1:
                raise ConfigError(f"parallel: {one.name} must be 1 or more, found {value}")

    def __str__(self) -> str:
        return f"ep={self.ep},tp={self.tp}"

    @property
    def processes(self) -> int:
        return self.ep * self.tp


def read_parts(text: str) -> Parts:
    """Of "ep=2,tp=2"; what is left out is 1. Raises `ConfigError`."""
    given: dict[str, int] = {}
    names = [one.name for one in fields(Parts)]
    for word in text.split(","):
        name, _, number = word.partition("=")
        name = name.strip()
        if name not in names or name in given or not number.strip().isdecimal():
            raise ConfigError(
                f"parallel {text!r}: expected ep=N, tp=N or both, such as ep=2,tp=2; found {word!r}"
            )
        given[name] = int(number)
    return Parts(**given)
