"""How much of a tool's result the model reads, whatever the tool. Knows texts and tokens."""

from __future__ import annotations

from ossia.tokenizer import Tokenizer
from ossia.tools.texts import cut

MOST_CHARACTERS = 16  # of a token, as far as a first guess needs it
SHRINK = 0.95  # at least so much shorter is each next try


def within(text: str, tokenizer: Tokenizer, most: int | None) -> str:
    """Head and tail of a text that has more than `most` tokens; None: all of it."""
    if most is None or len(text) * 4 <= most:  # no token has less than one byte
        return text
    shown = cut(text, most * MOST_CHARACTERS)
    characters = min(len(text), most * MOST_CHARACTERS)
    while (tokens := len(tokenizer.encode(shown))) > most:
        characters = int(characters * SHRINK * min(1.0, most / tokens))
        shown = cut(text, characters)
        if characters == 0:
            return ""
    return shown
