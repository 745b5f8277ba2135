"""What the server writes down: a line a request, without what was asked; and everything else that
it logs.

Knows log lines and nothing of requests but what it is told.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from ossia.server.hosted.secrets import in_body

log = logging.getLogger("ossia.server")
access_log = logging.getLogger("ossia.access")
prompt_log = logging.getLogger("ossia.prompts")
FORMAT = "%(asctime)s %(levelname)s %(message)s"
CONTROLS = (*range(32), *range(127, 160), 0x2028, 0x2029)  # end lines, or steer a terminal
ESCAPED = {code: f"\\x{code:02x}" for code in CONTROLS}


class _Lines(logging.Formatter):
    """A message is one line. Line breaks are escaped, so that no client can forge a log line."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).translate(ESCAPED)


def set_up(stream: TextIO | None = None) -> None:
    """Log lines go to `stream` (stderr). For a process that is a server and nothing else."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Lines(FORMAT))
    root = logging.getLogger("ossia")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False
    # uvicorn's lines about every start are left out, but not its errors
    errors = logging.getLogger("uvicorn.error")
    errors.handlers[:] = [handler]
    errors.setLevel(logging.WARNING)
    errors.propagate = False
    # what these say of a connection may repeat its address, in which there can be a secret
    for name in ("mcp", "httpx2", "httpcore2"):
        quiet = logging.getLogger(name)
        quiet.handlers[:] = [logging.NullHandler()]
        quiet.propagate = False


def access(
    method: str,
    path: str,
    status: int,
    seconds: float,
    tokens: tuple[int, int],
    caller: str,
    request_id: str,
) -> None:
    """`path` as it came, percent-encoded and without its query, which may hold secrets. `status`
    499: the client went away before the end. `tokens`: of prompts and of answers.
    """
    spent = f" tokens={tokens[0]}+{tokens[1]}" if any(tokens) else ""
    who = f" caller={caller}" if caller else ""
    access_log.info(
        "%s %s %d %.0f ms%s%s id=%s", method, path, status, seconds * 1000, spent, who, request_id
    )


def prompt(request_id: str, body: bytes) -> None:
    """What was asked, where the settings say so. On one line, whatever is in it; what lets in at an
    MCP server is left out.
    """
    text = in_body(body).decode("utf-8", "replace").replace("\r", "\\r").replace("\n", "\\n")
    prompt_log.info("id=%s %s", request_id, text)
