"""How a model lies on many GPUs: bytes on each, bytes between them, and which layouts can be.

Follows `model/parallel.py`: its table says which parameter is cut by ep and tp, and what is left is
sliced by FSDP2 (ZeRO stage 3, arXiv 1910.02054): experts over `fsdp`, all else over `fsdp` x `ep`.
Arithmetic alone: nothing is run, no GPU is needed. What cannot be computed is assumed, and named:
the constants below, and the hardware's numbers.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

from ossia.config import ModelConfig
from ossia.errors import ConfigError
from ossia.figures import human_bytes
from ossia.model.parallel import Cut, check, cut_of
from ossia.train.plan import cost
from ossia.train.settings import Lora, Parallel, Precision

USABLE = (
    0.92  # of a GPU's memory: the rest is CUDA's, NCCL's and what an allocator cannot use. Assumed
)
MFU = 0.35  # share of the peak that products reach, attention and routing included. Assumed
# tokens of the busiest process under ep, in units of the mean. Assumed; the balance loss aims lower
BUSIEST = 1.25
PREFETCHED = 2  # blocks whose weights are gathered at a time: one in use, one on its way
SHORTEST = 1024  # tokens of a document, below which no shorter ones are proposed
PEAK = {"bfloat16": 989e12, "float32": 67e12}  # of an H100 SXM, dense, by its data sheet


@dataclass(frozen=True)
class Hardware:
    """Defaults: nodes of eight H100 SXM with a 400 Gb/s adapter each. Bandwidths are of one GPU,
    one direction.
    """

    gpus: int
    memory: int = 80 << 30  # bytes of one
    per_node: int = 8
    intra: float = 450e9  # bytes/s inside a node
    inter: float = 50e9  # bytes/s between nodes
    peak: float | None = None  # operations/s of one; None: `PEAK` of the precision

    @property
    def usable(self) -> int:
        return int(self.memory * USABLE)


@dataclass(frozen=True)
class Job:
    """What is to be trained. `tokens` of one step on each GPU; those of a tp group work on the same
    ones.
    """

    config: ModelConfig
    tokens: int = 4096
    context: int = 4096  # tokens of a document
    precision: Precision = "bfloat16"
    muon: bool = False
    checkpoint_layers: bool = False
    lora: Lora | None = None

    def __post_init__(self) -> None:
        if min(self.tokens, self.context) < 1:
            raise ConfigError(
                f"tokens and context must be 1 or more, found {self.tokens} and {self.context}"
            )
        if self.context > self.tokens:
            raise ConfigError(
                f"documents of {self.context:,} tokens do not fit into {self.tokens:,} tokens a GPU: none is cut; "
                f"give --tokens-per-gpu {self.context} or more, or a smaller --context"
            )


@dataclass(frozen=True)
class Traffic:
    """What one GPU sends in a step, of one kind. `wide`: whether the group goes beyond a node."""

    kind: str  # "all-gather", "reduce-scatter", "all-reduce", "all-to-all"
    what: str
    processes: int
    bytes: int
    wide: bool
    hides: bool  # behind computation, normally
    seconds: float


@dataclass(frozen=True)
class Plan:
    """One layout: bytes on the fullest GPU by item, and traffic. Seconds are estimates."""

    job: Job
    hardware: Hardware
    layout: Parallel
    memory: Mapping[str, int]
    traffic: tuple[Traffic, ...]
    compute_seconds: float

    @property
    def total(self) -> int:
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.hardware.usable

    @property
    def seconds(self) -> float:
        """Of a step: gathers and gradient sums behind the computation, tokens and partial sums on
        top of it.
        """
        hidden = sum(t.seconds for t in self.traffic if t.hides)
        return max(self.compute_seconds, hidden) + sum(
            t.seconds for t in self.traffic if not t.hides
        )

    @property
    def step_tokens(self) -> int:
        return self.job.tokens * self.hardware.gpus // self.layout.tp


# ---- which layouts -------------------------------------------------------------------------------


def plan(job: Job, hardware: Hardware, fixed: Mapping[str, int] | None = None) -> Plan:
    """The fastest layout that fits, among those with the numbers that `fixed` gives (of replicate,
    fsdp, ep, tp).

    Raises `ConfigError` if none does: because the numbers do not divide the GPUs or the model, or
    because the memory is too small; then it says by how much, what takes it, and what would help.
    """
    plans = list(_plans(job, hardware, dict(fixed or {})))
    fitting = [p for p in plans if p.fits]
    if not fitting:
        raise ConfigError(_too_large(min(plans, key=lambda p: p.total), fixed or {}))
    return min(fitting, key=lambda p: (p.seconds / p.step_tokens, p.total))


def _plans(job: Job, hardware: Hardware, fixed: dict[str, int]) -> Iterator[Plan]:
    """Every layout that divides. Raises `ConfigError` if there is none."""
    if job.lora is not None and hardware.gpus > 1:
        raise ConfigError(
            "LoRA trains in one process, because packed experts are not spread over several: give --gpus 1, or leave "
            "--lora out"
        )
    refused: list[ConfigError] = []
    found = 0
    for layout in _layouts(hardware.gpus, fixed):
        try:
            yield lay_out(job, hardware, layout)
            found += 1
        except ConfigError as error:
            refused.append(error)
    if not found:
        raise refused[0] if refused else ConfigError(_indivisible(hardware.gpus, fixed))


def _layouts(gpus: int, fixed: Mapping[str, int]) -> Iterator[Parallel]:
    """Those whose product is `gpus`."""
    for tp in _choices("tp", gpus, fixed):
        for ep in _choices("ep", gpus // tp, fixed):
            for fsdp in _choices("fsdp", gpus // tp // ep, fixed):
                replicate = gpus // tp // ep // fsdp
                if (
                    tp * ep * fsdp * replicate == gpus
                    and fixed.get("replicate", replicate) == replicate
                ):
                    yield Parallel(replicate, fsdp, ep, tp)


def _choices(name: str, most: int, fixed: Mapping[str, int]) -> list[int]:
    if name in fixed:
        return [fixed[name]] if most and most % fixed[name] == 0 else []
    return [n for n in range(1, most + 1) if most % n == 0]


def _indivisible(gpus: int, fixed: Mapping[str, int]) -> str:
    given = " x ".join(f"{name} {n}" for name, n in fixed.items())
    product = math.prod(fixed.values())
    why = (
        f"their product is {product}"
        if gpus % product == 0
        else f"{product} does not divide {gpus}"
    )
    return f"{given} cannot be laid out on {gpus} GPUs: {why}; replicate x fsdp x ep x tp must be {gpus}"


def _too_large(best: Plan, fixed: Mapping[str, int]) -> str:
    over, usable = human_bytes(best.total - best.hardware.usable), human_bytes(best.hardware.usable)
    largest = sorted(best.memory.items(), key=lambda item: -item[1])[:3]
    takes = ", ".join(f"{name} {human_bytes(size)}" for name, size in largest)
    helping = list(_what_helps(best.job, best.hardware, dict(fixed)))
    advice = (
        " or ".join(helping)
        if helping
        else "nothing that was tried; take GPUs with more memory, or a smaller model"
    )
    return (
        f"out of memory: the smallest layout ({in_words(best.layout)}) needs {human_bytes(best.total)} on each GPU, "
        f"{over} more than the {usable} that {human_bytes(best.hardware.memory)} leave usable; most of it is {takes}. "
        f"What would fit: {advice}"
    )


def _what_helps(job: Job, hardware: Hardware, fixed: dict[str, int]) -> Iterator[str]:
    """Changes after which a layout fits: single ones, or else together with checkpointing; and more
    GPUs.
    """
    changes = list(_changes(job))
    if not job.checkpoint_layers and not any(
        _any_fits(changed, hardware, fixed) for _, changed in changes
    ):
        changes = [
            (f"{name} --checkpoint-layers", replace(one, checkpoint_layers=True))
            for name, one in changes
        ]
    kinds = set()
    for name, changed in changes:
        kind = name.split()[0]
        if kind not in kinds and _any_fits(changed, hardware, fixed):
            kinds.add(kind)
            yield name
    if fixed and _any_fits(job, hardware, {}):
        yield "another layout (leave " + ", ".join(f"--{name}" for name in fixed) + " out)"
    if job.lora is None:
        checkpointed = replace(job, checkpoint_layers=True)
        for gpus in (hardware.gpus << n for n in range(1, 8)):
            more = replace(hardware, gpus=gpus)
            if _any_fits(job, more, {}) or _any_fits(checkpointed, more, {}):
                extra = "" if _any_fits(job, more, {}) else " --checkpoint-layers"
                yield f"--gpus {gpus}{extra}"
                break
        if hardware.gpus == 1 and _any_fits(replace(checkpointed, lora=Lora()), hardware, {}):
            yield "--lora 8 --checkpoint-layers"


def _changes(job: Job) -> Iterator[tuple[str, Job]]:
    """(options, the job with them) of what takes less; of a kind, the smallest change first."""
    if not job.checkpoint_layers:
        yield "--checkpoint-layers", replace(job, checkpoint_layers=True)
    for n in range(1, 6):
        if (tokens := max(job.context, job.tokens >> n)) < job.tokens:
            yield f"--tokens-per-gpu {tokens}", replace(job, tokens=tokens)
    if job.precision == "float32":
        yield "--precision bfloat16", replace(job, precision="bfloat16")
    if job.lora is None:
        if not job.muon:
            yield "--optimizer muon", replace(job, muon=True)
    else:
        for n in range(1, job.lora.rank.bit_length()):
            rank = job.lora.rank >> n
            yield f"--lora {rank}", replace(job, lora=replace(job.lora, rank=rank))
    for n in range(1, 6):
        if (context := job.context >> n) >= SHORTEST:
            yield (
                f"--context {context} --tokens-per-gpu {context}",
                replace(job, tokens=context, context=context),
            )


def _any_fits(job: Job, hardware: Hardware, fixed: dict[str, int]) -> bool:
    try:
        return any(p.fits for p in _plans(job, hardware, fixed))
    except ConfigError:
        return False


def in_words(layout: Parallel) -> str:
    return " ".join(f"{f.name}={getattr(layout, f.name)}" for f in fields(layout))


# ---- one layout ----------------------------------------------------------------------------------


def lay_out(job: Job, hardware: Hardware, layout: Parallel) -> Plan:
    """The plan of this layout, whether it fits or not. Raises `ConfigError` if it does not divide
    the model.
    """
    check(job.config, ep=layout.ep, tp=layout.tp)
    flops = cost.flops_per_token(job.config, job.context, job.checkpoint_layers)
    peak = hardware.peak or PEAK[job.precision]
    seconds = job.tokens * flops / layout.tp / (peak * MFU)
    return Plan(
        job, hardware, layout, _memory(job, layout), tuple(_traffic(job, hardware, layout)), seconds
    )


def local_parameters(config: ModelConfig, layout: Parallel) -> dict[str, int]:
    """Elements of every parameter on the fullest process: cut by ep and tp, then sliced along the
    first dimension that divides, else along the first (`model/parallel.py:_slice`).
    """
    return {name: kind.sliced(layout) for kind in _kinds(config) for name in kind.names}


@dataclass(frozen=True)
class _Kind:
    """Parameters that lie in the same way: one of each layer, or one alone."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    cut: Cut
    moe: bool | None  # whether their layers have routed experts; None outside of layers

    @property
    def routed(self) -> bool:
        """Whether they are experts among which is chosen: those are sliced over fsdp alone."""
        return bool(self.moe) and ".experts." in self.names[0]

    @property
    def rough(self) -> bool:
        """Whether they travel in the compute dtype; norms, routers and tables do in float32."""
        name = self.names[0]
        return ".experts." in name or any(
            f".attn.{part}." in name for part in ("q", "k", "v", "out")
        )

    def local(self, layout: Parallel) -> list[int]:
        """The shape after ep and tp."""
        local = list(self.shape)
        for dim, ways in ((self.cut.ep, layout.ep), (self.cut.tp, layout.tp)):
            if dim is not None:
                local[dim] //= ways
        return local

    def sliced(self, layout: Parallel) -> int:
        """Elements of one on the fullest process."""
        local, ways = self.local(layout), layout.fsdp * (1 if self.routed else layout.ep)
        at = next((n for n, size in enumerate(local) if size % ways == 0), 0)
        return math.prod(local) // local[at] * -(-local[at] // ways)

    def elements(self, layout: Parallel) -> int:
        """Of one, before FSDP slices it."""
        return math.prod(self.local(layout))


@functools.lru_cache(8)
def _kinds(config: ModelConfig) -> tuple[_Kind, ...]:
    names: dict[tuple[str, bool | None], list[str]] = {}
    shapes = cost.shapes(config)
    for name in shapes:
        layer, leaf = re.match(r"(?:layers\.(\d+)\.)?(.*)", name).groups()  # type: ignore[union-attr]
        names.setdefault((leaf, None if layer is None else config.is_moe(int(layer))), []).append(
            name
        )
    return tuple(
        _Kind(tuple(same), shapes[same[0]], cut_of(same[0], config), moe)
        for (_, moe), same in names.items()
    )


@dataclass(frozen=True)
class _Gathered:
    """What FSDP2 makes whole on each process, in bytes: all of it, and the largest block."""

    experts: int
    dense: int
    block: int
    table: int  # one of the two tables, in float32


def _gathered(job: Job, layout: Parallel) -> _Gathered:
    width = cost.compute_width(job.precision)
    experts = dense = 0
    blocks = {True: 0, False: 0}  # by whether it has routed experts
    for kind in _kinds(job.config):
        if kind.moe is not None:
            size = kind.elements(layout) * (width if kind.rough else 4)
            blocks[kind.moe] += size
            experts += size * len(kind.names) if kind.routed else 0
            dense += 0 if kind.routed else size * len(kind.names)
    return _Gathered(
        experts, dense, max(blocks.values()), 4 * job.config.vocab_size * job.config.hidden_size
    )


def _memory(job: Job, layout: Parallel) -> dict[str, int]:
    """Bytes on the fullest GPU in the middle of the backward pass, when most is held at once."""
    c, width = job.config, cost.compute_width(job.precision)
    tokens = math.ceil(job.tokens * (BUSIEST if layout.ep > 1 else 1))
    sizes = [(kind.names[0], len(kind.names) * kind.sliced(layout)) for kind in _kinds(c)]
    local = sum(size for _, size in sizes)
    gathered, many = _gathered(job, layout), layout.processes > 1
    if job.lora is not None:
        trained = cost.lora_parameters(c, job.lora)
        held = {"frozen weights": cost.frozen_bytes(c), "low-rank factors, float32": 4 * trained}
        held |= {"gradients, float32": 4 * trained, "optimizer states": 8 * trained}
    else:
        matrices = sum(size for name, size in sizes if cost.is_matrix(name))
        copies = (
            PREFETCHED * gathered.block + gathered.table
            if many
            else width * matrices
            if width < 4
            else 0
        )
        held = {
            "weights, float32": 4 * local,
            "weights in the compute dtype": copies,
            "gradients, float32": 4 * local,
            "gradients being added up": gathered.block + gathered.block * 4 // width if many else 0,
            "optimizer states": sum(
                size * cost.optimizer_bytes(name, job.muon) for name, size in sizes
            ),
        }
    held["activations"] = cost.all_activations(
        c, tokens, width, job.checkpoint_layers, layout.tp, layout.ep
    )
    table = (
        4 * c.vocab_size * c.hidden_size if job.lora is None else 0
    )  # its gradient, made in the forward pass
    held["logits and their gradients"] = cost.logits_bytes(c, job.tokens, width) + table
    buffers = 2 * c.experts_per_token * tokens * width * c.hidden_size if layout.ep > 1 else 0
    buffers += 2 * 4 * job.tokens * c.hidden_size if layout.tp > 1 else 0
    held["communication buffers"] = buffers
    return held


# ---- communication -------------------------------------------------------------------------------


def _traffic(job: Job, hardware: Hardware, layout: Parallel) -> Iterator[Traffic]:
    """What one GPU sends: (n-1)/n of the whole for a ring's all-gather or reduce-scatter, twice
    that for an all-reduce, (n-1)/n of what it has for an all-to-all (Thakur et al., 2005;
    nccl-tests, PERFORMANCE.md).

    Blocks are gathered forward and backward, the unembedding once, the embedding twice. Gradients
    are reduced in float32. Tokens go out and back in each pass through an MoE layer, of which there
    are two, or three with checkpointing; partial sums over tp are twice a layer and pass.
    """
    g, n = _gathered(job, layout), layout
    shard, span = n.fsdp * n.ep, n.fsdp * n.ep * n.tp
    width = cost.compute_width(job.precision)
    passes = 3 if job.checkpoint_layers else 2

    def sent(
        kind: str, what: str, processes: int, size: float, span: int, hides: bool
    ) -> Iterator[Traffic]:
        if processes > 1:
            size *= (2 if kind == "all-reduce" else 1) * (processes - 1) / processes
            wide = span > hardware.per_node
            seconds = size / (hardware.inter if wide else hardware.intra)
            yield Traffic(kind, what, processes, round(size), wide, hides, seconds)

    if job.lora is None:
        yield from sent("all-gather", "experts' weights", n.fsdp, 2 * g.experts, span, True)
        yield from sent(
            "all-gather", "all other weights", shard, 2 * g.dense + 3 * g.table, span, True
        )
        experts, dense = _elements(job, layout)
        yield from sent("reduce-scatter", "experts' gradients", n.fsdp, 4 * experts, span, True)
        yield from sent("reduce-scatter", "all other gradients", shard, 4 * dense, span, True)
        local = 4 * (experts / n.fsdp + dense / shard)
        yield from sent(
            "all-reduce", "gradients of whole copies", n.replicate, local, hardware.gpus, True
        )
    rows = job.tokens * job.config.hidden_size * width
    moe = sum(job.config.is_moe(layer) for layer in range(job.config.num_hidden_layers))
    tokens = 2 * passes * moe * job.config.experts_per_token * rows * (BUSIEST if n.ep > 1 else 1)
    yield from sent("all-to-all", "tokens to experts and back", n.ep, tokens, n.ep * n.tp, False)
    sums = 2 * passes * job.config.num_hidden_layers * rows
    yield from sent("all-reduce", "partial sums of heads and widths", n.tp, sums, n.tp, False)


def _elements(job: Job, layout: Parallel) -> tuple[int, int]:
    """(experts, all else) on one process before FSDP slices them."""
    sizes = [(kind.routed, len(kind.names) * kind.elements(layout)) for kind in _kinds(job.config)]
    return sum(size for routed, size in sizes if routed), sum(
        size for routed, size in sizes if not routed
    )
