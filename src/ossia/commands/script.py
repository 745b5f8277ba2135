"""What `ossia serve --script` says in place of a model: a file of samples, and the tokenizer.

Knows nothing of servers.
"""

from __future__ import annotations

import json
from pathlib import Path

from ossia import hub
from ossia.errors import RequestError
from ossia.tokenizer import Tokenizer


def read_script(path: Path, tokenizer: Tokenizer) -> list[list[int]]:
    """What a model is to say, a sample a line: {"text": "<|channel|>final<|message|>Hi<|return|>"}
    or {"ids": [...]}. In a text the names of special tokens are those tokens. Raises `RequestError`
    with the number of the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise RequestError(f"--script {path}: {reason}") from error
    samples = [
        _sample(line, f"--script {path}, line {n}", tokenizer)
        for n, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not samples:
        raise RequestError(f"--script {path} says nothing")
    return samples


def _sample(line: str, place: str, tokenizer: Tokenizer) -> list[int]:
    try:
        said = json.loads(line)
    except ValueError as error:
        raise RequestError(f"{place} is not valid JSON: {error}") from error
    match said:
        case {"text": str(text)} if len(said) == 1:
            ids = tokenizer.encode_with_specials(text)
        case {"ids": list(ids)} if len(said) == 1:
            pass
        case _:
            ids = []
    if not ids or not all(type(id) is int and id >= 0 for id in ids):
        raise RequestError(
            f'{place}: expected {{"text": "..."}} or {{"ids": [1, 2, ...]}}, not empty'
        )
    return ids


def tokenizer_of(model: str) -> Tokenizer:
    """The tokenizer of a model that is not loaded; the published models need not be downloaded."""
    if model in (*hub.HUB_IDS, *hub.HUB_IDS.values()) and not Path(model).exists():
        return Tokenizer.o200k_harmony()
    folder = hub.find(model)
    if (folder / "tokenizer.json").exists():
        return Tokenizer.from_pretrained(folder)
    from ossia import checkpoint

    found = checkpoint.find_tokenizer(folder, checkpoint.open_checkpoint(folder).config)
    if found is None:
        raise RequestError(f"{model} has no tokenizer")
    return found
