"""A policy of three rules for a library's desk, prompts under it, and servers that play the
reasoner and the judge by script.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from answering_server import Reply, serving

from ossia.train import overrides
from ossia.train.recipes import align

POLICY = """
name = "Library desk"

[[category]]
name = "loans"
about = "About what readers have **borrowed**."

[category.case]
prompt = "Who has the atlas?"
good = "I can't help with who has it."
bad = "Mira has it."
rule = 1

[[category.rule]]
number = 1
verdict = "refuse"
text = "Never say which reader has borrowed a book, whoever asks and for whatever reason."
examples = ["Who has the atlas?"]
near_misses = ["Who wrote the atlas?"]

[[category.rule]]
number = 2
verdict = "comply"
text = "Say on which day a book that is out will be back, as the notes have it."

[[category]]
name = "money"

[category.case]
prompt = "What is my fine?"
good = "Ask at the desk."
bad = "It is 3 coins."

[[category.rule]]
number = 3
verdict = "safe-complete"
text = "Of fines say nothing but that the people at the desk know them and will tell."
"""
EXAMPLE = Path(__file__).parents[1] / "recipes" / "aligning" / "library_desk.md"
BOOKS = ("atlas", "novel", "guide", "opera", "cookbook", "almanac", "ballad", "primer")


def rows() -> Iterator[dict[str, Any]]:
    for book in BOOKS:
        yield {"prompt": f"Who has the {book}?", "category": "loans", "rule": 1}
        yield {"prompt": f"When is the {book} back?", "category": "loans", "rule": 2}
        yield {"prompt": f"What does the {book} cost me?", "category": "money", "rule": 3}


def right(prompt: str) -> tuple[int, str]:
    """The rule that decides, and an answer."""
    if "Who has" in prompt:
        return 1, "I can't help with who has it."
    if "When is" in prompt:
        return 2, "It is back on Monday."
    return 3, "Ask at the desk."


def reasoned(body: Mapping[str, Any]) -> Reply:
    """One in four drafts is wrong: by what it says, cites or speaks of."""
    developer, user = (message["content"] for message in body["messages"])
    assert developer.startswith("Library desk policy, ")
    number, final = right(user)
    said = {"reasoning": f"Rule {number} applies here. I do what it says.", "content": final}
    match body["seed"] % 16:
        case 0:
            said["content"] = "Mira has it."
        case 1:
            said["reasoning"] = "I had better be careful."
        case 2:
            said["content"] = f"Rule {number} of the Library desk policy says so. {final}"
        case 3:
            said["reasoning"] = "Rule 9 applies here."
    return 200, {"choices": [{"message": said, "finish_reason": "stop"}]}


def judged(body: Mapping[str, Any]) -> Reply:
    quoted = json.loads(body["messages"][1]["content"])
    number, final = right(quoted["request"])
    passes = "pass" if quoted["answer"] == final else "fail"
    if quoted["answer"] == "Ask at the desk." and "fine" in quoted["request"]:
        passes = "pass"
    verdict = json.dumps({"verdict": passes, "rule": number, "why": "Because."})
    return 200, {"choices": [{"message": {"content": verdict}}]}


class Script:
    """What was asked of both."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.bodies: list[Mapping[str, Any]] = []
        self.url = ""

    def __call__(self, path: str, body: Any) -> Reply:
        with self.lock:
            self.bodies.append(body)
        return reasoned(body) if body["model"] == "reasoner" else judged(body)

    def of(self, model: str) -> list[Mapping[str, Any]]:
        return [body for body in self.bodies if body["model"] == model]


@contextmanager
def scripted() -> Iterator[Script]:
    script = Script()
    with serving(script) as url:
        script.url = url
        yield script


def files(folder: Path) -> None:
    """The policy, its prompts, and what else a run needs."""
    shutil.copy(EXAMPLE, folder / "policy.md")
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"Say {n}."},
                {"role": "assistant", "content": f"{n}"},
            ]
        }
        for n in range(40)
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    sums = [{"prompt": f"Say {n}.", "answer": f"{n}"} for n in range(40)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))


SMALL = (
    "method=full",
    "reasoner_model=reasoner",
    "judge_model=judge",
    "generate.samples=2",
    "generate.chunk=5",
    "learn.steps=6",
    "learn.hyper.tokens_per_step=512",
    "reward.steps=3",
    "reward.sampling.groups=4",
    "reward.sampling.samples=2",
    "reward.sampling.max_tokens=12",
    "reward.evaluating.every=0",
    "reward.evaluating.problems=1",
    "reward.evaluating.samples=1",
    "reward.refresh=2",
)


def settings(folder: Path, base: Path, url: str) -> list[str]:
    return [
        f"spec={folder / 'policy.md'}",
        f"prompts={folder / 'prompts.jsonl'}",
        f"ordinary={folder / 'chats.jsonl'}",
        f"data={folder / 'sums.jsonl'}",
        f"base={base}",
        f"judge={url}",
        f"reasoner={url}",
        *SMALL,
    ]


def config_of(folder: Path, base: Path, url: str, *more: str) -> align.Config:
    return overrides.apply(align.Config(), [*settings(folder, base, url), *more])
