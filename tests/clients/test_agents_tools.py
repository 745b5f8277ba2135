"""openai-agents with tools whose calls are items of a kind of their own, against a scripted model:
a search, code, MCP with approval, a local shell, patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clients.conftest import run_script, said, serving
from mcp_servers import pretended
from python_tools import python_tool

from ossia.server import ScriptedEngine
from ossia.server.hosted.mcp import McpServers
from ossia.tokenizer import Tokenizer
from ossia.tools.browser import Browser
from ossia.tools.containers import Containers
from ossia.tools.python import Python

pytestmark = pytest.mark.clients

TEXT = "All done."
SECTIONS = "*** Begin Patch\n*** Add File: a.txt\n+one\n*** Delete File: c.txt\n*** End Patch"
HEADER = "<|channel|>commentary to={}<|message|>{}<|call|>"
ARGUMENTS = '{"text":"b"}'
WRITE = HEADER.format("my_team.write_it <|constrain|>json", ARGUMENTS)
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
SEARCH = "<|channel|>analysis to=browser.search code<|message|>" + '{"query":"capital"}<|call|>'
CODE = "<|channel|>analysis to=python code<|message|>print(6 * 7)<|call|>"
HOSTED = {
    "seen": [],
    "text": TEXT,
    "items": ["tool_call_item", "reasoning_item", "message_output_item"],
}
CASES: dict[str, tuple[str, Any, str]] = {  # what the model calls, what the script gets, the result
    "approval": (WRITE, APPROVED, "the answer"),
    "approval_streamed": (WRITE, APPROVED, "the answer"),
    "refusal": (WRITE, REFUSED, "The user did not approve this call. Not today."),
    "shell": (RUN, RAN, "ran ls\n\nran pwd"),
    "shell_streamed": (RUN, RAN, "ran ls\n\nran pwd"),
    "patch": (APPLY, PATCHED, "A a.txt: did a.txt\nD c.txt: did c.txt"),
    "patch_streamed": (APPLY, PATCHED, "A a.txt: did a.txt\nD c.txt: did c.txt"),
    "search_web": (SEARCH, HOSTED, "is an old capital."),
    "search_web_streamed": (SEARCH, HOSTED, "is an old capital."),
    "run_code": (CODE, HOSTED, "42\n"),
    "run_code_streamed": (CODE, HOSTED, "42\n"),
}


@pytest.fixture(scope="module")
def python() -> Iterator[Python]:
    with python_tool(containers=Containers()) as tool:
        tool.containers.new_owner = tool.new_owner
        yield tool


@pytest.mark.parametrize("case", CASES)
def test_agents(case: str, tokenizer: Tokenizer, python: Python, tmp_path: Path) -> None:
    call, gets, result = CASES[case]
    (tmp_path / "rome.md").write_text("Rome is an old capital.")
    texts = (call, said(TEXT, "Hm."))
    engine = ScriptedEngine([tokenizer.encode_with_specials(text) for text in texts])
    tools = [python, Browser(tmp_path)]
    mcp = McpServers([pretended("my_team")[0]])
    with serving(engine, tokenizer, builtin=tools, containers=python.containers, mcp=mcp) as served:
        assert run_script("openai-agents", "agents_tools", case, served) == gets
        results = served.prompts[-1].rpartition(" to=assistant")[2]
        assert f"{result}<|end|>" in results
