"""A layout as text and as JSON: what `ossia train --plan` prints. Knows `planner.Plan`, computes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ossia.config import account
from ossia.figures import human_bytes, human_count
from ossia.train.plan.planner import BUSIEST, MFU, PEAK, USABLE, Plan, in_words


def as_json(p: Plan) -> dict[str, Any]:
    counts = account(p.job.config)
    return {
        "layout": asdict(p.layout),
        "gpus": p.hardware.gpus,
        "parameters": {"total": counts.total, "active": counts.active},
        "tokens_per_step": p.step_tokens,
        "bytes": dict(p.memory)
        | {"total": p.total, "usable": p.hardware.usable, "memory": p.hardware.memory},
        "communication": [asdict(t) for t in p.traffic],
        "seconds": {"compute": p.compute_seconds, "step": p.seconds},
        "tokens_per_second": p.step_tokens / p.seconds,
        "assumed": {
            "mfu": MFU,
            "usable": USABLE,
            "busiest": BUSIEST,
            "peak": p.hardware.peak or PEAK[p.job.precision],
        },
    }


def as_text(p: Plan, name: str) -> str:
    """The same for reading."""
    return "\n".join(
        [*_head(p, name), "", *_memory_lines(p), "", *_traffic_lines(p), "", *_time_lines(p)]
    )


def _head(p: Plan, name: str) -> Iterator[str]:
    counts, job, h = account(p.job.config), p.job, p.hardware
    size = f"{human_count(counts.total)} parameters, {human_count(counts.active)} active"
    yield f"{name} ({size}) on {h.gpus} GPUs of {human_bytes(h.memory)}"
    how = "LoRA of rank " + str(job.lora.rank) if job.lora else "Muon" if job.muon else "AdamW"
    layers = "; layers computed again in the backward pass" if job.checkpoint_layers else ""
    yield f"  layout     {in_words(p.layout)}"
    yield f"  training   {how}, {job.precision}{layers}"
    groups = h.gpus // p.layout.tp
    per = f" ({p.layout.tp} GPUs each)" if p.layout.tp > 1 else ""
    yield f"  a step     {p.step_tokens:,} tokens: {groups} x {job.tokens:,}{per}, documents of {job.context:,}"


def _memory_lines(p: Plan) -> Iterator[str]:
    yield "bytes on each GPU"
    for item, size in p.memory.items():
        if size:
            yield f"  {item:<34}{human_bytes(size):>11}"
    share, usable = p.total / p.hardware.usable, human_bytes(p.hardware.usable)
    yield f"  {'total':<34}{human_bytes(p.total):>11}   {share:.0%} of the {usable} that are usable"


def _traffic_lines(p: Plan) -> Iterator[str]:
    if not p.traffic:
        yield "communication: none"
        return
    yield "communication, sent by each GPU in a step"
    every = p.compute_seconds + sum(t.seconds for t in p.traffic)
    for t in p.traffic:
        way = "between nodes" if t.wide else "inside a node"
        hides = "hides" if t.hides else "waits"
        text = (
            f"  {t.kind:<15}{t.what:<33}{human_bytes(t.bytes):>10}  {t.processes:>3} GPUs {way:<14}"
        )
        yield f"{text}{t.seconds:>7.3f} s {t.seconds / every:>5.1%}  {hides}"
    yield "  shares are of a step in which nothing overlaps; what hides runs beside the computation, normally"


def _time_lines(p: Plan) -> Iterator[str]:
    peak = p.hardware.peak or PEAK[p.job.precision]
    yield f"a step takes about {p.seconds:.2f} s: {p.step_tokens / p.seconds:,.0f} tokens/s"
    yield f"  computing  {p.compute_seconds:.2f} s at {MFU:.0%} of {peak / 1e12:.0f} TFLOP/s (assumed)"
    ways = f"{p.hardware.intra / 1e9:.0f} GB/s inside a node, {p.hardware.inter / 1e9:.0f} GB/s between nodes"
    yield f"  assumed    {ways}; {USABLE:.0%} of the memory usable"
    yield f"             the busiest GPU has {BUSIEST:g} x the mean of the experts' tokens"
