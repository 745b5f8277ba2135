"""The resumable state of a run: everything that decides what comes next. Not a released checkpoint.

One torch file, written to a temporary name and renamed, so that a kill at any moment leaves the old one or the new.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from ossia.errors import TrainingError


def save_state(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_state(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The state at `path`, or None if there is none. Raises `TrainingError` if it is of another run or unreadable."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); delete it to start again") from error
    found = state.get("identity", {})
    if changed := sorted(k for k in identity.keys() | found.keys() if identity.get(k) != found.get(k)):
        raise TrainingError(
            f"{path} is of another run: {', '.join(changed)} differ; use another folder or delete it to start again"
        )
    return state
