"""What a verdict is, how it is read out of what a model says, and the file that keeps verdicts by
content. Knows texts and files; nobody who is asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ossia.errors import JudgeError

FENCE = re.compile(r"```(?:json)?\n(.*)\n```", re.DOTALL)
REFUSALS = ("i can't", "i cannot", "i can not", "i'm sorry", "i am sorry", "i won't", "unable to")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "verdict": {"enum": ["pass", "fail"]},
        "rule": {"type": ["integer", "null"], "description": "the rule of the rubric that decided"},
        "why": {"type": "string", "description": "one sentence"},
    },
    "required": ["verdict", "rule", "why"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Verdict:
    passes: bool
    rule: int | None
    why: str


def read_verdict(text: str) -> Verdict | None:
    """None if it is not exactly one verdict, which may stand in a block of code."""
    fenced = FENCE.fullmatch(text.strip())
    try:
        data = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or set(data) != set(SCHEMA["required"]):
        return None
    rule = data["rule"]
    is_number = isinstance(rule, int) and not isinstance(rule, bool)
    if data["verdict"] not in ("pass", "fail") or not (rule is None or is_number):
        return None
    return Verdict(data["verdict"] == "pass", rule, str(data["why"]))


def why_unread(said: str) -> str:
    """Why there is no verdict in what a judge said. Models that are asked to judge what is harmful
    refuse now and then: that is another trouble than a model that cannot write JSON.
    """
    plain = said.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    if any(words in plain for words in REFUSALS):
        return "it refused to judge"
    return "its answer could not be read"


# ---- kept by content -----------------------------------------------------------------------------


def digest(*texts: str) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


class Kept:
    """Verdicts by content, in a file with one JSON object a line, or in memory alone."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, Verdict] = {}
        if path is not None and path.exists():
            self._read(path)

    def get(self, key: str) -> Verdict | None:
        return self._known.get(key)

    def keep(self, key: str, verdict: Verdict) -> Verdict:
        """The verdict that there is, or else this one."""
        with self._lock:
            if key not in self._known:
                self._write(key, verdict)
            return self._known[key]

    def put(self, key: str, verdict: Verdict) -> None:
        """In place of any other."""
        with self._lock:
            self._write(key, verdict)

    def _write(self, key: str, verdict: Verdict) -> None:
        """Raises `JudgeError` if the file cannot be written; then it ends as it did before."""
        self._known[key] = verdict
        if self._path is None:
            return
        row = {"key": key, "passes": verdict.passes, "rule": verdict.rule, "why": verdict.why}
        try:
            self._append(self._path, json.dumps(row).encode() + b"\n")
        except OSError as error:
            raise JudgeError(
                f"{self._path}: cannot be written ({error.strerror}); make room and start again: "
                "verdicts that are there are not asked for again"
            ) from error

    def _append(self, path: Path, line: bytes) -> None:
        with path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                left = line
                while left:
                    left = left[file.write(left) :]
            except OSError:
                file.truncate(size)
                raise

    def _read(self, path: Path) -> None:
        """Without a last line that was cut when the run was killed: it is asked for again."""
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with path.open("r+b") as file:
                file.truncate(whole)
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                row = json.loads(line)
                verdict = Verdict(bool(row["passes"]), row["rule"], str(row["why"]))
                self._known[str(row["key"])] = verdict
            except (ValueError, KeyError, TypeError) as error:
                raise JudgeError(
                    f"{path}, line {number}: is not a verdict; remove the line, or the file to "
                    "have everything judged again"
                ) from error
