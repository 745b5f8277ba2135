"""Tokenizer: ids equal to the `tokenizers` library on hostile text; training; what fails, and
how.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from steps import steps
from tokenizer_texts import ANY_TEXT, HOSTILE, TEXTS, fast, without_specials

from ossia.errors import TokenizerError
from ossia.tokenizer import HARMONY_SPECIALS, HARMONY_WORDS, Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    return train_tokenizer(TEXTS, 700)


@pytest.fixture(scope="module")
def nano_path(nano: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nano") / "tokenizer.json"
    nano.save(path)
    return path


@pytest.fixture(scope="module")
def o200k() -> Tokenizer:
    return Tokenizer.o200k_harmony()


def test_nano_ids_equal_the_library(nano_path: Path) -> None:
    ours, oracle = Tokenizer.from_file(nano_path), without_specials(nano_path)

    @fast
    @given(ANY_TEXT)
    def check(text: str) -> None:
        ids = ours.encode(text)
        assert ids == oracle.encode(text).ids
        assert ours.decode_bytes(ids) == text.encode()
        assert ours.decode(ids) == text
        assert not any(map(ours.is_special, ids))

    check()
    for text in HOSTILE + TEXTS:
        assert ours.encode(text) == oracle.encode(text).ids, text


def test_surrogates_become_replacement_characters(o200k: Tokenizer) -> None:
    assert o200k.encode("a\ud800b") == o200k.encode("a\ufffdb")
    assert o200k.encode("\ud83d\ude00") == o200k.encode("\U0001f600")
    assert o200k.encode_with_specials("\udc00<|end|>") == [*o200k.encode("\ufffd"), 200_007]


@pytest.mark.parametrize(
    "text",
    [
        *(
            " " * 1_200_000,
            " " * 1_200_000 + "x",
            "x" * 4095 + " " * 1_200_000 + "x",
            ("\t" * 262_143 + "y") * 5,
        ),
        *(
            "\n" * 1_000_000,
            "a" * 1_000_000,
            "A" * 1_000_000,
            "7" * 1_000_000,
            "中" * 1_000_000,
            "./" * 500_000,
        ),
    ],
    ids=lambda text: f"{text[:2]!r} {text[-2:]!r}",
)
def test_long_runs(text: str, o200k: Tokenizer) -> None:
    """Less than a second each; what is quadratic would take hours."""
    assert o200k.decode(o200k.encode(text)) == text


def test_a_pattern_that_gives_up_is_an_error_not_a_panic(nano: Tokenizer) -> None:
    slow = Tokenizer(nano.vocabulary, {}, r"(?:(?=a)a|(?=a)aa)+c|.")
    with pytest.raises(TokenizerError, match="cannot split this text"):
        slow.encode("a" * 200 + "b")


def test_unknown_ids_and_specials(nano: Tokenizer) -> None:
    for ids in ([700], [-1], [97, 10**9]):
        with pytest.raises(TokenizerError, match=f"no token has the id {ids[-1]}"):
            nano.decode(ids)
    with pytest.raises(TokenizerError, match=r"'<\|pad\|>'.*<\|startoftext\|>"):
        nano.special("<|pad|>")
    with pytest.raises(TypeError):
        nano.specials["x"] = 1  # type: ignore[index]


def test_decode_replaces_what_is_not_utf8(nano: Tokenizer) -> None:
    assert nano.decode([0xC3]) == "\ufffd"
    assert nano.decode([0xC3, 0xA9, nano.special("<|end|>")]) == "é<|end|>"


def test_any_iterable_of_ids_is_decoded(nano: Tokenizer) -> None:
    ids = nano.encode_with_specials("<|start|>" + TEXTS[0])
    for several in (tuple(ids), iter(ids), np.array(ids), dict(enumerate(ids)).values()):
        assert nano.decode(several) == "<|start|>" + TEXTS[0]
    with pytest.raises(TokenizerError, match="no token has the id 700"):
        nano.decode(id for id in (97, 700))
    with pytest.raises(TypeError):
        nano.decode(None)  # type: ignore[arg-type]


def test_pickle_and_quick_load(nano: Tokenizer, nano_path: Path) -> None:
    assert pickle.loads(pickle.dumps(nano)).encode(TEXTS[2]) == nano.encode(TEXTS[2])
    assert steps(lambda: Tokenizer.from_file(nano_path)) < 200 * nano.vocab_size


def test_training(nano: Tokenizer) -> None:
    ordinary = nano.vocab_size - len(HARMONY_SPECIALS)
    assert nano.vocab_size <= 700
    assert [nano.special(name) for name in HARMONY_SPECIALS] == list(
        range(ordinary, nano.vocab_size)
    )
    assert [nano.token_bytes(byte) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert nano.encode("2024") == list(b"2024")
    assert max(len(nano.token_bytes(id_)) for id_ in range(ordinary)) > 3


def test_training_is_deterministic(nano: Tokenizer) -> None:
    again = train_tokenizer(iter(TEXTS), 700)
    assert list(again.vocabulary.items()) == list(nano.vocabulary.items())


def test_training_with_words(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 450, words=HARMONY_WORDS)
    assert tokenizer.vocab_size == 450
    assert all(len(tokenizer.encode(word)) == 1 for word in HARMONY_WORDS)
    tokenizer.save(tmp_path / "tokenizer.json")
    oracle = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.from_pretrained(tmp_path)
    for text in [*HOSTILE, *TEXTS, "assistants finally analysisanalysis usercommentary jsonify"]:
        ids = tokenizer.encode_with_specials(text)
        assert ids == oracle.encode(text).ids == again.encode_with_specials(text)


def test_training_errors() -> None:
    with pytest.raises(TokenizerError, match="less than 256 bytes"):
        train_tokenizer(TEXTS, 264)
    with pytest.raises(TokenizerError, match=r"use at least 2[789]"):
        train_tokenizer(TEXTS, 266, words=["commentary"])
    with pytest.raises(TokenizerError, match="cuts it into several pieces"):
        train_tokenizer(TEXTS, 400, words=["two words"])
    with pytest.raises(TokenizerError, match="cannot use the pattern"):
        train_tokenizer(TEXTS, 400, pattern="(")
    assert train_tokenizer([], 1000).vocab_size == 256 + len(HARMONY_SPECIALS)
    assert train_tokenizer(["a\ud800b"], 265).vocab_size == 265
