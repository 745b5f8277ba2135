"""What aligning a model would take, before it is done: counts, tokens, time and price.

Arithmetic on requests; nothing is asked and nothing loaded but a tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ossia.errors import ConfigError
from ossia.figures import markdown_table
from ossia.tasks.safety.requests import Request
from ossia.tasks.safety.specs import Policy
from ossia.tokenizer import Tokenizer
from ossia.train.align.generate import Generating
from ossia.train.align.grading import rubric_of, shown
from ossia.train.align.prompts import by_verdict

VERDICT = 100  # tokens of a judge's answer
TRIALS = 10  # answers that a judge is tried on, in each category
HOUR = 3600.0


@dataclass(frozen=True)
class Costs:
    """What an estimate assumes."""

    answer: int = 600  # tokens of an answer, thoughts included
    kept: float = 0.5  # share of the drafts that are kept
    speed: float = 75.0  # tokens a second that are sampled, all answers together
    price: float = 0.0  # of a million tokens that others' servers read or write

    def __post_init__(self) -> None:
        if min(self.answer, self.speed) <= 0 or not 0 < self.kept <= 1 or self.price < 0:
            raise ConfigError(
                "costs.answer and costs.speed must be above 0, costs.kept above 0 and at most 1, "
                "costs.price 0 or more"
            )


@dataclass(frozen=True)
class Plan:
    """Of a run: `trained` requests are drafted, `samples` answers are sampled in stage C, half of
    them judged. `is_model`: whether a model judges, `is_remote`: whether drafts come from a server.
    """

    policy: Policy
    requests: Sequence[Request]
    trained: Sequence[Request]
    generating: Generating
    samples: int
    is_model: bool
    is_remote: bool
    assumed: Costs

    @property
    def drafts(self) -> int:
        return len(self.trained) * self.generating.samples

    @property
    def examples(self) -> int:
        """Of stage B, ordinary ones included."""
        return 2 * round(self.drafts * self.assumed.kept)

    def prompt(self, tokenizer: Tokenizer, is_shown: bool) -> float:
        """Mean tokens of a prompt; `is_shown`: with the section of its category."""
        sizes: dict[str, int] = {}
        total = 0
        for request in self.trained:
            section = self.policy.section(request.category, self.generating.examples)
            if request.category not in sizes:
                sizes[request.category] = len(tokenizer.encode(section))
            total += len(tokenizer.encode(shown(request)))
            total += sizes[request.category] if is_shown else 0
        return total / max(1, len(self.trained))

    def learned(self, tokenizer: Tokenizer) -> int:
        """Tokens of stage B, each once."""
        return round(self.examples * (self.prompt(tokenizer, False) + self.assumed.answer))

    def text(self, tokenizer: Tokenizer) -> str:
        counts = {verdict: len(each) for verdict, each in by_verdict(self.requests).items()}
        named = ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items())
        held_out = len(self.requests) - len(self.trained)
        head = (
            f"policy {self.policy.name}: {len(self.policy.rules)} rules in "
            f"{len(self.policy.categories)} categories; {len(self.requests):,} prompts ({named}), "
            f"of which {held_out:,} are held out"
        )
        return f"{head}\n\n{self._table(tokenizer)}\n\n{self._assumptions()}"

    def _table(self, tokenizer: Tokenizer) -> str:
        answer = self.assumed.answer
        drafted = self.drafts * answer
        read = self.drafts * self.prompt(tokenizer, True)
        sampled = self.samples * answer
        rows = [
            self._row("A: drafts", self.drafts, read, drafted, self.is_remote, True),
            *self._judged(tokenizer, "A: verdicts", self.drafts),
            self._row("B: conversations", self.examples, self.learned(tokenizer), 0, False, False),
            self._row("C: answers", self.samples, 0, sampled, False, True),
            *self._judged(tokenizer, "C: verdicts", self.samples // 2),
        ]
        return markdown_table(["stage", "count", "tokens read", "sampled", "time", "price"], rows)

    def _judged(self, tokenizer: Tokenizer, stage: str, count: int) -> list[list[str]]:
        if not self.is_model:
            return []
        names = sorted({request.category for request in self.trained})
        rubrics = [len(tokenizer.encode(rubric_of(self.policy, name))) for name in names]
        each = sum(rubrics) / max(1, len(names)) + self.assumed.answer
        count += TRIALS * len(names)
        return [self._row(stage, count, count * each, count * VERDICT, True, False)]

    def _row(
        self, stage: str, count: int, read: float, sampled: float, is_remote: bool, is_timed: bool
    ) -> list[str]:
        seconds = sampled / self.assumed.speed
        price = (read + sampled) / 1e6 * self.assumed.price
        return [
            stage,
            f"{count:,}",
            f"{read:,.0f}" if read else "-",
            f"{sampled:,.0f}" if sampled else "-",
            f"{seconds / HOUR:.1f} h" if is_timed and not is_remote else "-",
            f"{price:,.2f}" if is_remote and price else "-",
        ]

    def _assumptions(self) -> str:
        assumed = self.assumed
        return (
            f"assumed: {assumed.answer} tokens an answer, {assumed.kept:.0%} of the drafts kept, "
            f"{assumed.speed:g} tokens a second sampled here, {assumed.price:g} for a million "
            "tokens of others' servers (costs.answer, .kept, .speed, .price); the time of training "
            "is in the table above"
        )
