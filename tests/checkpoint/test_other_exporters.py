"""What other programs call the tensors, and folders that they have quantized."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import SMALL
from safetensors.torch import load_file, save_file

from ossia.checkpoint import convert, open_checkpoint, write_random
from ossia.errors import CheckpointError, TensorMismatchError


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in `hf-bf16`, and in `packed/` one in MXFP4."""
    folder = tmp_path_factory.mktemp("names")
    write_random(SMALL, folder, 0, "hf-bf16")
    write_random(SMALL, folder / "packed", 0, "hf")
    return folder


def rewritten(source: Path, target: Path, tensors: dict[str, Any], **config: Any) -> Path:
    target.mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    about = json.loads((source / "config.json").read_text()) | config
    (target / "config.json").write_text(json.dumps(about))
    return target


def router_apart(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name.replace(".router.", ".router.linear."): tensor for name, tensor in tensors.items()}


def experts_apart(tensors: dict[str, Any]) -> dict[str, Any]:
    """unsloth: one matrix [out, in] and one bias an expert."""
    found = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.+\.experts\.(?:gate_up|down)_proj)(_bias)?", name)
        if match is None:
            found[name] = tensor
            continue
        for expert, one in enumerate(tensor):
            part = "bias" if match[2] else "weight"
            found[f"{match[1]}s.{expert}.{part}"] = one if match[2] else one.T
    return found


@pytest.mark.parametrize("experts", [1, 4])
def test_experts_one_by_one_and_routers_apart(experts: int, tmp_path: Path) -> None:
    config = replace(SMALL, num_experts=experts, experts_per_token=1)
    write_random(config, tmp_path / "m", 0, "hf-bf16")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    wanted = open_checkpoint(tmp_path / "m").tensors
    both = experts_apart(router_apart(tensors))
    for number, other in enumerate((router_apart(tensors), experts_apart(tensors), both)):
        found = open_checkpoint(rewritten(tmp_path / "m", tmp_path / f"{number}", other))
        assert set(found.tensors) == set(wanted) and not found.packed
        for name, tensor in wanted.items():
            assert torch.equal(found.tensors[name], tensor), name
        convert(tmp_path / f"{number}", tmp_path / f"{number}-mxfp4")
        assert open_checkpoint(tmp_path / f"{number}-mxfp4").packed


def test_a_router_apart_beside_packed_experts(fused: Path, tmp_path: Path) -> None:
    tensors = load_file(fused / "packed" / "model.safetensors")
    found = open_checkpoint(rewritten(fused / "packed", tmp_path / "m", router_apart(tensors)))
    for name, tensor in open_checkpoint(fused / "packed").tensors.items():
        assert torch.equal(found.tensors[name], tensor), name


def test_an_expert_that_is_missing_or_misshapen_is_named(fused: Path, tmp_path: Path) -> None:
    tensors = experts_apart(load_file(fused / "model.safetensors"))
    name = "model.layers.1.mlp.experts.down_projs.2.weight"
    for number, (change, message) in enumerate(
        (({}, f"lacks {name}"), ({name: tensors[name][1:]}, f"'{name}': expected BF16"))
    ):
        rest = {key: value for key, value in tensors.items() if key != name}
        path = rewritten(fused, tmp_path / f"{number}", rest | change)
        with pytest.raises(TensorMismatchError, match=message):
            open_checkpoint(path)


# Of each: what its config.json says, a tensor that it leaves, and what it is called.
FOREIGN = {
    "mlx": (
        {"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}},
        "model.layers.0.mlp.x.scales",
        "MLX",
    ),
    "mlx twice": (
        {"quantization_config": {"group_size": 32, "bits": 4}},
        "model.layers.0.mlp.x.biases",
        "MLX",
    ),
    "bnb": (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        "model.layers.0.self_attn.q_proj.weight.absmax",
        "bitsandbytes",
    ),
    "gptq": (
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        "model.layers.0.x.qweight",
        "GPTQ",
    ),
    "awq": (
        {"quantization_config": {"quant_method": "awq", "bits": 4}},
        "model.layers.0.x.qweight",
        "AWQ",
    ),
    "fp8": (
        {"quantization_config": {"quant_method": "fp8"}},
        "model.layers.0.x.weight_scale_inv",
        "FP8",
    ),
    "llm-compressor": (
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        "model.layers.0.x.weight_packed",
        "compressed-tensors",
    ),
    "nvfp4": (
        {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}},
        "model.layers.0.x.weight_scale_2",
        "NVFP4",
    ),
    "unnamed": ({"quantization_config": {"a": 1}}, "", "without a quant_method"),
    "unheard of": ({"quantization_config": {"quant_method": "tomorrow"}}, "", "'tomorrow'"),
}


@pytest.mark.parametrize("whose", FOREIGN)
@pytest.mark.parametrize("by", ["config", "tensors"])
def test_what_others_have_quantized_is_named(
    by: str, whose: str, fused: Path, tmp_path: Path
) -> None:
    """By its config, or, where a copy has lost that, by its tensors; with what to do."""
    config, mark, name = FOREIGN[whose]
    tensors = load_file(fused / "model.safetensors")
    tensors.pop("model.layers.0.mlp.experts.down_proj")
    tensors[mark or "model.layers.0.other"] = torch.zeros(4, 4, dtype=torch.uint32)
    if by == "tensors" and not mark:
        return
    if whose == "awq" and by == "tensors":
        name = "GPTQ or AWQ"
    path = rewritten(fused, tmp_path / "m", tensors, **(config if by == "config" else {}))
    wanted = (
        f"quantized as .*{name}.*which ossia does not read. Take the model that it was made from"
    )
    with pytest.raises(CheckpointError, match=wanted):
        open_checkpoint(path)


def test_no_quantization_and_mxfp4_are_none_of_others(fused: Path, tmp_path: Path) -> None:
    tensors = load_file(fused / "model.safetensors")
    about: dict[str, Any]
    for number, nothing in enumerate((None, {})):
        about = {"quantization_config": nothing}
        home = rewritten(fused, tmp_path / f"m{number}", tensors, **about)
        assert not open_checkpoint(home).packed
    about = {
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    }
    packed = load_file(fused / "packed" / "model.safetensors")
    assert open_checkpoint(rewritten(fused, tmp_path / "p", packed, **about)).packed


def test_a_folder_of_pickles_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(
        CheckpointError, match=r"save pytorch_model.bin again, with safe_serialization"
    ):
        open_checkpoint(tmp_path)
