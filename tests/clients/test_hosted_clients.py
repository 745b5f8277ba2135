"""Other people's agents with the tools that the server runs: a real corpus, real code in a sandbox,
and a tool of the agent's own in the same loop; the model says what it is told.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from clients import environments
from clients.conftest import HERE, LIMIT, Served, called, environment, run_script, said, serving
from clients.test_codex import items, run
from python_tools import python_tool

from ossia.server import ScriptedEngine
from ossia.tokenizer import Tokenizer
from ossia.tools.browser import Browser
from ossia.tools.containers import Containers, Rules

pytestmark = pytest.mark.clients
SEARCH = '<|channel|>analysis to=browser.search code<|message|>{"query": "old capital"}<|call|>'
OPEN = '<|channel|>analysis to=browser.open code<|message|>{"id": 0, "cursor": 0}<|call|>'
CODE = "<|channel|>analysis to=python code<|message|>print(6 * 7)<|call|>"
URL = "https://corpus/rome.md"
ANSWER = said("Rome【1†L4】 and 85.", "I have both.")
LOOP = (SEARCH, OPEN, CODE, called("calculator", '{"expression":"37+48"}', "I add."), ANSWER)
Offering = Callable[..., AbstractContextManager[Served]]


@pytest.fixture
def offering(tokenizer: Tokenizer, tmp_path: Path) -> Offering:
    """`with offering(*texts) as served:` a server with a browser and python."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "rome.md").write_text("# Rome\n\nRome is an old capital.\n")

    @contextmanager
    def made(*texts: str) -> Iterator[Served]:
        engine = ScriptedEngine([tokenizer.encode_with_specials(text) for text in texts])
        with python_tool(containers=Containers(rules=Rules(expires_after=600.0))) as python:
            python.containers.new_owner = python.new_owner
            tools = [python, Browser(corpus)]
            with serving(engine, tokenizer, builtin=tools, containers=python.containers) as served:
                yield served

    return made


def test_codex_searches_the_corpus(offering: Offering, tmp_path: Path) -> None:
    with offering(SEARCH, OPEN, said("Rome is. 【1†L4】", "Found.")) as served:
        changed = {'web_search = "disabled"': 'web_search = "live"'}
        events = run(served, tmp_path, "Which capital is old?", catalog=True, changed=changed)
    searched, opened = items(events, "web_search")
    assert searched["action"]["query"] == "old capital" and opened["action"]["url"] == URL
    (message,) = items(events, "agent_message")
    assert message["text"].startswith("Rome is.") and URL in message["text"]


@pytest.mark.parametrize("case", ["invoked", "streamed"])
def test_an_agent_of_langgraphs(offering: Offering, case: str) -> None:
    with offering(*LOOP) as served:
        told = run_script("langgraph", "langgraph_client", case, served)
        last = served.prompts[-1]
    assert told["called"] == ["37+48"] and "and 85." in told["text"] and URL in told["text"]
    assert told["hosted"] == ["web_search_call", "web_search_call", "code_interpreter_call"]
    assert "42" in last and "L4: Rome is an old capital." in last


@pytest.mark.parametrize("way", ["plain", "streamed"])
@pytest.mark.parametrize(
    ("provider", "hosted"),
    [
        ("openai", ["web_search", "web_search", "code_interpreter"]),
        ("anthropic", ["web_search", "web_fetch", "code_execution"]),
    ],
)
def test_the_ai_sdk(offering: Offering, provider: str, hosted: list[str], way: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    try:
        modules = environments.node("ai-sdk")
    except environments.Missing as missing:
        pytest.skip(f"ai-sdk: {missing}")
    with offering(*LOOP) as served:
        variables = environment(
            OSSIA_URL=served.url, OSSIA_MODEL="nano", OSSIA_MODULES=str(modules)
        )
        command = [node, str(HERE / "scripts/ai_sdk.mjs"), f"{provider} {way}"]
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT, env=variables
        )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["called"], told["hosted"]) == (["37+48"], hosted)
    assert "and 85." in told["text"] and URL in told["sources"]
    assert "42" in json.dumps(told["outputs"])
