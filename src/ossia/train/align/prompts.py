"""The prompts of a run: which are trained on, and as what stages B and C see them.

Knows requests, conversations and sources of problems; no tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from ossia.data import conversation
from ossia.harmony import Conversation, Effort, Message, Role, SystemContent
from ossia.tasks import example_random
from ossia.tasks.environment import Environment, Outcome, Reward
from ossia.tasks.external import ExternalTask, Row, RowEnvironment
from ossia.tasks.safety.policy import policy_question
from ossia.tasks.safety.policy_texts import POLICY
from ossia.tasks.safety.requests import Request, request_of, row_of
from ossia.tasks.safety.specs import VERDICTS, Policy
from ossia.train.align.drafts import Draft
from ossia.train.align.generate import prompt_of
from ossia.train.align.grading import Grader
from ossia.train.rl.asks import Rows

OTHER = "other"  # requests of which nobody has said what they demand


def built_in(count: int, seed: int) -> tuple[Request, ...]:
    """Requests of the built-in policy."""
    found = []
    for number in range(count):
        problem = policy_question(example_random(seed, "aligned", number), "train")
        found.append(request_of(row_of(problem), POLICY))
    return tuple(found)


def distinct(requests: Iterable[Request]) -> tuple[Request, ...]:
    """Each prompt once: the same one must not be both trained on and held out."""
    found: dict[str, Request] = {}
    for request in requests:
        row = request.row
        found.setdefault(json.dumps([row["prompt"], row.get("instructions")]), request)
    return tuple(found.values())


def by_verdict(requests: Sequence[Request]) -> dict[str, list[Request]]:
    """What is refused and what must be answered, apart: the latter are the controls that keep a
    model from refusing everything.
    """
    found: dict[str, list[Request]] = {}
    for verdict in (*VERDICTS, None):
        chosen = [request for request in requests if request.verdict == verdict]
        if chosen:
            found[verdict or OTHER] = chosen
    return found


def trained_on(requests: Sequence[Request]) -> list[Request]:
    """Those that `Rows` does not hold out, in their order: every tenth of a verdict is."""
    kept: set[int] = set()
    for chosen in by_verdict(requests).values():
        source = Rows(ExternalTask("", tuple(request.row for request in chosen), _nothing))
        kept |= {id(chosen[number]) for number in source.trained}
    return [request for request in requests if id(request) in kept]


def _nothing(row: Row) -> Environment:
    raise AssertionError("is never asked")


# ---- stage B -------------------------------------------------------------------------------------


def aligned_row(
    request: Request, draft: Draft, effort: Effort, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """A conversation without the policy, as Harmony JSON, and where it comes from."""
    messages = [
        *prompt_of(request, effort, SystemContent(effort=effort)),
        Message(Role.ASSISTANT, draft.analysis, channel="analysis"),
        Message(Role.ASSISTANT, draft.final, channel="final"),
    ]
    return Conversation(tuple(messages)).to_dict() | {"provenance": dict(provenance)}


def ordinary_rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Conversations of ossia's own tasks."""
    for number in range(count):
        yield conversation(seed, "train", number).to_dict()


# ---- stage C -------------------------------------------------------------------------------------


def policy_sources(policy: Policy, grader: Grader, requests: Sequence[Request]) -> list[Rows]:
    """A source of each verdict."""
    found = []
    for verdict, chosen in by_verdict(requests).items():
        rows = tuple(_with_about(request) for request in chosen)
        make = partial(_environment, policy, grader)
        found.append(Rows(ExternalTask(f"policy {verdict}", rows, make)))
    return found


def _with_about(request: Request) -> Row:
    about = dict(request.row.get("about") or {})
    about["category"] = request.category
    if request.rule is not None:
        about["rule"] = request.rule
    if request.verdict is not None:
        about["verdict"] = request.verdict
    return {**request.row, "about": about}


def _environment(policy: Policy, grader: Grader, row: Row) -> Environment:
    return RowEnvironment(row, partial(_reward, grader, request_of(row, policy)))


def _reward(grader: Grader, request: Request, row: Row, outcome: Outcome) -> Reward:
    return grader.reward(request, outcome)
