"""Shards: what was written is read, in an order that is a permutation, from any state on; damage is
named.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from amounts import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ossia.data.packing import Example
from ossia.data.reading import mix
from ossia.data.shards import HEADER, INDEX, Shards, Vocabulary, merge_shards, write_shards
from ossia.data.shuffle import SMALL, permuted
from ossia.errors import DataError
from ossia.tokenizer import train_tokenizer

WORDS = Vocabulary(1000, "ab" * 32)
WIDE = Vocabulary(200_000, "cd" * 32)


def random_documents(seed: int, count: int, size: int = 1000, longest: int = 60) -> list[list[int]]:
    rng = Random(seed)
    return [[rng.randrange(size) for _ in range(rng.randrange(1, longest))] for _ in range(count)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shards, list[list[int]]]:
    documents = random_documents(1, 500)
    return write_shards(
        documents, tmp_path_factory.mktemp("shards"), WORDS, shard_tokens=2000
    ), documents


# ---- the permutation -----------------------------------------------------------------------------


@given(st.one_of(st.integers(1, 300), st.integers(SMALL - 2, 3 * SMALL)), st.text(max_size=5))
@settings(max_examples=examples(40), deadline=None)
def test_every_number_comes_exactly_once(n: int, key: str) -> None:
    assert sorted(permuted(np.arange(n), n, key).tolist()) == list(range(n))


@given(st.integers(SMALL + 1, 2**50), st.integers(0, 2**40), st.integers(1, 60))
@settings(max_examples=examples(60), deadline=None)
def test_an_element_depends_on_nothing_but_its_place(n: int, begin: int, count: int) -> None:
    places = np.arange(begin, begin + count) % n
    together = permuted(places, n, "k")
    assert [int(permuted(np.array([p]), n, "k")[0]) for p in places[:5]] == together[:5].tolist()
    assert len(set(together.tolist())) == len(set(places.tolist())) and together.max() < n


@pytest.mark.parametrize("n", [7, 1000, 100_003])
def test_places_are_evenly_likely(n: int) -> None:
    """Chi-square over ten ranges, for the first element over many keys and for neighbours within
    one order.
    """
    keys = 400
    firsts = [int(permuted(np.array([0]), n, str(key))[0]) for key in range(keys)]
    cells = min(n, 10)
    counts = np.bincount([f * cells // n for f in firsts], minlength=cells)
    expected = np.bincount([f * cells // n for f in range(n)], minlength=cells) * (keys / n)
    # p = 1e-4 with 9 degrees of freedom
    assert float(((counts - expected) ** 2 / expected).sum()) < 33
    if n > SMALL:
        order = permuted(np.arange(20_000), n, "x")
        pairs = Counter(
            zip((order[:-1] * 10 // n).tolist(), (order[1:] * 10 // n).tolist(), strict=True)
        )
        assert sum((pairs[i, j] - 200) ** 2 / 200 for i in range(10) for j in range(10)) < 160


# ---- writing and opening -------------------------------------------------------------------------


def test_what_was_written_is_read(corpus: tuple[Shards, list[list[int]]]) -> None:
    shards, documents = corpus
    assert len(shards.files) > 5 and shards.documents == len(shards) == 500
    assert shards.tokens == sum(map(len, documents))
    assert [shards.document(n).tolist() for n in range(500)] == documents
    shards.verify()
    with pytest.raises(IndexError):
        shards.document(500)


@given(
    st.lists(st.lists(st.integers(0, 199_999), min_size=1, max_size=30), min_size=1, max_size=20),
    st.integers(1, 50),
)
@settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_documents_come_back(
    tmp_path: Path, documents: list[list[int]], shard_tokens: int
) -> None:
    shards = write_shards(
        documents, tmp_path / "x", WIDE, shard_tokens=shard_tokens, overwrite=True
    )
    shards.verify()
    assert [shards.document(n).tolist() for n in range(len(shards))] == documents
    assert {p.name for p in (tmp_path / "x").iterdir()} == {INDEX, *(f.file for f in shards.files)}


def test_more_files_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mapping takes a file descriptor; few of them are enough, and views of what was let go
    stay valid.
    """
    monkeypatch.setattr("ossia.data.shards._MAPPED", 3)
    documents = random_documents(4, 60)
    shards = write_shards(documents, tmp_path, WORDS, shard_tokens=1)
    open_before = len(os.listdir("/proc/self/fd"))
    order = [n % 60 for n in range(0, 60 * 7, 7)]
    views = [(n, shards.document(n)) for n in order]
    assert len(shards.files) == 60 and all(view.tolist() == documents[n] for n, view in views)
    views.clear()
    assert len(os.listdir("/proc/self/fd")) <= open_before + 3
    (tmp_path / shards.files[0].file).unlink()
    with pytest.raises(DataError, match=r"cannot map .*00000.shard"):
        shards.document(0)


@pytest.mark.parametrize("size, width", [(1 << 16, 2), ((1 << 16) + 1, 4)])
def test_ids_are_as_wide_as_the_vocabulary_needs(tmp_path: Path, size: int, width: int) -> None:
    shards = write_shards([[size - 1, 0]], tmp_path, Vocabulary(size, "00" * 32))
    assert (
        shards.document(0).tolist() == [size - 1, 0] and shards.document(0).dtype.itemsize == width
    )


@pytest.mark.parametrize(
    "document, message",
    [
        ([], "no tokens"),
        ([1000], "has the id 1000"),
        ([-1], "has the id -1"),
        ([0.5], "integers"),
        ([[1]], "no tokens"),
    ],
)
def test_wrong_documents_are_refused_and_leave_nothing(
    tmp_path: Path, document: Any, message: str
) -> None:
    with pytest.raises(DataError, match=f"document 1 .*{message}"):
        write_shards([[1, 2], document], tmp_path / "new", WORDS)
    assert list((tmp_path / "new").iterdir()) == []


def test_shards_are_not_overwritten_by_accident(tmp_path: Path) -> None:
    write_shards(random_documents(1, 50), tmp_path, WORDS, shard_tokens=200)
    with pytest.raises(DataError, match="holds shards already"):
        write_shards([[1]], tmp_path, WORDS)
    assert len(Shards(tmp_path)) == 50
    assert len(write_shards([[1]], tmp_path, WORDS, overwrite=True)) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000.shard", INDEX]


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_shards(random_documents(1, 50), tmp_path, WORDS, shard_tokens=200).fingerprint
    synced: list[int] = []

    def fsync(file: int) -> None:
        synced.append(file)
        if len(synced) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(
        DataError, match=r"cannot write shards to .*No space left on device.* unchanged"
    ):
        write_shards(random_documents(2, 50), tmp_path, WORDS, overwrite=True, shard_tokens=100)
    assert Shards(tmp_path).fingerprint == before and not list(tmp_path.glob("*.tmp"))


def test_documents_that_cannot_be_read_are_no_fault_of_the_writer(tmp_path: Path) -> None:
    before = write_shards(random_documents(1, 50), tmp_path, WORDS, shard_tokens=200).fingerprint

    def documents() -> Iterator[list[int]]:
        yield from random_documents(2, 30)
        raise OSError(errno.EIO, "the disk with the texts")

    with pytest.raises(OSError, match="the disk with the texts"):
        write_shards(documents(), tmp_path, WORDS, overwrite=True, shard_tokens=100)
    assert Shards(tmp_path).fingerprint == before and not list(tmp_path.glob("*.tmp"))


KILLED = """
import sys, time
from ossia.data.shards import Vocabulary, write_shards
def documents():
    for n in range(10**9):
        yield [n % 1000] * 50
        if n == 500:
            print("writing", flush=True)
        if n > 500:
            time.sleep(0.01)
write_shards(documents(), sys.argv[1], Vocabulary(1000, "ab" * 32), shard_tokens=1000)
"""


def test_a_killed_writer_leaves_no_shards_and_can_be_repeated(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    assert list(tmp_path.glob("*.tmp"))
    with pytest.raises(DataError, match="holds no shards"):
        Shards(tmp_path)
    assert len(write_shards([[1, 2]], tmp_path, WORDS)) == 1
    assert not list(tmp_path.glob("*.tmp"))


def test_merged_shards_are_one(tmp_path: Path) -> None:
    documents = random_documents(3, 90)
    for n in range(3):
        write_shards(
            documents[30 * n : 30 * (n + 1)], tmp_path / "all" / f"part{n}", WORDS, shard_tokens=300
        )
    write_shards([], tmp_path / "all" / "part3", WORDS)
    merged = merge_shards([tmp_path / "all" / f"part{n}" for n in range(4)], tmp_path / "all")
    merged.verify()
    assert [merged.document(n).tolist() for n in range(len(merged))] == documents
    moved = (tmp_path / "all").rename(tmp_path / "moved")
    assert Shards(moved).fingerprint == merged.fingerprint
    write_shards([[1]], tmp_path / "other", Vocabulary(1000, "ff" * 32))
    with pytest.raises(DataError, match=r"other was made with another tokenizer than .*moved"):
        merge_shards([moved, tmp_path / "other"], tmp_path / "wrong")


# ---- damage --------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def flip(at: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)

    return change


@pytest.mark.parametrize(
    "damage, message",
    [
        (cut, r"00001.shard is damaged: it has \d+ bytes instead of"),
        (Path.unlink, r"00001.shard is in the index, but cannot be read \(No such file"),
        (flip(0), "00001.shard is damaged: it does not begin as a shard"),
        (flip(12), "00001.shard is damaged: its header does not agree"),
        (flip(HEADER.size - 1), "00001.shard was made with another tokenizer"),
    ],
)
def test_damage_is_seen_when_opening(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    write_shards(random_documents(1, 90), tmp_path, WORDS, shard_tokens=400)
    damage(tmp_path / "00001.shard")
    with pytest.raises(DataError, match=message):
        Shards(tmp_path)


@pytest.mark.parametrize("at", [HEADER.size, HEADER.size + 101, -1, -20])
def test_a_changed_byte_is_seen_by_verify(tmp_path: Path, at: int) -> None:
    write_shards(random_documents(1, 90), tmp_path, WORDS, shard_tokens=400)
    flip(at)(tmp_path / "00002.shard")
    with pytest.raises(DataError, match=r"00002.shard is damaged: its checksum.*Restore the file"):
        Shards(tmp_path).verify()


def test_offsets_that_lead_outside_are_not_followed(tmp_path: Path) -> None:
    shards = write_shards(random_documents(1, 90), tmp_path, WORDS)
    flip(-1)(tmp_path / "00000.shard")
    with pytest.raises(DataError, match="offsets of document 89 make no sense"):
        shards.document(89)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.update(version=2), "is of version 2"),
        (lambda d: d.update(format="x"), "not an index"),
        (lambda d: d.pop("shards"), "missing or wrong in it"),
        (lambda d: d["shards"][0].pop("checksum"), "missing or wrong in it"),
        (lambda d: d["vocabulary"].update(fingerprint="no"), "missing or wrong in it"),
        (lambda d: d["shards"][0].update(documents=3), "header does not agree"),
    ],
)
def test_an_index_that_is_wrong_is_named(
    tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    write_shards(random_documents(1, 9), tmp_path, WORDS)
    data = json.loads((tmp_path / INDEX).read_text())
    change(data)
    (tmp_path / INDEX).write_text(json.dumps(data))
    with pytest.raises(DataError, match=message):
        Shards(tmp_path)
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        Shards(tmp_path)


def test_shards_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    texts = ["one two three two one"] * 5
    mine, other = train_tokenizer(texts, 300), train_tokenizer(["four five six five"] * 5, 300)
    write_shards([mine.encode("one two")], tmp_path, mine)
    assert Shards(tmp_path, mine).vocabulary == Vocabulary.of(mine) != Vocabulary.of(other)
    with pytest.raises(DataError, match=r"another tokenizer .*tokenize\s+the text again"):
        Shards(tmp_path, other)


# ---- examples ------------------------------------------------------------------------------------


def test_an_epoch_learns_every_id_once(corpus: tuple[Shards, list[list[int]]]) -> None:
    shards, documents = corpus
    wanted = Counter((a, b) for d in documents for a, b in pairwise(d))
    windows = sum(-(-(len(d) - 1) // 16) for d in documents)
    stream = shards.examples(seed=5, longest=16)(None)
    orders = []
    for _ in range(2):
        learned: Counter[tuple[int, int]] = Counter()
        epoch = [example for example, _ in islice(stream, windows)]
        for example in epoch:
            assert 2 <= len(example.ids) <= 17 and len(example.mask) == len(example.ids)
            assert not example.mask[0] and all(example.mask[1:])
            learned.update(zip(example.ids[:-1].tolist(), example.ids[1:].tolist(), strict=True))  # type: ignore[union-attr]
        assert learned == wanted
        orders.append([tuple(e.ids) for e in epoch])
    assert orders[0] != orders[1]
    again = [tuple(e.ids) for e, _ in islice(shards.examples(seed=5, longest=16)(None), windows)]
    other = [tuple(e.ids) for e, _ in islice(shards.examples(seed=6, longest=16)(None), windows)]
    assert again == orders[0] != other
    written = [
        e.ids.tolist() for e, _ in islice(shards.examples(longest=100, shuffle=False)(None), 9)
    ]  # type: ignore[union-attr]
    assert written == [d for d in documents if len(d) > 1][:9]


@given(st.integers(0, 3000), st.integers(1, 70), st.integers(1, 4), st.data())
@settings(
    max_examples=examples(30),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_going_on_from_any_state_changes_nothing(
    corpus: tuple[Shards, list[list[int]]],
    taken: int,
    longest: int,
    ranks: int,
    data: st.DataObject,
) -> None:
    examples = corpus[0].examples(
        seed=1, longest=longest, rank=data.draw(st.integers(0, ranks - 1)), ranks=ranks
    )
    stream = examples(None)
    states = [state for _, state in islice(stream, taken)]
    state = json.loads(json.dumps(states[-1] if states else None))
    assert list(islice(examples(state), 20)) == list(islice(stream, 20))


@given(st.integers(1, 7))
@settings(
    max_examples=examples(7),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_ranks_share_an_epoch(corpus: tuple[Shards, list[list[int]]], ranks: int) -> None:
    shards, documents = corpus
    seen = []
    for rank in range(ranks):
        for example, state in shards.examples(seed=2, longest=60, rank=rank, ranks=ranks)(None):
            if state["epoch"]:
                break
            seen.append(tuple(example.ids))
    assert Counter(seen) == Counter(tuple(d) for d in documents if len(d) > 1)


def test_a_state_of_something_else_is_refused(
    corpus: tuple[Shards, list[list[int]]], tmp_path: Path
) -> None:
    shards = corpus[0]
    state = next(shards.examples(seed=1, longest=16)(None))[1]
    others = [
        shards.examples(seed=2, longest=16),
        shards.examples(seed=1, longest=17),
        shards.examples(seed=1, longest=16, shuffle=False),
        shards.examples(seed=1, longest=16, ranks=2),
        write_shards(random_documents(9, 5), tmp_path, WORDS).examples(seed=1, longest=16),
    ]
    for other in others:
        with pytest.raises(DataError, match="the state to go on from is not one of"):
            other(state)
    for wrong in (3, {}, {"of": state["of"]}):
        with pytest.raises(DataError, match="the state"):
            shards.examples(seed=1, longest=16)(wrong)


def test_data_that_gives_no_example_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 documents"):
        write_shards([], tmp_path / "none", WORDS).examples(longest=8)
    ones = write_shards([[1], [2]], tmp_path / "ones", WORDS)
    with pytest.raises(DataError, match=r"no document .* has two tokens"):
        next(ones.examples(longest=8)(None))
    with pytest.raises(DataError, match="2 documents, too few for 3"):
        ones.examples(longest=8, ranks=3)
    with pytest.raises(DataError, match="longest 0"):
        ones.examples(longest=0)


# ---- mixtures ------------------------------------------------------------------------------------


def constant(value: int, length: int) -> Callable[[Any], Iterator[tuple[Example, Any]]]:
    def examples(state: Any) -> Iterator[tuple[Example, Any]]:
        at = state or 0
        while True:
            at += 1
            yield Example([value] * (1 + at % length + 1), [True] * (1 + at % length + 1)), at

    return examples


@given(
    st.lists(st.tuples(st.floats(0.01, 100), st.integers(1, 50)), min_size=1, max_size=4),
    st.integers(0, 300),
)
@settings(max_examples=examples(30), deadline=None)
def test_a_mixture_keeps_its_shares_and_its_place(
    drawn: list[tuple[float, int]], taken: int
) -> None:
    sources = {str(n): constant(n, length) for n, (_, length) in enumerate(drawn)}
    weights = {str(n): weight for n, (weight, _) in enumerate(drawn)}
    stream = mix(sources, weights)(None)
    counts: Counter[str] = Counter()
    states = [None]
    for example, state in islice(stream, taken):
        states.append(state)
        counts[str(example.ids[0])] += len(example.ids) - 1
    ahead = {name: counts[name] / weights[name] for name in sources}
    for name, (_, length) in zip(
        sources, drawn, strict=True
    ):  # nobody is ahead by more than one example
        assert ahead[name] <= min(ahead.values()) + length / weights[name] + 1e-6
    state = json.loads(json.dumps(states[-1]))
    assert list(islice(mix(sources, weights)(state), 20)) == list(islice(stream, 20))


def test_mixtures_that_make_no_sense_are_refused(corpus: tuple[Shards, list[list[int]]]) -> None:
    a, b = corpus[0].examples(longest=9), constant(1, 3)
    state = next(mix({"a": a, "b": b}, {"a": 1, "b": 2})(None))[1]
    for other in (mix({"a": a, "b": b}, {"a": 1, "b": 3}), mix({"a": a}, {"a": 1})):
        with pytest.raises(DataError, match="not one of the mixture"):
            other(state)
    for weights in (
        {"a": 1},
        {"a": 1, "c": 1},
        {"a": 1, "b": 0},
        {"a": 1, "b": -1},
        {"a": 1, "b": float("nan")},
    ):
        with pytest.raises(DataError, match=r"different data|positive numbers"):
            mix({"a": a, "b": b}, weights)
    short = mix({"x": lambda state: iter([(Example([1, 2], [True, True]), 1)])}, {"x": 1})(None)
    next(short)
    with pytest.raises(DataError, match="'x' of the mixture has come to its end"):
        next(short)
