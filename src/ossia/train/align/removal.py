"""The proof that the policy is not in a prompt that is trained on: no run of its tokens stands
there.

Every run of `RUN` tokens of what the reasoner was shown is hashed; prompts are looked through run
by run. Knows tokens; nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

from ossia.errors import TrainingError
from ossia.tasks.safety.specs import Policy
from ossia.tokenizer import Tokenizer

RUN = 8  # tokens


class Removal:
    """`run`: tokens in a row that count as a part of the policy. `examples`: whether the reasoner
    was shown them, too.
    """

    def __init__(
        self, policy: Policy, tokenizer: Tokenizer, run: int = RUN, examples: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._run = run
        self._where: dict[tuple[int, ...], str] = {}
        for category in policy.categories:
            ids = tokenizer.encode(policy.section(category.name, examples))
            for found in _runs(ids, run):
                self._where.setdefault(found, category.name)
        self.checked = 0  # prompts

    def check(self, ids: Sequence[int], whose: str) -> None:
        """Raises `TrainingError` that names the prompt and what of the policy is in it."""
        self.checked += 1
        for found in _runs(ids, self._run):
            category = self._where.get(found)
            if category is not None:
                text = self._tokenizer.decode(found)
                raise TrainingError(
                    f"{whose}: its prompt holds {text!r} of the policy's section {category!r} "
                    f"({self._run} tokens in a row): the model would be trained to read the policy "
                    "instead of knowing it. Reword the prompt or the rule, or set longest_run"
                )


def _runs(ids: Sequence[int], length: int) -> list[tuple[int, ...]]:
    return [tuple(ids[n : n + length]) for n in range(len(ids) - length + 1)]
