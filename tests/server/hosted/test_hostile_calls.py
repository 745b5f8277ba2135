"""Calls and results that no good model or tool would write: the turn goes on, nothing is a 500."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from responses_wire import CALL, CODE, FINAL, HOSTED, Python, Server, fold, serving

from ossia.tokenizer import Tokenizer
from ossia.tools import ToolResult
from ossia.tools.browser import Browser
from ossia.tools.shell import Ran, Shell

DONE = FINAL.format("Done.")
OWN_SHELL: Any = {"type": "shell", "environment": {"type": "container_auto"}}
TOOLS: Any = [*HOSTED, OWN_SHELL]
CLIENTS: Any = [{"type": "shell"}, {"type": "apply_patch"}]
EVERYTHING: Any = [
    "reasoning.encrypted_content",
    "code_interpreter_call.outputs",
    "web_search_call.action.sources",
]
HALF = "\\ud800"
HUGE = "9" * 400
CALLS = (
    ("functions.shell", f'{{"commands":["echo {HALF}"]}}'),
    ("functions.shell", f'{{"commands":["ls"],"timeout_ms":{HUGE}}}'),
    ("functions.shell", f'{{"commands":["ls"],"max_output_length":{HUGE}}}'),
    ("functions.shell", f'{{"{HALF}":[]}}'),
    ("functions.shell", "[" * 20_000),
    ("functions.apply_patch", f'{{"input":"*** Begin Patch\\n*** Add File: {HALF}\\n+{HALF}"}}'),
    ("browser.search", f'{{"query":"{HALF}","topn":{HUGE}}}'),
    ("browser.search", f'{{"{HALF}":1}}'),
    ("browser.open", f'{{"id":"http://{HALF}/"}}'),
    ("browser.open", f'{{"id":{HUGE},"loc":{HUGE}}}'),
    ("browser.find", f'{{"pattern":"{HALF}","cursor":{HUGE}}}'),
)


class Surrogates(Python):
    """Its results hold half a character, as code, a page or a document can write one."""

    async def run(self, function: str, text: str) -> ToolResult:
        return ToolResult("a\ud800b", ({"type": "logs", "logs": "a\ud800b"},))


async def ran(argv: Sequence[str], cwd: str, seconds: float, limit: int) -> Ran:
    return Ran(argv[-1], "", 0)


@pytest.fixture(scope="module")
def server(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("corpus")
    line = f'{{"url":"https://a.example/","title":"{HALF}","text":"about {HALF} rome"}}\n'
    (folder / "pages.jsonl").write_text(line)
    browser = Browser(folder / "pages.jsonl")
    with serving(tokenizer, builtin=[browser, Surrogates(), Shell(lambda _: ran)]) as made:
        yield made


@pytest.mark.parametrize("tools", (TOOLS, CLIENTS), ids=("ours", "clients"))
@pytest.mark.parametrize(("recipient", "text"), CALLS)
def test_arguments_that_nobody_can_write_lose_no_turn(
    recipient: str, text: str, tools: Any, server: Server
) -> None:
    server.says(CALL.format(recipient, text), DONE)
    body = {"tools": tools, "include": EVERYTHING}
    assert server.create(**body)["status"] == "completed"
    server.says(CALL.format(recipient, text), DONE)
    assert fold(server.stream(**body))["status"] == "completed"


def test_half_characters_of_results_are_whole_ones(server: Server) -> None:
    server.says(CODE.format("1"), CALL.format("browser.search", '{"query":"rome"}'), DONE)
    made = server.create(tools=TOOLS, include=EVERYTHING)
    code, search, _ = made["output"]
    assert code["outputs"] == [{"type": "logs", "logs": "a\ufffdb"}]
    assert search["action"]["sources"] == [
        {"type": "url", "url": "https://a.example/", "title": "\ufffd"}
    ]
    assert "about \ufffd rome" in server.prompt
    again = server.client.get(f"/v1/responses/{made['id']}")
    assert again.json()["output"] == made["output"]


def test_the_same_over_messages(server: Server) -> None:
    server.says(CALL.format("browser.search", '{"query":"rome"}'), DONE)
    body = {
        "model": "nano",
        "max_tokens": 500,
        "messages": [{"role": "user", "content": "hello"}],
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
    }
    told = server.client.post("/v1/messages", json=body)
    assert told.status_code == 200, told.text
    results = [each for each in told.json()["content"] if "tool_use_id" in each]
    assert [each["content"][0]["title"] for each in results] == ["\ufffd"]
