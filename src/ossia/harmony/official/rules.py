"""How messages are written where the format leaves a choice: as the official package does it
(oss-harmony 0.0.11), token for token, its losses included.

The door to the official way: `rules_for` is the only reader of `style`. Nothing outside of this
folder asks which style it serves. How the official parser reads is parse.py's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from ossia.errors import RenderError
from ossia.harmony.header import Field
from ossia.harmony.messages import Message, Role, Style
from ossia.harmony.official.schema import compat_type
from ossia.harmony.reasoning import AnalysisCut
from ossia.harmony.rules import FAITHFUL, Rules
from ossia.harmony.typescript import TypeScript


@dataclass(frozen=True)
class OfficialCut(AnalysisCut):
    """The official rule: if the last assistant message of all is on `final`, drop the reasoning
    before the *first* message (of any role) on `final`; otherwise none. It differs from the
    intended rule
    - with two or more finished turns: reasoning after the first `final` is kept for ever;
    - in a turn in progress after a finished one: all the old reasoning comes back;
    - in training, if the first `final` is in the last turn: the reasoning to be learned is dropped;
    - where a `final` is followed by more assistant messages in the same turn, or is not an
      assistant's.
    """

    first_final: int | None = None  # the first message on `final`

    def after(self, messages: Iterable[Message]) -> OfficialCut:
        count = self.count
        answered = self.answered
        first_final = self.first_final
        for message in messages:
            if message.role is Role.ASSISTANT:
                answered = message.channel == "final"
            if first_final is None and message.channel == "final":
                first_final = count
            count += 1
        return OfficialCut(count, answered=answered, first_final=first_final)

    @property
    def index(self) -> int:
        return self.first_final if self.answered and self.first_final is not None else 0

    @property
    def taught_index(self) -> int:
        return self.index


class OfficialRules(Rules):
    """The rules of style "compat"."""

    cut: ClassVar[AnalysisCut] = OfficialCut()

    def recipient_follows_channel(self, message: Message) -> bool:
        return message.channel == "commentary"

    def word(self, field: Field, text: str) -> str:
        return text

    def type_name(self, name: str) -> str:
        return name

    def is_constrained(self, content_type: str) -> bool:
        return True

    def encoded_pieces(self, parts: list[str]) -> list[str]:
        return parts

    def lines(self, text: str) -> list[str]:
        """Only line feeds separate; a final one adds no empty line."""
        lines = text.split("\n")
        if lines[-1] == "":
            lines.pop()
        return [line.removesuffix("\r") for line in lines]

    def type_of(self, schema: Any, taken: frozenset[str]) -> TypeScript:
        return TypeScript(compat_type(schema), {})


OFFICIAL = OfficialRules()


def rules_for(style: Style) -> Rules:
    """The rules that a style names. Raises RenderError for an unknown one."""
    match style:
        case "faithful":
            return FAITHFUL
        case "compat":
            return OFFICIAL
    raise RenderError(f"unknown style {style!r}: use 'faithful' or 'compat'")
