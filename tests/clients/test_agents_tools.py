"""openai-agents with tools whose calls are items of a kind of their own, against a scripted model:
MCP with approval, a local shell, patches.
"""

from __future__ import annotations

from typing import Any

import pytest
from clients.conftest import run_script, said, serving
from mcp_servers import pretended

from ossia.server import ScriptedEngine
from ossia.server.hosted.mcp import McpServers
from ossia.tokenizer import Tokenizer

pytestmark = pytest.mark.clients

TEXT = "All done."
SECTIONS = "*** Begin Patch\n*** Add File: a.txt\n+one\n*** Delete File: c.txt\n*** End Patch"
HEADER = "<|channel|>commentary to={}<|message|>{}<|call|>"
ARGUMENTS = '{"text":"b"}'
WRITE = HEADER.format("team.write_it <|constrain|>json", ARGUMENTS)
RUN = HEADER.format("functions.shell <|constrain|>json", '{"commands":["ls","pwd"]}')
APPLY = HEADER.format("functions.apply_patch code", SECTIONS)
ASKED = [["write-it", ARGUMENTS]]
APPROVED = {
    "seen": ASKED,
    "text": TEXT,
    "items": [
        "mcp_list_tools_item",
        "mcp_approval_request_item",
        "mcp_approval_response_item",
        "tool_call_item",
        "reasoning_item",
        "message_output_item",
    ],
}
REFUSED = APPROVED | {"items": [each for each in APPROVED["items"] if each != "tool_call_item"]}
RAN = {
    "seen": [[["ls", "pwd"], None]],
    "text": TEXT,
    "items": ["tool_call_item", "tool_call_output_item", "reasoning_item", "message_output_item"],
}
PATCHED = {
    "seen": [["create_file", "a.txt", "+one\n"], ["delete_file", "c.txt", None]],
    "text": TEXT,
    "items": [
        *["tool_call_item", "tool_call_item", "tool_call_output_item", "tool_call_output_item"],
        *["reasoning_item", "message_output_item"],
    ],
}
CASES: dict[str, tuple[str, Any, str]] = {  # what the model calls, what the script gets, the result
    "approval": (WRITE, APPROVED, "the answer"),
    "approval_streamed": (WRITE, APPROVED, "the answer"),
    "refusal": (WRITE, REFUSED, "The user did not approve this call. Not today."),
    "shell": (RUN, RAN, "ran ls\n\nran pwd"),
    "shell_streamed": (RUN, RAN, "ran ls\n\nran pwd"),
    "patch": (APPLY, PATCHED, "A a.txt: did a.txt\nD c.txt: did c.txt"),
    "patch_streamed": (APPLY, PATCHED, "A a.txt: did a.txt\nD c.txt: did c.txt"),
}


@pytest.mark.parametrize("case", CASES)
def test_agents(case: str, tokenizer: Tokenizer) -> None:
    call, gets, result = CASES[case]
    engine = ScriptedEngine(
        [tokenizer.encode_with_specials(text) for text in (call, said(TEXT, "Hm."))]
    )
    with serving(engine, tokenizer, mcp=McpServers([pretended()[0]])) as served:
        assert run_script("openai-agents", "agents_tools", case, served) == gets
        assert f"<|message|>{result}<|end|>" in served.prompts[-1]
