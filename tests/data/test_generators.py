"""Conversations and documents: resumable, reproducible, well formed, and free of held-out
problems.
"""

from __future__ import annotations

import re
from itertools import islice

from ossia.data import conversation, conversations, documents, world
from ossia.data.text import KINDS
from ossia.harmony import DeveloperContent, Effort, Role, SystemContent
from ossia.tasks.numbers.expressions import operation_split

EQUATION = re.compile(
    r"(?<![\d+\-*/.] )(?<![\d+\-*/).])(-?\d+) ?([+*/-]) ?(\d+) ?= ?-?\d+(?![\d.])"
)


def test_conversations_resume_exactly() -> None:
    whole = list(islice(conversations(seed=5), 60))
    states = [state for _, state in whole]
    assert states == list(range(1, 61))
    assert list(islice(conversations(seed=5, start=states[24]), 35)) == whole[25:]
    assert list(islice(conversations(seed=6), 60)) != whole
    assert list(islice(conversations(seed=5, split="held_out"), 60)) != whole


def test_shares_are_in_percent() -> None:
    assert sum(KINDS.values()) == sum(world.KINDS.values()) == 100


def test_documents_resume_exactly() -> None:
    whole = list(islice(documents(seed=5), 60))
    assert list(islice(documents(seed=5, start=whole[24][1]), 35)) == whole[25:]
    assert all(text.strip() for text, _ in whole)


def test_conversations_are_well_formed() -> None:
    efforts = set()
    without_system = 0
    for conv, _ in islice(conversations(seed=1), 1500):
        roles = [message.role for message in conv.messages]
        system = conv.messages[0].content
        if isinstance(system, SystemContent):
            efforts.add(system.effort)
            roles = roles[1:]
        else:
            without_system += 1
        if roles[0] is Role.DEVELOPER:
            roles = roles[1:]
        assert roles[0] is Role.USER and Role.SYSTEM not in roles and Role.DEVELOPER not in roles
        last = conv.messages[-1]
        assert last.role is Role.ASSISTANT and last.channel == "final" and last.text
        offered = {
            tool.name
            for message in conv.messages
            if isinstance(message.content, DeveloperContent)
            for tool in message.content.tools
        }
        for message in conv.messages:
            if message.recipient and message.role is Role.ASSISTANT:
                assert (
                    message.recipient.removeprefix("functions.") in offered
                    and message.channel == "commentary"
                )
            if message.role is Role.TOOL:
                assert message.name and message.recipient == "assistant"
    assert efforts == set(Effort) and 30 < without_system < 160


def test_mixture_is_the_callers_choice() -> None:
    for index in range(20):
        conv = conversation(1, "train", index, {"scope": 100})
        assert "arithmetic" in conv.messages[-1].text or len(conv.messages[-1].text) < 80


def test_pretraining_text_holds_no_held_out_equation() -> None:
    seen = 0
    for text, _ in islice(documents(seed=2), 1500):
        for a, sign, b in EQUATION.findall(text):
            seen += 1
            assert operation_split(sign, int(a), int(b)) == "train", text
    assert seen > 3000
