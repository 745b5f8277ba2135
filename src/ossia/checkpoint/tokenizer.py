"""Which tokenizer belongs to a checkpoint. Knows where published folders keep it."""

from __future__ import annotations

from pathlib import Path

from ossia.checkpoint.gguf import read as gguf
from ossia.config import ModelConfig
from ossia.tokenizer import Tokenizer


def find_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer | None:
    """The tokenizer.json of a checkpoint, which for `original/` may stand beside that folder; what
    a GGUF file has inside, before any beside it. Without one, o200k's if the vocabulary has its
    size.
    """
    file = gguf.find(folder)
    is_o200k = config.vocab_size == ModelConfig().vocab_size
    if file is not None and (own := gguf.tokenizer(file)) is not None:
        return own
    other = folder / "original"
    if folder.resolve().name == "original":
        other = folder.parent
    places = () if file is not None and is_o200k else (folder, other)
    for place in places:
        if (place / "tokenizer.json").exists():
            return Tokenizer.from_pretrained(place)
    return Tokenizer.o200k_harmony() if is_o200k else None
