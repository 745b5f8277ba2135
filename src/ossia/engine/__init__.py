"""The engine: requests of token ids in, sampled token ids out. Does not know text, chat formats or
tokenizers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ossia.engine.request import SampledToken, SamplingParams

if TYPE_CHECKING:
    from ossia.engine.engine import Engine

__all__ = ["Engine", "SampledToken", "SamplingParams"]


def __getattr__(name: str) -> Any:
    if name == "Engine":  # late: the server imports requests, and no torch
        from ossia.engine.engine import Engine

        return Engine
    raise AttributeError(name)
