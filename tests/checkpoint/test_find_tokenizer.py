"""Where a checkpoint's tokenizer is looked for. What a GGUF file has inside is in test_gguf.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import ossia
from ossia.checkpoint import find_tokenizer
from ossia.config import ModelConfig
from ossia.tokenizer import Tokenizer

FILE = Path(ossia.__file__).parent / "assets" / "nano" / "tokenizer.json"
NANO = ModelConfig.preset("nano")


def put(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    shutil.copy(FILE, folder)
    return folder


def test_beside_the_weights_or_one_level_from_original(tmp_path: Path) -> None:
    expected = Tokenizer.from_pretrained(FILE.parent).vocabulary
    (tmp_path / "a" / "original").mkdir(parents=True)
    put(tmp_path / "a")
    (tmp_path / "b").mkdir()
    put(tmp_path / "b" / "original")
    for place in ("a", "a/original", "b", "b/original"):
        found = find_tokenizer(tmp_path / place, NANO)
        assert found is not None and found.vocabulary == expected, place


def test_by_the_size_of_the_vocabulary_or_none(tmp_path: Path) -> None:
    put(tmp_path)
    (tmp_path / "model").mkdir()
    assert find_tokenizer(tmp_path / "model", NANO) is None, "another folder's is not taken"
    assert find_tokenizer(tmp_path / "model", ModelConfig()) is Tokenizer.o200k_harmony()
    own = find_tokenizer(tmp_path, ModelConfig())
    assert own is not None and own.vocab_size < 10_000, "a file comes before the size"
