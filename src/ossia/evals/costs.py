"""How many tokens a run takes, about, before it is made. Knows trials and lengths."""

from __future__ import annotations

from collections.abc import Sequence

from ossia.evals.card import tokens_of
from ossia.evals.questions import Trial
from ossia.evals.report import mean_tokens
from ossia.evals.results import Record
from ossia.figures import markdown_table
from ossia.harmony import Effort

CHARACTERS = 4  # of a token, in English


def costs(
    suite: str,
    model: str,
    trials: Sequence[Trial],
    records: Sequence[Record],
    speed: float,
    most: int | None = None,
) -> str:
    """A table by effort. `records`: what has been answered, whose lengths are better than any
    guess. `speed`: tokens a second of all answers together. `most`: tokens that an answer may have.
    """
    guesses = dict(zip(map(str, Effort), tokens_of(suite, model), strict=True))
    done = {record.key for record in records if record.kind != "failed"}
    rows = []
    total = 0.0
    for effort in Effort:
        own = [trial for trial in trials if trial.effort is effort]
        missing = [trial for trial in own if trial.key not in done]
        if not own:
            continue
        seen = mean_tokens([record for record in records if record.effort == effort])
        each = guesses[str(effort)] if seen is None else seen
        source = "guessed from the model card" if seen is None else "as answered so far"
        if most is not None and each > most:
            each = most
            source = "as many as fit"
        tokens = each * len(missing)
        total += tokens
        rows.append(
            [
                str(effort),
                str(len(missing)),
                f"{_prompt_tokens(missing):,.0f}",
                f"{each:,.0f} ({source})",
                f"{tokens:,.0f}",
                duration(tokens / speed),
            ]
        )
    head = ["effort", "answers", "prompt tokens", "tokens each", "tokens", f"at {speed:g} tok/s"]
    return f"{markdown_table(head, rows)}\n\nin all about {duration(total / speed)}"


def _prompt_tokens(trials: Sequence[Trial]) -> float:
    texts = [str(message.content) for trial in trials for message in trial.question.messages]
    return sum(map(len, texts)) / CHARACTERS


def duration(seconds: float) -> str:
    """ "40 s", "7 min", "2.2 h", "3.1 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
