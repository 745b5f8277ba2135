"""Python clients against a server: what they got is what the model said, and with nano they get to an answer.

What each case does is in `scripts/`. The scripted model says what nano says to the same question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from clients.conftest import Served, run_script

THOUGHT, SEEN = "This is 37 + 48. I should use the calculator.", "The calculator says 85."
ARGUMENTS, TEXT, TYPED = '{"expression": "37+48"}', "37 + 48 = 85", '{"result": 85}'


def final(thought: str, text: str) -> str:
    return f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>final<|message|>{text}<|return|>"


def call(thought: str, name: str, arguments: str) -> str:
    header = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
    return f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant{header}{arguments}<|call|>"


WITH_TOOL = (call(THOUGHT, "calculator", ARGUMENTS), final(SEEN, TEXT))
PLAIN = (final(THOUGHT, TEXT),)
JSON = (final(THOUGHT, TYPED),)


@dataclass(frozen=True)
class Case:
    """`says`: the scripted model. `gets`: what the script then prints."""

    client: str
    script: str
    name: str
    says: tuple[str, ...]
    gets: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.script}-{self.name}"


CALLS, READ_CALLS = [["calculator", ARGUMENTS]], [["calculator", {"expression": "37+48"}]]
BOTH, CALLED, FINISH = [THOUGHT, SEEN], ["37+48"], ["tool_calls", "stop"]
OF_A_TEXT = [
    "response.output_text.delta", "response.output_text.done", "response.content_part.done",
    "response.output_item.done", "response.completed",
]  # fmt: skip
OPENAI_CHAT = [
    ("create", WITH_TOOL, {"calls": CALLS, "text": TEXT, "reasoning": BOTH, "same": True, "finish": FINISH, "usage": [0, 0]}),
    ("forgetful", WITH_TOOL, {"calls": CALLS, "text": TEXT}),
    ("parse", JSON, {"result": 85, "text": TYPED, "reasoning": THOUGHT}),
    ("chunks", PLAIN, {"text": TEXT, "reasoning": THOUGHT, "finish": ["stop"], "counted": True}),
]  # fmt: skip
RESPONSES = {"reasoning": BOTH, "calls": CALLS, "text": TEXT, "status": ["completed", "completed"]}
ONE = {"reasoning": [THOUGHT], "calls": [], "text": TEXT, "status": ["completed"]}
KEPT = ["message", "reasoning", "function_call", "function_call_output"]
OPENAI_RESPONSES = [
    ("create", WITH_TOOL, RESPONSES),
    ("parse", JSON, {**ONE, "text": TYPED, "result": 85}),
    ("previous", WITH_TOOL, {**RESPONSES, "listed": KEPT}),
    ("conversation", WITH_TOOL, {**RESPONSES, "kept": [*KEPT, "reasoning", "message"]}),
]
