"""Which tokenizer belongs to a checkpoint. Knows where published folders keep it."""

from __future__ import annotations

from pathlib import Path

from ossia.checkpoint.gguf import read as gguf
from ossia.config import ModelConfig
from ossia.tokenizer import Tokenizer


def find_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer | None:
    """The tokenizer.json of a checkpoint, which for `original/` may stand beside that folder; what
    a GGUF file has inside, unless its vocabulary has the size of o200k's, which is then taken.
    """
    other = folder / "original"
    if folder.resolve().name == "original":
        other = folder.parent
    for place in (folder, other):
        if (place / "tokenizer.json").exists():
            return Tokenizer.from_pretrained(place)
    if config.vocab_size == ModelConfig().vocab_size:
        return Tokenizer.o200k_harmony()
    file = gguf.find(folder)
    if file is None:
        return None
    return gguf.tokenizer(file)
