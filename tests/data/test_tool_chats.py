"""Conversations with python on offer: resumable, and Python is used where it must be only."""

from __future__ import annotations

from itertools import islice

from ossia.data.tool_chats import python_chats
from ossia.harmony import Message, Role, SystemContent
from ossia.tasks.numbers.python_use import printed


def test_they_resume_exactly() -> None:
    whole = list(islice(python_chats(5), 40))
    assert list(islice(python_chats(5, start=whole[14][1]), 25)) == whole[15:]
    assert list(islice(python_chats(6), 40)) != whole


def test_python_is_declared_called_and_read() -> None:
    calls = 0
    idle = 0
    for chat, _ in islice(python_chats(1), 300):
        system, *others = chat.messages
        assert isinstance(system.content, SystemContent)
        assert [space.name for space in system.content.namespaces] == ["python"]
        for turn in turns(others):
            called = [message for message in turn if message.recipient == "python"]
            assert turn[-1].channel == "final" and len(called) <= 1
            if not called:
                idle += 1
                continue
            calls += 1
            after = turn[turn.index(called[0]) + 1]
            assert after.role is Role.TOOL and after.text == printed(called[0].text)
            assert turn[-1].text.endswith(f"= {after.text.strip()}")
    assert 0.2 < idle / (idle + calls) < 0.4


def turns(messages: list[Message]) -> list[list[Message]]:
    """What the assistant and its tools say after each message of the user."""
    found: list[list[Message]] = []
    for message in messages:
        if message.role is Role.USER:
            found.append([])
        else:
            found[-1].append(message)
    return found
