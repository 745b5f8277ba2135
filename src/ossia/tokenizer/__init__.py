"""Text <-> token ids: the tokenizer, the tokenizer.json file, and the o200k vocabulary of this
package.
"""

from __future__ import annotations

from ossia.tokenizer.tokenizer import (
    HARMONY_SPECIALS,
    HARMONY_WORDS,
    O200K_PATTERN,
    SINGLE_DIGITS_PATTERN,
    Tokenizer,
    train_tokenizer,
)

__all__ = [
    "HARMONY_SPECIALS",
    "HARMONY_WORDS",
    "O200K_PATTERN",
    "SINGLE_DIGITS_PATTERN",
    "Tokenizer",
    "train_tokenizer",
]
