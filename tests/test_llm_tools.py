"""Our tools with `llm.chat`: a few lines of Python, and what is kept between turns."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from python_tools import python_tool
from tiny_model import call, final, scripted, thought, write_tiny

from ossia.errors import RequestError
from ossia.harmony import Message, Role
from ossia.tools import (
    ApplyPatch,
    Asked,
    Browser,
    InContainers,
    Python,
    SessionKey,
    Shell,
    Verdict,
)

PATCH = "*** Begin Patch\n*** Add File: new.txt\n+hello\n*** End Patch"


def code(text: str) -> str:
    return f"<|channel|>analysis to=python code<|message|>{text}<|call|>"


def patch() -> str:
    return f"<|channel|>commentary to=functions.apply_patch<|message|>{PATCH}<|call|>"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def python() -> Iterator[Python]:
    with python_tool() as tool:
        yield tool


def test_all_kinds_of_tools_in_one_turn(tiny: Path, tmp_path: Path, python: Python) -> None:
    (tmp_path / "note.txt").write_text("The answer is forty-two.")
    asked: list[tuple[Asked, threading.Thread]] = []

    def approve(question: Asked) -> Verdict:
        asked.append((question, threading.current_thread()))
        return Verdict(True)

    def double(n: int) -> int:
        """Twice the number."""
        return 2 * n

    search = '<|channel|>analysis to=browser.search code<|message|>{"query": "answer"}<|call|>'
    llm, script = scripted(
        tiny,
        thought("Hm.") + code("6 * 7"),
        search,
        call("double", '{"n": 21}'),
        patch(),
        final("42"),
    )
    root = tmp_path / "project"
    root.mkdir()
    tools = [python, Browser(corpus=tmp_path), double, ApplyPatch(root, approve)]
    end = llm.chat("What is the answer?", tools=tools, instructions="Be brief.").result()
    results = [message.text for message in end.messages if message.role is Role.TOOL]
    assert results[0] == "42\n" and "forty-two" in results[1] and results[2] == "42"
    assert results[3].endswith("A new.txt") and (root / "new.txt").read_text() == "hello\n"
    assert end.text == "42"
    ((question, thread),) = asked
    assert question.arguments == {"patch": PATCH} and thread is threading.main_thread()
    for said in ("## python", "## browser", "type double = ", "apply_patch", "Be brief."):
        assert said in script.prompts[0]


def test_a_thread_keeps_variables_and_nothing_else_does(tiny: Path, python: Python) -> None:
    llm, _ = scripted(tiny, *(code("x = 1"), final("a"), code("x += 1; print(x)"), final("b")) * 2)
    said = []
    for thread in ("", "mine"):
        first = llm.chat("One", tools=[python], thread=thread)
        talk = [*first.conversation.messages, Message(Role.USER, "Two")]
        end = llm.chat(talk, tools=[python], thread=thread).result()
        said.append(end.messages[1].text)
    assert "NameError" in said[0] and said[1] == "2\n"
    assert [c.conversation for c in python.containers.of_caller("")] == ["mine"]
    python.end(SessionKey(conversation="mine"))


def test_the_next_turn_may_have_more_tools(tiny: Path, python: Python) -> None:
    """Of a conversation whose system message does not declare them."""
    llm, script = scripted(tiny, final("a"), code("1"), final("b"))
    first = llm.chat("One")
    talk = [*first.conversation.messages, Message(Role.USER, "Two")]
    assert llm.chat(talk, tools=[python]).result().text == "b"
    assert "## python" not in script.prompts[0] and script.prompts[1].count("## python") == 1


def test_the_class_of_a_tool_is_not_a_tool(tiny: Path) -> None:
    llm, _ = scripted(tiny)
    with pytest.raises(RequestError, match=r"give Python\(\.\.\.\)"):
        llm.chat("Hi", tools=[Python])


def test_commands_and_code_work_on_the_same_files(tiny: Path, python: Python) -> None:
    commands = json.dumps({"commands": ["cat note.txt; exit 3"]})
    llm, _ = scripted(
        tiny, code("open('note.txt', 'w').write('from code')"), call("shell", commands), final("ok")
    )
    tools = [python, Shell(InContainers(python), approve=lambda asked: True)]
    end = llm.chat("Go", tools=tools, thread="files").result()
    results = [message.text for message in end.messages if message.role is Role.TOOL]
    assert results[1] == "from code\n[exit code 3]"
    python.end(SessionKey(conversation="files"))
    assert not python.containers.of_caller("")
