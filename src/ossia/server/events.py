"""The turn's events, under the names that the APIs know them by so far."""

from ossia.turn.events import BuiltinCallItem as BuiltinCalled
from ossia.turn.events import CallStart as BuiltinStage
from ossia.turn.events import (
    Item,
    ItemDelta,
    ItemEnd,
    ItemStart,
    Phase,
    Progress,
    Reason,
    Timing,
    TokenLogprob,
    Usage,
    new_id,
)
from ossia.turn.events import MessageItem as Said
from ossia.turn.events import ReasoningItem as Thought
from ossia.turn.events import ToolCallItem as Called
from ossia.turn.events import TurnEnd as AnswerEnd
from ossia.turn.events import TurnEvent as AnswerEvent

__all__ = [
    "AnswerEnd",
    "AnswerEvent",
    "BuiltinCalled",
    "BuiltinStage",
    "Called",
    "Item",
    "ItemDelta",
    "ItemEnd",
    "ItemStart",
    "Phase",
    "Progress",
    "Reason",
    "Said",
    "Thought",
    "Timing",
    "TokenLogprob",
    "Usage",
    "new_id",
]
