"""A turn: from tokens to messages, calls and their results. Knows Harmony and tools; no engine, no
torch, no I/O.
"""

from ossia.turn.sample import Rules
from ossia.turn.turn import Approved, Limits, Turn, run_turn, stop_ids

__all__ = ["Approved", "Limits", "Rules", "Turn", "run_turn", "stop_ids"]
