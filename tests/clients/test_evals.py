"""Other people's harnesses against a scripted model: their scores are of what it says, and they see
its reasoning apart from the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from clients.conftest import run_script, said

pytestmark = pytest.mark.clients
THOUGHT = "This is not 86."


@pytest.mark.parametrize("case", ["chat", "responses"])
def test_inspect_ai(scripted: Callable[..., Any], case: str) -> None:
    with scripted(said("37 + 48 = 85", THOUGHT)) as served:
        got = run_script("inspect-ai", "inspect_task", case, served)
        # over Responses inspect sends an effort for the names of OpenAI's own models only
        effort = "high" if case == "chat" else "medium"
        assert all(f"Reasoning: {effort}" in prompt for prompt in served.prompts)
        assert len(served.prompts) == 3
    assert got == {"accuracy": 0.667, "text": "37 + 48 = 85", "reasoning": [THOUGHT]}
