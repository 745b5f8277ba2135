"""No problem and no text has changed: hashes over everything that the generators write.

`golden.json` holds a digest for each generator and split at two counts. The default suite draws the
first few; `--slow` draws all. What a model never sees (functions that grade) is not hashed, but the
gold answer must score 1.0. To record anew, after a change that is meant to change problems:

    PYTHONPATH=src python tests/tasks/test_golden.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from ossia.data import conversation, copying, corpus, drill, text, world
from ossia.harmony import Effort, Message
from ossia.tasks import REGISTRY, Problem, Split, example_random, grade, problems
from ossia.tasks.long.needles import needle_document, needles_document
from ossia.tasks.long.state import state_text
from ossia.tasks.machine.programs import machine_text
from ossia.tasks.machine.tool_use import tools_text
from ossia.tasks.problem import Turn
from ossia.tasks.puzzles.all import puzzle_text
from ossia.tasks.safety.hazard import LABELS, Label, hazard_document, hazard_prompt
from ossia.tasks.safety.policy import Spec, policy_question
from ossia.tasks.world.country import world as country
from ossia.tasks.world.reading import reading_document

GOLDEN = Path(__file__).with_name("golden.json")
SPLITS: tuple[Split, ...] = ("train", "held_out")
FEW, ALL = {"problems": 100, "texts": 50}, {"problems": 10_000, "texts": 2_000}
TASK_TEXTS = {
    "puzzles": puzzle_text,
    "state": state_text,
    "machine": machine_text,
    "tools": tools_text,
}
Lines = Iterator[str]


# ---- what is hashed ------------------------------------------------------------------------------


def of_problem(problem: Problem) -> str:
    """Everything that is seen or compared in a problem, in one order."""
    expect = problem.expect
    assert grade(problem, problem.answer, problem.gold_calls) == 1.0, problem
    parts = [
        problem.task, problem.split, problem.instructions, problem.system,
        sorted(problem.about.items()),
        [of_turn(turn) for turn in problem.turns],
        [expect.number, expect.contains, expect.excludes, expect.choices, expect.calls,
            expect.value],
        [expect.equals, expect.values, expect.never, expect.evaluate is None, expect.judge is None],
        [(tool.function.name, tool.function.description,
            tool.function.parameters) for tool in problem.tools],
    ]  # fmt: skip
    return json.dumps(parts, ensure_ascii=False)


def of_turn(turn: Turn) -> list[object]:
    steps = [
        (
            step.call.name,
            step.call.arguments,
            step.call.result,
            step.review and reviewed(step.review),
        )
        for step in turn.steps
    ]
    return [turn.user, turn.final, [turn.think(effort) for effort in Effort], steps]


def reviewed(review: Callable[[Effort], str]) -> list[str]:
    return [review(effort) for effort in Effort]


def of_task(task: str, split: Split) -> Lines:
    start = 0
    while True:
        yield from map(of_problem, problems(task, 20, split=split, start=start))
        start += 20


def of_policy(spec: Spec) -> Lines:
    return made(lambda rng: of_problem(policy_question(rng, "train", spec=spec)))


def made(make: Callable[[Random], str]) -> Lines:
    index = 0
    while True:
        yield make(example_random(0, "golden", index))
        index += 1


def of_messages(messages: tuple[Message, ...]) -> str:
    return "\n".join(map(repr, messages))


def of_conversations(split: Split) -> Lines:
    index = 0
    while True:
        yield of_messages(conversation(3, split, index).messages)
        yield of_messages(drill(3, split, index).messages)
        index += 1


def of_corpus() -> Lines:
    for document, _ in corpus.documents(3, country()):
        yield f"{document.corpus} {document.label} {document.text}"


def of_examples(curriculum: copying.Curriculum) -> Lines:
    for example, _ in copying.examples(3, 500, copying.Marks(500, 501, 7), curriculum):
        yield f"{list(example.ids)} {list(example.mask)}"


def of_hazard(split: Split, label: Label) -> Lines:
    return made(lambda rng: repr(hazard_document(rng, split, label)))


def sources() -> Mapping[str, Mapping[str, Callable[[], Lines]]]:
    """By kind and name: what makes the lines of a digest."""
    asked: dict[str, Callable[[], Lines]] = {}
    for task in REGISTRY.values():
        for split in SPLITS:
            if split == "held_out" or "rl" in task.kinds:
                asked[f"{task.name}, {split}"] = partial(of_task, task.name, split)
    specs: tuple[Spec, ...] = ("section", "whole")
    asked |= {f"policy with {spec}": partial(of_policy, spec) for spec in specs}
    texts: dict[str, Callable[[], Lines]] = {
        "corpus": of_corpus,
        "needle": partial(made, needle_document),
        "needles": partial(made, needles_document),
        "reading": partial(made, lambda rng: reading_document(rng, country())),
        "copying": partial(of_examples, copying.Curriculum(records_after=100, grow_after=200)),
        "copying, grown": partial(of_examples, copying.GROWN),
        "steps": partial(made, lambda rng: text.draw(rng, text.STEPS)),
    }
    texts |= {f"task text {name}": partial(made, make) for name, make in TASK_TEXTS.items()}
    texts |= {f"village {n}": partial(made, make) for n, make in enumerate(text.KINDS)}
    texts |= {
        f"world {n}": partial(made, partial(in_country, make)) for n, make in enumerate(world.KINDS)
    }
    texts |= {f"conversations, {split}": partial(of_conversations, split) for split in SPLITS}
    for label in LABELS:
        texts |= {f"hazard {label}, {split}": partial(of_hazard, split, label) for split in SPLITS}
        texts[f"hazard prompt {label}"] = partial(made, partial(hazard_prompt, label=label))
    return {"problems": asked, "texts": texts}


def in_country(make: world.Make, rng: Random) -> str:
    return make(rng, country())


def digest(lines: Lines, counts: tuple[int, ...]) -> dict[str, str]:
    """Digests over the first lines, by how many they are; `counts` ascend."""
    hashed = blake2b(digest_size=8)
    found = {}
    for n, line in enumerate(islice(lines, counts[-1]), 1):
        hashed.update(f"{line}\n".encode())
        if n in counts:
            found[str(n)] = hashed.hexdigest()
    return found


CASES = [(kind, name) for kind, named in sources().items() for name in named]


def check(kind: str, name: str, count: int) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    found = digest(sources()[kind][name](), (count,))
    assert found[str(count)] == golden[kind][name][str(count)], f"{name} has changed"


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_the_first_are_as_they_were(kind: str, name: str) -> None:
    check(kind, name, FEW[kind])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_all_are_as_they_were(kind: str, name: str) -> None:
    check(kind, name, ALL[kind])


def test_every_digest_belongs_to_a_generator() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert {(kind, name) for kind, named in golden.items() for name in named} == set(CASES)


def record() -> None:
    golden = {
        kind: {name: digest(lines(), (FEW[kind], ALL[kind])) for name, lines in named.items()}
        for kind, named in sources().items()
    }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
