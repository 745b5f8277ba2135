"""The Codex CLI with the configuration of docs/clients.md: it runs a command, it applies a patch,
and comes back.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from clients import environments
from clients.conftest import LIMIT, Served, called, environment, said
from clients.documents import blocks

pytestmark = pytest.mark.clients

SHELL = called("exec_command", json.dumps({"cmd": "echo sum: $((37 + 48))"}), "I run it.")
PATCH = "*** Begin Patch\n*** Add File: sum.txt\n+85\n*** End Patch\n"


def run(
    served: Served, folder: Path, task: str, catalog: bool, changed: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """The events of `codex exec`. `changed`: lines of the configuration, and what they become."""
    try:
        codex = environments.node("codex") / ".bin/codex"
    except environments.Missing as missing:
        pytest.skip(f"Codex CLI: {missing}")
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    (models,) = blocks("json")
    (home / "models.json").write_text(models)
    (config,) = blocks("toml")
    config = config.replace("http://127.0.0.1:8000/v1", served.url)
    for line, other in (changed or {}).items():
        assert line in config
        config = config.replace(line, other)
    lines = [line for line in config.splitlines() if catalog or "model_catalog_json" not in line]
    (home / "config.toml").write_text("\n".join(lines).replace("/home/me/.codex", str(home)))
    # What is run here is what is scripted here, so that it needs no sandbox, which not every
    # machine could give.
    options = [
        "--json",
        "--skip-git-repo-check",
        "--strict-config",
        "--sandbox",
        "danger-full-access",
        "-C",
        str(work),
    ]
    ended = subprocess.run(
        [str(codex), "exec", *options, task],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=environment(HOME=str(home), CODEX_HOME=str(home)),
    )
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return [json.loads(line) for line in ended.stdout.splitlines()]


def items(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    done = [event["item"] for event in events if event["type"] == "item.completed"]
    return [item for item in done if item["type"] == kind]


@pytest.mark.parametrize("catalog", [True, False], ids=["described", "unknown to it"])
def test_it_runs_a_command_and_answers(
    scripted: Callable[..., Any], tmp_path: Path, catalog: bool
) -> None:
    with scripted(SHELL, said("The sum is 85.", "It says 85.")) as served:
        events = run(served, tmp_path, "Add 37 and 48 in the shell.", catalog)
    (command,) = items(events, "command_execution")
    assert (command["exit_code"], command["status"]) == (0, "completed")
    assert command["aggregated_output"].endswith("sum: 85\n")
    assert [item["text"] for item in items(events, "agent_message")] == ["The sum is 85."]
    assert [item["text"] for item in items(events, "reasoning")] == ["I run it.", "It says 85."]
    assert [item["message"][:14] for item in items(events, "error")] == (
        [] if catalog else ["Model metadata"]
    )
    assert events[-1]["type"] == "turn.completed"
    turn = served.prompts[-1].rpartition("<|start|>user<|message|>")[2]
    assert "I run it." in turn and "to=functions.exec_command" in turn and "sum: 85" in turn


def test_it_applies_a_patch(scripted: Callable[..., Any], tmp_path: Path) -> None:
    """As a custom tool, whose input is the patch itself."""
    wanted = called("apply_patch", PATCH, "I write it.", constrained="")
    with scripted(wanted, said("sum.txt holds 85.", "It is written.")) as served:
        events = run(served, tmp_path, "Write 37 + 48 to sum.txt.", catalog=True)
    assert (tmp_path / "work/sum.txt").read_text() == "85\n"
    (change,) = items(events, "file_change")
    assert [(Path(each["path"]).name, each["kind"]) for each in change["changes"]] == [
        ("sum.txt", "add")
    ]
    assert [item["text"] for item in items(events, "agent_message")] == ["sum.txt holds 85."]
    assert items(events, "error") == []
    assert "type apply_patch =" in served.prompts[0] and "Success" in served.prompts[-1]
