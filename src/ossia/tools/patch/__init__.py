"""apply_patch: edits the files of a folder by patches in the form that gpt-oss writes.

`tool` is what conversations get; `reading`, `planning` and `writing` are its three steps.
"""

from ossia.tools.patch.operations import operations, patch_of
from ossia.tools.patch.reading import Patch, read_patch
from ossia.tools.patch.tool import ApplyPatch

__all__ = ["ApplyPatch", "Patch", "operations", "patch_of", "read_patch"]
