"""Environments of other people's clients: one for each, with pinned versions, apart from the
project's own.

They lie in `~/.cache/ossia/clients`, or in the folder that OSSIA_CLIENTS names, and are made when
they are first asked for. Knows pip and npm; nothing of what the clients are used for.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# What is installed; the first is the client. openai is named where a client brings it, so that it
# stays the same.
PYTHON = {
    "openai": ("openai==3.57.0",),
    "openai-agents": ("openai-agents==0.24.0", "openai==3.57.0"),
    "langchain": ("langchain-openai==1.7.4", "openai==3.57.0"),
    "litellm": (
        "litellm==1.110.2",
        "openai==3.57.0",
        "mcp==2.3.0",
    ),  # mcp: imported as soon as there are tools
    "pydantic-ai": ("pydantic-ai-slim[openai]==2.68.0", "openai==3.57.0"),
    "anthropic": ("anthropic==2.14.0",),
    "ollama": ("ollama==0.6.3",),
    "langgraph": ("langchain==1.5.2", "langchain-openai==1.7.4", "openai==3.57.0"),
}
# Evaluations of others; docs/evals.md has what they are told.
HARNESSES = {"inspect-ai": ("inspect-ai==0.3.285", "openai==3.57.0")}
NODE = {
    "codex": ("@openai/codex@0.171.0",),
    "anthropic-js": ("@anthropic-ai/sdk@1.14.0",),
    "ai-sdk": ("ai@7.0.173", "@ai-sdk/openai@4.0.118", "@ai-sdk/anthropic@4.0.105"),
}


class Missing(Exception):
    """A client cannot be installed here; says why."""


def python(client: str) -> Path:
    """The interpreter that has the client. Raises `Missing`."""
    pins = (PYTHON | HARNESSES)[client]
    with _made(client, pins) as folder:
        if folder is not None:
            _run([sys.executable, "-m", "venv", str(folder)])
            _run([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", *pins])
    return _folder(client, pins) / "bin/python"


def node(client: str) -> Path:
    """The folder of packages that has the client. Raises `Missing`."""
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("there is no npm to install it with")
    pins = NODE[client]
    with _made(client, pins) as folder:
        if folder is not None:
            folder.mkdir(parents=True)
            _run([npm, "install", "--no-fund", "--no-audit", "--prefix", str(folder), *pins])
    return _folder(client, pins) / "node_modules"


def _folder(client: str, pins: Sequence[str]) -> Path:
    """Named after what is in it: other pins are another folder."""
    base = Path(os.environ.get("OSSIA_CLIENTS", "~/.cache/ossia/clients")).expanduser()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return base / f"{client}-{hashlib.sha256(' '.join([version, *pins]).encode()).hexdigest()[:12]}"


@contextmanager
def _made(client: str, pins: Sequence[str]) -> Iterator[Path | None]:
    """The folder to install into, with nobody else at it; None if that has been done. It counts as
    done only if the block ends without an error.
    """
    folder = _folder(client, pins)
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = folder / "installed"
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            yield None
            return
        shutil.rmtree(folder, ignore_errors=True)
        yield folder
        done.write_text("\n".join(pins) + "\n")


def _run(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if ended.returncode:
        last = (ended.stderr or ended.stdout).strip().splitlines()[-3:]
        raise Missing(f"{' '.join(command[1:4])} failed: {' | '.join(last)}")
