"""ossia: the whole gpt-oss system in one readable package.

import ossia
llm = ossia.load("nano")
for event in llm.chat("What is 37 + 48?"): ...
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Before torch is imported: its threads would spin while the kernels' own work, more of them than
# there are cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
__all__ = ["LLM", "__version__", "load"]

if TYPE_CHECKING:
    from ossia.llm import LLM, load


def __getattr__(name: str) -> Any:
    """`ossia.load` and `ossia.LLM` import torch only when they are asked for, so that `ossia
    --help` is quick.
    """
    if name in ("LLM", "load"):
        from ossia import llm

        return getattr(llm, name)
    raise AttributeError(f"module 'ossia' has no attribute {name!r}")
