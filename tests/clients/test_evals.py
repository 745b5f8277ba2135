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
        # over Responses inspect first tries whether anybody answers
        asked = [prompt for prompt in served.prompts if "37 + 48" in prompt]
        assert len(asked) == 3
        assert all("Reasoning: high" in prompt for prompt in asked)
    assert got == {"accuracy": 0.667, "text": "37 + 48 = 85", "reasoning": [THOUGHT]}
