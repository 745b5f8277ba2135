"""GGUF as people have it: in parts, without a suffix, in any of the common formats, gate and up as
one tensor. What is read from such a file is what the gguf package makes of it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf as peer
import numpy as np
import pytest
import torch
from gguf_files import SMALL, Stored, as_it_is, assert_same, logits, values, written

from ossia import mxfp4
from ossia.checkpoint import (
    convert,
    find_tokenizer,
    load,
    open_checkpoint,
    write_gguf,
    write_random,
)
from ossia.checkpoint.gguf.blocks import FORMATS, decoded
from ossia.commands.main import main
from ossia.errors import CheckpointError, TensorMismatchError
from ossia.tokenizer import O200K_PATTERN, Tokenizer, train_tokenizer

Q = peer.GGMLQuantizationType
Change = Callable[[Any], list[Stored]]
BLOCKS = [name for name, form in FORMATS.items() if form.decode is not None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of the small shape, `hf`, and its GGUF, `bf16.gguf`."""
    folder = tmp_path_factory.mktemp("found")
    write_random(SMALL, folder / "hf", seed=3)
    write_gguf(folder / "hf", folder / "bf16.gguf")
    return folder


# ---- parts ---------------------------------------------------------------------------------------


def in_parts(source: Path, home: Path, count: int = 3, no: dict[int, int] | None = None) -> Path:
    home.mkdir()
    tensors = len(peer.GGUFReader(source).tensors)
    for n in range(count):
        more = {
            "split.no": (no or {}).get(n, n),
            "split.count": count,
            "split.tensors.count": tensors,
        }
        path = home / f"m-{n + 1:05}-of-{count:05}.gguf"
        part = slice(n, None, count)
        written(path, source, tensors=part, keys=n == 0, more=more)
    return home


def test_a_file_in_parts_is_one_model(folder: Path, tmp_path: Path) -> None:
    home = in_parts(folder / "bf16.gguf", tmp_path / "parts")
    for path in (home, *sorted(home.iterdir())):
        assert_same(path, folder / "bf16.gguf")
    assert torch.equal(logits(home), logits(folder / "bf16.gguf"))
    assert open_checkpoint(home / "m-00002-of-00003.gguf").file.name == "m-00001-of-00003.gguf"


def test_a_part_that_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    home = in_parts(folder / "bf16.gguf", tmp_path / "parts")
    for n in (3, 1):
        (home / f"m-{n:05}-of-00003.gguf").rename(tmp_path / "away")
        for path in (home, home / "m-00002-of-00003.gguf"):
            with pytest.raises(CheckpointError, match=f"lacks m-{n:05}-of-00003.gguf of.*put all"):
                load(path)
        (tmp_path / "away").rename(home / f"m-{n:05}-of-00003.gguf")


def test_parts_that_do_not_belong_together(folder: Path, tmp_path: Path) -> None:
    mixed = in_parts(folder / "bf16.gguf", tmp_path / "mixed", no={1: 2, 2: 1})
    with pytest.raises(
        CheckpointError, match="by its name part 2 of 3, by its content part 3 of 3"
    ):
        load(mixed)
    home = in_parts(folder / "bf16.gguf", tmp_path / "parts")
    alone = home / "second.gguf"
    (home / "m-00002-of-00003.gguf").rename(alone)
    with pytest.raises(CheckpointError, match="one of 3 parts, under a name that does not say"):
        load(alone)
    first = home / "m-00001-of-00003.gguf"
    (home / "m-00002-of-00003.gguf").write_bytes(first.read_bytes())
    with pytest.raises(CheckpointError, match="by its content part 1 of 3"):
        load(first)


def test_a_part_that_is_there_twice(folder: Path, tmp_path: Path) -> None:
    """Every part says the right thing, and two hold the same tensors."""
    home = tmp_path / "parts"
    home.mkdir()
    for n in range(2):
        more = {"split.no": n, "split.count": 2}
        path = home / f"m-{n + 1:05}-of-00002.gguf"
        written(path, folder / "bf16.gguf", keys=n == 0, more=more)
    with pytest.raises(CheckpointError, match="is in both"):
        load(home)
    more = {"split.no": 1, "split.count": 2}
    last = slice(5, -1)
    written(
        home / "m-00002-of-00002.gguf", folder / "bf16.gguf", tensors=last, keys=False, more=more
    )
    more = {"split.no": 0, "split.count": 2, "split.tensors.count": 99}
    written(home / "m-00001-of-00002.gguf", folder / "bf16.gguf", tensors=slice(5), more=more)
    with pytest.raises(CheckpointError, match="the first says 99; are they all of one model"):
        load(home)


# ---- names ---------------------------------------------------------------------------------------


def test_the_content_decides_what_is_a_gguf(folder: Path, tmp_path: Path) -> None:
    for name in ("sha256-4f1c", "model.bin"):
        home = tmp_path / name.partition(".")[0]
        home.mkdir()
        (home / name).symlink_to(folder / "bf16.gguf")
        (home / "README").write_text("about")
        assert_same(home / name, folder / "bf16.gguf")
        assert_same(home, folder / "bf16.gguf")
    (tmp_path / "no.gguf").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(CheckpointError, match="is not a GGUF file, although its name says so"):
        load(tmp_path / "no.gguf")
    os.mkfifo(tmp_path / "model" / "pipe")  # to open it would wait for ever
    assert_same(tmp_path / "model", folder / "bf16.gguf")
    with pytest.raises(CheckpointError, match="no such directory"):
        load(tmp_path / "x-00001-of-00000.gguf")
    lone = shutil.copy(folder / "bf16.gguf", tmp_path / "x-00001-of-00000.gguf")
    assert_same(Path(lone), folder / "bf16.gguf")
    (tmp_path / "notes").write_text("GGU")
    with pytest.raises(
        CheckpointError, match="is a file, not a GGUF; give a GGUF file, or the dir"
    ):
        load(tmp_path / "notes")


# ---- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BLOCKS)
def test_values_are_those_of_the_gguf_package(name: str) -> None:
    """Of random bytes, so of every code and scale; bit for bit, infinities included. (Of MXFP4's
    scales not the ends, which GGML and the OCP specification read differently.)
    """
    form = FORMATS[name]
    kind = Q[name]
    assert (int(kind), *peer.GGML_QUANT_SIZES[kind]) == (form.number, form.values, form.nbytes)
    raw = np.random.default_rng(0).integers(0, 256, (999, form.nbytes), dtype=np.uint8)
    if name == "MXFP4":
        raw[:, 0] = raw[:, 0].clip(2, 253)
    with np.errstate(all="ignore"):
        theirs = peer.quants.dequantize(raw, kind)
    assert form.decode is not None
    ours = form.decode(torch.from_numpy(raw)).numpy()
    assert np.array_equal(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("name", BLOCKS)
def test_what_is_kept_is_near(name: str) -> None:
    """float16 where it holds all values, else bfloat16; rows stay rows."""
    form = FORMATS[name]
    raw = np.random.default_rng(1).integers(0, 256, (2, 3, 5 * form.nbytes), dtype=np.uint8)
    blocks = raw.reshape(-1, form.nbytes)
    halves = [0, 2, 80, 82, 108, 208]
    blocks[:, [n + 1 for n in halves if n + 1 < form.nbytes]] &= 0x3F  # scales below 2
    if name == "MXFP4":
        blocks[:, 0] = 120
    found = decoded(torch.from_numpy(raw), name)
    theirs = torch.from_numpy(peer.quants.dequantize(blocks, Q[name])).view(2, 3, -1)
    exact = name == "MXFP4"
    assert found.dtype == (torch.bfloat16 if exact else torch.float16)
    bound = 0.0 if exact else 2.0**-11
    assert bool(((found.float() - theirs).abs() <= theirs.abs() * bound + 2.0**-25).all())
    if name == "Q8_0":
        blocks[3, :3] = (255, 0x7B, 127)  # 65504 * 127
        large = decoded(torch.from_numpy(raw), name)
        assert large.dtype == torch.bfloat16 and bool(torch.isfinite(large).all())


def in_format(pick: str, kind: peer.GGMLQuantizationType) -> Change:
    """Tensors whose name contains one of the words, in another format."""

    def change(tensor: Any) -> list[Stored]:
        if not any(part in tensor.name for part in pick.split()):
            return as_it_is(tensor)
        exact = values(tensor)
        return [(tensor.name, peer.quants.quantize(exact, kind), kind)]

    return change


def in_float32(path: Path, target: Path) -> Path:
    """The same values, without a format to read."""
    return written(target, path, lambda t: [(t.name, values(t), Q.F32)])


DENSE = "attn_q.weight attn_k.weight attn_v.weight attn_output.weight token_embd output.weight"


@pytest.mark.parametrize("kind", [Q.F32, Q.F16, Q.Q8_0, Q.Q5_1, Q.Q5_0, Q.Q4_1, Q.Q4_0])
@pytest.mark.parametrize("pick", [DENSE, "_exps.weight", "ffn_up_exps.weight"])
def test_matrices_in_other_formats(
    pick: str,
    kind: peer.GGMLQuantizationType,
    folder: Path,
    tmp_path: Path,
) -> None:
    """Dense ones and experts, some of the experts too: the values are the file's."""
    path = written(tmp_path / "m.gguf", folder / "bf16.gguf", in_format(pick, kind))
    found = open_checkpoint(path)
    exact = open_checkpoint(in_float32(path, tmp_path / "exact.gguf"))
    assert found.packed == (pick == DENSE) and not exact.packed
    for name, tensor in exact.tensors.items():
        stem = name.removesuffix(".weight")
        if f"{stem}.blocks" in found.tensors:
            blocks, scales = found.tensors[f"{stem}.blocks"], found.tensors[f"{stem}.scales"]
            same = mxfp4.decode(blocks, scales, torch.float32)
        else:
            same = found.tensors[name].float()
        assert bool(((same - tensor).abs() <= tensor.abs() * 2.0**-11 + 2.0**-25).all()), name
    assert bool(torch.isfinite(logits(path)).all())


def test_formats_of_256_values(tmp_path: Path) -> None:
    """The k-quants, on rows that are long enough for them."""
    from dataclasses import replace

    config = replace(SMALL, hidden_size=256, num_hidden_layers=1, layer_types=())
    write_random(config, tmp_path / "hf", seed=1)
    write_gguf(tmp_path / "hf", tmp_path / "bf16.gguf")
    kinds = [name for name, form in FORMATS.items() if form.values == 256]
    assert len(kinds) == 6
    rng = np.random.default_rng(0)
    for name in kinds:

        def change(tensor: Any, name: str = name) -> list[Stored]:
            if tensor.name not in ("token_embd.weight", "blk.0.attn_q.weight"):
                return as_it_is(tensor)
            rows = tensor.data.shape[0]
            raw = rng.integers(0, 60, (rows, FORMATS[name].nbytes), dtype=np.uint8)
            return [(tensor.name, raw, Q[name])]

        path = written(tmp_path / f"{name}.gguf", tmp_path / "bf16.gguf", change)
        exact = open_checkpoint(in_float32(path, tmp_path / "exact.gguf")).tensors
        found = open_checkpoint(path).tensors
        for native in ("embedding.weight", "layers.0.attn.q.weight"):
            torch.testing.assert_close(
                found[native].float(), exact[native], rtol=2.0**-10, atol=2.0**-25
            )


def test_a_format_that_is_not_read_is_named(folder: Path, tmp_path: Path) -> None:
    def change(tensor: Any) -> list[Stored]:
        if tensor.name != "blk.0.attn_q.weight":
            return as_it_is(tensor)
        raw = np.zeros((96, 192), dtype=np.uint8)
        return [(tensor.name, raw.view(np.int16), Q.I16)]

    path = written(tmp_path / "m.gguf", folder / "bf16.gguf", change)
    with pytest.raises(TensorMismatchError, match=r"attn_q.*I16; ossia reads F32.*Take a file"):
        load(path)


def fused(tensor: Any, every: dict[str, Any]) -> Iterator[Stored]:
    """Gate's rows before up's, in one tensor, as llama.cpp's converter fuses them."""
    if "ffn_up_exps" in tensor.name:
        return
    if "ffn_gate_exps" not in tensor.name:
        yield from as_it_is(tensor)
        return
    up = every[tensor.name.replace("gate", "up")]
    both = np.concatenate([tensor.data, up.data], axis=1)
    yield tensor.name.replace("gate", "gate_up"), both, tensor.tensor_type


@pytest.mark.parametrize("kind", [None, Q.F16])
def test_gate_and_up_in_one_tensor(
    kind: peer.GGMLQuantizationType | None,
    folder: Path,
    tmp_path: Path,
) -> None:
    source = folder / "bf16.gguf"
    if kind is not None:
        source = written(tmp_path / "apart.gguf", source, in_format("_exps.weight", kind))
    every = {tensor.name: tensor for tensor in peer.GGUFReader(source).tensors}
    path = written(tmp_path / "m.gguf", source, lambda tensor: list(fused(tensor, every)))
    assert len(peer.GGUFReader(path).tensors) == len(every) - 4
    assert_same(path, source)


# ---- rounding on request -------------------------------------------------------------------------


def test_experts_are_rounded_on_request_and_the_cost_is_said(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    exact = written(tmp_path / "f16.gguf", folder / "bf16.gguf", in_format("_exps.weight", Q.F16))
    coarse = written(tmp_path / "q4.gguf", folder / "bf16.gguf", in_format("_exps.weight", Q.Q4_0))
    same = load(exact, experts="mxfp4")
    assert same.rounding is not None and same.rounding.noise == 0.0
    assert "blocks" in dict(same.layers[0].moe.experts.down.named_buffers())
    found = load(coarse, experts="mxfp4")
    assert found.rounding is not None and 0.01 < found.rounding.relative_rmse < 0.2
    assert found.rounding.values == 2 * 5 * (128 * 96 + 96 * 64)
    cost = convert(coarse, tmp_path / "hf")
    assert cost is not None and cost.noise == pytest.approx(found.rounding.noise)
    written_too = write_gguf(coarse, tmp_path / "again.gguf")
    assert written_too is not None and written_too.noise == pytest.approx(cost.noise)
    assert_same(tmp_path / "hf", tmp_path / "again.gguf")
    for name, tensor in open_checkpoint(tmp_path / "hf").tensors.items():
        if name.endswith((".blocks", ".scales")):
            assert torch.equal(found.state_dict()[name], tensor), name
    assert main(["convert", str(coarse), "--to", "hf", str(tmp_path / "cli")]) == 0
    assert "rounded to MXFP4 under rceil: relative RMSE" in capsys.readouterr().err
    assert convert(exact, tmp_path / "wide", "hf-bf16") is None  # nothing is rounded to MXFP4
    assert convert(folder / "bf16.gguf", tmp_path / "packed") is None


def test_the_command_line_says_what_rounding_cost(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = written(tmp_path / "q8.gguf", folder / "bf16.gguf", in_format("_exps.weight", Q.Q8_0))
    words = ["generate", str(path), "--ids", "1,2,3", "--max-tokens", "2", "--json"]
    assert main(words) == 0
    as_stored = capsys.readouterr()
    assert "rounded" not in as_stored.err
    assert main([*words, "--experts", "mxfp4"]) == 0
    rounded = capsys.readouterr()
    assert "values rounded to MXFP4 under rceil: relative RMSE" in rounded.err
    assert json.loads(rounded.out)["prompt_ids"] == json.loads(as_stored.out)["prompt_ids"]


# ---- what else is inside -------------------------------------------------------------------------


def test_the_tokenizer_inside_goes_along(tmp_path: Path) -> None:
    """Out of a GGUF into a folder, and from one GGUF into another."""
    texts = ["the cat sat on the mat", "a hat is not a cat"] * 3
    tokenizer = train_tokenizer(texts, 300, pattern=O200K_PATTERN)
    write_random(SMALL, tmp_path / "hf", seed=0)
    tokenizer.save(tmp_path / "hf" / "tokenizer.json")
    (tmp_path / "hf" / "chat_template.jinja").write_text("{{ messages }}")
    write_gguf(tmp_path / "hf", tmp_path / "m.gguf")
    others = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE")
    for name in others:
        (tmp_path / name).write_text('{"chat_template": "of another model"}')
    convert(tmp_path / "m.gguf", tmp_path / "again")
    assert "another" not in (tmp_path / "again" / "tokenizer.json").read_text()
    assert not (tmp_path / "again" / "tokenizer_config.json").exists()
    assert (tmp_path / "again" / "LICENSE").exists(), "a GGUF has none inside"
    about = json.loads((tmp_path / "again" / "config.json").read_text())
    for use, name in (("eos", "<|return|>"), ("pad", "<|endoftext|>")):
        assert about[f"{use}_token_id"] == tokenizer.specials[name], use
    assert find_tokenizer(tmp_path / "m.gguf", SMALL) is not None
    assert (tmp_path / "again" / "chat_template.jinja").read_text() == "{{ messages }}"
    again = Tokenizer.from_pretrained(tmp_path / "again")
    assert again.vocabulary == tokenizer.vocabulary and again.specials == tokenizer.specials
    write_gguf(tmp_path / "m.gguf", tmp_path / "second.gguf")
    fields = peer.GGUFReader(tmp_path / "second.gguf").fields
    assert "tokenizer.ggml.tokens" in fields and "tokenizer.chat_template" in fields


@pytest.mark.parametrize(
    "words", ["S --to gguf D", "--to gguf S D", "S D --to gguf", "S --to=gguf D"]
)
def test_convert_takes_its_words_in_any_order(words: str, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    given = {"S": str(folder / "hf"), "D": str(target)}
    assert main(["convert", *(given.get(word, word) for word in words.split())]) == 0
    assert_same(target, folder / "hf")
