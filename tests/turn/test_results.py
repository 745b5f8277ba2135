"""How much of a tool's result the model reads."""

from __future__ import annotations

from pathlib import Path

import pytest

import ossia
from ossia.tokenizer import Tokenizer
from ossia.turn.results import within


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(Path(ossia.__file__).parent / "assets" / "nano")


@pytest.mark.parametrize("text", ["word ", "x", "é🙂", "\n", "\ud800", "<|end|>"])
def test_head_and_tail_of_what_is_too_long(text: str, tokenizer: Tokenizer) -> None:
    whole = f"begin {text * 100_000} end"
    shown = within(whole, tokenizer, 500)
    tokens = len(tokenizer.encode(shown))
    assert 300 < tokens <= 500
    assert shown.startswith("begin ") and shown.endswith(" end")
    head, _, tail = shown.partition("\n[... ")
    number, _, tail = tail.partition(" characters left out ...]\n")
    assert len(head) + len(tail) + int(number) == len(whole)


def test_what_fits_stays(tokenizer: Tokenizer) -> None:
    text = "word " * 400
    tokens = len(tokenizer.encode(text))
    assert within(text, tokenizer, tokens) == text
    assert within(text, tokenizer, None) == text
    assert within(text, tokenizer, tokens - 1) != text
    assert within("", tokenizer, 0) == ""
