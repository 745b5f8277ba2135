"""The file format: what the safetensors library writes is read as it is, what does not add up is
refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from amounts import examples
from checkpoint_factory import edit_header, edit_json
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ossia.checkpoint.mapped import DTYPES, INDEX, SINGLE, MappedFile, Source, inside, read_json
from ossia.errors import CheckpointError

TENSORS = {
    "matrix": torch.arange(12, dtype=torch.bfloat16).view(3, 4),
    "bytes": torch.arange(7, dtype=torch.uint8),
    "empty": torch.empty(0, 5),
    "scalar": torch.tensor(2.5),
}
Header = dict[str, Any]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / SINGLE
    save_file(TENSORS, path, metadata={"format": "pt"})
    return path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Two shards and their index."""
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    save_file({"a": torch.ones(2), "b": torch.zeros(3)}, tmp_path / one)
    save_file({"c": torch.ones(4)}, tmp_path / two)
    (tmp_path / INDEX).write_text(
        json.dumps({"metadata": {}, "weight_map": {"a": one, "b": one, "c": two}})
    )
    return tmp_path


def write(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


# ---- what is read ----


def test_what_the_library_writes(saved: Path) -> None:
    source = Source(saved.parent)
    assert set(source.names()) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert (
            torch.equal(source.tensor(name), tensor) and source.tensor(name).dtype == tensor.dtype
        )
        assert source.entry(name).shape == tuple(tensor.shape)
    assert str(saved) in source.where("bytes") and "'bytes'" in source.where("bytes")


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = (
        torch.arange(64, dtype=torch.uint8).view(dtype)
        if dtype != torch.bool
        else torch.arange(64) % 2 == 0
    )
    save_file({"t": tensor}, tmp_path / SINGLE)
    found = Source(tmp_path).tensor("t")
    assert found.dtype == dtype and torch.equal(found.view(torch.uint8), tensor.view(torch.uint8))


def test_tensors_are_the_file_itself(saved: Path) -> None:
    file = MappedFile(saved)
    first, again = file.tensor("matrix"), file.tensor("matrix")
    assert first.data_ptr() == again.data_ptr()
    first[0, 0] = 99  # seen through the other view, not in the file
    assert again[0, 0] == 99
    assert torch.equal(MappedFile(saved).tensor("matrix"), TENSORS["matrix"])


def test_a_tensor_outlives_its_file(saved: Path) -> None:
    tensor = MappedFile(saved).tensor("matrix")
    saved.unlink()
    assert torch.equal(tensor, TENSORS["matrix"])


def test_a_tensor_that_is_not_aligned(tmp_path: Path) -> None:
    """Allowed by the format; the library itself sorts tensors so that it does not happen."""
    header = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
              "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]}}  # fmt: skip
    values = torch.tensor([1.5, -2.0])
    path = write(
        tmp_path / SINGLE,
        json.dumps(header).encode(),
        b"\x07" + bytes(values.view(torch.uint8).tolist()),
    )
    assert torch.equal(MappedFile(path).tensor("b"), values)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    assert MappedFile(write(tmp_path / SINGLE, b"{}  ")).entries == {}


# ---- damaged files ----


def test_truncation_at_every_byte(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in range(len(whole)):
        saved.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=SINGLE):
            MappedFile(saved)


@pytest.mark.parametrize("junk", [b"\0", b"some more"])
def test_bytes_after_the_last_tensor(junk: bytes, saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + junk)
    with pytest.raises(CheckpointError, match="belong to no tensor"):
        MappedFile(saved)


def claim(dtype: Any = "U8", shape: Any = (7,), offsets: Any = (0, 7), **more: Any) -> Header:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"t": claim("U9")}, "'t': dtype 'U9' is not one of"),
        ({"t": claim(["U8"])}, "dtype"),
        ({"t": claim(shape=[-7])}, r"'t': shape \[-7\]"),
        ({"t": claim(shape=[7.0])}, "shape"),
        ({"t": claim(shape=[True], offsets=[0, 1])}, "shape"),
        ({"t": claim(shape=[1] * 9)}, "shape"),
        ({"t": claim(shape=[2**63, 0])}, "shape"),
        ({"t": claim(shape=[8])}, r"'t': U8 \[8\] takes 8 bytes, but data_offsets \[0, 7\] span 7"),
        ({"t": claim("BF16")}, "takes 14 bytes"),
        ({"t": claim(offsets=[7, 0])}, "span -7"),
        ({"t": claim(offsets=[0, 7, 7])}, "data_offsets"),
        ({"t": claim(offsets=[-7, 0])}, "data_offsets"),
        ({"t": claim(offsets=["0", "7"])}, "data_offsets"),
        ({"t": claim(offsets=[1, 8])}, "leaves a gap"),
        ({"t": claim(shape=[6], offsets=[0, 6])}, "belong to no tensor"),
        ({"t": claim(shape=[80], offsets=[0, 80])}, "truncated"),
        ({"t": claim(), "u": claim()}, "'u' overlaps"),
        (
            {"t": claim(shape=[3], offsets=[0, 3]), "u": claim(shape=[3], offsets=[4, 7])},
            "'u' leaves a gap",
        ),
        ({"t": claim(extra=1)}, "expected dtype, shape and data_offsets"),
        ({"t": {"dtype": "U8", "shape": [7]}}, "expected dtype, shape and data_offsets"),
        ({"t": None}, "found None"),
        ({"t": "x" * 1000}, r"\.\.\."),
        ({"__metadata__": {"format": 1}, "t": claim()}, "__metadata__"),
        ({"__metadata__": [], "t": claim()}, "__metadata__"),
    ],
)
def test_headers_that_do_not_add_up(header: Header, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / SINGLE, json.dumps(header).encode(), bytes(7))
    with pytest.raises(CheckpointError, match=message) as caught:
        MappedFile(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 500 + len(str(path))


@pytest.mark.parametrize(
    "header",
    [
        b"", b" ", b"[]", b"7", b"{", b'{"t": }', b"\xff\xfe", b'{"a": {}, "a": {}}',
        b"[" * 200_000,
        b'{"t": {"dtype": "U8", "dtype": "U8", "shape": [7], "data_offsets": [0, 7]}}',
        b'{"t": {"dtype": "U8", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 7]}}',
        b'{"t": {"dtype": "U8", "shape": [NaN], "data_offsets": [0, 7]}}',
        b"\x00" * 50,
    ],
)  # fmt: skip
def test_headers_that_are_no_json_object(header: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        MappedFile(write(tmp_path / SINGLE, header, bytes(7)))


@pytest.mark.parametrize("length", [0, 1, 10**8, 10**8 + 1, 2**63, 2**64 - 1])
def test_header_lengths(length: int, saved: Path) -> None:
    saved.write_bytes(length.to_bytes(8, "little") + saved.read_bytes()[8:])
    with pytest.raises(CheckpointError):
        MappedFile(saved)


@settings(
    max_examples=examples(400),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(at=st.integers(0), value=st.integers(0, 255))
@example(at=7, value=255)
@example(at=8, value=ord("["))
def test_any_flipped_byte_of_the_header(saved: Path, at: int, value: int) -> None:
    """Refused with our own error, or still a header that makes sense; nothing else."""
    whole = bytearray(save_to_bytes())
    whole[at % (8 + int.from_bytes(whole[:8], "little"))] = value
    saved.write_bytes(whole)
    try:
        file = MappedFile(saved)
    except CheckpointError:
        return
    assert sum(file.tensor(name).nbytes for name in file.entries) == sum(
        t.nbytes for t in TENSORS.values()
    )


def save_to_bytes() -> bytes:
    from safetensors.torch import save

    return save(TENSORS, metadata={"format": "pt"})


# ---- the index ----


def test_shards_with_an_index(sharded: Path) -> None:
    source = Source(sharded)
    assert set(source.names()) == {"a", "b", "c"} and torch.equal(source.tensor("c"), torch.ones(4))


def test_shards_without_an_index(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    assert set(Source(sharded).names()) == {"a", "b", "c"}


def test_a_missing_shard(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"00002\.safetensors: the file is missing"):
        Source(sharded)


def set_weight(name: str, file: Any) -> Callable[[Any], None]:
    return lambda data: data["weight_map"].update({name: file})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            set_weight("d", "model-00001-of-00002.safetensors"),
            "tensor 'd' is in .*00001.*does not hold it",
        ),
        (
            set_weight("a", "model-00002-of-00002.safetensors"),
            "tensor 'a' is in .*00002.*does not hold it",
        ),
        (
            lambda data: data["weight_map"].pop("b"),
            "holds tensor 'b', but the index does not list it",
        ),
        (lambda data: data.pop("weight_map"), "weight_map must map"),
        (lambda data: data.update(weight_map={}), "weight_map must map"),
        (lambda data: data.update(weight_map=["a"]), "weight_map must map"),
        (set_weight("a", 7), "tensor 'a' is said to be in 7"),
        (set_weight("a", "pytorch_model.bin"), "not a safetensors file"),
    ],
)
def test_an_index_that_disagrees_with_its_shards(change: Any, message: str, sharded: Path) -> None:
    edit_json(sharded / INDEX, change)
    with pytest.raises(CheckpointError, match=message):
        Source(sharded)


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    save_file(
        {"c": torch.ones(4), "a": torch.ones(2)}, sharded / "model-00002-of-00002.safetensors"
    )
    with pytest.raises(
        CheckpointError, match=r"00002.* holds tensor 'a', but the index says it is in .*00001"
    ):
        Source(sharded)
    (sharded / INDEX).unlink()
    with pytest.raises(CheckpointError, match="tensor 'a' is in both"):
        Source(sharded)


def test_an_index_beside_a_single_file(sharded: Path) -> None:
    save_file({"a": torch.ones(2)}, sharded / SINGLE)
    with pytest.raises(CheckpointError, match="holds both"):
        Source(sharded)


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors", "..", "/etc/passwd.safetensors", "sub/model.safetensors",
        "..\\model.safetensors", "C:\\model.safetensors", "C:model.safetensors",
        "./model-00001-of-00002.safetensors",
        "a\0.safetensors", "sub//x.safetensors", "model-00001-of-00002.safetensors/",
    ],
)  # fmt: skip
def test_an_index_that_points_elsewhere(name: str, sharded: Path) -> None:
    (sharded / "sub").mkdir()
    for place in (sharded.parent, sharded / "sub"):
        save_file({"a": torch.ones(2)}, place / "model.safetensors")
    edit_json(sharded / INDEX, set_weight("a", name))
    with pytest.raises(CheckpointError, match=r"not a plain file name|not a safetensors file"):
        Source(sharded)


# ---- links ----


def test_links_of_the_download_cache(saved: Path, tmp_path: Path) -> None:
    """snapshots/<revision>/file is a link to ../../blobs/<hash>, and so for files one folder
    deeper.
    """
    (tmp_path / "repo" / "blobs").mkdir(parents=True)
    blob = saved.rename(tmp_path / "repo" / "blobs" / "0a1b")
    for folder, up in (("snapshots/r", "../.."), ("snapshots/r/original", "../../..")):
        directory = tmp_path / "repo" / folder
        directory.mkdir(parents=True)
        (directory / SINGLE).symlink_to(Path(up) / "blobs" / blob.name)
        assert set(Source(directory).names()) == set(TENSORS)


def test_a_link_within_the_directory(saved: Path) -> None:
    saved.rename(saved.parent / "weights.safetensors")
    saved.symlink_to("weights.safetensors")
    assert set(Source(saved.parent).names()) == set(TENSORS)


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../elsewhere.safetensors", "/dev/zero", "../other/blobs/0a1b"]
)
def test_a_link_out_of_the_directory(target: str, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "elsewhere.safetensors").write_bytes(saved.read_bytes())
    (tmp_path / "other" / "blobs").mkdir(parents=True)
    (tmp_path / "other" / "blobs" / "0a1b").write_bytes(saved.read_bytes())
    (tmp_path / "model" / SINGLE).symlink_to(target)
    with pytest.raises(CheckpointError, match="link out of the checkpoint's directory"):
        Source(tmp_path / "model")


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / SINGLE).symlink_to(SINGLE)
    with pytest.raises(CheckpointError):
        inside(tmp_path, SINGLE)


def test_no_regular_file(tmp_path: Path) -> None:
    (tmp_path / SINGLE).mkdir()
    with pytest.raises(CheckpointError, match="not a regular file"):
        Source(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        inside(tmp_path, "pipe")


def test_json_larger_than_any_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ossia.checkpoint.mapped.MAX_HEADER", 10)
    (tmp_path / "config.json").write_text('{"a": "0123456789"}')
    with pytest.raises(CheckpointError, match="larger than 10 bytes"):
        read_json(tmp_path / "config.json")


def test_metadata_may_say_anything(saved: Path) -> None:
    edit_header(saved, lambda header: header.update(__metadata__={"a": "b", "": ""}))
    assert set(MappedFile(saved).entries) == set(TENSORS)
