"""Sealed reasoning: only who has the secret can open it, and only as it was."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.server import sealing
from ossia.server.sealing import Sealer, SealError

SECRET = b"secret"
SEALED = Sealer(SECRET).seal("I think, 'so to say'. é👍")


@given(st.text(), st.binary())
def test_there_and_back(text: str, secret: bytes) -> None:
    assert Sealer(secret).open(Sealer(secret).seal(text)) == text


def test_without_a_secret_only_the_same_object_opens() -> None:
    sealer = Sealer()
    assert sealer.open(sealer.seal("x")) == "x"
    with pytest.raises(SealError, match="another secret"):
        Sealer().open(sealer.seal("x"))


def test_nothing_shows_and_nothing_repeats() -> None:
    sealer = Sealer(SECRET)
    first, second = sealer.seal("aaaa"), sealer.seal("aaaa")
    assert first != second and b"aaaa" not in base64.urlsafe_b64decode(first)


@given(st.data())
def test_any_change_is_noticed(data: st.DataObject) -> None:
    blob = bytearray(base64.urlsafe_b64decode(SEALED))
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealError):
        Sealer(SECRET).open(base64.urlsafe_b64encode(blob).decode())


@given(st.text() | st.binary().map(lambda data: base64.urlsafe_b64encode(b"\x01" + data).decode()))
def test_what_was_never_sealed(text: str) -> None:
    with pytest.raises(SealError):
        Sealer(SECRET).open(text)


def test_another_secret_and_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SealError, match="another secret"):
        Sealer(b"other").open(SEALED)
    monkeypatch.setattr(sealing, "VERSION", b"\x02")
    with pytest.raises(SealError, match="version"):
        Sealer(SECRET).open(SEALED)


def test_a_small_blob_cannot_unpack_to_something_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "LONGEST", 1000)
    sealer = Sealer(SECRET)
    assert sealer.open(sealer.seal("x" * 1000)) == "x" * 1000
    with pytest.raises(SealError, match="too long"):
        sealer.open(sealer.seal("x" * 1001))


@given(st.text(), st.text(), st.text())
def test_what_one_caller_was_given_opens_for_no_other(text: str, one: str, other: str) -> None:
    sealed = Sealer(SECRET).of(one).seal(text)
    assert Sealer(SECRET).of(one).open(sealed) == text, "after a restart too"
    if one != other:
        with pytest.raises(SealError, match="for another key"):
            Sealer(SECRET).of(other).open(sealed)


def test_without_keys_there_is_one_owner() -> None:
    assert Sealer(SECRET).of("").open(SEALED) == Sealer(SECRET).open(SEALED)
