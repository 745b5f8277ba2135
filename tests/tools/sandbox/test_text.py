"""What is kept of a long output."""

from __future__ import annotations

import pytest

from ossia.tools.sandbox.text import HeadAndTail


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 25, 1000])
@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_beginning_and_end(size: int, chunk: int) -> None:
    whole = "".join(chr(0x100 + n % 700) for n in range(size))
    kept = HeadAndTail(10)
    data = whole.encode()
    for at in range(0, len(data), chunk):
        kept.feed(data[at : at + chunk])
    expected = whole
    if size > 10:
        expected = f"{whole[:5]}\n[... {size - 10} characters left out ...]\n{whole[-5:]}"
    assert kept.text() == expected and kept.total == size


def test_bytes_that_are_no_text() -> None:
    kept = HeadAndTail(100)
    kept.feed(b"a\xff\xe2\x82")
    assert kept.text() == "a��"


def test_it_does_not_grow() -> None:
    kept = HeadAndTail(1000)
    for _ in range(1000):
        kept.feed(b"x" * 10_000)
    assert sum(map(len, kept._tail)) <= 2 * 1000
    assert len(kept.text()) < 1100
