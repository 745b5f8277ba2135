"""The operations of a gpt-oss model, one file each: the reference in torch, and the choice of its
implementation.

The only package that knows devices. `cpu/` holds compiled kernels for CPUs: for inference whole
halves of a block at a time, for training the operations between the matrix products; `triton/`
holds those of GPUs, for inference; everything else is torch. Two switches choose: the device of the
tensors, and OSSIA_KERNELS: `reference` leaves all to torch, `interpret` runs the kernels of GPUs on
a CPU. Those of CPUs use the best instruction set that the CPU offers, or the one
that OSSIA_ISA names. `in_use()` says what was chosen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch

from ossia.kernels import contest, cpu, products, triton
from ossia.kernels.attention import attend_pages, attention
from ossia.kernels.attention_training import attention_training
from ossia.kernels.choice import as_in_training, in_training, same_bits, with_same_bits
from ossia.kernels.experts import experts, packed_experts
from ossia.kernels.experts_training import experts_training
from ossia.kernels.linear import linear
from ossia.kernels.norm import rms_norm
from ossia.kernels.rope import rotate
from ossia.kernels.router import route
from ossia.kernels.training import take_rows

__all__ = [
    "as_in_training",
    "attend_pages",
    "attention",
    "attention_training",
    "experts",
    "experts_training",
    "in_training",
    "in_use",
    "linear",
    "not_compiled",
    "packed_experts",
    "rms_norm",
    "rotate",
    "route",
    "same_bits",
    "take_rows",
    "use_threads",
    "with_same_bits",
]


def not_compiled() -> str | None:
    """Why the compiled kernels are not used on CPUs; None if they are."""
    switch = os.environ.get("OSSIA_KERNELS")
    if switch in ("reference", "interpret"):
        return f"OSSIA_KERNELS={switch}"
    found = cpu.compiled()
    return found if isinstance(found, str) else None


def in_use() -> list[tuple[str, str, str]]:
    """(operation, implementation, why) for `ossia info`."""
    reason = not_compiled()
    compiled = [
        (
            "attention half",
            "norm, q k v, rope, paged attention with sinks, output, residual: one call a layer",
        ),
        (
            "experts half",
            "norm, router, MXFP4 experts as published, clamped SwiGLU, weighted sum: "
            "one call a layer",
        ),
        ("unembedding", "bfloat16 or int8, only the rows whose logits are wanted"),
        ("sampling", "filters, penalties, masks and draws over all rows of a step"),
        (
            "training",
            "in float32: attention, RMSNorm, RoPE and SwiGLU both ways, gradient of cross-entropy",
        ),
    ]
    reference = [
        ("rms_norm", "torch"),
        (
            "linear",
            "torch matmul; stored weights are converted in row chunks if the compute dtype differs",
        ),
        ("rotate", "torch"),
        (
            "attention",
            "torch, tiles of queries with an online softmax, sink folded in through log-sum-exp",
        ),
        ("experts", "torch matmul grouped by expert; MXFP4 is decoded one expert matrix at a time"),
    ]
    rows = []
    if reason is None:
        chosen = "OSSIA_ISA, one" if os.environ.get("OSSIA_ISA") else "best"
        offered = ", ".join(cpu.offered(cpu.loaded()))
        why = f"{chosen} of those that this CPU offers ({offered}), {cpu.threads()} threads"
        rows = [(name, f"C++ {cpu.isa()}: {what}", why) for name, what in compiled]
        reason = (
            "float32 without training, training in bfloat16, other devices than the CPU, "
            "experts not in MXFP4"
        )
    rows += _products_in_use() + _gpu_in_use()
    return rows + [(name, what, reason) for name, what in reference]


def _gpu_in_use() -> list[tuple[str, str, str]]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reason = triton.why_not(device)
    if reason is None:
        return triton.described(device)
    if device.type == "cpu" and os.environ.get("OSSIA_KERNELS") != "reference":
        reason = "torch sees no CUDA device"
    return [("on a GPU", "torch", reason)]


def use_threads(count: int) -> None:
    """So many for an operation, of torch's and of the compiled kernels, from now on."""
    torch.set_num_threads(count)
    if not_compiled() is None:
        cpu.set_threads(count)


def _products_in_use() -> list[tuple[str, str, str]]:
    """The ways to multiply in training on a CPU, and the rates by which they were chosen."""
    found = products.serving()

    def why(ways: Iterable[str]) -> str:
        return ", ".join(f"{way} {found.rates[way]:.0f}" for way in ways) + " GFLOP/s on one thread"

    rule = f"measured here; the first serves unless another is {contest.MARGIN - 1:.0%} faster"
    return [
        ("products", f"training in float32: {found.product}", f"{why(products.PRODUCTS)}; {rule}"),
        ("Muon", f"iterates in {found.stacks}", f"{why(products.STACKS)}; {rule}"),
    ]
