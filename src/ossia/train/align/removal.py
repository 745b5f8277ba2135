"""The proof that the policy is not in a prompt that is trained on: no run of its words stands
there.

Every run of `RUN` words of what the reasoner was shown is hashed, and prompts are looked through
run by run. Words and not a tokenizer's tokens, whose boundaries move with what stands around them;
case and punctuation do not hide a run. Knows texts; nothing of models.
"""

from __future__ import annotations

import re

from ossia.errors import TrainingError
from ossia.tasks.safety.specs import Policy

RUN = 6  # words
_ALONE = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"  # no blanks between words: a letter is one
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")


class Removal:
    """`run`: words in a row that count as a part of the policy. `examples`: whether the reasoner
    was shown them, too. `checked`: texts so far.
    """

    def __init__(self, policy: Policy, run: int = RUN, examples: bool = False) -> None:
        self.checked = 0
        self._run = run
        self._where: dict[tuple[str, ...], str] = {}
        for category in policy.categories:
            for found in _runs(policy.section(category.name, examples), run):
                self._where.setdefault(found, category.name)

    def check(self, text: str, whose: str) -> None:
        """Raises `TrainingError` that names the prompt and what of the policy is in it."""
        self.checked += 1
        for found in _runs(text, self._run):
            category = self._where.get(found)
            if category is not None:
                raise TrainingError(
                    f"{whose}: its prompt holds {' '.join(found)!r} of the policy's section "
                    f"{category!r} ({self._run} words in a row): the model would be trained to "
                    "read the policy instead of knowing it. Reword the prompt or the rule, or set "
                    "longest_run"
                )


def _runs(text: str, length: int) -> list[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return [tuple(words[n : n + length]) for n in range(len(words) - length + 1)]
