"""The tool `apply_patch`: reads a patch, plans it, writes it, and says what came of it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from ossia.errors import PatchError
from ossia.harmony import LarkFormat, ToolNamespace
from ossia.harmony.messages import FUNCTIONS
from ossia.tools.approval import Approvals, Approve
from ossia.tools.kinds import APPLY_PATCH, ToolKind
from ossia.tools.patch.declaration import GRAMMAR, INSTRUCTIONS
from ossia.tools.patch.jail import Jail
from ossia.tools.patch.operations import operations
from ossia.tools.patch.planning import Planned, plan
from ossia.tools.patch.reading import read_patch
from ossia.tools.patch.writing import write
from ossia.tools.protocol import SessionKey, ToolResult
from ossia.tools.toolbox import DeclaredCustom

NAME = "apply_patch"
DECLARED = DeclaredCustom(NAME, INSTRUCTIONS, LarkFormat(GRAMMAR))


class ApplyPatch:
    """Edits the files below `root`, and no others. Raises PatchError if that cannot be opened.

    Keeps no state between calls. Patches are carried out one at a time. `approve`: asked before
    each of them; None: none needs approval.
    """

    kind: ToolKind = APPLY_PATCH
    namespace = ToolNamespace(FUNCTIONS, None, (DECLARED.declared(),))

    def __init__(self, root: Path | str, approve: Approve | None = None) -> None:
        self.approvals = Approvals(approve)
        self._jail = Jail(root)
        self._lock = threading.Lock()

    def session(self, key: SessionKey) -> PatchSession:
        return PatchSession(self._jail, self._lock, self.approvals)


class PatchSession:
    def __init__(self, jail: Jail, lock: threading.Lock, approvals: Approvals) -> None:
        self._jail = jail
        self._lock = lock
        self._approvals = approvals

    def action(self, function: str, text: str) -> dict[str, Any] | None:
        """`{"type": "apply_patch", "operations": [...]}`; None for what is no patch."""
        try:
            return {"type": "apply_patch", "operations": operations(read_patch(text))}
        except PatchError:
            return None

    async def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
        """In a thread, for files may be large and disks slow. A call that is given up writes
        nothing, unless it has begun to. Nobody is asked about what is no patch.
        """
        read_patch(text)
        refused = await self._approvals.refused(NAME, {"patch": text})
        if refused is not None:
            return refused
        given_up = threading.Event()
        try:
            return await asyncio.to_thread(self._apply, text, given_up)
        finally:
            given_up.set()

    def _apply(self, text: str, given_up: threading.Event) -> ToolResult:
        patch = read_patch(text)
        with self._lock:
            changes = plan(patch, self._jail)
            if given_up.is_set():
                raise PatchError("given up: nothing was written")
            write(changes, self._jail)
        return _result(changes, patch.notes)

    def close(self) -> None:
        return None


def _result(changes: list[Planned], notes: tuple[str, ...]) -> ToolResult:
    files = [
        {"change": letter, "path": "/".join(each.written)}
        for letter in "AMD"
        for each in changes
        if each.letter == letter
    ]
    lines = [f"{file['change']} {file['path']}" for file in files]
    text = "\n".join(["Success. Updated the following files:", *lines])
    output: dict[str, Any] = {"type": NAME, "files": files}
    if notes:
        output["notes"] = list(notes)
    return ToolResult(text, (output,))
