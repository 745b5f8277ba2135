"""A layout as text and as JSON: what `ossia train --plan` prints. Knows `layout.Plan`, computes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ossia.config import account
from ossia.figures import human_bytes, human_count
from ossia.train.optim import OPTIMIZERS
from ossia.train.plan.layout import BUSIEST, MFU, PEAK, USABLE, Plan, in_words


def as_json(p: Plan) -> dict[str, Any]:
    counts = account(p.job.config)
    totals = {"total": p.total, "usable": p.hardware.usable, "memory": p.hardware.memory}
    return {
        "layout": asdict(p.layout),
        "gpus": p.hardware.gpus,
        "parameters": {"total": counts.total, "active": counts.active},
        "tokens_per_step": p.step_tokens,
        "bytes": {**p.memory, **totals},
        "communication": [asdict(t) for t in p.traffic],
        "seconds": {"compute": p.compute_seconds, "step": p.seconds},
        "tokens_per_second": p.step_tokens / p.seconds,
        "assumed": {"mfu": MFU, "usable": USABLE, "busiest": BUSIEST, "peak": _peak(p)},
    }


def as_text(p: Plan, name: str) -> str:
    """The same for reading."""
    blocks = (_head(p, name), _memory_lines(p), _traffic_lines(p), _time_lines(p))
    return "\n\n".join("\n".join(lines) for lines in blocks)


def _peak(p: Plan) -> float:
    return p.hardware.peak or PEAK[p.job.precision]


def _head(p: Plan, name: str) -> Iterator[str]:
    job = p.job
    hardware = p.hardware
    counts = account(job.config)
    size = f"{human_count(counts.total)} parameters, {human_count(counts.active)} active"
    yield f"{name} ({size}) on {hardware.gpus} GPUs of {human_bytes(hardware.memory)}"
    yield f"  layout     {in_words(p.layout)}"
    how = OPTIMIZERS[job.optimizer].title
    if job.lora:
        how = f"LoRA of rank {job.lora.rank}"
    layers = "; layers computed again in the backward pass" if job.checkpoint_layers else ""
    yield f"  training   {how}, {job.precision}{layers}"
    groups = hardware.gpus // p.layout.tp
    per = f" ({p.layout.tp} GPUs each)" if p.layout.tp > 1 else ""
    of = f"{groups} x {job.tokens:,}{per}, documents of {job.context:,}"
    yield f"  a step     {p.step_tokens:,} tokens: {of}"


def _memory_lines(p: Plan) -> Iterator[str]:
    yield "bytes on each GPU"
    for item, size in p.memory.items():
        if size:
            yield f"  {item:<34}{human_bytes(size):>11}"
    usable = human_bytes(p.hardware.usable)
    share = f"{p.total / p.hardware.usable:.0%} of the {usable} that are usable"
    yield f"  {'total':<34}{human_bytes(p.total):>11}   {share}"


def _traffic_lines(p: Plan) -> Iterator[str]:
    if not p.traffic:
        yield "communication: none"
        return
    yield "communication, sent by each GPU in a step"
    every = p.compute_seconds + sum(t.seconds for t in p.traffic)
    for t in p.traffic:
        way = "between nodes" if t.wide else "inside a node"
        hides = "hides" if t.hides else "waits"
        group = f"{t.processes:>3} GPUs {way:<14}"
        took = f"{t.seconds:>7.3f} s {t.seconds / every:>5.1%}"
        yield f"  {t.kind:<15}{t.what:<33}{human_bytes(t.bytes):>10}  {group}{took}  {hides}"
    yield (
        "  shares are of a step in which nothing overlaps; what hides runs beside the computation,"
        " normally"
    )


def _time_lines(p: Plan) -> Iterator[str]:
    h = p.hardware
    yield f"a step takes about {p.seconds:.2f} s: {p.step_tokens / p.seconds:,.0f} tokens/s"
    speed = f"{MFU:.0%} of {_peak(p) / 1e12:.0f} TFLOP/s (assumed)"
    yield f"  computing  {p.compute_seconds:.2f} s at {speed}"
    ways = f"{h.intra / 1e9:.0f} GB/s inside a node, {h.inter / 1e9:.0f} GB/s between nodes"
    yield f"  assumed    {ways}; {USABLE:.0%} of the memory usable"
    yield f"             the busiest GPU has {BUSIEST:g} x the mean of the experts' tokens"
