"""tokenizer.json: read as the `tokenizers` library reads it, or refused by name; written so that
both read it.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizer_texts import HOSTILE, TEXTS

from ossia.errors import TokenizerError
from ossia.tokenizer import O200K_PATTERN, Tokenizer, train_tokenizer
from ossia.tokenizer.file import to_json


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    return train_tokenizer(TEXTS, 700)


@pytest.fixture(scope="module")
def nano_path(nano: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nano") / "tokenizer.json"
    nano.save(path)
    return path


def _small_file() -> dict[str, Any]:
    """A minimal valid tokenizer.json: 256 bytes, two merges, one special."""
    vocabulary = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"abc": 257}
    tokenizer = Tokenizer(vocabulary, {"<|end|>": 258}, O200K_PATTERN)
    data: dict[str, Any] = json.loads(
        json.dumps(to_json(tokenizer.vocabulary, tokenizer.specials, tokenizer.pattern))
    )
    return data


def _load(data: Any, tmp_path: Path) -> Tokenizer:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return Tokenizer.from_file(path)


def test_specials_longest_name_wins(tmp_path: Path) -> None:
    data = _small_file()
    data["added_tokens"].append({**data["added_tokens"][0], "id": 259, "content": "<|end|>x"})
    tokenizer = _load(data, tmp_path)
    assert tokenizer.encode_with_specials("a<|end|>x<|end|>") == [97, 259, 258]
    assert tokenizer.encode("<|end|>") == list(b"<|end|>")


def test_ids_that_do_not_follow_the_merges(nano_path: Path, tmp_path: Path) -> None:
    """Special ids first, the ordinary ones in random order: ranks come from the merges, ids from
    the file.
    """
    data = json.loads(nano_path.read_text(encoding="utf-8"))
    vocab = data["model"]["vocab"]
    ids = list(range(9, 9 + len(vocab)))
    random.Random(7).shuffle(ids)
    data["model"]["vocab"] = dict(zip(vocab, ids, strict=True))
    for id_, token in enumerate(data["added_tokens"]):
        token["id"] = id_
        data["model"]["vocab"][token["content"]] = id_
    ours = _load(data, tmp_path)
    oracle = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert ours.special("<|startoftext|>") == 0
    ours.save(tmp_path / "again.json")
    again = Tokenizer.from_file(tmp_path / "again.json")
    oracle_again = tokenizers.Tokenizer.from_file(str(tmp_path / "again.json"))
    for text in HOSTILE + TEXTS:
        ids = ours.encode_with_specials(text)
        assert ids == oracle.encode(text).ids == oracle_again.encode(text).ids
        assert ids == again.encode_with_specials(text)
        assert ours.decode(ids) == text


def test_merges_as_pairs_and_every_split_listed(
    nano: Tokenizer, nano_path: Path, tmp_path: Path
) -> None:
    """The published layout: merges as lists, each token with all its splits, not only the one in
    use.
    """
    data = json.loads(nano_path.read_text(encoding="utf-8"))
    vocab = data["model"]["vocab"]
    tokens = sorted(vocab, key=lambda token: int(vocab[token]))
    splits = [
        [token[:i], token[i:]]
        for token in tokens
        for i in range(1, len(token))
        if token[:i] in vocab and token[i:] in vocab
    ]
    assert len(splits) > len(data["model"]["merges"])
    data["model"]["merges"] = splits
    ours = _load(data, tmp_path)
    oracle = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in HOSTILE + TEXTS:
        assert ours.encode(text) == nano.encode(text)
        assert ours.encode_with_specials(text) == oracle.encode(text).ids


@pytest.mark.parametrize("pattern", [r"\p{L}+", r"\d|[a-z]+\s?", r"\S+|x"])
def test_text_between_matches_is_kept(pattern: str, nano: Tokenizer, tmp_path: Path) -> None:
    Tokenizer(nano.vocabulary, {}, pattern).save(tmp_path / "tokenizer.json")
    ours = Tokenizer.from_pretrained(tmp_path)
    oracle = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in HOSTILE + TEXTS:
        assert ours.encode(text) == oracle.encode(text).ids
        assert ours.decode(ours.encode(text)) == text


def _edit(data: Any, path: str, value: Any) -> None:
    *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    for part in way:
        data = data[part]
    data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("normalizer", {"type": "NFC"}, "normalizer 'NFC'"),
        ("model", None, "model should be a JSON object"),
        ("model/type", "Unigram", "'Unigram'"),
        ("model/byte_fallback", True, "byte_fallback=True"),
        ("model/dropout", 0.1, "dropout=0.1"),
        ("model/end_of_word_suffix", "</w>", "end_of_word_suffix"),
        ("pre_tokenizer", {"type": "Metaspace"}, "'Metaspace'"),
        ("pre_tokenizer", None, "pre_tokenizer should be"),
        ("pre_tokenizer/pretokenizers", [], r"pre_tokenizer \[\] found"),
        ("pre_tokenizer/pretokenizers/1/use_regex", True, "use_regex"),
        ("pre_tokenizer/pretokenizers/1/add_prefix_space", True, "add_prefix_space"),
        ("pre_tokenizer/pretokenizers/0/behavior", "Removed", "'Removed'"),
        ("pre_tokenizer/pretokenizers/0/invert", True, "not inverted"),
        ("pre_tokenizer/pretokenizers/0/pattern", {"String": " "}, "only a Regex"),
        ("pre_tokenizer/pretokenizers/0/pattern/Regex", "(", "cannot use the pattern"),
        ("added_tokens/0/single_word", True, "single_word=true"),
        ("added_tokens/0/lstrip", True, "lstrip=true"),
        ("added_tokens/0/rstrip", True, "rstrip=true"),
        ("added_tokens/0/content", None, "without content"),
        ("added_tokens/0/content", "", "no bytes"),
        ("added_tokens/0/id", 97, r"share the ids \[97\]"),
        ("added_tokens/0/id", -3, "outside 0"),
        ("added_tokens/0/id", 1 << 40, "outside 0"),
        ("model/vocab/<|end|>", 300, "258 in added_tokens but 300"),
        ("model/vocab/a b", 300, "'a b' is not in the byte-level alphabet"),
        ("model/vocab/▁the", 300, "'▁the' is not in the byte-level alphabet"),
        ("model/vocab/ab", 97, r"share the ids \[97\]"),
        ("model/vocab/ab", "256", "the id '256'"),
        ("model/merges", None, "model.merges should be a JSON list"),
        ("model/merges", ["a b", "a b c"], "merge 1 is not a pair"),
        ("model/merges", ["a b", 3], "merge 1 is not a pair"),
        ("model/merges", ["a b", "ab d"], "names a token not in model.vocab"),
    ],
)
def test_refused_files(path: str, value: Any, message: str, tmp_path: Path) -> None:
    data = _small_file()
    _load(data, tmp_path)
    _edit(data, path, value)
    with pytest.raises(TokenizerError, match=message) as caught:
        _load(data, tmp_path)
    assert "tokenizer.json" in str(caught.value)


def test_merges_that_tiktoken_cannot_follow(tmp_path: Path) -> None:
    data = _small_file()
    data["model"]["vocab"]["bc"] = 300
    # "abc" is always a + bc, which the list does not join
    data["model"]["merges"] = [
        "b c",
        "a b",
        "ab c",
    ]
    with pytest.raises(TokenizerError, match="not a proper BPE"):
        _load(data, tmp_path)
    data["model"]["merges"] = ["a b", "b c", "ab c"]
    assert _load(data, tmp_path).encode("abc xbc") == [257, 32, 120, 300]


def test_accepted_merge_lists_are_followed(tmp_path: Path) -> None:
    """Random lists, most of them such as no training makes: refused, or encoded as the library
    does.
    """
    rng = random.Random(3)
    accepted = refused = 0
    for _ in range(150):
        data = _small_file()
        vocab, merges = data["model"]["vocab"], []
        del vocab["ab"], vocab["abc"]
        known = ["a", "b"]
        for _ in range(rng.randint(1, 7)):
            left, right = rng.choice(known), rng.choice(known)
            merges.append([left, right])
            if left + right not in vocab:
                vocab[left + right] = 300 + len(merges)
                known.append(left + right)
        data["model"] |= {"merges": merges, "ignore_merges": rng.random() < 0.5}
        try:
            ours = _load(data, tmp_path)
        except TokenizerError:
            refused += 1
            continue
        accepted += 1
        oracle = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        for _ in range(60):
            text = "".join(rng.choices("ab", k=rng.randint(1, 14)))
            assert ours.encode(text) == oracle.encode(text).ids, (merges, text)
    assert min(accepted, refused) > 20


def test_missing_bytes(tmp_path: Path) -> None:
    data = _small_file()
    del data["model"]["vocab"]["Ā"], data["model"]["vocab"]["A"]
    with pytest.raises(TokenizerError, match=r"2 single bytes have no token \(0x00, 0x41\)"):
        _load(data, tmp_path)


def test_a_token_without_merge_needs_ignore_merges(tmp_path: Path) -> None:
    data = _small_file()
    data["model"]["vocab"]["xyz"] = 300
    ours = _load(data, tmp_path)
    oracle = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert ours.encode("xyz xyzab") == oracle.encode("xyz xyzab").ids
    assert ours.encode("xyz") == [300]
    data["model"]["ignore_merges"] = False
    with pytest.raises(TokenizerError, match="not a proper BPE"):
        _load(data, tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"3"])
def test_not_json(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError):
        Tokenizer.from_pretrained(tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"cannot read .*tokenizer.json: No such file"):
        Tokenizer.from_pretrained(tmp_path)


def test_save_leaves_nothing_behind_when_it_fails(nano: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(OSError):
        nano.save(tmp_path / "tokenizer.json")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_byte_level_alone_brings_its_own_pattern(tmp_path: Path) -> None:
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=True
    )
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, show_progress=False
    )
    theirs.train_from_iterator(
        ["It's a test, isn't it? 12345  spaces\n\nlines we'll see"] * 3, trainer
    )
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.from_file(tmp_path / "tokenizer.json")
    for text in ("It's we'll 99 test,  x \n\n y", "naïve ÜBER 日本語 \t\t", "isn't'S 12a34"):
        assert ours.encode(text) == theirs.encode(text).ids
