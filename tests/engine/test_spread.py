"""A model on several processes answers as it does in one: experts and heads in parts, by gloo."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import spread_answers
import torch
from device_kernels import needs_triton
from tiny_model import tiny_config, tiny_tokenizer
from two_processes import SPREAD, launch, write_spread_model

from ossia.config import ModelConfig
from ossia.engine import Engine
from ossia.errors import ConfigError
from ossia.model import Transformer
from ossia.model.parallel import check
from ossia.model.processes import Spread
from ossia.model.spread import part_of
from ossia.parts import Parts, read_parts


def alone(model: Path, out: Path, **task: Any) -> Path:
    out.mkdir()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    spread_answers.answered({"model": str(model), **task}, out)
    torch.set_num_threads(before)
    return out


def answers(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "answers.json").read_text())
    return found


def assert_alike(found: Path, wanted: Path, reused: int, rounding: float = 1e-5) -> None:
    a = answers(found)
    b = answers(wanted)
    assert a.pop("scored") == pytest.approx(b.pop("scored"), abs=rounding)
    assert a == b
    assert a["reused, guesses False"] >= reused
    pairs = [*zip(torch.load(found / "logits.pt"), torch.load(wanted / "logits.pt"), strict=True)]
    assert len(pairs) > 15
    for mine, its in pairs:
        torch.testing.assert_close(mine, its, rtol=rounding, atol=rounding)


def held(out: Path, rank: int) -> dict[str, int]:
    found: dict[str, int] = json.loads((out / f"bytes-{rank}.json").read_text())
    return found


def test_two_processes_answer_as_one(two: Path, tmp_path: Path) -> None:
    wanted = alone(two / "spread model", tmp_path / "alone", short=True)
    whole = held(wanted, 0)
    for name in SPREAD:
        assert_alike(two / name, wanted, reused=32)
    for rank in (0, 1):
        for name, size in held(two / "experts in two", rank).items():
            assert size == (whole[name] // 2 if ".experts." in name else whole[name]), name
        in_heads = held(two / "heads in two", rank)
        for name in ("attn.q.weight", "attn.sinks", "attn.out.weight", "moe.experts.down.blocks"):
            assert in_heads[f"layers.0.{name}"] == whole[f"layers.0.{name}"] // 2, name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["odd", "dense", "bf16"])
def test_more_models_and_four_processes(name: str, tmp_path: Path) -> None:
    """Experts that are not packed, layers without a router, no sinks, a head for each process."""
    changes: dict[str, Any] = {
        "odd": {"num_experts": 6, "num_attention_heads": 6, "attention_sink": "off_by_one"},
        "dense": {"moe_stride": 2, "num_hidden_layers": 4, "layer_types": ()},
        "bf16": {"attention_sink": "none"},
    }[name]
    layout = "hf-bf16" if name == "bf16" else "hf"
    model = write_spread_model(tmp_path, layout=layout, **changes)
    wanted = alone(model, tmp_path / "alone")
    for processes, all_parts in {2: ("ep=2", "tp=2"), 4: ("ep=2,tp=2",)}.items():
        outs = [tmp_path / parts for parts in all_parts]
        tasks = [
            {"do": "answers", "model": str(model), "parts": parts, "out": str(out)}
            for parts, out in zip(all_parts, outs, strict=True)
        ]
        launch(tmp_path / f"started {processes}", processes, tasks)
        for out in outs:
            assert_alike(out, wanted, reused=100)


@needs_triton
@pytest.mark.slow
def test_parts_by_the_kernels_of_a_gpu(tmp_path: Path) -> None:
    """In the interpreter, against torch's kernels in one process."""
    model = write_spread_model(tmp_path)
    wanted = alone(model, tmp_path / "alone", short=True)
    how = {"do": "answers", "model": str(model), "short": True, "kernels": "interpret"}
    outs = [tmp_path / parts for parts in ("ep=2", "tp=2")]
    tasks = [how | {"parts": out.name, "out": str(out)} for out in outs]
    launch(tmp_path / "started", 2, tasks)
    for out in outs:
        assert_alike(out, wanted, reused=32, rounding=1e-4)


@needs_triton
@pytest.mark.slow
def test_parts_have_the_same_bits_whatever_the_batch(tmp_path: Path) -> None:
    """By the kernels of a GPU, in the interpreter; sums over four are taken in their order."""
    model = write_spread_model(tmp_path)
    how = {"do": "answers", "model": str(model), "kernels": "interpret", "same_bits": True}
    for processes, all_parts in {2: ("ep=2", "tp=2"), 4: ("ep=2,tp=2",)}.items():
        outs = [tmp_path / parts for parts in all_parts]
        tasks = [how | {"parts": out.name, "out": str(out)} for out in outs]
        launch(tmp_path / f"started {processes}", processes, tasks)
        assert [(out / "same bits").read_text() for out in outs] == ["True"] * len(outs)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_a_process_dies_the_other_ends_and_says_why(killed: int, tmp_path: Path) -> None:
    model = write_spread_model(tmp_path)
    out = tmp_path / "out"
    task = {"do": "answers", "model": str(model), "parts": "ep=2", "out": str(out)}
    codes = launch(tmp_path / "started", 2, [task | {"kill_at": killed}], timeout=100)
    assert codes[killed] == -9
    assert codes[1 - killed] == 0
    assert "cannot go on without the others" in (out / f"lost-{1 - killed}").read_text()


def test_same_bits_need_the_kernels_of_a_gpu_in_every_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OSSIA_KERNELS", raising=False)
    model = Transformer(tiny_config(tiny_tokenizer()), "packed")
    model.spread = Spread(Parts(2, 1), 0, None, None, None)
    with pytest.raises(ConfigError, match=r"same_bits needs .*: device cpu"):
        Engine(model, capacity=64, same_bits=True)


def test_parts_are_read_and_refused_by_name() -> None:
    assert read_parts("ep=2") == Parts(2, 1)
    assert read_parts("tp=4, ep=2").processes == 8
    for text in ("", "ep", "ep=2,ep=2", "fsdp=2", "ep=-1", "ep=x"):
        with pytest.raises(ConfigError, match="such as ep=2,tp=2"):
            read_parts(text)
    with pytest.raises(ConfigError, match="1 or more"):
        read_parts("ep=0")
    published = ModelConfig.preset("gpt-oss-20b")
    check(published, ep=8, tp=2, quantize=True)
    with pytest.raises(ConfigError, match=r"num_experts.*choose 1, 2, 4"):
        check(published, ep=3)
    with pytest.raises(ConfigError, match="num_key_value_heads"):
        check(published, tp=5)
    with pytest.raises(ConfigError, match="blocks of 32"):
        check(replace(published, num_key_value_heads=64), tp=4, quantize=True)


@pytest.mark.parametrize("name", ["gpt-oss-20b", "gpt-oss-120b"])
def test_the_bytes_of_parts_in_the_docs(name: str) -> None:
    """docs/gpu.md: of the weights as they are published, bfloat16 beside MXFP4."""
    text = (Path(__file__).parents[2] / "docs/gpu.md").read_text()
    rows = re.findall(r"^\| `([et]p=[^`]*)` \| (.*?) GB \| (.*?) GB \|$", text, re.M)
    assert len(rows) == 6
    config = ModelConfig.preset(name)
    with torch.device("meta"):
        model = Transformer(config, "packed")
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for parts, small, large in rows:
        spread = Spread(read_parts(parts), 0, None, None, None)
        held = [part_of(of, whole.detach(), config, spread) for of, whole in tensors]
        total = sum(t.numel() * (1 if t.dtype == torch.uint8 else 2) for t in held)
        assert f"{total / 1e9:.1f}" == (small if name == "gpt-oss-20b" else large), parts
