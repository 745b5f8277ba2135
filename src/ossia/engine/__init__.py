"""The engine: requests of token ids in, sampled token ids out. Knows no text, no chat format and no tokenizer."""

from ossia.engine.engine import Engine
from ossia.engine.request import SampledToken, SamplingParams

__all__ = ["Engine", "SampledToken", "SamplingParams"]
