"""A checkpoint small enough to make in a test: random weights, its own vocabulary; and scripted
samples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import ossia
from ossia import checkpoint
from ossia.config import ModelConfig
from ossia.engine import SampledToken, SamplingParams
from ossia.llm import LLM
from ossia.tokenizer import HARMONY_WORDS, Tokenizer, train_tokenizer

TEXTS = ("What is 37 + 48? The answer is 85, as the calculator says: é, ü, 語.",) * 3
CONTEXT = 1024


def tiny_tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 400, words=HARMONY_WORDS)


def tiny_config(tokenizer: Tokenizer) -> ModelConfig:
    return ModelConfig(
        num_hidden_layers=2, hidden_size=64, intermediate_size=32, num_experts=4,
        experts_per_token=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=tokenizer.vocab_size,
        sliding_window=8, initial_context_length=64, max_context_length=CONTEXT, rope_theta=1000.0,
        rope_scaling_factor=16.0,
    )  # fmt: skip


def write_tiny(folder: Path, seed: int = 0) -> Path:
    """A folder like the published ones: config, weights, tokenizer and recommended sampling."""
    tokenizer = tiny_tokenizer()
    checkpoint.write_random(tiny_config(tokenizer), folder, seed)
    tokenizer.save(folder / "tokenizer.json")
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, "top_k": 50}))
    return folder


def write_endless(folder: Path, tiny: Path) -> Path:
    """A model whose likeliest token is never a special one: with temperature 0 it never stops."""
    tokenizer, model = Tokenizer.from_pretrained(tiny), checkpoint.load(tiny, "float32")
    with torch.no_grad():
        model.unembedding.weight[torch.tensor(sorted(tokenizer.specials.values()))] = 0
    checkpoint.export(model, folder, companions=tiny)
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False}))
    return folder


class Script:
    """Stands in for an engine: says the given texts, one a sample, and remembers the prompts."""

    def __init__(self, tokenizer: Tokenizer, *samples: str) -> None:
        self.tokenizer = tokenizer
        self.samples = list(samples)
        self.prompts: list[str] = []

    def generate(
        self, prompt: Sequence[int], params: SamplingParams, *_: Any, **__: Any
    ) -> Iterator[SampledToken]:
        self.prompts.append(self.tokenizer.decode(prompt))
        for token in self.tokenizer.encode_with_specials(self.samples.pop(0)):
            yield SampledToken(0, token, -0.5)

    def __call__(self, prompt: list[int]) -> Iterator[SampledToken]:
        """As the `generate` of `run_turn`."""
        return self.generate(prompt, SamplingParams())


def scripted(tiny: Path, *samples: str) -> tuple[LLM, Script]:
    """The tiny model, except that it says what the script says."""
    from ossia.llm import load

    llm = load(tiny)
    script = Script(llm.tokenizer, *samples)
    llm.__dict__["engine"] = script  # where the cached property keeps it
    return llm, script


def thought(text: str) -> str:
    return f"<|channel|>analysis<|message|>{text}<|end|><|start|>assistant"


def final(text: str) -> str:
    return f"<|channel|>final<|message|>{text}<|return|>"


def call(name: str, arguments: str) -> str:
    return (
        f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}<|call|>"
    )


def environment(**more: str) -> dict[str, str]:
    """Of a process that runs this ossia, with or without being installed."""
    source = str(Path(ossia.__file__).parents[1])
    return os.environ | {"PYTHONPATH": source, "PROMPT_TOOLKIT_NO_CPR": "1"} | more
