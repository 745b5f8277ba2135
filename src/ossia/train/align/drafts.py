"""What a reasoner wrote with the policy in sight, its reasoning included.

`Draft` is what stage A filters, and nothing else may read: neither `train/rl` nor `judges` imports
this package (a test), so that no reward can ever look at reasoning. Knows texts; no models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ossia.errors import DataError
from ossia.tasks.safety.specs import Policy

STOPPED = "stop"
CITED = re.compile(r"\brule (?:no\. |number |#|\*\*)?(\d{1,6})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Draft:
    """The `sample`-th answer to a request. `asked`: the user's text; `analysis`, `final`: what was
    thought and said; `reason`: how it ended, `tokens` that it took. `seed`: of all answers to the
    request.
    """

    request: int
    sample: int
    seed: int
    asked: str
    analysis: str
    final: str
    reason: str = STOPPED
    tokens: int = 0

    @property
    def missing(self) -> str:
        """Why it is no whole answer; "" if it is one."""
        if self.reason != STOPPED:
            return "it was cut off"
        if not self.analysis.strip():
            return "its reasoning was not given"
        return "" if self.final.strip() else "it has no answer"


def cited(text: str) -> tuple[int, ...]:
    """The rules that a text names, in order: "Rule 3 says" is 3."""
    return tuple(int(number) for number in CITED.findall(text))


def names_it(policy: Policy, final: str) -> bool:
    """Whether an answer speaks of the document, which its reader does not know."""
    plain = final.casefold()
    return bool(cited(final)) or any(name.casefold() in plain for name in policy.names)


def lines_of(rows: Iterable[Mapping[str, Any]]) -> str:
    # in ASCII: some characters end a line for some readers, and halves of characters are no UTF-8
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_drafts(drafts: Iterable[Draft]) -> str:
    return lines_of(asdict(draft) for draft in drafts)


def read_drafts(path: Path) -> list[Draft]:
    """Raises `DataError` for a file that is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
        return [Draft(**json.loads(line)) for line in text.splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it to have it made anew") from (
            error
        )
