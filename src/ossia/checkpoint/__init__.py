"""Checkpoints: published files in, published files out, nothing copied or unpacked on the way.

`load` a model, `open_checkpoint` to look before, `convert` between layouts, `export` a trained model,
`write_random` weights of any size.
"""

from ossia.checkpoint.export import convert, export
from ossia.checkpoint.load import Checkpoint, load, open_checkpoint
from ossia.checkpoint.names import LAYOUTS, Layout
from ossia.checkpoint.random_weights import write_random

__all__ = ["LAYOUTS", "Checkpoint", "Layout", "convert", "export", "load", "open_checkpoint", "write_random"]
