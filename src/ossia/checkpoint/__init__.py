"""Checkpoints: published files in, published files out, nothing copied or unpacked on the way.

`load` a model, `open_checkpoint` to look before, `convert` between layouts, `export` a trained
model, `write_gguf` for llama.cpp, `write_random` weights of any size. (Loading copies what a GGUF
file lays out otherwise, and what is changed or rounded on the way.)
"""

from ossia.checkpoint.export import convert, export
from ossia.checkpoint.gguf.format import computed_otherwise
from ossia.checkpoint.gguf.read import find as gguf_file
from ossia.checkpoint.gguf.write import write_gguf
from ossia.checkpoint.load import Checkpoint, ExpertsAs, load, open_checkpoint
from ossia.checkpoint.names import LAYOUTS, Layout
from ossia.checkpoint.random_weights import write_random
from ossia.checkpoint.tokenizer import find_tokenizer

__all__ = [
    "LAYOUTS",
    "Checkpoint",
    "ExpertsAs",
    "Layout",
    "computed_otherwise",
    "convert",
    "export",
    "find_tokenizer",
    "gguf_file",
    "load",
    "open_checkpoint",
    "write_gguf",
    "write_random",
]
