"""The o200k vocabulary: the official package is the oracle; the file may be missing or damaged."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from pathlib import Path

import openai_harmony  # type: ignore[import-untyped]
import pytest
import tokenizers
from hypothesis import given
from shared_folders import kept
from tokenizer_texts import ANY_TEXT, HOSTILE, TEXTS, fast, without_specials

from ossia.errors import TokenizerError
from ossia.tokenizer import HARMONY_SPECIALS, Tokenizer
from ossia.tokenizer import o200k as o200k_module


@pytest.fixture(scope="module")
def o200k() -> Tokenizer:
    return Tokenizer.o200k_harmony()


@pytest.fixture(scope="module")
def o200k_path(
    o200k: Tokenizer, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Path:
    """As `save` writes it; kept from run to run for as long as the code and the words are the
    same.
    """
    here = Path(o200k_module.__file__).parent
    digest = hashlib.sha256()
    for file in (*sorted(here.glob("*.py")), here.parent / "assets" / "o200k.vocabulary"):
        digest.update(file.read_bytes())
    folder = kept(pytestconfig, "o200k", digest.hexdigest()[:16], save_o200k)
    if folder is None:
        folder = tmp_path_factory.mktemp("o200k")
        save_o200k(folder)
    return folder / "tokenizer.json"


def save_o200k(folder: Path) -> None:
    Tokenizer.o200k_harmony().save(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def peer() -> openai_harmony.HarmonyEncoding:
    return openai_harmony.load_harmony_encoding(openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS)


def test_o200k_ids_equal_the_library(o200k: Tokenizer, o200k_path: Path) -> None:
    whole = tokenizers.Tokenizer.from_file(str(o200k_path))
    blind = without_specials(o200k_path)

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


def test_a_shuffled_o200k_file_keeps_its_ids(
    o200k: Tokenizer, o200k_path: Path, tmp_path: Path
) -> None:
    data = json.loads(o200k_path.read_text(encoding="utf-8"))
    data["model"]["vocab"] = dict(reversed(data["model"]["vocab"].items()))
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    shuffled = Tokenizer.from_pretrained(tmp_path)
    assert shuffled.encode(TEXTS[0]) == o200k.encode(TEXTS[0])


def test_o200k_equals_the_official_package(
    o200k: Tokenizer, peer: openai_harmony.HarmonyEncoding
) -> None:
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


# ---- where it comes from ----


def test_it_is_the_published_vocabulary(o200k: Tokenizer) -> None:
    """The sha256 that tiktoken pins for its download, a file of lines `base64 rank`."""
    lines = b"".join(
        b"%b %d\n" % (base64.b64encode(token), id_) for token, id_ in o200k.vocabulary.items()
    )
    published = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
    assert hashlib.sha256(lines).hexdigest() == published


def test_it_is_what_the_official_package_holds(peer: openai_harmony.HarmonyEncoding) -> None:
    tokens = o200k_module.vocabulary()
    assert list(tokens.values()) == list(range(o200k_module.SIZE))
    between = 199_999  # a special: no token contains its name
    ids = [between] * (2 * len(tokens) - 1)
    ids[::2] = tokens.values()
    decode_bytes = peer._inner.decode_bytes
    assert decode_bytes(ids) == decode_bytes([between]).join(tokens)


@pytest.mark.parametrize("damage", ["empty", "half", "one bit", "missing"])
def test_a_damaged_file_is_refused(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = o200k_module._FILE.read_bytes()
    flipped = whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:]
    contents = {"empty": b"", "half": whole[: len(whole) // 2], "one bit": flipped}
    file = tmp_path / "o200k.vocabulary"
    if damage in contents:
        file.write_bytes(contents[damage])
    monkeypatch.setattr(o200k_module, "_FILE", file)
    with pytest.raises(TokenizerError, match="install ossia again"):
        o200k_module.vocabulary()


def test_only_o200k_is_taken_for_it(o200k: Tokenizer) -> None:
    known = dict(o200k.vocabulary)
    assert o200k_module.in_merge_order(dict(reversed(known.items()))) == known
    assert o200k_module.in_merge_order({b"a": 0}) is None
    assert o200k_module.in_merge_order({token: id_ + 1 for token, id_ in known.items()}) is None
    swapped = known | {b" the": known[b" of"], b" of": known[b" the"]}
    assert o200k_module.in_merge_order(swapped) is None
    del known[b" the"]
    assert o200k_module.in_merge_order(known | {b"\xff\x00": o200k.vocabulary[b" the"]}) is None
