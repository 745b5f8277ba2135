"""How messages are written where the format leaves a choice: as the published models write them.

Knows messages and their texts; does not know tokens. official/rules.py makes the same choices as
the official package does. Callers choose by one word, `style`; only official/rules.py reads it.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from ossia.harmony.header import Field, written
from ossia.harmony.json_text import literal
from ossia.harmony.messages import CONSTRAIN, Message, Role
from ossia.harmony.reasoning import AnalysisCut
from ossia.harmony.typescript import TypeScript, faithful_type

_TYPE_NAME = re.compile(r"[\w$.-]+(?:/[\w$.-]+)*")


class Rules:
    """The rules of style "faithful", and the base of those of style "compat"."""

    cut: ClassVar[AnalysisCut] = AnalysisCut()  # of a conversation without messages

    def recipient_follows_channel(self, message: Message) -> bool:
        """Whether ` to=` comes after the channel, rather than after the author:
        `assistant<|channel|>commentary to=functions.f`, `functions.f to=assistant<|channel|>...`.
        """
        return message.role is Role.ASSISTANT

    def word(self, field: Field, text: str) -> str:
        """A word of a header, so that it reads back."""
        return written(field, text)

    def type_name(self, name: str) -> str:
        """A tool's name, or a namespace's, where its type is declared: in quotes if it could be
        taken for something else there.
        """
        return name if _TYPE_NAME.fullmatch(name) else literal(name)

    def is_constrained(self, content_type: str) -> bool:
        """Whether the CONSTRAIN token comes before the content type, rather than a blank."""
        return content_type.startswith(CONSTRAIN)

    def encoded_pieces(self, parts: list[str]) -> list[str]:
        """The texts of a content's parts, as they are encoded: here all as one text."""
        return ["".join(parts)]

    def lines(self, text: str) -> list[str]:
        """The lines of a description, each of which becomes a comment of its own."""
        return text.splitlines()

    def type_of(self, schema: Any, taken: frozenset[str]) -> TypeScript:
        """The type that a JSON schema is shown as; no definition is called like one in `taken`."""
        return faithful_type(schema, taken)


FAITHFUL = Rules()
