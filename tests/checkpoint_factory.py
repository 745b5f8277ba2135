"""Tiny random models of odd shapes, transformers' own as the oracle, and ways to damage their
files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ossia.batch import Batch
from ossia.config import ModelConfig
from ossia.model import Transformer

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


def rope(initial: int = 32, factor: float = 8.0, **changes: Any) -> dict[str, Any]:
    """rope_parameters whose ramp lies inside the few dimensions of a tiny head."""
    return {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": factor, "beta_fast": 4.0,
        "beta_slow": 1.0,
        "truncate": False, "original_max_position_embeddings": initial,
    } | changes  # fmt: skip


# Few powers of two; a window shorter than the texts, and texts longer than the initial context.
ODD: dict[str, Any] = {
    "num_hidden_layers": 3, "num_local_experts": 6, "num_experts_per_tok": 2, "hidden_size": 96,
    "intermediate_size": 64, "head_dim": 16, "num_attention_heads": 6, "num_key_value_heads": 2,
    "vocab_size": 321, "sliding_window": 7, "max_position_embeddings": 256,
    "rope_parameters": rope(),
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "odd": ODD,
    "wide experts, truncated ramp": ODD | {
        "num_hidden_layers": 2, "num_local_experts": 5, "hidden_size": 64, "intermediate_size": 160,
        "sliding_window": 16, "rope_parameters": rope(64, 32.0, truncate=True),
        "max_position_embeddings": 2048,
    },
    "three experts, all used, as published otherwise": ODD | {
        "num_hidden_layers": 4, "num_local_experts": 3, "num_experts_per_tok": 3,
        "hidden_size": 128,
        "intermediate_size": 32, "sliding_window": 128, "max_position_embeddings": 131072,
        "rope_parameters": rope(4096, 32.0, rope_theta=150000.0, beta_fast=32.0),
    },
    "one expert of one, one head a key": ODD | {
        "num_hidden_layers": 1, "num_local_experts": 5, "num_experts_per_tok": 1,
        "num_attention_heads": 3,
        "num_key_value_heads": 3, "head_dim": 32,
    },
    "no scaling, full attention first": ODD | {
        "num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "swiglu_limit": 2.0,
    },
    "linear scaling": ODD | {
        "num_hidden_layers": 2, "rms_norm_eps": 1e-3,
        "rope_parameters": {
            "rope_type": "linear", "rope_theta": 500.0, "factor": 4.0,
            "original_max_position_embeddings": 64
        },
    },
}  # fmt: skip


def hf_model(shape: dict[str, Any] = ODD, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A transformers model with weights large enough that every part of it shows in the logits."""
    model = transformers.GptOssForCausalLM(transformers.GptOssConfig(**shape)).eval()
    model.set_attn_implementation("eager")
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=rng)
            # not the model: that would round the rotary frequencies too
            parameter.data = parameter.data.to(dtype)
    return model


def read_by_hf(directory: Path, **options: Any) -> Any:
    return transformers.GptOssForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", **options
    ).eval()


def dequantize() -> Any:
    """The option under which transformers reads MXFP4 without kernels to download."""
    return transformers.Mxfp4Config(dequantize=True)


def config_of(model: Any) -> ModelConfig:
    return ModelConfig.from_json(model.config.to_dict())


def text(length: int = 90, vocab: int = 321, seed: int = 0) -> Tensor:
    return torch.randint(0, vocab, (length,), generator=torch.Generator().manual_seed(seed))


def hf_logits(model: Any, tokens_T: Tensor) -> Tensor:
    with torch.no_grad():
        return model(tokens_T.unsqueeze(0)).logits[0]  # type: ignore[no-any-return]


def our_logits(model: Transformer, tokens_T: Tensor) -> Tensor:
    with torch.no_grad():
        return model(tokens_T, Batch.packed([len(tokens_T)]))  # type: ignore[no-any-return]


def relative(expected: Tensor, found: Tensor) -> float:
    """The largest difference in units of the largest value."""
    assert expected.shape == found.shape
    return float((expected.float() - found.float()).abs().max() / expected.float().abs().max())


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def edit_header(path: Path, change: Callable[[Any], None]) -> None:
    """Change the header of a safetensors file, leave its data."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def drop_tensor(path: Path, *names: str) -> None:
    """Remove tensors from a safetensors file."""
    from safetensors.torch import load_file, save_file

    left = {name: tensor for name, tensor in load_file(path).items() if name not in names}
    save_file(left, path, metadata={"format": "pt"})


def add_tensor(path: Path, **tensors: Tensor) -> None:
    """Add tensors to a safetensors file, or replace those it has."""
    from safetensors.torch import load_file, save_file

    save_file(load_file(path) | tensors, path, metadata={"format": "pt"})
