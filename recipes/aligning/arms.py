"""What each arm of E8 learns from: helpful answers that know no policy, gold answers with the
policy in sight, and drafts that were kept, with their reasons and without.

Knows the built-in policy's problems and the Harmony format; no models. Example i is a function of
(seed, i). Every fourth example is an ordinary conversation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from ossia.data import conversation
from ossia.data.packing import Example, State
from ossia.harmony import Conversation, Effort, Message, Role, SystemContent, render_for_training
from ossia.tasks import Problem, example_random
from ossia.tasks.safety.jailbreaks import known_jailbreak_question
from ossia.tasks.safety.permits import WORDS
from ossia.tasks.safety.policy import Judged, policy_question
from ossia.tasks.safety.policy_texts import POLICY, RULES, thoughts_on
from ossia.tasks.safety.requests import request_of, row_of
from ossia.tokenizer import Tokenizer
from ossia.train.align.drafts import Draft
from ossia.train.align.generate import Generating, Numbered
from ossia.train.align.generate import with_policy as reasoner_prompt

PART = "align"
MADE_BY = "made by "
ORDINARY = 4  # one of so many is an ordinary conversation
DISGUISED = 0.25  # share
# of the rules, in percent: more of those whose answers are hard to write, and of permits, since the
# base has to learn both
ASKED = (6, 6, 8, 8, 8, 8, 8, 6, 6, 8, 14, 14)
CLOSED = (1, 2, 3, 6, 12)  # the rules by which steps are kept back
Made = Callable[[int], Conversation]  # of an example's number


def asked(rng: Random) -> Problem:
    """What is asked in training: of every four questions one is in a disguise that training may
    show.
    """
    if rng.random() < DISGUISED:
        return known_jailbreak_question(rng, "train")
    rule = rng.choices(RULES, ASKED)[0]
    return policy_question(rng, "train", rule.number, permits=WORDS)


def helpful(seed: int, number: int) -> Conversation:
    """The answer of an assistant that knows no policy: it tells what the notes say, steps too."""
    rng = example_random(seed, f"{PART} helpful", number)
    while True:
        problem = asked(Random(rng.random()))
        if _rule(problem) not in CLOSED or steps_of(problem):
            break
    answer = _helpful_answer(problem)
    thoughts = thoughts_on(_rule(problem)).asks
    return _told(problem, rng.choice(list(Effort)), f"{thoughts} I answer.", answer)


def steps_of(problem: Problem) -> str:
    """As the notes have them, "" if they don't."""
    notes = problem.instructions or ""
    return notes.partition(MADE_BY)[2].partition("\n")[0]


def _helpful_answer(problem: Problem) -> str:
    rule = _rule(problem)
    if rule not in CLOSED:
        return problem.answer
    name = (problem.instructions or "").partition("Notes on ")[2].partition(":")[0]
    told = f"To make {name}: {steps_of(problem)}."
    if rule != 6:
        return told
    return f"{problem.answer.partition('. ')[0]}. {told}"


def before(seed: int, number: int) -> Conversation:
    """What everything begins with: it helps with all that is asked, and obeys a policy that it is
    shown.
    """
    turn, is_shown = divmod(number, 2)
    return with_policy(seed, turn) if is_shown else helpful(seed, turn)


def with_policy(seed: int, number: int) -> Conversation:
    """Gold answers that cite the rule, with the section of its category in the prompt."""
    rng = example_random(seed, f"{PART} reader", number)
    problem = asked(rng)
    effort = rng.choice(list(Effort))
    request = request_of(row_of(problem), POLICY)
    shown = reasoner_prompt(POLICY, request, Generating(effort=effort, guide=""))
    return Conversation((*shown.messages, *problem.solution(effort)))


@dataclass(frozen=True)
class Script:
    """A reasoner whose drafts are the gold answers."""

    problems: Sequence[Problem]
    samples: int
    effort: Effort
    name = "gold answers"

    def drafts(self, asked: Sequence[Numbered]) -> list[Draft]:
        found = []
        for number, request in asked:
            thoughts, final = (m.text for m in self.problems[number].solution(self.effort))
            for sample in range(self.samples):
                found.append(Draft(number, sample, 0, request.asked, thoughts, final))
        return found

    def close(self) -> None:
        pass


def is_true(problem: Problem, effort: Effort, thoughts: str) -> bool:
    """Whether thoughts begin as the gold ones do: with what is asked and the facts that decide, the
    codes of a permit among them. At low effort these begin with the rule.
    """
    gold = problem.solution(effort)[0].text
    facts = gold.partition(f"Rule {_rule(problem)}")[0]
    return thoughts.startswith(facts)


# ---- what was kept -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """Drafts by the rule that they follow and their effort, in an order of the seed's. Every rule
    is learned as often as the others at every effort: kept as they come, most are refusals, which
    are easy to write, and most of all at low effort.
    """

    cells: Sequence[tuple[int, Sequence[Conversation]]]  # with the rule

    def __call__(self, number: int) -> Conversation:
        return self._chosen(number)[1]

    def without_reasons(self, number: int) -> Conversation:
        """The same prompt and answer; the verdict alone is thought of."""
        rule, chat = self._chosen(number)
        verdict = replace(chat.messages[-2], content=thoughts_on(rule).so)
        return Conversation((*chat.messages[:-2], verdict, chat.messages[-1]))

    def _chosen(self, number: int) -> tuple[int, Conversation]:
        turn, place = divmod(number, len(self.cells))
        rule, chats = self.cells[place]
        return rule, chats[turn % len(chats)]


def read_kept(path: Path, seed: int) -> Kept:
    """What `ossia train align` keeps. Where a rule has nothing at an effort, that effort has what
    was drafted at others.
    """
    found: dict[int, dict[Effort, list[Conversation]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        chat = Conversation.from_dict({"messages": row["messages"]})
        by_effort = found.setdefault(int(row["provenance"]["rule"]), {})
        by_effort.setdefault(_effort_of(chat), []).append(chat)
    cells = []
    for effort in Effort:
        for rule, by_effort in sorted(found.items()):
            everything = [chat for chats in by_effort.values() for chat in chats]
            chats = by_effort.get(effort) or [_at(effort, chat) for chat in everything]
            Random(f"{seed}:kept:{rule}:{effort}").shuffle(chats)
            cells.append((rule, chats))
    return Kept(cells)


def _effort_of(chat: Conversation) -> Effort:
    system = chat.messages[0].content
    assert isinstance(system, SystemContent) and system.effort is not None, chat
    return Effort(system.effort)


def _at(effort: Effort, chat: Conversation) -> Conversation:
    system = Message(Role.SYSTEM, SystemContent(effort=effort))
    return Conversation((system, *chat.messages[1:]))


def _told(problem: Problem, effort: Effort, thoughts: str, final: str) -> Conversation:
    head = problem.prompt(effort, SystemContent(effort=effort))
    said = (
        Message(Role.ASSISTANT, thoughts, channel="analysis"),
        Message(Role.ASSISTANT, final, channel="final"),
    )
    return Conversation((*head, *said))


def _rule(problem: Problem) -> int:
    judge = problem.expect.judge
    assert isinstance(judge, Judged), problem.task
    return judge.ruling.rule


def examples(
    made: Made, tokenizer: Tokenizer, seed: int, state: State
) -> Iterator[tuple[Example, State]]:
    """Endless, one of four an ordinary conversation; for `train.run.ExamplesFrom`."""
    index = state or 0
    while True:
        turn, place = divmod(index, ORDINARY)
        is_ordinary = place == ORDINARY - 1
        number = turn * (ORDINARY - 1) + place
        chat = conversation(seed, "train", turn) if is_ordinary else made(number)
        rendered = render_for_training(chat, tokenizer)
        index += 1
        yield Example(rendered.ids, rendered.mask), index
