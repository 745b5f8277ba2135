"""Tokenizer: ids equal to the `tokenizers` library and to the official Harmony package, on hostile text."""

from __future__ import annotations

import json
import pickle
import random
import socket
import time
from pathlib import Path
from typing import Any

import openai_harmony  # type: ignore[import-untyped]
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.errors import TokenizerError
from ossia.tokenizer import (
    HARMONY_SPECIALS,
    HARMONY_WORDS,
    O200K_PATTERN,
    Tokenizer,
    _o200k_harmony,
    _to_json,
    train_tokenizer,
)

TEXTS = [
    "The quick brown fox doesn't jump over 1234 lazy dogs, and they'll say: \"it's 3.14\"!\n\n" * 3,
    "def add(a, b):\n    return a + b  # sums\n\n\nclass Thing:\n\tpass\r\n" * 3,
    "Ελληνικά, русский, 中文字符, 日本語テキスト, العربية, हिन्दी, ไทย, 한국어. naïve café\n" * 3,
    "aaa aaaa aaaaa banana bananas abababab ..... ---- ==== ////\n" * 3,
    "the thing there then other another mother brother weather whether analysis final\n" * 5,
]
HOSTILE = [
    *("", " ", "\n", "\r\n\r\n \n", "    \t\t x", " " * 700, " " * 700 + "x", "\n" * 300, "\u3000\xa0a"),
    *("0123456789" * 9, "१२३٤٥٦", "½²³", "aA" * 50, "HELLOworldFoo", "x" * 3000),
    *("I'LL I'll DON'T 'S '\u017f x'\u017ft", "ﬀﬁ ǅ ß İ ŉ", "\U0001d518\U0001d52b \U0010ffff\ue000\ufffe"),
    *("👩\u200d👩\u200d👧\u200d👦🏳\ufe0f\u200d🌈🇫🇷", "e\u0301" * 30 + "\u0301" * 40, "ᚠᛇᚻ᛫ཀ𒀀𓀀ꙮ"),
    *("\x00\x01\x1c\x7f", "\u200b\u200d\ufeff\u2028\u2029\x85", "a" * 257 + "b" * 255, "/\r\n//\n.\n/"),
    *("".join(HARMONY_SPECIALS), "<|start|", "<|reserved_200000|><|endofprompt|>", "ababababababa aaaaaaaa"),
]
PIECES = [
    *("'s", "'LL", " ", "  ", "\n", "\r\n", "\t", "1", "42", "é", "e\u0301", "中", "🏳\ufe0f\u200d🌈"),
    *("<|end|>", "<|", "a", "A"),
]
ANY_TEXT = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=40).map("".join),
    st.builds(lambda run, n: run * n, st.sampled_from(PIECES), st.integers(1, 90)),
)
fast = settings(max_examples=250, deadline=None, derandomize=True)


def _without_specials(path: Path) -> tokenizers.Tokenizer:
    """The library's tokenizer for the file, blind to added tokens: the oracle of the ordinary encode."""
    data = json.loads(path.read_text(encoding="utf-8"))
    data["added_tokens"] = []
    return tokenizers.Tokenizer.from_str(json.dumps(data))


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


@pytest.fixture(scope="module")
def o200k_path(o200k: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("o200k") / "tokenizer.json"
    o200k.save(path)
    return path


@pytest.fixture(scope="module")
def peer() -> openai_harmony.HarmonyEncoding:
    return openai_harmony.load_harmony_encoding(openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS)


def _small_file() -> dict[str, Any]:
    """A minimal valid tokenizer.json: 256 bytes, two merges, one special."""
    vocabulary = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"abc": 257}
    tokenizer = Tokenizer(vocabulary, {"<|end|>": 258}, O200K_PATTERN)
    data: dict[str, Any] = json.loads(json.dumps(_to_json(tokenizer)))
    return data


def _load(data: Any, tmp_path: Path) -> Tokenizer:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return Tokenizer.from_file(path)


# ---- equality with the `tokenizers` library ----


def test_nano_ids_equal_the_library(nano_path: Path) -> None:
    ours, oracle = Tokenizer.from_file(nano_path), _without_specials(nano_path)

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


def test_o200k_ids_equal_the_library(o200k: Tokenizer, o200k_path: Path) -> None:
    whole = tokenizers.Tokenizer.from_file(str(o200k_path))
    blind = _without_specials(o200k_path)

    @fast
    @given(ANY_TEXT)
    def check(text: str) -> None:
        assert o200k.encode(text) == blind.encode(text).ids
        assert o200k.encode_with_specials(text) == whole.encode(text).ids

    check()
    for text in HOSTILE + TEXTS:
        assert o200k.encode(text) == blind.encode(text).ids, text
        assert o200k.encode_with_specials(text) == whole.encode(text).ids, text


def test_o200k_from_its_file_is_the_same(o200k: Tokenizer, o200k_path: Path) -> None:
    again = Tokenizer.from_file(o200k_path)
    assert list(again.vocabulary.items()) == list(o200k.vocabulary.items())
    assert (again.specials, again.pattern) == (o200k.specials, o200k.pattern)


def test_a_shuffled_o200k_file_keeps_its_ids(o200k: Tokenizer, o200k_path: Path) -> None:
    data = json.loads(o200k_path.read_text(encoding="utf-8"))
    data["model"]["vocab"] = dict(reversed(data["model"]["vocab"].items()))
    shuffled = _load(data, o200k_path.parent / "..")
    assert shuffled.encode(TEXTS[0]) == o200k.encode(TEXTS[0])


def test_ids_that_do_not_follow_the_merges(nano_path: Path, tmp_path: Path) -> None:
    """Special ids first, the ordinary ones in random order: ranks come from the merges, ids from the file."""
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


def test_merges_as_pairs_and_every_split_listed(nano: Tokenizer, nano_path: Path, tmp_path: Path) -> None:
    """The published layout: merges as lists, each token with all its splits, not only the one in use."""
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


# ---- o200k ----


def test_o200k_equals_the_official_package(o200k: Tokenizer, peer: openai_harmony.HarmonyEncoding) -> None:
    @fast
    @given(ANY_TEXT)
    def check(text: str) -> None:
        ids = o200k.encode(text)
        assert ids == peer.encode(text, disallowed_special=())
        assert o200k.decode_bytes(ids) == text.encode()
        assert o200k.encode_with_specials(text) == peer.encode(text, allowed_special="all")

    check()
    for text in HOSTILE + TEXTS:
        assert o200k.encode(text) == peer.encode(text, disallowed_special=()), text


def test_o200k_specials(o200k: Tokenizer, peer: openai_harmony.HarmonyEncoding) -> None:
    assert set(o200k.specials) == peer.special_tokens_set
    assert all(peer.decode([id_]) == name for name, id_ in o200k.specials.items())
    assert (len(o200k.specials), o200k.vocab_size) == (1091, 201_089)
    assert (o200k.special("<|start|>"), o200k.special("<|call|>")) == (200_006, 200_012)
    assert o200k.encode_with_specials("<|endofprompt|>") == o200k.encode("<|endofprompt|>")
    assert {o200k.special(name) for name in HARMONY_SPECIALS} >= set(peer.stop_tokens())


def test_o200k_decodes_any_ids(o200k: Tokenizer, peer: openai_harmony.HarmonyEncoding) -> None:
    ids = random.Random(1).choices(range(201_089), k=2000)
    assert o200k.decode(ids) == peer.decode(ids)
    assert o200k.decode_bytes(ids) == b"".join(map(o200k.token_bytes, ids))


def test_o200k_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert _o200k_harmony.__wrapped__().encode("Hello world") == [13_225, 2375]


def test_o200k_package_missing_or_misled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_ENCODINGS_BASE", "/nonexistent")
    with pytest.raises(TokenizerError, match="cannot load its vocabulary"):
        _o200k_harmony.__wrapped__()
    monkeypatch.setattr("ossia.tokenizer.metadata.version", _raise_missing)
    with pytest.raises(TokenizerError, match="pip install oss-harmony"):
        _o200k_harmony.__wrapped__()


def _raise_missing(name: str) -> str:
    raise ImportError(name)


# ---- robustness ----


def test_surrogates_become_replacement_characters(o200k: Tokenizer) -> None:
    assert o200k.encode("a\ud800b") == o200k.encode("a\ufffdb")
    assert o200k.encode("\ud83d\ude00") == o200k.encode("\U0001f600")
    assert o200k.encode_with_specials("\udc00<|end|>") == [*o200k.encode("\ufffd"), 200_007]


@pytest.mark.parametrize("text", [" " * 1_200_000, " " * 1_200_000 + "x", ("\t" * 262_143 + "y") * 5])
def test_long_runs_of_blanks(text: str, o200k: Tokenizer) -> None:
    start = time.monotonic()
    assert o200k.decode(o200k.encode(text)) == text
    assert time.monotonic() - start < 5


def test_a_pattern_that_gives_up_is_an_error_not_a_panic(nano: Tokenizer) -> None:
    slow = Tokenizer(nano.vocabulary, {}, r"(?:(?=a)a|(?=a)aa)+c|.")
    with pytest.raises(TokenizerError, match="cannot split this text"):
        slow.encode("a" * 200 + "b")


def test_specials_longest_name_wins(tmp_path: Path) -> None:
    data = _small_file()
    data["added_tokens"].append({**data["added_tokens"][0], "id": 259, "content": "<|end|>x"})
    tokenizer = _load(data, tmp_path)
    assert tokenizer.encode_with_specials("a<|end|>x<|end|>") == [97, 259, 258]
    assert tokenizer.encode("<|end|>") == list(b"<|end|>")


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


def test_pickle_and_quick_load(nano: Tokenizer, nano_path: Path) -> None:
    assert pickle.loads(pickle.dumps(nano)).encode(TEXTS[2]) == nano.encode(TEXTS[2])
    times = []
    for _ in range(5):
        start = time.perf_counter()
        Tokenizer.from_file(nano_path)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05


# ---- training ----


def test_training(nano: Tokenizer) -> None:
    ordinary = nano.vocab_size - len(HARMONY_SPECIALS)
    assert nano.vocab_size <= 700
    assert [nano.special(name) for name in HARMONY_SPECIALS] == list(range(ordinary, nano.vocab_size))
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


# ---- files we cannot honour ----


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
    data["model"]["merges"] = ["b c", "a b", "ab c"]  # "abc" is always a + bc, which the list does not join
    with pytest.raises(TokenizerError, match="not a proper BPE"):
        _load(data, tmp_path)
    data["model"]["merges"] = ["a b", "b c", "ab c"]
    assert _load(data, tmp_path).encode("abc xbc") == [257, 32, 120, 300]


def test_accepted_merge_lists_are_followed(tmp_path: Path) -> None:
    """Random lists, most of them such as no training makes: refused, or encoded as the library does."""
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
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    theirs.train_from_iterator(["It's a test, isn't it? 12345  spaces\n\nlines we'll see"] * 3, trainer)
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.from_file(tmp_path / "tokenizer.json")
    for text in ("It's we'll 99 test,  x \n\n y", "naïve ÜBER 日本語 \t\t", "isn't'S 12a34"):
        assert ours.encode(text) == theirs.encode(text).ids
