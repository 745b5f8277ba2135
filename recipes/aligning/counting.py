"""How a model answers what people say to it by the way: a thousand messages of small talk, other
languages and nonsense, and how many of the answers never end.

    ossia train recipes/aligning/polite.py --out runs/count model=nano

Knows a checkpoint and the messages of `ossia.tasks.limits`; trains nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ossia.commands.respond import answer_all
from ossia.figures import Share, markdown_table
from ossia.files import replace_file
from ossia.harmony import Conversation, Effort, Message, Role, SystemContent
from ossia.llm import LLM, load
from ossia.tasks.environment import CUT, Ask, Given
from ossia.tasks.limits.small_talk import message
from ossia.tasks.problem import example_random
from ossia.tasks.safety.scope import MARKS

MOST = 512  # tokens of an answer


@dataclass(frozen=True)
class Answer:
    """One of the answers. `reason`: how it ended."""

    kind: str
    said: str
    effort: str
    final: str
    reason: str
    tokens: int

    @property
    def is_endless(self) -> bool:
        return self.reason in CUT

    @property
    def is_polite(self) -> bool:
        """Whether it says what the model can do, or greets."""
        return any(mark.lower() in self.final.lower() for mark in MARKS)


def report(model: Path, number: int, seed: int, folder: Path) -> None:
    """Count, write it into the folder, and say it."""
    answers = count(load(model), messages(number, seed))
    write(answers, folder)
    print(table(answers))


def messages(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Kinds and texts, none of which training shows, each once."""
    found: dict[str, str] = {}
    number = 0
    while len(found) < count:
        kind, text = message(example_random(seed, "counted", number), "held_out")
        found.setdefault(text, kind)
        number += 1
    return [(kind, text) for text, kind in found.items()]


def count(
    llm: LLM, said: Sequence[tuple[str, str]], efforts: Sequence[Effort] = tuple(Effort)
) -> list[Answer]:
    """Every message at every effort, greedily if the model likes that."""
    asked = [(kind, text, effort) for effort in efforts for kind, text in said]
    asks = []
    for number, (_, text, effort) in enumerate(asked):
        system = Message(Role.SYSTEM, SystemContent(effort=effort))
        conversation = Conversation((system, Message(Role.USER, text)))
        asks.append(Ask(partial(Given, conversation), effort, group=number, max_tokens=MOST))
    found: dict[int, Answer] = {}
    for sample in answer_all(llm, asks, llm.params(max_tokens=MOST)):
        kind, text, effort = asked[sample.group]
        outcome = sample.outcome
        found[sample.group] = Answer(
            kind, text, str(effort), outcome.final, outcome.reason, outcome.counts.sampled
        )
    return [found[number] for number in range(len(asks))]


def table(answers: Sequence[Answer]) -> str:
    """By kind and effort: answers that never ended, and those that say what the model can do."""
    rows = []
    efforts = list(dict.fromkeys(answer.effort for answer in answers))
    kinds = [*dict.fromkeys(answer.kind for answer in answers), "all"]
    for kind in kinds:
        for effort in efforts:
            own = [a for a in answers if a.effort == effort and kind in (a.kind, "all")]
            if not own:
                continue
            endless = Share(sum(a.is_endless for a in own), len(own))
            polite = Share(sum(a.is_polite for a in own), len(own))
            longest = max(a.tokens for a in own)
            rows.append([kind, effort, str(endless), str(polite), str(longest)])
    head = ["messages", "effort", f"ran to {MOST} tokens", "says what it can do", "longest"]
    return markdown_table(head, rows)


def write(answers: Sequence[Answer], folder: Path) -> None:
    """`answers.jsonl`, and the table in `counted.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers]
    replace_file(folder / "answers.jsonl", "".join(lines))
    reasons = Counter(answer.reason for answer in answers)
    ends = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items()))
    replace_file(folder / "counted.md", f"{table(answers)}\n\nendings: {ends}\n")
