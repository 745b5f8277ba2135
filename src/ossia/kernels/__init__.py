"""The operations a gpt-oss model is made of, one file each: the reference in torch, and the choice of what serves it.

The only package that knows devices. Today the reference serves everything, on every device that torch has; a faster
version of an operation will stand beside its reference and be chosen there. `in_use()` says what was chosen.
"""

from __future__ import annotations

from ossia.kernels.attention import attention
from ossia.kernels.attention_training import attention_training
from ossia.kernels.experts import experts
from ossia.kernels.experts_training import experts_training
from ossia.kernels.linear import linear
from ossia.kernels.norm import rms_norm
from ossia.kernels.rope import rotate

__all__ = [
    "attention",
    "attention_training",
    "experts",
    "experts_training",
    "in_use",
    "linear",
    "rms_norm",
    "rotate",
]


def in_use() -> list[tuple[str, str, str]]:
    """(operation, implementation, why) for `ossia info`."""
    why = "the only implementation so far"
    operations = {
        "rms_norm": "torch",
        "linear": "torch matmul; stored weights are converted in row chunks where the compute dtype differs",
        "rotate": "torch",
        "attention": "torch, tiles of queries with an online softmax, sink folded in through the log-sum-exp",
        "experts": "torch matmul grouped by expert; MXFP4 is decoded one expert matrix at a time",
    }
    return [(name, implementation, why) for name, implementation in operations.items()]
