"""Which layout of a model on many GPUs to take: the fastest that fits, or what would help if none
does. What one layout costs is `layout.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ossia.errors import ConfigError
from ossia.figures import human_bytes
from ossia.train.optim import OPTIMIZERS
from ossia.train.plan.layout import Hardware, Job, Plan, in_words, lay_out
from ossia.train.settings import Lora, Parallel

Fixed = Mapping[str, int]  # sizes that are given, of replicate, fsdp, ep and tp
Change = tuple[str, Job]  # options, and the job with them
SHORTEST = 1024  # tokens of a document, below which no shorter ones are proposed
HALVINGS = range(1, 6)  # how often a number is halved in search of one that fits
DOUBLINGS = range(1, 8)  # of the GPUs


def plan(job: Job, hardware: Hardware, fixed: Fixed | None = None) -> Plan:
    """The fastest layout that fits, among those with the numbers that `fixed` gives (of replicate,
    fsdp, ep, tp).

    Raises `ConfigError` if none does: because the numbers do not divide the GPUs or the model, or
    because the memory is too small; then it says by how much, what takes it, and what would help.
    """
    fixed = fixed or {}
    plans = list(_plans(job, hardware, fixed))
    fitting = [p for p in plans if p.fits]
    if not fitting:
        smallest = min(plans, key=lambda p: p.total)
        raise ConfigError(_too_large(smallest, fixed))
    return min(fitting, key=lambda p: (p.seconds / p.step_tokens, p.total))


def _plans(job: Job, hardware: Hardware, fixed: Fixed) -> Iterator[Plan]:
    """Every layout that divides. Raises `ConfigError` if there is none."""
    if job.lora is not None:
        cut = next((name for name in ("fsdp", "ep", "tp") if fixed.get(name, 1) > 1), None)
        if cut is not None:
            raise ConfigError(
                "LoRA's frozen model is whole on every GPU, and only the tokens are divided: "
                f"leave --{cut} out"
            )
        fixed = {**fixed, "fsdp": 1, "ep": 1, "tp": 1}
    refused: list[ConfigError] = []
    found = 0
    for layout in _layouts(hardware.gpus, fixed):
        try:
            yield lay_out(job, hardware, layout)
            found += 1
        except ConfigError as error:
            refused.append(error)
    if not found and refused:
        raise refused[0]
    if not found:
        raise ConfigError(_indivisible(hardware.gpus, fixed))


def _layouts(gpus: int, fixed: Fixed) -> Iterator[Parallel]:
    """Those whose product is `gpus`."""
    for tp in _choices("tp", gpus, fixed):
        for ep in _choices("ep", gpus // tp, fixed):
            for fsdp in _choices("fsdp", gpus // tp // ep, fixed):
                replicate = gpus // tp // ep // fsdp
                if fixed.get("replicate", replicate) == replicate:
                    yield Parallel(replicate, fsdp, ep, tp)


def _choices(name: str, most: int, fixed: Fixed) -> list[int]:
    """Divisors of `most`, or of them only the one that is given."""
    divisors = [n for n in range(1, most + 1) if most % n == 0]
    if name in fixed:
        return [n for n in divisors if n == fixed[name]]
    return divisors


def _indivisible(gpus: int, fixed: Fixed) -> str:
    given = " x ".join(f"{name} {n}" for name, n in fixed.items())
    product = math.prod(fixed.values())
    why = f"{product} does not divide {gpus}"
    if gpus % product == 0:
        why = f"their product is {product}"
    return (
        f"{given} cannot be laid out on {gpus} GPUs: {why}; "
        f"replicate x fsdp x ep x tp must be {gpus}"
    )


# ---- advice --------------------------------------------------------------------------------------


def _too_large(best: Plan, fixed: Fixed) -> str:
    hardware = best.hardware
    over = human_bytes(best.total - hardware.usable)
    largest = sorted(best.memory.items(), key=lambda item: -item[1])[:3]
    takes = ", ".join(f"{name} {human_bytes(size)}" for name, size in largest)
    advice = " or ".join(_what_helps(best.job, hardware, fixed))
    if not advice:
        advice = "nothing that was tried; take GPUs with more memory, or a smaller model"
    return (
        f"out of memory: the smallest layout ({in_words(best.layout)}) needs "
        f"{human_bytes(best.total)} on each GPU, {over} more than the "
        f"{human_bytes(hardware.usable)} that {human_bytes(hardware.memory)} leave usable; most of "
        f"it is {takes}. What would fit: {advice}"
    )


def _what_helps(job: Job, hardware: Hardware, fixed: Fixed) -> list[str]:
    """Options with which a layout fits: single changes, or else together with checkpointing; and
    more GPUs.
    """
    changes = list(_changes(job))
    helping = _first_of_each_kind(changes, hardware, fixed)
    if not helping and not job.checkpoint_layers:
        checkpointed = [
            (f"{options} --checkpoint-layers", replace(changed, checkpoint_layers=True))
            for options, changed in changes
        ]
        helping = _first_of_each_kind(checkpointed, hardware, fixed)
    if fixed and _any_fits(job, hardware):
        given = ", ".join(f"--{name}" for name in fixed)
        helping.append(f"another layout (leave {given} out)")
    if job.lora is None:
        helping += _other_means(job, hardware)
    return helping


def _changes(job: Job) -> Iterator[Change]:
    """(options, the job with them) of what takes less; of a kind, the smallest change first."""
    if not job.checkpoint_layers:
        yield "--checkpoint-layers", replace(job, checkpoint_layers=True)
    for n in HALVINGS:
        tokens = max(job.context, job.tokens >> n)
        if tokens < job.tokens:
            yield f"--tokens-per-gpu {tokens}", replace(job, tokens=tokens)
    if job.precision == "float32":
        yield "--precision bfloat16", replace(job, precision="bfloat16")
    if job.lora is None:
        for name in OPTIMIZERS:
            if name != job.optimizer:
                yield f"--optimizer {name}", replace(job, optimizer=name)
    else:
        for n in range(1, job.lora.rank.bit_length()):
            rank = job.lora.rank >> n
            smaller = replace(job.lora, rank=rank)
            yield f"--lora {rank}", replace(job, lora=smaller)
    for n in HALVINGS:
        context = job.context >> n
        if context >= SHORTEST:
            options = f"--context {context} --tokens-per-gpu {context}"
            yield options, replace(job, tokens=context, context=context)


def _first_of_each_kind(changes: Iterable[Change], hardware: Hardware, fixed: Fixed) -> list[str]:
    """Those after which a layout fits. Changes are of a kind if their first option is the same."""
    found: dict[str, str] = {}
    for options, changed in changes:
        kind = options.split()[0]
        if kind not in found and _any_fits(changed, hardware, fixed):
            found[kind] = options
    return list(found.values())


def _other_means(job: Job, hardware: Hardware) -> Iterator[str]:
    """The fewest GPUs that would do, and low-rank changes where there is one GPU."""
    checkpointed = replace(job, checkpoint_layers=True)
    for n in DOUBLINGS:
        more = replace(hardware, gpus=hardware.gpus << n)
        if _any_fits(job, more):
            yield f"--gpus {more.gpus}"
            break
        if _any_fits(checkpointed, more):
            yield f"--gpus {more.gpus} --checkpoint-layers"
            break
    low_rank = replace(checkpointed, lora=Lora())
    if hardware.gpus == 1 and _any_fits(low_rank, hardware):
        yield "--lora 8 --checkpoint-layers"


def _any_fits(job: Job, hardware: Hardware, fixed: Fixed | None = None) -> bool:
    try:
        plans = _plans(job, hardware, fixed or {})
        return any(p.fits for p in plans)
    except ConfigError:
        return False
