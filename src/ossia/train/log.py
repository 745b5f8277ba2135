"""The log of a run: one JSON object a line, one line a step. Knows files and numbers, nothing of
models.

A line reaches the system whole or not at all as far as readers are concerned: one without its end
is not a line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ossia.errors import TrainingError
from ossia.files import replace_file

LOG = "log.jsonl"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log (or of `log.jsonl` in a folder), oldest first; none if there is no such
    file.

    A last line that a kill cut short is left out. Raises `TrainingError` for any other line that is
    not a JSON object.
    """
    path = path / LOG if path.is_dir() else path
    if not path.exists():
        return []
    return [_parsed(path, n, line) for n, line in enumerate(_whole_lines(path), 1)]


def _whole_lines(path: Path) -> list[str]:
    return [
        line
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    ]


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise TrainingError(
            f"{path}:{number}: not JSON ({error}); delete that line to go on without it"
        ) from error
    if not isinstance(entry, dict) or "step" not in entry:
        raise TrainingError(
            f"{path}:{number}: expected an object with `step`; delete that line to go on without it"
        )
    return entry


class Log:
    """Appends to `folder/log.jsonl`, after dropping the lines of steps after `step`: those are
    taken again.

    Raises `TrainingError` if the disk is full.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / LOG
        try:
            _forget_after(self.path, step)
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise _refused(self.path, error) from error

    def write(self, entry: dict[str, Any]) -> None:
        """Raises `TrainingError` if the disk is full."""
        line = json.dumps(entry).encode() + b"\n"
        try:
            while line:  # a disk that is nearly full takes a part of it, and refuses the rest
                line = line[self._file.write(line) :]
        except OSError as error:
            raise _refused(self.path, error) from error

    def close(self) -> None:
        self._file.close()


def _refused(path: Path, error: OSError) -> TrainingError:
    return TrainingError(
        f"{path}: cannot be written ({error.strerror}); make room and start the run again: it goes "
        "on from its last state"
    )


def _forget_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    entries = zip(_whole_lines(path), read_log(path), strict=True)
    kept = [line for line, entry in entries if entry["step"] <= step]
    replace_file(path, "".join(kept), sole_writer=True)
